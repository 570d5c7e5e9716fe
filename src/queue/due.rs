//! Which message is due when: two numbers for each that waits, nothing else.

use std::collections::{BTreeSet, HashMap};

use queue_schema::{Millis, QueueId};

/// An index of waiting messages by due time; about 60 bytes for each.
#[derive(Debug, Default)]
pub struct DueIndex {
    order: BTreeSet<(Millis, QueueId)>,
    times: HashMap<QueueId, Millis>,
}

impl DueIndex {
    /// Sets when a message is due, in place of what was known.
    pub fn set(&mut self, id: QueueId, due: Millis) {
        if let Some(before) = self.times.insert(id, due) {
            self.order.remove(&(before, id));
        }
        self.order.insert((due, id));
    }

    /// The clock was set: everything is due so much later.
    pub fn shift(&mut self, by: i64) {
        let before = std::mem::take(&mut self.order);
        for (due, id) in before {
            let due = due.saturating_add_signed(by);
            self.order.insert((due, id));
            self.times.insert(id, due);
        }
    }

    /// Forgets a message.
    pub fn remove(&mut self, id: QueueId) {
        if let Some(due) = self.times.remove(&id) {
            self.order.remove(&(due, id));
        }
    }

    /// Takes the message that has been due longest, if one is due at `now`.
    pub fn take(&mut self, now: Millis) -> Option<QueueId> {
        let (due, id) = *self.order.first()?;
        if due > now {
            return None;
        }
        self.order.pop_first();
        self.times.remove(&id);
        Some(id)
    }

    /// Takes the message that became due last.
    pub fn take_latest(&mut self, now: Millis) -> Option<QueueId> {
        let (due, id) = *self.order.range(..=(now, QueueId(u64::MAX))).next_back()?;
        self.order.remove(&(due, id));
        self.times.remove(&id);
        Some(id)
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Millis> {
        self.order.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_the_order_they_are_due_and_each_once() {
        let mut due = DueIndex::default();
        for (id, at) in [(1, 30), (2, 10), (3, 20), (1, 5)] {
            due.set(QueueId(id), at);
        }
        assert_eq!(due.next(), Some(5));
        assert_eq!(due.take(4), None);
        assert_eq!(due.take(10), Some(QueueId(1)));
        due.shift(5);
        assert_eq!(due.next(), Some(15));
        due.shift(-5);
        due.remove(QueueId(3));
        due.remove(QueueId(9));
        for (id, at) in [(5, 40), (6, 60), (7, 50)] {
            due.set(QueueId(id), at);
        }
        assert_eq!(due.take_latest(55), Some(QueueId(7)));
        assert_eq!(due.take_latest(55), Some(QueueId(5)));
        assert_eq!(due.take(100), Some(QueueId(2)));
        assert_eq!(due.take_latest(59), None);
        due.remove(QueueId(6));
        assert_eq!(due.take(100), None);
        assert_eq!(due.next(), None);
    }
}
