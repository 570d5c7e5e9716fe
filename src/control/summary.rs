//! Counting what waits by domain, reason, sender, user, next hop or state, and by age. Pure.

use std::collections::HashMap;

use queue_schema::{Message, Millis, Origin, Recipient, RecipientState, Status};

use super::gist::gist;
use super::protocol::{AGES, By, Row};
use crate::queue::{Facts, domain_of, state_word};

/// Different replies that are counted for one row; further ones are not.
const REPLIES: usize = 64;
/// Rows; what belongs to further ones is counted in one, [`OTHERS`].
const ROWS: usize = 100_000;
/// The row of what has no row of its own.
pub const OTHERS: &str = "(others)";
/// The row of recipients that no server and nobody of ours said anything about.
const NO_REPLY: &str = "(not tried)";
/// The row of mail that no user of ours sent.
const NO_USER: &str = "(no user)";

#[derive(Default)]
struct Group {
    ages: [u64; 10],
    queued: u64,
    held: u64,
    replies: HashMap<String, u64>,
}

/// See the module.
pub struct Summary {
    by: By,
    groups: HashMap<String, Group>,
}

impl Summary {
    /// Nothing yet.
    pub fn new(by: By) -> Summary {
        Summary {
            by,
            groups: HashMap::new(),
        }
    }

    /// Counts these recipients of a message, as far as they wait.
    pub fn add(&mut self, message: &Message, recipients: &[u32], facts: &Facts, now: Millis) {
        let minutes = now.saturating_sub(message.arrived) / 60_000;
        let column = AGES
            .iter()
            .position(|end| minutes < *end)
            .unwrap_or(AGES.len());
        for position in recipients {
            let Ok(at) = usize::try_from(*position) else {
                continue;
            };
            let recipient = message.envelope.recipients.get(at);
            let (Some(recipient), Some(state)) = (recipient, message.states.get(at)) else {
                continue;
            };
            if state.status != Status::Waiting {
                continue;
            }
            // What keeps it from being tried says more than what was said before.
            let suspended = state.suspended.as_ref().filter(|one| one.until > now);
            let said = suspended.map(ToString::to_string);
            let said = said.or_else(|| state.last_reply.as_ref().map(gist));
            let key = self.key((message, recipient, state), said.as_deref(), facts, now);
            let group = self.group(key);
            if let Some(count) = group.ages.get_mut(column) {
                *count += 1;
            }
            group.queued += u64::from(state.last_attempt == 0);
            group.held += u64::from(state.is_held(now));
            if let Some(said) = said
                && (group.replies.len() < REPLIES || group.replies.contains_key(&said))
            {
                *group.replies.entry(said).or_default() += 1;
            }
        }
    }

    fn key(
        &self,
        (message, to, state): (&Message, &Recipient, &RecipientState),
        said: Option<&str>,
        facts: &Facts,
        now: Millis,
    ) -> String {
        match self.by {
            By::Domain => domain_of(&to.address).to_owned(),
            By::Reason => said.unwrap_or(NO_REPLY).to_owned(),
            By::Sender if message.envelope.reverse_path.is_empty() => "<>".to_owned(),
            By::Sender => message.envelope.reverse_path.to_lowercase(),
            By::User => match &message.origin {
                Origin::User { user, .. } => user.clone(),
                _ => NO_USER.to_owned(),
            },
            By::NextHop => facts.next_hop(message, to, state),
            By::State => state_word(state, now).to_owned(),
        }
    }

    fn group(&mut self, key: String) -> &mut Group {
        let full = self.groups.len() >= ROWS && !self.groups.contains_key(&key);
        let key = if full { OTHERS.to_owned() } else { key };
        self.groups.entry(key).or_default()
    }

    /// The rows, the largest first.
    pub fn rows(self) -> Vec<Row> {
        let by = self.by;
        let row = |(key, group): (String, Group)| Row {
            domain: match by {
                By::Domain => key.clone(),
                _ => String::new(),
            },
            by,
            key,
            total: group.ages.iter().sum(),
            ages: group.ages,
            queued: group.queued,
            held: group.held,
            reply: group
                .replies
                .into_iter()
                .max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| b.cmp(a)))
                .map(|(reply, _)| reply),
        };
        let mut rows: Vec<Row> = self.groups.into_iter().map(row).collect();
        rows.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.key.cmp(&b.key)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::own_reply;
    use crate::queue::store::new_message;
    use queue_schema::{Envelope, QueueId};

    fn added(by: By, messages: &[Message]) -> Vec<Row> {
        let mut summary = Summary::new(by);
        for message in messages {
            let all: Vec<u32> = (0..).zip(&message.states).map(|(at, _)| at).collect();
            summary.add(message, &all, &Facts::default(), 6 * 60_000);
        }
        summary.rows()
    }

    fn counted(by: By, messages: &[Message]) -> Vec<(String, u64)> {
        let rows = added(by, messages).into_iter();
        rows.map(|row| (row.key, row.total)).collect()
    }

    #[test]
    fn q18_replies_of_gmail_with_an_id_each_are_one_reason() {
        let message = |id: u64| {
            let to = vec![Recipient::new(format!("u{id}@gmail.example"))];
            let origin = Origin::User {
                user: "anna@example.org".into(),
                client: [192, 0, 2, 9].into(),
            };
            let mut message = new_message(
                QueueId(id),
                0,
                origin,
                Envelope::new("anna@example.org", to),
            );
            let text = format!("too fast {id:013x}-20si1234{id:04}qkb.123 - gsmtp");
            message.states[0].last_attempt = 1;
            message.states[0].last_reply = Some(own_reply(421, "4.7.28", &text));
            message
        };
        let mut all: Vec<Message> = (1..=100).map(message).collect();
        let rows = added(By::Domain, &all);
        assert_eq!(
            rows[0].reply.as_deref(),
            Some("421 4.7.28 too fast … - gsmtp")
        );
        all[0].states[0].last_reply = None;
        all[0].states[0].last_attempt = 0;
        all[1].origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        all[1].envelope.reverse_path = String::new();
        all[2].states[0].hold(crate::queue::Held::default().since(1));
        let pairs = |list: &[(&str, u64)]| -> Vec<(String, u64)> {
            list.iter()
                .map(|(key, n)| ((*key).to_owned(), *n))
                .collect()
        };
        assert_eq!(
            counted(By::Reason, &all),
            pairs(&[("421 4.7.28 too fast … - gsmtp", 99), ("(not tried)", 1)])
        );
        assert_eq!(
            counted(By::Sender, &all),
            pairs(&[("anna@example.org", 99), ("<>", 1)])
        );
        assert_eq!(
            counted(By::User, &all),
            pairs(&[("anna@example.org", 99), ("(no user)", 1)])
        );
        assert_eq!(
            counted(By::State, &all),
            pairs(&[("deferred", 98), ("held", 1), ("queued", 1)])
        );
        assert_eq!(counted(By::NextHop, &all), pairs(&[("gmail.example", 100)]));
    }

    #[test]
    fn recipients_are_counted_by_domain_and_age_and_the_commonest_reply_is_named() {
        let to = [
            "a@one.example",
            "b@two.example",
            "c@two.example",
            "d@two.example",
        ];
        let envelope = Envelope::new("", to.map(Recipient::new).to_vec());
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut message = new_message(QueueId(1), 0, origin, envelope);
        for (at, text) in [(1, "busy"), (2, "full"), (3, "busy")] {
            message.states[at].last_attempt = 1;
            message.states[at].last_reply = Some(own_reply(450, "", text));
        }
        let mut summary = Summary::new(By::Domain);
        let facts = Facts::default();
        summary.add(&message, &[0, 1, 2, 3], &facts, 6 * 60_000);
        message.states[0].hold(crate::queue::Held::default().since(1));
        message.states[1].status = Status::Removed;
        summary.add(&message, &[0, 1], &facts, 1280 * 60_000);
        let rows = summary.rows();
        let [two, one] = &rows[..] else {
            panic!("two domains: {rows:?}")
        };
        assert_eq!(
            (two.domain.as_str(), two.total, two.queued, two.held),
            ("two.example", 3, 0, 0)
        );
        assert_eq!((two.ages[1], two.reply.as_deref()), (3, Some("450 busy")));
        assert_eq!(
            (one.total, one.queued, one.held, one.reply.as_deref()),
            (2, 2, 1, None)
        );
        assert_eq!((one.ages[1], one.ages[9]), (1, 1));
    }
}
