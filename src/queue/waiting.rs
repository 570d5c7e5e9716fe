//! What waits by one way: which messages, and when each is due. Few lie in a list, as most domains
//! have few; many in two trees. Pure.

use std::collections::{BTreeMap, BTreeSet};

use queue_schema::{Millis, QueueId};

/// Messages up to which a list is smaller than trees, and as quick.
const FEW: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) enum Waiting {
    /// In no order.
    Few(Vec<(Millis, QueueId)>),
    /// When each is due, and the same in the order of time.
    Many(BTreeMap<QueueId, Millis>, BTreeSet<(Millis, QueueId)>),
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting::Few(Vec::new())
    }
}

impl Waiting {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Waiting::Few(list) => list.len(),
            Waiting::Many(times, _) => times.len(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is due first, and when.
    pub fn first(&self) -> Option<(Millis, QueueId)> {
        match self {
            Waiting::Few(list) => list.iter().min().copied(),
            Waiting::Many(_, order) => order.first().copied(),
        }
    }

    /// All of it.
    #[cfg(any(test, feature = "simulation"))]
    pub fn all(&self) -> Vec<(Millis, QueueId)> {
        match self {
            Waiting::Few(list) => list.clone(),
            Waiting::Many(_, order) => order.iter().copied().collect(),
        }
    }

    /// A message is due then, in place of what was known.
    pub fn set(&mut self, id: QueueId, due: Millis) {
        match self {
            Waiting::Few(list) => {
                if let Some(known) = list.iter_mut().find(|(_, known)| *known == id) {
                    known.0 = due;
                } else if list.len() < FEW {
                    list.reserve_exact(1);
                    list.push((due, id));
                } else {
                    let all = list.iter().copied().chain([(due, id)]);
                    let times = all.clone().map(|(due, id)| (id, due)).collect();
                    *self = Waiting::Many(times, all.collect());
                }
            }
            Waiting::Many(times, order) => {
                if let Some(before) = times.insert(id, due) {
                    order.remove(&(before, id));
                }
                order.insert((due, id));
            }
        }
    }

    /// A message does not wait any more.
    pub fn remove(&mut self, id: QueueId) {
        match self {
            Waiting::Few(list) => {
                list.retain(|(_, known)| *known != id);
                if list.is_empty() {
                    *list = Vec::new();
                }
            }
            Waiting::Many(times, order) => {
                if let Some(due) = times.remove(&id) {
                    order.remove(&(due, id));
                }
                if times.len() <= FEW / 2 {
                    *self = Waiting::Few(order.iter().copied().collect());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_and_many_are_the_same_to_all_who_ask(
            steps in proptest::collection::vec((0..30u64, prop::option::of(0..50u64)), 0..200)
        ) {
            let mut waiting = Waiting::default();
            let mut model = BTreeMap::new();
            for (id, due) in steps {
                let id = QueueId(id);
                match due {
                    Some(due) => {
                        waiting.set(id, due);
                        model.insert(id, due);
                    }
                    None => {
                        waiting.remove(id);
                        model.remove(&id);
                    }
                }
                let first = model.iter().map(|(id, due)| (*due, *id)).min();
                prop_assert_eq!(waiting.first(), first);
                prop_assert_eq!((waiting.len(), waiting.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(matches!(&waiting, Waiting::Few(list) if list.len() <= FEW) || model.len() > FEW / 2);
            }
        }
    }
}
