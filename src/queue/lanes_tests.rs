use super::*;
use crate::shares::LEAST;

/// Enough for anything here.
const LIMIT: usize = 20_000;

fn waits(lanes: &mut Lanes, id: u64, name: &str, due: Millis) -> Way {
    let way = lanes.way(name);
    lanes.set(QueueId(id), way, due);
    way
}

fn hang(lanes: &mut Lanes, way: Way, limit: usize) -> usize {
    let mut count = 0;
    while lanes.admits(way, limit) {
        lanes.enter(way);
        count += 1;
    }
    count
}

#[test]
fn messages_come_in_the_order_they_are_due_and_each_once() {
    let mut lanes = Lanes::default();
    let one = lanes.way("example.net");
    for (id, at) in [(1, 30), (2, 10), (3, 20), (1, 5)] {
        lanes.set(QueueId(id), one, at);
    }
    assert_eq!(lanes.next(), Some(5));
    assert_eq!(lanes.take(4, LIMIT), None);
    assert_eq!(lanes.take(10, LIMIT), Some((QueueId(1), one)));
    lanes.remove(QueueId(3), one);
    lanes.remove(QueueId(9), one);
    assert_eq!(lanes.take(100, LIMIT), Some((QueueId(2), one)));
    assert_eq!((lanes.take(100, LIMIT), lanes.next()), (None, None));
    // A message that waits for another destination from now on is there once.
    let other = lanes.way("example.com");
    lanes.set(QueueId(4), one, 7);
    lanes.remove(QueueId(4), one);
    lanes.set(QueueId(4), other, 9);
    assert_eq!(lanes.next(), Some(9));
    assert_eq!(lanes.take(9, LIMIT), Some((QueueId(4), other)));
    assert_eq!((lanes.take(100, LIMIT), lanes.next()), (None, None));
}

#[test]
fn a_clock_that_is_set_back_puts_what_was_due_to_sleep_again() {
    let mut lanes = Lanes::default();
    let one = waits(&mut lanes, 1, "example.net", 10);
    waits(&mut lanes, 2, "example.net", 11);
    assert_eq!(lanes.take(20, LIMIT), Some((QueueId(1), one)));
    assert_eq!(lanes.take(5, LIMIT), None);
    assert_eq!(lanes.next(), Some(11));
    assert_eq!(lanes.take(11, LIMIT), Some((QueueId(2), one)));
}

#[test]
fn i10_lanes_take_turns() {
    let mut lanes = Lanes::default();
    for id in 0..1000 {
        waits(&mut lanes, id, "busy.example", 1);
    }
    waits(&mut lanes, 5000, "example.org", 50);
    let taken: Vec<_> = (0..2).map(|_| lanes.take(60, LIMIT).unwrap().0.0).collect();
    assert!(taken.contains(&5000), "{taken:?}");

    let (one, other) = (lanes.way("busy.example"), lanes.way("example.org"));
    for id in 0..1000 {
        lanes.push(QueueId(id), one);
    }
    lanes.push(QueueId(5000), other);
    assert_eq!(lanes.fresh(), 1001);
    let first: Vec<_> = (0..3).map(|_| lanes.pop(LIMIT).unwrap().0.0).collect();
    assert_eq!(first, [0, 5000, 1]);
    let rest = std::iter::from_fn(|| lanes.pop(LIMIT)).count();
    assert_eq!((rest, lanes.fresh()), (998, 0));
}

#[test]
fn q14_a_message_waits_by_each_of_its_ways() {
    let mut lanes = Lanes::default();
    let (busy, other) = (lanes.way("busy.example"), lanes.way("other.example"));
    hang(&mut lanes, busy, LIMIT);
    for order in [[busy, other], [other, busy]] {
        for way in order {
            lanes.set(QueueId(7), way, 5);
        }
        assert_eq!(lanes.take(5, LIMIT), Some((QueueId(7), other)));
        assert_eq!(lanes.take(5, LIMIT), None, "busy.example has its share");
    }
}

#[test]
fn d6_no_two_names_share_a_lane() {
    // 4,000 names: of 1,024 classes by a checksum, each would hold about four.
    let mut lanes = Lanes::default();
    let busy = lanes.way("busy.example");
    hang(&mut lanes, busy, LIMIT);
    for n in 0..4000 {
        waits(&mut lanes, n, &format!("d{n}.example"), 1);
    }
    waits(&mut lanes, 9999, "busy.example", 1);
    let taken = std::iter::from_fn(|| lanes.take(1, LIMIT)).count();
    assert_eq!(taken, 4000);
}

#[test]
fn d6_ways_to_one_destination_share_a_lane_once_it_is_known() {
    let mut lanes = Lanes::default();
    let (a, b, c) = (
        lanes.way("a.example"),
        lanes.way("b.example"),
        lanes.way("c.example"),
    );
    for id in 0..10 {
        lanes.set(QueueId(id), a, 1);
        lanes.set(QueueId(100 + id), b, 1);
    }
    lanes.push(QueueId(200), b);
    lanes.set(QueueId(300), c, 1);
    // Under way before it is known counts as well.
    lanes.enter(a);
    lanes.enter(b);
    assert_eq!(lanes.take(1, LIMIT), Some((QueueId(0), a)));
    for way in ["a.example", "b.example", "nobody.example"] {
        lanes.belongs(way, &"mx.example.net".into());
    }
    assert_eq!(lanes.lanes.len(), 2);
    let order: Vec<Way> = (0..4).map(|_| lanes.take(1, LIMIT).unwrap().1).collect();
    assert_eq!(
        order.iter().filter(|way| **way == c).count(),
        1,
        "c has a lane of its own"
    );
    assert!(
        order.contains(&a) && order.contains(&b),
        "they take turns in theirs"
    );
    assert_eq!(lanes.pop(LIMIT), Some((QueueId(200), b)));
    // What a has, b can not have.
    let taken = hang(&mut lanes, a, LIMIT);
    assert!(!lanes.admits(b, LIMIT) && lanes.admits(c, LIMIT), "{taken}");
    assert_eq!(lanes.take(1, LIMIT), None);
    // One that moves away has a share again.
    lanes.belongs("b.example", &"mx.example.com".into());
    assert_eq!(lanes.take(1, LIMIT).map(|(_, way)| way), Some(b));
}

#[test]
fn i10_a_lane_that_may_have_no_more_costs_nothing_until_it_may() {
    let mut lanes = Lanes::default();
    let one = waits(&mut lanes, 1, "busy.example", 1);
    let other = waits(&mut lanes, 2, "example.org", 50);
    let count = hang(&mut lanes, one, LIMIT);
    assert_eq!(lanes.take(60, LIMIT), Some((QueueId(2), other)));
    // Nothing wakes the queue for it, not even when it changes.
    lanes.set(QueueId(3), one, 0);
    assert_eq!((lanes.take(60, LIMIT), lanes.next()), (None, None));
    lanes.unpark(LIMIT);
    assert_eq!(lanes.next(), None);
    lanes.leave(one);
    lanes.unpark(LIMIT);
    assert_eq!(lanes.take(60, LIMIT), Some((QueueId(3), one)));

    // New mail is parked with it, and comes back with it.
    lanes.push(QueueId(4), one);
    lanes.push(QueueId(5), other);
    lanes.enter(one);
    assert_eq!(lanes.pop(LIMIT), Some((QueueId(5), other)));
    assert_eq!((lanes.pop(LIMIT), lanes.fresh()), (None, 1));
    for _ in 0..count {
        lanes.leave(one);
    }
    lanes.unpark(LIMIT);
    assert_eq!(lanes.pop(LIMIT), Some((QueueId(4), one)));
    assert_eq!(lanes.take(60, LIMIT), Some((QueueId(1), one)));
}

#[test]
fn i10_destinations_that_hang_leave_room_for_the_others() {
    let mut lanes = Lanes::default();
    let mut taken = Vec::new();
    for domain in 0..40 {
        let way = lanes.way(&format!("d{domain}.example"));
        taken.push(hang(&mut lanes, way, LIMIT));
    }
    assert_eq!((taken.first(), taken.get(1)), (Some(&2223), Some(&1976)));
    let other = lanes.way("example.org");
    assert!(lanes.admits(other, LIMIT));
    assert!(LIMIT - lanes.under_way > 100, "{}", lanes.under_way);
    // However little there is, each has something.
    let (one, last) = (lanes.way("one.example"), lanes.way("last.example"));
    assert_eq!(hang(&mut lanes, one, 1), LEAST);
    assert!(lanes.admits(last, 1));
}

#[test]
fn d6_the_next_costs_the_same_however_many_destinations_wait() {
    let mut lanes = Lanes::default();
    // A tenth of them has its share already.
    for n in 0..50_000 {
        let way = waits(&mut lanes, n, &format!("d{n}.example"), n % 100);
        if n % 10 == 0 {
            (0..LEAST).for_each(|_| lanes.enter(way));
        }
    }
    // Each is looked at once and no more: what may have no more stands in no ring.
    let taken = std::iter::from_fn(|| lanes.take(100, 1)).count();
    assert_eq!(taken, 45_000);
    assert_eq!((lanes.parked.len(), lanes.due.len()), (5000, 0));
    lanes.unpark(1);
    assert_eq!((lanes.parked.len(), lanes.take(100, 1)), (5000, None));
}

#[test]
fn d6_names_nobody_waits_for_are_forgotten_and_what_waits_is_not() {
    let mut lanes = Lanes::default();
    let kept = waits(&mut lanes, 1, "kept.example", 7);
    let flying = lanes.way("flying.example");
    lanes.enter(flying);
    for n in 0..10_000 {
        let way = waits(&mut lanes, 2, &format!("d{n}.example"), 1);
        lanes.belongs(&format!("d{n}.example"), &format!("mx{n}.example").into());
        assert_eq!(lanes.take(1, LIMIT), Some((QueueId(2), way)));
        lanes.tidy();
    }
    assert!(lanes.ways.len() <= KNOWN + 1, "{}", lanes.ways.len());
    assert_eq!(lanes.ways.len(), lanes.names.len());
    assert!(lanes.lanes.len() <= lanes.ways.len());
    assert!(lanes.destinations.len() <= lanes.lanes.len());
    assert_eq!(
        (lanes.way("kept.example"), lanes.way("flying.example")),
        (kept, flying)
    );
    assert_eq!(lanes.take(7, LIMIT), Some((QueueId(1), kept)));
}

mod model {
    //! Against a list that is looked through each time.
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Place(u8, Vec<(u8, u8)>),
        Push(u8, u8),
        Belongs(u8, u8),
        Take(u8),
        Pop,
        Leave,
        Tidy,
    }

    fn step() -> impl Strategy<Value = Step> {
        let way = 0..6u8;
        prop_oneof![
            (
                0..20u8,
                proptest::collection::vec((way.clone(), any::<u8>()), 0..3)
            )
                .prop_map(|(id, waits)| Step::Place(id, waits)),
            (0..20u8, way.clone()).prop_map(|(id, way)| Step::Push(id, way)),
            (way, 0..3u8).prop_map(|(way, to)| Step::Belongs(way, to)),
            any::<u8>().prop_map(Step::Take),
            Just(Step::Pop),
            Just(Step::Leave),
            Just(Step::Tidy),
        ]
    }

    proptest! {
        #[test]
        fn nothing_strands_and_nothing_comes_too_early(steps in proptest::collection::vec(step(), 0..200)) {
            let mut lanes = Lanes { sweep_at: 0, ..Lanes::default() };
            let mut waiting = BTreeMap::new();
            let mut fresh = Vec::new();
            let mut flying = Vec::new();
            let name = |way: u8| format!("w{way}.example");
            for step in steps {
                match step {
                    Step::Place(id, waits) => {
                        let waits: BTreeMap<u8, u8> = waits.into_iter().collect();
                        for way in 0..6 {
                            let numbered = lanes.way(&name(way));
                            match waits.get(&way) {
                                Some(due) => {
                                    lanes.set(QueueId(id.into()), numbered, (*due).into());
                                }
                                None => lanes.remove(QueueId(id.into()), numbered),
                            }
                        }
                        waiting.retain(|(known, _), _| *known != id);
                        waiting.extend(waits.into_iter().map(|(way, due)| ((id, way), due)));
                    }
                    Step::Push(id, way) => {
                        let way = lanes.way(&name(way));
                        lanes.push(QueueId(id.into()), way);
                        fresh.push((QueueId(id.into()), way));
                    }
                    Step::Belongs(way, to) => lanes.belongs(&name(way), &format!("mx{to}").into()),
                    Step::Take(now) => {
                        // No lane has so many that it is full: what is due comes.
                        let taken = lanes.take(now.into(), LIMIT);
                        let due = waiting.values().any(|due| *due <= now);
                        prop_assert_eq!(taken.is_some(), due);
                        if let Some((id, way)) = taken {
                            let named = (0..6).find(|n| lanes.names.get(&*name(*n)) == Some(&way));
                            let key = (u8::try_from(id.0).unwrap(), named.unwrap());
                            prop_assert!(waiting.remove(&key).is_some_and(|due| due <= now));
                            lanes.enter(way);
                            flying.push(way);
                        }
                    }
                    Step::Pop => {
                        let popped = lanes.pop(LIMIT);
                        prop_assert_eq!(popped.is_some(), !fresh.is_empty());
                        if let Some(popped) = popped {
                            let at = fresh.iter().position(|one| *one == popped);
                            fresh.remove(at.unwrap());
                        }
                    }
                    Step::Leave => {
                        if let Some(way) = flying.pop() {
                            lanes.leave(way);
                        }
                    }
                    Step::Tidy => lanes.tidy(),
                }
                let times: usize = lanes.ways.values().map(|way| way.waiting.len()).sum();
                prop_assert_eq!(times, waiting.len());
                let first = waiting.values().min().copied().map(Millis::from);
                prop_assert!(lanes.next().unwrap_or(Millis::MAX) <= first.unwrap_or(Millis::MAX));
                prop_assert_eq!(lanes.fresh(), fresh.len());
                prop_assert_eq!(lanes.under_way, flying.len());
                let counted: usize = lanes.lanes.values().map(|lane| lane.under_way).sum();
                prop_assert_eq!(counted, flying.len());
            }
        }
    }
}
