//! How long a session waits for its client, and how much less when the listener is nearly full.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::Limits;

/// The time limits of a session.
#[derive(Clone)]
pub struct Patience {
    /// `limits.command_timeout`.
    pub command: Duration,
    /// `limits.data_timeout`.
    pub data: Duration,
    /// `limits.data_rate` in bytes a second.
    pub data_rate: u64,
    /// `limits.busy_timeout`.
    busy: Duration,
    /// Free places of the listener below which it is busy.
    reserve: usize,
    slots: Arc<Semaphore>,
}

impl Patience {
    /// For a listener with `slots` for connections. It is busy when less than a quarter is free.
    pub fn new(limits: &Limits, slots: Arc<Semaphore>) -> Patience {
        Patience {
            command: limits.command_timeout.0,
            data: limits.data_timeout.0,
            data_rate: limits.data_rate.0,
            busy: limits.busy_timeout.0,
            reserve: limits.connections / 4,
            slots,
        }
    }

    /// The time for what takes a client of ours no time.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    fn is_busy(&self) -> bool {
        self.slots.available_permits() < self.reserve
    }

    /// What `work` gives, or `None` after `limit`; also after `limits.busy_timeout` when the
    /// listener is busy then, or becomes it later.
    pub async fn wait<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let started = Instant::now();
        tokio::pin!(work);
        loop {
            let left = limit.saturating_sub(started.elapsed());
            if let Ok(done) = tokio::time::timeout(left.min(self.busy), &mut work).await {
                return Some(done);
            }
            if started.elapsed() >= limit || self.is_busy() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_listener_waits_less() {
        let limits = Limits {
            connections: 8,
            ..Limits::default()
        };
        let slots = Arc::new(Semaphore::new(8));
        let patience = Patience::new(&limits, slots.clone());
        let minutes = Duration::from_secs(300);
        let forever = std::future::pending::<()>;
        let before = Instant::now();
        assert_eq!(patience.wait(minutes, forever()).await, None);
        assert_eq!(before.elapsed(), minutes);
        let _taken = slots.acquire_many(7).await.expect("open");
        let before = Instant::now();
        assert_eq!(patience.wait(minutes, forever()).await, None);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
        assert_eq!(patience.wait(minutes, async { 1 }).await, Some(1));
    }
}
