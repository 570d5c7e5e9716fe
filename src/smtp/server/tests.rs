//! The machine alone: scripted clients, every reply, every split.

use super::*;
use crate::smtp::scram::{self, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

fn options(submission: bool) -> Options {
    Options {
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
                Step::Proved { user, right } => {
                    let verdict = if right {
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
fn i9_credentials_travel_only_over_tls() {
    let mut server = Server::new(options(true));
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
    assert!(replies.contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"));
    assert!(replies.contains("250-REQUIRETLS\r\n") && !replies.contains("STARTTLS"));
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
        let mut server = submission();
        let (replies, _) = talk_in_parts(&mut server, parts);
        let mut expected = vec![334; parts.len() - 1];
        expected.push(235);
        assert_eq!(codes(&replies), expected, "{replies}");
        assert_eq!(server.user(), Some("u@e.example"));
        assert_eq!(codes(&talk(&mut server, b"AUTH PLAIN\r\n").0), [503]);
    }
    let mut server = submission();
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
fn chunks_are_taken_by_number_and_dots_mean_nothing_in_them() {
    let mut server = greeted();
    let dialogue = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nBDAT 11\r\n\
        a\r\n.\r\nQUIT\rBDAT 3\r\n\n\r\nBDAT 0 LAST\r\nNOOP\r\n";
    let whole = talk(&mut server, dialogue);
    assert_eq!(codes(&whole.0), [250, 250, 250, 250, 250, 250]);
    assert!(server.transaction().is_none());
}

#[test]
fn errors_in_bdat_end_the_transaction_and_keep_the_dialogue_in_step() {
    let begin = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\n";
    for (then, expected) in [
        (&b"BDAT bad\r\nDATA\r\n"[..], vec![501, 503]),
        (b"BDAT 5\r\nNOOP\rDATA\r\n", vec![250, 503]),
        (b"BDAT 1\r\n\x7fMAIL FROM:<a@b.example>\r\n", vec![250, 503]),
        (b"BDAT 1\r\nxRCPT TO:<c@example.org>\r\n", vec![250, 503]),
        (b"BDAT 1\r\nxRSET\r\nDATA\r\n", vec![250, 250, 503]),
        (
            b"BDAT 1\r\naBDAT 1\r\naBDAT 1\r\naBDAT 1\r\naBDAT 1\r\naDATA\r\n",
            vec![250, 250, 250, 250, 552, 503],
        ),
        (
            b"BDAT 1 LAST\r\naBDAT 6\r\nRSET\r\nNOOP\r\n",
            vec![250, 503, 250],
        ),
    ] {
        let mut server = greeted();
        let (replies, _) = talk(&mut server, &[begin, then].concat());
        assert_eq!(
            codes(&replies).get(2..).unwrap_or_default(),
            expected,
            "{then:?}"
        );
    }
    let mut server = greeted();
    let (replies, _) = talk(
        &mut server,
        b"BDAT 6 LAST\r\nRSET\r\nMAIL FROM:<a@c.example>\r\nBDAT 6 LAST\r\nRSET\r\nDATA\r\n",
    );
    assert_eq!(codes(&replies), [503, 250, 554, 503]);
}

#[test]
fn a_number_in_bdat_reserves_nothing() {
    for (line, code) in [
        (&b"BDAT 1001 LAST\r\n"[..], 552),
        (b"BDAT 18446744073709551615 LAST\r\n", 552),
        (b"BDAT 99999999999999999999\r\n", 552),
    ] {
        let mut server = greeted();
        let _ = talk(
            &mut server,
            b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\n",
        );
        let mut input = BytesMut::from(line);
        let mut out = Vec::new();
        match server.next(&mut input, &mut out) {
            Step::Discard(1001) => server.discarded(&mut out),
            Step::Close => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(codes(&String::from_utf8(out).expect("text")), [code]);
    }
    let mut off = options(false);
    off.extensions = Extensions::without(&[Extension::Chunking]);
    let mut server = Server::new(off);
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(!hello.contains("CHUNKING"));
    let (replies, steps) = talk(&mut server, b"BDAT 10 LAST\r\nQUIT\r\nNOOP");
    assert_eq!((codes(&replies), steps), (vec![502], vec![Step::Close]));
}

#[test]
fn parameters_of_extensions_that_are_off_are_unknown() {
    use Extension::*;
    for (extension, line, code) in [
        (Size, "MAIL FROM:<a@c.example> SIZE=1", 555),
        (EightBitMime, "MAIL FROM:<a@c.example> BODY=8BITMIME", 555),
        (SmtpUtf8, "MAIL FROM:<\u{fc}@c.example> SMTPUTF8", 555),
        (Dsn, "MAIL FROM:<a@c.example> RET=FULL", 555),
        (Dsn, "MAIL FROM:<a@c.example> ENVID=a", 555),
        (RequireTls, "MAIL FROM:<a@c.example> REQUIRETLS", 555),
        (DeliverBy, "MAIL FROM:<a@c.example> BY=60;R", 555),
        (FutureRelease, "MAIL FROM:<a@c.example> HOLDFOR=60", 555),
        (MtPriority, "MAIL FROM:<a@c.example> MT-PRIORITY=3", 555),
        (Vrfy, "VRFY a", 502),
        (Help, "HELP", 502),
        (Auth, "AUTH PLAIN", 502),
        (Scram, "AUTH SCRAM-SHA-256", 504),
    ] {
        let mut with = options(true);
        with.trusted = true;
        let mut off = with.clone();
        off.extensions = Extensions::without(&[extension]);
        for (options, on) in [(with, true), (off, false)] {
            let mut server = Server::new(options);
            server.tls_started(None);
            let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
            let told = hello.contains(extension.name());
            assert_eq!(told, on && !matches!(extension, Vrfy | Help), "{extension}");
            let got = codes(&talk(&mut server, format!("{line}\r\n").as_bytes()).0);
            assert_eq!(got == [code], !on, "{line}: {got:?}");
        }
    }
    let mut off = options(false);
    off.extensions = Extensions::without(&[EnhancedStatusCodes, Pipelining, Limits, StartTls]);
    let mut server = Server::new(off);
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(hello.ends_with("250-CHUNKING\r\n250 DSN\r\n"), "{hello}");
    assert_eq!(talk(&mut server, b"NOOP\r\n").0, "250 OK\r\n");
}

#[test]
fn strangers_have_no_use_for_what_is_for_users() {
    let mut server = greeted();
    for line in ["BY=60;N", "HOLDFOR=60", "MT-PRIORITY=3", "REQUIRETLS"] {
        let line = format!("MAIL FROM:<a@c.example> {line}\r\n");
        assert_eq!(
            codes(&talk(&mut server, line.as_bytes()).0),
            [555],
            "{line}"
        );
    }
    let mut server = logged_in();
    server.at(1_767_225_600_000);
    for (parameter, code) in [
        ("BY=60;N", 250),
        ("BY=60;R REQUIRETLS MT-PRIORITY=-9", 250),
        ("HOLDFOR=3600", 250),
        ("HOLDFOR=3601", 501),
        ("HOLDUNTIL=2026-01-01T00:59:00Z", 250),
        ("HOLDUNTIL=2026-01-01T01:01:00Z", 501),
        ("HOLDUNTIL=2025-12-31T23:59:59Z", 501),
    ] {
        let line = format!("MAIL FROM:<u@e.example> {parameter}\r\n");
        assert_eq!(
            codes(&talk(&mut server, line.as_bytes()).0),
            [code],
            "{line}"
        );
        let _ = talk(&mut server, b"RSET\r\n");
    }
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(hello.contains("250-FUTURERELEASE 3600 2026-01-01T01:00:00Z\r\n"));
}

#[test]
fn smtputf8_lets_addresses_of_a_transaction_be_beyond_ascii() {
    let mut server = greeted();
    for (line, code) in [
        ("MAIL FROM:<j\u{fc}rgen@c.example>", 553),
        ("MAIL FROM:<j\u{fc}rgen@c.example> SMTPUTF8", 250),
        ("RCPT TO:<b\u{fc}cher@example.org>", 250),
        (
            "RCPT TO:<b@EXAMPLE.org> ORCPT=utf-8;b\u{fc}@example.org",
            250,
        ),
        ("VRFY j\u{fc}rgen", 553),
        ("VRFY j\u{fc}rgen SMTPUTF8", 252),
        ("RCPT TO:<c@example.org>", 250),
        ("RSET", 250),
        ("MAIL FROM:<a@c.example>", 250),
        ("RCPT TO:<b\u{fc}cher@example.org>", 553),
    ] {
        let bytes = format!("{line}\r\n");
        assert_eq!(
            codes(&talk(&mut server, bytes.as_bytes()).0),
            [code],
            "{line}"
        );
    }
}

/// The client's side of SCRAM.
fn scram_response(challenge: &str, first_bare: &str, header: &[u8], password: &[u8]) -> String {
    use ring::{digest, hmac, pbkdf2};
    let server_first =
        String::from_utf8(STANDARD.decode(challenge).expect("base64")).expect("text");
    let attribute = |name: &str| {
        server_first
            .split(',')
            .find_map(|part| part.strip_prefix(name))
            .expect("attribute")
    };
    let (nonce, salt) = (
        attribute("r="),
        STANDARD.decode(attribute("s=")).expect("salt"),
    );
    let rounds = attribute("i=").parse().expect("number");
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        password,
        &mut salted,
    );
    let sign = |key: &[u8], text: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
            .as_ref()
            .to_vec()
    };
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, &client_key);
    let signed = format!("c={},r={nonce}", STANDARD.encode(header));
    let message = format!("{first_bare},{server_first},{signed}");
    let signature = sign(stored.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(&signature)
        .map(|(a, b)| a ^ b)
        .collect();
    STANDARD.encode(format!("{signed},p={}", STANDARD.encode(proof)))
}

#[test]
fn scram_proves_both_sides_with_and_without_binding() {
    let bound = [&b"p=tls-exporter,,"[..], &[7; 32]].concat();
    for (mechanism, gs2, header, user, password, expected) in [
        (
            "SCRAM-SHA-256",
            "n,,",
            &b"n,,"[..],
            "u@e.example",
            "secret",
            vec![334, 235],
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-exporter,,",
            &bound,
            "u@e.example",
            "secret",
            vec![334, 235],
        ),
        (
            "SCRAM-SHA-256",
            "n,,",
            b"n,,",
            "u@e.example",
            "wrong",
            vec![535],
        ),
        (
            "SCRAM-SHA-256",
            "n,,",
            b"n,,",
            "x@e.example",
            "secret",
            vec![535],
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-exporter,,",
            b"p=tls-exporter,,wrong",
            "u@e.example",
            "secret",
            vec![535],
        ),
    ] {
        let mut server = submission();
        let bare = format!("n={user},r=abc");
        let first = STANDARD.encode(format!("{gs2}{bare}"));
        let (reply, _) = talk(
            &mut server,
            format!("AUTH {mechanism} {first}\r\n").as_bytes(),
        );
        let challenge = reply.trim_end().strip_prefix("334 ").expect("challenge");
        let response = scram_response(challenge, &bare, header, password.as_bytes());
        let (mut replies, _) = talk(&mut server, format!("{response}\r\n").as_bytes());
        if replies.starts_with("334") {
            replies += &talk(&mut server, b"\r\n").0;
        }
        assert_eq!(
            codes(&replies),
            expected,
            "{mechanism} {user} {password}: {replies}"
        );
        assert_eq!(server.user().is_some(), expected.ends_with(&[235]));
    }
    let mut server = submission();
    let downgraded = STANDARD.encode("y,,n=u@e.example,r=abc");
    let line = format!("AUTH SCRAM-SHA-256 {downgraded}\r\n");
    assert_eq!(codes(&talk(&mut server, line.as_bytes()).0), [535]);
}

#[test]
fn few_logins_fail_on_one_connection() {
    let mut server = submission();
    let wrong = b"AUTH PLAIN AHVAZS5leGFtcGxlAHdyb25n\r\n";
    for code in [535, 535, 535, 421] {
        assert_eq!(codes(&talk(&mut server, wrong).0), [code]);
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

#[test]
fn xclient_is_for_proxies_of_ours_and_starts_over() {
    let mut server = greeted();
    let line = b"XCLIENT ADDR=127.0.0.1 LOGIN=admin\r\n";
    assert_eq!(codes(&talk(&mut server, line).0), [502]);
    let mut proxied = options(false);
    proxied.xclient = true;
    let mut server = Server::new(proxied);
    let (hello, _) = talk(&mut server, b"EHLO proxy.example\r\n");
    assert!(hello.ends_with("250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n"));
    let mut input = BytesMut::from(
        &b"XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=4711 LOGIN=U@e.example\r\n"[..],
    );
    let mut out = Vec::new();
    let step = server.next(&mut input, &mut out);
    let expected = Xclient {
        address: Some("2001:db8::7".parse().expect("address")),
        port: Some(4711),
        login: Some("u@e.example".into()),
    };
    assert_eq!(step, Step::Xclient(expected));
    server.client_changed(false, Some("u@e.example".into()), &mut out);
    assert_eq!(out, b"220 mx.example.org ESMTP chapar\r\n");
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<a@b.example>\r\n").0),
        [503]
    );
    for bad in ["ADDR=300.1.1.1", "PORT=x", "COLOUR=red", "ADDR"] {
        let line = format!("XCLIENT {bad}\r\n");
        assert_eq!(codes(&talk(&mut server, line.as_bytes()).0), [501], "{bad}");
    }
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
