//! What must be true of the queue, worked out by hand beside it: from what senders, delivery and
//! operators saw, and from the journal as it became durable.
//!
//! Each record is judged when it is durable, each job when it is handed out, each answer when it
//! comes; [`Model::broken`] is the first thing that must not be. See `checks` for what is compared
//! with the store and the actor themselves.

use std::collections::{BTreeMap, BTreeSet};

use queue_schema::{
    Change, Message, Millis, Origin, QueueId, Recipient, RecipientState, Record, Status,
};

use super::importers::{self, Known as ForeignHere};
use super::ledger::{Batch, Entry, Sum, sum};
use super::story::Story;
use crate::config::{Config, Retry};

mod journal;

/// Turns of the committer after which an outcome that nothing else waits for should be durable.
const TURNS: u64 = 4;
/// Recipients of a message at most.
const RECIPIENTS: usize = 4;
/// Recipients that may be handed out while such an outcome is not: what is under way when the disk
/// is found to be full.
const BEHIND: u64 = 12;

/// Milliseconds that a message is on its way from its sender to the journal, at most.
const SLACK: u64 = 50_000;

/// What the model holds an operator's order to.
#[derive(Debug, Default)]
pub struct Touched {
    /// Recipients that became durable in its name.
    pub recipients: u64,
    /// Messages.
    pub messages: BTreeSet<QueueId>,
}

/// A recipient as its delivery and its sender know it.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// It is with delivery, in this life of the process.
    pub flying: bool,
    /// Reported as ended and not yet durable.
    pub reported: Option<Status>,
    /// The committer's turn when it was reported.
    pub turn: u64,
    /// Whether any delivery ever took it.
    pub taken: bool,
    /// Notices that told of its delay.
    pub late: u32,
    /// Deferrals after which it should have been told, without a word.
    pub owed: u32,
}

/// A message that is durable and has not ended.
#[derive(Debug)]
pub struct Known {
    /// As the journal says.
    pub message: Message,
    /// Its bytes, as far as they are in the journal.
    pub sum: Sum,
    /// For each recipient.
    pub parts: Vec<Part>,
    /// How often the clock was set while it was there.
    pub jumps: u32,
    /// A bit of it was flipped: it may be lost, as long as nothing else is.
    pub spoiled: bool,
}

/// What a sender gave.
#[derive(Debug)]
pub struct Sent {
    /// The bytes that belong into the journal.
    pub sum: Sum,
    /// It was answered 250.
    pub acknowledged: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    /// What happened.
    pub story: Story,
    /// The first thing that must not be.
    pub broken: Option<String>,
    /// Messages that live.
    pub known: BTreeMap<QueueId, Known>,
    /// Messages that ended.
    pub ended: BTreeSet<QueueId>,
    /// Messages whose bytes were damaged.
    pub spoiled: BTreeSet<QueueId>,
    /// Segments that were written to when the process was killed: their ends may be torn.
    pub torn: BTreeSet<u64>,
    /// What senders gave and is not durable as far as is known.
    pub sent: BTreeMap<QueueId, Sent>,
    /// Messages that somebody was given who moves them to another queue.
    pub claimed: BTreeSet<QueueId>,
    /// Messages of another queue that were brought.
    pub foreign: ForeignHere,
    /// Destinations at which nothing may be tried, and until when at least, by the wall clock.
    pub suspended: BTreeMap<String, Millis>,
    /// Orders to resume that were given and not answered: they may end any suspension.
    pub resuming: u32,
    /// By operator.
    pub touched: BTreeMap<String, Touched>,
    /// Ends that were reported and are not durable.
    pub not_durable: usize,
    /// Turns of the committer.
    pub turns: u64,
    /// Recipients that were handed out while an outcome should long be durable.
    pub behind: u64,
    /// Bytes and messages that live, by segment.
    pub usage: BTreeMap<u64, (u64, u64)>,
    /// Recipients by how they ended.
    pub ends: BTreeMap<String, u64>,
    /// Notices.
    pub notices: u64,
    /// Whether a signer may fail: then nobody can be sure to be told in time.
    pub signer_fails: bool,
    retry: Retry,
    postmaster: String,
    /// Outcomes that may be in memory alone.
    bound: usize,
}

/// Where an address leads: to nobody, to two, or to itself.
pub fn leads(address: &str) -> Vec<String> {
    match address.split_once('@') {
        Some(("nobody", _)) => Vec::new(),
        Some(("two", domain)) => vec![format!("one@{domain}"), format!("other@{domain}")],
        _ => vec![address.to_owned()],
    }
}

impl Model {
    /// A model of an empty queue.
    pub fn new(config: &Config) -> Model {
        Model {
            story: Story::default(),
            broken: None,
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            spoiled: BTreeSet::new(),
            torn: BTreeSet::new(),
            claimed: BTreeSet::new(),
            sent: BTreeMap::new(),
            foreign: ForeignHere::new(),
            suspended: BTreeMap::new(),
            resuming: 0,
            touched: BTreeMap::new(),
            not_durable: 0,
            turns: 0,
            behind: 0,
            usage: BTreeMap::new(),
            ends: BTreeMap::new(),
            notices: 0,
            signer_fails: false,
            retry: config.retry.clone(),
            postmaster: config.postmaster.clone(),
            bound: config.delivery.active * RECIPIENTS + BEHIND as usize,
        }
    }

    /// Something that must not be.
    pub fn breaks(&mut self, what: String) {
        self.story.tell(format!("== {what}"));
        self.broken.get_or_insert(what);
    }

    /// A sender heard 250.
    pub fn acknowledged(&mut self, id: QueueId) {
        self.story.tell(format!("{id} acknowledged"));
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.acknowledged = true;
        }
        if !self.known.contains_key(&id) && !self.ended.contains(&id) {
            self.breaks(format!("I1: {id} was acknowledged and is not durable"));
        }
    }

    /// The process ended: what it had in memory is nobody's any more.
    pub fn died(&mut self) {
        self.not_durable = 0;
        self.claimed.clear();
        self.resuming = 0;
        for known in self.known.values_mut() {
            for part in &mut known.parts {
                part.flying = false;
                part.reported = None;
            }
        }
    }

    /// Whether anything is left that was not damaged.
    pub fn waits(&self) -> bool {
        self.known.values().any(|known| !known.spoiled)
    }

    /// The clock was set; what it showed before. A suspension that was over by then may be
    /// forgotten, or hold again.
    pub fn jumped(&mut self, before: Millis) {
        self.suspended.retain(|_, until| *until > before);
        for known in self.known.values_mut() {
            known.jumps += 1;
        }
    }

    /// Somebody was given a message who moves it to another queue.
    pub fn given(&mut self, id: QueueId) {
        self.claimed.insert(id);
        let flying = |known: &Known| known.parts.iter().any(|part| part.flying);
        if self.known.get(&id).is_some_and(flying) && !self.spoiled.contains(&id) {
            self.breaks(format!(
                "I2: {id} is given to another queue while it is with delivery"
            ));
        }
    }

    /// A message is with another queue.
    pub fn gone(&mut self, id: QueueId) {
        if self.known.contains_key(&id) && !self.spoiled.contains(&id) {
            self.breaks(format!("I2: {id} went to another queue and is still here"));
        }
    }

    /// Delivery got a recipient.
    pub fn handed(&mut self, id: QueueId, position: u32) {
        if self.spoiled.contains(&id) {
            return;
        }
        let what = format!("{id}/{position}");
        if self.claimed.contains(&id) {
            return self.breaks(format!(
                "I2: {what} is handed out while it is moved elsewhere"
            ));
        }
        self.behind = if self.is_behind() { self.behind + 1 } else { 0 };
        if self.behind > BEHIND {
            let (count, left) = (self.behind, self.not_durable);
            self.breaks(format!(
                "I3: {what} is handed out, and {count} before it, while {left} outcomes can not be \
                 written"
            ));
            return;
        }
        if self.ended.contains(&id) {
            return self.breaks(format!("I2: {what} is handed out after its end"));
        }
        let Some(known) = self.known.get_mut(&id) else {
            return self.breaks(format!("I1: {what} is handed out and is not durable"));
        };
        let now = crate::time::now();
        let place = usize::try_from(position).unwrap_or(usize::MAX);
        let Some((part, state)) = known
            .parts
            .get_mut(place)
            .zip(known.message.states.get(place))
        else {
            return self.breaks(format!("{what} is no recipient"));
        };
        // What could not be told counts as a deferral, which need not be durable to be over.
        let untold = part.reported == Some(Status::Bounced);
        let to = known.message.envelope.recipients.get(place);
        let domain = to.and_then(|to| to.address.split_once('@'));
        let suspended = domain.and_then(|(_, domain)| self.suspended.get(domain));
        let stopped = suspended.is_some_and(|until| *until > now) && self.resuming == 0;
        // The end of such a hold may have come, and the clock was set back in this very moment.
        let timed = state.holds.iter().all(|hold| hold.until.is_some());
        let problem = if part.flying {
            Some("while it is with delivery")
        } else if state.status != Status::Waiting {
            Some("after its end")
        } else if part.reported.is_some() && !(self.signer_fails && untold) {
            Some("after its end was reported")
        } else if state.is_held(now) && !(known.jumps > 0 && timed) {
            Some("while it is held")
        } else if stopped {
            Some("while its destination is suspended")
        } else {
            None
        };
        part.flying = true;
        if let Some(problem) = problem {
            self.breaks(format!("I2: {what} is handed out {problem}"));
        }
    }

    /// Whether a delivery that was reported should long be durable.
    fn is_behind(&self) -> bool {
        let old = |part: &Part| {
            part.reported == Some(Status::Delivered) && part.turn + TURNS < self.turns
        };
        let waits = |known: &Known| {
            let parts = known.parts.iter().zip(&known.message.envelope.recipients);
            parts
                .into_iter()
                .any(|(part, to)| old(part) && !to.notify.success)
        };
        self.not_durable > 0 && self.known.values().any(waits)
    }

    /// Delivery reports a recipient; whether that counts, and not a second word about it.
    pub fn reported(&mut self, id: QueueId, position: u32, status: Status) {
        let place = usize::try_from(position).unwrap_or(usize::MAX);
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        let waits = |state: &RecipientState| state.status == Status::Waiting;
        let waits = known.message.states.get(place).is_some_and(waits);
        let Some(part) = known.parts.get_mut(place).filter(|part| part.flying) else {
            return;
        };
        part.flying = false;
        part.taken |= status == Status::Delivered;
        // An operator may have ended it meanwhile.
        if !waits {
            return;
        }
        if status != Status::Waiting {
            self.not_durable += usize::from(part.reported.is_none());
            part.reported = Some(status);
            part.turn = self.turns;
            if self.not_durable > self.bound {
                let (is, bound) = (self.not_durable, self.bound);
                self.breaks(format!(
                    "I3: {is} outcomes wait in memory for the disk, more than {bound} could be \
                     under way when it failed"
                ));
            }
        }
    }

    /// Delivery lost a recipient.
    pub fn lost(&mut self, id: QueueId, position: u32) {
        let place = usize::try_from(position).unwrap_or(usize::MAX);
        let part = self
            .known
            .get_mut(&id)
            .and_then(|known| known.parts.get_mut(place));
        if let Some(part) = part {
            part.flying = false;
        }
    }
}
