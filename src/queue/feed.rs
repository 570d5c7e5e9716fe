//! What happens in the queue, for those who watch: a counter of each kind since the start, and a
//! feed of events. Whoever does not read its events in time loses some and is told how many; the
//! queue never waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use queue_schema::{EventKind, Message, Millis};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::clean;

/// Events that wait for a slow watcher before it loses some.
const WAITING: usize = 4096;
/// Failures that are remembered.
const FAILURES: usize = 50;

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages accepted, notices among them.
    pub accepted: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Attempts that were deferred.
    pub deferred: u64,
    /// Recipients that failed.
    pub bounced: u64,
    /// Recipients whose time ran out.
    pub expired: u64,
    /// Recipients removed by operators.
    pub removed: u64,
}

/// Something that happened to a message, or to a destination if `id` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When (RFC 3339).
    pub at: String,
    /// The word for it: `accepted`, or one of those of `mta-queue show`, or `suspended`,
    /// `resumed`.
    pub event: String,
    /// The message.
    pub id: String,
    /// Its reverse-path.
    pub from: String,
    /// The recipients concerned, or the destination.
    pub to: Vec<String>,
    /// What was said, or why.
    pub text: String,
    /// Who said it.
    pub remote: String,
    /// Protocol version and cipher.
    pub tls: String,
    /// The operator.
    pub by: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Feed {
    sender: broadcast::Sender<Arc<Happened>>,
    counters: Arc<[AtomicU64; 6]>,
    /// The last of them, for those who ask later; written by the queue alone.
    failures: Arc<Mutex<VecDeque<Arc<Happened>>>>,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            sender: broadcast::Sender::new(WAITING),
            counters: Arc::default(),
            failures: Arc::default(),
        }
    }
}

/// The word for an event.
pub fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Delivered => "delivered",
        EventKind::Deferred => "deferred",
        EventKind::Bounced => "bounced",
        EventKind::Expired => "expired",
        EventKind::Removed => "removed",
        EventKind::Held => "held",
        EventKind::Released => "released",
        EventKind::Replayed => "replayed",
        EventKind::Redirected => "redirected",
        EventKind::Returned => "returned",
        EventKind::Told => "told",
        EventKind::Imported => "imported",
        EventKind::Suspended => "suspended",
        EventKind::Requeued => "requeued",
    }
}

impl Feed {
    /// Events from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Happened>> {
        self.sender.subscribe()
    }

    /// The last recipients that were deferred or failed, the oldest first.
    pub fn failures(&self) -> Vec<Arc<Happened>> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().cloned().collect()
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        let [accepted, delivered, deferred, bounced, expired, removed] =
            std::array::from_fn(|at| match self.counters.get(at) {
                Some(counter) => counter.load(Ordering::Relaxed),
                None => 0,
            });
        Counts {
            accepted,
            delivered,
            deferred,
            bounced,
            expired,
            removed,
        }
    }

    fn count(&self, place: usize, number: u64) {
        if let Some(counter) = self.counters.get(place) {
            counter.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// A message is new.
    pub(super) fn accepted(&self, message: &Message) {
        self.count(0, 1);
        self.say(|| Happened {
            to: addresses(message, &[]),
            ..about(message, "accepted", message.arrived)
        });
    }

    /// Something happened to a message.
    pub(super) fn event(&self, message: &Message, event: &queue_schema::Event) {
        let touched = match event.recipients.len() {
            0 => message.states.len(),
            some => some,
        } as u64;
        match event.kind {
            EventKind::Delivered => self.count(1, touched),
            EventKind::Deferred => self.count(2, touched),
            EventKind::Bounced | EventKind::Returned => self.count(3, touched),
            EventKind::Expired => self.count(4, touched),
            EventKind::Removed => self.count(5, touched),
            _ => {}
        }
        let happened = || Happened {
            to: addresses(message, &event.recipients),
            text: event.text.clone(),
            remote: event.remote.clone(),
            tls: event.tls.clone(),
            by: event.by.clone(),
            ..about(message, word(event.kind), event.at)
        };
        let failed = [EventKind::Deferred, EventKind::Bounced, EventKind::Expired];
        if failed.contains(&event.kind) {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.len() == FAILURES {
                failures.pop_front();
            }
            failures.push_back(Arc::new(happened()));
        }
        self.say(happened);
    }

    /// Something happened to a destination.
    pub(super) fn destination(&self, event: &str, destination: &str, text: &str, by: &str) {
        self.say(|| Happened {
            at: crate::time::text(crate::time::now()),
            event: event.to_owned(),
            id: String::new(),
            from: String::new(),
            to: vec![destination.to_owned()],
            text: text.to_owned(),
            remote: String::new(),
            tls: String::new(),
            by: by.to_owned(),
        });
    }

    fn say(&self, happened: impl FnOnce() -> Happened) {
        if self.sender.receiver_count() > 0 {
            // Without a receiver it is dropped, as it should be.
            let _ = self.sender.send(Arc::new(happened()));
        }
    }
}

fn about(message: &Message, event: &str, at: Millis) -> Happened {
    Happened {
        at: crate::time::text(at),
        event: event.to_owned(),
        id: message.id.to_string(),
        from: message.envelope.reverse_path.clone(),
        to: Vec::new(),
        text: String::new(),
        remote: String::new(),
        tls: String::new(),
        by: String::new(),
    }
}

/// The addresses at these positions; all for none.
fn addresses(message: &Message, positions: &[u32]) -> Vec<String> {
    let recipients = &message.envelope.recipients;
    let named = |recipient: &queue_schema::Recipient| clean(&recipient.address, 320);
    if positions.is_empty() {
        return recipients.iter().map(named).collect();
    }
    let at = |position: &u32| recipients.get(usize::try_from(*position).ok()?);
    positions.iter().filter_map(at).map(named).collect()
}
