//! Finding the way: lookups that take long, or for ever, beside those that do not.

use std::net::{IpAddr, Ipv4Addr};

use chapar::config::{Listen, Service, Span, TlsMode, Warmup};
use chapar::delivery::Resume;
use chapar::lab::{Act, Mx, MxConfig, Stage};
use chapar::smtp::address::{Address, Charset};

use crate::world::{World, hosts, ip, small};

/// A world with one MX for these domains.
async fn world(domains: &[&str]) -> (World, Mx) {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let world = World::new(mx.address().port(), |_| {}).await;
    world.dns.a("mx.example.com", ip(&mx));
    for domain in domains {
        world.dns.mx(domain, 10, "mx.example.com");
    }
    (world, mx)
}

/// The two that are known leave while the third is still being looked up, which takes seconds.
#[actix::test]
async fn a_domain_whose_dns_never_answers_holds_up_no_other_of_its_message() {
    let (mut world, _mx) = world(&["one.example", "two.example"]).await;
    world.dns.silent("dead.example");
    world
        .send(&["a@dead.example", "a@one.example", "a@two.example"])
        .await;
    let delivered = ["one", "two"].map(|d| format!("a@{d}.example delivered 250 2.0.0 Ok: queued"));
    assert_eq!(world.outcomes(2).await, delivered);
    // It looks for the dead one still, so that a message for it now joins that.
    let asked = world.dns.queries();
    world.send(&["b@one.example", "b@dead.example"]).await;
    assert_eq!(
        world.outcome().await,
        "b@one.example delivered 250 2.0.0 Ok: queued"
    );
    assert!(world.dns.queries() < asked + 5);
    for outcome in world.outcomes(2).await {
        assert!(
            outcome.contains("@dead.example deferred 451 4.4.3 the MX records of dead.example"),
            "{outcome}"
        );
    }
    world.end().await;
}

#[actix::test]
async fn two_hundred_dead_domains_hold_up_no_good_one() {
    let (mut world, mx) = world(&["good.example"]).await;
    world.dns.silent("dead.example");
    for n in 0..200 {
        world.send(&[&format!("a@d{n}.dead.example")]).await;
    }
    world.send(&["a@good.example"]).await;
    assert_eq!(
        world.outcome().await,
        "a@good.example delivered 250 2.0.0 Ok: queued"
    );
    assert_eq!(mx.taken(), 1);
    for outcome in world.outcomes(200).await {
        assert!(
            outcome.contains(".dead.example deferred 451 4.4.3 "),
            "{outcome}"
        );
    }
    // They are known now, and nobody waits behind them.
    for n in 0..200 {
        world.send(&[&format!("b@d{n}.dead.example")]).await;
    }
    world.send(&["b@good.example"]).await;
    assert_eq!(
        world.outcome().await,
        "b@good.example delivered 250 2.0.0 Ok: queued"
    );
    let stopped = world.dispatcher.send(chapar::delivery::Drain);
    stopped.await.expect("a dispatcher");
    for outcome in world.outcomes(200).await {
        assert!(
            outcome.ends_with(" postponed 421 4.3.2 the daemon is stopping"),
            "{outcome}"
        );
    }
    world.end().await;
}

const QUEUED: &str = "delivered 250 2.0.0 Ok: queued";

async fn expect(world: &mut World, to: &str, expected: &str) {
    world.send(&[to]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.starts_with(&format!("{to} {expected}")),
        "{outcome}, not {expected}"
    );
}

/// C049: a domain beyond ASCII is looked up, and spoken of, as A-labels.
#[actix::test]
async fn c049_an_idn_domain_is_asked_for_in_a_labels_and_needs_no_smtputf8() {
    let (mut world, mx) = world(&["xn--bcher-kva.example"]).await;
    let written = ["info@b\u{fc}cher.example", "info@xn--bcher-kva.example"];
    for written in written {
        let address = Address::parse_in(written.as_bytes(), Charset::Utf8).expect("an address");
        expect(&mut world, &address.to_string(), QUEUED).await;
    }
    for received in mx.received() {
        assert_eq!(received.recipients, ["info@xn--bcher-kva.example"]);
        assert!(!received.parameters.contains("SMTPUTF8"));
    }
    assert_eq!((mx.taken(), mx.connections()), (2, 1));
    // As a U-label it is the same destination, if an alias or an import brought it in.
    expect(&mut world, written[0], "failed 554 5.6.7 ").await;
    assert_eq!(mx.connections(), 1);
    world.end().await;
}

/// C050: a null MX is an answer; its A record is no mail host.
#[actix::test]
async fn c050_a_null_mx_ends_it_at_once_and_one_among_others_is_ignored() {
    let (mut world, mx) = world(&[]).await;
    world.dns.null_mx("nomail.example");
    world.dns.a("nomail.example", ip(&mx));
    expect(&mut world, "u@nomail.example", "failed 556 5.1.10 ").await;
    assert_eq!(mx.connections(), 0);
    world.dns.null_mx("nomail2.example");
    world.dns.mx("nomail2.example", 10, "mx.example.com");
    expect(&mut world, "u@nomail2.example", QUEUED).await;
    world.end().await;
}

/// MX hosts at 127.0.0.1 and ::1, the port of both, and a world that sends from both families;
/// nothing where this machine has no IPv6 loopback.
async fn both_families() -> Option<(World, Mx, Mx)> {
    for _ in 0..50 {
        let four = Mx::start(MxConfig::default()).await.expect("an MX");
        let port = four.address().port();
        let config = MxConfig {
            address: (std::net::Ipv6Addr::LOCALHOST, port).into(),
            ..MxConfig::default()
        };
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("no IPv6 here: not tested");
            return None;
        }
        let Ok(six) = Mx::start(config).await else {
            continue;
        };
        let world = World::new(port, |config| {
            let source = ["127.0.0.1", "::1"].map(|text| text.parse().expect("an address"));
            config.delivery.source = source.to_vec();
            config.delivery.keep_idle = Span("0ms".parse::<Span>().expect("span").0);
        })
        .await;
        return Some((world, four, six));
    }
    panic!("no port that is free in both families");
}

/// C052: without an MX the domain itself is the host; without any address it ends.
#[actix::test]
async fn c052_an_implicit_mx_by_a_or_by_aaaa() {
    let (mut world, mx) = world(&[]).await;
    world.dns.a("host.example", ip(&mx));
    world.dns.empty("none.example");
    world.dns.servfail_otherwise("broken.example");
    world.dns.a("broken.example", ip(&mx));
    expect(&mut world, "u@host.example", QUEUED).await;
    expect(&mut world, "u@none.example", "failed 550 5.4.4 ").await;
    expect(&mut world, "u@broken.example", "deferred 451 4.4.3 ").await;
    assert_eq!(mx.taken(), 1);
    world.end().await;
    if let Some((mut world, _four, six)) = both_families().await {
        world.dns.aaaa("host6.example", "::1".parse().expect("v6"));
        expect(&mut world, "u@host6.example", QUEUED).await;
        assert_eq!(six.taken(), 1);
        world.end().await;
    }
}

/// C055: an MX record that names no host is no reason to guess.
#[actix::test]
async fn c055_mx_records_that_name_no_host() {
    let (mut world, mx) = world(&[]).await;
    let dns = &world.dns;
    dns.mx("literal.example", 10, "127.0.0.1.");
    dns.a("literal.example", ip(&mx));
    dns.mx("half.example", 10, "gone.example");
    dns.mx("half.example", 20, "mx.example.com");
    dns.mx("gone-only.example", 10, "gone.example");
    dns.a("gone-only.example", ip(&mx));
    dns.mx("stray.example", 10, "mx.example.com");
    dns.stray_txt("stray.example", "v=spf1 -all");
    expect(&mut world, "u@literal.example", "failed 550 5.4.4 ").await;
    expect(&mut world, "u@gone-only.example", "failed 550 5.4.4 ").await;
    assert_eq!(mx.connections(), 0);
    expect(&mut world, "u@half.example", QUEUED).await;
    expect(&mut world, "u@stray.example", QUEUED).await;
    world.end().await;
}

/// C056: only NXDOMAIN ends a message; everything else is tried again and gets through.
#[actix::test]
async fn c056_what_the_dns_can_not_say_now_is_asked_again() {
    let (mut world, mx) = world(&[]).await;
    let dns = world.dns.clone();
    dns.servfail("servfail.example");
    dns.refuse("refused.example");
    dns.silent("timeout.example");
    dns.mx("host.example", 10, "broken-host.example");
    dns.servfail("broken-host.example");
    let domains = [
        "servfail.example",
        "refused.example",
        "timeout.example",
        "host.example",
    ];
    for domain in domains {
        expect(&mut world, &format!("u@{domain}"), "deferred 451 4.4.3 ").await;
    }
    expect(&mut world, "u@nowhere.example", "failed 550 5.1.2 ").await;
    assert_eq!(mx.connections(), 0);
    dns.remove("broken-host.example");
    dns.a("broken-host.example", ip(&mx));
    for domain in &domains[..3] {
        dns.remove(domain);
        dns.mx(domain, 10, "mx.example.com");
    }
    // It paused with its only host.
    world
        .dispatcher
        .send(Resume::default())
        .await
        .expect("a dispatcher");
    for domain in domains {
        expect(&mut world, &format!("u@{domain}"), QUEUED).await;
    }
    world.end().await;
}

/// C058: the preference decides, not the order of the answer; the next one in the same attempt.
#[actix::test]
async fn c058_mx_hosts_in_the_order_of_their_preference() {
    let all = hosts(vec![MxConfig::default(); 3]).await;
    let mut world = World::new(all[0].address().port(), |config| {
        config.delivery.keep_idle = Span("0ms".parse::<Span>().expect("span").0);
    })
    .await;
    let dns = world.dns.clone();
    for (at, mx) in all.iter().enumerate() {
        dns.a(&format!("mx{at}.example"), ip(mx));
    }
    // Nobody listens there.
    dns.a("dead.example", Ipv4Addr::new(127, 0, 0, 99));
    dns.mx("order.example", 10, "dead.example");
    dns.mx("order.example", 1, "mx0.example");
    for _ in 0..10 {
        expect(&mut world, "u@order.example", QUEUED).await;
    }
    assert_eq!((all[0].taken(), all[0].connections()), (10, 10));
    dns.mx("equal.example", 5, "mx1.example");
    dns.mx("equal.example", 5, "mx2.example");
    for _ in 0..50 {
        expect(&mut world, "u@equal.example", QUEUED).await;
    }
    let both = [all[1].taken(), all[2].taken()];
    assert!(both.iter().all(|taken| *taken > 5), "{both:?}");
    dns.mx("down.example", 1, "dead.example");
    dns.mx("down.example", 10, "mx0.example");
    expect(&mut world, "u@down.example", QUEUED).await;
    assert_eq!(all[0].taken(), 11);
    world.end().await;
}

/// A list that does not fit into UDP, of which the best are tried and no more.
#[actix::test]
async fn a_thousand_mx_records_are_one_attempt_of_ten_addresses() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(mx.address().port(), |_| {}).await;
    let dns = world.dns.clone();
    for n in (0..1000).rev() {
        dns.mx("example.com", n, &format!("mx{n}.example.com"));
    }
    for n in 0..20 {
        dns.a(&format!("mx{n}.example.com"), ip(&mx));
    }
    mx.on(Stage::Greeting, |_| {
        Act::ReplyThenClose("421 4.3.2 busy".to_owned())
    });
    expect(&mut world, "u@example.com", "deferred 421 4.3.2 busy").await;
    assert_eq!(mx.connections(), 10);
    // The MX records once more over TCP, and the addresses of the hosts that count.
    assert!(dns.queries() <= 2 + 2 * 20 + 1, "{}", dns.queries());
    world.end().await;
}

/// C059: mail whose hosts lead to this machine ends there and then, without a connection.
#[actix::test]
async fn c059_never_to_ourselves() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let port = mx.address().port();
    for private in [false, true] {
        let mut world = World::new(port, |config| {
            config.delivery.private_targets = private;
            config.listeners = vec![Listen {
                address: format!("[::]:{port}"),
                service: Service::Mx,
                tls: TlsMode::None,
                disable: Vec::new(),
                milters: Vec::new(),
            }];
        })
        .await;
        let dns = world.dns.clone();
        dns.mx("one.example", 10, "localhost");
        dns.mx("own-name.example", 10, "mx.example.org");
        let mut domains = vec!["one.example".to_owned(), "own-name.example".to_owned()];
        for (at, address) in ["127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1"]
            .iter()
            .enumerate()
        {
            let (domain, host) = (format!("d{at}.example"), format!("h{at}.example"));
            match address.parse().expect("an address") {
                IpAddr::V4(v4) => dns.a(&host, v4),
                IpAddr::V6(v6) => dns.aaaa(&host, v6),
            }
            dns.mx(&domain, 10, &host);
            domains.push(domain);
        }
        for domain in domains {
            world.send(&[&format!("u@{domain}")]).await;
            let outcome = world.outcome().await;
            assert!(outcome.contains(" failed 554 5.4."), "{private} {outcome}");
        }
        assert_eq!(mx.connections(), 0);
        world.end().await;
    }
}

/// C059: of several, those as good as ourselves or worse would bring it back.
#[actix::test]
async fn c059_one_of_several_is_ourselves() {
    let all = hosts(vec![MxConfig::default(); 2]).await;
    let port = all[0].address().port();
    let mut world = World::new(port, |config| {
        config.listeners = vec![Listen {
            address: format!("127.0.0.9:{port}"),
            service: Service::Mx,
            tls: TlsMode::None,
            disable: Vec::new(),
            milters: Vec::new(),
        }];
    })
    .await;
    let dns = world.dns.clone();
    dns.a("better.example", ip(&all[0]));
    dns.a("worse.example", ip(&all[1]));
    dns.a("us.example", Ipv4Addr::new(127, 0, 0, 9));
    for domain in ["both.example", "worse-only.example"] {
        dns.mx(domain, 20, "us.example");
        dns.mx(domain, 20, "worse.example");
    }
    dns.mx("both.example", 10, "better.example");
    all[0].on(Stage::Greeting, |_| {
        Act::ReplyThenClose("421 4.3.2 busy".to_owned())
    });
    expect(&mut world, "u@both.example", "deferred 421 4.3.2 busy").await;
    expect(&mut world, "u@worse-only.example", "failed 554 5.4.6 ").await;
    assert_eq!(all[1].connections(), 0);
    world.end().await;
}

/// Behind NAT an address does not tell that it is ours; the name in the greeting does.
#[actix::test]
async fn c059_a_host_that_greets_with_our_name_is_ourselves() {
    let configs = ["MX.example.org", "mx.lab.example"].map(|hostname| MxConfig {
        hostname: hostname.to_owned(),
        ..MxConfig::default()
    });
    let all = hosts(configs.to_vec()).await;
    let mut world = World::new(all[0].address().port(), |_| {}).await;
    world.dns.a("us.example", ip(&all[0]));
    world.dns.a("worse.example", ip(&all[1]));
    world.dns.mx("loop.example", 10, "us.example");
    world.dns.mx("loop.example", 20, "worse.example");
    expect(&mut world, "u@loop.example", "failed 554 5.4.6 ").await;
    assert_eq!((all[0].connections(), all[1].connections()), (1, 0));
    assert!(
        !all[0]
            .log()
            .iter()
            .any(|line| line.line.starts_with("EHLO"))
    );
    world.end().await;
}

/// ::1 has a name that leads back to it (RFC 6761 section 6.3).
#[actix::test]
async fn ipv6_first_where_our_own_has_a_name_and_then_the_other_family() {
    let Some((mut world, four, six)) = both_families().await else {
        return;
    };
    world.dns.a("example.com", ip(&four));
    world.dns.aaaa("example.com", "::1".parse().expect("v6"));
    expect(&mut world, "u@example.com", QUEUED).await;
    assert_eq!((six.taken(), four.connections()), (1, 0));
    drop(six);
    expect(&mut world, "u@example.com", QUEUED).await;
    assert_eq!(four.taken(), 1);
    world.end().await;
}

/// From which addresses messages came.
fn clients(mx: &Mx) -> Vec<String> {
    let received = mx.received();
    received.iter().map(|one| one.client.to_string()).collect()
}

/// Several addresses share the mail; every attempt of a message leaves from the same one.
#[actix::test]
async fn a_message_keeps_to_one_of_our_addresses() {
    let config = MxConfig {
        greylist: true,
        ..MxConfig::default()
    };
    let (mut world, mx) = World::with_mx_and(config, |config| {
        let source = ["127.0.0.5", "127.0.0.6"].map(|text| text.parse().expect("an address"));
        config.delivery.source = source.to_vec();
    })
    .await;
    for n in 0..30 {
        let to = format!("u{n}@example.com");
        let message = world.message(&[&to]);
        for expected in ["deferred 451 4.7.1 Greylisted", QUEUED] {
            world.wake(message.clone(), Some(small("x"))).await;
            let outcome = world.outcome().await;
            assert!(outcome.contains(expected), "{outcome}");
        }
        let rcpt = format!("RCPT TO:<{to}>");
        let log = mx.log();
        let connections: Vec<u64> = log
            .iter()
            .filter(|line| line.line == rcpt)
            .map(|line| line.connection)
            .collect();
        // Each address has its own connection, which is kept.
        assert!(
            matches!(connections[..], [a, b] if a == b),
            "{connections:?}"
        );
    }
    let clients = clients(&mx);
    for source in ["127.0.0.5", "127.0.0.6"] {
        let count = clients.iter().filter(|client| *client == source).count();
        assert!((5..=25).contains(&count), "{source}: {count} of 30");
    }
    world.end().await;
}

/// One that is not on this machine is passed over; alone it keeps the mail waiting and says why.
#[actix::test]
async fn an_address_that_is_not_ours_is_passed_over() {
    let absent = "192.0.2.1";
    for (sources, outcome) in [
        (&[absent, "127.0.0.6"][..], QUEUED),
        (&[absent], "deferred 451 4.4.1 "),
    ] {
        let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
            let source = sources.iter().map(|text| text.parse().expect("an address"));
            config.delivery.source = source.collect();
        })
        .await;
        for _ in 0..4 {
            world.send(&["a@example.com"]).await;
            let said = world.outcome().await;
            assert!(said.contains(outcome), "{said}");
            if outcome != QUEUED {
                let why = "192.0.2.1 can not be sent from (Cannot assign requested address";
                assert!(said.contains(why), "{said}");
                break;
            }
        }
        let clients = clients(&mx);
        assert!(
            clients.iter().all(|client| client == "127.0.0.6"),
            "{clients:?}"
        );
        world.end().await;
    }
}

/// A new address has the share its day allows; the bounds are those of chance, a million to one.
#[actix::test]
async fn a_new_address_is_warmed_up() {
    let today = chapar::time::text(chapar::time::now());
    let text = format!(
        "address = \"127.0.0.6\"\nsince = \"{}\"\nshare = 10",
        &today[..10]
    );
    let warmup: Warmup = toml::from_str(&text).expect("a warmup");
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        let source = ["127.0.0.5", "127.0.0.6"].map(|text| text.parse().expect("an address"));
        config.delivery.source = source.to_vec();
        config.warmups = vec![warmup];
    })
    .await;
    for _ in 0..200 {
        world.send(&["a@example.com"]).await;
    }
    world.outcomes(200).await;
    let new = clients(&mx)
        .iter()
        .filter(|client| *client == "127.0.0.6")
        .count();
    assert!((3..=50).contains(&new), "{new} of 200");
    world.end().await;
}
