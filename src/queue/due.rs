//! Waking in fair order. Messages are sorted into lanes by their destination, and lanes take
//! turns: half a million messages for one destination fill one lane and delay no other (I10).
//!
//! [`DueIndex`] knows which message is due when: two numbers and a lane for each that waits,
//! nothing else. [`Lanes`] holds what is ready.

use std::collections::{BTreeSet, HashMap, VecDeque};

use queue_schema::{Message, Millis, QueueId, Status};

/// How many lanes there are. Two destinations share one by chance of one in so many.
const LANES: u16 = 1024;

/// A destination, roughly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u16);

impl Lane {
    /// The lane of a message: that of its first recipient who waits.
    pub fn of(message: &Message) -> Lane {
        let recipients = message.envelope.recipients.iter().zip(&message.states);
        let waits =
            |(_, state): &(_, &queue_schema::RecipientState)| state.status == Status::Waiting;
        let first = recipients.into_iter().find(waits);
        let domain = first
            .and_then(|(recipient, _)| recipient.address.rsplit_once('@'))
            .map_or("", |(_, domain)| domain);
        let hash = crc32c::crc32c(domain.as_bytes()) % u32::from(LANES);
        Lane(u16::try_from(hash).unwrap_or_default())
    }
}

/// An index of waiting messages by due time; about 70 bytes for each.
#[derive(Debug)]
pub struct DueIndex {
    lanes: Vec<BTreeSet<(Millis, QueueId)>>,
    times: HashMap<QueueId, (Millis, Lane)>,
    /// The first of each lane that is not empty.
    heads: BTreeSet<(Millis, Lane)>,
    /// Whose turn it is.
    turn: u16,
}

impl Default for DueIndex {
    fn default() -> DueIndex {
        DueIndex {
            lanes: (0..LANES).map(|_| BTreeSet::new()).collect(),
            times: HashMap::new(),
            heads: BTreeSet::new(),
            turn: 0,
        }
    }
}

impl DueIndex {
    /// Changes one lane, and what is known of its first.
    fn change<T>(
        &mut self,
        lane: Lane,
        change: impl FnOnce(&mut BTreeSet<(Millis, QueueId)>) -> Option<T>,
    ) -> Option<T> {
        let order = self.lanes.get_mut(usize::from(lane.0))?;
        let before = order.first().map(|(due, _)| *due);
        let result = change(order);
        let after = order.first().map(|(due, _)| *due);
        if before != after {
            if let Some(before) = before {
                self.heads.remove(&(before, lane));
            }
            if let Some(after) = after {
                self.heads.insert((after, lane));
            }
        }
        result
    }

    /// Sets when a message is due, in place of what was known.
    pub fn set(&mut self, id: QueueId, due: Millis, lane: Lane) {
        if let Some((before, old)) = self.times.insert(id, (due, lane)) {
            self.change(old, |order| Some(order.remove(&(before, id))));
        }
        self.change(lane, |order| Some(order.insert((due, id))));
    }

    /// The clock was set: everything is due so much later.
    pub fn shift(&mut self, by: i64) {
        self.heads.clear();
        for (lane, order) in (0..).map(Lane).zip(&mut self.lanes) {
            for (due, id) in std::mem::take(order) {
                let due = due.saturating_add_signed(by);
                order.insert((due, id));
                self.times.insert(id, (due, lane));
            }
            if let Some((due, _)) = order.first() {
                self.heads.insert((*due, lane));
            }
        }
    }

    /// Forgets a message.
    pub fn remove(&mut self, id: QueueId) {
        if let Some((due, lane)) = self.times.remove(&id) {
            self.change(lane, |order| Some(order.remove(&(due, id))));
        }
    }

    /// Takes, of the next lane in which one is due at `now`, the message that has been due longest.
    pub fn take(&mut self, now: Millis) -> Option<QueueId> {
        if self.next()? > now {
            return None;
        }
        for step in 0..LANES {
            let lane = Lane((self.turn + step) % LANES);
            let taken = self.change(lane, |order| {
                let first = *order.first()?;
                (first.0 <= now).then(|| {
                    order.pop_first();
                    first.1
                })
            });
            if let Some(id) = taken {
                self.turn = (lane.0 + 1) % LANES;
                self.times.remove(&id);
                return Some(id);
            }
        }
        None
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Millis> {
        self.heads.first().map(|(due, _)| *due)
    }
}

/// Things that are ready, in lanes that take turns; each lane keeps its order.
#[derive(Debug)]
pub struct Lanes<T> {
    queues: HashMap<Lane, VecDeque<T>>,
    ring: VecDeque<Lane>,
    length: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Lanes<T> {
        Lanes {
            queues: HashMap::new(),
            ring: VecDeque::new(),
            length: 0,
        }
    }
}

impl<T> Lanes<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds to the end of a lane.
    pub fn push(&mut self, lane: Lane, item: T) {
        let queue = self.queues.entry(lane).or_default();
        if queue.is_empty() {
            self.ring.push_back(lane);
        }
        queue.push_back(item);
        self.length += 1;
    }

    /// Takes the first of the lane whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let lane = self.ring.pop_front()?;
        let queue = self.queues.get_mut(&lane)?;
        let item = queue.pop_front()?;
        self.length -= 1;
        if queue.is_empty() {
            self.queues.remove(&lane);
        } else {
            self.ring.push_back(lane);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Lane = Lane(3);

    #[test]
    fn messages_come_in_the_order_they_are_due_and_each_once() {
        let mut due = DueIndex::default();
        for (id, at) in [(1, 30), (2, 10), (3, 20), (1, 5)] {
            due.set(QueueId(id), at, ONE);
        }
        assert_eq!(due.next(), Some(5));
        assert_eq!(due.take(4), None);
        assert_eq!(due.take(10), Some(QueueId(1)));
        due.shift(5);
        assert_eq!(due.next(), Some(15));
        due.shift(-5);
        due.remove(QueueId(3));
        due.remove(QueueId(9));
        assert_eq!(due.take(100), Some(QueueId(2)));
        assert_eq!(due.take(100), None);
        assert_eq!(due.next(), None);
        // A message that moves to another lane is there once.
        due.set(QueueId(4), 7, ONE);
        due.set(QueueId(4), 9, Lane(1023));
        assert_eq!(due.next(), Some(9));
        assert_eq!(due.take(9), Some(QueueId(4)));
        assert_eq!((due.take(100), due.next()), (None, None));
    }

    #[test]
    fn i10_lanes_take_turns() {
        let mut due = DueIndex::default();
        for id in 0..1000 {
            due.set(QueueId(id), 1, ONE);
        }
        due.set(QueueId(5000), 50, Lane(900));
        let taken: Vec<_> = (0..3).map(|_| due.take(60).unwrap().0).collect();
        assert!(taken.contains(&5000), "{taken:?}");

        let mut lanes = Lanes::default();
        for item in 0..1000 {
            lanes.push(ONE, item);
        }
        lanes.push(Lane(7), 5000);
        assert_eq!(lanes.len(), 1001);
        assert_eq!(
            (lanes.pop(), lanes.pop(), lanes.pop()),
            (Some(0), Some(5000), Some(1))
        );
        let rest = std::iter::from_fn(|| lanes.pop()).count();
        assert_eq!((rest, lanes.is_empty()), (998, true));
    }
}
