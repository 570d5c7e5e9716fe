//! What the dispatcher knows of a worker it started.

use std::collections::HashSet;
use std::sync::Arc;

use actix::Addr;

use super::paces::Standing;
use super::pending::Pending;
use super::reach::Destination;
use super::worker::Worker;
use crate::queue::Resume;

/// A started worker.
pub(super) struct Started {
    pub(super) number: u64,
    pub(super) address: Addr<Worker>,
    /// How many [`super::worker::Deliver`] it was sent.
    pub(super) delivers: u64,
    pub(super) destination: Arc<Destination>,
    /// What it was told.
    pub(super) standing: Standing,
    /// Recipient domains of what it was sent.
    pub(super) domains: Domains,
}

/// Recipient domains, as far as it is worth to know them apart.
#[derive(Default)]
pub(super) struct Domains {
    some: HashSet<Box<str>>,
    /// There are more.
    more: bool,
}

impl Domains {
    /// Domains of one destination that are kept apart.
    const MOST: usize = 1000;

    /// Remembers where a part goes.
    pub(super) fn add(&mut self, part: &Pending) {
        for recipient in part.recipients() {
            let address = part.address(*recipient);
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            if self.more || self.some.contains(domain) {
                continue;
            }
            self.more = self.some.len() >= Self::MOST;
            if !self.more {
                self.some.insert(domain.to_ascii_lowercase().into());
            }
        }
    }
}

impl Started {
    /// Whether it sends to a domain or host that is resumed.
    pub(super) fn is_meant(&self, Resume { only }: &Resume) -> bool {
        let Some(names) = only else { return true };
        let hosts = self.destination.hosts.iter();
        let hosts = hosts.map(|host| host.name.trim_end_matches('.'));
        let domains = self.domains.some.iter().map(|domain| &**domain);
        let is_named = |name: &str| {
            let mut patterns = names.iter().filter(|name| name.contains('*'));
            names.contains(&name.to_ascii_lowercase())
                || patterns.any(|pattern| crate::queue::like(pattern, name))
        };
        self.domains.more || hosts.chain(domains).any(is_named)
    }
}
