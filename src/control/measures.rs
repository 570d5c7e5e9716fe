//! What an operator hears of measures that hold: suspensions of destinations, standing orders.

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use crate::queue::order::{Does, Order};
use crate::queue::suspend::{Effect, Suspension, UNTIL_RESUMED};
use crate::time::text as time;

/// A suspended destination, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// A recipient domain or the name of a next hop.
    pub destination: String,
    /// Nothing is tried before then (RFC 3339); null until it is resumed.
    pub until: Option<String>,
    /// Since when (RFC 3339).
    pub since: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// `suspended`, `slowed` or `alarm`.
    pub effect: String,
    /// What it is slowed to; empty for the others.
    pub slowed_to: String,
}

impl From<&Suspension> for Suspended {
    fn from(one: &Suspension) -> Suspended {
        Suspended {
            destination: one.destination.clone(),
            until: (one.until != UNTIL_RESUMED).then(|| time(one.until)),
            since: time(one.since),
            reason: one.reason.clone(),
            by: one.by.clone(),
            effect: match one.effect {
                Effect::Stop => "suspended",
                Effect::Slow(_) => "slowed",
                Effect::Alarm => "alarm",
            }
            .to_owned(),
            slowed_to: match one.effect {
                Effect::Slow(slow) => slow.to_string(),
                Effect::Stop | Effect::Alarm => String::new(),
            },
        }
    }
}

/// A standing order, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingOrder {
    /// Its number; empty for one that was only tried.
    pub id: String,
    /// `hold`, `discard` or `bounce`.
    pub does: Does,
    /// The sender it means; null for any.
    pub from: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The client or network.
    pub client: Option<String>,
    /// The recipient's domain.
    pub domain: Option<String>,
    /// Since when (RFC 3339).
    pub since: String,
    /// When it ends by itself (RFC 3339); null until an operator ends it.
    pub until: Option<String>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Bounce: what senders are told; empty for a text of ours.
    pub tells: String,
    /// Recipients it was applied to.
    pub recipients: u64,
    /// When it ended (RFC 3339); null while it stands.
    pub ended: Option<String>,
    /// Who ended it; null while it stands and where its time was over.
    pub ended_by: Option<String>,
}

impl StandingOrder {
    /// An order as it is now.
    pub fn new(order: &Order, now: Millis) -> StandingOrder {
        let over = order.until.filter(|until| *until <= now);
        let ended = order.ended.as_ref();
        let by = ended.map(|ended| ended.by.clone());
        StandingOrder {
            id: match order.id {
                0 => String::new(),
                _ => order.name(),
            },
            does: order.does,
            from: order.whose.from.clone(),
            user: order.whose.user.clone(),
            client: order.whose.client.map(|client| client.to_string()),
            domain: order.whose.domain.clone(),
            since: time(order.since),
            until: order.until.map(time),
            reason: order.reason.clone(),
            by: order.by.clone(),
            tells: order.tells.clone(),
            recipients: order.recipients,
            ended: ended.map(|ended| ended.at).or(over).map(time),
            ended_by: by.filter(|by| !by.is_empty()),
        }
    }
}
