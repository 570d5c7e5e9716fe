//! Who is next: what waits for delivery, in lanes that take turns, one for each real destination.
//!
//! A message is in the lane of each destination it waits for, so that one of its recipients who
//! waits behind half a million others delays none of the rest (I10). A lane holds ways
//! ([`super::ways`]) that lead to the same destination as far as delivery has told; ways take turns
//! in their lane as lanes do. What is due later waits by way, in order of time; new mail waits with
//! its bytes in memory. About 80 bytes for each message and way.
//!
//! Which is next costs the same however much waits and however many lanes there are: ways with
//! something due, and lanes with such ways, stand in rings; a lane that may have no more now
//! ([`shares`](super::shares)) is parked, out of the rings, in the order in which lanes may have
//! more again. Pure: times are given, and no order depends on a hash.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use queue_schema::{Millis, QueueId};

use super::shares;
use super::waiting::Waiting;

/// Ways that nothing waits for are forgotten when there are more of all than this.
const KNOWN: usize = 4096;

/// A way, by number. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Way(u64);

/// A lane, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Lane(u64);

#[derive(Debug)]
struct OnWay {
    name: Arc<str>,
    lane: Lane,
    /// Messages that are in memory for delivery this way.
    under_way: usize,
    /// What waits on disk.
    waiting: Waiting,
    /// New mail in memory.
    fresh: VecDeque<QueueId>,
    /// It stands in its lane's ring of those with something due; else in `sleeping`, if anything
    /// waits.
    ready: bool,
}

impl OnWay {
    fn first(&self) -> Option<Millis> {
        self.waiting.first().map(|(due, _)| due)
    }

    fn is_idle(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty() && self.fresh.is_empty()
    }
}

/// The two things that wait: each has rings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Due,
    Fresh,
}

/// A ring, and whether its owner stands in the ring above.
#[derive(Debug, Default)]
struct Ring {
    ways: VecDeque<Way>,
    offered: bool,
}

#[derive(Debug, Default)]
struct OnLane {
    /// What delivery calls the destination; `None` for a way of which it told nothing yet.
    destination: Option<Arc<str>>,
    ways: usize,
    under_way: usize,
    due: Ring,
    fresh: Ring,
    parked: bool,
}

impl OnLane {
    fn ring(&mut self, line: Line) -> &mut Ring {
        match line {
            Line::Due => &mut self.due,
            Line::Fresh => &mut self.fresh,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Last number given out.
    last: u64,
    names: HashMap<Arc<str>, Way>,
    ways: BTreeMap<Way, OnWay>,
    destinations: HashMap<Arc<str>, Lane>,
    lanes: BTreeMap<Lane, OnLane>,
    /// Ways with nothing due yet, by their first.
    sleeping: BTreeSet<(Millis, Way)>,
    /// Lanes with something due, and lanes with new mail.
    due: VecDeque<Lane>,
    fresh: VecDeque<Lane>,
    /// Lanes that may have no more now, those that have least first.
    parked: BTreeSet<(usize, Lane)>,
    new: usize,
    under_way: usize,
    sweep_at: usize,
}

impl Lanes {
    /// New messages that wait, each counted for every way.
    pub fn fresh(&self) -> usize {
        self.new
    }

    /// The number of a way. It holds until [`Lanes::tidy`] unless something waits or is under way.
    pub fn way(&mut self, name: &str) -> Way {
        if let Some(way) = self.names.get(name) {
            return *way;
        }
        let name: Arc<str> = name.into();
        let (way, lane) = (Way(self.number()), Lane(self.number()));
        let known = OnLane {
            ways: 1,
            ..OnLane::default()
        };
        self.lanes.insert(lane, known);
        self.names.insert(name.clone(), way);
        let on_way = OnWay {
            name,
            lane,
            under_way: 0,
            waiting: Waiting::default(),
            fresh: VecDeque::new(),
            ready: false,
        };
        self.ways.insert(way, on_way);
        way
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Delivery says which destination a way leads to. One that nobody knows needs no lane.
    pub fn belongs(&mut self, name: &str, destination: &Arc<str>) {
        let Some(way) = self.names.get(name).copied() else {
            return;
        };
        let lane = match self.destinations.get(destination) {
            Some(lane) => *lane,
            None => {
                let lane = Lane(self.number());
                self.destinations.insert(destination.clone(), lane);
                let known = OnLane {
                    destination: Some(destination.clone()),
                    ..OnLane::default()
                };
                self.lanes.insert(lane, known);
                lane
            }
        };
        let Some(moved) = self.ways.get_mut(&way).filter(|moved| moved.lane != lane) else {
            return;
        };
        let old = std::mem::replace(&mut moved.lane, lane);
        let (count, due, fresh) = (moved.under_way, moved.ready, !moved.fresh.is_empty());
        if let Some(left) = self.lanes.get_mut(&old) {
            left.ways -= 1;
            left.due.ways.retain(|one| *one != way);
            left.fresh.ways.retain(|one| *one != way);
        }
        self.recount(old, |under_way| under_way.saturating_sub(count));
        self.drop_lane(old);
        if let Some(joined) = self.lanes.get_mut(&lane) {
            joined.ways += 1;
            if due {
                joined.due.ways.push_back(way);
            }
            if fresh {
                joined.fresh.ways.push_back(way);
            }
        }
        self.recount(lane, |under_way| under_way + count);
        self.offer(lane);
    }

    fn drop_lane(&mut self, lane: Lane) {
        let Some(gone) = self.lanes.get(&lane).filter(|left| left.ways == 0) else {
            return;
        };
        self.parked.remove(&(gone.under_way, lane));
        if let Some(name) = &gone.destination {
            self.destinations.remove(name);
        }
        self.lanes.remove(&lane);
    }

    /// Forgets ways that nothing waits for, when there are many.
    pub fn tidy(&mut self) {
        if self.ways.len() <= self.sweep_at.max(KNOWN) {
            return;
        }
        let idle = self.ways.iter().filter(|(_, one)| one.is_idle());
        for way in idle.map(|(way, _)| *way).collect::<Vec<_>>() {
            let Some(gone) = self.ways.remove(&way) else {
                continue;
            };
            self.names.remove(&gone.name);
            if let Some(left) = self.lanes.get_mut(&gone.lane) {
                left.ways -= 1;
                left.due.ways.retain(|one| *one != way);
                left.fresh.ways.retain(|one| *one != way);
            }
            self.drop_lane(gone.lane);
        }
        self.sweep_at = self.ways.len() * 2;
    }

    /// A message is due by a way at this time, in place of what was known.
    pub fn set(&mut self, id: QueueId, way: Way, due: Millis) {
        self.change(way, |waiting| waiting.set(id, due));
    }

    /// A message does not wait for this way any more.
    pub fn remove(&mut self, id: QueueId, way: Way) {
        self.change(way, |waiting| waiting.remove(id));
    }

    /// Changes what waits for a way, and where the way stands.
    fn change(&mut self, way: Way, change: impl FnOnce(&mut Waiting)) {
        let Some(changed) = self.ways.get_mut(&way) else {
            return;
        };
        let before = changed.first();
        change(&mut changed.waiting);
        let after = changed.first();
        if changed.ready || before == after {
            return;
        }
        if let Some(before) = before {
            self.sleeping.remove(&(before, way));
        }
        if let Some(after) = after {
            self.sleeping.insert((after, way));
        }
    }

    /// New mail waits for a way.
    pub fn push(&mut self, id: QueueId, way: Way) {
        let Some(pushed) = self.ways.get_mut(&way) else {
            return;
        };
        self.new += 1;
        pushed.fresh.push_back(id);
        if pushed.fresh.len() == 1 {
            let lane = pushed.lane;
            if let Some(pushed) = self.lanes.get_mut(&lane) {
                pushed.fresh.ways.push_back(way);
            }
            self.offer(lane);
        }
    }

    /// Puts a lane into the rings in which it has something.
    fn offer(&mut self, lane: Lane) {
        let Some(offered) = self.lanes.get_mut(&lane).filter(|lane| !lane.parked) else {
            return;
        };
        for (line, ring) in [(Line::Due, &mut self.due), (Line::Fresh, &mut self.fresh)] {
            let own = offered.ring(line);
            if !own.offered && !own.ways.is_empty() {
                own.offered = true;
                ring.push_back(lane);
            }
        }
    }

    /// Takes the message that has been due longest by the way whose turn it is, in the lane whose
    /// turn it is, of those that may have one more of `limit`.
    pub fn take(&mut self, now: Millis, limit: usize) -> Option<(QueueId, Way)> {
        while let Some((due, way)) = self.sleeping.first().copied()
            && due <= now
        {
            self.sleeping.pop_first();
            let Some(woken) = self.ways.get_mut(&way) else {
                continue;
            };
            woken.ready = true;
            let lane = woken.lane;
            if let Some(woken) = self.lanes.get_mut(&lane) {
                woken.due.ways.push_back(way);
            }
            self.offer(lane);
        }
        loop {
            let (lane, way) = self.turn(Line::Due, limit)?;
            let Some(taken) = self.ways.get_mut(&way) else {
                self.offer(lane);
                continue;
            };
            let first = taken.waiting.first().filter(|(due, _)| *due <= now);
            if let Some((_, id)) = first {
                taken.waiting.remove(id);
            }
            match taken.first() {
                Some(next) if next <= now => self.again(Line::Due, lane, way),
                next => {
                    taken.ready = false;
                    self.sleeping.extend(next.map(|next| (next, way)));
                }
            }
            self.offer(lane);
            if let Some((_, id)) = first {
                return Some((id, way));
            }
        }
    }

    /// Takes new mail, in the same way.
    pub fn pop(&mut self, limit: usize) -> Option<(QueueId, Way)> {
        loop {
            let (lane, way) = self.turn(Line::Fresh, limit)?;
            let popped = self.ways.get_mut(&way);
            let first = popped.and_then(|popped| {
                let first = popped.fresh.pop_front();
                first.map(|first| (first, !popped.fresh.is_empty()))
            });
            if let Some((_, true)) = first {
                self.again(Line::Fresh, lane, way);
            }
            self.offer(lane);
            if let Some((id, _)) = first {
                self.new -= 1;
                return Some((id, way));
            }
        }
    }

    /// The way whose turn it is, taken out of its ring, and its lane. Lanes that may have no more
    /// are parked on the way.
    fn turn(&mut self, line: Line, limit: usize) -> Option<(Lane, Way)> {
        let share = shares::share(limit, self.under_way);
        loop {
            let lane = match line {
                Line::Due => self.due.pop_front()?,
                Line::Fresh => self.fresh.pop_front()?,
            };
            let Some(next) = self.lanes.get_mut(&lane) else {
                continue;
            };
            next.ring(line).offered = false;
            if next.parked {
                continue;
            }
            if next.under_way >= share {
                next.parked = true;
                self.parked.insert((next.under_way, lane));
                continue;
            }
            if let Some(way) = next.ring(line).ways.pop_front() {
                return Some((lane, way));
            }
        }
    }

    /// A way stands at the end of its lane's ring again.
    fn again(&mut self, line: Line, lane: Lane, way: Way) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.ring(line).ways.push_back(way);
        }
    }

    /// Lanes that may have more again take part again.
    pub fn unpark(&mut self, limit: usize) {
        let share = shares::share(limit, self.under_way);
        while let Some((count, lane)) = self.parked.first().copied()
            && count < share
        {
            self.parked.pop_first();
            if let Some(back) = self.lanes.get_mut(&lane) {
                back.parked = false;
            }
            self.offer(lane);
        }
    }

    /// Whether the lane of this way may have one more of `limit`.
    pub fn admits(&self, way: Way, limit: usize) -> bool {
        let lane = self
            .ways
            .get(&way)
            .and_then(|way| self.lanes.get(&way.lane));
        lane.is_some_and(|lane| lane.under_way < shares::share(limit, self.under_way))
    }

    /// A message is in memory for delivery by this way.
    pub fn enter(&mut self, way: Way) {
        if let Some(entered) = self.ways.get_mut(&way) {
            entered.under_way += 1;
            self.under_way += 1;
            let lane = entered.lane;
            self.recount(lane, |under_way| under_way + 1);
        }
    }

    /// It is not any more.
    pub fn leave(&mut self, way: Way) {
        if let Some(left) = self.ways.get_mut(&way)
            && left.under_way > 0
        {
            left.under_way -= 1;
            self.under_way -= 1;
            let lane = left.lane;
            self.recount(lane, |under_way| under_way.saturating_sub(1));
        }
    }

    fn recount(&mut self, lane: Lane, count: impl FnOnce(usize) -> usize) {
        if let Some(counted) = self.lanes.get_mut(&lane) {
            let before = counted.under_way;
            counted.under_way = count(before);
            if counted.parked {
                self.parked.remove(&(before, lane));
                self.parked.insert((counted.under_way, lane));
            }
        }
    }

    /// When each message that waits on disk is looked at next.
    #[cfg(any(test, feature = "simulation"))]
    pub fn all(&self) -> BTreeMap<QueueId, Millis> {
        let mut all = BTreeMap::new();
        for (due, id) in self.ways.values().flat_map(|way| way.waiting.all()) {
            let first = all.entry(id).or_insert(due);
            *first = due.min(*first);
        }
        all
    }

    /// When the next one is due; at once if one is that may go.
    pub fn next(&self) -> Option<Millis> {
        match self.due.is_empty() {
            true => self.sleeping.first().map(|(due, _)| *due),
            false => Some(0),
        }
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
