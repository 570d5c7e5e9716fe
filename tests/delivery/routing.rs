//! Where mail goes: MX records, addresses, routes, and destinations that can not be reached.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chapar::config::{Family, Listen, Route, Service, Span, TlsMode};
use chapar::delivery::Reload;
use chapar::lab::{Act, DnsServer, Mx, MxConfig, Stage};

use crate::world::{World, free_port, hosts, ip};

/// Two MX hosts for example.com, at preferences 10 and 20.
pub async fn two() -> (World, Mx, Mx) {
    let mut hosts = hosts(vec![MxConfig::default(), MxConfig::default()]).await;
    let world = World::new(hosts[0].address().port(), |_| {}).await;
    world.dns.mx("example.com", 10, "mx1.example.com");
    world.dns.mx("example.com", 20, "mx2.example.com");
    world.dns.a("mx1.example.com", ip(&hosts[0]));
    world.dns.a("mx2.example.com", ip(&hosts[1]));
    let second = hosts.pop().expect("two");
    let first = hosts.pop().expect("two");
    (world, first, second)
}

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

#[actix::test]
async fn the_best_mx_gets_it() {
    let (mut world, first, second) = two().await;
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!((first.taken(), second.connections()), (1, 0));
    world.end().await;
}

#[actix::test]
async fn equal_mx_share_the_load() {
    let hosts = hosts(vec![MxConfig::default(), MxConfig::default()]).await;
    let mut world = World::new(hosts[0].address().port(), |config| {
        config.delivery.keep_idle = Span("0ms".parse::<Span>().expect("span").0);
    })
    .await;
    for (at, mx) in hosts.iter().enumerate() {
        let name = format!("mx{at}.example.com");
        world.dns.mx("example.com", 10, &name);
        world.dns.a(&name, ip(mx));
    }
    for _ in 0..40 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert!(
        hosts.iter().all(|mx| mx.taken() > 0),
        "one in 2^39 times this fails by chance"
    );
    world.end().await;
}

#[actix::test]
async fn the_next_mx_when_the_first_does_not_answer() {
    let (mut world, first, second) = two().await;
    drop(first);
    for _ in 0..2 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert_eq!(second.taken(), 2);
    world.end().await;
}

#[actix::test]
async fn the_next_mx_when_the_first_greets_with_a_refusal() {
    for greeting in ["421 4.3.2 busy", "450 later", "554 5.7.1 not you"] {
        let (mut world, first, second) = two().await;
        first.on(Stage::Greeting, move |_| {
            Act::ReplyThenClose(greeting.to_owned())
        });
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
        assert_eq!(
            (first.connections(), first.taken(), second.taken()),
            (1, 0, 1)
        );
        world.end().await;
    }
}

#[actix::test]
async fn a_5xx_greeting_is_final_only_from_all() {
    let (mut world, first, second) = two().await;
    first.on(Stage::Greeting, |_| {
        Act::ReplyThenClose("554 5.7.1 not you".to_owned())
    });
    second.on(Stage::Greeting, |_| {
        Act::ReplyThenClose("554-5.7.1 nor\n554 5.7.1 you".to_owned())
    });
    world.send(&["a@example.com"]).await;
    let (_, attempt) = world.heard().await;
    assert_eq!(attempt.outcome, chapar::queue::Outcome::Failed);
    assert_eq!(attempt.reply.to_string(), "554 5.7.1 nor you");
    assert_eq!(
        attempt.reply.remote,
        format!("mx2.example.com[127.0.0.3]:{}", second.address().port())
    );
    world.end().await;

    for refusing in [0, 1] {
        let (mut world, first, second) = two().await;
        let both = [&first, &second];
        both[refusing].on(Stage::Greeting, |_| {
            Act::ReplyThenClose("554 no".to_owned())
        });
        both[1 - refusing].on(Stage::Greeting, |_| {
            Act::ReplyThenClose("421 busy".to_owned())
        });
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, "a@example.com deferred 421 busy");
        world.end().await;
    }
}

#[actix::test]
async fn what_dns_says_decides() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(mx.address().port(), |config| {
        config.delivery.family = Family::Ipv4
    })
    .await;
    let dns = &world.dns;
    let here = ip(&mx);
    dns.null_mx("null.example");
    dns.servfail("broken.example");
    dns.a("implicit.example", here);
    dns.empty("empty.example");
    dns.mx("bad-host.example", 10, "broken.example");
    dns.mx("no-address.example", 10, "nowhere.example");
    dns.mx("self.example", 10, "MX.example.ORG");
    dns.mx("backup.example", 10, "good.example");
    dns.mx("backup.example", 20, "mx.example.org");
    dns.mx("backup.example", 30, "worse.example");
    dns.a("good.example", here);
    dns.mx("literal.example", 10, "127.0.0.1");
    dns.cname("alias.example", "implicit.example");
    dns.mx("mx-alias.example", 10, "alias.example");
    dns.mx("v6.example", 10, "v6-host.example");
    dns.aaaa("v6-host.example", "2001:db8::1".parse().expect("address"));
    dns.mx("null-and-more.example", 0, ".");
    dns.mx("null-and-more.example", 10, "good.example");
    dns.cname("loop.example", "loop2.example");
    dns.cname("loop2.example", "loop.example");
    for (domain, expected) in [
        (
            "null.example",
            "failed 556 5.1.10 null.example accepts no mail (null MX)",
        ),
        (
            "nowhere.example",
            "failed 550 5.1.2 nowhere.example does not exist in DNS",
        ),
        ("implicit.example", "delivered 250 2.0.0 Ok: queued"),
        ("Implicit.EXAMPLE", "delivered 250 2.0.0 Ok: queued"),
        (
            "empty.example",
            "failed 550 5.4.4 empty.example has neither A nor AAAA record",
        ),
        (
            "no-address.example",
            "failed 550 5.4.4 nowhere.example has neither A nor AAAA record",
        ),
        (
            "self.example",
            "failed 554 5.4.6 the mail host of self.example is this one, which takes no mail \
             for it: add the domain here or correct its MX record",
        ),
        ("backup.example", "delivered 250 2.0.0 Ok: queued"),
        (
            "literal.example",
            "failed 550 5.4.4 the MX record of literal.example names an address (127.0.0.1) and \
             not a host: its owner has to correct it",
        ),
        ("mx-alias.example", "delivered 250 2.0.0 Ok: queued"),
        ("null-and-more.example", "delivered 250 2.0.0 Ok: queued"),
        ("[127.0.0.1]", "delivered 250 2.0.0 Ok: queued"),
        (
            "[127.0.0]",
            "failed 553 5.1.3 [127.0.0] is no address literal",
        ),
        (
            "v6.example",
            "deferred 451 4.4.1 v6-host.example can only be reached over an IP family \
             we do not send from",
        ),
    ] {
        let to = format!("a@{domain}");
        world.send(&[&to]).await;
        assert_eq!(world.outcome().await, format!("{to} {expected}"));
    }
    // What could not be found out is never an end.
    for domain in ["broken.example", "bad-host.example", "loop.example"] {
        world.send(&[&format!("a@{domain}")]).await;
        let outcome = world.outcome().await;
        assert!(
            outcome.starts_with(&format!("a@{domain} deferred 451 4.4.3 ")),
            "{outcome}"
        );
    }
    world.send(&["nobody"]).await;
    assert_eq!(
        world.outcome().await,
        "nobody failed 553 5.1.3 an address without a domain"
    );
    world.end().await;
}

#[actix::test]
async fn a_servfail_that_passes_defers_once() {
    let (mut world, _mx) = World::with_mx(MxConfig::default()).await;
    world.dns.servfail("example.com");
    world.send(&["a@example.com"]).await;
    assert!(
        world
            .outcome()
            .await
            .starts_with("a@example.com deferred 451 4.4.3 ")
    );
    world.dns.remove("example.com");
    world.dns.mx("example.com", 10, "mx.example.com");
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    world.end().await;
}

#[actix::test]
async fn private_addresses_only_when_allowed_or_routed() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let via = format!("smtp://{}", mx.address());
    let mut world = World::new(mx.address().port(), |config| {
        config.delivery.private_targets = false;
        config.routes = vec![Route {
            to: "*.routed.example".to_owned(),
            via: vec![via],
            ..Route::default()
        }];
    })
    .await;
    world.dns.mx("example.com", 10, "loop.example.com");
    world.dns.a("loop.example.com", Ipv4Addr::new(127, 0, 0, 1));
    world.dns.mx("inside.example", 10, "host.inside.example");
    world
        .dns
        .a("host.inside.example", Ipv4Addr::new(10, 1, 2, 3));
    for (to, expected) in [
        (
            "a@example.com",
            "failed 554 5.4.6 loop.example.com is at 127.0.0.1, ",
        ),
        (
            "a@inside.example",
            "failed 554 5.4.4 host.inside.example is at 10.1.2.3, ",
        ),
        (
            "a@[127.0.0.1]",
            "failed 554 5.4.6 127.0.0.1 is at 127.0.0.1, ",
        ),
        ("a@x.routed.example", "delivered 250 2.0.0 Ok: queued"),
        ("a@routed.example", "failed 550 5.1.2 "),
    ] {
        world.send(&[to]).await;
        let outcome = world.outcome().await;
        assert!(
            outcome.starts_with(&format!("{to} {expected}")),
            "{outcome}"
        );
    }
    world.end().await;
}

#[actix::test]
async fn a_listener_of_our_own_is_a_loop() {
    let (mut world, mx) = {
        let mx = Mx::start(MxConfig::default()).await.expect("an MX");
        let address = format!("0.0.0.0:{}", mx.address().port());
        let world = World::new(mx.address().port(), |config| {
            let service = Service::Mx;
            config.listeners = vec![Listen {
                address,
                service,
                tls: TlsMode::None,
                disable: Vec::new(),
                milters: Vec::new(),
            }];
        })
        .await;
        (world, mx)
    };
    world.dns.mx("example.com", 10, "other-name.example.com");
    world.dns.a("other-name.example.com", ip(&mx));
    world.send(&["a@example.com"]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with("a@example.com failed 554 5.4.6 "),
        "{outcome}"
    );
    assert_eq!(mx.connections(), 0);
    world.end().await;
}

/// One attempt tells that a destination is down; the others wait with it and count nothing.
#[actix::test]
async fn a_dead_destination_pauses_as_a_whole() {
    let port = free_port();
    let mut world = World::new(port, |config| {
        config.retry.first = Span("400ms".parse::<Span>().expect("span").0);
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.a("mx.example.com", Ipv4Addr::LOCALHOST);
    let start = Instant::now();
    for n in 0..10 {
        world.send(&[&format!("u{n}@example.com")]).await;
    }
    let outcomes = world.outcomes(10).await;
    let reply = format!(
        "451 4.4.1 mx.example.com[127.0.0.1]:{port}: Connection refused (os error 111) \
         (at connecting)"
    );
    let with = |kind: &str| {
        outcomes
            .iter()
            .filter(|line| line.ends_with(&format!(" {kind} {reply}")))
            .count()
    };
    assert_eq!(
        (with("deferred"), with("postponed")),
        (1, 9),
        "{outcomes:?}"
    );
    // Up again, but the pause is not over: nothing is tried.
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mx = Mx::start(MxConfig {
        address,
        ..MxConfig::default()
    })
    .await
    .expect("an MX");
    world.send(&["a@example.com"]).await;
    let (_, attempt) = world.heard().await;
    let chapar::queue::Outcome::Deferred {
        retry_after: Some(rest),
        counts: false,
    } = attempt.outcome
    else {
        panic!("{attempt:?}");
    };
    assert!(rest <= Duration::from_millis(400) && start.elapsed() < Duration::from_secs(5));
    assert_eq!(mx.connections(), 0);
    // After the rest of the pause it goes out.
    tokio::time::sleep(rest).await;
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    world.end().await;
}

/// A destination that hangs holds its own mail, not that of others.
#[actix::test]
async fn one_destination_that_hangs_holds_up_no_other() {
    let hosts = hosts(vec![MxConfig::default(), MxConfig::default()]).await;
    hosts[0].on(Stage::Greeting, |_| Act::Hang);
    let mut world = World::new(hosts[0].address().port(), |config| {
        config.timeouts.greeting = Span::secs(600);
    })
    .await;
    world.dns.a("hangs.example", ip(&hosts[0]));
    world.dns.a("works.example", ip(&hosts[1]));
    for _ in 0..50 {
        world.send(&["a@hangs.example"]).await;
    }
    for _ in 0..50 {
        world.send(&["a@works.example"]).await;
    }
    let outcomes = world.outcomes(50).await;
    assert!(
        outcomes
            .iter()
            .all(|l| l == "a@works.example delivered 250 2.0.0 Ok: queued")
    );
    assert!(hosts[0].connections() <= 5);
    // The end waits for nobody who is only being connected to.
    let waiting = world.dispatcher.send(chapar::delivery::Drain);
    waiting.await.expect("a dispatcher");
    let outcomes = world.outcomes(50).await;
    let stopped = "a@hangs.example postponed 421 4.3.2 the daemon is stopping";
    assert!(outcomes.iter().all(|line| line == stopped), "{outcomes:?}");
    world.end().await;
}

#[actix::test]
async fn a_source_address_is_used() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.source = vec![Ipv4Addr::new(127, 0, 0, 77).into()];
    })
    .await;
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(mx.received()[0].client, Ipv4Addr::new(127, 0, 0, 77));
    world.end().await;
    // One that is not ours can not be, and says so.
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.source = vec![Ipv4Addr::new(192, 0, 2, 1).into()];
    })
    .await;
    world.send(&["a@example.com"]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with("a@example.com deferred 451 4.4.1 mx.example.com["),
        "{outcome}"
    );
    assert_eq!(mx.connections(), 0);
    world.end().await;
}

#[actix::test]
async fn ten_addresses_are_enough() {
    let hosts = hosts(vec![MxConfig::default(); 12]).await;
    let mut world = World::new(hosts[0].address().port(), |_| {}).await;
    for mx in &hosts {
        world.dns.a("example.com", ip(mx));
        mx.on(Stage::Greeting, |_| {
            Act::ReplyThenClose("421 4.3.2 busy".to_owned())
        });
    }
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 421 4.3.2 busy"
    );
    assert_eq!(hosts.iter().map(Mx::connections).sum::<u64>(), 10);
    world.end().await;
}

/// Workers on several threads, one resolver for all.
#[actix::test]
async fn workers_run_on_the_arbiters_they_are_given() {
    let hosts = hosts(vec![MxConfig::default(); 6]).await;
    let arbiters = [actix::Arbiter::new(), actix::Arbiter::new()];
    let handles = arbiters.iter().map(actix::Arbiter::handle).collect();
    let dns = DnsServer::start().await.expect("a DNS server");
    let mut world = World::on(handles, dns, hosts[0].address().port());
    for (at, mx) in hosts.iter().enumerate() {
        world
            .dns
            .mx(&format!("d{at}.example"), 10, &format!("mx{at}.example"));
        world.dns.a(&format!("mx{at}.example"), ip(mx));
    }
    let to: Vec<String> = (0..60).map(|n| format!("u@d{}.example", n % 6)).collect();
    for to in &to {
        world.send(&[to]).await;
    }
    let outcomes = world.outcomes(60).await;
    assert!(
        outcomes
            .iter()
            .all(|line| line.ends_with("delivered 250 2.0.0 Ok: queued"))
    );
    assert!(hosts.iter().all(|mx| mx.taken() == 10));
    world.end().await;
    for arbiter in arbiters {
        arbiter.stop();
        arbiter.join().expect("an arbiter that ends");
    }
}

#[actix::test]
async fn a_new_configuration_holds_for_the_next_attempt() {
    let (mut world, first) = World::with_mx(MxConfig::default()).await;
    let second = Mx::start(MxConfig::default()).await.expect("an MX");
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    let mut config = crate::world::config(&world.dns, first.address().port());
    let mut reload = async |via: String| {
        config.routes = vec![Route {
            to: "*".to_owned(),
            via: vec![via],
            ..Route::default()
        }];
        let reload = Reload(Arc::new(config.clone()));
        world.dispatcher.send(reload).await.expect("a dispatcher")
    };
    let error = reload("nonsense".to_owned()).await.expect_err("no route");
    let error = error.to_string();
    assert!(
        error.starts_with("[[route]] to = \"*\": via = \"nonsense\" has no kind")
            && error.contains("write smtp://relay.example.org:25"),
        "{error}"
    );
    reload(format!("smtp://{}", second.address()))
        .await
        .expect("a route");
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!((first.taken(), second.taken()), (1, 1));
    world.end().await;
}
