//! Standing orders: what an operator wants done with the mail of a sender, a user, a client or a
//! recipient domain until a time, such as the night after a password was stolen.
//!
//! An order means mail that is in the queue and mail that comes. It is applied to each recipient
//! once: before it is tried for the first time since, whatever happened in between, so that
//! nothing goes out while an order stands. Orders lie in `data_dir/orders.json`, which a person
//! can read, replaced as a whole and synced before an operator is answered. The last [`KEPT`]
//! that have ended stay there with what they did. Pure.

use std::net::IpAddr;

use queue_schema::{Hold, HoldKind, Message, Millis, Origin, RecipientState, Status};
use serde::{Deserialize, Serialize};

use super::like;
use crate::config::Network;

/// The file they lie in.
pub const FILE: &str = "orders.json";
/// Orders that stand at the same time.
pub const MOST: usize = 1000;
/// Orders that have ended and are remembered.
pub const KEPT: usize = 100;

/// What is done with the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Does {
    /// It is held until the order ends, then it goes on.
    Hold,
    /// It ends here, and nobody is told.
    Discard,
    /// It ends here, and its sender is told.
    Bounce,
}

/// Whose mail is meant; what is said adds up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Whose {
    /// The reverse-path; `<>` for the null one; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The user who logged in; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The client's address, or a network it is in, as `192.0.2.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Network>,
    /// The recipient's domain; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl Whose {
    /// Whether nothing is said, which would mean all mail.
    pub fn is_everything(&self) -> bool {
        *self == Whose::default()
    }

    /// The same in lower case, in which it is compared.
    pub fn lower(self) -> Whose {
        let lower = |text: String| text.to_lowercase();
        Whose {
            from: self.from.map(lower),
            user: self.user.map(lower),
            client: self.client,
            domain: self.domain.map(lower),
        }
    }

    /// Whether it means a message, as far as that does not depend on the recipient.
    pub fn means(&self, message: &Message) -> bool {
        let (user, client) = match &message.origin {
            Origin::User { user, client } => (Some(user.as_str()), Some(*client)),
            Origin::Network { client } | Origin::Outside { client, .. } => (None, Some(*client)),
            Origin::Dsn { .. } => (None, None),
        };
        let from = |wanted: &String| match wanted.as_str() {
            "<>" => message.envelope.reverse_path.is_empty(),
            wanted => like(wanted, &message.envelope.reverse_path),
        };
        let from_network = |network: &Network| {
            let client = client.map(|client: IpAddr| client.to_canonical());
            client.is_some_and(|client| network.contains(client))
        };
        self.from.as_ref().is_none_or(from)
            && self
                .user
                .as_ref()
                .is_none_or(|wanted| user.is_some_and(|user| like(wanted, user)))
            && self.client.as_ref().is_none_or(from_network)
    }

    /// Whether it means this recipient address of such a message.
    pub fn means_recipient(&self, address: &str) -> bool {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.domain
            .as_ref()
            .is_none_or(|wanted| like(wanted, domain))
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            self.from.as_ref().map(|from| format!("from {from}")),
            self.user.as_ref().map(|user| format!("of user {user}")),
            self.client.map(|client| format!("by client {client}")),
            self.domain.as_ref().map(|domain| format!("to {domain}")),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(&words.join(" "))
    }
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Millis,
    /// The operator; empty if its time was over.
    pub by: String,
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number; never given out again.
    pub id: u64,
    /// What is done.
    pub does: Does,
    /// With whose mail.
    pub whose: Whose,
    /// Since when.
    pub since: Millis,
    /// When it ends by itself; `None` until an operator ends it.
    pub until: Option<Millis>,
    /// Why, in the operator's words; for operators alone.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Bounce: what the sender is told; empty for a text of ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tells: String,
    /// Recipients it was applied to, as far as that was written down: at most a minute is lost
    /// in a crash.
    #[serde(default)]
    pub recipients: u64,
    /// How it ended; nothing while it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl Order {
    /// Whether it stands.
    pub fn stands(&self, now: Millis) -> bool {
        self.ended.is_none() && self.until.is_none_or(|until| until > now)
    }

    /// The name under which it holds and ends mail.
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// The hold of a recipient it means.
    pub fn hold(&self, now: Millis) -> Hold {
        Hold {
            kind: HoldKind::Order,
            by: self.name(),
            reason: self.reason.clone(),
            since: now,
            until: self.until,
        }
    }

    /// Whether it was applied to a recipient already, even if an operator released it since.
    fn is_done(&self, state: &RecipientState) -> bool {
        let name = self.name();
        let mut holds = state.holds.iter();
        self.does == Does::Hold && holds.any(|hold| hold.kind == HoldKind::Order && hold.by == name)
    }
}

/// Positions of the recipients of a message to which an order is still to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due<'a> {
    /// The order.
    pub order: &'a Order,
    /// Positions in `envelope.recipients`.
    pub recipients: Vec<u32>,
}

/// What the orders want done with a message. The first order that ends a recipient has it; all
/// that hold it do. `busy` are recipients that are being tried, which is too late.
pub fn wanted<'a>(
    orders: &'a [Order],
    message: &Message,
    busy: &[u32],
    now: Millis,
) -> Vec<Due<'a>> {
    let mut ended: Vec<u32> = Vec::new();
    let mut wanted = Vec::new();
    let standing = orders.iter().filter(|order| order.stands(now));
    for order in standing.filter(|order| order.whose.means(message)) {
        let people = message.envelope.recipients.iter().zip(&message.states);
        let meant = (0..).zip(people).filter(|(position, (to, state))| {
            state.status == Status::Waiting
                && !busy.contains(position)
                && !ended.contains(position)
                && !order.is_done(state)
                && order.whose.means_recipient(&to.address)
        });
        let recipients: Vec<u32> = meant.map(|(position, _)| position).collect();
        if order.does != Does::Hold {
            ended.extend_from_slice(&recipients);
        }
        if !recipients.is_empty() {
            wanted.push(Due { order, recipients });
        }
    }
    // What ends need not be held before.
    for due in &mut wanted {
        if due.order.does == Does::Hold {
            due.recipients.retain(|position| !ended.contains(position));
        }
    }
    wanted.retain(|due| !due.recipients.is_empty());
    wanted
}

/// Adds an order under the next number.
pub fn add(list: &mut Vec<Order>, new: Order, now: Millis) -> Result<Order, String> {
    if new.whose.is_everything() {
        return Err("say whose mail: a sender, a user, a client or a recipient domain".to_owned());
    }
    let standing = list.iter().filter(|order| order.stands(now)).count();
    if standing >= MOST {
        return Err(format!(
            "{standing} orders stand already; end some with `mta-queue order end ID`"
        ));
    }
    let id = list.iter().map(|order| order.id).max().unwrap_or(0) + 1;
    let new = Order { id, ..new };
    list.push(new.clone());
    tidy(list, now);
    Ok(new)
}

/// Ends orders: one, or all that stand for 0. They are given as they are then.
pub fn end(list: &mut Vec<Order>, id: u64, by: &str, now: Millis) -> Result<Vec<Order>, String> {
    tidy(list, now);
    let mut ended = Vec::new();
    for order in list.iter_mut() {
        if order.stands(now) && (id == 0 || order.id == id) {
            order.ended = Some(Ended {
                at: now,
                by: by.to_owned(),
            });
            ended.push(order.clone());
        }
    }
    if ended.is_empty() && id != 0 {
        let standing = list.iter().filter(|order| order.stands(now));
        let standing: Vec<String> = standing.map(Order::name).collect();
        return Err(
            match (list.iter().any(|order| order.id == id), &standing[..]) {
                (true, _) => format!("order {id} has ended already"),
                (false, []) => format!("there is no order {id}; none stands"),
                (false, some) => {
                    format!("there is no order {id}; these stand: {}", some.join(", "))
                }
            },
        );
    }
    Ok(ended)
}

/// Writes down which orders are over, and forgets the oldest of those.
fn tidy(list: &mut Vec<Order>, now: Millis) {
    for order in list.iter_mut() {
        if order.ended.is_none()
            && let Some(until) = order.until.filter(|until| *until <= now)
        {
            order.ended = Some(Ended {
                at: until,
                by: String::new(),
            });
        }
    }
    let over = list.iter().filter(|order| order.ended.is_some()).count();
    let mut spare = over.saturating_sub(KEPT);
    // The last number stays known, or it would be given out again.
    let last = list.iter().map(|order| order.id).max();
    list.retain(|order| {
        let forgotten = spare > 0 && order.ended.is_some() && Some(order.id) != last;
        spare -= usize::from(forgotten);
        !forgotten
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_message;
    use queue_schema::{Envelope, QueueId, Recipient};

    const NOW: Millis = 1_000_000;

    fn message(from: &str, origin: Origin) -> Message {
        let to = ["b@example.net", "c@gmail.example"];
        let envelope = Envelope::new(from, to.map(Recipient::new).to_vec());
        new_message(QueueId(7), NOW, origin, envelope)
    }

    fn user(name: &str) -> Origin {
        Origin::User {
            user: name.into(),
            client: [192, 0, 2, 9].into(),
        }
    }

    fn order(does: Does, whose: Whose) -> Order {
        Order {
            id: 0,
            does,
            whose,
            since: NOW,
            until: Some(NOW + 500),
            reason: "a stolen password".into(),
            by: "root".into(),
            tells: String::new(),
            recipients: 0,
            ended: None,
        }
    }

    fn of(change: impl FnOnce(&mut Whose)) -> Whose {
        let mut whose = Whose::default();
        change(&mut whose);
        whose.lower()
    }

    fn positions(whose: Whose, message: &Message) -> Vec<u32> {
        let orders = [order(Does::Hold, whose)];
        let wanted = wanted(&orders, message, &[], NOW);
        wanted.into_iter().flat_map(|due| due.recipients).collect()
    }

    #[test]
    fn an_order_means_what_it_names_and_names_add_up() {
        let some = |text: &str| Some(text.to_owned());
        let mail = message("Ann@example.org", user("ann@example.org"));
        let means = |change: fn(&mut Whose)| positions(of(change), &mail);
        assert_eq!(means(|w| w.user = Some("ANN@example.org".into())), [0, 1]);
        assert_eq!(means(|w| w.from = Some("*@example.org".into())), [0, 1]);
        assert_eq!(means(|w| w.domain = Some("*.example".into())), [1]);
        assert_eq!(means(|w| w.client = "192.0.2.0/24".parse().ok()), [0, 1]);
        assert!(means(|w| w.client = "192.0.2.8".parse().ok()).is_empty());
        assert!(means(|w| w.user = Some("bob@example.org".into())).is_empty());
        let both = of(|w| {
            w.user = some("ann@*");
            w.domain = some("example.net");
        });
        assert_eq!(positions(both, &mail), [0]);

        let outside = Origin::Outside {
            client: "::ffff:192.0.2.9".parse().unwrap(),
            verified: false,
        };
        let mail = message("", outside);
        assert_eq!(positions(of(|w| w.from = some("<>")), &mail), [0, 1]);
        assert!(positions(of(|w| w.user = some("*")), &mail).is_empty());
        let mapped = of(|w| w.client = "192.0.2.9".parse().ok());
        assert_eq!(positions(mapped, &mail), [0, 1]);
    }

    #[test]
    fn an_order_is_applied_once_and_not_to_what_is_under_way() {
        let whose = of(|w| w.user = Some("ann@example.org".into()));
        let mut list = Vec::new();
        let hold = add(&mut list, order(Does::Hold, whose.clone()), NOW).unwrap();
        let mut mail = message("ann@example.org", user("ann@example.org"));
        let recipients =
            |list: &[Order], mail: &Message, busy: &[u32], now| -> Vec<(u64, Vec<u32>)> {
                let wanted = wanted(list, mail, busy, now);
                wanted
                    .into_iter()
                    .map(|due| (due.order.id, due.recipients))
                    .collect()
            };
        assert_eq!(recipients(&list, &mail, &[0], NOW), [(1, vec![1])]);
        mail.states[1].hold(hold.hold(NOW));
        assert_eq!(recipients(&list, &mail, &[], NOW), [(1, vec![0])]);
        // Released by an operator: the order leaves it alone.
        mail.states[1].holds[0].until = Some(NOW);
        assert_eq!(recipients(&list, &mail, &[], NOW), [(1, vec![0])]);
        // Whoever ends it has it, before and after those that hold it.
        let bounce = order(Does::Bounce, of(|w| w.domain = Some("example.net".into())));
        add(&mut list, bounce.clone(), NOW).unwrap();
        add(&mut list, order(Does::Discard, whose), NOW).unwrap();
        assert_eq!(
            recipients(&list, &mail, &[], NOW),
            [(2, vec![0]), (3, vec![1])]
        );
        assert_eq!(recipients(&list, &mail, &[], NOW + 500), []);
    }

    #[test]
    fn numbers_are_never_given_out_again_and_the_past_is_bounded() {
        let whose = of(|w| w.domain = Some("example.net".into()));
        let mut list = Vec::new();
        assert!(add(&mut list, order(Does::Hold, Whose::default()), NOW).is_err());
        for id in 1..=150 {
            let new = add(&mut list, order(Does::Hold, whose.clone()), NOW).unwrap();
            assert_eq!(new.id, id);
            let ended = end(&mut list, id, "root", NOW + 1).unwrap();
            assert_eq!(ended.len(), 1);
        }
        let next = add(&mut list, order(Does::Hold, whose.clone()), NOW + 2).unwrap();
        assert_eq!((next.id, list.len()), (151, KEPT + 1));
        let error = end(&mut list, 150, "root", NOW + 2).unwrap_err();
        assert_eq!(error, "order 150 has ended already");
        let error = end(&mut list, 1000, "root", NOW + 2).unwrap_err();
        assert_eq!(error, "there is no order 1000; these stand: 151");
        // Its time is over.
        assert!(end(&mut list, 0, "root", NOW + 500).unwrap().is_empty());
        let last = list.last().and_then(|order| order.ended.clone()).unwrap();
        assert_eq!((last.at, last.by.as_str()), (NOW + 500, ""));
        for _ in 0..MOST {
            add(&mut list, order(Does::Hold, whose.clone()), NOW).unwrap();
        }
        let full = add(&mut list, order(Does::Hold, whose), NOW).unwrap_err();
        assert!(full.starts_with("1000 orders stand already"), "{full}");
    }

    #[test]
    fn orders_lie_on_disk_as_a_person_reads_them() {
        let one = order(Does::Bounce, of(|w| w.client = "192.0.2.0/24".parse().ok()));
        let text = serde_json::to_string(&one).unwrap();
        assert!(
            text.contains(r#""does":"bounce","whose":{"client":"192.0.2.0/24"}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), one);
    }
}
