//! What is said over a connection, and what is made of the answers.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chapar::lab::{Act, DnsServer, Mx, MxConfig, Stage};
use chapar::message::{Body, Content, SpoolFile};
use queue_schema::BodyKind;

use crate::world::{World, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

fn lines(mx: &Mx) -> Vec<String> {
    mx.log()
        .into_iter()
        .map(|line| format!("{} {}", line.connection, line.line))
        .collect()
}

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

#[actix::test]
async fn several_recipients_share_a_transaction_and_each_has_its_own_reply() {
    for pipelining in [true, false] {
        let (mut world, mx) = World::with_mx(MxConfig {
            pipelining,
            ..MxConfig::default()
        })
        .await;
        mx.on(Stage::Rcpt, |line| match line {
            line if line.contains("<b@") => Act::reply("450-4.2.0 try b\n450 4.2.0 later"),
            line if line.contains("<c@") => Act::reply("550-5.1.1 no\n550 5.1.1 c here"),
            line if line.contains("<d@") => Act::reply("552 too many"),
            line if line.contains("<f@") => Act::reply("451 4.7.1 try again in 300 seconds"),
            _ => Act::Default,
        });
        let to = ["a", "b", "c", "d", "e", "f"].map(|local| format!("{local}@example.com"));
        world.send(&to.each_ref().map(String::as_str)).await;
        assert_eq!(
            world.outcomes(6).await,
            [
                "a@example.com delivered 250 2.0.0 Ok: queued",
                "b@example.com deferred 450 4.2.0 try b later",
                "c@example.com failed 550 5.1.1 no c here",
                "d@example.com deferred 552 too many",
                "e@example.com delivered 250 2.0.0 Ok: queued",
                "f@example.com deferred(300s) 451 4.7.1 try again in 300 seconds",
            ]
        );
        let received = mx.received();
        assert_eq!(received.len(), 1, "one transaction");
        assert_eq!(received[0].recipients, ["a@example.com", "e@example.com"]);
        world.end().await;
    }
}

#[actix::test]
async fn refusals_at_each_stage() {
    for pipelining in [true, false] {
        for (stage, reply, expected) in [
            (Stage::Mail, "550 5.7.1 no", "failed 550 5.7.1 no"),
            (Stage::Mail, "452 4.3.1 full", "deferred 452 4.3.1 full"),
            (Stage::Mail, "503 5.5.1 what", "deferred 503 5.5.1 what"),
            (Stage::Rcpt, "550 5.1.1 no", "failed 550 5.1.1 no"),
            (Stage::Rcpt, "450 later", "deferred 450 later"),
            (Stage::Data, "554 5.7.1 no", "failed 554 5.7.1 no"),
            (Stage::Data, "451 4.3.0 later", "deferred 451 4.3.0 later"),
            (Stage::Dot, "552 5.3.4 big", "failed 552 5.3.4 big"),
            (Stage::Dot, "554 5.7.1 spam", "failed 554 5.7.1 spam"),
            (Stage::Dot, "451 4.3.0 later", "deferred 451 4.3.0 later"),
            (
                Stage::Dot,
                "221 2.0.0 odd but yes",
                "delivered 221 2.0.0 odd but yes",
            ),
        ] {
            let (mut world, mx) = World::with_mx(MxConfig {
                pipelining,
                ..MxConfig::default()
            })
            .await;
            mx.on(stage, move |_| Act::reply(reply));
            world.send(&["a@example.com"]).await;
            assert_eq!(world.outcome().await, format!("a@example.com {expected}"));
            // The next message is not confused by what was left of this one.
            mx.behave();
            world.send(&["a@example.com"]).await;
            assert_eq!(world.outcome().await, DELIVERED, "after {reply}");
            let count = |word: &str| {
                mx.log()
                    .iter()
                    .filter(|line| line.line.starts_with(word))
                    .count() as u64
            };
            // Never a RSET before the first message of a connection.
            let resets = count("RSET");
            let again = mx.connections() - 1;
            assert_eq!(
                resets + again,
                u64::from(!reply.starts_with("221")),
                "{reply}"
            );
            world.end().await;
        }
    }
}

#[actix::test]
async fn a_354_without_recipients_sends_nothing() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    mx.on(Stage::Rcpt, |_| Act::reply("550 5.1.1 no"));
    mx.on(Stage::Data, |_| Act::reply("354 go"));
    mx.on(Stage::Dot, |_| Act::reply("554 5.5.1 no recipients"));
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, "a@example.com failed 550 5.1.1 no");
    mx.behave();
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!((mx.taken(), mx.connections()), (1, 1));
    world.end().await;
}

#[actix::test]
async fn one_connection_serves_many_messages() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    for _ in 0..20 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert_eq!((mx.taken(), mx.connections()), (20, 1));
    // And is closed with a QUIT when the work ends.
    world.end().await;
    mx.wait_closed().await;
    assert_eq!(mx.log().last().map(|line| line.line.as_str()), Some("QUIT"));
}

#[actix::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.keep_idle = "50ms".parse().expect("span");
    })
    .await;
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    mx.wait_closed().await;
    assert_eq!(mx.log().last().map(|line| line.line.as_str()), Some("QUIT"));
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(mx.connections(), 2);
    world.end().await;
}

/// K #482: a server that ends the connection between two messages costs no attempt.
#[actix::test]
async fn a_connection_dropped_between_messages_is_no_failed_attempt() {
    for act in [
        Act::Close,
        Act::ReplyThenClose("421 4.4.2 idle for too long".to_owned()),
        Act::Raw(b"250 out of step\r\n".to_vec()),
    ] {
        for starttls in [false, true] {
            let (mut world, mx) = World::with_mx(MxConfig {
                starttls,
                ..MxConfig::default()
            })
            .await;
            let after = act.clone();
            mx.on(Stage::Done, move |_| after.clone());
            for _ in 0..5 {
                world.send(&["a@example.com"]).await;
                assert_eq!(world.outcome().await, DELIVERED, "{act:?}");
            }
            assert_eq!((mx.taken(), mx.connections()), (5, 5));
            world.end().await;
        }
    }
}

/// The same, when the server says so only in place of its answer to MAIL.
#[actix::test]
async fn a_421_to_the_second_mail_is_no_failed_attempt() {
    for act in [
        Act::Close,
        Act::ReplyThenClose("421 4.7.0 enough for now".to_owned()),
    ] {
        let (mut world, mx) = World::with_mx(MxConfig::default()).await;
        let mut count = 0;
        let deny = act.clone();
        mx.on(Stage::Mail, move |_| {
            count += 1;
            if count % 2 == 0 {
                deny.clone()
            } else {
                Act::Default
            }
        });
        for _ in 0..4 {
            world.send(&["a@example.com"]).await;
            assert_eq!(world.outcome().await, DELIVERED, "{act:?}");
        }
        assert_eq!(mx.taken(), 4);
        world.end().await;
        // On a fresh connection it is one.
        let (mut world, mx) = World::with_mx(MxConfig::default()).await;
        let deny = act.clone();
        mx.on(Stage::Mail, move |_| deny.clone());
        world.send(&["a@example.com"]).await;
        assert!(
            world
                .outcome()
                .await
                .starts_with("a@example.com deferred 4"),
            "{act:?}"
        );
        assert_eq!(mx.connections(), 1);
        world.end().await;
    }
}

#[actix::test]
async fn tls_where_it_is_offered() {
    let (mut world, mx) = World::with_mx(MxConfig {
        starttls: true,
        ..MxConfig::default()
    })
    .await;
    for _ in 0..2 {
        world.send(&["a@example.com"]).await;
        let (_, attempt) = world.heard().await;
        assert_eq!(attempt.reply.code, 250);
        assert_eq!(attempt.tls, "TLSv1.3 TLS13_AES_256_GCM_SHA384 unverified");
    }
    assert!(mx.received().iter().all(|one| one.tls));
    assert_eq!(
        lines(&mx)[..4],
        [
            "1 EHLO mx.example.org",
            "1 STARTTLS",
            "1 EHLO mx.example.org",
            "1 MAIL FROM:<sender@example.org> SIZE=50",
        ]
    );
    world.end().await;
}

/// K/issues/67: a handshake that fails is not a delivery that fails, and is remembered.
#[actix::test]
async fn a_failed_handshake_falls_back_to_clear_and_is_remembered() {
    // A moment later, or it would be taken for an injected reply.
    let garbage = Act::Raw(b"this is no TLS record at all".to_vec());
    let garbage = Act::After(Duration::from_millis(50), Box::new(garbage));
    for act in [Act::Close, garbage, Act::Hang] {
        let (mut world, mx) = World::with_mx_and(
            MxConfig {
                starttls: true,
                ..MxConfig::default()
            },
            |config| {
                config.delivery.keep_idle = "0ms".parse().expect("span");
                config.timeouts.command = "500ms".parse().expect("span");
            },
        )
        .await;
        let failing = act.clone();
        mx.on(Stage::Handshake, move |_| failing.clone());
        for _ in 0..2 {
            world.send(&["a@example.com"]).await;
            let (_, attempt) = world.heard().await;
            assert_eq!(
                (attempt.reply.code, attempt.tls.as_str()),
                (250, ""),
                "{act:?}"
            );
            mx.wait_closed().await;
        }
        let starts = mx
            .log()
            .iter()
            .filter(|line| line.line == "STARTTLS")
            .count();
        assert_eq!((starts, mx.connections()), (1, 3), "{act:?}");
        world.end().await;
    }
}

#[actix::test]
async fn starttls_refused_goes_on_in_clear() {
    let (mut world, mx) = World::with_mx(MxConfig {
        starttls: true,
        ..MxConfig::default()
    })
    .await;
    mx.on(Stage::StartTls, |_| {
        Act::reply("454 4.7.0 TLS not available")
    });
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!((mx.received()[0].tls, mx.connections()), (false, 1));
    world.end().await;
}

#[actix::test]
async fn helo_where_ehlo_is_unknown() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    mx.on(Stage::Ehlo, |_| Act::reply("502 5.5.1 what"));
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(
        lines(&mx),
        [
            "1 EHLO mx.example.org",
            "1 HELO mx.example.org",
            "1 MAIL FROM:<sender@example.org>",
            "1 RCPT TO:<a@example.com>",
            "1 DATA",
        ]
    );
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
    world.wake(message, Some(small("caf\u{e9}"))).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com failed 554 5.6.3 the message has 8-bit content and the server has no \
         8BITMIME"
    );
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
async fn parameters_only_when_needed() {
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
             (at the end of data)"
        );
        world.end().await;
        assert_eq!(mx.taken(), 0);
    }
}

#[actix::test]
async fn bytes_that_left_memory_are_fetched() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.a("example.com", ip(&mx));
    let contents = HashMap::from([(1, small("from the store"))]);
    let mut world = World::with_dns(dns, mx.address().port(), contents, |_| {});
    for expected in [
        DELIVERED.to_owned(),
        "a@example.com deferred 451 4.3.0 message 0000000000200 can not be read back: damaged"
            .to_owned(),
    ] {
        let message = world.message(&["a@example.com"]);
        let expected = expected.replace("0000000000200", &message.id.to_string());
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

#[actix::test]
async fn greylisting_defers_then_takes() {
    let (mut world, mx) = World::with_mx(MxConfig {
        greylist: true,
        ..MxConfig::default()
    })
    .await;
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 451 4.7.1 Greylisted, please come back later"
    );
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(mx.connections(), 1);
    world.end().await;
}
