//! When a recipient is tried again, and when its time is over. Pure: time and chance are given.
//!
//! `delay(n) = min(first * factor^n, longest)`, give or take a tenth, after the `n`-th failed
//! attempt, counted from 0; or the waits of a list, `retry.steps`, give or take a tenth. A wait that a next hop names is obeyed. A wait that is not the
//! message's fault (its destination could not be reached) is no step of the backoff. Whatever the
//! wait, the last attempt is at the deadline, after which the recipient expires.

use std::time::Duration;

use queue_schema::{Message, Millis, Origin, RecipientState, Status};

use crate::config::Retry;

/// Part of a delay by which chance makes it longer or shorter.
const JITTER: f64 = 0.1;
/// A named wait is not shorter than this, or a hasty server would be asked in a loop.
const SHORTEST: Duration = Duration::from_secs(1);

/// What follows a deferred attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again then.
    At(Millis),
    /// Its time is over.
    Expired,
}

/// The wait after `failed` earlier attempts that counted. `chance` is from 0 up to 1.
pub fn delay(retry: &Retry, failed: u32, chance: f64) -> Duration {
    let plain = match retry.steps.wait(failed) {
        Some(listed) => listed.as_secs_f64(),
        None => {
            let longest = retry.longest.0.as_secs_f64();
            let exponent = i32::try_from(failed).unwrap_or(i32::MAX);
            let grown = retry.first.0.as_secs_f64() * retry.factor.powi(exponent);
            grown.min(longest).max(0.0)
        }
    };
    let jitter = 1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
    let seconds = plain * jitter;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// When the recipients of a message have had their time: counted from its release (RFC 4865), and
/// at the latest when its sender wants it back (RFC 2852).
pub fn deadline(retry: &Retry, message: &Message) -> Millis {
    let span = match message.origin {
        Origin::Dsn { .. } => retry.bounce_give_up,
        _ => retry.give_up,
    };
    let end = released(message).saturating_add(crate::time::millis(span.0));
    match message.envelope.deliver_by {
        Some(by) if by.give_up => end.min(by.at),
        _ => end,
    }
}

/// When the first attempt of a message was to be.
pub fn released(message: &Message) -> Millis {
    let release = message.envelope.release_at.unwrap_or(message.arrived);
    release.max(message.arrived)
}

/// What follows an attempt that was deferred at `now`, before which `failed` attempts counted.
pub fn next(
    retry: &Retry,
    deadline: Millis,
    now: Millis,
    failed: u32,
    named: Option<Duration>,
    chance: f64,
) -> Next {
    if now >= deadline {
        return Next::Expired;
    }
    let wait = match named {
        Some(named) => named.max(SHORTEST),
        None => delay(retry, failed, chance),
    };
    Next::At(now.saturating_add(crate::time::millis(wait)).min(deadline))
}

/// A message of another queue keeps its attempts and due times as far as they make sense here:
/// nothing was tried later than now, nobody waits beyond the deadline or longer than the longest
/// wait from now, and `ahead` is as far as a release (RFC 4865) may be.
pub fn adopt(retry: &Retry, ahead: Duration, message: &mut Message, now: Millis) {
    message.arrived = message.arrived.min(now);
    let latest_release = now.saturating_add(crate::time::millis(ahead));
    if let Some(release) = &mut message.envelope.release_at {
        *release = (*release).min(latest_release);
    }
    let end = deadline(retry, message);
    let latest = now.saturating_add(crate::time::millis(longest(retry)));
    // What is not to be sent yet waits for its release.
    let latest = latest.max(released(message)).min(end);
    for state in &mut message.states {
        state.last_attempt = state.last_attempt.min(now);
        if state.status == Status::Waiting {
            state.next_due = state.next_due.min(latest);
        }
    }
}

/// The longest wait there is.
fn longest(retry: &Retry) -> Duration {
    let listed = retry.steps.longest();
    listed.unwrap_or(retry.longest.0)
}

/// When a message has something to do next: an attempt, or its end. `None` while all of its
/// recipients that wait are held.
pub fn due(message: &Message) -> Option<Millis> {
    earliest(message, |state| {
        Some(state.next_due.max(state.released_at()?))
    })
}

/// The earliest of the times that `due` gives for recipients that wait.
pub fn earliest(
    message: &Message,
    due: impl Fn(&RecipientState) -> Option<Millis>,
) -> Option<Millis> {
    let waits = |state: &&RecipientState| state.status == Status::Waiting;
    let mut waiting = message.states.iter().filter(waits).peekable();
    if waiting.peek().is_none() {
        // One that waits for nothing should have ended; it is due at once, to be ended.
        return Some(0);
    }
    waiting.filter_map(due).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;
    use crate::store::new_message;
    use proptest::prelude::*;
    use queue_schema::{Envelope, QueueId, Recipient};

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    #[test]
    fn the_default_schedule_is_the_designed_one() {
        let retry = Retry::default();
        let minutes: Vec<u64> = (0..9)
            .map(|n| delay(&retry, n, 0.5).as_millis() as u64 / MINUTE)
            .collect();
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 240, 240, 240]);
    }

    #[test]
    fn a_list_of_waits_takes_the_place_of_the_backoff() {
        let retry = Retry {
            steps: "1m, 5m*2, 1h".parse().unwrap(),
            ..Retry::default()
        };
        let minutes: Vec<u64> = (0..6)
            .map(|n| delay(&retry, n, 0.5).as_millis() as u64 / MINUTE)
            .collect();
        assert_eq!(minutes, [1, 5, 5, 60, 60, 60]);
        assert_eq!(delay(&retry, 0, 1.0), Duration::from_secs(66));
    }

    #[test]
    fn jitter_is_a_tenth_either_way() {
        let retry = Retry::default();
        assert_eq!(delay(&retry, 0, 0.0), Duration::from_secs(270));
        assert_eq!(delay(&retry, 0, 1.0), Duration::from_secs(330));
        assert_eq!(
            delay(&retry, 40, 1.0),
            Duration::from_secs(4 * 3600 * 11 / 10)
        );
    }

    #[test]
    fn five_days_of_the_default_schedule_end_at_the_deadline() {
        let retry = Retry::default();
        let deadline = 120 * HOUR;
        let (mut now, mut failed) = (0, 0);
        let mut times = Vec::new();
        while let Next::At(at) = next(&retry, deadline, now, failed, None, 0.5) {
            times.push(at);
            now = at;
            failed += 1;
        }
        assert_eq!(&times[..3], &[5 * MINUTE, 15 * MINUTE, 35 * MINUTE]);
        assert_eq!(
            times.last(),
            Some(&deadline),
            "the last attempt is at the deadline"
        );
        // 5+10+20+40+80+160 minutes, then every 4 hours.
        assert_eq!(times.len(), 6 + 29);
    }

    #[test]
    fn c097_greylisting_costs_a_quarter_of_an_hour() {
        // It opens 300 s after the first attempt, whatever chance does to the waits.
        let retry = Retry::default();
        for chance in [0.0, 0.25, 0.5, 0.75, 0.999] {
            let (mut now, mut failed) = (0, 0);
            let mut times = Vec::new();
            while now < 300_000 {
                let Next::At(at) = next(&retry, 120 * HOUR, now, failed, None, chance) else {
                    panic!("not yet")
                };
                times.push(at);
                now = at;
                failed += 1;
            }
            assert!(now <= 17 * MINUTE, "delivered at {now}");
            assert!(
                times
                    .iter()
                    .any(|at| (4 * MINUTE..=30 * MINUTE).contains(at))
            );
            let hour = times.len();
            assert!(
                hour >= 1 && failed <= 2,
                "two attempts in the first hour: {times:?}"
            );
        }
    }

    #[test]
    fn a_named_wait_is_obeyed_up_to_the_deadline() {
        let retry = Retry::default();
        let named = |secs| Some(Duration::from_secs(secs));
        assert_eq!(
            next(&retry, HOUR, 1000, 3, named(300), 0.9),
            Next::At(301_000)
        );
        assert_eq!(next(&retry, HOUR, 1000, 3, named(0), 0.9), Next::At(2000));
        assert_eq!(
            next(&retry, HOUR, 1000, 3, named(u64::MAX), 0.9),
            Next::At(HOUR)
        );
        assert_eq!(next(&retry, HOUR, HOUR, 3, named(300), 0.9), Next::Expired);
    }

    fn message(origin: Origin) -> Message {
        let envelope = Envelope::new(
            "a@example.org",
            vec![
                Recipient::new("b@example.net"),
                Recipient::new("c@example.net"),
            ],
        );
        new_message(QueueId(1), 1000, origin, envelope)
    }

    #[test]
    fn bounces_have_a_deadline_of_their_own_and_never_is_never() {
        let mut retry = Retry::default();
        let user = message(Origin::Network {
            client: [127, 0, 0, 1].into(),
        });
        let dsn = message(Origin::Dsn {
            about: QueueId(2),
            since: 0,
        });
        assert_eq!(deadline(&retry, &user), 1000 + 5 * 24 * HOUR);
        assert_eq!(deadline(&retry, &dsn), 1000 + 2 * 24 * HOUR);
        retry.give_up = Span::NEVER;
        assert_eq!(deadline(&retry, &user), u64::MAX);
        let retry = Retry::default();
        let mut later = user.clone();
        later.envelope.release_at = Some(HOUR);
        assert_eq!(deadline(&retry, &later), 121 * HOUR);
        let mut by = later.clone();
        by.envelope.deliver_by = Some(queue_schema::DeliverBy {
            at: 2 * HOUR,
            give_up: true,
        });
        assert_eq!(deadline(&retry, &by), 2 * HOUR);
        by.envelope.deliver_by = Some(queue_schema::DeliverBy {
            at: 2 * HOUR,
            give_up: false,
        });
        assert_eq!(deadline(&retry, &by), 121 * HOUR);
    }

    #[test]
    fn q7_an_import_is_clamped_to_the_deadline() {
        let mut retry = Retry::default();
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let day = 24 * HOUR;
        let now = 10 * day;
        let clamped = |retry: &Retry, arrived: Millis, due: Millis, release: Option<Millis>| {
            let mut message = message(origin.clone());
            message.arrived = arrived;
            message.envelope.release_at = release;
            message.states[0].next_due = due;
            message.states[0].last_attempt = now + day;
            message.states[1].next_due = due;
            message.states[1].status = Status::Delivered;
            adopt(retry, Duration::from_secs(86_400), &mut message, now);
            assert_eq!(message.states[0].last_attempt, now);
            assert_eq!(message.states[1].next_due, due, "it has ended");
            message.states[0].next_due
        };
        // A year beyond the deadline; one that has passed; one that is as it should be.
        assert_eq!(clamped(&retry, now, now + 365 * day, None), now + 4 * HOUR);
        assert_eq!(
            clamped(&retry, now - 5 * day + HOUR, now + 365 * day, None),
            now + HOUR,
            "the deadline"
        );
        assert_eq!(clamped(&retry, 0, now + 365 * day, None), 5 * day);
        assert_eq!(clamped(&retry, now, now + HOUR, None), now + HOUR);
        assert_eq!(clamped(&retry, now, 5, None), 5);
        assert_eq!(
            clamped(&retry, now + day, u64::MAX, None),
            now + 4 * HOUR,
            "it came from the future"
        );
        // A release is kept, as far as one may be ahead.
        let release = Some(now + 20 * HOUR);
        assert_eq!(
            clamped(&retry, now, now + 20 * HOUR, release),
            now + 20 * HOUR
        );
        let release = Some(now + 365 * day);
        assert_eq!(clamped(&retry, now, now + 365 * day, release), now + day);
        retry.steps = "1m, 5m*2, 1h*3, 10m".parse().unwrap();
        assert_eq!(clamped(&retry, now, u64::MAX, None), now + HOUR);
    }

    #[test]
    fn a_message_is_due_with_its_first_waiting_recipient() {
        let mut message = message(Origin::Network {
            client: [127, 0, 0, 1].into(),
        });
        message.states[0].next_due = 5000;
        message.states[1].next_due = 4000;
        assert_eq!(due(&message), Some(4000));
        message.states[1].status = Status::Delivered;
        assert_eq!(due(&message), Some(5000));
        let hold = crate::Held::default().since(0);
        message.states[0].hold(hold.clone());
        assert_eq!(due(&message), None);
        message.states[0].holds[0].until = Some(7000);
        assert_eq!(due(&message), Some(7000), "a hold ends by itself");
        message.states[0].status = Status::Bounced;
        assert_eq!(due(&message), Some(0), "to be ended");
    }

    proptest! {
        #[test]
        fn no_numbers_break_the_schedule(
            first: u32, longest: u32, factor: f64, failed: u32, chance: f64,
            now: u64, deadline: u64, named: Option<u64>,
        ) {
            let retry = Retry {
                first: Span::secs(first.into()),
                longest: Span::secs(longest.into()),
                factor,
                ..Retry::default()
            };
            let named = named.map(Duration::from_millis);
            match next(&retry, deadline, now, failed, named, chance) {
                Next::At(at) => prop_assert!(now < deadline && now <= at && at <= deadline),
                Next::Expired => prop_assert!(now >= deadline),
            }
        }
    }
}
