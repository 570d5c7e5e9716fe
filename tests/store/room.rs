//! Want of room, of files and of whole bytes: what passes is outlived, and what is lost is told.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use chapar::lab::Volume;
use chapar::message::{Body, Content};
use chapar::queue::store::{Action, Store, StoreError};
use queue_schema::{QueueId, Status};

use crate::support::*;

/// A place on a small disk, and the disk; `None` where nobody may mount.
fn small(mib: u64) -> Option<(Place, Volume)> {
    let mut place = Place::new();
    let at = place.data("disk");
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let volume = match Volume::new(&at, mib) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("skipped, no loop file system can be mounted here: {error}");
            return None;
        }
    };
    place.options.data_dir = at.join("data");
    place.options.segment_size = 256 << 10;
    Some((place, volume))
}

fn accept(place: &Place, store: &Store, id: u64, body: &[u8]) -> Result<(), StoreError> {
    let accepted = store.accept(message(id), content(id, body));
    place.runtime.block_on(accepted).map(drop)
}

/// Accepts until there is no room; the next free id.
fn until_full(place: &Place, store: &Store, mut id: u64) -> u64 {
    loop {
        match accept(place, store, id, &[b'x'; 2000]) {
            Ok(()) => id += 1,
            Err(error) => {
                assert_eq!(error, StoreError::Full);
                return id;
            }
        }
        assert!(id < 20_000, "it is never full");
    }
}

fn no_index_was_condemned(place: &Place) {
    let names = files(&place.options.data_dir);
    let condemned = |path: &PathBuf| path.to_string_lossy().contains("index.");
    assert!(!names.iter().any(condemned), "{names:?}");
}

#[test]
fn q2_q3_a_full_disk_refuses_mail_keeps_outcomes_and_heals_by_itself() {
    let Some((place, small)) = small(32) else {
        return;
    };
    let (store, _) = place.open();
    for id in 1..=100 {
        accept(&place, &store, id, b"x").unwrap();
    }
    small.fill().unwrap();
    let next = until_full(&place, &store, 101);
    // Outcomes find room in the segment, then in the reserve.
    let ends: Vec<_> = (1..=60).map(|id| load(&store, id).unwrap()).collect();
    for message in &ends[..50] {
        place.apply(&store, vec![done(message)]);
    }
    assert_eq!(store.failure(), None);
    assert!(store.room_for_outcomes() > 0);
    let left: Vec<u64> = (51..next).collect();
    assert_eq!(ids(&store), left);
    store.close();
    no_index_was_condemned(&place);

    // A start on a full disk reads, records and refuses mail.
    small.fill().unwrap();
    let (store, recovered) = place.open();
    assert_eq!((ids(&store), recovered.rebuilt), (left, None));
    for message in &ends[50..] {
        place.apply(&store, vec![done(message)]);
    }
    let left: Vec<u64> = (61..next).collect();
    assert_eq!(ids(&store), left);
    assert_eq!(fetch(&store, 61), Ok((head(61), b"x".to_vec())));
    small.fill().unwrap();
    until_full(&place, &store, next);
    assert_eq!(store.failure(), None);

    // By itself.
    small.drain().unwrap();
    let last = next + 5000;
    until("mail is taken again", || {
        accept(&place, &store, last, b"y").is_ok()
    });
    until("the index is on the disk", || place.data("index").exists());
    let all = ids(&store);
    store.close();
    no_index_was_condemned(&place);
    let (store, recovered) = place.open();
    assert_eq!((ids(&store), recovered.rebuilt), (all, None));
    store.close();
}

#[test]
fn q2_segments_are_freed_on_a_full_disk_although_the_index_can_not_follow() {
    let Some((place, small)) = small(32) else {
        return;
    };
    let (store, _) = place.open();
    let next = 1200;
    for id in 1..next {
        accept(&place, &store, id, &[b'x'; 8000]).unwrap();
    }
    small.fill().unwrap();
    until_full(&place, &store, next);
    let before = place.segments().len();
    for message in all(&store) {
        place.apply(&store, vec![done(&message)]);
    }
    until("segments are freed", || place.segments().len() < before);
    until("mail is taken again", || {
        accept(&place, &store, 30_000, b"y").is_ok()
    });
    store.close();
    let (store, _) = place.open();
    assert_eq!(ids(&store), [30_000]);
    store.close();
}

#[test]
fn q2_one_damaged_index_is_kept() {
    let place = Place::new();
    for _ in 0..3 {
        let (store, _) = place.open();
        store.suspect_index().unwrap();
        store.close();
    }
    let (store, recovered) = place.open();
    assert!(recovered.rebuilt.is_some());
    store.close();
    let names = files(&place.options.data_dir);
    let damaged = |path: &&PathBuf| path.to_string_lossy().contains("index.damaged");
    let kept: Vec<_> = names.iter().filter(damaged).collect();
    assert_eq!(kept, [&place.data("index.damaged-1")]);
}

/// Changes in one batch.
const MANY: u64 = 100;

#[test]
fn q3_what_finds_no_room_comes_back_and_is_written_later() {
    let Some((place, small)) = small(24) else {
        return;
    };
    let (store, _) = place.open();
    accept(&place, &store, 1, b"x").unwrap();
    small.fill().unwrap();
    // Far more than the reserve.
    let mut message = load(&store, 1).unwrap();
    let mut written = 0;
    let back = loop {
        let mut changes = Vec::new();
        for _ in 0..MANY {
            written += 1;
            let (change, after) = progress(&message, Status::Waiting, written);
            changes.push(change);
            message = after;
        }
        match place.runtime.block_on(store.apply(changes)) {
            Ok(_) => small.fill().unwrap(),
            Err(refused) => {
                assert_eq!(refused.error, StoreError::Full);
                break refused.actions;
            }
        }
    };
    assert!(written > 20 * MANY, "{written}");
    assert_eq!((back.len() as u64, store.failure()), (MANY, None));
    small.drain().unwrap();
    let mut actions = Some(back);
    until("it is written", || {
        let again = actions.take().unwrap();
        match place.runtime.block_on(store.apply(again)) {
            Ok(_) => true,
            Err(refused) => {
                actions = Some(refused.actions);
                false
            }
        }
    });
    store.close();
    let (store, _) = place.open();
    assert_eq!(load(&store, 1).unwrap().states[0].next_due, written);
    store.close();
}

#[test]
fn q4_a_segment_that_can_not_be_made_now_is_made_later() {
    let mut place = Place::new();
    place.options.segment_size = 16 << 10;
    let (store, _) = place.open();
    let first = place.accept(&store, 1, &[b'x'; 1000]);
    let (away, journal) = (place.data("journal.away"), place.data("journal"));
    fs::rename(&journal, &away).unwrap();
    let mut id = 2;
    let refused = loop {
        match accept(&place, &store, id, &[b'x'; 1000]) {
            Ok(()) => id += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Unready(_)), "{refused:?}");
    // Outcomes come back whole, as on a full disk.
    let mut message = first;
    let refused = loop {
        let (change, after) = progress(&message, Status::Waiting, 7);
        match place.runtime.block_on(store.apply(vec![change])) {
            Ok(_) => message = after,
            Err(refused) => break refused,
        }
    };
    assert!(
        refused.error.passes() && refused.actions.len() == 1,
        "{refused:?}"
    );
    assert_eq!(store.failure(), None);
    fs::rename(&away, &journal).unwrap();
    place.apply(&store, refused.actions);
    accept(&place, &store, id, b"x").unwrap();
    store.close();
    let (store, _) = place.open();
    assert_eq!(ids(&store), (1..=id).collect::<Vec<_>>());
    store.close();
}

#[test]
fn q4_a_spool_directory_that_can_not_be_synced_refuses_one_message_and_not_all() {
    let place = Place::new();
    let (store, _) = place.open();
    let mut writer = store.spool().begin(QueueId(1)).unwrap();
    writer.write(b"a large body").unwrap();
    let file = writer.finish().unwrap();
    let (away, spool) = (place.data("spool.away"), place.data("spool"));
    fs::rename(&spool, &away).unwrap();
    let large = || Content {
        head: head(1).into(),
        body: Body::Spool(file.clone()),
    };
    let refused = place.runtime.block_on(store.accept(message(1), large()));
    assert!(
        matches!(refused, Err(StoreError::Unready(_))),
        "{refused:?}"
    );
    accept(&place, &store, 2, b"small").unwrap();
    fs::rename(&away, &spool).unwrap();
    let accepted = place.runtime.block_on(store.accept(message(1), large()));
    accepted.unwrap();
    assert_eq!(ids(&store), [1, 2]);
    store.close();
}

/// Flips a bit of a message's body in its segment.
fn damage(place: &Place, store: &Store, id: u64) {
    let location = load(store, id).unwrap().location.clone();
    let name = format!("{:012}.journal", location.segment);
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.data("journal").join(name))
        .unwrap();
    let at = location.offset + u64::from(location.length) - 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn q12_a_damaged_message_stops_no_compaction_and_is_named_and_kept() {
    let mut place = Place::new();
    place.options.segment_size = 64 << 10;
    let (store, _) = place.open();
    let body = [b'x'; 8000];
    let part = |id: u64| if id < 3 { &body[..2000] } else { &body[..] };
    let messages: Vec<_> = (1..=40)
        .map(|id| place.accept(&store, id, part(id)))
        .collect();
    let oldest = messages[0].location.segment;
    damage(&place, &store, 1);
    let ends = messages[2..39].iter().map(done).collect();
    place.apply(&store, ends);
    until("what is whole is moved", || {
        load(&store, 2).unwrap().location.segment > oldest
    });
    let mut lost = std::collections::BTreeSet::new();
    until("what is lost is named", || {
        lost.extend(store.take_lost());
        lost.contains(&QueueId(1))
    });
    assert_eq!(lost.len(), 1, "{lost:?}");
    let kept = place
        .data("quarantine")
        .join(format!("{}.record", QueueId(1)));
    assert!(fs::metadata(&kept).unwrap().len() > 2000);
    assert_eq!(fetch(&store, 2), Ok((head(2), part(2).to_vec())));
    place.apply(&store, vec![done(&messages[0])]);
    let gone = place.data("journal").join(format!("{oldest:012}.journal"));
    until("the segment is freed", || !gone.exists());
    assert_eq!(ids(&store), [2, 40]);
    store.close();
}

#[test]
fn a_store_that_can_not_be_written_is_read_as_it_is() {
    let Some((place, small)) = small(32) else {
        return;
    };
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"one");
    place.accept(&store, 2, b"two");
    place.apply(&store, vec![done(&first)]);
    store.close();
    drop(store);
    small.remount("ro").unwrap();
    let error = Store::open(&place.options).err().unwrap();
    assert!(error.may_be_read(), "{error}");
    let (store, recovered) = Store::look(&place.options, &error).unwrap();
    assert_eq!(recovered.waiting.len(), 1);
    assert_eq!(ids(&store), [2]);
    assert_eq!(fetch(&store, 2), Ok((head(2), b"two".to_vec())));
    let message = load(&store, 2).unwrap();
    let refused: Vec<Action> = vec![done(&message)];
    assert!(place.runtime.block_on(store.apply(refused)).is_err());
    assert!(store.failure().is_some() && store.needs_restart().is_none());
    store.close();
    drop(store);
    small.remount("rw").unwrap();
    let (store, _) = place.open();
    assert_eq!(ids(&store), [2]);
    store.close();
}

#[test]
fn verify_compares_journal_index_and_counts() {
    let place = Place::new();
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"one");
    place.accept(&store, 2, b"two");
    place.apply(&store, vec![done(&first)]);
    let verify = |store: &Store| {
        let both = store.scanner().run_blocking(|reader| {
            let counts = reader.verify_counts().unwrap();
            (counts, reader.verify_journal().unwrap())
        });
        both.unwrap()
    };
    assert_eq!(verify(&store), (Vec::new(), Vec::new()));
    store.close();
    let (store, _) = place.open();
    assert_eq!(verify(&store), (Vec::new(), Vec::new()));
    // The journal loses the record of a message that the index knows.
    damage(&place, &store, 2);
    let (counts, journal) = verify(&store);
    assert_eq!(counts, Vec::new());
    assert_eq!(journal.len(), 1);
    assert_eq!(journal[0].place, QueueId(2).to_string());
    store.close();
}
