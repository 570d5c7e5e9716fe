//! The wall clock, read in one place by actors and the command line; pure modules are given time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use queue_schema::Millis;

/// Milliseconds of a day.
pub const DAY: Millis = 24 * 60 * 60 * 1000;

/// Now, in milliseconds since 1970. A clock before 1970 reads as 0.
pub fn now() -> Millis {
    #[cfg(any(test, feature = "simulation"))]
    if let Some(now) = simulated::now() {
        return now;
    }
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
    .saturating_add_signed(SET.load(Ordering::Relaxed))
}

static SET: AtomicI64 = AtomicI64::new(0);

/// Sets this process's clock by so many milliseconds: how tests find out what follows from a clock
/// that is set.
#[doc(hidden)]
pub fn set_by(millis: i64) {
    SET.fetch_add(millis, Ordering::Relaxed);
}

/// A time as RFC 3339 writes it, in UTC to the second.
pub fn text(at: Millis) -> String {
    i64::try_from(at / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "never".to_owned(), |time| time.to_string())
}

/// A duration in whole milliseconds; one that does not fit is the longest that does.
pub fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A wall clock of one thread that is set and then goes on with the runtime's clock, and a process
/// of it that ends without ending the tests: simulations have no other.
#[cfg(any(test, feature = "simulation"))]
pub mod simulated {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::Millis;

    thread_local! {
        static SET: Cell<Option<(Millis, Instant)>> = const { Cell::new(None) };
        static ENDED: Cell<bool> = const { Cell::new(false) };
    }

    /// Sets this thread's clock; `None` gives back the real one.
    pub fn set(now: Option<Millis>) {
        SET.set(now.map(|now| (now, Instant::now())));
    }

    /// The process would end here.
    pub fn end() {
        ENDED.set(true);
    }

    /// Whether the process would have ended since this was asked last.
    pub fn ended() -> bool {
        ENDED.take()
    }

    /// What this thread's clock shows, if it has one of its own.
    pub fn now() -> Option<Millis> {
        let (then, since) = SET.get()?;
        Some(then.saturating_add(super::millis(since.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_end_of_a_simulated_process_is_told_once() {
        super::simulated::end();
        assert!(super::simulated::ended());
        assert!(!super::simulated::ended());
    }
}
