//! Counting what waits by domain and age. Pure.

use std::collections::HashMap;

use queue_schema::{Message, Millis, Status};

use super::protocol::{AGES, Row};

/// Different replies that are counted for one domain; further ones are not.
const REPLIES: usize = 16;

#[derive(Default)]
struct Domain {
    ages: [u64; 10],
    queued: u64,
    held: u64,
    replies: HashMap<String, u64>,
}

/// See the module.
#[derive(Default)]
pub struct Summary(HashMap<String, Domain>);

impl Summary {
    /// Counts these recipients of a message, as far as they wait.
    pub fn add(&mut self, message: &Message, recipients: &[u32], now: Millis) {
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
            let domain = recipient
                .address
                .rsplit_once('@')
                .map_or("", |(_, domain)| domain);
            let domain = match self.0.get_mut(domain) {
                Some(known) => known,
                None => self.0.entry(domain.to_owned()).or_default(),
            };
            if let Some(count) = domain.ages.get_mut(column) {
                *count += 1;
            }
            domain.queued += u64::from(state.last_attempt == 0);
            domain.held += u64::from(state.is_held(now));
            let suspended = state.suspended.as_ref();
            let suspended = suspended.filter(|one| one.until > now);
            let said = state.last_reply.as_ref();
            let why = suspended.map(ToString::to_string);
            if let Some(text) = why.or_else(|| said.map(ToString::to_string)) {
                if domain.replies.len() < REPLIES || domain.replies.contains_key(&text) {
                    *domain.replies.entry(text).or_default() += 1;
                }
            }
        }
    }

    /// The domains, the largest first.
    pub fn rows(self) -> Vec<Row> {
        let row = |(name, domain): (String, Domain)| Row {
            domain: name,
            total: domain.ages.iter().sum(),
            ages: domain.ages,
            queued: domain.queued,
            held: domain.held,
            reply: domain
                .replies
                .into_iter()
                .max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| b.cmp(a)))
                .map(|(reply, _)| reply),
        };
        let mut rows: Vec<Row> = self.0.into_iter().map(row).collect();
        rows.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.domain.cmp(&b.domain)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::own_reply;
    use crate::queue::store::new_message;
    use queue_schema::{Envelope, Origin, QueueId, Recipient};

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
        let mut summary = Summary::default();
        summary.add(&message, &[0, 1, 2, 3], 6 * 60_000);
        message.states[0].hold(crate::queue::Held::default().since(1));
        message.states[1].status = Status::Removed;
        summary.add(&message, &[0, 1], 1280 * 60_000);
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
