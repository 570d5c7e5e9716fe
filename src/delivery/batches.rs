//! Which recipients of a message share a transaction, and which parts a worker. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use super::RECIPIENTS;
use super::hops::{Found, HopOrVerdict};
use super::pending::Pending;
use super::promise::Promise;
use super::reach::Destination;
use super::verdict::Verdict;

/// Recipients of one message that may share a transaction.
pub(super) struct Group {
    pub(super) hop: HopOrVerdict,
    pub(super) promise: Arc<Promise>,
    /// The domain of the first.
    domain: String,
    pub(super) recipients: Vec<u32>,
}

/// Puts the recipient `at` into the first group that it fits into, or into one of its own: those of
/// a group have the same next hop, with the same demands, and are as many as its provider takes.
/// `domain` is the key by which its next hop is among those that were found.
pub(super) fn group(
    groups: &mut Vec<Group>,
    at: u32,
    domain: Cow<'_, str>,
    hops: &[(String, Found)],
) {
    let found = hops.iter().find(|(known, _)| *known == domain);
    let (hop, promise) = match found {
        Some((_, found)) => (found.hop.clone(), Arc::clone(&found.promise)),
        None => {
            let verdict = Verdict::deferred(451, "4.4.4", "no next hop was found");
            (Err(verdict), Arc::default())
        }
    };
    let same = |group: &HopOrVerdict, demands: &Arc<Promise>| match (group, &hop) {
        (Ok(one), Ok(other)) => one.key == other.key && demands.is_like(&promise),
        (one, other) => one == other,
    };
    let provider = hop.as_ref().ok().map(|hop| &hop.provider);
    let most = provider.and_then(|provider| provider.recipients);
    let most = most.unwrap_or(RECIPIENTS).min(RECIPIENTS);
    // Some refuse recipients of several domains in a transaction.
    let alone = provider.is_some_and(|provider| provider.one_domain);
    let fits = |group: &Group| {
        same(&group.hop, &group.promise)
            && group.recipients.len() < most
            && (!alone || *group.domain == domain)
    };
    match groups.iter_mut().find(|group| fits(group)) {
        Some(group) => group.recipients.push(at),
        None => groups.push(Group {
            hop,
            promise,
            domain: domain.into_owned(),
            recipients: vec![at],
        }),
    }
}

/// Parts by destination.
#[derive(Default)]
pub(super) struct Batches(pub(super) Vec<(Arc<Destination>, Vec<Pending>)>);

impl Batches {
    pub(super) fn add(&mut self, destination: Arc<Destination>, part: Pending) {
        match self
            .0
            .iter_mut()
            .find(|(known, _)| known.key == destination.key)
        {
            Some((_, parts)) => parts.push(part),
            None => self.0.push((destination, vec![part])),
        }
    }
}
