//! Reports of real users about other clients, named by the number of the case.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use chapar::config::{Config, Span};
use chapar::lab::{Act, DnsServer, Mx, MxConfig, Stage};
use chapar::message::{Body, Content};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::routing::two;
use crate::world::{World, hosts, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

fn span(text: &str) -> Span {
    text.parse().expect("a span")
}

/// RFC 5321 section 4.5.3.2: shorter ones give up on servers that only think, and make duplicates.
#[test]
fn c067_c073_no_time_limit_is_shorter_than_the_rfc_wants() {
    let config = Config::parse("hostname = \"mx.example.org\"", "test", "/".as_ref());
    let timeouts = config.expect("a configuration").timeouts;
    let minutes = |span: Span| span.0.as_secs() / 60;
    assert_eq!(minutes(timeouts.greeting), 5);
    assert_eq!(
        minutes(timeouts.command),
        5,
        "EHLO, MAIL, RCPT, and DATA, which may have 2"
    );
    assert_eq!(minutes(timeouts.data), 3, "each block of the message");
    assert_eq!(minutes(timeouts.final_dot), 10);
}

#[actix::test]
async fn c061_a_host_without_room_leaves_the_next_one() {
    let busy = || Act::ReplyThenClose("421 4.3.2 too many connections, try again later".to_owned());
    let never = || Act::ReplyThenClose("554 5.3.2 no".to_owned());
    let full = || Act::reply("452 4.3.1 no room");
    for (stage, act) in [
        (Stage::Greeting, busy()),
        (Stage::Greeting, never()),
        (Stage::Greeting, Act::Close),
        (Stage::Ehlo, busy()),
        (Stage::Mail, busy()),
        (Stage::Mail, Act::Close),
        (Stage::Mail, full()),
        (Stage::Rcpt, busy()),
        (Stage::Data, busy()),
        (Stage::Data, Act::Close),
    ] {
        let what = format!("{act:?} at {stage:?}");
        for pipelining in [true, false] {
            let (mut world, first, second) = two_with(pipelining).await;
            let acts = act.clone();
            first.on(stage, move |_| acts.clone());
            world.send(&["a@example.com"]).await;
            assert_eq!(world.outcome().await, DELIVERED, "{what}");
            assert_eq!((first.connections(), first.taken()), (1, 0), "{what}");
            assert_eq!((second.connections(), second.taken()), (1, 1), "{what}");
            world.end().await;
        }
        // There is no other: it waits, and goes out when the host has recovered.
        let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
            config.retry.first = span("1ms");
        })
        .await;
        let acts = act.clone();
        mx.on(stage, move |_| acts.clone());
        world.send(&["a@example.com"]).await;
        let outcome = world.outcome().await;
        let fails = matches!(&act, Act::ReplyThenClose(text) if text.starts_with('5'));
        let kind = if fails {
            "failed 554 5.3.2 no"
        } else {
            "deferred 4"
        };
        assert!(
            outcome.starts_with(&format!("a@example.com {kind}")),
            "{what}: {outcome}"
        );
        assert_eq!(mx.connections(), 1, "{what}");
        mx.behave();
        delivered_soon(&mut world).await;
        world.end().await;
    }
    // All of them: what the first said stands, and each was asked once.
    let (mut world, first, second) = two().await;
    for mx in [&first, &second] {
        mx.on(Stage::Mail, |_| {
            Act::ReplyThenClose("421 4.3.2 busy".to_owned())
        });
    }
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 421 4.3.2 busy"
    );
    assert_eq!((first.connections(), second.connections()), (1, 1));
    world.end().await;
    // Who broke off is asked after the others for a while.
    let (mut world, first, second) = two_and(true, |config| {
        config.delivery.keep_idle = span("0ms");
    })
    .await;
    first.on(Stage::Mail, |_| Act::Close);
    for _ in 0..3 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert_eq!((first.connections(), second.taken()), (1, 3));
    world.end().await;
}

async fn two_with(pipelining: bool) -> (World, Mx, Mx) {
    two_and(pipelining, |_| {}).await
}

async fn two_and(pipelining: bool, change: impl FnOnce(&mut Config)) -> (World, Mx, Mx) {
    let config = MxConfig {
        pipelining,
        ..MxConfig::default()
    };
    let mut hosts = hosts(vec![config.clone(), config]).await;
    let world = World::new(hosts[0].address().port(), change).await;
    for (at, mx) in hosts.iter().enumerate() {
        let name = format!("mx{at}.example.com");
        world.dns.mx("example.com", at as u16, &name);
        world.dns.a(&name, ip(mx));
    }
    let second = hosts.pop().expect("two");
    (world, hosts.pop().expect("two"), second)
}

/// What comes within the pause after a failed connection, which is short here, is postponed.
async fn delivered_soon(world: &mut World) {
    loop {
        world.send(&["a@example.com"]).await;
        let outcome = world.outcome().await;
        if !outcome.contains("postponed") {
            return assert_eq!(outcome, DELIVERED);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What one host said about some recipients holds; the next is asked about the others only.
#[actix::test]
async fn c061_the_next_host_is_asked_only_about_those_without_an_answer() {
    let (mut world, first, second) = two().await;
    first.on(Stage::Rcpt, |line| match line {
        line if line.contains("<a@") => Act::reply("550 5.1.1 no a"),
        line if line.contains("<c@") => Act::Close,
        _ => Act::Default,
    });
    world
        .send(&["a@example.com", "b@example.com", "c@example.com"])
        .await;
    assert_eq!(
        world.outcomes(3).await,
        [
            "a@example.com failed 550 5.1.1 no a",
            "b@example.com delivered 250 2.0.0 Ok: queued",
            "c@example.com delivered 250 2.0.0 Ok: queued",
        ]
    );
    assert_eq!(first.taken(), 0);
    assert_eq!(
        second.received()[0].recipients,
        ["b@example.com", "c@example.com"]
    );
    world.end().await;
}

#[actix::test]
async fn c062_a_421_in_the_middle_of_a_message_defers_it_and_nothing_else() {
    let said = "421 4.4.2 incoming data timeout".to_owned();
    // The first closes with data unread, which the client sees as a reset; the other reads on.
    for act in [Act::ReplyThenClose(said.clone()), Act::Refuse(said.clone())] {
        let hosts = hosts(vec![MxConfig::default(); 2]).await;
        let mut world = World::new(hosts[0].address().port(), |_| {}).await;
        world.dns.a("example.com", ip(&hosts[0]));
        world.dns.a("works.example", ip(&hosts[1]));
        let cut = act.clone();
        hosts[0].on(Stage::Body, move |_| cut.clone());
        let wait = Duration::from_millis(500);
        hosts[1].on(Stage::Dot, move |_| {
            Act::After(wait, Box::new(Act::Default))
        });
        for n in 0..5 {
            world.send(&[&format!("u{n}@works.example")]).await;
        }
        hosts[1]
            .until(|mx| mx.log().iter().filter(|line| line.line == "DATA").count() == 5)
            .await;
        let message = world.message(&["a@example.com"]);
        let line = format!("{}\r\n", "x".repeat(76));
        let content = Content {
            body: Body::Memory(line.repeat(8 * 1024 * 1024 / 78).into()),
            ..small("")
        };
        world.wake(message, Some(content)).await;
        let outcomes = world.outcomes(6).await;
        assert_eq!(
            outcomes[0],
            format!("a@example.com deferred {said}"),
            "{act:?}"
        );
        for (n, outcome) in outcomes[1..].iter().enumerate() {
            let expected = format!("u{n}@works.example delivered 250 2.0.0 Ok: queued");
            assert_eq!(*outcome, expected, "{act:?}");
        }
        assert_eq!(hosts[0].taken(), 0);
        hosts[0].behave();
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
        world.end().await;
    }
}

/// The real limit is ten minutes (see above); here it is a second.
#[actix::test]
async fn c067_a_server_that_thinks_long_gets_one_copy_and_silence_is_no_yes() {
    let world_with = |limit: &'static str| async move {
        World::with_mx_and(MxConfig::default(), |config| {
            config.timeouts.final_dot = span(limit);
        })
        .await
    };
    let (mut world, mx) = world_with("5s").await;
    for wait in [Duration::from_millis(300), Duration::from_millis(1500)] {
        mx.on(Stage::Dot, move |_| {
            Act::After(wait, Box::new(Act::Default))
        });
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert_eq!(mx.taken(), 2);
    world.end().await;
    let unknown = "(at the end of data); whether it has taken the message is not known";
    for (act, said) in [
        (Act::Hang, "451 4.4.1 no answer in time"),
        (Act::Close, "451 4.4.2 the server closed the connection"),
    ] {
        let (mut world, mx) = world_with("300ms").await;
        mx.on(Stage::Dot, move |_| act.clone());
        world.send(&["a@example.com"]).await;
        // No wait of its own: the usual backoff.
        let expected = format!("a@example.com deferred {said} {unknown}");
        assert_eq!(world.outcome().await, expected);
        assert_eq!(mx.connections(), 1, "nobody else is asked");
        world.end().await;
    }
}

/// Greets with these pieces, then takes a message; gives what it was sent, and whether anything
/// came before the greeting was whole.
async fn greets(
    pieces: &'static [&'static str],
) -> (SocketAddr, tokio::task::JoinHandle<(Vec<String>, bool)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("a port");
    let server = actix_rt::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut early = false;
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                early |= stream.try_read(&mut [0; 16]).is_ok();
            }
            stream.write_all(piece.as_bytes()).await.expect("written");
        }
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut seen = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let reply: &[u8] = match line.split([' ', ':']).next().unwrap_or_default() {
                "DATA" => b"354 go\r\n",
                "EHLO" | "MAIL" | "RCPT" => b"250 ok\r\n",
                "." => b"250 2.0.0 Ok: queued\r\n",
                "QUIT" => break,
                _ => b"",
            };
            write.write_all(reply).await.expect("written");
            seen.push(line);
        }
        (seen, early)
    });
    (address, server)
}

#[actix::test]
async fn c068_nothing_is_said_before_the_last_line_of_a_greeting() {
    for pieces in [
        &["220-mx.example.net\r\n", "220-no spam\r\n220 \r\n"][..],
        &["220-\r\n", "220 x\r\n"],
        &["220-mx.example.net\r\n", "220\r\n"],
        &[
            "22",
            "0-mx",
            ".example.net\r",
            "\n2",
            "20-no spam\r\n220",
            " ",
            "x\r",
            "\n",
        ],
    ] {
        let (address, server) = greets(pieces).await;
        let mut world = World::new(address.port(), |config| {
            config.delivery.keep_idle = span("0ms");
        })
        .await;
        world.dns.a("example.com", Ipv4Addr::LOCALHOST);
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED, "{pieces:?}");
        world.end().await;
        let (seen, early) = server.await.expect("a server");
        assert!(!early, "{pieces:?}");
        let first: Vec<&str> = seen.iter().take(4).map(String::as_str).collect();
        let expected = [
            "EHLO mx.example.org",
            "MAIL FROM:<sender@example.org>",
            "RCPT TO:<a@example.com>",
            "DATA",
        ];
        assert_eq!(first, expected, "{pieces:?}");
    }
}

#[actix::test]
async fn c070_all_lines_of_a_refusal_are_kept_and_the_last_one_decides() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    for (said, expected) in [
        (
            &b"550-5.7.1 first line\r\n550-5.7.1 second \xe9\xe8 latin1\r\n550 5.7.1 third https://example.net/why\r\n"[..],
            "failed 550 5.7.1 first line second \u{fffd}\u{fffd} latin1 third https://example.net/why",
        ),
        (b"550-a\r\n451 b\r\n", "deferred 451 a b"),
        (b"451-4.3.0 a\r\n550 5.3.0 b\r\n", "failed 550 5.3.0 4.3.0 a b"),
        (b"550-5.1.1 no such\r\n550 user\r\n", "failed 550 no such user"),
    ] {
        mx.on(Stage::Dot, move |_| Act::Raw(said.to_vec()));
        world.send(&["a@example.com"]).await;
        let expected = format!("a@example.com {expected}");
        assert_eq!(world.outcome().await, expected);
    }
    world.end().await;
}

/// A tarpit: 45 seconds to the greeting and 30 to each reply are well within the real limits.
#[actix::test]
async fn c073_a_slow_server_is_waited_for_and_holds_up_nobody() {
    let hosts = hosts(vec![MxConfig::default(); 2]).await;
    let mut world = World::new(hosts[0].address().port(), |config| {
        config.timeouts.greeting = span("2s");
        config.timeouts.command = span("2s");
        config.timeouts.final_dot = span("2s");
    })
    .await;
    world.dns.a("example.com", ip(&hosts[0]));
    world.dns.a("works.example", ip(&hosts[1]));
    let wait = Duration::from_millis(400);
    for stage in [
        Stage::Greeting,
        Stage::Ehlo,
        Stage::Rcpt,
        Stage::Data,
        Stage::Dot,
    ] {
        hosts[0].on(stage, move |_| Act::After(wait, Box::new(Act::Default)));
    }
    let one_by_one = b"250 2.1.0 Ok\r\n".iter();
    let drip: Vec<_> = one_by_one
        .map(|byte| (Duration::from_millis(20), vec![*byte]))
        .collect();
    hosts[0].on(Stage::Mail, move |_| Act::Pieces(drip.clone()));
    world.send(&["a@example.com"]).await;
    for n in 0..20 {
        world.send(&[&format!("u{n}@works.example")]).await;
    }
    for outcome in world.outcomes(20).await {
        let end = "@works.example delivered 250 2.0.0 Ok: queued";
        assert!(outcome.ends_with(end), "{outcome}");
    }
    assert_eq!(world.outcome().await, DELIVERED);
    assert_eq!(hosts[0].taken(), 1);
    world.end().await;
}

/// A listener on `[::1]` that takes no more connections: who connects waits for ever.
async fn black_hole(port: u16) -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let socket = TcpSocket::new_v6().expect("a socket");
    socket.bind(address).expect("a port");
    let listener = socket.listen(0).expect("a listener");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 100, "it takes all that come");
    }
    (listener, waiting)
}

#[actix::test]
async fn c074_ipv6_that_leads_nowhere_costs_no_attempt() {
    let mut hosts = hosts(vec![MxConfig::default()]).await;
    let mx = hosts.remove(0);
    let port = mx.address().port();
    let dns = DnsServer::start().await.expect("a DNS server");
    let _hole = black_hole(port).await;
    for (name, address) in [
        ("nowhere", "2001:db8::1"),
        ("hole", "::1"),
        ("link", "fe80::1"),
    ] {
        let address: Ipv6Addr = address.parse().expect("an address");
        // Both at one host, and the IPv6 one alone at the best.
        for (domain, host) in [
            (format!("one.{name}.example"), "mx"),
            (format!("two.{name}.example"), "mx4"),
        ] {
            dns.a(&format!("{host}.{domain}"), ip(&mx));
            dns.aaaa(&format!("mx.{domain}"), address);
            dns.mx(&domain, 10, &format!("mx.{domain}"));
            dns.mx(&domain, 20, &format!("mx4.{domain}"));
        }
        for domain in [format!("one.{name}.example"), format!("two.{name}.example")] {
            for source in [
                vec![],
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            ] {
                let mut world = World::with_dns(dns.clone(), port, Default::default(), |config| {
                    config.delivery.source = source;
                    config.timeouts.connect = span("300ms");
                });
                let to = format!("a@{domain}");
                world.send(&[&to]).await;
                let expected = format!("{to} delivered 250 2.0.0 Ok: queued");
                assert_eq!(world.outcome().await, expected);
                world.end().await;
            }
        }
    }
}

/// What a host says over IPv6 is what it says: nobody else is asked.
#[actix::test]
async fn c074_a_refusal_over_ipv6_is_a_refusal() {
    let config = MxConfig {
        address: (Ipv6Addr::LOCALHOST, 0).into(),
        ..MxConfig::default()
    };
    let six = Mx::start(config).await.expect("an MX");
    let config = MxConfig {
        address: (Ipv4Addr::new(127, 0, 0, 2), six.address().port()).into(),
        ..MxConfig::default()
    };
    let four = Mx::start(config).await.expect("an MX");
    let mut world = World::new(six.address().port(), |config| {
        config.delivery.source = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    })
    .await;
    world.dns.mx("example.com", 10, "mx6.example.com");
    world.dns.mx("example.com", 20, "mx4.example.com");
    world.dns.aaaa("mx6.example.com", Ipv6Addr::LOCALHOST);
    world.dns.a("mx4.example.com", ip(&four));
    six.on(Stage::Dot, |_| Act::reply("550 5.7.1 no"));
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, "a@example.com failed 550 5.7.1 no");
    // That our address has no PTR is for the operator to correct, not for the mail to suffer.
    six.on(Stage::Dot, |_| Act::reply("550 5.7.25 no PTR"));
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 550 5.7.25 no PTR"
    );
    assert_eq!(four.connections(), 0);
    world.end().await;
}

/// Names in the DNS and in the handshake are A-labels, as is what a user's address becomes.
#[actix::test]
async fn fault_36_a_domain_beyond_ascii_is_reached_over_tls() {
    let config = MxConfig {
        starttls: true,
        hostname: "mx.xn--bcher-kva.example".to_owned(),
        ..MxConfig::default()
    };
    let mx = Mx::start(config).await.expect("an MX");
    let mut world = World::new(mx.address().port(), |_| {}).await;
    world
        .dns
        .mx("xn--bcher-kva.example", 10, "mx.xn--bcher-kva.example");
    world.dns.a("mx.xn--bcher-kva.example", ip(&mx));
    world.send(&["a@xn--bcher-kva.example"]).await;
    let outcome = world.outcome().await;
    assert_eq!(
        outcome,
        "a@xn--bcher-kva.example delivered 250 2.0.0 Ok: queued"
    );
    assert!(mx.received()[0].tls);
    world.end().await;
}
