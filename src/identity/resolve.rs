//! Follows aliases over our own domains until every target lies elsewhere.

use std::collections::HashSet;

use super::{Identity, Mode, Resolution, address};

/// Aliases of aliases that are followed for one address.
pub const ALIAS_DEPTH: usize = 10;
/// Addresses to which one address may lead.
pub const ALIAS_TARGETS: usize = 1000;

/// Local parts whose mail goes to the postmaster of the configuration unless the domain says
/// otherwise: RFC 5321 section 4.5.1 and RFC 2142 section 4.
const DUTIES: [&str; 2] = ["postmaster", "abuse"];

struct Walk<'a> {
    identity: &'a Identity,
    targets: Vec<String>,
    /// Finished addresses: each is walked once, so that the work is bounded by the aliases.
    done: HashSet<String>,
    /// The addresses between the first and the one at hand.
    path: Vec<String>,
}

pub(super) fn resolve(identity: &Identity, address: &str) -> Resolution {
    let Some((local, domain)) = address::key(address) else {
        // RCPT TO:<postmaster> needs no domain (RFC 5321 section 4.1.1.3).
        return match &identity.postmaster {
            Some(postmaster) if address.eq_ignore_ascii_case("postmaster") => {
                match resolve(identity, postmaster) {
                    Resolution::Remote => Resolution::Targets(vec![postmaster.clone()]),
                    other => other,
                }
            }
            _ => Resolution::Unknown,
        };
    };
    match identity.domains.get(&domain) {
        Some(found) if found.mode == Mode::Forward => {}
        _ => return Resolution::Remote,
    }
    let mut walk = Walk {
        identity,
        targets: Vec::new(),
        done: HashSet::new(),
        path: Vec::new(),
    };
    match walk.expand(&local, &domain) {
        Ok(true) => Resolution::Targets(walk.targets),
        Ok(false) => Resolution::Unknown,
        Err(reason) => Resolution::Refused(reason),
    }
}

impl<'a> Walk<'a> {
    /// Follows an address of a forward domain of ours, in lower case. False: there is none such.
    fn expand(&mut self, local: &str, domain: &str) -> Result<bool, String> {
        let Some((name, targets)) = self.lookup(local, domain) else {
            return Ok(false);
        };
        let here = format!("{local}@{domain}");
        if self.path.contains(&here) {
            return Err(format!("alias {name} of {domain} leads back to itself"));
        }
        if self.path.len() >= ALIAS_DEPTH {
            return Err(format!(
                "alias {name} of {domain} is more than {ALIAS_DEPTH} aliases deep"
            ));
        }
        if self.done.contains(&here) {
            return Ok(true);
        }
        self.path.push(here);
        for target in targets {
            self.follow(target, name, domain)?;
        }
        if let Some(here) = self.path.pop() {
            self.done.insert(here);
        }
        Ok(true)
    }

    fn follow(&mut self, target: &str, name: &str, domain: &str) -> Result<(), String> {
        let key = address::key(target);
        let own = key.filter(|(_, domain)| {
            self.identity
                .domains
                .get(domain)
                .is_some_and(|found| found.mode == Mode::Forward)
        });
        if let Some((local, own)) = own {
            // Not left out in silence: the sender would believe that it arrived.
            return match self.expand(&local, &own)? {
                true => Ok(()),
                false => Err(format!(
                    "alias {name} of {domain} leads to {target}, which does not exist"
                )),
            };
        }
        if self.done.insert(target.to_owned()) {
            if self.targets.len() >= ALIAS_TARGETS {
                return Err(format!(
                    "alias {name} of {domain} leads to more than {ALIAS_TARGETS} addresses"
                ));
            }
            self.targets.push(target.to_owned());
        }
        Ok(())
    }

    /// The alias that speaks for an address: its own; for a user none (the catch-all decides); then
    /// that of the part before `+`, the catch-all, the postmaster for what every domain must take.
    fn lookup(&self, local: &str, domain: &str) -> Option<(&'a str, &'a [String])> {
        let found = self.identity.domains.get(domain)?;
        let alias = |name: &str| {
            found
                .aliases
                .get_key_value(name)
                .map(|(name, to)| (name.as_str(), to.as_slice()))
        };
        let base = local
            .split_once('+')
            .map(|(base, _)| base)
            .filter(|base| !base.is_empty());
        let own = alias(local);
        let plus = base
            .filter(|_| !found.users.contains_key(local))
            .and_then(alias);
        let duty = || {
            let name = base.unwrap_or(local);
            let duty = DUTIES.iter().find(|duty| **duty == name)?;
            Some((
                *duty,
                self.identity
                    .postmaster
                    .as_ref()
                    .map(std::slice::from_ref)?,
            ))
        };
        own.or(plus).or_else(|| alias("*")).or_else(duty)
    }
}
