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
        Lane::of_address(first.map_or("", |(recipient, _)| &recipient.address))
    }

    /// The lane of an address.
    pub fn of_address(address: &str) -> Lane {
        Lane::of_domain(address.rsplit_once('@').map_or("", |(_, domain)| domain))
    }

    /// The lane of a domain.
    pub fn of_domain(domain: &str) -> Lane {
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
    /// Lanes that may have no more now; they are not in `heads`.
    parked: BTreeSet<Lane>,
    /// Whose turn it is.
    turn: u16,
}

impl Default for DueIndex {
    fn default() -> DueIndex {
        DueIndex {
            lanes: (0..LANES).map(|_| BTreeSet::new()).collect(),
            times: HashMap::new(),
            heads: BTreeSet::new(),
            parked: BTreeSet::new(),
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
        if before != after && !self.parked.contains(&lane) {
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
            if let Some((due, _)) = order.first()
                && !self.parked.contains(&lane)
            {
                self.heads.insert((*due, lane));
            }
        }
    }

    /// Lanes that may have more again take part again.
    pub fn unpark(&mut self, admits: impl Fn(Lane) -> bool) {
        let (lanes, heads) = (&self.lanes, &mut self.heads);
        self.parked.retain(|lane| {
            let stays = !admits(*lane);
            let order = lanes.get(usize::from(lane.0));
            if let Some((due, _)) = order.and_then(BTreeSet::first)
                && !stays
            {
                heads.insert((*due, *lane));
            }
            stays
        });
    }

    /// This lane may have no more until [`DueIndex::unpark`].
    fn park(&mut self, lane: Lane) {
        let order = self.lanes.get(usize::from(lane.0));
        if let Some((due, _)) = order.and_then(BTreeSet::first) {
            self.heads.remove(&(*due, lane));
        }
        self.parked.insert(lane);
    }

    /// Forgets a message.
    pub fn remove(&mut self, id: QueueId) {
        if let Some((due, lane)) = self.times.remove(&id) {
            self.change(lane, |order| Some(order.remove(&(due, id))));
        }
    }

    /// Takes, of the next lane in which one is due at `now` and which `admits` one, the message
    /// that has been due longest.
    pub fn take(&mut self, now: Millis, admits: impl Fn(Lane) -> bool) -> Option<(QueueId, Lane)> {
        if self.next()? > now {
            return None;
        }
        for step in 0..LANES {
            let lane = Lane((self.turn + step) % LANES);
            let order = self.lanes.get(usize::from(lane.0));
            let first = order.and_then(BTreeSet::first);
            if first.is_none_or(|(due, _)| *due > now) {
                continue;
            }
            if !admits(lane) {
                self.park(lane);
                continue;
            }
            let taken = self.change(lane, |order| order.pop_first().map(|(_, id)| id));
            if let Some(id) = taken {
                self.turn = (lane.0 + 1) % LANES;
                self.times.remove(&id);
                return Some((id, lane));
            }
        }
        None
    }

    /// When each is looked at.
    #[cfg(test)]
    pub fn all(&self) -> std::collections::BTreeMap<QueueId, Millis> {
        let times = self.times.iter();
        times.map(|(id, (due, _))| (*id, *due)).collect()
    }

    /// When the next one is due, in a lane that may have more.
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

    /// Takes the first of the lane whose turn it is, of those that `admits` says may have one.
    pub fn pop(&mut self, admits: impl Fn(Lane) -> bool) -> Option<(T, Lane)> {
        for _ in 0..self.ring.len() {
            let lane = self.ring.pop_front()?;
            if !admits(lane) {
                self.ring.push_back(lane);
                continue;
            }
            let queue = self.queues.get_mut(&lane)?;
            let item = queue.pop_front()?;
            self.length -= 1;
            if queue.is_empty() {
                self.queues.remove(&lane);
            } else {
                self.ring.push_back(lane);
            }
            return Some((item, lane));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Lane = Lane(3);

    fn any(_: Lane) -> bool {
        true
    }

    #[test]
    fn messages_come_in_the_order_they_are_due_and_each_once() {
        let mut due = DueIndex::default();
        for (id, at) in [(1, 30), (2, 10), (3, 20), (1, 5)] {
            due.set(QueueId(id), at, ONE);
        }
        assert_eq!(due.next(), Some(5));
        assert_eq!(due.take(4, any), None);
        assert_eq!(due.take(10, any), Some((QueueId(1), ONE)));
        due.shift(5);
        assert_eq!(due.next(), Some(15));
        due.shift(-5);
        due.remove(QueueId(3));
        due.remove(QueueId(9));
        assert_eq!(due.take(100, any), Some((QueueId(2), ONE)));
        assert_eq!(due.take(100, any), None);
        assert_eq!(due.next(), None);
        // A message that moves to another lane is there once.
        due.set(QueueId(4), 7, ONE);
        due.set(QueueId(4), 9, Lane(1023));
        assert_eq!(due.next(), Some(9));
        assert_eq!(due.take(9, any), Some((QueueId(4), Lane(1023))));
        assert_eq!((due.take(100, any), due.next()), (None, None));
    }

    #[test]
    fn i10_lanes_take_turns() {
        let mut due = DueIndex::default();
        for id in 0..1000 {
            due.set(QueueId(id), 1, ONE);
        }
        due.set(QueueId(5000), 50, Lane(900));
        let taken: Vec<_> = (0..3).map(|_| due.take(60, any).unwrap().0.0).collect();
        assert!(taken.contains(&5000), "{taken:?}");

        let mut lanes = Lanes::default();
        for item in 0..1000 {
            lanes.push(ONE, item);
        }
        lanes.push(Lane(7), 5000);
        assert_eq!(lanes.len(), 1001);
        assert_eq!(
            (lanes.pop(any), lanes.pop(any), lanes.pop(any)),
            (Some((0, ONE)), Some((5000, Lane(7))), Some((1, ONE)))
        );
        let rest = std::iter::from_fn(|| lanes.pop(any)).count();
        assert_eq!((rest, lanes.is_empty()), (998, true));
    }

    #[test]
    fn i10_a_lane_that_may_have_no_more_costs_nothing_until_it_may() {
        let other = Lane(900);
        let not_one = |lane| lane != ONE;
        let mut due = DueIndex::default();
        due.set(QueueId(1), 1, ONE);
        due.set(QueueId(2), 50, other);
        assert_eq!(due.take(60, not_one), Some((QueueId(2), other)));
        // Nothing wakes the queue for it, not even when it changes.
        due.set(QueueId(3), 0, ONE);
        due.shift(7);
        assert_eq!((due.take(60, not_one), due.next()), (None, None));
        due.unpark(not_one);
        assert_eq!(due.next(), None);
        due.unpark(any);
        assert_eq!(due.next(), Some(7));
        assert_eq!(due.take(60, any), Some((QueueId(3), ONE)));

        let mut lanes = Lanes::default();
        lanes.push(ONE, 1);
        lanes.push(other, 2);
        assert_eq!(lanes.pop(not_one), Some((2, other)));
        assert_eq!((lanes.pop(not_one), lanes.len()), (None, 1));
        assert_eq!(lanes.pop(any), Some((1, ONE)));
    }
}
