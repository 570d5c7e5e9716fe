//! The bytes of versions 1 to 3, which every later chapar must be able to read.
//!
//! `golden/` was written once for each version by this test with `BLESS=1` and is never written
//! again.

use std::path::Path;

use proptest::prelude::*;
use queue_schema::index::{self, Checkpoint};
use queue_schema::segment::SEGMENT_START;
use queue_schema::{
    BodyKind, BodyPlace, Change, DeliverBy, Envelope, Event, EventKind, Frame, FrameError, HOLDS,
    Hold, HoldKind, Kind, Location, Message, Notify, Older, Origin, QueueId, Recipient,
    RecipientState, Record, Reply, Ret, STORY, STORY_START, SegmentHeader, Status, Suspended,
    frame, record,
};

mod samples;
use samples::*;

/// A segment with one record of each kind.
fn journal3() -> Vec<u8> {
    let header = SegmentHeader {
        stamp: STAMP,
        id_floor: QueueId(99),
        created: 1_700_000_000_000,
    };
    let mut out = header.encode();
    record::encode_accepted(&mut out, &message3(), HEAD, BODY, false, STAMP).unwrap();
    record::encode_accepted(
        &mut out,
        &spooled_from(message3()),
        HEAD,
        BODY,
        false,
        STAMP,
    )
    .unwrap();
    let id = message().id;
    record::encode_change(&mut out, Kind::Progress, id, &change3(), false, STAMP).unwrap();
    record::encode_change(
        &mut out,
        Kind::Control,
        id,
        &Change::default(),
        false,
        STAMP,
    )
    .unwrap();
    let group = frame::begin(&mut out);
    record::encode_accepted(&mut out, &message3(), HEAD, b"", true, STAMP).unwrap();
    record::encode_change(&mut out, Kind::Done, id, &change3(), true, STAMP).unwrap();
    assert!(frame::finish(
        &mut out,
        group,
        Kind::Group,
        QueueId(0),
        false,
        STAMP
    ));
    out
}

fn values3() -> Vec<Vec<u8>> {
    let checkpoint = Checkpoint {
        segment: 5,
        offset: 8192,
        salt: 7,
        highest: QueueId(1 << 50),
    };
    vec![
        index::encode_message(&message3()).unwrap(),
        index::encode_message(&spooled_from(message3())).unwrap(),
        index::encode_checkpoint(&checkpoint).unwrap(),
    ]
}

fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    if std::env::var_os("BLESS").is_some() && !path.exists() {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap()
}

fn next<'a>(bytes: &mut &'a [u8]) -> Frame<'a> {
    let frame = frame::read(bytes, STAMP).unwrap();
    *bytes = &bytes[frame.len()..];
    frame
}

fn at_rest(mut message: Message, frame: &Frame<'_>) -> Record {
    message.location.length = frame.len() as u32;
    message.location.head = HEAD.len() as u32;
    Record::Accepted(Box::new(message))
}

fn read_journal(bytes: &[u8], version: u8, message: &Message, change: &Change) {
    let header = SegmentHeader::decode(bytes).unwrap();
    assert_eq!((header.stamp, header.id_floor), (STAMP, QueueId(99)));
    let mut rest = &bytes[SEGMENT_START..];
    let read = |frame: &Frame<'_>| record::decode(frame, STAMP).unwrap();

    let frame = next(&mut rest);
    assert_eq!(frame.version, version);
    assert_eq!(read(&frame), at_rest(message.clone(), &frame));
    let (head, body) = record::content(&frame).unwrap();
    let whole = &bytes[SEGMENT_START..];
    assert_eq!((&whole[head], &whole[body]), (HEAD, BODY));

    let frame = next(&mut rest);
    assert_eq!(read(&frame), at_rest(spooled_from(message.clone()), &frame));
    assert!(
        record::content(&frame).unwrap().1.is_empty(),
        "the body is not in the record"
    );

    let id = message.id;
    assert_eq!(read(&next(&mut rest)), Record::Changed(id, change.clone()));
    let nothing = Change {
        older: change.older.map(|_| Older::default()),
        ..Change::default()
    };
    assert_eq!(read(&next(&mut rest)), Record::Changed(id, nothing));

    let group = next(&mut rest);
    assert_eq!((group.kind, rest), (Kind::Group, &[][..]));
    assert!(record::decode(&group, STAMP).is_err());
    let mut inner = group.payload;
    let frame = next(&mut inner);
    assert!(frame.grouped);
    assert_eq!(read(&frame), at_rest(message.clone(), &frame));
    assert_eq!(read(&next(&mut inner)), Record::Done(id, change.clone()));
    assert!(inner.is_empty());
}

#[test]
fn the_golden_journal_of_version_1_reads_as_what_was_written() {
    read_journal(&golden("journal-v1.bin", &[]), 1, &message(), &change());
}

#[test]
fn the_golden_journal_of_version_2_reads_as_what_was_written() {
    read_journal(&golden("journal-v2.bin", &[]), 2, &message2(), &change2());
}

#[test]
fn the_golden_journal_of_version_3_reads_as_what_was_written() {
    let bytes = golden("journal-v3.bin", &journal3());
    assert_eq!(journal3(), bytes, "version 3 is what it was");
    read_journal(&bytes, 3, &message3(), &change3());
}

#[test]
fn a_version_that_is_not_known_is_told() {
    let mut out = Vec::new();
    let start = frame::begin(&mut out);
    assert!(frame::finish(
        &mut out,
        start,
        Kind::Done,
        QueueId(1),
        false,
        STAMP
    ));
    let newer = |out: &mut Vec<u8>, version: u8| {
        out[8] = version;
        let check = crc32c::crc32c_append(STAMP.salt, &out[8..32]);
        out[4..8].copy_from_slice(&check.to_le_bytes());
    };
    for version in [0, 4, 255] {
        newer(&mut out, version);
        assert_eq!(
            frame::read(&out, STAMP),
            Err(FrameError::Newer { version, kind: 4 })
        );
    }
}

/// The values of a golden index.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (value, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        values.push(value.to_vec());
        bytes = rest;
    }
    values
}

#[test]
fn the_golden_index_of_each_version_reads_as_what_was_written() {
    let mut bytes = Vec::new();
    for value in values3() {
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&value);
    }
    assert_eq!(golden("index-v3.bin", &bytes), bytes);
    for (name, message) in [
        ("index-v1.bin", message()),
        ("index-v2.bin", message2()),
        ("index-v3.bin", message3()),
    ] {
        let values = split(&golden(name, &[]));
        let [first, second, checkpoint] = &values[..] else {
            panic!("three values")
        };
        assert_eq!(index::decode_message(first), Ok(message.clone()));
        assert_eq!(index::decode_message(second), Ok(spooled_from(message)));
        assert_eq!(index::decode_checkpoint(checkpoint).unwrap().segment, 5);
    }
    let key = index::message_key(QueueId(0x0102));
    assert_eq!(key, *b"m\0\0\0\0\0\0\x01\x02");
    assert_eq!(index::message_id(&key), Some(QueueId(0x0102)));
    assert_eq!(index::message_id(b"m123"), None);
}

#[test]
fn a_story_keeps_its_beginning_and_its_end_and_tells_nothing_twice() {
    let mut message = message();
    for at in 0..100 {
        message.tell(&event(EventKind::Deferred, at));
        message.tell(&event(EventKind::Deferred, at));
    }
    let times: Vec<u64> = message.story.iter().map(|event| event.at).collect();
    assert_eq!(times.len(), STORY);
    assert_eq!(&times[..STORY_START], [0, 1, 2, 3]);
    assert_eq!((times[STORY_START], times[STORY - 1]), (72, 99));
}

#[test]
fn a_change_is_whole_and_applying_it_twice_changes_nothing() {
    let mut once = message();
    change().apply(&mut once);
    assert_eq!(once.states[0].status, Status::Bounced);
    assert_eq!(once.states[1].status, Status::Delivered);
    assert!(once.states.iter().all(|state| state.warned));
    let mut twice = once.clone();
    change().apply(&mut twice);
    assert_eq!(once, twice);
    change2().apply(&mut once);
    assert_eq!(once.envelope.recipients[1].address, "d@example.org");
    assert_eq!(once.story.len(), 1);
    let mut twice = once.clone();
    change2().apply(&mut twice);
    assert_eq!(once, twice);
    change3().apply(&mut once);
    assert_eq!(once.states[0], message3().states[0]);
    assert_eq!(once.envelope.recipients.len(), 3);
    assert_eq!(once.states[2], RecipientState::new(7));
    assert_eq!(once.top, "ARC-Seal: i=2; cv=pass\r\n");
    assert!(once.envelope.mail_from().starts_with("SRS0=zyxwvuts"));
    let mut twice = once.clone();
    change3().apply(&mut twice);
    assert_eq!(once, twice);
    let nowhere = Change {
        recipients: vec![(9, RecipientState::new(1))],
        ..Change::default()
    };
    nowhere.apply(&mut twice);
    assert_eq!(once, twice);
}

/// A recipient, a change and a message as version 2 wrote them.
type State2 = (Status, u32, u64, u64, Option<Reply>);

#[derive(serde::Serialize)]
struct Change2 {
    recipients: Vec<(u32, State2)>,
    warned: Option<bool>,
    held: Option<bool>,
    by: String,
    redirected: Vec<(u32, Recipient)>,
    story: Vec<Event>,
}

/// A frame of version 2 around a change.
fn frame2(change: &Change2) -> Vec<u8> {
    let mut out = Vec::new();
    let start = frame::begin(&mut out);
    out.extend_from_slice(&postcard::to_stdvec(change).unwrap());
    assert!(frame::finish(
        &mut out,
        start,
        Kind::Control,
        message().id,
        false,
        STAMP
    ));
    out[8] = 2;
    let check = crc32c::crc32c_append(STAMP.salt, &out[8..32]);
    out[4..8].copy_from_slice(&check.to_le_bytes());
    out
}

fn read2(change: &Change2) -> Change {
    match record::decode(&frame::read(&frame2(change), STAMP).unwrap(), STAMP) {
        Ok(Record::Changed(_, change)) => change,
        other => panic!("{other:?}"),
    }
}

fn no_change2() -> Change2 {
    Change2 {
        recipients: Vec::new(),
        warned: None,
        held: None,
        by: String::new(),
        redirected: Vec::new(),
        story: Vec::new(),
    }
}

#[test]
fn q16_what_held_a_whole_message_holds_each_recipient_that_waits() {
    let held = Event {
        by: "root".into(),
        ..event(EventKind::Held, 1_700_000_650_000)
    };
    let by_operator = read2(&Change2 {
        held: Some(true),
        by: "root".into(),
        story: vec![held],
        ..no_change2()
    });
    let mut message = message2();
    message.states[1].status = Status::Delivered;
    by_operator.apply(&mut message);
    let expected = Hold {
        kind: HoldKind::Operator,
        by: "root".into(),
        reason: String::new(),
        since: 1_700_000_650_000,
        until: None,
    };
    assert_eq!(message.states[0].holds, std::slice::from_ref(&expected));
    assert_eq!(message.states[1].holds, []);
    let once = message.clone();
    by_operator.apply(&mut message);
    assert_eq!(message, once);

    // Outcomes that an older version wrote leave the hold and the notice as they are.
    let reply = message.states[0].last_reply.clone();
    let later = read2(&Change2 {
        recipients: vec![(0, (Status::Waiting, 4, 9, 8, reply))],
        ..no_change2()
    });
    later.apply(&mut message);
    assert_eq!(
        (message.states[0].attempts, message.states[0].warned),
        (4, true)
    );
    assert_eq!(message.states[0].holds, [expected]);

    let released = read2(&Change2 {
        held: Some(false),
        by: "root".into(),
        ..no_change2()
    });
    released.apply(&mut message);
    assert_eq!(message.states[0].holds, []);

    let by_filter = read2(&Change2 {
        held: Some(true),
        ..no_change2()
    });
    let mut message = message2();
    message.states[0].holds.clear();
    by_filter.apply(&mut message);
    let [hold] = &message.states[0].holds[..] else {
        panic!("one hold: {message:?}")
    };
    assert_eq!((hold.kind, hold.by.as_str()), (HoldKind::Quarantine, ""));
}

#[test]
fn q11_a_suspension_that_was_told_as_a_reply_is_one_and_no_reply() {
    let own = |text: &str| {
        Some(Reply {
            code: 450,
            enhanced: "4.3.2".into(),
            text: text.into(),
            remote: String::new(),
        })
    };
    let read = |reply: Option<Reply>| {
        let change = read2(&Change2 {
            recipients: vec![(0, (Status::Waiting, 0, 77, 8, reply))],
            ..no_change2()
        });
        change.recipients[0].1.clone()
    };
    let state = read(own("gmail.com is suspended by ann (uid 0): the: boss"));
    let expected = Suspended {
        destination: "gmail.com".into(),
        by: "ann (uid 0)".into(),
        reason: "the: boss".into(),
        until: 77,
        slowed_to: String::new(),
    };
    assert_eq!((state.suspended, state.last_reply), (Some(expected), None));
    let state = read(own(
        "google is slowed to 1 connection, 10/m messages by rule google/often",
    ));
    let suspended = state.suspended.unwrap();
    assert_eq!(suspended.slowed_to, "1 connection, 10/m messages");
    assert_eq!(suspended.by, "rule google/often");
    let state = read(own("the mailbox is busy"));
    assert_eq!((state.suspended, state.last_reply.is_some()), (None, true));
}

#[test]
fn holds_end_together_and_the_same_one_is_there_once() {
    let mut state = RecipientState::new(0);
    assert_eq!((state.released_at(), state.is_held(0)), (Some(0), false));
    state.hold(hold(HoldKind::Order, "1", Some(100)));
    state.hold(hold(HoldKind::Order, "2", Some(200)));
    assert_eq!(state.released_at(), Some(200));
    assert!(state.is_held(199) && !state.is_held(200));
    state.hold(hold(HoldKind::Order, "2", Some(150)));
    assert_eq!((state.holds.len(), state.released_at()), (2, Some(150)));
    state.hold(hold(HoldKind::Operator, "root", None));
    assert_eq!((state.released_at(), state.is_held(u64::MAX)), (None, true));
    for by in 0..100 {
        state.hold(hold(HoldKind::Order, &by.to_string(), None));
    }
    assert_eq!(state.holds.len(), HOLDS);
}

fn any_message() -> impl Strategy<Value = Message> {
    let recipient = (
        ".{0,40}",
        any::<Option<String>>(),
        any::<[bool; 3]>(),
        any::<Option<String>>(),
    );
    let state = (
        0..5u8,
        any::<u32>(),
        any::<[u64; 2]>(),
        any::<Option<(u16, String, String)>>(),
    );
    let people = proptest::collection::vec((recipient, state), 1..8);
    let flags = any::<[bool; 6]>();
    (
        any::<[u64; 3]>(),
        any::<[u8; 16]>(),
        ".{0,40}",
        people,
        flags,
        any::<Option<String>>(),
    )
        .prop_map(|(numbers, client, text, people, flags, envid)| {
            let client = std::net::IpAddr::from(client);
            let (recipients, states): (Vec<_>, Vec<_>) = people
                .into_iter()
                .map(|(recipient, state)| {
                    let (address, alias_of, [success, failure, delay], orcpt) = recipient;
                    let notify = Notify {
                        success,
                        failure,
                        delay,
                    };
                    let recipient = Recipient {
                        address,
                        alias_of,
                        notify,
                        orcpt,
                    };
                    let (status, attempts, [next_due, last_attempt], reply) = state;
                    let status = match status {
                        0 => Status::Waiting,
                        1 => Status::Delivered,
                        2 => Status::Bounced,
                        3 => Status::Expired,
                        _ => Status::Removed,
                    };
                    let last_reply = reply.map(|(code, text, remote)| Reply {
                        code,
                        enhanced: "4.0.0".into(),
                        text,
                        remote,
                    });
                    let state = RecipientState {
                        status,
                        attempts,
                        next_due,
                        last_attempt,
                        last_reply,
                        warned: success,
                        holds: failure
                            .then(|| hold(HoldKind::Order, "3", delay.then_some(next_due)))
                            .into_iter()
                            .collect(),
                        suspended: None,
                    };
                    (recipient, state)
                })
                .unzip();
            let origin = match (flags[0], flags[1]) {
                (false, false) => Origin::User {
                    user: text.clone(),
                    client,
                },
                (false, true) => Origin::Network { client },
                (true, verified) => Origin::Outside { client, verified },
            };
            Message {
                id: QueueId(numbers[0]),
                arrived: numbers[1],
                origin,
                envelope: Envelope {
                    forwarded_as: None,
                    reverse_path: text,
                    recipients,
                    body: BodyKind::SevenBit,
                    smtputf8: flags[2],
                    require_tls: flags[3],
                    ret: flags[2].then_some(Ret::Full),
                    envid,
                    release_at: flags[4].then_some(numbers[1]),
                    deliver_by: flags[5].then_some(DeliverBy {
                        at: numbers[2],
                        give_up: flags[0],
                    }),
                    priority: if flags[1] { 9 } else { -9 },
                },
                size: numbers[2],
                location: Location {
                    segment: STAMP.segment,
                    offset: 0,
                    length: 0,
                    head: 0,
                    body: BodyPlace::Inline,
                },
                states,
                message_id: "<a@example.org>".into(),
                subject: "hello".into(),
                top: String::new(),
                story: flags[3]
                    .then(|| event(EventKind::Told, numbers[2]))
                    .into_iter()
                    .collect(),
            }
        })
}

proptest! {
    #[test]
    fn messages_round_trip(
        message in any_message(),
        head: Vec<u8>,
        body: Vec<u8>,
        at: proptest::sample::Index,
        bit in 0..8u32,
    ) {
        let mut out = Vec::new();
        record::encode_accepted(&mut out, &message, &head, &body, false, STAMP).unwrap();
        let frame = frame::read(&out, STAMP).unwrap();
        let (head_at, body_at) = record::content(&frame).unwrap();
        prop_assert_eq!((&out[head_at], &out[body_at]), (&head[..], &body[..]));
        let Ok(Record::Accepted(read)) = record::decode(&frame, STAMP) else {
            return Err(TestCaseError::fail("no message"));
        };
        let mut expected = message;
        expected.location.length = out.len() as u32;
        expected.location.head = head.len() as u32;
        prop_assert_eq!(&*read, &expected);

        let mut value = index::encode_message(&expected).unwrap();
        prop_assert_eq!(index::decode_message(&value).unwrap(), expected);
        let place = at.index(value.len());
        value[place] ^= 1 << bit;
        prop_assert!(index::decode_message(&value).is_err());
        value[place] ^= 1 << bit;
        value.truncate(place);
        prop_assert!(index::decode_message(&value).is_err());
    }

    /// A payload that passed its checksum but was written wrong is an error, never a panic.
    #[test]
    fn any_payload_is_a_record_or_an_error(payload: Vec<u8>, kind in 0..4usize, version in 1..4u8) {
        let kind = [Kind::Accepted, Kind::Progress, Kind::Control, Kind::Done][kind];
        let frame = Frame { version, kind, grouped: false, id: QueueId(1), payload: &payload };
        let _ = record::decode(&frame, STAMP);
        let _ = record::content(&frame);
    }

    /// Lengths far beyond the bytes that are there cost no memory.
    #[test]
    fn a_length_alone_allocates_nothing(lengths: [u32; 2], rest: Vec<u8>) {
        let mut payload = Vec::new();
        payload.extend_from_slice(&lengths[0].to_le_bytes());
        payload.extend_from_slice(&lengths[1].to_le_bytes());
        payload.extend_from_slice(&rest);
        let frame = Frame { version: 3, kind: Kind::Accepted, grouped: false, id: QueueId(1), payload: &payload };
        let _ = record::decode(&frame, STAMP);
        let mut bytes = vec![0xC5, b'h', b'q', 1];
        bytes.extend_from_slice(&rest);
        prop_assert!(!matches!(frame::read(&bytes, STAMP), Ok(_) | Err(FrameError::Payload)));
    }
}
