//! How fast one destination is sent to: connections at the same time, and pauses.
//!
//! Success widens the window by one connection up to a limit; trouble halves it and keeps it from
//! growing for a while. When no host of the destination can be reached the breaker opens: nothing
//! is tried for a pause that doubles each time, then a single connection tries again. Pure: the
//! time is given.

use std::time::{Duration, Instant};

/// Connections a destination may have before it took its first message.
pub const INITIAL_CONNECTIONS: usize = 5;
/// After trouble the number of connections does not grow for this long.
pub const HOLD: Duration = Duration::from_secs(10);
/// No pause is longer, so that a destination that comes back is noticed.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The pace of one destination.
#[derive(Debug, Clone)]
pub struct Pacing {
    window: usize,
    most: usize,
    hold_until: Option<Instant>,
    first_pause: Duration,
    failures: u32,
    paused_until: Option<Instant>,
}

impl Pacing {
    /// At most `most` connections; a first pause of `first_pause`.
    pub fn new(most: usize, first_pause: Duration) -> Pacing {
        let most = most.max(1);
        Pacing {
            window: INITIAL_CONNECTIONS.min(most),
            most,
            hold_until: None,
            first_pause: first_pause.min(LONGEST_PAUSE),
            failures: 0,
            paused_until: None,
        }
    }

    /// How many connections there may be.
    pub fn window(&self) -> usize {
        self.window
    }

    /// A message was taken.
    pub fn delivered(&mut self, now: Instant) {
        self.failures = 0;
        self.paused_until = None;
        if self.hold_until.is_none_or(|until| until <= now) {
            self.window = self.most.min(self.window + 1);
        }
    }

    /// One of `open` connections was refused, cut off or told to go away.
    pub fn troubled(&mut self, open: usize, now: Instant) {
        self.window = (self.window.min(open) / 2).max(1);
        self.hold_until = now.checked_add(HOLD);
    }

    /// No host could be reached and no connection is open: the destination pauses for as long as
    /// this says. While it pauses already, that pause is not made longer.
    pub fn unreachable(&mut self, now: Instant) -> Duration {
        if let Some(rest) = self.paused(now) {
            return rest;
        }
        let doubled = self
            .first_pause
            .saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let pause = doubled.min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.window = 1;
        self.paused_until = now.checked_add(pause);
        pause
    }

    /// Somebody knows better: the pause is over, and the next one is as short as the first.
    pub fn resume(&mut self) {
        self.failures = 0;
        self.paused_until = None;
    }

    /// The rest of the pause, if there is one.
    pub fn paused(&self, now: Instant) -> Option<Duration> {
        let rest = self.paused_until?.checked_duration_since(now)?;
        // Who comes back at the end of a pause must not be sent away for its last moment.
        (rest > Duration::from_millis(50).min(self.first_pause / 4)).then_some(rest)
    }

    /// Whether nothing would be lost by forgetting this destination.
    pub fn is_forgettable(&self, now: Instant) -> bool {
        // The length of the next pause is worth keeping until one more of them went by.
        self.paused_until.is_none_or(|until| {
            until
                .checked_add(LONGEST_PAUSE)
                .is_none_or(|later| later <= now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(300);

    #[test]
    fn grows_by_one_and_halves() {
        let now = Instant::now();
        let mut pacing = Pacing::new(8, FIRST);
        let mut seen = vec![pacing.window()];
        for _ in 0..5 {
            pacing.delivered(now);
            seen.push(pacing.window());
        }
        assert_eq!(seen, [5, 6, 7, 8, 8, 8]);
        pacing.troubled(8, now);
        assert_eq!(pacing.window(), 4);
        pacing.delivered(now);
        assert_eq!(pacing.window(), 4);
        pacing.delivered(now + HOLD);
        assert_eq!(pacing.window(), 5);
        // A server that takes two of five: it is the open ones that count.
        pacing.troubled(2, now);
        assert_eq!(pacing.window(), 1);
        pacing.troubled(1, now);
        assert_eq!(pacing.window(), 1);
        assert_eq!(Pacing::new(0, FIRST).window(), 1);
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_end_with_a_success() {
        let mut now = Instant::now();
        let mut pacing = Pacing::new(20, FIRST);
        assert!(pacing.is_forgettable(now));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let pause = pacing.unreachable(now);
            pauses.push(pause.as_secs());
            assert_eq!(pacing.window(), 1);
            assert_eq!(pacing.paused(now), Some(pause));
            assert!(!pacing.is_forgettable(now));
            // A second connection that fails meanwhile adds nothing.
            assert_eq!(pacing.unreachable(now + pause / 2), pause / 2);
            now += pause;
            assert_eq!(pacing.paused(now), None);
        }
        assert_eq!(pauses, [300, 600, 1200, 2400, 3600, 3600]);
        pacing.delivered(now);
        assert_eq!(pacing.unreachable(now), FIRST);
        assert!(pacing.is_forgettable(now + FIRST + LONGEST_PAUSE));
    }
}
