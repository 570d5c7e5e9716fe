//! Routes: relays with a login, chains, LMTP, Maildir, programs; by sender and by recipient.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use chapar::config::{Config, Route};
use chapar::lab::{Act, DnsServer, Mx, MxConfig, Stage};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::world::{World, free_port, ip, small};

fn route(to: &str, via: &[String]) -> Route {
    Route {
        to: to.to_owned(),
        via: via.to_vec(),
        ..Route::default()
    }
}

/// A relay that wants a login, its certificate as the only extra root, and a password for it.
async fn relay(config: MxConfig, scheme: &str, password: &str) -> (World, Mx, tempfile::TempDir) {
    let mut config = config;
    if config.hostname == MxConfig::default().hostname {
        config.hostname = "relay.example.com".to_owned();
    }
    let mx = Mx::start(config).await.expect("a relay");
    let dir = tempfile::tempdir().expect("a directory");
    let mut roots = std::fs::File::create(dir.path().join("roots.pem")).expect("a file");
    roots
        .write_all(mx.certificate().as_bytes())
        .expect("written");
    let secrets = dir.path().join("secrets/relay");
    std::fs::create_dir_all(&secrets).expect("a directory");
    let secret = secrets.join("user@relay.example.com");
    std::fs::write(&secret, format!("{password}\n")).expect("a password");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("a mode");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.a("relay.example.com", ip(&mx));
    let change = |config: &mut Config| {
        config.dir = dir.path().to_owned();
        config.tls.ca_file = "roots.pem".to_owned();
        let via = format!("{scheme}://user@relay.example.com:{}", mx.address().port());
        config.routes = vec![route("*", &[via])];
    };
    let world = World::with_dns(dns, 1, Default::default(), change);
    (world, mx, dir)
}

fn auth(mechanisms: &str) -> MxConfig {
    MxConfig {
        starttls: true,
        auth: mechanisms.split(' ').map(str::to_owned).collect(),
        ..MxConfig::default()
    }
}

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

#[actix::test]
async fn a_relay_is_logged_into_with_the_best_it_offers() {
    for (offered, used) in [
        ("LOGIN PLAIN SCRAM-SHA-256", "AUTH SCRAM-SHA-256 "),
        ("LOGIN PLAIN", "AUTH PLAIN "),
        ("LOGIN", "AUTH LOGIN"),
    ] {
        for scheme in ["smtp", "smtps"] {
            let config = MxConfig {
                implicit_tls: scheme == "smtps",
                ..auth(offered)
            };
            let (mut world, mx, _dir) = relay(config, scheme, "pencil").await;
            world.send(&["a@example.com"]).await;
            assert_eq!(world.outcome().await, DELIVERED, "{offered}");
            let log = mx.log();
            let said = log
                .iter()
                .filter(|line| line.line.starts_with(used))
                .count();
            assert_eq!((said, mx.received()[0].tls), (1, true), "{scheme} {log:?}");
            world.end().await;
        }
    }
}

#[actix::test]
async fn a_password_that_is_wrong_or_open_to_all_keeps_the_mail_waiting() {
    let (mut world, mx, dir) = relay(auth("PLAIN"), "smtp", "wrong").await;
    world.send(&["a@example.com"]).await;
    let outcome = world.outcome().await;
    assert_eq!(outcome, "a@example.com deferred 535 5.7.8 who are you");
    assert_eq!(mx.taken(), 0);
    world.end().await;
    let (mut world, mx, other) = relay(auth("PLAIN"), "smtp", "pencil").await;
    let secret = other.path().join("secrets/relay/user@relay.example.com");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).expect("a mode");
    world.send(&["a@example.com"]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.contains("deferred 451 4.3.5 no password for smtp://user@"),
        "{outcome}"
    );
    assert_eq!(mx.connections(), 0);
    world.end().await;
    drop(dir);
}

#[actix::test]
async fn no_password_without_tls_that_proves_the_relay() {
    for (config, why) in [
        (
            MxConfig {
                starttls: false,
                ..auth("PLAIN")
            },
            "without it nobody logs in",
        ),
        (auth("CRAM-MD5"), "none of SCRAM-SHA-256, PLAIN and LOGIN"),
        (
            MxConfig {
                hostname: "other.example.com".to_owned(),
                ..auth("PLAIN")
            },
            "invalid peer certificate",
        ),
    ] {
        let (mut world, mx, _dir) = relay(config, "smtp", "pencil").await;
        world.send(&["a@example.com"]).await;
        let outcome = world.outcome().await;
        assert!(
            outcome.contains("a@example.com deferred 451") && outcome.contains(why),
            "{outcome}"
        );
        assert!(!mx.log().iter().any(|line| line.line.starts_with("AUTH")));
        world.end().await;
    }
}

#[actix::test]
async fn the_next_hop_of_a_chain_when_the_first_is_down() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let via = [free_port(), mx.address().port()].map(|port| format!("smtp://127.0.0.1:{port}"));
    let mut world = World::new(1, |config| config.routes = vec![route("*", &via)]).await;
    for _ in 0..2 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    world.end().await;
}

#[actix::test]
async fn who_sends_may_decide_the_way() {
    let [one, two] = [MxConfig::default(), MxConfig::default()].map(Mx::start);
    let (one, two) = (one.await.expect("an MX"), two.await.expect("an MX"));
    let mut world = World::new(1, |config| {
        config.routes = vec![
            Route {
                from: "special.example".to_owned(),
                ..route("*", &[format!("smtp://{}", one.address())])
            },
            route("*", &[format!("smtp://{}", two.address())]),
        ];
    })
    .await;
    for from in [
        "x@special.example",
        "x@other.example",
        "",
        "x@SPECIAL.example",
    ] {
        let mut message = world.message(&["a@example.com"]);
        message.envelope.reverse_path = from.to_owned();
        world.wake(message, Some(small("x"))).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    let from = |mx: &Mx| {
        mx.received()
            .into_iter()
            .map(|one| one.reverse_path)
            .collect::<Vec<_>>()
    };
    assert_eq!(from(&one), ["x@special.example", "x@SPECIAL.example"]);
    assert_eq!(from(&two), ["x@other.example", ""]);
    world.end().await;
}

/// A route by sender that changes nothing but the address to send from.
#[actix::test]
async fn a_route_may_say_where_to_send_from() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(mx.address().port(), |config| {
        config.routes = vec![Route {
            from: "special.example".to_owned(),
            source: vec!["127.0.0.9".parse().expect("an address")],
            ..route("*", &["mx:".to_owned()])
        }];
    })
    .await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.a("mx.example.com", ip(&mx));
    for from in ["x@special.example", "x@other.example"] {
        let mut message = world.message(&["a@example.com"]);
        message.envelope.reverse_path = from.to_owned();
        world.wake(message, Some(small("x"))).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    let clients: Vec<_> = mx
        .received()
        .iter()
        .map(|one| one.client.to_string())
        .collect();
    assert_eq!(clients, ["127.0.0.9", "127.0.0.1"]);
    world.end().await;
}

#[actix::test]
async fn lmtp_has_a_reply_for_each_recipient() {
    let mx = Mx::start(MxConfig {
        lmtp: true,
        ..MxConfig::default()
    })
    .await
    .expect("an LMTP server");
    mx.on(Stage::Rcpt, |line| match line.contains("<no@") {
        true => Act::Reply("550 5.1.1 no such user".to_owned()),
        false => Act::Default,
    });
    mx.on(Stage::Dot, |recipient| match recipient {
        "full@example.com" => Act::Reply("452 4.2.2 mailbox full".to_owned()),
        "gone@example.com" => Act::Reply("554 5.2.0 gone".to_owned()),
        _ => Act::Default,
    });
    let via = [format!("lmtp://{}", mx.address())];
    let mut world = World::new(1, |config| config.routes = vec![route("*", &via)]).await;
    for round in 1..=2 {
        let to = [
            "a@example.com",
            "full@example.com",
            "no@example.com",
            "gone@example.com",
            "b@example.com",
        ];
        world.send(&to).await;
        let expected = [
            "a@example.com delivered 250 2.0.0 Ok: stored",
            "b@example.com delivered 250 2.0.0 Ok: stored",
            "full@example.com deferred 452 4.2.2 mailbox full",
            "gone@example.com failed 554 5.2.0 gone",
            "no@example.com failed 550 5.1.1 no such user",
        ];
        assert_eq!(world.outcomes(5).await, expected, "round {round}");
    }
    let log = mx.log();
    let said = |word: &str| {
        log.iter()
            .filter(|line| line.line.starts_with(word))
            .count()
    };
    assert_eq!((said("LHLO"), said("EHLO"), mx.connections()), (1, 0, 1));
    // ATK-LMTP-COUNT: fewer replies than recipients.
    mx.on(Stage::Dot, |recipient| match recipient {
        "a@example.com" => Act::Default,
        _ => Act::Close,
    });
    world
        .send(&["a@example.com", "b@example.com", "c@example.com"])
        .await;
    let outcomes = world.outcomes(3).await;
    assert_eq!(outcomes[0], "a@example.com delivered 250 2.0.0 Ok: stored");
    for (at, who) in [(1, "b"), (2, "c")] {
        let expected = format!("{who}@example.com deferred 451 4.4.2");
        assert!(outcomes[at].starts_with(&expected), "{outcomes:?}");
    }
    world.end().await;
}

/// LMTP over a Unix socket, as the target of an alias: the alias is what RCPT names.
#[actix::test]
async fn lmtp_over_a_socket_gets_the_alias() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lmtp");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let server = actix_rt::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut seen = Vec::new();
        write.write_all(b"220 lmtp\r\n").await.expect("written");
        while let Ok(Some(line)) = lines.next_line().await {
            let reply: &[u8] = match line.split(' ').next().unwrap_or_default() {
                "DATA" => b"354 go\r\n",
                "." => b"250 2.0.0 stored\r\n",
                "LHLO" | "MAIL" | "RCPT" => b"250 ok\r\n",
                "QUIT" => break,
                _ => b"",
            };
            write.write_all(reply).await.expect("written");
            seen.push(line);
        }
        seen
    });
    let mut world = World::new(1, |config| {
        config.delivery.keep_idle = chapar::config::Span(std::time::Duration::from_millis(50));
    })
    .await;
    let target = format!("lmtp:{}", path.display());
    let mut message = world.message(&[&target]);
    message.envelope.recipients[0].alias_of = Some("list@example.com".to_owned());
    world.wake(message, Some(small("x"))).await;
    assert_eq!(
        world.outcome().await,
        format!("{target} delivered 250 2.0.0 stored")
    );
    let seen = server.await.expect("a server");
    assert!(
        seen.contains(&"RCPT TO:<list@example.com>".to_owned()),
        "{seen:?}"
    );
    world.end().await;
}

/// What a server that takes its time over each recipient has taken is known as soon as it says so.
#[actix::test]
async fn d2_lmtp_recipients_are_reported_one_by_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lmtp");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let (go, mut wait) = tokio::sync::mpsc::unbounded_channel::<()>();
    let server = actix_rt::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 lmtp\r\n").await.expect("written");
        while let Ok(Some(line)) = lines.next_line().await {
            let reply: &[u8] = match line.split(' ').next().unwrap_or_default() {
                "DATA" => b"354 go\r\n",
                "LHLO" | "MAIL" | "RCPT" => b"250 ok\r\n",
                "QUIT" => break,
                "." => {
                    for _ in 0..2 {
                        write
                            .write_all(b"250 2.0.0 stored\r\n")
                            .await
                            .expect("written");
                        wait.recv().await.expect("a test that goes on");
                    }
                    b"452 4.2.2 full\r\n"
                }
                _ => b"",
            };
            write.write_all(reply).await.expect("written");
        }
    });
    let via = [format!("lmtp:{}", path.display())];
    let mut world = World::new(1, |config| {
        config.routes = vec![route("*", &via)];
        config.delivery.keep_idle = chapar::config::Span(std::time::Duration::from_millis(50));
    })
    .await;
    world
        .send(&["a@example.com", "b@example.com", "c@example.com"])
        .await;
    for (who, outcome) in [
        ("a", "delivered 250 2.0.0 stored"),
        ("b", "delivered 250 2.0.0 stored"),
        ("c", "deferred 452 4.2.2 full"),
    ] {
        // The server says no more before this was heard.
        assert_eq!(
            world.outcome().await,
            format!("{who}@example.com {outcome}")
        );
        let _ = go.send(());
    }
    server.await.expect("a server");
    world.end().await;
}

#[actix::test]
async fn local_targets_by_route_and_by_alias() {
    let dir = tempfile::tempdir().expect("a directory");
    let via = [format!("maildir:{}/{{local}}", dir.path().display())];
    let mut world = World::new(1, |config| {
        config.routes = vec![
            route("box.example", &via),
            route("null.example", &["discard:".to_owned()]),
        ];
    })
    .await;
    let pipe = "pipe:/bin/sh -c \"exit 67\"";
    let mut message =
        world.message(&["me@box.example", "../x@box.example", "a@null.example", pipe]);
    message.envelope.recipients[3].alias_of = Some("list@example.com".to_owned());
    world.wake(message, Some(small("x"))).await;
    let stored = dir.path().join("me");
    let expected = [
        "../x@box.example failed 553 5.1.3 ../x@box.example can not be delivered here".to_owned(),
        "a@null.example delivered 250 2.0.0 discarded".to_owned(),
        "me@box.example delivered 250 2.0.0 stored".to_owned(),
        format!("{pipe} failed 550 5.1.1 sh: no such user (67)"),
    ];
    assert_eq!(world.outcomes(4).await, expected);
    assert_eq!(
        std::fs::read_dir(stored.join("new"))
            .expect("a Maildir")
            .count(),
        1
    );
    // Who merely writes such an address gets no program run.
    world
        .send(&["pipe:/bin/true@example.com", "discard:"])
        .await;
    for outcome in world.outcomes(2).await {
        assert!(!outcome.contains("delivered"), "{outcome}");
    }
    world.end().await;
}
