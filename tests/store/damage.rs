//! Invariant I6: what is damaged is put aside and reported, the rest is there.

use std::fs;
use std::os::unix::fs::FileExt;

use queue_schema::segment::SEGMENT_START;
use queue_schema::{QueueId, Status};

use crate::support::*;

/// A store with messages 1 to 9; 3 is deferred, 4 is done.
fn filled() -> Place {
    let place = Place::new();
    let (store, _) = place.open();
    for id in 1..=9 {
        let message = place.accept(&store, id, format!("body {id}").as_bytes());
        match id {
            3 => drop(place.apply(&store, vec![progress(&message, Status::Waiting, 77).0])),
            4 => drop(place.apply(&store, vec![done(&message)])),
            _ => {}
        }
    }
    store.close();
    place
}

const LIVE: [u64; 8] = [1, 2, 3, 5, 6, 7, 8, 9];

#[test]
fn i6_a_lost_index_is_made_again_from_the_journal() {
    let place = filled();
    fs::remove_dir_all(place.data("index")).unwrap();
    let (store, recovered) = place.open();
    assert_eq!(ids(&store), LIVE);
    assert!(recovered.waiting.contains(&(77, QueueId(3))));
    assert_eq!(load(&store, 3).unwrap().states[0].attempts, 1);
    assert_eq!(fetch(&store, 9), Ok((head(9), b"body 9".to_vec())));
    store.close();
}

#[test]
fn i6_an_index_of_another_version_journal_or_time_is_made_again() {
    // Of another journal.
    let place = filled();
    let other = filled();
    fs::remove_dir_all(place.data("index")).unwrap();
    fs::rename(other.data("index"), place.data("index")).unwrap();
    let (store, recovered) = place.open();
    assert!(
        recovered
            .rebuilt
            .unwrap()
            .contains("does not belong to this journal")
    );
    assert_eq!(ids(&store), LIVE);
    store.close();
    assert!(place.data("index.damaged-1").exists());

    // Ahead of the journal, which was brought back from an old copy.
    let last = place.segments().pop().unwrap();
    let length = |path: &std::path::Path| fs::metadata(path).unwrap().len();
    let (store, _) = place.open();
    let newest = place.segments().pop().unwrap();
    assert_ne!(newest, last);
    place.accept(&store, 10, b"x");
    until("the checkpoint moves", || {
        store.stats().used > SEGMENT_START as u64
    });
    store.close();
    assert!(length(&newest) > SEGMENT_START as u64);
    fs::OpenOptions::new()
        .write(true)
        .open(&newest)
        .unwrap()
        .set_len(SEGMENT_START as u64)
        .unwrap();
    let (store, recovered) = place.open();
    assert!(recovered.rebuilt.unwrap().contains("ahead of the journal"));
    assert_eq!(ids(&store), LIVE);
    store.close();

    // Marked by a daemon that saw it fail.
    fs::write(place.data("index.suspect"), b"").unwrap();
    let (store, recovered) = place.open();
    assert!(recovered.rebuilt.is_some());
    assert_eq!(ids(&store), LIVE);
    store.close();
    let (store, recovered) = place.open();
    assert_eq!(recovered.rebuilt, None, "once is enough");
    store.close();
}

/// Bytes of the index flip: whatever sled makes of it, all messages are there.
#[test]
fn i6_a_damaged_index_loses_nothing() {
    fn all_files(dir: &std::path::Path, out: &mut Vec<std::path::PathBuf>) {
        for path in files(dir) {
            if path.is_dir() {
                all_files(&path, out)
            } else {
                out.push(path)
            }
        }
    }
    for round in 0..12u64 {
        let mut place = filled();
        place.options.index_limit = std::time::Duration::from_secs(2);
        let mut paths = Vec::new();
        all_files(&place.data("index"), &mut paths);
        paths.retain(|path| path.metadata().unwrap().len() > 0);
        let path = &paths[round as usize % paths.len()];
        let mut bytes = fs::read(path).unwrap();
        let place_of = (round as usize * 7919 + 13) % bytes.len();
        bytes[place_of] ^= 1 << (round % 8);
        fs::write(path, &bytes).unwrap();
        let (store, _) = place.open();
        assert_eq!(ids(&store), LIVE, "byte {place_of} of {}", path.display());
        store.close();
    }
}

#[test]
fn i6_a_damaged_record_is_kept_and_all_others_are_read() {
    let place = filled();
    fs::remove_dir_all(place.data("index")).unwrap();
    let segment = place.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let at = memchr::memmem::find(&bytes, b"body 5").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let (store, recovered) = place.open();
    assert_eq!(ids(&store), [1, 2, 3, 6, 7, 8, 9]);
    let [damage] = &recovered.damage[..] else {
        panic!("{:?}", recovered.damage)
    };
    assert!(damage.range.contains(&(at as u64)));
    assert_eq!(damage.reason, "the record's content is damaged");
    let [kept] = &place.quarantine()[..] else {
        panic!("one file is kept")
    };
    let range = damage.range.start as usize..damage.range.end as usize;
    assert_eq!(fs::read(kept).unwrap(), &bytes[range]);
    store.close();

    // Not seen again by an index that is past it, nor kept twice by one that is made again.
    let (store, recovered) = place.open();
    assert!(recovered.damage.is_empty());
    store.close();
    fs::remove_dir_all(place.data("index")).unwrap();
    place.open().0.close();
    assert_eq!(place.quarantine().len(), 1);
}

#[test]
fn i6_a_record_damaged_at_rest_is_reported_when_it_is_read() {
    let place = filled();
    let (store, _) = place.open();
    let segment = fs::OpenOptions::new()
        .write(true)
        .open(&place.segments()[0])
        .unwrap();
    let bytes = fs::read(&place.segments()[0]).unwrap();
    let at = memchr::memmem::find(&bytes, b"body 5").unwrap();
    segment.write_all_at(b"B", at as u64).unwrap();
    assert_eq!(
        fetch(&store, 5),
        Err("the record's content is damaged".into())
    );
    assert_eq!(fetch(&store, 6), Ok((head(6), b"body 6".to_vec())));
    let [kept] = &place.quarantine()[..] else {
        panic!("one file is kept")
    };
    assert!(memchr::memmem::find(&fs::read(kept).unwrap(), b"Body 5").is_some());
    store.close();
}

#[test]
fn i6_a_damaged_spool_file_is_reported_when_it_is_read() {
    let place = Place::new();
    let (store, _) = place.open();
    let mut writer = store.spool().begin(QueueId(1)).unwrap();
    writer.write(b"large").unwrap();
    let file = writer.finish().unwrap();
    let content = chapar::message::Content {
        head: head(1).into(),
        body: chapar::message::Body::Spool(file.clone()),
    };
    place
        .runtime
        .block_on(store.accept(message(1), content))
        .unwrap();
    fs::write(&*file.path, b"larGe").unwrap();
    assert!(fetch(&store, 1).unwrap_err().ends_with("is damaged"));
    assert_eq!(place.quarantine().len(), 2, "the record and the body");
    fs::remove_file(&*file.path).unwrap();
    assert!(fetch(&store, 1).unwrap_err().contains("No such file"));
    store.close();
}

#[test]
fn a_torn_tail_is_no_damage_wherever_it_is_cut() {
    let place = filled();
    let segment = place.segments().remove(0);
    let whole = fs::read(&segment).unwrap();
    let tail = memchr::memmem::rfind(&whole, b"\xC5hq\x01").unwrap();
    for cut in (tail + 1..whole.len()).step_by(17) {
        let copy = Place::new();
        fs::create_dir_all(copy.data("journal")).unwrap();
        let mut bytes = whole[..cut].to_vec();
        bytes.resize(cut + 10_000, 0);
        fs::write(
            copy.data("journal").join(segment.file_name().unwrap()),
            &bytes,
        )
        .unwrap();
        let (store, recovered) = copy.open();
        assert!(
            recovered.damage.is_empty(),
            "cut at {cut}: {:?}",
            recovered.damage
        );
        assert_eq!(ids(&store), LIVE[..7], "cut at {cut}");
        assert!(copy.quarantine().is_empty());
        // A record after it is not swallowed by what was torn.
        copy.accept(&store, 100, b"after");
        store.close();
        fs::remove_dir_all(copy.data("index")).unwrap();
        let (store, recovered) = copy.open();
        assert!(recovered.damage.is_empty());
        assert_eq!(ids(&store).last(), Some(&100));
        store.close();
    }
}

#[test]
fn a_group_is_whole_or_its_ends_do_not_count() {
    use chapar::queue::store::Action;
    let place = Place::new();
    let (store, _) = place.open();
    let first = place.accept(&store, 1, b"x");
    let dsn = Action::Accept(Box::new(message(2)), content(2, b"the notice"));
    place.apply(&store, vec![Action::Group(vec![dsn, done(&first)])]);
    place.accept(&store, 3, b"after");
    store.close();
    fs::remove_dir_all(place.data("index")).unwrap();
    let segment = place.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let at = memchr::memmem::find(&bytes, b"the notice").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let (store, recovered) = place.open();
    assert_eq!(
        ids(&store),
        [1, 3],
        "the end of 1 needs the notice that was lost"
    );
    assert!(!recovered.damage.is_empty());
    store.close();
}

#[test]
fn a_segment_with_a_lost_header_is_put_aside_and_its_number_not_used_again() {
    let place = filled();
    fs::remove_dir_all(place.data("index")).unwrap();
    let (store, _) = place.open();
    place.accept(&store, 100, b"x");
    store.close();
    let segment = place.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[..SEGMENT_START].fill(0xAA);
    fs::write(&segment, &bytes).unwrap();
    let (store, recovered) = place.open();
    assert!(ids(&store).contains(&100));
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(place.quarantine().len(), 1);
    assert!(!segment.exists());
    store.close();
}

#[test]
fn a_newer_journal_is_refused_and_untouched() {
    let place = filled();
    let segment = place.segments().remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    for copy in [0, 4096] {
        bytes[copy + 8] = 2;
        let check = crc32c::crc32c_append(
            crc32c::crc32c(&bytes[copy..copy + 12]),
            &bytes[copy + 16..copy + 64],
        );
        bytes[copy + 12..copy + 16].copy_from_slice(&check.to_le_bytes());
    }
    fs::write(&segment, &bytes).unwrap();
    let error = chapar::queue::store::Store::open(&place.options)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("the segment has version 2") && error.contains("newer chapar"),
        "{error}"
    );
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn ids_go_on_above_everything_that_was_ever_seen() {
    let place = Place::new();
    let (store, _) = place.open();
    let message = place.accept(&store, 1 << 60, b"x");
    place.apply(&store, vec![done(&message)]);
    store.close();
    for _ in 0..4 {
        let (store, recovered) = place.open();
        assert_eq!(
            recovered.highest,
            QueueId(1 << 60),
            "also when its segment is gone"
        );
        store.close();
    }
}

/// `CHAPAR_FLIPS` rounds, a few unless told.
#[test]
fn i6_a_flipped_bit_in_any_file_costs_one_message_at_most_and_is_reported() {
    let rounds: u32 = std::env::var("CHAPAR_FLIPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12);
    for round in 0..rounds {
        let place = filled();
        let mut files = Vec::new();
        let mut dirs = vec![place.data("")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false if path.metadata().unwrap().len() > 0 => files.push(path),
                    false => {}
                }
            }
        }
        let path = &files[fastrand::usize(..files.len())];
        let length = path.metadata().unwrap().len();
        let (at, bit) = (fastrand::u64(..length), fastrand::u32(..8));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
        let what = format!(
            "round {round}: bit {bit} of byte {at} of {}",
            path.display()
        );
        let (store, recovered) = place.open();
        let mut lost = 0;
        for id in LIVE {
            let whole = load(&store, id).is_some()
                && fetch(&store, id) == Ok((head(id), format!("body {id}").into_bytes()));
            lost += u32::from(!whole);
        }
        assert!(lost <= 1, "{what}: {lost} lost");
        let kept = fs::read_dir(place.data("quarantine")).unwrap().count();
        assert!(
            lost == 0 || !recovered.damage.is_empty() || kept > 0,
            "{what}: nobody was told"
        );
        let back = load(&store, 4).is_some();
        assert!(
            !back || !recovered.damage.is_empty(),
            "{what}: what had ended came back and nobody was told"
        );
        store.close();
    }
}

#[test]
fn fault_21_i6_empty_and_blank_files_after_a_power_cut_are_no_crash_loop() {
    let place = filled();
    let last = place.segments().pop().unwrap();
    // A segment that was made and never written, and one whose end is blank.
    fs::write(place.data("journal").join("000000000099.journal"), b"").unwrap();
    let file = fs::OpenOptions::new().write(true).open(last).unwrap();
    file.set_len(file.metadata().unwrap().len() + 4096).unwrap();
    fs::write(place.data("spool").join("tmp-0000000000001"), b"").unwrap();
    for _ in 0..2 {
        let (store, _) = place.open();
        assert_eq!(ids(&store), LIVE);
        store.close();
    }
}
