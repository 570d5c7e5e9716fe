//! The store through its own interface: what was acknowledged is there after every kind of start.

mod crash;
mod damage;
mod power;
mod room;
mod space;
mod support;

use queue_schema::{QueueId, Status};
use support::*;

#[test]
fn what_was_accepted_is_there_after_a_restart() {
    let place = Place::new();
    let (store, recovered) = place.open();
    assert!(recovered.waiting.is_empty() && recovered.rebuilt.is_none());
    for id in 1..=20 {
        let message = place.accept(&store, id, format!("body {id}").as_bytes());
        assert_eq!(
            message.size as usize,
            head(id).len() + format!("body {id}").len()
        );
    }
    assert_eq!(ids(&store), (1..=20).collect::<Vec<_>>());
    store.close();

    let (store, recovered) = place.open();
    assert_eq!(recovered.waiting.len(), 20);
    assert!(recovered.waiting.contains(&(1_700_000_000_007, QueueId(7))));
    assert_eq!(recovered.highest, QueueId(20));
    assert!(recovered.damage.is_empty() && recovered.rebuilt.is_none());
    for id in 1..=20 {
        assert_eq!(
            fetch(&store, id),
            Ok((head(id), format!("body {id}").into_bytes()))
        );
    }
    store.close();
}

#[test]
fn states_survive_and_done_messages_do_not() {
    let place = Place::new();
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"x");
    let second = place.accept(&store, 2, b"y");
    let (change, first) = progress(&first, Status::Waiting, 99);
    place.apply(&store, vec![change, done(&second)]);
    assert_eq!(
        load(&store, 1),
        Some(first.clone()),
        "a reader sees what was just answered"
    );
    assert_eq!(load(&store, 2), None);
    store.close();

    let (store, recovered) = place.open();
    assert_eq!(recovered.waiting, [(99, QueueId(1))]);
    assert_eq!(all(&store), [first]);
    store.close();
}

#[test]
fn a_message_that_comes_and_goes_quickly_never_touches_the_index() {
    let mut place = Place::new();
    place.options.flush_every = std::time::Duration::from_secs(600);
    let (store, _) = place.open();
    for id in 1..=100 {
        let message = place.accept(&store, id, b"x");
        place.apply(&store, vec![done(&message)]);
    }
    assert_eq!(store.stats().messages, 0);
    assert!(ids(&store).is_empty());
    store.close();
    let (store, recovered) = place.open();
    assert_eq!(
        (recovered.waiting.len(), recovered.highest),
        (0, QueueId(100))
    );
    store.close();
}

#[test]
fn a_group_is_one_record_and_is_read_back() {
    use chapar::queue::store::Action;
    let place = Place::new();
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"x");
    let (change, first) = progress(&first, Status::Bounced, 0);
    let dsn = Action::Accept(Box::new(message(2)), content(2, b"it failed"));
    let accepted = place.apply(&store, vec![Action::Group(vec![dsn, change])]);
    assert_eq!(accepted.len(), 1);
    assert_eq!(fetch(&store, 2), Ok((head(2), b"it failed".to_vec())));
    store.close();
    std::fs::remove_dir_all(place.data("index")).unwrap();
    let (store, _) = place.open();
    assert_eq!(all(&store), [first, accepted[0].clone()]);
    assert_eq!(fetch(&store, 2), Ok((head(2), b"it failed".to_vec())));
    store.close();
}

#[test]
fn large_bodies_are_files_that_end_with_their_message() {
    let place = Place::new();
    let (store, _) = place.open();
    let spool = store.spool();
    let body = vec![b'x'; 1 << 20];
    let write = |id: u64| {
        let mut writer = spool.begin(QueueId(id)).unwrap();
        for chunk in body.chunks(100_000) {
            writer.write(chunk).unwrap();
        }
        assert_eq!(writer.len(), body.len() as u64);
        writer.finish().unwrap()
    };
    let accept = |id: u64, file| {
        let body = chapar::message::Body::Spool(file);
        let content = chapar::message::Content {
            head: head(id).into(),
            body,
        };
        place
            .runtime
            .block_on(store.accept(message(id), content))
            .unwrap()
    };
    let first = accept(1, write(1));
    accept(2, write(2));
    write(3);
    drop(spool.begin(QueueId(4)).unwrap());
    std::mem::forget(spool.begin(QueueId(5)).unwrap());
    assert_eq!(fetch(&store, 1), Ok((head(1), body.clone())));
    place.apply(&store, vec![done(&first)]);
    until("the file of a finished message is removed", || {
        !place.data("spool").join(QueueId(1).to_string()).exists()
    });
    store.close();

    let left = |place: &Place| files(&place.data("spool"));
    assert_eq!(left(&place).len(), 3, "2, the orphan 3 and the temporary 5");
    let (store, _) = place.open();
    assert_eq!(
        left(&place),
        [place.data("spool").join(QueueId(2).to_string())]
    );
    assert_eq!(fetch(&store, 2), Ok((head(2), body)));
    store.close();
}

#[test]
fn everything_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let (store, _) = place.open();
    place.accept(&store, 1, b"x");
    store.spool().begin(QueueId(2)).unwrap().finish().unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for dir in ["", "journal", "spool", "quarantine"] {
        assert_eq!(mode(&place.data(dir)), 0o700, "{dir}");
    }
    let spooled = place.data("spool").join(QueueId(2).to_string());
    for file in [&place.data("lock"), &place.segments()[0], &spooled] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    store.close();
}

#[test]
fn a_second_process_is_refused() {
    let place = Place::new();
    let (store, _) = place.open();
    let error = chapar::queue::store::Store::open(&place.options)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    store.close();
    let (store, _) = place.open();
    store.close();
}

#[test]
fn a_closed_store_refuses_and_loses_nothing_it_acknowledged() {
    use chapar::queue::store::StoreError;
    let place = Place::new();
    let (store, _) = place.open();
    place.accept(&store, 1, b"x");
    store.close();
    let refused = place
        .runtime
        .block_on(store.accept(message(2), content(2, b"y")));
    assert_eq!(refused, Err(StoreError::Closed));
    let (store, _) = place.open();
    assert_eq!(ids(&store), [1]);
    store.close();
}

#[test]
fn a_scan_sees_every_message_once_however_many_changes_the_index_does_not_hold_yet() {
    let mut place = Place::new();
    place.options.flush_every = std::time::Duration::from_millis(30);
    let (store, _) = place.open();
    // Some in the index, more than a page of changes beyond it, some of each changed or gone.
    place.runtime.block_on(async {
        for start in [1, 3001, 6001, 9001] {
            let some = (start..start + 3000).map(|id| store.accept(message(id), content(id, b"x")));
            let some = futures_util::future::join_all(some)
                .await
                .into_iter()
                .map(Result::unwrap);
            let ended = some.filter(|message| message.id.0.is_multiple_of(5));
            store
                .apply(ended.map(|message| done(&message)).collect())
                .await
                .unwrap();
        }
    });
    let expected: Vec<u64> = (1..=12_000u64).filter(|id| !id.is_multiple_of(5)).collect();
    for _ in 0..5 {
        assert_eq!(ids(&store), expected);
        std::thread::sleep(std::time::Duration::from_millis(15));
    }
    store.close();
}

#[test]
fn q1_a_second_end_and_a_change_after_it_change_nothing() {
    let mut place = Place::new();
    place.options.segment_size = 16 << 10;
    let (store, _) = place.open();
    let stays = place.accept(&store, 1, &[b'x'; 2000]);
    let ends: Vec<_> = (2..=5)
        .map(|id| place.accept(&store, id, &[b'x'; 2000]))
        .collect();
    for message in &ends {
        // In one batch and in two, with the index behind it or not.
        place.apply(&store, vec![done(message), done(message)]);
        until("the index follows", || {
            store.stats().messages == ids(&store).len() as u64
        });
        place.apply(&store, vec![done(message)]);
        let (change, _) = progress(message, Status::Waiting, 99);
        place.apply(&store, vec![change]);
    }
    assert_eq!((ids(&store), store.stats().messages), (vec![1], 1));
    for id in 6..=30 {
        let message = place.accept(&store, id, &[b'x'; 2000]);
        place.apply(&store, vec![done(&message)]);
    }
    until("segments are freed", || place.segments().len() <= 3);
    assert_eq!(fetch(&store, 1), Ok((head(1), vec![b'x'; 2000])));
    assert_eq!(ids(&store), [1]);
    store.close();
    let (store, _) = place.open();
    assert_eq!(all(&store)[0].envelope, stays.envelope);
    store.close();
}
