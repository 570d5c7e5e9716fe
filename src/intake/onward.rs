//! Mail from outside that an operator sends elsewhere after it was accepted: it leaves as an alias
//! would have sent it, with a reverse-path of ours (SRS) and an ARC seal. Pure.
//!
//! What was found out about it when it came stands in the Authentication-Results field that was
//! written then (RFC 8601); fields that claimed to be ours were removed before, so the one that
//! names our host is true.

use queue_schema::{Message, Millis, Origin};

use super::outside::Outside;
use super::results;
use crate::config::Config;
use crate::identity::Identity;
use crate::message::Content;
use crate::message::headers::{self, Field};
use crate::queue::Onward;
use crate::signing::Seal;
use crate::signing::arc::ChainState;
use crate::smtp::address::{Address, Charset};

/// How a message from outside goes on to `targets`, for which it came to `forwarder`. Mail of
/// users and notices of ours go as they are.
pub fn onward(
    (config, identity, outside): (&Config, &Identity, &Outside),
    (message, content): (&Message, &Content),
    forwarder: &str,
    targets: &[String],
    at: Millis,
) -> Onward {
    let parsed = |text: &str| Address::parse_in(text.as_bytes(), Charset::Utf8).ok();
    let leaves = targets.iter().any(|target| identity.leaves(target));
    let from_outside = matches!(message.origin, Origin::Outside { .. });
    let Some(forwarder) = parsed(forwarder).filter(|_| leaves && from_outside) else {
        return Onward {
            forwarded_as: message.envelope.forwarded_as.clone(),
            seal: None,
        };
    };
    let Ok(fields) = headers::fields(&content.head) else {
        return Onward::default();
    };
    let found = found(&fields, &config.hostname);
    let from = parsed(&message.envelope.reverse_path);
    let aligned = found.as_deref().is_some_and(is_aligned);
    let forwarded_as =
        outside.rewritten_now(config, identity, from.as_ref(), &forwarder, aligned, at);
    let state = found.as_deref().and_then(chain);
    let sealed = is_sealed(&fields, &config.hostname) || !message.top.is_empty();
    let seal = found
        .zip(state)
        .filter(|_| config.forwarding.seal && !sealed)
        .map(|(results, state)| Seal {
            domain: forwarder.domain().to_owned(),
            content: content.clone(),
            replaces: None,
            state,
            results,
            now: at / 1000,
        });
    Onward { forwarded_as, seal }
}

/// Our verdicts, with our name before them, as they stand in the header.
fn found(fields: &[Field<'_>], hostname: &str) -> Option<String> {
    let ours = fields
        .iter()
        .find(|field| results::is_forged(field, hostname))?;
    let text = std::str::from_utf8(ours.value).ok()?.trim();
    Some(text.to_owned())
}

/// The parts of a field of ours, as [`results::results`] writes them.
fn parts(found: &str) -> impl Iterator<Item = &str> {
    found.split(';').skip(1).map(str::trim)
}

fn chain(found: &str) -> Option<ChainState> {
    let arc = parts(found).find_map(|part| part.strip_prefix("arc="))?;
    match arc.split_ascii_whitespace().next()? {
        "none" => Some(ChainState::None),
        "pass" => Some(ChainState::Pass),
        "fail" => Some(ChainState::Fail),
        // The next hop can still find out; a wrong word of ours would end the chain.
        _ => None,
    }
}

/// Whether a signature of the author's domain was right (RFC 7489 section 3.1.1, relaxed).
fn is_aligned(found: &str) -> bool {
    let property = |part: &str, name: &str| {
        let mut words = part.split_ascii_whitespace();
        let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.to_ascii_lowercase())
    };
    let passed = parts(found).find(|part| part.starts_with("dmarc=pass"));
    let Some(from) = passed.and_then(|part| property(part, "header.from")) else {
        return false;
    };
    let below = |one: &str, other: &str| {
        one == other
            || one
                .strip_suffix(other)
                .is_some_and(|rest| rest.ends_with('.') && other.contains('.'))
    };
    parts(found)
        .filter(|part| part.starts_with("dkim=pass"))
        .filter_map(|part| property(part, "header.d"))
        .any(|domain| below(&domain, &from) || below(&from, &domain))
}

/// Whether a seal of ours is on it: it stands above our verdicts.
fn is_sealed(fields: &[Field<'_>], hostname: &str) -> bool {
    fields
        .iter()
        .take_while(|field| !results::is_forged(field, hostname))
        .any(|field| field.is("ARC-Seal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = "mx.example.org;\r\n\tiprev=pass policy.iprev=192.0.2.1;\r\n\t\
        spf=pass smtp.mailfrom=a@one.example;\r\n\tdkim=pass header.d=mail.one.example \
        header.s=s;\r\n\tdmarc=pass (p=reject) header.from=one.example;\r\n\tarc=none";

    #[test]
    fn what_was_found_out_is_read_from_our_own_field() {
        assert_eq!(chain(FOUND), Some(ChainState::None));
        assert!(is_aligned(FOUND));
        let failed = FOUND.replace("arc=none", "arc=fail (a seal)");
        assert_eq!(chain(&failed), Some(ChainState::Fail));
        assert_eq!(chain(&FOUND.replace("arc=none", "arc=temperror")), None);
        assert!(!is_aligned(
            &FOUND.replace("header.d=mail.one.example", "header.d=x.example")
        ));
        assert!(!is_aligned(&FOUND.replace("dkim=pass", "dkim=fail")));
        assert!(!is_aligned(&FOUND.replace("dmarc=pass", "dmarc=fail")));
        assert!(!is_aligned(
            &FOUND.replace("header.d=mail.one.example", "header.d=example")
        ));
    }

    #[test]
    fn a_field_of_somebody_else_is_not_ours() {
        let head = format!(
            "Authentication-Results: other.example; arc=pass\r\nAuthentication-Results: {FOUND}\r\n\
             From: a@one.example\r\n\r\n"
        );
        let fields = headers::fields(head.as_bytes()).unwrap();
        assert_eq!(found(&fields, "mx.example.org").as_deref(), Some(FOUND));
        assert_eq!(found(&fields, "mx2.example.org"), None);
        assert!(!is_sealed(&fields, "mx.example.org"));
        let sealed = format!("Received: by us\r\nARC-Seal: i=1; cv=none\r\n{head}");
        let fields = headers::fields(sealed.as_bytes()).unwrap();
        assert!(is_sealed(&fields, "mx.example.org"));
        let theirs = head.replace("From:", "ARC-Seal: i=1; cv=none\r\nFrom:");
        let fields = headers::fields(theirs.as_bytes()).unwrap();
        assert!(!is_sealed(&fields, "mx.example.org"));
    }
}
