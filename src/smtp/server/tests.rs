//! The machine alone: scripted clients, every reply, every split.

use super::*;

fn options(submission: bool, tls: bool) -> Options {
    Options {
        hostname: "mx.example.org".into(),
        submission,
        starttls: true,
        tls,
        trusted: false,
        max_message: 1000,
        max_recipients: 3,
        max_line: 2048,
        max_errors: 20,
        max_idle_commands: 10,
    }
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
                    let verdict = match to.domain() {
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
                Step::StartTls => {
                    steps.push(Step::StartTls);
                    bytes.clear();
                    server.tls_started();
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
    Server::new(options(false, false))
}

#[test]
fn a_transaction_from_hello_to_quit() {
    let (replies, steps) = talk(&mut mx(), b"EHLO c.example\r\n");
    assert_eq!(
        replies,
        "250-mx.example.org\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-PIPELINING\r\n\
         250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n"
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
fn i9_credentials_travel_only_over_tls() {
    let mut server = Server::new(options(true, false));
    let (replies, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(!replies.contains("AUTH"));
    let (replies, _) = talk(&mut server, b"AUTH PLAIN AHVAZS5leGFtcGxlAHNlY3JldA==\r\n");
    assert_eq!(codes(&replies), [538]);
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<u@e.example>\r\n").0),
        [530]
    );
    let (_, steps) = talk(&mut server, b"STARTTLS\r\nEHLO evil\r\nAUTH PLAIN x\r\n");
    assert_eq!(steps, [Step::StartTls], "bytes behind STARTTLS are dropped");
    assert!(
        server.hello().is_none(),
        "what was said in clear is forgotten"
    );
    assert_eq!(codes(&talk(&mut server, b"AUTH PLAIN\r\n").0), [503]);
    let (replies, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(replies.contains("AUTH PLAIN LOGIN") && !replies.contains("STARTTLS"));
    assert_eq!(codes(&talk(&mut server, b"STARTTLS\r\n").0), [503]);
}

#[test]
fn auth_plain_and_login_with_and_without_initial_response() {
    for parts in [
        &[&b"AUTH PLAIN AHVAZS5leGFtcGxlAHNlY3JldA==\r\n"[..]][..],
        &[b"auth plain\r\n", b"AHVAZS5leGFtcGxlAHNlY3JldA==\r\n"],
        &[b"AUTH LOGIN\r\n", b"dUBlLmV4YW1wbGU=\r\n", b"c2VjcmV0\r\n"],
        &[b"auth login dUBlLmV4YW1wbGU=\r\n", b"c2VjcmV0\r\n"],
    ] {
        let mut server = Server::new(options(true, true));
        let _ = talk(&mut server, b"EHLO c.example\r\n");
        let (replies, _) = talk_in_parts(&mut server, parts);
        let mut expected = vec![334; parts.len() - 1];
        expected.push(235);
        assert_eq!(codes(&replies), expected, "{replies}");
        assert_eq!(server.user(), Some("u@e.example"));
        assert_eq!(codes(&talk(&mut server, b"AUTH PLAIN\r\n").0), [503]);
    }
    let mut server = Server::new(options(true, true));
    let _ = talk(&mut server, b"EHLO c.example\r\n");
    assert_eq!(
        talk(&mut server, b"AUTH PLAIN\r\n").0,
        "334 \r\n",
        "the space is part of it"
    );
    assert_eq!(codes(&talk(&mut server, b"*\r\n").0), [501]);
    assert_eq!(
        codes(&talk(&mut server, b"AUTH PLAIN AHVAZS5leGFtcGxlAHdyb25n\r\n").0),
        [535]
    );
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<u@e.example>\r\n").0),
        [530]
    );
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
    for (name, reply) in replies::ALL {
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
