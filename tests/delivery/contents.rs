//! The bytes of a message: as they came, encoded, from memory, from a file.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use chapar::lab::{Act, DnsServer, Mx, MxConfig, Stage};
use chapar::message::{Body, Content, SpoolFile};
use queue_schema::BodyKind;

use crate::world::{World, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

#[actix::test]
async fn a_message_arrives_byte_for_byte() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    let content = small("line\r\n.\r\n..two\r\nlast");
    let message = world.message(&["b@example.com"]);
    world.wake(message, Some(content)).await;
    let (_, attempt) = world.heard().await;
    assert_eq!(attempt.reply.to_string(), "250 2.0.0 Ok: queued");
    assert_eq!(
        attempt.reply.remote,
        format!("mx.example.com[127.0.0.1]:{}", mx.address().port())
    );
    assert_eq!(attempt.tls, "");
    let received = mx.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].reverse_path, "sender@example.org");
    assert_eq!(received[0].recipients, ["b@example.com"]);
    assert_eq!(received[0].hello, "mx.example.org");
    assert_eq!(
        String::from_utf8_lossy(&received[0].data),
        "From: sender@example.org\r\nSubject: test\r\n\r\nline\r\n.\r\n..two\r\nlast\r\n"
    );
    world.end().await;
}

/// Every way in which a dot can begin a line, also one that quoted-printable made.
#[actix::test]
async fn c093_lines_that_begin_with_dots_arrive_as_they_are() {
    for starttls in [false, true] {
        let (mut world, mx) = World::with_mx(MxConfig {
            starttls,
            ..MxConfig::default()
        })
        .await;
        let whole = ".\r\n..\r\n.x\r\n..key=1\r\nhttps://example.net/a=\r\n.html\r\n\r\n.\r\n\r\n";
        let open = ".x\r\n.";
        for (body, arrives) in [
            (whole, whole.to_owned()),
            (open, format!("{open}\r\n")),
            (".", ".\r\n".to_owned()),
        ] {
            let message = world.message(&["a@example.com"]);
            let content = Content {
                body: Body::Memory(Bytes::from_static(body.as_bytes())),
                ..small("")
            };
            let head = content.head.clone();
            world.wake(message, Some(content)).await;
            assert_eq!(world.outcome().await, DELIVERED, "{body:?}");
            let data = mx.received().pop().expect("it came").data;
            assert!(data.starts_with(&head));
            let came = String::from_utf8_lossy(&data[head.len()..]).into_owned();
            assert_eq!(came, arrives);
        }
        world.end().await;
    }
}

#[actix::test]
async fn bodies_that_hung_or_broke_others() {
    for starttls in [false, true] {
        let (mut world, mx) = World::with_mx(MxConfig {
            starttls,
            ..MxConfig::default()
        })
        .await;
        let bodies = [".", "..", "\r\n.\r\n", "", "no end", ".\r\n.\r\n.", "\r\n"];
        for body in bodies {
            let message = world.message(&["a@example.com"]);
            let head = Bytes::new();
            let content = Content {
                head,
                body: Body::Memory(Bytes::from_static(body.as_bytes())),
            };
            world.wake(message, Some(content)).await;
            assert_eq!(world.outcome().await, DELIVERED, "{body:?}");
        }
        let expected = [
            "..\r\n",
            "..\r\n",
            "\r\n.\r\n",
            "",
            "no end\r\n",
            ".\r\n.\r\n.\r\n",
            "\r\n",
        ];
        let expected: Vec<_> = expected
            .iter()
            .enumerate()
            .map(|(at, body)| match at {
                0 => ".\r\n".to_owned(),
                _ => (*body).to_owned(),
            })
            .collect();
        let received = mx.received().into_iter();
        let received: Vec<_> = received
            .map(|one| String::from_utf8_lossy(&one.data).into_owned())
            .collect();
        assert_eq!(received, expected);
        world.end().await;
    }
}

/// Twice over one connection, and once over one that had ended: the message that is kept for the
/// next attempt is the one that came.
#[actix::test]
async fn eight_bit_content_is_encoded_for_a_server_that_takes_none() {
    let (mut world, mx) = World::with_mx(MxConfig {
        eight_bit: false,
        ..MxConfig::default()
    })
    .await;
    let mut first = true;
    let mut second = false;
    mx.on(Stage::Mail, move |_| match (first, second) {
        (true, _) => {
            (first, second) = (false, true);
            Act::Default
        }
        (_, true) => {
            second = false;
            Act::Close
        }
        _ => Act::Default,
    });
    for _ in 0..2 {
        let mut message = world.message(&["a@example.com"]);
        message.envelope.body = BodyKind::EightBit;
        let content = Content {
            head: "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\
                   Content-Transfer-Encoding: 8bit\r\n\r\n"
                .into(),
            ..small("caf\u{e9}")
        };
        world.wake(message, Some(content)).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    let received = mx.received();
    assert_eq!((received.len(), mx.connections()), (2, 2));
    for message in &received {
        assert!(!message.parameters.contains("BODY"), "{message:?}");
        let text = String::from_utf8(message.data.clone()).expect("ASCII");
        assert!(
            text.contains("Content-Transfer-Encoding: quoted-printable\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\ncaf=C3=A9\r\n"), "{text}");
        // SIZE is that of what is sent.
        let size = format!("SIZE={}", message.data.len());
        assert!(message.parameters.contains(&size), "{message:?}");
    }
    world.end().await;
}

#[actix::test]
async fn what_a_server_can_not_take_is_not_sent_to_it() {
    let (mut world, mx) = World::with_mx(MxConfig {
        size: Some(1000),
        eight_bit: false,
        ..MxConfig::default()
    })
    .await;
    let big = "x".repeat(990);
    let message = world.message(&["a@example.com"]);
    world.wake(message, Some(small(&big))).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com failed 552 5.3.4 the message is longer than the 1000 bytes the server takes"
    );
    let mut message = world.message(&["a@example.com"]);
    message.envelope.body = BodyKind::EightBit;
    let signed = Content {
        head: "Content-Type: multipart/signed; boundary=b\r\n\r\n".into(),
        body: Body::Memory("--b\r\n\r\ncaf\u{e9}\r\n--b--\r\n".into()),
    };
    world.wake(message, Some(signed)).await;
    let outcome = world.outcome().await;
    let start =
        "a@example.com failed 554 5.6.3 the message has 8-bit content that can not be encoded";
    assert!(outcome.starts_with(start), "{outcome}");
    // Nor is a header with 8-bit text encoded: what it means is not known.
    for smtputf8 in [true, false] {
        let mut message = world.message(&["a@example.com"]);
        message.envelope.body = BodyKind::EightBit;
        message.envelope.smtputf8 = smtputf8;
        let content = Content {
            head: "Subject: caf\u{e9}\r\n\r\n".into(),
            ..small("caf\u{e9}")
        };
        world.wake(message, Some(content)).await;
        let outcome = world.outcome().await;
        assert!(
            outcome.starts_with("a@example.com failed 554 5.6.7 "),
            "{outcome}"
        );
    }
    let message = world.message(&["caf\u{e9}@example.com"]);
    world.wake(message, Some(small("x"))).await;
    assert_eq!(
        world.outcome().await,
        "caf\u{e9}@example.com failed 554 5.6.7 the message has internationalised addresses or \
         headers and the server has no SMTPUTF8"
    );
    let mut message = world.message(&["a@example.com"]);
    message.envelope.require_tls = true;
    world.wake(message, Some(small("x"))).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with("a@example.com failed 550 5.7.30 "),
        "{outcome}"
    );
    assert!(!mx.log().iter().any(|line| line.line.starts_with("MAIL")));
    // The connection is still good for what it can take; and if it has ended meanwhile, that is
    // no attempt.
    let mut first = true;
    mx.on(Stage::Mail, move |_| match std::mem::take(&mut first) {
        true => Act::Close,
        false => Act::Default,
    });
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(mx.connections(), 2);
    world.end().await;
}

#[actix::test]
async fn c048_parameters_only_when_needed() {
    let (mut world, mx) = World::with_mx(MxConfig {
        smtputf8: true,
        ..MxConfig::default()
    })
    .await;
    let mut message = world.message(&["caf\u{e9}@example.com"]);
    message.envelope.body = BodyKind::EightBit;
    message.envelope.reverse_path.clear();
    world.wake(message, Some(small("caf\u{e9}"))).await;
    assert_eq!(
        world.outcome().await,
        "caf\u{e9}@example.com delivered 250 2.0.0 Ok: queued"
    );
    let received = mx.received().remove(0);
    assert_eq!(received.reverse_path, "");
    assert_eq!(received.parameters, "SIZE=50 BODY=8BITMIME SMTPUTF8");
    assert_eq!(received.recipients, ["caf\u{e9}@example.com"]);
    // ASCII before the @, none; and ASCII addresses with a subject beyond it.
    for (to, subject, body, parameters) in [
        ("\u{5d9}@example.com", "x", "x", "SMTPUTF8"),
        ("a@example.com", "gr\u{fc}n", "x", "BODY=8BITMIME SMTPUTF8"),
        (
            "a@example.com",
            "gr\u{fc}n",
            "gr\u{fc}n",
            "BODY=8BITMIME SMTPUTF8",
        ),
    ] {
        mx.on(Stage::Mail, |line| match line.contains(" SMTPUTF8") {
            true => Act::Default,
            false => Act::reply("553 5.6.7 non-ASCII without SMTPUTF8"),
        });
        let mut message = world.message(&[to]);
        message.envelope.reverse_path = "user@example.org".to_owned();
        message.envelope.smtputf8 = !to.is_ascii() || !subject.is_ascii();
        if !subject.is_ascii() || !body.is_ascii() {
            message.envelope.body = BodyKind::EightBit;
        }
        let content = Content {
            head: format!("Subject: {subject}\r\n\r\n").into(),
            ..small(body)
        };
        world.wake(message, Some(content)).await;
        let expected = format!("{to} delivered 250 2.0.0 Ok: queued");
        assert_eq!(world.outcome().await, expected);
        let last = mx.received().pop().expect("it came");
        let (_, rest) = last.parameters.split_once(' ').expect("SIZE and more");
        assert_eq!(rest, parameters, "{subject} {body}");
        assert_eq!(last.recipients, [to]);
    }
    world.end().await;
}

#[actix::test]
async fn a_large_body_comes_from_its_file() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let mut body = Vec::new();
    for n in 0..40_000 {
        body.extend_from_slice(format!(".{n} {}\r\n", ".".repeat(n % 70)).as_bytes());
    }
    file.write_all(&body).expect("written");
    let path = Arc::new(file.path().to_path_buf());
    for starttls in [false, true] {
        let (mut world, mx) = World::with_mx(MxConfig {
            starttls,
            ..MxConfig::default()
        })
        .await;
        let spool = SpoolFile {
            path: Arc::clone(&path),
            len: body.len() as u64,
            crc: crc32c::crc32c(&body),
        };
        let head = Bytes::from_static(b"Subject: large\r\n\r\n");
        let content = Content {
            head: head.clone(),
            body: Body::Spool(spool),
        };
        let message = world.message(&["a@example.com"]);
        world.wake(message, Some(content)).await;
        assert_eq!(world.outcome().await, DELIVERED);
        let received = mx.received().remove(0);
        assert!(received.data == [head.as_ref(), &body].concat());
        world.end().await;
    }
    // A file that is not what it was does not go out as if it were.
    let (len, crc) = (body.len() as u64, crc32c::crc32c(&body));
    for (len, crc) in [(len + 1, crc), (len, crc ^ 1), (len - 1, crc)] {
        let (mut world, mx) = World::with_mx(MxConfig::default()).await;
        let path = Arc::clone(&path);
        let content = Content {
            head: Bytes::new(),
            body: Body::Spool(SpoolFile { path, len, crc }),
        };
        let message = world.message(&["a@example.com"]);
        world.wake(message, Some(content)).await;
        assert_eq!(
            world.outcome().await,
            "a@example.com deferred 451 4.4.2 the message could not be read back from disk \
             (at sending the message)"
        );
        world.end().await;
        assert_eq!(mx.taken(), 0);
    }
}

#[actix::test]
async fn q13_bytes_that_left_memory_are_fetched_and_what_is_lost_fails_at_once() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.a("example.com", ip(&mx));
    let contents = HashMap::from([(1, small("from the store"))]);
    let mut world = World::with_dns(dns, mx.address().port(), contents, |_| {});
    for expected in [
        DELIVERED.to_owned(),
        "a@example.com deferred 451 4.3.0 the message can not be read now".to_owned(),
        format!("a@example.com lost 554 5.3.0 {}", chapar::queue::LOST),
    ] {
        let message = world.message(&["a@example.com"]);
        world.wake(message, None).await;
        assert_eq!(world.outcome().await, expected);
    }
    assert_eq!(
        String::from_utf8_lossy(&mx.received()[0].data)
            .lines()
            .last(),
        Some("from the store")
    );
    world.end().await;
}
