//! Names of destinations, as far as the queue knows them.
//!
//! What decides where a recipient's mail goes is its *way*: its domain, the sender's domain as well
//! where routes ask for it, or the target on this machine that an alias led to. Several ways may
//! lead to one real destination, a set of MX hosts, a provider or a route's next hop; which is what
//! delivery tells ([`Belongs`]) when it has found out. Names are compared whole: nobody outside can
//! choose one that is taken for another. Pure but for the list of [`Ways`].

use std::borrow::Cow;
use std::sync::Arc;

use actix::Message as ActorMessage;
use queue_schema::{Message, Millis, QueueId, Recipient, RecipientState, Status};

use super::clock::Clock;
use crate::base::names::dns_domain;
use crate::config::Config;
use crate::config::routes::TARGETS;

/// Delivery found out which real destination ways lead to: a way, and the name of its destination.
/// It changes whose turn it is, not where anything goes.
#[derive(ActorMessage, Debug)]
#[rtype(result = "()")]
pub struct Belongs(pub Vec<(String, Arc<str>)>);

/// Whether an alias led this recipient to a target on this machine, or over LMTP.
pub fn leads_here(recipient: &Recipient) -> bool {
    let target = |kind: &&str| recipient.address.starts_with(kind);
    recipient.alias_of.is_some() && TARGETS.iter().any(target)
}

/// How ways are named: depends on the routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Naming {
    /// Some route asks who sends.
    pub by_sender: bool,
}

impl Naming {
    /// As the routes of a configuration want it.
    pub fn new(config: &Config) -> Naming {
        Naming {
            by_sender: config.routes.iter().any(|route| route.from != "*"),
        }
    }

    /// The way of a recipient: two that have the same are looked up together.
    pub fn of<'a>(self, message: &Message, recipient: &'a Recipient) -> Cow<'a, str> {
        if leads_here(recipient) {
            return Cow::Borrowed(&recipient.address);
        }
        let domain = dns_domain(&recipient.address);
        if !self.by_sender {
            return domain;
        }
        let from = dns_domain(message.envelope.mail_from());
        Cow::Owned(format!("{domain}\n{from}"))
    }
}

/// The ways of a message, and when it is due by each that it waits for.
pub(super) type Waits<'a> = Vec<(Cow<'a, str>, Option<Millis>)>;

/// By which ways a message goes, and when it is due by each, without the recipients that `busy`
/// names; never those that are held for good.
pub(super) fn waits<'a>(
    naming: Naming,
    clock: &Clock,
    message: &'a Message,
    busy: impl Fn(u32) -> bool,
    now: Millis,
) -> Waits<'a> {
    let mut waits: Waits<'a> = Vec::new();
    let waiting = |state: &RecipientState| state.status == Status::Waiting;
    if !message.states.iter().any(waiting) {
        // It should have ended; it is due at once, to be ended.
        waits.push((Cow::Borrowed(""), Some(0)));
    }
    let recipients = message.envelope.recipients.iter().zip(&message.states);
    for (position, (recipient, state)) in (0..).zip(recipients) {
        let due = match busy(position) {
            true => None,
            false => clock.due(message, state, now),
        };
        let way = naming.of(message, recipient);
        // Those of a large message mostly stand together.
        match waits.last_mut() {
            Some((known, first)) if *known == way => *first = earlier(*first, due),
            _ => waits.push((way, due)),
        }
    }
    if waits.len() > 1 {
        waits.sort();
        waits.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 = earlier(first.1, later.1);
            }
            same
        });
    }
    waits
}

fn earlier(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
}

/// What recovery found to wait, compactly: one entry for each message and way.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    names: Vec<Arc<str>>,
    numbers: std::collections::HashMap<Arc<str>, u32>,
    entries: Vec<(QueueId, u32, Millis)>,
}

impl Ways {
    /// Adds a message.
    pub(super) fn add(&mut self, id: QueueId, waits: Waits<'_>) {
        for (name, due) in waits {
            let Some(due) = due else { continue };
            let number = match self.numbers.get(&*name) {
                Some(number) => *number,
                None => {
                    let Ok(number) = u32::try_from(self.names.len()) else {
                        continue;
                    };
                    let name: Arc<str> = name.into();
                    self.names.push(name.clone());
                    self.numbers.insert(name, number);
                    number
                }
            };
            self.entries.push((id, number, due));
        }
    }

    /// All of them, in the order of ids.
    pub(super) fn entries(&self) -> impl Iterator<Item = (QueueId, &str, Millis)> {
        self.entries.iter().filter_map(|(id, number, due)| {
            let name = self.names.get(usize::try_from(*number).ok()?)?;
            Some((*id, &**name, *due))
        })
    }
}
