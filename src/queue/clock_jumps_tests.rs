//! Lives of a message under a clock that is set at any moment, also while nothing runs.

use std::time::Duration;

use proptest::prelude::*;
use queue_schema::{Envelope, Message, Millis, Origin, QueueId, Recipient};

use super::Clock;
use crate::config::Retry;
use crate::store::new_message;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// How often the queue looks, here.
const TURN: u64 = 20_000;
/// What the clock shows when all begins.
const START: Millis = 50 * 365 * DAY;
/// Above the message's id and below all that are issued later.
const FLOOR: QueueId = QueueId(6);

/// One message that is deferred at each attempt, the queue that holds it, and time that really
/// passes.
struct Life {
    clock: Clock,
    message: Message,
    /// Milliseconds since all began.
    real: u64,
    /// What the clock shows besides.
    off: i64,
    /// When the process began.
    began: u64,
    /// When the message was tried last, and how long it is to wait.
    tried: u64,
    wait: u64,
    /// What the queue has noted as the time when it is due.
    noted: Millis,
    attempts: u32,
}

impl Life {
    fn new() -> Life {
        let envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut life = Life {
            clock: Clock::default(),
            message: new_message(QueueId(5), START, origin, envelope),
            real: 0,
            off: 0,
            began: 0,
            tried: 0,
            wait: 0,
            noted: START,
            attempts: 0,
        };
        life.start();
        life
    }

    fn wall(&self) -> Millis {
        (START + self.real).saturating_add_signed(self.off)
    }

    fn due(&self) -> Millis {
        let now = self.wall();
        let due = self.clock.due(&self.message, &self.message.states[0], now);
        due.expect("it waits")
    }

    /// As `store::recover` and the actor do.
    fn start(&mut self) {
        let now = self.wall();
        self.began = self.real;
        self.clock = Clock::new(self.clock.jumps().to_vec(), Retry::default());
        self.clock.begin(now);
        self.noted = self.due();
        let latest = self.clock.latest(&self.message, now);
        self.clock.begun(latest, FLOOR);
        self.turn();
    }

    /// Nothing runs for a while, and then the clock shows something else.
    fn restart(&mut self, down: u64, off: i64) {
        self.real += down;
        self.off = off;
        self.start();
    }

    /// The queue looks at its clock and at what is due.
    fn turn(&mut self) {
        let (now, steady) = (self.wall(), Duration::from_millis(self.real - self.began));
        if self.clock.check(now, steady, || FLOOR).is_some() {
            self.noted = self.due();
        }
        if self.noted > now {
            return;
        }
        self.noted = self.due();
        if self.noted > now {
            return;
        }
        let state = &mut self.message.states[0];
        self.attempts += 1;
        self.wait = ((5 * MINUTE) << self.attempts.min(7)).min(4 * HOUR);
        self.tried = self.real;
        state.last_attempt = now;
        state.next_due = now + self.wait;
        self.noted = state.next_due;
    }

    fn pass(&mut self, time: u64) {
        let end = self.real + time;
        while self.real < end {
            self.real += TURN;
            self.turn();
            self.check();
        }
    }

    /// Nothing waits longer than it was to wait, and once more that, since it was tried or since the
    /// queue began, whatever the clock did.
    fn check(&self) {
        let waited = self.real - self.tried.max(self.began);
        let most = 2 * self.wait + 2 * MINUTE;
        assert!(
            waited <= most,
            "waits for {waited} of {} ms, noted {}",
            self.wait,
            self.noted
        );
    }
}

#[test]
fn q5_a_clock_that_was_behind_at_boot_strands_nothing_when_it_is_set_right() {
    let mut life = Life::new();
    life.pass(2 * HOUR);
    let attempts = life.attempts;
    // An hour without power, and a clock that lost forty days.
    life.restart(HOUR, -i64::try_from(40 * DAY).unwrap());
    life.pass(2 * MINUTE);
    let waits = life.wait;
    life.off = 0;
    life.pass(MINUTE);
    assert!(
        life.attempts > attempts || life.noted <= life.wall() + waits,
        "due in {} ms",
        life.noted - life.wall()
    );
    // It was due while the power was off: it is tried now, not in forty days.
    assert_eq!(life.attempts, attempts + 1);
}

#[test]
fn q5_a_clock_that_stays_behind_strands_nothing() {
    let mut life = Life::new();
    life.pass(20 * HOUR);
    let attempts = life.attempts;
    life.restart(0, -i64::try_from(40 * DAY).unwrap());
    life.pass(4 * HOUR + MINUTE);
    assert_eq!(life.attempts, attempts + 1);
    life.pass(4 * HOUR + MINUTE);
    assert_eq!(life.attempts, attempts + 2);
}

#[test]
fn q5_a_clock_that_was_ahead_at_boot_makes_no_burst_and_ends_nothing() {
    let mut life = Life::new();
    life.pass(20 * HOUR);
    // It is due at once by such a clock, and tried.
    life.restart(0, i64::try_from(365 * DAY).unwrap());
    let attempts = life.attempts;
    life.off = 0;
    life.pass(3 * HOUR);
    assert_eq!(life.attempts, attempts);
    let now = life.wall();
    let arrived = life.message.arrived;
    assert_eq!(
        life.clock.deadline_shift(&life.message, now),
        0,
        "{arrived} is right"
    );
}

fn off() -> impl Strategy<Value = i64> {
    let most = i64::try_from(400 * DAY).unwrap();
    let some = i64::try_from(6 * HOUR).unwrap();
    prop_oneof![Just(0), -some..some, -most..most]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn q5_nothing_is_late_by_more_than_its_wait_whatever_the_clock_does(
        events in proptest::collection::vec((0..8 * HOUR, off(), prop::option::of(0..DAY)), 0..6)
    ) {
        let mut life = Life::new();
        for (time, off, down) in events {
            life.pass(time);
            match down {
                Some(down) => life.restart(down, off),
                None => life.off = off,
            }
        }
        life.pass(DAY);
        prop_assert!(life.attempts > 5);
    }
}
