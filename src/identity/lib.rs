//! Who our domains and users are, who may send as whom, and where an address leads.
//!
//! A snapshot of the files below `domains/`, loaded whole or not at all; sessions and intake hold
//! an `Arc` of the one that was current when they began. No I/O outside [`Identity::load`] and
//! [`edit`], which the command line uses.
//!
//! Domains are compared without case and as A-labels. Local parts of our own domains are compared
//! by [`address::fold`]; those of others keep their bytes. `user+tag` means `user` unless it is an
//! alias or a user itself; `separators` in `domain.toml` says what may stand for the `+`.
#![forbid(unsafe_code)]

mod aliases;
pub mod app;
pub mod edit;
mod imported;
mod load;
pub mod password;
mod policy;
mod resolve;
#[cfg(test)]
mod target_tests;
#[cfg(test)]
mod tests;

// The rooms that this one enters.
use chapar_config as config;
use chapar_smtp as smtp;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::config::routes::Via;
use crate::config::{Dmarc, Incoming, Route, SpfFail};
use crate::smtp::scram::Verifier;
use app::AppPassword;

pub use chapar_base::names as address;
pub use load::check_mailbox;
pub use policy::Policy;
pub use resolve::{ALIAS_DEPTH, ALIAS_TARGETS};

/// Every domain of ours with its users and aliases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    domains: BTreeMap<String, Domain>,
    /// Takes the mail for `postmaster` and `abuse` of domains that have no such alias.
    postmaster: Option<String>,
}

/// One directory of `domains/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// What is done with mail to it.
    pub mode: Mode,
    /// DKIM selectors to sign with; each has a key in `secrets/dkim/DOMAIN/`.
    pub selectors: Vec<String>,
    /// How long its signatures hold (`x=`); none: for ever.
    pub signature_expires: Option<Duration>,
    /// Which failing mail DMARC refuses; none: as the configuration says.
    pub dmarc: Option<Dmarc>,
    /// What a fail of SPF alone does; none: as the configuration says.
    pub spf_fail: Option<SpfFail>,
    /// Whether sub-domains take the same mail.
    pub subdomains: bool,
    /// What may part a tag from the name before it.
    separators: String,
    /// With `ignore_dots`: names of aliases without their dots, and as they are.
    without_dots: BTreeMap<String, String>,
    /// The same of users.
    users_without_dots: BTreeMap<String, String>,
    /// Whether Dovecot knows more users than `users.toml`; with [`Mode::Mailbox`] they have
    /// mailboxes.
    dovecot: bool,
    /// With [`Mode::Mailbox`]: where its users' mail goes, in the words of a route.
    mailbox: Option<String>,
    /// Users by local part in lower case.
    users: BTreeMap<String, User>,
    /// Targets by local part in lower case; `*` is the catch-all.
    aliases: BTreeMap<String, Vec<String>>,
}

/// What is done with mail to a domain of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It goes where aliases and the catch-all lead.
    #[default]
    Forward,
    /// The same, and users have mailboxes.
    Mailbox,
    /// It follows the domain's real MX, as a stranger's does; port 25 takes none of it.
    SendOnly,
}

impl Mode {
    /// As `domain.toml` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Forward => "forward",
            Mode::Mailbox => "mailbox",
            Mode::SendOnly => "send-only",
        }
    }

    /// Whether port 25 takes mail to it.
    pub fn takes_mail(self) -> bool {
        self != Mode::SendOnly
    }
}

/// One entry of `users.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The argon2id hash of the password in PHC form.
    pub password: String,
    /// What SCRAM needs of the same password; none: only PLAIN and LOGIN work.
    pub scram: Option<Verifier>,
    /// Addresses to send as beside the own one, in lower case: `user@domain` or `*@domain`.
    pub send_as: Vec<String>,
    /// How much it may send.
    pub quota: UserQuota,
    /// Whether it has a mailbox where its domain gives its users one.
    pub mailbox: bool,
    /// Passwords of single programs.
    pub app_passwords: Vec<AppPassword>,
}

/// `quota` of an entry of `users.toml`: what differs from `[limits]`; 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserQuota {
    /// Messages in an hour, instead of `limits.user_messages`.
    pub messages: Option<usize>,
    /// Recipients in a day, instead of `limits.user_recipients`.
    pub recipients: Option<usize>,
}

/// Where an address leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Its domain is not one of ours, or send-only: it goes to its MX.
    Remote,
    /// To these addresses elsewhere, mailboxes and targets on this machine, in order, without
    /// repeats.
    Targets(Vec<String>),
    /// The domain is ours and knows no such address: 550 5.1.1.
    Unknown,
    /// The address takes no mail, and says why: 550 5.1.1.
    Rejected(String),
    /// Aliases lead in a circle, to too many targets or to an address of ours that does not exist:
    /// 554 5.4.6, with the reason.
    Refused(String),
}

/// A file below `domains/` that can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {problem}", line.map(|n| format!(":{n}")).unwrap_or_default())]
pub struct IdentityError {
    /// The file.
    pub file: String,
    /// The line, where one is to blame; from 1.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

impl IdentityError {
    fn whole(file: &Path, problem: String) -> IdentityError {
        IdentityError {
            file: file.display().to_string(),
            line: None,
            problem,
        }
    }

    fn at(file: &Path, line: usize, problem: String) -> IdentityError {
        IdentityError {
            file: file.display().to_string(),
            line: Some(line),
            problem,
        }
    }
}

impl Identity {
    /// Reads `domains/` below the configuration directory `dir`. No such directory: no domains.
    ///
    /// `postmaster` is the configuration's; it takes the mail for `postmaster` and `abuse` of
    /// forward domains that have neither such an alias nor a catch-all. Empty: nobody does.
    pub fn load(dir: &Path, postmaster: &str) -> Result<Identity, IdentityError> {
        load::load(dir, postmaster)
    }

    /// The names of our domains alone, as their directories below `dir` say: no file of theirs is
    /// read, which a program of an alias may not (docs/hooks.md).
    pub fn names(dir: &Path) -> Result<BTreeSet<String>, IdentityError> {
        load::names(dir)
    }

    /// The domain of this name (lower case A-labels), if it is ours: its own, else the first above
    /// it that says `*.`, or that takes the mail of its sub-domains.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.covering(name).map(|(_, domain)| domain)
    }

    fn covering(&self, name: &str) -> Option<(&str, &Domain)> {
        if let Some((name, found)) = self.domains.get_key_value(name) {
            return Some((name, found));
        }
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.') {
            let wildcard = format!("{}{above}", address::WILDCARD);
            if let Some((name, found)) = self.domains.get_key_value(&wildcard) {
                return Some((name, found));
            }
            if let Some((name, found)) = self.domains.get_key_value(above) {
                return found.subdomains.then_some((name.as_str(), found));
            }
            rest = above;
        }
        None
    }

    /// Every domain of ours, by name.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &Domain)> {
        self.domains
            .iter()
            .map(|(name, domain)| (name.as_str(), domain))
    }

    /// Whether mail to this domain ends here or at our aliases.
    pub fn takes_mail_for(&self, domain: &str) -> bool {
        let found = self.domain(&domain.to_ascii_lowercase());
        found.is_some_and(|found| found.mode.takes_mail())
    }

    /// Whether a target leaves us for another's domain.
    pub fn leaves(&self, target: &str) -> bool {
        if Via::of_address(target).is_some() {
            return false;
        }
        let domain = target.rsplit_once('@').map(|(_, domain)| domain);
        domain.is_some_and(|domain| !self.takes_mail_for(domain))
    }

    /// How mail in mailboxes of ours is delivered; to go before the routes of the configuration.
    pub fn routes(&self) -> Vec<Route> {
        let mailboxes = self.domains.iter();
        mailboxes
            .filter_map(|(name, domain)| {
                Some(Route {
                    to: name.clone(),
                    via: vec![domain.mailbox.clone()?],
                    ..Route::default()
                })
            })
            .collect()
    }

    /// The user with this address; the local part in any case.
    pub fn user(&self, address: &str) -> Option<&User> {
        let (local, domain) = address::key(address)?;
        self.domains.get(&domain)?.users.get(&local)
    }

    /// Whether `user` may be one that only Dovecot knows: of a domain with `dovecot = true`, and in
    /// no `users.toml`.
    pub fn may_be_dovecots(&self, user: &str) -> bool {
        let domain = address::key(user).and_then(|(_, domain)| self.domains.get(&domain));
        domain.is_some_and(|domain| domain.dovecot) && self.user(user).is_none()
    }

    /// Where `address` leads: an exact alias or mailbox first; for `user+tag` that of `user`; for
    /// anything else, users without an alias or mailbox among it, the catch-all. Bounded by [`ALIAS_DEPTH`]
    /// and [`ALIAS_TARGETS`].
    pub fn resolve(&self, address: &str) -> Resolution {
        resolve::resolve(self, address)
    }

    /// Whose mailbox `address` may be, as far as only Dovecot knows: the names to ask it for, in
    /// this order, each with where mail goes if it is one. None where our own files decide.
    pub fn ask_dovecot(&self, address: &str) -> Vec<(String, String)> {
        resolve::ask_dovecot(self, address)
    }

    /// The same, and a sentence for each step.
    pub fn explain(&self, address: &str) -> (Resolution, Vec<String>) {
        resolve::explain(self, address, true)
    }

    /// Whether the user who logged in as `user` may use `address` as reverse-path or in From: its
    /// own address, also with a `+tag`, and what its `send_as` lists. A user without an entry is
    /// one of Dovecot's.
    pub fn may_send_as(&self, user: &str, address: &str) -> bool {
        let entry = self.user(user);
        let (Some((own, own_domain)), Some((local, domain))) =
            (address::key(user), address::key(address))
        else {
            return false;
        };
        // Users of Dovecot have no entry: they send as themselves.
        let Some(found) = self.domains.get(&own_domain) else {
            return false;
        };
        let tagged = local
            .strip_prefix(own.as_str())
            .and_then(|tag| tag.chars().next())
            .is_some_and(|c| found.separators.contains(c));
        // A tag that makes the name of somebody else is none.
        let others = found.users.contains_key(&local) || found.aliases.contains_key(&local);
        if domain == own_domain && (local == own || (tagged && !others)) {
            return true;
        }
        let given = entry.map(|entry| entry.send_as.as_slice());
        given
            .unwrap_or_default()
            .iter()
            .any(|pattern| match pattern.strip_prefix("*@") {
                Some(any) => any == domain,
                None => pattern.rsplit_once('@') == Some((&local, &domain)),
            })
    }
}

/// A user's name as it is compared and counted, however it was spelled at the login.
pub fn canonical(user: &str) -> String {
    match address::key(user) {
        Some((local, domain)) => format!("{local}@{domain}"),
        None => user.to_owned(),
    }
}

impl Identity {
    /// Why mail to aliases of ours is refused, one sentence an alias.
    pub fn refusals(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (domain, entry) in &self.domains {
            for name in entry.aliases.keys() {
                if let Resolution::Refused(reason) = self.resolve(&format!("{name}@{domain}")) {
                    found.push(format!("mail to {name}@{domain} is refused: {reason}"));
                }
            }
        }
        found
    }

    /// With these aliases for a domain instead of its own.
    fn with_aliases(mut self, domain: &str, entries: Vec<aliases::Entry>) -> Identity {
        if let Some(found) = self.domains.get_mut(domain) {
            found.aliases = entries.into_iter().map(|e| (e.name, e.targets)).collect();
            if !found.without_dots.is_empty() {
                found.without_dots = load::without_dots(found.aliases.keys());
            }
        }
        self
    }
}

impl Domain {
    /// What is done with failing mail to it: its own word, else the configuration's.
    pub fn policy(&self, incoming: &Incoming) -> Policy {
        let common = Policy::from(incoming);
        Policy {
            dmarc: self.dmarc.unwrap_or(common.dmarc),
            spf_fail: self.spf_fail.unwrap_or(common.spf_fail),
            ..common
        }
    }

    /// Its users by local part in lower case.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users
            .iter()
            .map(|(local, user)| (local.as_str(), user))
    }

    /// Its aliases: local part in lower case or `*`, and the targets.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.aliases
            .iter()
            .map(|(name, targets)| (name.as_str(), targets.as_slice()))
    }
}
