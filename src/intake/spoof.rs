//! Mail of strangers in the name of our own domains.
//!
//! A forwarder's reverse-path is one of its own: to the next hop SPF passes for our domain, and with
//! it DMARC for every author of that domain or of its organization. So a stranger who writes as one
//! of these has to prove it to us, whatever the domain publishes; else we would prove it for him.

use std::time::Duration;

use hickory_resolver::TokioResolver;

use crate::config::{Config, DnsTrouble, OwnDomains};
use crate::identity::Identity;
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};
use crate::verify::lookup::Lookup;
use crate::verify::{Proof, Verdicts, dmarc};

/// Whether the message is to be held, or the reply that refuses it. `envelope`: the domain of the
/// reverse-path under which it would leave.
pub(super) async fn judge(
    config: &Config,
    identity: &Identity,
    resolver: &TokioResolver,
    envelope: Option<&str>,
    authors: &[Address],
    verdicts: &Verdicts,
) -> Result<bool, Reply> {
    if config.incoming.own_domains == OwnDomains::Accept {
        return Ok(false);
    }
    let excepted = |domain: &str| verdicts.proof(domain) == Proof::Given;
    let mut exceptions = config.incoming.own_domains_from.iter();
    if exceptions.any(|domain| excepted(domain.as_str())) {
        return Ok(false);
    }
    let mut held = false;
    for author in authors {
        let time = config.incoming.dns_time.0;
        let Some(shared) = shared(identity, resolver, envelope, author.domain(), time).await else {
            continue;
        };
        match (verdicts.proof(shared), config.incoming.own_domains) {
            (Proof::Given, _) => {}
            (Proof::Unknown, _) if config.incoming.dns_trouble == DnsTrouble::Accept => {}
            (Proof::Unknown, _) => return Err(replies::NOT_OURS_YET),
            (Proof::Missing, OwnDomains::Hold) => held = true,
            (Proof::Missing, _) => return Err(replies::NOT_OURS),
        }
    }
    Ok(held)
}

/// The domain that an author shares with us: one of ours, at or above its own, or the part that its
/// domain and that of our reverse-path have in common, if they are of one organization.
async fn shared<'a>(
    identity: &Identity,
    resolver: &TokioResolver,
    envelope: Option<&str>,
    author: &'a str,
    time: Duration,
) -> Option<&'a str> {
    let mut found = None;
    let mut rest = Some(author);
    while let Some(name) = rest {
        // The highest one: what proves it proves all below it.
        found = identity.domain(name).map(|_| name).or(found);
        rest = name.split_once('.').map(|(_, above)| above);
    }
    if found.is_some() {
        return found;
    }
    let envelope = envelope?;
    let common = common(author, envelope)?;
    let lookup = Lookup::new(resolver.clone());
    let asked = dmarc::same_organization(&lookup, author, envelope);
    let same = tokio::time::timeout(time, asked).await;
    matches!(same, Ok(Ok(true))).then_some(common)
}

/// The labels at the end that two names have in common, if they are two at least.
fn common<'a>(one: &'a str, other: &str) -> Option<&'a str> {
    let labels = one.rsplit('.').zip(other.rsplit('.'));
    let same: Vec<&str> = labels
        .take_while(|(a, b)| a == b)
        .map(|(label, _)| label)
        .collect();
    let length: usize = same.iter().map(|label| label.len() + 1).sum();
    let from = (one.len() + 1).checked_sub(length)?;
    (same.len() >= 2).then(|| one.get(from..)).flatten()
}

#[cfg(test)]
mod tests {
    use super::common;

    #[test]
    fn s1_names_of_one_organization_have_labels_in_common() {
        assert_eq!(
            common("a.example.org", "b.example.org"),
            Some("example.org")
        );
        assert_eq!(common("example.org", "b.example.org"), Some("example.org"));
        assert_eq!(
            common("a.example.org", "a.example.org"),
            Some("a.example.org")
        );
        assert_eq!(common("xexample.org", "example.org"), None);
        assert_eq!(common("a.org", "b.org"), None);
    }
}
