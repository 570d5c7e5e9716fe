//! Queue ids are issued here, for sessions on every core and for our own DSNs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue_schema::QueueId;

/// Issues ids, each greater than all before it, also across restarts and when the clock goes back.
#[derive(Debug, Clone)]
pub struct IdSource(Arc<AtomicU64>);

impl IdSource {
    /// Goes on above `highest`.
    pub fn new(highest: QueueId) -> IdSource {
        IdSource(Arc::new(AtomicU64::new(highest.0)))
    }

    /// The next id, from the clock where that is ahead of the last one.
    pub fn issue(&self) -> QueueId {
        self.issue_at(crate::time::now().saturating_mul(1000))
    }

    fn issue_at(&self, micros: u64) -> QueueId {
        let clock = QueueId::floor(micros).0;
        let next = |last: u64| clock.max(last.saturating_add(1));
        let update = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        let last = match update {
            Ok(last) | Err(last) => last,
        };
        QueueId(next(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_only_grow_whatever_the_clock_does() {
        let source = IdSource::new(QueueId::floor(1000));
        let first = source.issue_at(999);
        assert_eq!(first, QueueId(QueueId::floor(1000).0 + 1));
        assert_eq!(source.issue_at(2000), QueueId::floor(2000));
        assert_eq!(source.issue_at(2000), QueueId(QueueId::floor(2000).0 + 1));
        assert_eq!(source.issue_at(1), QueueId(QueueId::floor(2000).0 + 2));
    }

    #[test]
    fn many_threads_get_distinct_ids() {
        let source = IdSource::new(QueueId(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let source = source.clone();
                std::thread::spawn(move || (0..5000).map(|_| source.issue()).collect::<Vec<_>>())
            })
            .collect();
        let mut all: Vec<_> = threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 20_000);
    }
}
