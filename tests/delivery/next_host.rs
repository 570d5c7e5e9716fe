//! The first host is not the last word: what it lacks another one may have, and a family that no
//! address of ours is named for is reached all the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use chapar::lab::{Act, Mx, MxConfig, Stage};
use chapar::message::{Body, Content};
use queue_schema::{BodyKind, DeliverBy, Message};

use crate::world::{World, free_port, hosts, ip, small};

/// The hosts of example.com, each worse than the one before.
async fn world(configs: Vec<MxConfig>) -> (World, Vec<Mx>) {
    let hosts = hosts(configs).await;
    // So that every message begins with the best one.
    let world = World::new(hosts[0].address().port(), |config| {
        config.delivery.keep_idle = chapar::config::Span::secs(0);
    })
    .await;
    for (at, mx) in (0u16..).zip(&hosts) {
        let name = format!("mx{at}.example.com");
        world.dns.mx("example.com", 10 * (at + 1), &name);
        world.dns.a(&name, ip(mx));
    }
    (world, hosts)
}

/// What a host may lack, as it comes out of the box.
fn plain() -> MxConfig {
    MxConfig {
        smtputf8: false,
        eight_bit: false,
        size: Some(1000),
        extensions: vec!["DELIVERBY 1000".to_owned()],
        ..MxConfig::default()
    }
}

/// Messages that need one thing each, and what is said where no host has it.
fn demanding(world: &mut World) -> Vec<(Message, Content, &'static str)> {
    let utf8 = world.message(&["caf\u{e9}@example.com"]);
    let large = world.message(&["a@example.com"]);
    let mut urgent = world.message(&["a@example.com"]);
    urgent.envelope.deliver_by = Some(DeliverBy {
        at: chapar::time::now() + 600_000,
        give_up: true,
    });
    let mut signed = world.message(&["a@example.com"]);
    signed.envelope.body = BodyKind::EightBit;
    let text = Content {
        head: "Content-Type: multipart/signed; boundary=b\r\n\r\n".into(),
        body: Body::Memory("--b\r\n\r\ncaf\u{e9}\r\n--b--\r\n".into()),
    };
    vec![
        (utf8, small("x"), "554 5.6.7"),
        (large, small(&"x".repeat(990)), "552 5.3.4"),
        (urgent, small("x"), "550 5.4.7"),
        (signed, text, "554 5.6.3"),
    ]
}

#[actix::test]
async fn d14_what_the_first_host_lacks_the_next_one_may_have() {
    let able = MxConfig {
        smtputf8: true,
        eight_bit: true,
        size: Some(1_000_000),
        extensions: vec!["DELIVERBY 60".to_owned()],
        ..MxConfig::default()
    };
    // More of those that lack it than an attempt has sessions for what goes wrong.
    let all = vec![plain(), plain(), plain(), plain(), able];
    let (mut world, hosts) = world(all).await;
    for (at, (mut message, content, _)) in demanding(&mut world).into_iter().enumerate() {
        let to = message.envelope.recipients[0].address.clone();
        message.top = "ARC-Seal: i=1; cv=none\r\n".to_owned();
        world.wake(message, Some(content)).await;
        let expected = format!("{to} delivered 250 2.0.0 Ok: queued");
        assert_eq!(world.outcome().await, expected, "{at}");
        assert_eq!(hosts[4].taken(), at + 1);
        // What goes on top of it was put there once, whoever was asked before.
        let received = hosts[4].received().pop().expect("it came");
        let data = String::from_utf8_lossy(&received.data).into_owned();
        assert_eq!(data.matches("ARC-Seal").count(), 1, "{data}");
    }
    for lacking in &hosts[..4] {
        let asked = |line: &str| line.starts_with("MAIL") || line.starts_with("RCPT");
        assert!(!lacking.log().iter().any(|line| asked(&line.line)));
    }
    // They are as good as ever for what they can take.
    world.send(&["a@example.com"]).await;
    assert!(world.outcome().await.contains(" delivered "));
    assert_eq!((hosts[0].taken(), hosts[4].taken()), (1, 4));
    world.end().await;
}

#[actix::test]
async fn d14_what_no_host_has_fails_and_says_so() {
    let (mut world, hosts) = world(vec![plain(), plain()]).await;
    for (message, content, code) in demanding(&mut world) {
        let to = message.envelope.recipients[0].address.clone();
        world.wake(message, Some(content)).await;
        let outcome = world.outcome().await;
        let expected = format!("{to} failed {code} ");
        assert!(outcome.starts_with(&expected), "{outcome}");
    }
    assert!(hosts.iter().all(|mx| mx.connections() > 0));
    world.end().await;
}

/// A host that can not be reached now, or puts the message off, may have it.
#[actix::test]
async fn d14_a_host_that_may_have_it_keeps_the_message_waiting() {
    let (mut world, hosts) = world(vec![plain()]).await;
    let utf8 = "caf\u{e9}@example.com";
    world.dns.mx("example.com", 50, "down.example.com");
    world
        .dns
        .a("down.example.com", Ipv4Addr::new(127, 0, 0, 99));
    world.send(&[utf8]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with(&format!(
            "{utf8} deferred 451 4.4.1 down.example.com[127.0.0.99]"
        )),
        "{outcome}"
    );
    assert_eq!(hosts[0].taken(), 0);
    world.end().await;

    let able = MxConfig {
        smtputf8: true,
        ..plain()
    };
    let (mut world, hosts) = self::world(vec![able, plain()]).await;
    hosts[0].on(Stage::Mail, |_| Act::reply("451 4.3.0 not now"));
    world.send(&[utf8]).await;
    assert_eq!(
        world.outcome().await,
        format!("{utf8} deferred 451 4.3.0 not now")
    );
    assert!(hosts[1].connections() > 0);
    world.end().await;
}

/// An address to send from says nothing about the other family.
#[actix::test]
async fn d16_a_source_of_one_family_delivers_over_the_other() {
    let four = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(four.address().port(), |config| {
        config.delivery.source = vec![Ipv6Addr::LOCALHOST.into()];
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.a("mx.example.com", ip(&four));
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com delivered 250 2.0.0 Ok: queued"
    );
    assert_eq!(four.received()[0].client, Ipv4Addr::LOCALHOST);
    world.end().await;

    // The same for the addresses of a route.
    let port = free_port();
    let six = MxConfig {
        address: (Ipv6Addr::LOCALHOST, port).into(),
        ..MxConfig::default()
    };
    let six = Mx::start(six).await.expect("an MX");
    let mut world = World::new(port, |config| {
        config.delivery.source = vec![Ipv6Addr::LOCALHOST.into()];
        config.routes = vec![chapar::config::Route {
            to: "example.com".to_owned(),
            via: vec!["mx:".to_owned()],
            source: vec![Ipv4Addr::LOCALHOST.into()],
            ..chapar::config::Route::default()
        }];
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.aaaa("mx.example.com", Ipv6Addr::LOCALHOST);
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com delivered 250 2.0.0 Ok: queued"
    );
    assert_eq!(six.received()[0].client, Ipv6Addr::LOCALHOST);
    world.end().await;
}
