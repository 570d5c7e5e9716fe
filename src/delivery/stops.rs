//! What an operator suspended, as every connection sees it right before a message begins, whatever
//! worker it belongs to: after the answer of `mta-queue suspend` nothing begins to a domain or
//! host that is meant.

use std::sync::{Arc, PoisonError, RwLock};

use super::pending::Pending;
use super::reach::Destination;
use crate::queue::suspend::{Effect, Suspension};

/// See the module. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Stops(Arc<RwLock<Arc<[Suspension]>>>);

impl Stops {
    /// Replaces what holds.
    pub(super) fn replace(&self, list: &[Suspension]) {
        let stops = list.iter().filter(|one| one.effect == Effect::Stop);
        let stops = stops.cloned().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = stops;
    }

    /// Takes the recipients out of a part that may not be tried now, and reports them.
    pub(super) fn apply(&self, part: &mut Pending, destination: &Destination) {
        let stops = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        if stops.is_empty() {
            return;
        }
        let now = crate::time::now();
        for stop in stops.iter() {
            let mut hosts = destination.hosts.iter();
            let all = hosts.any(|host| stop.stops(host.name.trim_end_matches('.'), now));
            let meant = |recipient: &&u32| {
                let address = part.address(**recipient);
                let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
                all || stop.stops(domain, now)
            };
            let stopped: Vec<u32> = part.recipients().iter().filter(meant).copied().collect();
            if !stopped.is_empty() {
                let reporter = part.reporter().clone();
                reporter.send_suspended(vec![part.split(stopped)], stop);
            }
        }
    }
}
