//! Reports of real users about other servers' queues, against the real binary. Named by the number
//! of the case.

use std::process::Command;
use std::time::Duration;

use chapar::lab::{Act, Client, Mx, MxConfig, Stage};

use crate::journey::{arrived, mx};
use crate::world::{HOST, World, binary, write};

const MESSAGE: &[u8] = b"From: a@c.example.net\r\nSubject: x\r\n\r\nbody\r\n";

async fn accepted(world: &World) {
    let mut client = world.mx().await;
    let sent = client.send("", &["any@example.org"], MESSAGE).await;
    assert_eq!(sent.expect("an answer").code, 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn c096_a_temporary_refusal_at_any_stage_is_an_attempt_and_backs_off() {
    let stages = [
        Stage::Greeting,
        Stage::Ehlo,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Dot,
    ];
    let each = stages.map(|stage| {
        tokio::spawn(async move {
            let remote = Mx::start(MxConfig::default()).await.expect("MX");
            let config = "[delivery]\n[retry]\nsteps = \"300ms, 600ms, 1200ms, 1h\"\n";
            let mut world = World::new(remote.address().port(), config).await;
            mx(&world, "box.example", &remote).await;
            remote.on(stage, |_| Act::reply("451 4.7.1 not now"));
            world.start().await;
            accepted(&world).await;
            let queue = world
                .wait_queue("it was tried several times", |queue| {
                    queue
                        .first()
                        .is_some_and(|one| one["last_reply"].is_string())
                })
                .await;
            let reply = queue[0]["last_reply"].as_str().expect("reply");
            assert!(reply.contains("not now"), "{stage:?}: {reply}");
            tokio::time::sleep(Duration::from_millis(3500)).await;
            let id = queue[0]["id"].as_str().expect("id").to_owned();
            let (_, out, _) = world.run(&["queue", "show", &id, "--json"]);
            let shown: serde_json::Value =
                serde_json::from_str(out.lines().next().expect("one")).expect("JSON");
            let events = shown["events"].as_array().expect("events").len();
            // Now, after 0.3, 0.9 and 2.1 seconds; fewer where the destination rests meanwhile.
            assert!(
                (1..=5).contains(&events),
                "{stage:?}: {events} attempts: {out}"
            );
            assert!(
                remote.connections() <= 6,
                "{stage:?}: {}",
                remote.connections()
            );
            world.stop().await;
        })
    });
    for one in each {
        one.await.expect("a stage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c100_i3_a_kill_at_each_sync_loses_nothing_and_repeats_only_what_was_in_flight() {
    // The daemon dies as it enters its Nth sync: before a 250, after it, before and after an
    // outcome is on disk.
    for when in 2..10 {
        let remote = Mx::start(MxConfig::default()).await.expect("MX");
        let mut world = World::new(
            remote.address().port(),
            "[delivery]\n[retry]\nfirst = \"1s\"\n",
        )
        .await;
        mx(&world, "box.example", &remote).await;
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync",
            "-o",
            "/dev/null",
            "-e",
        ]);
        strace
            .arg(format!("inject=fdatasync:signal=KILL:when={when}"))
            .arg(binary());
        world.start_with(strace).await;
        let server = world.daemon().port("mx/starttls");
        let mut taken = 0;
        let mut client = Client::connect(server).await.expect("connect");
        client.reply().await.expect("greeting");
        let hello = client.command("EHLO c.example.net").await;
        for number in 0..20 {
            if hello.is_err() {
                break;
            }
            let message = format!("From: a@c.example.net\r\nSubject: n{number}\r\n\r\nbody\r\n");
            match client
                .send("", &["any@example.org"], message.as_bytes())
                .await
            {
                Ok(answer) if answer.code == 250 => taken += 1,
                _ => break,
            }
        }
        assert!(taken < 20, "it was killed");
        world.stop_waiting().await;
        world.start().await;
        world
            .wait_queue("the queue is empty", |queue| queue.is_empty())
            .await;
        let received = arrived(&remote, taken).await;
        let count = |number: usize| {
            let subject = format!("Subject: n{number}\r\n");
            let texts = received
                .iter()
                .map(|one| String::from_utf8_lossy(&one.data).into_owned());
            texts.filter(|text| text.contains(&subject)).count()
        };
        let mut repeated = 0;
        for number in 0..taken {
            let times = count(number);
            assert!(
                (1..=2).contains(&times),
                "sync {when}: n{number} came {times} times"
            );
            repeated += times - 1;
        }
        // What was under way when it died: outcomes that no sync had covered yet.
        assert!(repeated <= 4, "sync {when}: {repeated} again of {taken}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c105_mended_settings_free_what_is_stuck() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let route = |port: u16| {
        format!("[delivery]\n[[route]]\nto = \"box.example\"\nvia = \"smtp://127.0.0.1:{port}\"\n")
    };
    let mut world = World::new(remote.address().port(), &route(1)).await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    for _ in 0..3 {
        accepted(&world).await;
    }
    world
        .wait_queue("they are stuck", |queue| {
            queue.len() == 3 && queue.iter().all(|one| one["state"] == "deferred")
        })
        .await;
    let config = std::fs::read_to_string(world.config()).expect("config");
    let mended = config.replace(
        "127.0.0.1:1\"",
        &format!("127.0.0.1:{}\"", remote.address().port()),
    );
    assert_ne!(config, mended);
    write(world.config(), &mended, 0o644);
    world.daemon().signal("HUP");
    world.daemon().event("daemon", "reloaded").await;
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "3 recipients due now\n"),
        "{error}"
    );
    arrived(&remote, 3).await;
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_next_hop_is_left_in_peace_through_a_restart_and_orders_are_logged() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let order = [
        "queue",
        "suspend",
        "mx.box.example",
        "--for",
        "1h",
        "--reason",
        "maintenance",
    ];
    let (code, out, error) = world.run(&order);
    assert_eq!(code, 0, "{error}");
    assert!(out.starts_with("mx.box.example suspended until"), "{out}");
    let logged = world
        .daemon()
        .event_where("chapar::queue::steer", "steered", |event| {
            event["verb"] == "suspend"
        })
        .await;
    assert!(
        logged["by"].as_str().is_some_and(|by| by.contains("uid ")),
        "{logged}"
    );
    world.stop().await;
    world.start().await;
    accepted(&world).await;
    let queue = world
        .wait_queue("it waits", |queue| {
            queue
                .first()
                .is_some_and(|one| one["suspended"].is_string())
        })
        .await;
    let reply = queue[0]["suspended"].as_str().expect("why");
    assert!(reply.contains("mx.box.example is suspended by"), "{reply}");
    assert!(reply.ends_with(": maintenance"), "{reply}");
    assert_eq!(queue[0]["attempts"], 0);
    assert_eq!(remote.connections(), 0);
    let (code, out, error) = world.run(&["queue", "resume", "mx.box.example"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.ends_with("1 recipient due now\n"), "{out}");
    arrived(&remote, 1).await;
    let logged = world
        .daemon()
        .event_containing("chapar::control::steer", "the queue was steered")
        .await;
    assert_eq!(logged["touched"], 1);
    world.stop().await;
}

/// What each port shows in a new handshake.
async fn shown(world: &World) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for name in ["mx/starttls", "submission/starttls", "submission/implicit"] {
        let port = world.daemon().port(name);
        let client = match name.ends_with("implicit") {
            true => Client::connect_tls(port, HOST).await.expect("a handshake"),
            false => {
                let mut client = Client::connect(port).await.expect("a connection");
                client.reply().await.expect("a greeting");
                client
                    .expect("EHLO client.example.net", 250)
                    .await
                    .expect("EHLO");
                client.expect("STARTTLS", 220).await.expect("STARTTLS");
                client.into_tls(HOST).await.expect("a handshake")
            }
        };
        all.push(client.certificate().expect("a certificate"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn c108_a_renewed_certificate_is_shown_however_its_files_were_replaced() {
    use std::os::unix::fs::symlink;
    let mut world = World::new(1, "").await;
    world.start().await;
    let mut old = world.user().await;
    let dir = world.dir.path().join("secrets/tls").join(HOST);
    let mut before = shown(&world).await;
    for (way, asked) in [
        ("overwrite", true),
        ("overwrite", false),
        ("rename", true),
        ("rename", false),
        ("symlink", true),
        ("symlink", false),
    ] {
        let made = chapar::tls::self_signed::generate(HOST, std::time::SystemTime::now());
        let made = made.expect("a certificate");
        let live = dir.join(format!("live-{way}-{asked}"));
        std::fs::create_dir_all(&live).expect("a directory");
        for (name, text, mode) in [
            ("privkey.pem", &made.key, 0o600),
            ("fullchain.pem", &made.certificate, 0o644),
        ] {
            let file = dir.join(name);
            match way {
                "overwrite" => write(file, text, mode),
                "rename" => {
                    write(live.join(name), text, mode);
                    std::fs::rename(live.join(name), file).expect("renamed");
                }
                _ => {
                    write(live.join(name), text, mode);
                    symlink(live.join(name), live.join("link")).expect("a link");
                    std::fs::rename(live.join("link"), file).expect("renamed");
                }
            }
        }
        if asked {
            world.daemon().signal("HUP");
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let after = loop {
            let after = shown(&world).await;
            if after
                .iter()
                .zip(&before)
                .all(|(after, before)| after != before)
            {
                break after;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{way}, told: {asked}: the old one is shown still"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(
            after.windows(2).all(|two| two[0] == two[1]),
            "{way}: one for all"
        );
        before = after;
        old.expect("NOOP", 250)
            .await
            .expect("the old session lives");
    }
    world.stop().await;
}
