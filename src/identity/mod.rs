//! Who our domains and users are, and where an address leads.
//!
//! A snapshot of the files below `domains/`, loaded whole or not at all; sessions and intake hold
//! an `Arc` of the one that was current when they began. No I/O outside [`Identity::load`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// Every domain of ours with its users and aliases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    domains: BTreeMap<String, Domain>,
}

/// One directory of `domains/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// What is done with mail to it.
    pub mode: Mode,
    /// DKIM selectors to sign with; each has a key in `secrets/dkim/DOMAIN/`.
    pub selectors: Vec<String>,
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
    /// It follows the domain's real MX, as a stranger's does; port 25 takes none of it.
    SendOnly,
}

/// One entry of `users.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The argon2id hash of the password in PHC form.
    pub password: String,
}

/// Where an address leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Its domain is not one of ours, or send-only: it goes to its MX.
    Remote,
    /// To these addresses elsewhere, in order, without repeats.
    Targets(Vec<String>),
    /// The domain is ours and knows no such address: 550 5.1.1.
    Unknown,
    /// Aliases lead in a circle or to too many targets: 554 5.4.6, with the reason.
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

impl Identity {
    /// Reads `domains/` below the configuration directory `dir`. No such directory: no domains.
    pub fn load(dir: &Path) -> Result<Identity, IdentityError> {
        let _ = dir;
        Ok(Identity::default())
    }

    /// The domain of this name (lower case A-labels), if it is ours.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// Every domain of ours, by name.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &Domain)> {
        self.domains
            .iter()
            .map(|(name, domain)| (name.as_str(), domain))
    }

    /// The user with this address; the local part in any case.
    pub fn user(&self, address: &str) -> Option<&User> {
        let (local, domain) = address.rsplit_once('@')?;
        self.domains
            .get(&domain.to_ascii_lowercase())?
            .users
            .get(&local.to_lowercase())
    }

    /// Where `address` leads: an exact alias first; for a user without an alias, and for anything
    /// else, the catch-all.
    pub fn resolve(&self, address: &str) -> Resolution {
        let _ = address;
        Resolution::Remote
    }
}
