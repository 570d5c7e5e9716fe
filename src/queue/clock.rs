//! A wall clock that is set, forward or back, by an hour or by years, while the daemon runs or
//! while it does not.
//!
//! Due times and deadlines are wall-clock times on disk. When the clock jumps, everything that was
//! written by the clock before is moved by as much as the clock, so that mail waits as long as it
//! was to wait: no burst when it is set forward, nothing stuck when it is set back, nothing expired
//! too early. What was written by another clock, such as the right one of the days before the
//! machine came up with a wrong one, is not moved. New mail lives by the new clock. A jump is
//! noticed because the monotonic clock did not make it; a machine that slept looks the same, which
//! is right: its mail did not wait meanwhile.
//!
//! At a start, what seems to have been written in the future shows that the clock is behind what it
//! was: such mail waits from the start on for as long as it was to wait. So nothing is due later
//! than after its wait in time that really passed, whatever the clock did, and once more its wait.
//!
//! Pure: times are given. The jumps lie in `data_dir/clock.json`, so that a restart knows them.

use std::time::Duration;

use queue_schema::{Message, Millis, QueueId, RecipientState, Status};
use serde::{Deserialize, Serialize};

use super::schedule;
use crate::config::Retry;

/// Milliseconds: a smaller step is followed, for it is what time servers do every day.
const STEP: i64 = 60_000;
/// Jumps that are remembered.
const MOST: usize = 16;
/// The file they lie in.
pub const FILE: &str = "clock.json";

/// The wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// What it would have shown; after a start, the latest time that anything was written at.
    pub before: Millis,
    /// What it showed.
    pub after: Millis,
    /// Messages with smaller ids were there before.
    pub floor: QueueId,
    /// When the process began that saw it, by the clock before.
    #[serde(default)]
    pub started: Millis,
    /// It was found at a start: nobody knows how much time passed.
    #[serde(default)]
    pub restart: bool,
    /// Milliseconds from the last look at the clock to the one that saw it: it may have been set
    /// at any moment of them.
    #[serde(default)]
    pub unseen: Millis,
}

impl Jump {
    /// By how much, in milliseconds.
    pub fn by(&self) -> i64 {
        difference(self.before, self.after)
    }

    /// By how much a time moves that was written before, seen from `now`.
    fn moves(&self, touched: Millis, now: Millis) -> i64 {
        if self.restart {
            // Its wait begins with the start, while the clock is that far behind.
            return match touched > now {
                true => difference(touched, self.after),
                false => 0,
            };
        }
        let by = self.by();
        // A time after the jump is from before it as well if it is still to come. One from before
        // the process began may be of a clock that was right all the time: it is if the process
        // would else have begun before it.
        // What was written after it was set and before it was seen is of the new clock already.
        let new = self.after.saturating_sub(self.unseen);
        let back =
            || touched > now || (touched < new && touched > self.started.saturating_add_signed(by));
        match touched <= self.before && (by > 0 || back()) {
            true => by,
            false => 0,
        }
    }
}

fn difference(from: Millis, to: Millis) -> i64 {
    let difference = i128::from(to) - i128::from(from);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    jumps: Vec<Jump>,
    /// How long mail is tried.
    retry: Retry,
    /// What holds at a start until it is known whether the clock is behind.
    mark: Option<Jump>,
    last: Option<(Millis, Duration)>,
    /// When the process began, by the clock as it is now.
    started: Millis,
    /// Jumps since then.
    seen: usize,
}

impl Clock {
    /// A clock with a past, for mail that is tried for so long.
    pub fn new(jumps: Vec<Jump>, retry: Retry) -> Clock {
        Clock {
            jumps,
            retry,
            ..Clock::default()
        }
    }

    /// The jumps, the oldest first.
    pub fn jumps(&self) -> &[Jump] {
        &self.jumps
    }

    /// The highest id that was given to a jump: ids go on above it, or new mail would seem to have
    /// been there before.
    pub fn highest(&self) -> QueueId {
        let floors = self.jumps.iter().map(|jump| jump.floor);
        floors.max().unwrap_or(QueueId(0))
    }

    /// The schedule of mail changed.
    pub fn set_retry(&mut self, retry: Retry) {
        self.retry = retry;
    }

    /// How many jumps were seen since the start.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The process begins. Until [`Clock::begun`] says whether it is so, the clock may be behind.
    pub fn begin(&mut self, now: Millis) {
        self.started = now;
        self.mark = Some(Jump {
            before: now,
            after: now,
            floor: QueueId(u64::MAX),
            started: now,
            restart: true,
            unseen: 0,
        });
    }

    /// All messages were seen: `latest` is the latest time that anything was written at, by the
    /// clock as it was known before, and `floor` is above all ids. Tells whether the clock is
    /// behind.
    pub fn begun(&mut self, latest: Millis, floor: QueueId) -> bool {
        let Some(mark) = self.mark.take() else {
            return false;
        };
        let behind = latest > mark.after.saturating_add_signed(STEP);
        if behind {
            self.remember(Jump {
                before: latest,
                floor,
                ..mark
            });
        }
        behind
    }

    fn remember(&mut self, jump: Jump) {
        if self.jumps.len() == MOST {
            self.jumps.remove(0);
        }
        self.jumps.push(jump);
    }

    /// Compares the clocks; `steady` is any time that never jumps. `floor` is called when the wall
    /// clock has jumped and gives an id above all that were issued.
    pub fn check(
        &mut self,
        wall: Millis,
        steady: Duration,
        floor: impl FnOnce() -> QueueId,
    ) -> Option<Jump> {
        let last = self.last.replace((wall, steady));
        let (then, since) = last?;
        let passed = crate::time::millis(steady.saturating_sub(since));
        let jump = Jump {
            before: then.saturating_add(passed),
            after: wall,
            floor: QueueId(0),
            started: self.started,
            restart: false,
            unseen: passed,
        };
        if jump.by().saturating_abs() < STEP {
            return None;
        }
        let jump = Jump {
            floor: floor(),
            ..jump
        };
        self.started = self.started.saturating_add_signed(jump.by());
        self.seen += 1;
        self.remember(jump);
        Some(jump)
    }

    /// By how much the deadline of a message moves: by the jumps since it arrived.
    pub fn deadline_shift(&self, message: &Message, now: Millis) -> i64 {
        self.moved(message.id, message.arrived, now)
    }

    /// By how much the due time of a recipient moves: by the jumps since it was written.
    pub fn shift(&self, message: &Message, state: &RecipientState, now: Millis) -> i64 {
        self.moved(message.id, touched(message, state), now)
    }

    /// When the last thing about a message was written, without what a start says.
    pub fn latest(&self, message: &Message, now: Millis) -> Millis {
        let times = message.states.iter().map(|state| touched(message, state));
        let times = times.chain([message.arrived]);
        let known = times.map(|time| {
            let shift = self.moved_by(None, message.id, time, now);
            time.saturating_add_signed(shift)
        });
        known.max().unwrap_or_default()
    }

    fn moved(&self, id: QueueId, touched: Millis, now: Millis) -> i64 {
        self.moved_by(self.mark.as_ref(), id, touched, now)
    }

    fn moved_by(&self, mark: Option<&Jump>, id: QueueId, mut touched: Millis, now: Millis) -> i64 {
        let mut shift = 0i64;
        let jumps = self.since(touched, now).iter().chain(mark);
        for jump in jumps.filter(|jump| id < jump.floor) {
            let by = jump.moves(touched, now);
            shift = shift.saturating_add(by);
            touched = touched.saturating_add_signed(by);
        }
        shift
    }

    /// The jumps after what was written at a time. A clock that went back shows the same times
    /// twice: the later is meant, for what was written first is written anew in between.
    fn since(&self, touched: Millis, now: Millis) -> &[Jump] {
        let mut end = now.saturating_add_signed(STEP);
        for (place, jump) in self.jumps.iter().enumerate().rev() {
            if touched >= jump.after.saturating_sub(jump.unseen) && touched <= end {
                return self.jumps.get(place + 1..).unwrap_or_default();
            }
            end = jump.before;
        }
        &self.jumps
    }

    /// When a recipient is due by the clock as it is now: not while it is held, and not once it
    /// has ended. The end of a hold is a time of the wall clock, which an operator named.
    pub fn due(&self, message: &Message, state: &RecipientState, now: Millis) -> Option<Millis> {
        let released = state.released_at()?;
        if state.status != Status::Waiting {
            return None;
        }
        if self.jumps.is_empty() && self.mark.is_none() {
            return Some(state.next_due.max(released));
        }
        let shift = self.shift(message, state, now);
        let due = state.next_due.saturating_add_signed(shift);
        Some(
            due.min(self.latest_due(message, state, shift, now))
                .max(released),
        )
    }

    /// Nothing waits beyond its deadline, or beyond the longest wait after its last attempt: an
    /// order may have named a time by a clock that nobody knows to have been wrong.
    fn latest_due(
        &self,
        message: &Message,
        state: &RecipientState,
        shift: i64,
        now: Millis,
    ) -> Millis {
        let deadline = schedule::deadline(&self.retry, message);
        let deadline = deadline.saturating_add_signed(self.deadline_shift(message, now));
        let longest = crate::time::millis(self.retry.longest.0);
        let touched = touched(message, state).saturating_add_signed(shift);
        deadline.max(touched.saturating_add(longest))
    }
}

/// When the state of a recipient was written.
fn touched(message: &Message, state: &RecipientState) -> Millis {
    match state.last_attempt {
        0 => message.arrived,
        last => last,
    }
}

#[cfg(test)]
#[path = "clock_jumps_tests.rs"]
mod jumps_tests;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::Next;
    use crate::store::new_message;
    use queue_schema::{Envelope, Origin, Recipient};

    const HOUR: u64 = 3_600_000;
    const YEAR: u64 = 365 * 24 * HOUR;
    const START: Millis = 50 * YEAR;

    fn message(id: u64, arrived: Millis) -> Message {
        let envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        new_message(QueueId(id), arrived, origin, envelope)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn small_steps_and_the_passing_of_time_are_no_jumps() {
        let mut clock = Clock::default();
        let mut wall = START;
        for second in 0..1000 {
            wall += if second % 100 == 0 { 30_000 } else { 1000 };
            assert_eq!(clock.check(wall, ms(second * 1000), || QueueId(9)), None);
        }
        assert!(clock.jumps().is_empty());
    }

    /// A week of one message that is deferred each time, while the clock is set at `at` by `by`:
    /// the moments of its attempts in time that really passed, and when it expired.
    fn life(at: u64, by: i64) -> (Vec<u64>, u64) {
        let retry = Retry::default();
        let mut clock = Clock::default();
        let mut message = message(5, START);
        let mut attempts = Vec::new();
        let wall = |passed: u64| {
            let set = if passed >= at { by } else { 0 };
            (START + passed).saturating_add_signed(set)
        };
        let mut passed = 0;
        loop {
            let now = wall(passed);
            clock.check(now, ms(passed), || QueueId(6));
            let due = clock.due(&message, &message.states[0], now);
            if due.is_some_and(|due| due <= now) {
                attempts.push(passed);
                let state = &message.states[0];
                let shift = clock.deadline_shift(&message, now);
                let deadline = schedule::deadline(&retry, &message).saturating_add_signed(shift);
                match schedule::next(&retry, deadline, now, state.attempts, None, 0.5) {
                    Next::Expired => return (attempts, passed),
                    Next::At(next) => {
                        let state = &mut message.states[0];
                        state.attempts += 1;
                        state.last_attempt = now;
                        state.next_due = next;
                    }
                }
            }
            passed += 5000;
            assert!(passed < 14 * 24 * HOUR, "it is stuck: {attempts:?}");
        }
    }

    #[test]
    fn i5_a_clock_that_is_set_causes_no_burst_and_no_loss() {
        let (still, end) = life(u64::MAX, 0);
        assert_eq!(end, 120 * HOUR);
        for by in [HOUR as i64, -(HOUR as i64), YEAR as i64, -(YEAR as i64)] {
            for at in [1000, 20 * 60_000, 3 * HOUR, 70 * HOUR] {
                let (attempts, end) = life(at, by);
                let case = format!("set by {by} after {at}");
                assert_eq!(
                    attempts.len(),
                    still.len(),
                    "{case}: no attempt more or less"
                );
                for (one, other) in attempts.iter().zip(&still) {
                    assert!(
                        one.abs_diff(*other) <= 2 * HOUR,
                        "{case}: {one} for {other}"
                    );
                }
                assert!(end.abs_diff(120 * HOUR) <= HOUR + 60_000, "{case}: {end}");
            }
        }
    }

    #[test]
    fn new_mail_lives_by_the_new_clock() {
        let jump = Jump {
            before: START,
            after: START + YEAR,
            floor: QueueId(10),
            started: START - YEAR,
            restart: false,
            unseen: 0,
        };
        let clock = Clock::new(vec![jump], Retry::default());
        let now = START + YEAR + 5;
        let old = message(9, START - 1000);
        let new = message(10, START + YEAR);
        let due = |message: &Message| clock.due(message, &message.states[0], now);
        assert_eq!(due(&old), Some(START - 1000 + YEAR));
        assert_eq!(due(&new), Some(START + YEAR));
        assert_eq!(clock.deadline_shift(&old, now), YEAR as i64);
        assert_eq!(clock.deadline_shift(&new, now), 0);
    }

    #[test]
    fn q5_mail_that_came_after_the_clock_was_set_and_before_it_was_seen_is_not_moved() {
        let mut clock = Clock::default();
        clock.begin(START);
        clock.begun(START, QueueId(1));
        assert_eq!(clock.check(START + HOUR, ms(HOUR), || QueueId(5)), None);
        // Set back by 30 days, seen 5 s later; a message came 2 s after it was set.
        let set = START + HOUR - 30 * 24 * HOUR;
        let jump = clock.check(set + 5000, ms(HOUR + 5000), || QueueId(9));
        assert_eq!(jump.map(|jump| jump.unseen), Some(5000));
        let now = set + 6000;
        let new = message(8, set + 2000);
        assert_eq!(clock.due(&new, &new.states[0], now), Some(set + 2000));
        assert_eq!(clock.deadline_shift(&new, now), 0);
        // One from before moves.
        let old = message(4, START + HOUR - 2000);
        assert_eq!(clock.due(&old, &old.states[0], now), Some(set - 2000));
    }

    #[test]
    fn q5_what_is_written_after_the_last_jump_is_not_moved_by_those_before() {
        let mut clock = Clock::default();
        clock.begin(START);
        clock.begun(START, QueueId(1));
        let mut steady = 0;
        let mut set = |clock: &mut Clock, wall: Millis| {
            steady += 5000;
            clock.check(wall, ms(steady), || QueueId(9));
        };
        set(&mut clock, START);
        // An hour forward, then back by a day: it shows again what it showed before the first.
        set(&mut clock, START + HOUR);
        set(&mut clock, START - 23 * HOUR);
        let now = START - 22 * HOUR;
        let mut message = message(5, START - 1000);
        message.states[0].last_attempt = now - 10;
        message.states[0].next_due = now + HOUR;
        assert_eq!(clock.shift(&message, &message.states[0], now), 0);
        assert_eq!(
            clock.due(&message, &message.states[0], now),
            Some(now + HOUR)
        );
    }

    proptest! {
        #[test]
        fn no_clock_breaks_it(walls: Vec<(u64, u32)>, id: u64, times: [u64; 3]) {
            let mut clock = Clock::default();
            let mut steady = Duration::ZERO;
            for (wall, step) in walls {
                steady += Duration::from_millis(step.into());
                clock.check(wall, steady, || QueueId(id));
            }
            prop_assert!(clock.jumps().len() <= MOST);
            let mut message = message(id / 2, times[0]);
            message.states[0].last_attempt = times[1];
            message.states[0].next_due = times[2];
            clock.due(&message, &message.states[0], times[0]);
            clock.deadline_shift(&message, times[0]);
            clock.begin(times[0]);
            clock.due(&message, &message.states[0], times[1]);
            clock.begun(clock.latest(&message, times[0]), QueueId(id));
        }
    }
}
