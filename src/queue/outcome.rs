//! From an attempt's outcome to a recipient's new state. Pure.

use std::time::Duration;

use queue_schema::{Hold, HoldKind, Message, Millis, RecipientState, Reply, Status, Suspended};

use super::clean;
use super::messages::{Attempt, Outcome};
use super::schedule::{self, Next};
use crate::config::Retry;

/// Bytes of a reply's text that are kept.
const MAX_TEXT: usize = 512;
/// What is told of a recipient whose destination was suspended all the time. Why and by whom is
/// for operators alone.
const UNTRIED: &str = "delivery to this destination was held back here until the time was over";
/// Bytes of other words of a peer that are kept.
const MAX_WORD: usize = 300;

/// What an attempt means for its recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its new state.
    pub state: RecipientState,
    /// The word for the log.
    pub word: &'static str,
}

/// Decides. `before` is the recipient's state before the attempt; `shift` moves the deadline,
/// because the clock was set.
pub fn decide(
    retry: &Retry,
    message: &Message,
    before: &RecipientState,
    attempt: &Attempt,
    shift: i64,
    chance: f64,
) -> Decision {
    let next = |named| {
        let deadline = schedule::deadline(retry, message).saturating_add_signed(shift);
        schedule::next(retry, deadline, attempt.at, before.attempts, named, chance)
    };
    let counts = !matches!(attempt.outcome, Outcome::Deferred { counts: false, .. });
    // Who names the same wait again has not meant it: from then on the backoff is the least, or
    // "again in a minute" would be obeyed for days.
    let again = |named: Option<Duration>| {
        let waited = before.next_due.saturating_sub(before.last_attempt);
        let named_before =
            |named| waited == named || (waited > named && is_said_again(before, attempt));
        let same = named.map(crate::time::millis).is_some_and(named_before);
        match counts && before.attempts > 0 && same {
            true => named.max(Some(schedule::delay(retry, before.attempts, chance))),
            false => named,
        }
    };
    let (status, next_due, word) = match &attempt.outcome {
        Outcome::Delivered => (Status::Delivered, 0, "delivered"),
        Outcome::Failed | Outcome::Lost => (Status::Bounced, 0, "bounced"),
        Outcome::Deferred { retry_after, .. } => match next(again(*retry_after)) {
            Next::At(at) => (Status::Waiting, at, "deferred"),
            Next::Expired => (Status::Expired, 0, "expired"),
        },
        Outcome::Suspended { what, wait } => {
            return suspended(before, what, next(Some(*wait)));
        }
    };
    Decision {
        state: RecipientState {
            status,
            attempts: before.attempts.saturating_add(u32::from(counts)),
            next_due,
            last_attempt: attempt.at,
            last_reply: Some(clean_reply(&attempt.reply)),
            suspended: None,
            warned: before.warned,
            holds: holds(before, attempt.at),
        },
        word,
    }
}

/// Whether the reply is the one before, whatever numbers it has now.
fn is_said_again(before: &RecipientState, attempt: &Attempt) -> bool {
    let letters = |text: &str| -> String { text.chars().filter(|c| c.is_alphabetic()).collect() };
    let now = clean(&attempt.reply.text, MAX_TEXT);
    before
        .last_reply
        .as_ref()
        .is_some_and(|last| last.code == attempt.reply.code && letters(&last.text) == letters(&now))
}

/// What holds for its destination keeps a recipient from being tried: it is as it was, but for
/// when it is due. A suspension stops no deadline.
fn suspended(before: &RecipientState, what: &Suspended, next: Next) -> Decision {
    let before = before.clone();
    match next {
        Next::At(at) => Decision {
            state: RecipientState {
                next_due: at,
                suspended: Some(clean_suspended(what)),
                ..before
            },
            word: "suspended",
        },
        Next::Expired => Decision {
            state: RecipientState {
                status: Status::Expired,
                next_due: 0,
                last_reply: before
                    .last_reply
                    .or_else(|| Some(super::own_reply(450, "4.4.7", UNTRIED))),
                suspended: None,
                ..before
            },
            word: "expired",
        },
    }
}

/// The holds that go on.
fn holds(before: &RecipientState, now: Millis) -> Vec<Hold> {
    // That an order was applied is remembered, or it would be again.
    let goes_on =
        |hold: &&Hold| hold.kind == HoldKind::Order || hold.until.is_none_or(|until| until > now);
    before.holds.iter().filter(goes_on).cloned().collect()
}

fn clean_suspended(what: &Suspended) -> Suspended {
    Suspended {
        destination: clean(&what.destination, MAX_WORD),
        by: clean(&what.by, MAX_WORD),
        reason: clean(&what.reason, MAX_WORD),
        until: what.until,
        slowed_to: clean(&what.slowed_to, MAX_WORD),
    }
}

/// Whether the sender is to be told now that a recipient of a message is late.
pub fn is_late(retry: &Retry, message: &Message, state: &RecipientState, now: Millis) -> bool {
    let after = crate::time::millis(retry.warn_after.0);
    let patience = schedule::released(message).saturating_add(after);
    let late = match message.envelope.deliver_by {
        Some(by) if !by.give_up => patience.min(by.at),
        _ => patience,
    };
    !state.warned && now >= late
}

/// A reply that can not break a line of the log, a header or a table.
pub fn clean_reply(reply: &Reply) -> Reply {
    Reply {
        code: reply.code,
        enhanced: clean(&reply.enhanced, MAX_WORD),
        text: clean(&reply.text, MAX_TEXT),
        remote: clean(&reply.remote, MAX_WORD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;
    use crate::store::new_message;
    use queue_schema::{Envelope, Origin, QueueId, Recipient};
    use std::time::Duration;

    fn message() -> Message {
        let recipient = Recipient::new("b@example.net");
        let envelope = Envelope::new("a@example.org", vec![recipient]);
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        new_message(QueueId(1), 0, origin, envelope)
    }

    fn attempt(outcome: Outcome, at: Millis) -> Attempt {
        let reply = Reply {
            code: 450,
            enhanced: "4.2.1".into(),
            text: "busy\r\nstatus=delivered".into(),
            remote: "mx.example.net[192.0.2.1]:25".into(),
        };
        Attempt {
            recipient: 0,
            at,
            outcome,
            reply,
            tls: String::new(),
            notifies: false,
        }
    }

    fn decided(outcome: Outcome, at: Millis, before: &RecipientState) -> Decision {
        decide(
            &Retry::default(),
            &message(),
            before,
            &attempt(outcome, at),
            0,
            0.5,
        )
    }

    #[test]
    fn each_outcome_has_its_state() {
        let before = RecipientState::new(0);
        let delivered = decided(Outcome::Delivered, 7, &before);
        assert_eq!(
            (delivered.state.status, delivered.word),
            (Status::Delivered, "delivered")
        );
        assert_eq!(
            (delivered.state.attempts, delivered.state.last_attempt),
            (1, 7)
        );
        let failed = decided(Outcome::Failed, 7, &before);
        assert_eq!(
            (failed.state.status, failed.word),
            (Status::Bounced, "bounced")
        );
        let reply = failed.state.last_reply.unwrap();
        assert_eq!(
            reply.text, "busy  status=delivered",
            "nothing a peer says ends a line"
        );
    }

    #[test]
    fn a_deferral_is_a_step_of_the_backoff_only_when_it_counts() {
        let deferred = |counts, retry_after| Outcome::Deferred {
            retry_after,
            counts,
        };
        let first = decided(deferred(true, None), 1000, &RecipientState::new(0)).state;
        assert_eq!((first.attempts, first.next_due), (1, 1000 + 300_000));
        let second = decided(deferred(true, None), 1000, &first).state;
        assert_eq!((second.attempts, second.next_due), (2, 1000 + 600_000));
        let waited = decided(deferred(false, Some(Duration::from_secs(40))), 1000, &first).state;
        assert_eq!((waited.attempts, waited.next_due), (1, 41_000));
        let waited = decided(deferred(false, None), 1000, &first).state;
        assert_eq!((waited.attempts, waited.next_due), (1, 1000 + 600_000));
    }

    #[test]
    fn d13_a_wait_that_is_named_again_and_again_becomes_the_backoff() {
        let minute = Duration::from_secs(60);
        let named = |wait| Outcome::Deferred {
            retry_after: Some(wait),
            counts: true,
        };
        let mut state = RecipientState::new(0);
        let (mut now, mut waits) = (1000, Vec::new());
        for _ in 0..4 {
            state = decided(named(minute), now, &state).state;
            waits.push((state.next_due - now) / 1000);
            now = state.next_due;
        }
        assert_eq!(waits, [60, 600, 1200, 2400]);
        // Another wait is another word, and a longer one stands above the backoff.
        let mut state = decided(named(minute), 1000, &RecipientState::new(0)).state;
        state = decided(named(2 * minute), state.next_due, &state).state;
        assert_eq!(state.next_due - state.last_attempt, 120_000);
        let hour = Duration::from_secs(3600);
        let first = decided(named(hour), 1000, &RecipientState::new(0)).state;
        let second = decided(named(hour), first.next_due, &first).state;
        assert_eq!(second.next_due - second.last_attempt, 3_600_000);
        // What is no attempt changes nothing.
        let held = Outcome::Deferred {
            retry_after: Some(minute),
            counts: false,
        };
        let first = decided(held.clone(), 1000, &RecipientState::new(0)).state;
        let second = decided(held, first.next_due, &first).state;
        assert_eq!(second.next_due - second.last_attempt, 60_000);
    }

    #[test]
    fn i5_a_recipient_expires_even_if_no_attempt_ever_counted() {
        let five_days = 5 * 86_400_000;
        let outcome = Outcome::Deferred {
            retry_after: Some(Duration::MAX),
            counts: false,
        };
        let last = decided(outcome.clone(), five_days - 1, &RecipientState::new(0)).state;
        assert_eq!((last.status, last.next_due), (Status::Waiting, five_days));
        let over = decided(outcome, five_days, &last);
        assert_eq!((over.state.status, over.word), (Status::Expired, "expired"));
    }

    #[test]
    fn lateness_is_told_once_and_never_means_never() {
        let mut retry = Retry::default();
        let message = message();
        let four_hours = 4 * 3_600_000;
        let mut state = RecipientState::new(0);
        assert!(!is_late(&retry, &message, &state, four_hours - 1));
        assert!(is_late(&retry, &message, &state, four_hours));
        state.warned = true;
        assert!(!is_late(&retry, &message, &state, four_hours));
        state.warned = false;
        retry.warn_after = Span::NEVER;
        assert!(!is_late(&retry, &message, &state, u64::MAX - 1));
    }
}
