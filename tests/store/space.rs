//! Space: segments are freed from the oldest, live messages are carried on, and a full disk
//! refuses mail before it can lose any.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use chapar::queue::store::{Store, StoreError};
use queue_schema::Status;

use crate::support::*;

fn small() -> Place {
    let mut place = Place::new();
    place.options.segment_size = 64 << 10;
    place
}

#[test]
fn segments_are_freed_from_the_oldest_and_never_before_their_messages_ended() {
    let place = small();
    let (store, _) = place.open();
    let body = [b'x'; 8000];
    let messages: Vec<_> = (1..=40).map(|id| place.accept(&store, id, &body)).collect();
    assert!(place.segments().len() >= 6, "several segments");
    let before = place.segments().len();
    // All but the oldest and the newest end: the oldest, 1/7 alive, is compacted.
    let ends = messages[1..39].iter().map(done).collect();
    place.apply(&store, ends);
    until("segments are freed", || place.segments().len() <= 3);
    assert!(place.segments().len() < before);
    assert_eq!(ids(&store), [1, 40]);
    assert_eq!(fetch(&store, 1), Ok((head(1), body.to_vec())));
    assert_eq!(fetch(&store, 40), Ok((head(40), body.to_vec())));
    store.close();

    std::fs::remove_dir_all(place.data("index")).unwrap();
    let (store, recovered) = place.open();
    assert_eq!(
        ids(&store),
        [1, 40],
        "a rebuild brings nothing back that ended"
    );
    assert!(recovered.damage.is_empty());
    store.close();
}

#[test]
fn a_segment_is_not_compacted_while_its_messages_are_just_being_delivered() {
    let mut place = small();
    place.options.compact_after = Duration::from_secs(3600);
    let (store, _) = place.open();
    let body = [b'x'; 8000];
    let messages: Vec<_> = (1..=40).map(|id| place.accept(&store, id, &body)).collect();
    let all = place.segments();
    // The oldest keeps one of seven; the second ends, but goes only after the oldest.
    let ends = messages[1..39].iter().map(done).collect();
    place.apply(&store, ends);
    until("the end of the others is in the index", || {
        ids(&store) == [1, 40]
    });
    assert_eq!(load(&store, 1).unwrap().location, messages[0].location);
    place.apply(&store, vec![done(&messages[0])]);
    until("segments are freed without a copy", || {
        place.segments().first() == all.last()
    });
    store.close();
}

#[test]
fn q12_damage_stops_no_compaction_and_what_is_around_it_is_moved() {
    let mut place = small();
    place.options.compact_after = Duration::from_secs(3600);
    let (store, _) = place.open();
    let body = [b'x'; 4000];
    let messages: Vec<_> = (1..=20).map(|id| place.accept(&store, id, &body)).collect();
    let oldest = place.segments()[0].clone();
    let file = std::fs::File::options().write(true).open(&oldest).unwrap();
    file.write_all_at(&[0xff; 8], messages[1].location.offset + 8)
        .unwrap();
    let ends = messages[3..19].iter().map(done).collect();
    place.apply(&store, ends);
    store.close();

    place.options.compact_after = Duration::ZERO;
    let (store, _) = place.open();
    for id in [1, 3] {
        let before = messages[id as usize - 1].location.clone();
        until("it is moved", || {
            load(&store, id).unwrap().location != before
        });
        assert_eq!(fetch(&store, id), Ok((head(id), body.to_vec())));
    }
    until("the damaged one is named", || {
        store.take_lost().contains(&queue_schema::QueueId(2))
    });
    assert!(oldest.exists(), "as long as it is not ended");
    place.apply(&store, vec![done(&messages[1])]);
    until("its segment is freed", || !oldest.exists());
    store.close();
}

#[test]
fn a_message_that_was_moved_keeps_its_state_and_can_still_be_changed_by_who_holds_it() {
    let place = small();
    let (store, _) = place.open();
    let body = [b'x'; 8000];
    let first = place.accept(&store, 1, &body);
    let (change, held) = progress(&first, Status::Waiting, 4242);
    place.apply(&store, vec![change]);
    let rest: Vec<_> = (2..=20).map(|id| place.accept(&store, id, &body)).collect();
    place.apply(&store, rest.iter().map(done).collect());
    until("message 1 is moved", || {
        load(&store, 1).unwrap().location != first.location
    });
    assert_eq!(load(&store, 1).unwrap().states, held.states);
    assert_eq!(fetch(&store, 1).unwrap().1, body);
    until("its first segment is gone", || {
        !place.segments()[0].ends_with("000000000001.journal")
    });

    // Who fetched it before the move still finds it, and its outcome lands on the moved one.
    let content = store
        .readers()
        .run_blocking(move |reader| reader.fetch(first.id, &first.location))
        .unwrap()
        .unwrap();
    assert_eq!(content.len() as usize, head(1).len() + body.len());
    let (change, after) = progress(&held, Status::Delivered, 0);
    place.apply(&store, vec![change]);
    let now = load(&store, 1).unwrap();
    assert_eq!(
        (&now.states, now.location != held.location),
        (&after.states, true)
    );
    store.close();
    for lose_index in [false, true] {
        if lose_index {
            std::fs::remove_dir_all(place.data("index")).unwrap();
        }
        let (store, _) = place.open();
        assert_eq!(load(&store, 1).unwrap().states, after.states);
        assert_eq!(fetch(&store, 1).unwrap().1, body);
        store.close();
    }
    let (store, _) = place.open();
    place.apply(&store, vec![done(&load(&store, 1).unwrap())]);
    assert_eq!(store.stats().messages, 0);
    assert_eq!(
        store.stats().live,
        0,
        "the moved record counts as dead, not the first one"
    );
    store.close();
}

#[test]
fn i7_below_the_free_space_limit_mail_is_refused_and_outcomes_are_not() {
    let mut place = Place::new();
    let (store, _) = place.open();
    let message = place.accept(&store, 1, b"x");
    store.close();
    place.options.free_space = u64::MAX;
    let (store, _) = place.open();
    let refused = place
        .runtime
        .block_on(store.accept(crate::support::message(2), content(2, b"y")));
    assert_eq!(refused, Err(StoreError::Full));
    assert_eq!(store.failure(), None, "it recovers by itself");
    place.apply(&store, vec![done(&message)]);
    store.close();
    place.options.free_space = 0;
    let (store, _) = place.open();
    assert!(ids(&store).is_empty());
    place.accept(&store, 3, b"z");
    store.close();
}

#[test]
fn one_sync_serves_many_and_a_lone_message_waits_for_none() {
    let place = Place::new();
    let (store, _) = place.open();
    place.accept(&store, 1, b"x");
    assert_eq!(store.stats().syncs, 1);
    let store = Arc::new(store);
    place.runtime.block_on(async {
        let tasks: Vec<_> = (2..=401)
            .map(|id| {
                let store = store.clone();
                tokio::spawn(async move { store.accept(message(id), content(id, b"y")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    let syncs = store.stats().syncs - 1;
    assert!(syncs < 200, "{syncs} syncs for 400 messages");
    assert_eq!(ids(&store).len(), 401);
    store.close();
}

#[test]
fn one_sync_serves_what_comes_while_several_transactions_are_open() {
    let place = Place::new();
    let (store, _) = place.open();
    let open: Vec<_> = (0..40).map(|_| store.arrivals().begin()).collect();
    let store = Arc::new(store);
    // Twenty clients, each of which sends the next message when the last one is durable.
    place.runtime.block_on(async {
        let clients: Vec<_> = (0..20)
            .map(|client| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 1..=20 {
                        let id = client * 20 + n;
                        store.accept(message(id), content(id, b"y")).await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
    let syncs = store.stats().syncs;
    assert!(syncs <= 100, "{syncs} syncs for 400 messages of 20 clients");
    drop(open);
    assert_eq!(store.arrivals().count(), 0);
    store.close();
}

#[test]
fn changes_share_the_sync_of_the_message_they_come_with_and_outlive_its_refusal() {
    let mut place = Place::new();
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"x");
    let second = place.accept(&store, 2, b"x");
    let syncs = store.stats().syncs;
    let (apply, applied) = Store::prepare(vec![done(&first)]);
    place.runtime.block_on(async {
        let accept = store.accept_with(message(3), content(3, b"y"), Some(apply));
        let (accepted, applied) = tokio::join!(accept, applied);
        accepted.unwrap();
        assert!(applied.unwrap().is_empty());
    });
    assert_eq!(store.stats().syncs, syncs + 1);
    store.close();

    place.options.free_space = u64::MAX;
    let (store, _) = place.open();
    let (apply, applied) = Store::prepare(vec![done(&second)]);
    place.runtime.block_on(async {
        let accept = store.accept_with(message(4), content(4, b"y"), Some(apply));
        let (accepted, applied) = tokio::join!(accept, applied);
        assert_eq!(accepted.unwrap_err(), StoreError::Full);
        assert!(applied.unwrap().is_empty());
    });
    assert_eq!(ids(&store), [3]);
    store.close();
}
