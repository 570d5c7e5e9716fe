//! The machine alone: scripted clients, every reply, every split.

mod extensions;
mod login;

use super::*;
use crate::scram::{self, Verifier};

fn options(submission: bool) -> Options {
    Options {
        strict_hello: false,
        hostname: "mx.example.org".into(),
        submission,
        starttls: true,
        trusted: false,
        xclient: false,
        extensions: Extensions::default(),
        limits: Bounds {
            message: 1000,
            recipients: 3,
            line: 2048,
            errors: 20,
            idle_commands: 10,
            commands: 300,
            transactions: 5,
            chunks: 4,
            auth_attempts: 3,
            future_release: 3600,
        },
    }
}

/// A submission server, its client greeted over TLS.
fn submission() -> Server {
    let mut server = Server::new(options(true));
    server.tls_started(Some([7; 32]));
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    server
}

/// The same, and the client logged in.
fn logged_in() -> Server {
    let mut server = submission();
    let (replies, _) = talk(&mut server, b"AUTH PLAIN AHVAZS5leGFtcGxlAHNlY3JldA==\r\n");
    assert_eq!(codes(&replies), [235]);
    server
}

/// An mx whose client greeted.
fn greeted() -> Server {
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    server
}

/// Runs `input` through a machine that accepts every sender, local recipients and one password;
/// gives what it replied and the steps that were not judged.
fn talk(server: &mut Server, input: &[u8]) -> (String, Vec<Step>) {
    talk_in_parts(server, &[input])
}

fn talk_in_parts(server: &mut Server, parts: &[&[u8]]) -> (String, Vec<Step>) {
    let mut bytes = BytesMut::new();
    let mut out = Vec::new();
    let mut steps = Vec::new();
    for part in parts {
        bytes.extend_from_slice(part);
        loop {
            match server.next(&mut bytes, &mut out) {
                Step::Read => break,
                Step::Sender(_) => server.sender(Ok(()), &mut out),
                Step::Recipient(to) => {
                    let verdict = match to.to.domain() {
                        "example.org" => Ok(()),
                        _ => Err(replies::RELAY_DENIED),
                    };
                    server.recipient(to, verdict, &mut out);
                }
                Step::Authenticate(credentials) => {
                    let verdict = match credentials.password.as_str() {
                        "secret" => Ok(credentials.user),
                        _ => Err(replies::AUTH_FAILED),
                    };
                    server.authenticated(verdict, &mut out);
                }
                Step::Data => {
                    steps.push(Step::Data);
                    server.message_done(Reply::new(250, "2.0.0", "queued"), &mut out);
                }
                Step::Verifier(user) => {
                    let right = user == "u@e.example";
                    let secret = if right { &b"secret"[..] } else { b"nobody's" };
                    let verifier = Verifier::new(secret, b"salt", scram::ITERATIONS);
                    server.verifier(Ok((verifier, "nonce".into())), &mut out);
                }
                Step::Proved { user, proof } => {
                    let verdict = if proof == Proven::Right {
                        Ok(user)
                    } else {
                        Err(replies::AUTH_FAILED)
                    };
                    server.authenticated(verdict, &mut out);
                }
                Step::Chunk { size, last } => {
                    let size = usize::try_from(size).expect("small");
                    if bytes.len() < size {
                        steps.push(Step::Chunk {
                            size: size as u64,
                            last,
                        });
                        return (String::from_utf8(out).expect("text"), steps);
                    }
                    let _ = bytes.split_to(size);
                    match last {
                        true => server.message_done(Reply::new(250, "2.0.0", "queued"), &mut out),
                        false => server.chunk_done(Ok(()), &mut out),
                    }
                }
                Step::Discard(size) => {
                    let size = usize::try_from(size).expect("small");
                    let _ = bytes.split_to(size.min(bytes.len()));
                    server.discarded(&mut out);
                }
                Step::Xclient(_) => server.client_changed(true, None, &mut out),
                Step::StartTls => {
                    steps.push(Step::StartTls);
                    bytes.clear();
                    server.tls_started(Some([7; 32]));
                }
                Step::Close => {
                    steps.push(Step::Close);
                    return (String::from_utf8(out).expect("text"), steps);
                }
            }
        }
    }
    (String::from_utf8(out).expect("text"), steps)
}

/// The codes of all replies, without the lines that continue one.
fn codes(replies: &str) -> Vec<u16> {
    replies
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .filter_map(|line| line.get(..3)?.parse().ok())
        .collect()
}

fn mx() -> Server {
    Server::new(options(false))
}

#[test]
fn a_transaction_from_hello_to_quit() {
    let (replies, steps) = talk(&mut mx(), b"EHLO c.example\r\n");
    assert_eq!(
        replies,
        "250-mx.example.org\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n\
         250-STARTTLS\r\n250 LIMITS MAILMAX=5 RCPTMAX=3\r\n"
    );
    assert!(steps.is_empty());
    let mut server = mx();
    let _ = talk(&mut server, b"HELO c.example\r\n");
    let (replies, steps) = talk_in_parts(
        &mut server,
        &[
            b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n",
            b"QUIT\r\n",
        ],
    );
    assert_eq!(codes(&replies), [250, 250, 354, 250, 221]);
    assert_eq!(steps, [Step::Data, Step::Close]);
}

#[test]
fn replies_are_the_same_at_every_split() {
    let dialogue = b"NOOP\r\nFOO\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<x@elsewhere.example>\r\n\
        RCPT TO:<b@example.org>\r\nRSET\r\nDATA\r\nVRFY b\r\nQUIT\r\n";
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    let whole = talk_in_parts(&mut server, &[&dialogue[..]]);
    assert_eq!(
        codes(&whole.0),
        [250, 500, 250, 550, 250, 250, 503, 252, 221]
    );
    for cut in 1..dialogue.len() {
        let mut server = mx();
        let _ = talk(&mut server, b"EHLO c.example\r\n");
        let (first, second) = dialogue.split_at(cut);
        let split = talk_in_parts(&mut server, &[first, second]);
        assert_eq!(split, whole, "cut at {cut}");
    }
}

#[test]
fn order_of_commands_is_enforced() {
    for (dialogue, expected) in [
        (&b"MAIL FROM:<a@c.example>\r\n"[..], vec![503]),
        (b"RCPT TO:<b@example.org>\r\n", vec![503]),
        (b"DATA\r\n", vec![503]),
        (b"STARTTLS\r\n", vec![503]),
        (b"AUTH PLAIN\r\n", vec![502]),
        (b"EXPN x\r\n", vec![502]),
    ] {
        assert_eq!(
            codes(&talk(&mut mx(), dialogue).0),
            expected,
            "{dialogue:?}"
        );
    }
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    for (line, code) in [
        (&b"RCPT TO:<b@example.org>\r\n"[..], 503),
        (b"MAIL FROM:<a@c.example> SIZE=1001\r\n", 552),
        (b"MAIL FROM:<a@c.example> SIZE=1000\r\n", 250),
        (b"MAIL FROM:<a@c.example>\r\n", 503),
        (b"STARTTLS\r\n", 503),
        (b"DATA\r\n", 554),
        (b"RCPT TO:<1@example.org>\r\n", 250),
        (b"RCPT TO:<2@example.org>\r\n", 250),
        (b"RCPT TO:<3@example.org>\r\n", 250),
        (b"RCPT TO:<4@example.org>\r\n", 452),
        (b"EHLO c.example\r\n", 250),
        (b"RCPT TO:<1@example.org>\r\n", 503),
    ] {
        assert_eq!(codes(&talk(&mut server, line).0), [code], "{line:?}");
    }
}

#[test]
fn lines_that_are_none_cost_one_reply_each() {
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    assert_eq!(codes(&talk(&mut server, b"NOOP\n").0), [500]);
    assert_eq!(codes(&talk(&mut server, b"NOOP\rNOOP\r\n").0), [500]);
    assert_eq!(codes(&talk(&mut server, b"NO\0OP\r\n").0), [501]);
    assert_eq!(codes(&talk(&mut server, b"\xff\xfe\r\n").0), [500]);
    let long = [
        b"EHLO ".to_vec(),
        vec![b'a'; 9000],
        b"\r\nNOOP\r\n".to_vec(),
    ]
    .concat();
    assert_eq!(codes(&talk(&mut server, &long).0), [500, 250]);
}

#[test]
fn an_endless_line_ends_the_connection_and_keeps_no_memory() {
    let mut server = mx();
    let mut input = BytesMut::new();
    let mut out = Vec::new();
    for round in 0..100 {
        input.extend_from_slice(&[b'a'; 4096]);
        if server.next(&mut input, &mut out) == Step::Close {
            assert!((16..=19).contains(&round), "closed after {round} blocks");
            assert_eq!(codes(&String::from_utf8(out).expect("text")), [500, 421]);
            return;
        }
        assert!(input.len() <= 4096);
    }
    panic!("never closed");
}

#[test]
fn other_protocols_and_early_data_are_closed_upon() {
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], 502),
        (b"\x16\x03\x01\x02\x00\x01\x00", 502),
        (b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n", 554),
    ] {
        let (replies, steps) = talk(&mut mx(), bytes);
        assert_eq!(
            (codes(&replies), steps),
            (vec![code], vec![Step::Close]),
            "{bytes:?}"
        );
    }
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    let (replies, steps) = talk(
        &mut server,
        b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n",
    );
    assert_eq!(
        (codes(&replies), steps),
        (vec![250, 250, 554], vec![Step::Close])
    );
}

#[test]
fn floods_of_errors_and_of_idle_commands_end_the_connection() {
    let mut server = mx();
    let (replies, steps) = talk(&mut server, &b"JUNK\r\n".repeat(100));
    assert_eq!(codes(&replies), [vec![500; 20], vec![421]].concat());
    assert_eq!(steps, [Step::Close]);
    let (replies, steps) = talk(&mut mx(), &b"NOOP\r\n".repeat(100));
    assert_eq!(codes(&replies), [vec![250; 10], vec![421]].concat());
    assert_eq!(steps, [Step::Close]);
}

#[test]
fn a_refused_sender_leaves_no_transaction() {
    let mut server = mx();
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    let mut input =
        BytesMut::from(&b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"[..]);
    let mut out = Vec::new();
    assert!(matches!(
        server.next(&mut input, &mut out),
        Step::Sender(Some(_))
    ));
    server.sender(Err(Reply::new(553, "5.7.1", "no")), &mut out);
    assert_eq!(server.next(&mut input, &mut out), Step::Read);
    assert_eq!(
        codes(&String::from_utf8(out).expect("text")),
        [553, 503, 503]
    );
}

#[test]
fn every_fixed_reply_is_well_formed() {
    for (name, reply, _) in replies::ALL {
        let mut out = Vec::new();
        reply.write(&mut out);
        assert!(out.len() <= 512 && out.ends_with(b"\r\n"), "{name}");
        let class = reply.enhanced.chars().next();
        // 421 says when the connection ends, its enhanced code whose fault that is.
        let same = class == reply.code.to_string().chars().next() || *name == "DATA_TOO_LONG";
        assert!(
            reply.enhanced.is_empty() || same || reply.code == 220,
            "{name}"
        );
    }
}

#[test]
fn a_connection_has_its_share_of_messages_and_commands() {
    let mut server = greeted();
    let message = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n";
    for _ in 0..5 {
        assert_eq!(codes(&talk(&mut server, message).0), [250, 250, 354, 250]);
    }
    let (replies, steps) = talk(&mut server, message);
    assert_eq!((codes(&replies), steps), (vec![421], vec![Step::Close]));
    let mut server = greeted();
    let (replies, steps) = talk(&mut server, &b"EHLO c.example\r\n"[..]);
    assert_eq!((codes(&replies).len(), steps.len()), (1, 0));
    let mut many = 2;
    while codes(&talk(&mut server, b"EHLO c.example\r\n").0) == [250] {
        many += 1;
    }
    assert_eq!(many, 300);
}

proptest::proptest! {
    #[test]
    fn any_bytes_at_any_split_never_panic_and_replies_are_clean(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        cut in 0usize..400,
    ) {
        let mut server = greeted();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let (replies, _) = talk_in_parts(&mut server, &[first, second]);
        proptest::prop_assert!(replies.bytes().all(|byte| matches!(byte, b'\r' | b'\n' | 32..=126)));
        proptest::prop_assert!(replies.lines().all(|line| line.len() <= 510));
    }
}
