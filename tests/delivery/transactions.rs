//! What is said over a connection, and what is made of the answers.

use std::time::Duration;

use chapar::lab::{Act, Ca, Identity, Mx, MxConfig, Stage};

use crate::world::World;

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

fn lines(mx: &Mx) -> Vec<String> {
    mx.log()
        .into_iter()
        .map(|line| format!("{} {}", line.connection, line.line))
        .collect()
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
async fn c065_a_354_without_recipients_sends_nothing() {
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
    // MAIL refused, then everything that depends on it: the first word is the answer.
    mx.on(Stage::Mail, |_| Act::reply("552 5.3.4 too big"));
    mx.on(Stage::Data, |_| Act::reply("503 5.5.1 RCPT first"));
    let both = ["b@example.com", "c@example.com"];
    world.send(&both).await;
    for (who, outcome) in both.iter().zip(world.outcomes(2).await) {
        assert_eq!(outcome, format!("{who} failed 552 5.3.4 too big"));
    }
    mx.behave();
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!((mx.taken(), mx.connections()), (2, 1));
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
async fn c077_a_failed_handshake_falls_back_to_clear_and_is_remembered() {
    // A moment later, or it would be taken for an injected reply.
    let garbage = Act::Raw(b"this is no TLS record at all".to_vec());
    let garbage = Act::After(Duration::from_millis(50), Box::new(garbage));
    let alert = Act::Raw(vec![0x15, 3, 1, 0, 2, 2, 40]);
    let alert = Act::After(Duration::from_millis(50), Box::new(alert));
    for act in [Act::Close, garbage, alert, Act::Hang] {
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
async fn c078_whatever_the_certificate_it_is_better_than_clear() {
    let ca = Ca::new("Lab CA").expect("a CA");
    for identity in [
        Identity::self_signed("mx.example.com"),
        ca.issue_expired("mx.example.com"),
        ca.issue("other.example.com"),
    ] {
        let (mut world, mx) = World::with_mx(MxConfig {
            starttls: true,
            identity: Some(identity.expect("a certificate")),
            ..MxConfig::default()
        })
        .await;
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
        assert_eq!((mx.received()[0].tls, mx.connections()), (true, 1));
        world.end().await;
    }
}

#[actix::test]
async fn c077_starttls_refused_goes_on_in_clear() {
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
