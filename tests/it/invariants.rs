//! Invariants of the design that are the whole daemon's, each by its number.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use chapar::lab::{Act, Client, Mx, MxConfig, Stage};

use crate::journey::{arrived, mx};
use crate::world::{MESSAGE, USER, World};

#[tokio::test(flavor = "multi_thread")]
async fn i2_each_recipient_ends_in_exactly_one_way_that_outlives_a_kill() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    remote.on(Stage::Rcpt, |line| {
        let refused = |name: &str, reply: &str| line.contains(name).then(|| Act::reply(reply));
        refused("gone@", "550 5.1.1 no such user")
            .or_else(|| refused("late@", "450 4.2.1 slow down"))
            .or_else(|| refused("unwanted@", "450 4.2.1 slow down"))
            .unwrap_or(Act::Default)
    });
    let config = "[retry]\nfirst = \"300ms\"\nlongest = \"300ms\"\ngive_up = \"2s\"\n";
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let mut client = world.user().await;
    let to = ["here", "gone", "late", "unwanted"].map(|name| format!("{name}@box.example"));
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    client.send(USER, &to, MESSAGE).await.expect("accepted");
    world
        .wait_queue("two are deferred", |queue| {
            let waits = |to: &str| {
                queue
                    .iter()
                    .any(|one| one["to"] == to && one["attempts"] != 0)
            };
            waits("late@box.example") && waits("unwanted@box.example")
        })
        .await;
    let (code, out, error) = world.run(&["queue", "remove", "--to", "unwanted@box.example"]);
    assert_eq!(code, 0, "{out}{error}");
    world
        .wait_queue("all have ended", |queue| queue.is_empty())
        .await;
    // No end is only in memory: the queue was seen empty, so it stays empty.
    let daemon = world.daemon();
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in daemon.events("delivery", "attempt") {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        if text("status") != "deferred" && text("to") != "me@box.example" {
            ends.entry(text("to")).or_default().push(text("status"));
        }
    }
    let steered = daemon.events("chapar::queue::steer", "steered");
    assert_eq!(steered.len(), 1);
    assert_eq!(steered[0]["verb"], "Remove");
    let expected = [
        ("gone@box.example", "bounced"),
        ("here@box.example", "delivered"),
        ("late@box.example", "expired"),
    ];
    for (to, state) in expected {
        assert_eq!(ends.remove(to), Some(vec![state.to_owned()]), "{to}");
    }
    assert_eq!(ends, BTreeMap::new());
    world.kill();
    let before = remote.received().len();
    world.start().await;
    assert_eq!(world.queue(), Vec::<serde_json::Value>::new());
    let mut client = world.user().await;
    client
        .send(USER, &["here@box.example"], MESSAGE)
        .await
        .expect("accepted");
    let all = arrived(&remote, before + 1).await;
    assert_eq!(all.len(), before + 1, "nothing else came after the restart");
    // here, and a DSN for each of gone and late; unwanted was removed without a word.
    assert_eq!(before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_destination_that_hangs_and_clients_that_drip_hold_up_nobody() {
    let hanging = Mx::start(MxConfig::default()).await.expect("MX");
    hanging.on(Stage::Greeting, |_| Act::Hang);
    let good = MxConfig {
        address: (Ipv4Addr::new(127, 0, 0, 2), hanging.address().port()).into(),
        ..MxConfig::default()
    };
    let good = Mx::start(good).await.expect("MX");
    let limits = "[limits]\nconnections = 40\nconnections_per_client = 40\n";
    let mut world = World::new(hanging.address().port(), limits).await;
    mx(&world, "hangs.example", &hanging).await;
    mx(&world, "box.example", &good).await;
    world.start().await;
    let mut client = world.user().await;
    for _ in 0..100 {
        client
            .send(USER, &["you@hangs.example"], MESSAGE)
            .await
            .expect("accepted");
    }
    // Twenty clients that stop within a message.
    let mut dripping = Vec::new();
    for _ in 0..20 {
        let mut drips = Client::connect(world.daemon().port("mx/starttls"))
            .await
            .expect("connect");
        drips.reply().await.expect("greeting");
        for (line, code) in [
            ("EHLO c.example.net", 250),
            ("MAIL FROM:<a@c.example.net>", 250),
            ("RCPT TO:<any@example.org>", 250),
            ("DATA", 354),
        ] {
            drips.expect(line, code).await.expect(line);
        }
        drips.write(b"Subject: dr").await.expect("write");
        dripping.push(drips);
    }
    let begun = Instant::now();
    for n in 1..=20 {
        client
            .send(USER, &["you@box.example"], MESSAGE)
            .await
            .expect("accepted");
        arrived(&good, n).await;
    }
    let each = begun.elapsed() / 20;
    assert!(each < Duration::from_secs(1), "{each:?} a message");
    let waiting = world.queue().len();
    assert_eq!(waiting, 100, "what hangs waits");
}
