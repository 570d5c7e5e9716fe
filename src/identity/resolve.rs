//! Follows aliases over our own domains until every target lies elsewhere, in a mailbox or on this
//! machine.

use std::collections::HashSet;

use super::aliases::Kind;
use super::{Domain, Identity, Mode, Resolution, address};

/// Aliases of aliases that are followed for one address.
pub const ALIAS_DEPTH: usize = 10;
/// Addresses to which one address may lead.
pub const ALIAS_TARGETS: usize = 1000;

/// Names for which Dovecot is asked about one address.
const MOST_NAMES: usize = 3;

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
    /// The same, to find them.
    known: HashSet<String>,
    /// Finished addresses: each is walked once, so that the work is bounded by the aliases.
    done: HashSet<String>,
    /// The addresses between the first and the one at hand.
    path: Vec<String>,
}

/// What speaks for an address.
enum Leads<'a> {
    /// The name of an alias, its targets, and in which words it does.
    Alias(&'a str, &'a [String], &'static str),
    /// The mailbox of this user.
    Mailbox(&'a str),
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
        Some((name, found)) if found.mode.takes_mail() => name,
        other => {
            let step = match other {
                Some((name, _)) => {
                    format!("{address}: {name} is send-only, mail to it follows its MX")
                }
                None => format!("{address}: the domain is not ours, mail to it follows its MX"),
            };
            let steps = telling.then_some(step);
            return (Resolution::Remote, steps.into_iter().collect());
        }
    };
    let mut walk = Walk {
        identity,
        telling,
        steps: Vec::new(),
        rejected: None,
        targets: Vec::new(),
        known: HashSet::new(),
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

    /// Follows an address of a domain of ours, in lower case. False: there is none such.
    fn expand(&mut self, local: &str, domain: &'a str) -> Result<bool, String> {
        let here = format!("{local}@{domain}");
        let (name, targets, why) = match self.lookup(local, domain) {
            // Who wrote the alias knows; the mailbox server has the last word.
            None | Some(Leads::Alias("*", ..)) if self.may_be_dovecots(local, domain) => {
                return self.mailbox(&here, local, local, domain).map(|()| true);
            }
            None => {
                self.tell(|| format!("{here}: no user with a mailbox, no alias, no catch-all"));
                return Ok(false);
            }
            Some(Leads::Mailbox(user)) => {
                return self.mailbox(&here, local, user, domain).map(|()| true);
            }
            Some(Leads::Alias(name, targets, why)) => (name, targets, why),
        };
        if self.path.contains(&here) {
            // `me: me, other` is the mailbox and another one.
            if let Some(user) = self.mailbox_of(local, domain) {
                return self.mailbox(&here, local, user, domain).map(|()| true);
            }
        }
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
                Kind::Here(target) => {
                    self.tell(|| match target.split_once(':') {
                        Some(("pipe", argv)) => format!("to the program {argv}"),
                        Some(("lmtp", _)) => format!("over LMTP to {target}"),
                        Some(("discard", _)) => "taken, logged and thrown away".to_owned(),
                        _ => format!("into the directory {target}"),
                    });
                    self.add(target, name, domain)?;
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

    /// Whether an alias names what Dovecot may know.
    fn may_be_dovecots(&self, local: &str, domain: &str) -> bool {
        let found = self.identity.domains.get(domain);
        let users =
            found.is_some_and(|found| found.has_dovecots() && !found.users.contains_key(local));
        users && !self.path.is_empty()
    }

    /// The mailbox of `user`, to which `here` leads. Over LMTP the tag goes on: the server on the
    /// other side may sort by it (RFC 5233).
    fn mailbox(&mut self, here: &str, local: &str, user: &str, domain: &str) -> Result<(), String> {
        let found = self.identity.domains.get(domain);
        let via = found.and_then(|found| found.mailbox.as_deref());
        let via = via.unwrap_or_default();
        let name = match via.starts_with("lmtp:") && local.starts_with(user) {
            true => local,
            false => user,
        };
        let target = format!("{name}@{domain}");
        self.tell(|| format!("{here}: the mailbox of {user}@{domain}, {via}"));
        self.add(&target, user, domain)
    }

    /// One more target, unless it is one already.
    fn add(&mut self, target: &str, name: &str, domain: &str) -> Result<(), String> {
        if !self.known.insert(target.to_owned()) {
            return Ok(());
        }
        if self.targets.len() >= ALIAS_TARGETS {
            return Err(format!(
                "alias {name} of {domain} leads to more than {ALIAS_TARGETS} addresses"
            ));
        }
        self.targets.push(target.to_owned());
        Ok(())
    }

    fn follow(&mut self, target: &str, name: &str, domain: &str) -> Result<(), String> {
        let own = address::key(target).and_then(|(local, domain)| {
            let (name, found) = self.identity.covering(&domain)?;
            found.mode.takes_mail().then_some((local, name))
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
        self.add(target, name, domain)
    }

    /// The user with a mailbox whose address this is: in full, or up to a separator.
    fn mailbox_of(&self, local: &str, domain: &str) -> Option<&'a str> {
        let found = self.identity.domains.get(domain)?;
        std::iter::once(local)
            .chain(found.bases(local))
            .find_map(|name| found.mailbox_user(name))
    }

    /// What speaks for an address: its own alias; the mailbox of the user of this name; for a user
    /// without one the catch-all; then alias or mailbox of the longest part before a separator, the
    /// catch-all, the postmaster for what every domain must take.
    fn lookup(&self, local: &str, domain: &str) -> Option<Leads<'a>> {
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
        let say = |why: &'static str| move |(name, to)| Leads::Alias(name, to, why);
        let is_user = found.users.contains_key(local);
        let whole = |name: &str, why| {
            let own = alias(name).map(say(why));
            own.or_else(|| found.mailbox_user(name).map(Leads::Mailbox))
        };
        let own = || whole(local, "an alias of this name");
        let base = || {
            let mut bases = found.bases(local).filter(|_| !is_user);
            bases.find_map(|base| whole(base, "an alias of the part before a separator"))
        };
        let catch_all = || {
            exact("*").map(say(match is_user {
                true => "a user without an alias or mailbox, so the catch-all",
                false => "the catch-all",
            }))
        };
        let duty = || {
            let names = std::iter::once(local).chain(found.bases(local));
            let duty = names
                .filter_map(|name| DUTIES.iter().find(|duty| **duty == name))
                .next()?;
            let postmaster = self.identity.postmaster.as_ref()?;
            let to = std::slice::from_ref(postmaster);
            let why = "an address that every domain must have";
            Some(Leads::Alias(duty, to, why))
        };
        own().or_else(base).or_else(catch_all).or_else(duty)
    }
}

/// What [`Identity::ask_dovecot`] says.
pub(super) fn ask_dovecot(identity: &Identity, address: &str) -> Vec<(String, String)> {
    let key = address::key(address);
    let Some((local, name)) = key.as_ref() else {
        return Vec::new();
    };
    let Some((domain, found)) = identity
        .covering(name)
        .filter(|(_, found)| found.has_dovecots())
    else {
        return Vec::new();
    };
    let over_lmtp = found
        .mailbox
        .as_deref()
        .is_some_and(|via| via.starts_with("lmtp:"));
    let mut names = Vec::new();
    for base in std::iter::once(local.as_str()).chain(found.bases(local)) {
        // From here on our own files know it.
        if found.users.contains_key(base) || found.aliases.contains_key(base) {
            break;
        }
        let target = if over_lmtp { local } else { base };
        names.push((format!("{base}@{domain}"), format!("{target}@{domain}")));
    }
    names.truncate(MOST_NAMES);
    names
}

impl Domain {
    /// Whether there are mailboxes that only Dovecot knows.
    fn has_dovecots(&self) -> bool {
        self.dovecot && self.mode == Mode::Mailbox
    }

    /// The parts of a local part before a separator, the longest first.
    fn bases<'a>(&'a self, local: &'a str) -> impl Iterator<Item = &'a str> {
        let at = |(at, c): &(usize, char)| *at > 0 && self.separators.contains(*c);
        let places = local.char_indices().rev().filter(at);
        places.filter_map(|(at, _)| local.get(..at))
    }

    /// The user of this name, if it has a mailbox; with `ignore_dots` whatever dots it is written
    /// with.
    fn mailbox_user(&self, name: &str) -> Option<&str> {
        let exact = self.users.get_key_value(name);
        let found = exact.or_else(|| {
            let plain = self.users_without_dots.get(&name.replace('.', ""))?;
            self.users.get_key_value(plain)
        });
        let (name, user) = found?;
        (self.mode == Mode::Mailbox && user.mailbox).then_some(name.as_str())
    }
}
