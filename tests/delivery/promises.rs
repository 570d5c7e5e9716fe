//! What the sender asked of every hop: DSNs (RFC 3461) and verified TLS (RFC 8689).

use std::io::Write;

use chapar::config::{Config, Route};
use chapar::lab::{DnsServer, Mx, MxConfig};
use queue_schema::{DeliverBy, Message, Notify, Ret};

use crate::world::{World, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

#[actix::test]
async fn what_was_asked_of_dsns_goes_on() {
    let (mut world, mx) = World::with_mx(MxConfig {
        dsn: true,
        ..MxConfig::default()
    })
    .await;
    let mut message = world.message(&["a@example.com"]);
    message.envelope.ret = Some(Ret::Headers);
    message.envelope.envid = Some("one+two".to_owned());
    for recipient in &mut message.envelope.recipients {
        recipient.orcpt = Some("rfc822;other@example.net".to_owned());
        recipient.notify = Notify {
            success: true,
            failure: true,
            delay: false,
        };
    }
    world.wake(message, Some(small("x"))).await;
    assert_eq!(world.outcome().await, DELIVERED);
    let lines: Vec<_> = mx.log().into_iter().map(|line| line.line).collect();
    let said = |line: &str| lines.iter().any(|said| said == line);
    assert!(
        said("RCPT TO:<a@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;other@example.net"),
        "{lines:?}"
    );
    assert!(
        mx.received()[0]
            .parameters
            .ends_with(" RET=HDRS ENVID=one+2Btwo")
    );
    world.end().await;
}

/// MT-PRIORITY (RFC 6710) and DELIVERBY (RFC 2852), each where it is offered and asked for.
#[actix::test]
async fn priority_and_the_time_left_go_on_where_they_are_offered() {
    for (offered, priority, by, expected) in [
        (&["MT-PRIORITY"][..], 3, None, " MT-PRIORITY=3"),
        (&["MT-PRIORITY MIXER"], -9, None, " MT-PRIORITY=-9"),
        (&["MT-PRIORITY"], 0, None, ""),
        (&[], 3, Some((600, true)), ""),
        (&["DELIVERBY"], 0, Some((600, true)), " BY=600;R"),
        (&["DELIVERBY 240"], 0, Some((600, false)), " BY=600;N"),
        // The minimum is for what is to be returned.
        (&["DELIVERBY 240"], 0, Some((30, false)), " BY=30;N"),
        (&["DELIVERBY 240,X"], 0, Some((240, true)), " BY=240;R"),
        // Late already, which is to be told of: how late.
        (&["DELIVERBY"], 0, Some((-30, false)), " BY=-30;N"),
        (
            &["MT-PRIORITY", "DELIVERBY"],
            -1,
            Some((90_000, true)),
            " MT-PRIORITY=-1 BY=90000;R",
        ),
    ] {
        let (mut world, mx) = World::with_mx(MxConfig {
            extensions: offered.iter().map(|word| (*word).to_owned()).collect(),
            ..MxConfig::default()
        })
        .await;
        let mut message = world.message(&["a@example.com"]);
        message.envelope.priority = priority;
        // Whole seconds are told; less than one is lost on the way.
        let slack = |seconds: i64| if seconds > 0 { 999 } else { 0 };
        message.envelope.deliver_by = by.map(|(seconds, give_up)| DeliverBy {
            at: chapar::time::now().saturating_add_signed(seconds * 1000 + slack(seconds)),
            give_up,
        });
        world.wake(message, Some(small("x"))).await;
        assert_eq!(world.outcome().await, DELIVERED);
        let parameters = mx.received().remove(0).parameters;
        let size = parameters.split(' ').next().unwrap_or_default();
        assert_eq!(parameters, format!("{size}{expected}"), "{offered:?}");
        world.end().await;
    }
}

/// RFC 2852: a server that needs more time than is left is not asked.
#[actix::test]
async fn what_is_to_be_returned_in_time_is_not_given_to_a_server_that_needs_longer() {
    let (mut world, mx) = World::with_mx(MxConfig {
        extensions: vec!["DELIVERBY 240".to_owned()],
        ..MxConfig::default()
    })
    .await;
    let mut message = world.message(&["a@example.com"]);
    message.envelope.deliver_by = Some(DeliverBy {
        at: chapar::time::now() + 239_999,
        give_up: true,
    });
    world.wake(message, Some(small("x"))).await;
    let outcome = world.outcome().await;
    let begins = "a@example.com failed 550 5.4.7 the message is to be delivered within 23";
    assert!(outcome.starts_with(begins), "{outcome}");
    let ends = "seconds or returned and the server takes none with less than 240";
    assert!(outcome.ends_with(ends), "{outcome}");
    let lines: Vec<_> = mx.log().into_iter().map(|line| line.line).collect();
    let mail = lines.iter().any(|line| line.starts_with("MAIL"));
    assert!(!mail && mx.received().is_empty(), "{lines:?}");
    // One whose sender is only to be told goes.
    let mut message = world.message(&["a@example.com"]);
    message.envelope.deliver_by = Some(DeliverBy {
        at: chapar::time::now(),
        give_up: false,
    });
    world.wake(message, Some(small("x"))).await;
    assert_eq!(world.outcome().await, DELIVERED);
    world.end().await;
}

/// An MX that is the next hop by a route, and its certificate as the only extra root.
async fn relay(mx: MxConfig, trusted: bool) -> (World, Mx, tempfile::NamedTempFile) {
    let mx = Mx::start(mx).await.expect("an MX");
    let mut roots = tempfile::NamedTempFile::new().expect("a file");
    roots
        .write_all(mx.certificate().as_bytes())
        .expect("written");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.a("relay.example.com", ip(&mx));
    let change = |config: &mut Config| {
        config.routes = vec![Route {
            to: "*".to_owned(),
            via: vec![format!("smtp://relay.example.com:{}", mx.address().port())],
            ..Route::default()
        }];
        if trusted {
            config.tls.ca_file = roots.path().display().to_string();
        }
    };
    let world = World::with_dns(dns, 1, Default::default(), change);
    (world, mx, roots)
}

fn strict(world: &mut World) -> Message {
    let mut message = world.message(&["a@example.com"]);
    message.envelope.require_tls = true;
    message
}

fn tls(hostname: &str, require_tls: bool) -> MxConfig {
    MxConfig {
        hostname: hostname.to_owned(),
        starttls: true,
        require_tls,
        ..MxConfig::default()
    }
}

#[actix::test]
async fn requiretls_goes_over_verified_tls_to_a_hop_that_promises_the_same() {
    let (mut world, mx, _roots) = relay(tls("relay.example.com", true), true).await;
    // A session for ordinary mail proves nothing: it is left, and another one opened.
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    let message = strict(&mut world);
    world.wake(message, Some(small("secret"))).await;
    assert_eq!(world.outcome().await, DELIVERED);
    let received = mx.received();
    let seen: Vec<_> = received
        .iter()
        .map(|one| {
            (
                one.connection,
                one.tls,
                one.parameters.contains("REQUIRETLS"),
            )
        })
        .collect();
    assert_eq!(seen, [(1, true, false), (2, true, true)]);
    // Ordinary mail may use the session that is there.
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(mx.received()[2].connection, 2);
    world.end().await;
}

#[actix::test]
async fn requiretls_fails_for_good_where_it_can_not_be_kept() {
    for (mx, trusted, why) in [
        (
            tls("relay.example.com", false),
            true,
            "the server does not offer REQUIRETLS",
        ),
        (
            tls("relay.example.com", true),
            false,
            "invalid peer certificate",
        ),
        (
            tls("other.example.com", true),
            true,
            "invalid peer certificate",
        ),
        (MxConfig::default(), true, "the server offers no STARTTLS"),
    ] {
        let (mut world, mx, _roots) = relay(mx, trusted).await;
        let message = strict(&mut world);
        world.wake(message, Some(small("secret"))).await;
        let outcome = world.outcome().await;
        assert!(
            outcome.starts_with("a@example.com failed 550 5.7.30 relay.example.com[127.0.0.1]:")
                && outcome.contains(why),
            "{outcome}"
        );
        assert!(!mx.log().iter().any(|line| line.line.starts_with("MAIL")));
        // All other mail goes as ever.
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED, "{why}");
        world.end().await;
    }
}

#[actix::test]
async fn requiretls_waits_for_a_server_that_refuses_starttls_for_now() {
    let (mut world, mx, _roots) = relay(tls("relay.example.com", true), true).await;
    mx.on(chapar::lab::Stage::StartTls, |_| {
        chapar::lab::Act::reply("454 4.7.0 not now")
    });
    let message = strict(&mut world);
    world.wake(message, Some(small("secret"))).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with("a@example.com deferred") && outcome.contains("refused STARTTLS"),
        "{outcome}"
    );
    world.end().await;
}
