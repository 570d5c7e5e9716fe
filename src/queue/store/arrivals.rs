//! How many transactions are open right now, so that the committer knows whether a moment's wait
//! lets one sync serve several. A hint: nothing depends on it but the number of syncs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts transactions from MAIL to the reply to the data; cheap to clone, one for each session.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<AtomicUsize>);

/// One open transaction, until it is dropped.
#[derive(Debug)]
pub struct Arrival(Arrivals);

impl Arrivals {
    /// A transaction begins.
    pub fn begin(&self) -> Arrival {
        self.0.fetch_add(1, Ordering::Relaxed);
        Arrival(self.clone())
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
