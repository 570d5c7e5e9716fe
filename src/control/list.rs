//! Listing recipients: all of them in the order of ids, or some of them in an order that is asked
//! for. Keys alone are remembered while the queue is looked through; the rows are read again at the
//! end, so that a sorted list of a million costs no million messages of memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use queue_schema::{Message, Millis, QueueId};
use tokio::sync::mpsc;

use super::answer::{compile, only, pages};
use super::gist::gist;
use super::protocol::{Answer, Item, Refusal, Sort};
use crate::queue::{Facts, Handle, Selector, domain_of, state_word};

/// How a list is wanted.
pub(super) struct Wanted {
    /// So many rows; 0 for all.
    pub limit: Option<usize>,
    /// In this order.
    pub sort: Option<Sort>,
    /// The other way round.
    pub reverse: bool,
    /// No rows.
    pub count: bool,
}

/// What a row is sorted by: numbers first, then words, then what tells equal ones apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    number: u64,
    word: String,
    id: QueueId,
    position: u32,
}

/// The rows that come first, as many as are wanted.
struct Rows {
    limit: usize,
    reverse: bool,
    // The last row is on top, to be put out.
    plain: BinaryHeap<Key>,
    reversed: BinaryHeap<Reverse<Key>>,
}

impl Rows {
    fn new(limit: usize, reverse: bool) -> Rows {
        Rows {
            limit,
            reverse,
            plain: BinaryHeap::new(),
            reversed: BinaryHeap::new(),
        }
    }

    fn add(&mut self, key: Key) {
        if self.reverse {
            self.reversed.push(Reverse(key));
            if self.reversed.len() > self.limit {
                self.reversed.pop();
            }
        } else {
            self.plain.push(key);
            if self.plain.len() > self.limit {
                self.plain.pop();
            }
        }
    }

    /// In their order.
    fn sorted(self) -> Vec<Key> {
        if self.reverse {
            let keys = self.reversed.into_sorted_vec();
            return keys.into_iter().map(|Reverse(key)| key).collect();
        }
        self.plain.into_sorted_vec()
    }
}

/// See [`Sort`]: what comes first has the smallest key.
fn key(sort: Sort, message: &Message, position: u32, facts: &Facts, now: Millis) -> Option<Key> {
    let at = usize::try_from(position).ok()?;
    let state = message.states.get(at)?;
    let to = message.envelope.recipients.get(at)?;
    let newest = |time: u64| u64::MAX - time;
    let (number, word) = match sort {
        // What was never tried comes last, the newest first.
        Sort::Tried => {
            let (arrived, id) = (newest(message.arrived), newest(message.id.0));
            let tried = newest(state.last_attempt);
            (tried, format!("{arrived:020} {id:020}"))
        }
        Sort::Arrived => {
            let id = newest(message.id.0);
            (newest(message.arrived), format!("{id:020}"))
        }
        Sort::Due => {
            let due = facts.due(message, state, now);
            (due.unwrap_or(u64::MAX), String::new())
        }
        Sort::Expires => {
            let end = facts.expires(message, state, now);
            (end.unwrap_or(u64::MAX), String::new())
        }
        Sort::Attempts => (u64::MAX - u64::from(state.attempts), String::new()),
        Sort::Size => (u64::MAX - message.size, String::new()),
        Sort::From => (0, message.envelope.reverse_path.to_lowercase()),
        Sort::To => (0, to.address.to_lowercase()),
        Sort::Domain => (0, domain_of(&to.address).to_lowercase()),
        Sort::State => (0, state_word(state, now).to_owned()),
        Sort::Reason => (0, state.last_reply.as_ref().map(gist).unwrap_or_default()),
    };
    Some(Key {
        number,
        word,
        id: message.id,
        position,
    })
}

/// Answers [`super::protocol::Request::List`].
pub(super) async fn list(
    selector: &Selector,
    wanted: Wanted,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let facts = matcher.facts().clone();
    let now = crate::time::now();
    let mut count = 0;
    let limit = match wanted.limit {
        None | Some(0) => usize::MAX,
        Some(limit) => limit,
    };
    let sort = match (wanted.sort, wanted.limit) {
        (None, Some(_)) => Some(Sort::Tried),
        (sort, _) => sort,
    };
    let mut rows = Rows::new(limit, wanted.reverse);
    pages(&matcher, queue, async |message, recipients| {
        for position in recipients {
            count += 1;
            if wanted.count {
                continue;
            }
            if let Some(sort) = sort.or(wanted.reverse.then_some(Sort::Tried)) {
                if let Some(key) = key(sort, &message, position, &facts, now) {
                    rows.add(key);
                }
            } else if let Some(item) = Item::new(&message, position, &facts, now)
                && out.send(Answer::Item(Box::new(item))).await.is_err()
            {
                return false;
            }
        }
        !out.is_closed()
    })
    .await?;
    let mut last: Option<Arc<Message>> = None;
    for key in rows.sorted() {
        let known = last.take().filter(|message| message.id == key.id);
        let message = match known {
            Some(message) => Some(message),
            None => queue
                .view
                .message(key.id)
                .await
                .map_err(Refusal::unavailable)?,
        };
        // One that ended meanwhile is no row any more.
        let Some(message) = message else { continue };
        let item = Item::new(&message, key.position, &facts, now);
        last = Some(message);
        if let Some(item) = item
            && out.send(Answer::Item(Box::new(item))).await.is_err()
        {
            break;
        }
    }
    match matcher.id {
        Some(id) if count == 0 && *selector == only(selector) => Err(Refusal::unknown(id)),
        _ => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::store::new_message;
    use proptest::prelude::*;
    use queue_schema::{Envelope, Origin, Recipient};

    fn message(id: u64, size: u64, tried: u64) -> Message {
        let to = vec![Recipient::new(format!("u{}@example.net", 9 - id % 10))];
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let envelope = Envelope::new(format!("s{id}@example.org"), to);
        let mut message = new_message(QueueId(id), id * 1000, origin, envelope);
        message.size = size;
        message.states[0].last_attempt = tried;
        message.states[0].next_due = 50_000 - id;
        message
    }

    fn order(sort: Sort, limit: usize, reverse: bool) -> Vec<u64> {
        let all = [
            message(1, 30, 0),
            message(2, 10, 7000),
            message(3, 20, 9000),
            message(4, 20, 0),
        ];
        let mut rows = Rows::new(limit, reverse);
        for message in &all {
            rows.add(key(sort, message, 0, &Facts::default(), 0).expect("a key"));
        }
        rows.sorted().into_iter().map(|key| key.id.0).collect()
    }

    #[test]
    fn q18_lists_are_sorted_and_a_limit_takes_the_first() {
        assert_eq!(order(Sort::Tried, 9, false), [3, 2, 4, 1]);
        assert_eq!(order(Sort::Arrived, 9, false), [4, 3, 2, 1]);
        assert_eq!(order(Sort::Due, 9, false), [4, 3, 2, 1]);
        assert_eq!(order(Sort::Expires, 9, false), [1, 2, 3, 4]);
        assert_eq!(order(Sort::Size, 9, false), [1, 3, 4, 2]);
        assert_eq!(order(Sort::Size, 2, false), [1, 3]);
        assert_eq!(order(Sort::Size, 2, true), [2, 4]);
        assert_eq!(order(Sort::From, 9, true), [4, 3, 2, 1]);
        assert_eq!(order(Sort::To, 9, false), [4, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn a_limit_gives_the_beginning_of_the_whole_list(
            sizes in proptest::collection::vec(0u64..20, 0..40), limit in 1usize..50, reverse: bool,
        ) {
            let rows = |limit| {
                let mut rows = Rows::new(limit, reverse);
                for (id, size) in (1..).zip(&sizes) {
                    rows.add(key(Sort::Size, &message(id, *size, 0), 0, &Facts::default(), 0).expect("a key"));
                }
                rows.sorted()
            };
            let (all, some) = (rows(usize::MAX), rows(limit));
            prop_assert_eq!(&all[..limit.min(all.len())], &some[..]);
        }
    }
}
