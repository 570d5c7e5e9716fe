//! What rules about a provider's replies did: seen, kept over a restart, and undone by an operator.

use chapar::lab::{Act, Mx, MxConfig, Stage};
use serde_json::Value;

use crate::world::{World, write};

/// The destinations that something holds for, as `mta-queue summary --json` tells them.
fn holding(world: &World) -> Vec<Value> {
    let (code, out, error) = world.run(&["queue", "summary", "--json"]);
    assert_eq!(code, 0, "{error}");
    let objects = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    objects
        .filter(|object: &Value| object.get("destination").is_some())
        .collect()
}

async fn send(world: &World, to: &str) {
    let mut user = world.user().await;
    let message = b"From: me@example.org\r\nSubject: one\r\n\r\nHello\r\n";
    let from = crate::world::USER;
    let reply = user.send(from, &[to], message).await.expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[tokio::test]
async fn a_paused_provider_is_seen_survives_a_restart_and_is_resumed() {
    // Google gets no mail in clear.
    let mx = Mx::start(MxConfig {
        starttls: true,
        ..MxConfig::default()
    });
    let mx = mx.await.expect("an MX");
    let mut world = World::new(mx.address().port(), "").await;
    world.dns.mx("gmail.com", 10, "gmail-smtp-in.l.google.com");
    world
        .dns
        .a("gmail-smtp-in.l.google.com", [127, 0, 0, 1].into());
    world.start().await;
    mx.on(Stage::Dot, |_| {
        Act::reply("421 4.7.28 an unusual rate of unsolicited mail from your IP address")
    });
    send(&world, "a@gmail.com").await;
    let what = "the reply slows Google";
    world
        .wait_queue(what, |all| all.iter().any(|one| one["attempts"] == 1))
        .await;
    let slowed = holding(&world);
    let [slow] = &slowed[..] else {
        panic!("one: {slowed:?}")
    };
    assert_eq!(slow["destination"], "google");
    assert_eq!(slow["effect"], "slowed");
    assert_eq!(slow["slowed_to"], "1 connection, 10/m messages");
    assert_eq!(slow["by"], "rule google/unusual-rate");
    // The same for people.
    let (_, out, _) = world.run(&["queue", "summary"]);
    assert!(
        out.contains("slowed to 1 connection, 10/m messages"),
        "{out}"
    );
    assert!(out.contains("Gmail sees an unusual rate of mail"), "{out}");

    mx.on(Stage::Dot, |_| {
        Act::reply("550 5.7.28 an unusual rate of unsolicited mail from your IP address")
    });
    send(&world, "b@gmail.com").await;
    let paused = |all: &[Value]| all.iter().filter(|one| one["attempts"] == 1).count() == 2;
    world.wait_queue("Google pauses", paused).await;
    mx.behave();
    send(&world, "c@gmail.com").await;
    let said = |all: &[Value]| {
        let mut waits = all.iter().filter_map(|one| one["suspended"].as_str());
        waits.any(|why| why.starts_with("google is suspended by rule google/rate-refused"))
    };
    world.wait_queue("the third waits", said).await;
    assert_eq!(mx.taken(), 0);

    // I4: it survives a restart.
    assert_eq!(world.stop().await, Some(0));
    world.start().await;
    let kept: Vec<_> = holding(&world)
        .iter()
        .map(|one| one["effect"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kept, ["slowed", "suspended"]);
    send(&world, "d@gmail.com").await;
    let two = |all: &[Value]| {
        let waits = all.iter().filter_map(|one| one["suspended"].as_str());
        waits.filter(|why| why.starts_with("google is")).count() == 2
    };
    world.wait_queue("the fourth waits as well", two).await;
    assert_eq!(mx.taken(), 0);

    let (code, out, error) = world.run(&["queue", "resume", "google"]);
    assert_eq!(code, 0, "{error}");
    assert!(
        out.contains("google resumed") && out.contains("2 recipients due now"),
        "{out}"
    );
    mx.wait(2).await;
    assert!(holding(&world).is_empty());
    assert_eq!(world.stop().await, Some(0));
}

#[tokio::test]
async fn i8_rules_of_ones_own_are_loaded_while_it_runs_and_a_bad_file_changes_nothing() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(mx.address().port(), "").await;
    world.dns.mx("one.example", 10, "mx.one.example");
    world.dns.a("mx.one.example", [127, 0, 0, 1].into());
    world.start().await;
    let file = world.config().with_file_name("providers.toml");
    let rule = |action: &str| {
        format!(
            "[[provider]]\nname = \"one\"\nmx = [\"*.one.example\"]\n\n\
             [[provider.rule]]\nname = \"closed\"\ncode = 450\ntext = \"closed\"\n\
             action = \"{action}\"\nfor = \"1h\"\nreason = \"they are closed\"\n"
        )
    };
    write(file.clone(), &rule("pause"), 0o644);
    world.daemon().signal("HUP");
    world.daemon().event("daemon", "reloaded").await;
    write(file.clone(), &rule("stop"), 0o644);
    world.daemon().signal("HUP");
    let refused = world
        .daemon()
        .event_containing("daemon", "providers.toml")
        .await;
    assert!(
        refused.to_string().contains("providers.toml:9"),
        "{refused}"
    );
    let (code, _, error) = world.run(&["check"]);
    assert_ne!(code, 0);
    assert!(
        error.contains("providers.toml:9") && error.contains("pause"),
        "{error}"
    );
    mx.on(Stage::Rcpt, |_| Act::reply("450 4.0.0 we are closed"));
    send(&world, "a@one.example").await;
    world
        .wait_queue("it was tried", |all| {
            all.iter().any(|one| one["attempts"] == 1)
        })
        .await;
    let list = holding_all(&file, &world);
    assert_eq!(list, ["one suspended rule one/closed"]);
    assert_eq!(world.stop().await, Some(0));
}

/// The same with the file out of the way: `mta-queue` reads it as well.
fn holding_all(file: &std::path::Path, world: &World) -> Vec<String> {
    std::fs::remove_file(file).expect("remove");
    let word = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    holding(world)
        .iter()
        .map(|one| {
            format!(
                "{} {} {}",
                word(one, "destination"),
                word(one, "effect"),
                word(one, "by")
            )
        })
        .collect()
}

#[tokio::test]
async fn replies_that_a_rule_counts_are_counted_on_after_a_restart() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let mut world = World::new(mx.address().port(), "").await;
    world.dns.mx("one.example", 10, "mx.one.example");
    world.dns.a("mx.one.example", [127, 0, 0, 1].into());
    let rule = "[[provider]]\nname = \"one\"\nmx = [\"*.one.example\"]\n\n\
                [[provider.rule]]\nname = \"often\"\ncode = 450\ntext = \"often\"\n\
                action = \"pause\"\nfor = \"1h\"\nafter = 2\nreason = \"too often\"\n";
    write(world.config().with_file_name("providers.toml"), rule, 0o644);
    mx.on(Stage::Rcpt, |_| Act::reply("450 4.7.1 too often"));
    for n in 1..=2 {
        world.start().await;
        assert!(holding(&world).is_empty());
        send(&world, &format!("u{n}@one.example")).await;
        let tried = |all: &[Value]| all.iter().filter(|one| one["attempts"] == 1).count() == n;
        world.wait_queue("it is tried", tried).await;
        if n == 1 {
            assert_eq!(world.stop().await, Some(0));
        }
    }
    let log = "chapar::delivery::ruling";
    world
        .daemon()
        .event(log, "a rule pauses a destination")
        .await;
    let held = holding(&world);
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0]["by"], "rule one/often");
    assert_eq!(world.stop().await, Some(0));
}
