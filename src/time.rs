//! The wall clock, read in one place by actors and the command line; pure modules are given time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use queue_schema::Millis;

/// Now, in milliseconds since 1970. A clock before 1970 reads as 0.
pub fn now() -> Millis {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

/// A duration in whole milliseconds; one that does not fit is the longest that does.
pub fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
