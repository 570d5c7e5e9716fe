//! What all messages that are arriving hold in memory together: a budget, and a share of it for
//! each client.
//!
//! Counts and says whether there is room; never waits and refuses nothing itself. Whoever finds no
//! room writes what it has to disk, or gives up what can not go there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth;

/// Bytes that each message may hold whatever all others do.
pub const LEAST: usize = 16 * 1024;
/// One client may hold one part in so many of the budget.
const SHARE: u64 = 4;

/// The counts of one daemon; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Arriving(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: u64,
    /// Of each client that holds something.
    clients: HashMap<IpAddr, u64>,
}

/// What one message holds; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    of: Arriving,
    client: IpAddr,
    /// `limits.memory_arrivals`.
    most: u64,
    bytes: u64,
}

impl Arriving {
    /// Nothing yet, for a message of `client`; all may hold `most` bytes together.
    pub fn held(&self, client: IpAddr, most: u64) -> Held {
        Held {
            of: self.clone(),
            client: auth::client(client),
            most,
            bytes: 0,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// It holds so many bytes now. Whether there is room for them.
    pub fn set(&mut self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut counts = self.of.counts();
        let change = |count: u64| count.saturating_sub(self.bytes).saturating_add(bytes);
        counts.all = change(counts.all);
        let own = counts.clients.entry(self.client).or_default();
        *own = change(*own);
        let own = *own;
        if own == 0 {
            counts.clients.remove(&self.client);
        }
        let room = counts.all <= self.most && own <= self.most / SHARE;
        drop(counts);
        self.bytes = bytes;
        room
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s13_a_client_has_its_share_and_all_have_the_budget() {
        let arriving = Arriving::default();
        let of = |last| arriving.held(IpAddr::from([192, 0, 2, last]), 100);
        let (mut a, mut b) = (of(1), of(1));
        assert!(a.set(20));
        assert!(!b.set(6), "26 are more than a quarter");
        assert!(b.set(5));
        let mut others: Vec<Held> = (2..5).map(of).collect();
        assert!(others.iter_mut().all(|held| held.set(25)));
        let mut late = of(9);
        assert!(!late.set(1), "101 in all");
        drop(a);
        assert!(late.set(20));
        assert!(!late.set(21));
        drop((b, late, others));
        let counts = arriving.counts();
        assert_eq!((counts.all, counts.clients.len()), (0, 0));
    }
}
