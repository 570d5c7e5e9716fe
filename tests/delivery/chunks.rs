//! Messages in chunks (RFC 3030), and what a server may do to them.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use chapar::lab::{Act, Mx, MxConfig, Stage};
use chapar::message::{Body, Content, SpoolFile};

use crate::world::World;

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";
/// A chunk that is not the last, and the longest last one.
const CHUNK: usize = 1024 * 1024;
const LAST: usize = 64 * 1024;

fn chunking() -> MxConfig {
    MxConfig {
        extensions: vec!["CHUNKING".to_owned()],
        ..MxConfig::default()
    }
}

/// A body of this many bytes, dots and all.
fn body(size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for n in 0.. {
        body.extend_from_slice(format!(".\r\n..{n} {}\r\n", ".".repeat(n % 70)).as_bytes());
        if body.len() > size {
            break;
        }
    }
    body.truncate(size - 2);
    while matches!(body.last(), Some(b'\r' | b'\n')) {
        body.pop();
    }
    body.resize(size - 2, b'x');
    body.extend_from_slice(b"\r\n");
    body
}

fn in_memory(body: &[u8]) -> Content {
    Content {
        head: Bytes::from_static(b"Subject: large\r\n\r\n"),
        body: Body::Memory(Bytes::copy_from_slice(body)),
    }
}

/// What was said about messages, without EHLO.
fn said(mx: &Mx) -> Vec<String> {
    let log = mx.log().into_iter().map(|line| line.line);
    log.filter(|line| !line.starts_with("EHLO")).collect()
}

async fn send(world: &mut World, to: &[&str], content: Content) {
    let message = world.message(to);
    world.wake(message, Some(content)).await;
}

#[actix::test]
async fn a_large_message_goes_in_chunks_byte_for_byte() {
    let head = b"Subject: large\r\n\r\n".len();
    for starttls in [false, true] {
        for (size, chunks) in [
            (LAST - head - 1, vec![]),
            (LAST - head, vec![LAST]),
            (LAST, vec![head, LAST]),
            (2 * CHUNK, vec![CHUNK, CHUNK - LAST + head, LAST]),
        ] {
            let config = MxConfig {
                starttls,
                ..chunking()
            };
            let (mut world, mx) = World::with_mx(config).await;
            let body = body(size);
            send(&mut world, &["a@example.com"], in_memory(&body)).await;
            assert_eq!(world.outcome().await, DELIVERED);
            let all = [b"Subject: large\r\n\r\n".as_slice(), &body].concat();
            assert!(mx.received()[0].data == all, "{size}");
            let said = said(&mx);
            let bdat: Vec<&String> = said.iter().filter(|l| l.starts_with("BDAT")).collect();
            let last = chunks.len().saturating_sub(1);
            let expected = chunks
                .iter()
                .enumerate()
                .map(|(at, size)| match at == last {
                    true => format!("BDAT {size} LAST"),
                    false => format!("BDAT {size}"),
                });
            assert_eq!(
                bdat,
                expected.collect::<Vec<_>>().iter().collect::<Vec<_>>()
            );
            assert_eq!(said.iter().any(|line| line == "DATA"), chunks.is_empty());
            world.end().await;
        }
    }
}

/// Without PIPELINING, without CHUNKING, over LMTP: DATA as always.
#[actix::test]
async fn chunks_only_where_they_are_useful() {
    let no_pipelining = MxConfig {
        pipelining: false,
        ..chunking()
    };
    for config in [no_pipelining, MxConfig::default()] {
        let (mut world, mx) = World::with_mx(config).await;
        send(&mut world, &["a@example.com"], in_memory(&body(CHUNK))).await;
        assert_eq!(world.outcome().await, DELIVERED);
        assert!(said(&mx).contains(&"DATA".to_owned()));
        world.end().await;
    }
}

/// A body on disk: its last chunk is held back until its checksum is known to be right.
#[actix::test]
async fn chunks_from_a_file_that_is_or_is_not_what_it_was() {
    let body = body(3 * CHUNK + 100);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&body).expect("written");
    let path = Arc::new(file.path().to_path_buf());
    let (len, crc) = (body.len() as u64, crc32c::crc32c(&body));
    for (len, crc, good) in [
        (len, crc, true),
        (len + 1, crc, false),
        (len, crc ^ 1, false),
    ] {
        let (mut world, mx) = World::with_mx(chunking()).await;
        let path = Arc::clone(&path);
        let content = Content {
            head: Bytes::new(),
            body: Body::Spool(SpoolFile { path, len, crc }),
        };
        send(&mut world, &["a@example.com"], content).await;
        let outcome = world.outcome().await;
        let said = said(&mx);
        let last = said.iter().any(|line| line.ends_with(" LAST"));
        if good {
            assert_eq!(outcome, DELIVERED);
            assert!(mx.received()[0].data == body && last);
        } else {
            let why = "a@example.com deferred 451 4.4.2 the message could not be read back";
            assert!(outcome.starts_with(why), "{outcome}");
            assert!(!last, "{said:?}");
            assert_eq!(mx.taken(), 0);
        }
        world.end().await;
    }
}

#[actix::test]
async fn nobody_accepted_means_no_chunk_and_the_connection_goes_on() {
    let (mut world, mx) = World::with_mx(chunking()).await;
    mx.on(Stage::Rcpt, |line| match line.contains("<no") {
        true => Act::reply("550 5.1.1 no such user"),
        false => Act::Default,
    });
    let large = in_memory(&body(CHUNK));
    send(
        &mut world,
        &["no1@example.com", "no2@example.com"],
        large.clone(),
    )
    .await;
    for outcome in world.outcomes(2).await {
        assert!(
            outcome.ends_with("failed 550 5.1.1 no such user"),
            "{outcome}"
        );
    }
    send(
        &mut world,
        &["a@example.com", "no1@example.com"],
        large.clone(),
    )
    .await;
    let expected = [DELIVERED, "no1@example.com failed 550 5.1.1 no such user"];
    assert_eq!(world.outcomes(2).await, expected);
    mx.on(Stage::Mail, |_| Act::reply("452 4.3.1 full"));
    send(&mut world, &["a@example.com"], large).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 452 4.3.1 full"
    );
    assert_eq!((mx.taken(), mx.connections()), (1, 1));
    let said = said(&mx);
    let count = |word: &str| said.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((count("BDAT"), count("RSET")), (2, 1), "{said:?}");
    world.end().await;
}

/// What is said to a chunk, first or last, is the answer of every recipient; the replies to other
/// chunks are read, so that the next message on the connection gets its own.
#[actix::test]
async fn a_refused_chunk_is_the_answer() {
    for (stage, reply, outcome) in [
        (
            Stage::Chunk,
            "552 5.3.4 too much",
            "failed 552 5.3.4 too much",
        ),
        (Stage::Chunk, "452 4.3.1 full", "deferred 452 4.3.1 full"),
        (Stage::Dot, "554 5.7.1 spam", "failed 554 5.7.1 spam"),
        (Stage::Dot, "451 4.3.0 later", "deferred 451 4.3.0 later"),
    ] {
        let (mut world, mx) = World::with_mx(chunking()).await;
        let mut first = true;
        mx.on(stage, move |_| match std::mem::take(&mut first) {
            true => Act::reply(reply),
            false => Act::Default,
        });
        let to = ["a@example.com", "b@example.com"];
        send(&mut world, &to, in_memory(&body(4 * CHUNK))).await;
        let expected = to.map(|to| format!("{to} {outcome}"));
        assert_eq!(world.outcomes(2).await, expected, "{reply}");
        assert_eq!(mx.taken(), 0);
        // The same connection, after RSET, and none of the replies mistaken.
        send(&mut world, &["a@example.com"], in_memory(&body(2 * CHUNK))).await;
        assert_eq!(world.outcome().await, DELIVERED, "{reply}");
        assert_eq!((mx.taken(), mx.connections()), (1, 1), "{reply}");
        world.end().await;
    }
}

#[actix::test]
async fn a_connection_that_ends_among_chunks() {
    for (stage, act, outcome) in [
        (Stage::Chunk, Act::Close, "deferred 451 4.4.2 "),
        (Stage::Dot, Act::Close, "deferred 451 4.4.2 "),
        (
            Stage::Chunk,
            Act::ReplyThenClose("421 4.3.2 shutting down".to_owned()),
            "deferred 421 4.3.2 shutting down",
        ),
        (
            Stage::Dot,
            Act::ReplyThenClose("421 4.3.2 shutting down".to_owned()),
            "deferred 421 4.3.2 shutting down",
        ),
        (
            Stage::Dot,
            Act::Raw(b"nonsense\r\n".to_vec()),
            "deferred 451 4.5.0 ",
        ),
    ] {
        let (mut world, mx) = World::with_mx(chunking()).await;
        let does = act.clone();
        mx.on(stage, move |_| does.clone());
        send(&mut world, &["a@example.com"], in_memory(&body(4 * CHUNK))).await;
        let said = world.outcome().await;
        assert!(
            said.starts_with(&format!("a@example.com {outcome}")),
            "{act:?}: {said}"
        );
        assert_eq!(mx.taken(), 0);
        world.end().await;
    }
}

/// A server that says CHUNKING and does not know BDAT gets the message with DATA, in the same
/// attempt and once; and so does one whose connection breaks among chunks, in the next attempt.
#[actix::test]
async fn bdat_that_is_unknown_or_breaks_the_connection_gives_way_to_data() {
    for code in ["500 5.5.2 what", "502 5.5.1 no", "503 5.5.1 RCPT first"] {
        let (mut world, mx) = World::with_mx(chunking()).await;
        mx.on(Stage::Chunk, move |_| Act::reply(code));
        let body = body(2 * CHUNK);
        for _ in 0..2 {
            send(&mut world, &["a@example.com"], in_memory(&body)).await;
            assert_eq!(world.outcome().await, DELIVERED, "{code}");
        }
        let said = said(&mx);
        let firsts = said.iter().filter(|line| line.starts_with("BDAT 1048576"));
        let data = said.iter().filter(|line| *line == "DATA");
        assert!(firsts.count() <= 2 && data.count() == 2, "{said:?}");
        assert_eq!((mx.taken(), mx.connections()), (2, 2));
        assert!(mx.received()[1].data.ends_with(&body));
        world.end().await;
    }
    let (mut world, mx) = World::with_mx(chunking()).await;
    mx.on(Stage::Chunk, |_| Act::Close);
    send(
        &mut world,
        &["a@example.com"],
        in_memory(&body(CHUNK + LAST)),
    )
    .await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with("a@example.com deferred 451 4.4.2 "),
        "{outcome}"
    );
    send(
        &mut world,
        &["a@example.com"],
        in_memory(&body(CHUNK + LAST)),
    )
    .await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert!(said(&mx).contains(&"DATA".to_owned()));
    world.end().await;
}
