//! Follows aliases over our own domains until every target lies elsewhere.

use std::collections::HashSet;

use super::aliases::Kind;
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
    /// Whether steps are wanted: people ask, mail does not.
    telling: bool,
    steps: Vec<String>,
    /// Why the first address is refused.
    rejected: Option<String>,
    targets: Vec<String>,
    /// Finished addresses: each is walked once, so that the work is bounded by the aliases.
    done: HashSet<String>,
    /// The addresses between the first and the one at hand.
    path: Vec<String>,
}

pub(super) fn resolve(identity: &Identity, address: &str) -> Resolution {
    explain(identity, address, false).0
}

/// The same, with a sentence for each step if they are wanted.
pub(super) fn explain(
    identity: &Identity,
    address: &str,
    telling: bool,
) -> (Resolution, Vec<String>) {
    let Some((local, domain)) = address::key(address) else {
        // RCPT TO:<postmaster> needs no domain (RFC 5321 section 4.1.1.3).
        return match &identity.postmaster {
            Some(postmaster) if address.eq_ignore_ascii_case("postmaster") => {
                let (found, steps) = explain(identity, postmaster, telling);
                let found = match found {
                    Resolution::Remote => Resolution::Targets(vec![postmaster.clone()]),
                    other => other,
                };
                (found, steps)
            }
            _ => (Resolution::Unknown, Vec::new()),
        };
    };
    let domain = match identity.covering(&domain) {
        Some((name, found)) if found.mode == Mode::Forward => name,
        _ => return (Resolution::Remote, Vec::new()),
    };
    let mut walk = Walk {
        identity,
        telling,
        steps: Vec::new(),
        rejected: None,
        targets: Vec::new(),
        done: HashSet::new(),
        path: Vec::new(),
    };
    let resolution = match walk.expand(&local, domain) {
        Ok(true) => match walk.rejected.take() {
            Some(text) if walk.targets.is_empty() => Resolution::Rejected(text),
            _ => Resolution::Targets(walk.targets),
        },
        Ok(false) => Resolution::Unknown,
        Err(reason) => Resolution::Refused(reason),
    };
    (resolution, walk.steps)
}

impl<'a> Walk<'a> {
    fn tell(&mut self, step: impl FnOnce() -> String) {
        if self.telling {
            self.steps.push(step());
        }
    }

    /// Follows an address of a forward domain of ours, in lower case. False: there is none such.
    fn expand(&mut self, local: &str, domain: &'a str) -> Result<bool, String> {
        let here = format!("{local}@{domain}");
        let Some((name, targets, why)) = self.lookup(local, domain) else {
            self.tell(|| format!("{here}: no alias, no catch-all"));
            return Ok(false);
        };
        self.tell(|| format!("{here}: {why}, leads to {}", targets.join(", ")));
        if self.path.contains(&here) {
            return Err(format!("alias {name} of {domain} leads back to itself"));
        }
        if self.path.len() >= ALIAS_DEPTH {
            return Err(format!(
                "alias {name} of {domain} is more than {ALIAS_DEPTH} aliases deep"
            ));
        }
        if self.done.contains(&here) {
            self.tell(|| format!("{here}: was followed before"));
            return Ok(true);
        }
        self.path.push(here);
        for target in targets {
            match Kind::of(target) {
                Kind::Address(target) => self.follow(target, name, domain)?,
                Kind::SameAt(other) => {
                    self.follow(&format!("{local}@{other}"), name, domain)?;
                }
                Kind::Discard => self.tell(|| "the message is thrown away".to_owned()),
                Kind::Reject(text) => {
                    self.tell(|| format!("mail is refused: {text}"));
                    self.rejected = Some(text.to_owned());
                }
            }
        }
        if let Some(here) = self.path.pop() {
            self.done.insert(here);
        }
        Ok(true)
    }

    fn follow(&mut self, target: &str, name: &str, domain: &str) -> Result<(), String> {
        let own = address::key(target).and_then(|(local, domain)| {
            let (name, found) = self.identity.covering(&domain)?;
            (found.mode == Mode::Forward).then_some((local, name))
        });
        if let Some((local, own)) = own {
            // Not left out in silence: the sender would believe that it arrived.
            return match self.expand(&local, own)? {
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

    /// The alias that speaks for an address, and in which words: its own; for a user none (the
    /// catch-all decides); then that of the longest part before a separator, the catch-all, the
    /// postmaster for what every domain must take.
    fn lookup(&self, local: &str, domain: &str) -> Option<(&'a str, &'a [String], &'static str)> {
        let found = self.identity.domains.get(domain)?;
        let exact = |name: &str| {
            let alias = found.aliases.get_key_value(name);
            alias.map(|(name, to)| (name.as_str(), to.as_slice()))
        };
        // With `ignore_dots`, the name that is the same but for its dots.
        let alias = |name: &str| {
            exact(name).or_else(|| {
                let plain = found.without_dots.get(&name.replace('.', ""))?;
                exact(plain)
            })
        };
        let bases = || {
            local
                .char_indices()
                .rev()
                .filter(|(at, c)| *at > 0 && found.separators.contains(*c))
                .filter_map(|(at, _)| local.get(..at))
        };
        let say = |why: &'static str| move |(name, to)| (name, to, why);
        let is_user = found.users.contains_key(local);
        let own = || alias(local).map(say("an alias of this name"));
        let base = || {
            let alias = bases().filter(|_| !is_user).find_map(alias);
            alias.map(say("an alias of the part before a separator"))
        };
        let catch_all = || {
            exact("*").map(say(match is_user {
                true => "a user without an alias, so the catch-all",
                false => "the catch-all",
            }))
        };
        let duty = || {
            let names = std::iter::once(local).chain(bases());
            let duty = names
                .filter_map(|name| DUTIES.iter().find(|duty| **duty == name))
                .next()?;
            let postmaster = self.identity.postmaster.as_ref()?;
            let to = std::slice::from_ref(postmaster);
            Some((*duty, to, "an address that every domain must have"))
        };
        own().or_else(base).or_else(catch_all).or_else(duty)
    }
}
