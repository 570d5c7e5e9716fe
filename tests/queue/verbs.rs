//! The verbs of `mta-queue`, each with the program itself.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use chapar::queue::Outcome;
use queue_schema::Status;
use serde_json::Value;

use crate::support::*;
use crate::tool::{command, fails, objects, tool, words};

async fn world() -> (World, impl Sized) {
    let world = World::start(|config| {
        config.retry.first = "1h".parse().unwrap();
        config.retry.longest = "1h".parse().unwrap();
    })
    .await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    (world, control)
}

/// A message that was deferred for all of these.
async fn deferred_to(world: &mut World, to: &[&str]) -> String {
    let id = world.accept(to).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| {
            let mine = all.iter().find(|message| message.id == id);
            mine.is_some_and(|message| message.states.iter().all(|state| state.attempts == 1))
        })
        .await;
    id.to_string()
}

#[actix::test]
async fn bounce_ends_recipients_and_tells_the_sender_why() {
    let (mut world, _control) = world().await;
    let id = deferred_to(&mut world, &["b@example.net", "c@example.com"]).await;
    let told = words(&world, &["bounce", &id, "--to", "b@*", "--dry-run"]).await;
    assert!(told.ends_with("1 recipient would be returned to their senders\n"));
    assert_eq!(world.messages().await.len(), 1, "nothing happened");

    let reason = "this address is served no more";
    let told = words(&world, &["bounce", &id, "--to", "b@*", "--reason", reason]).await;
    assert_eq!(told, "1 recipient returned to their senders\n");
    let notice = world.job().await;
    assert_eq!(notice.message.envelope.reverse_path, "");
    let notice = text(notice.content.as_ref().unwrap());
    assert!(
        notice.contains("b@example.net") && notice.contains(reason),
        "{notice}"
    );
    assert!(!notice.contains("c@example.com"));
    let all = world.messages().await;
    let message = all
        .iter()
        .find(|message| message.id.to_string() == id)
        .unwrap();
    assert_eq!(message.states[0].status, Status::Bounced);
    assert_eq!(message.states[1].status, Status::Waiting);
    // The rest of it: the message is gone, also when it is under way.
    words(&world, &["replay", &id]).await;
    let job = world.job().await;
    assert_eq!(job.recipients, [1]);
    words(&world, &["bounce", &id]).await;
    world.job().await;
    world.report(&job, Outcome::Delivered, 250).await;
    world
        .until("only the notices are left", |all| {
            all.len() == 2 && all.iter().all(|one| one.envelope.reverse_path.is_empty())
        })
        .await;
    world.restart().await;
    assert_eq!(world.messages().await.len(), 2);
    world.stop().await;
}

#[actix::test]
async fn a_bounce_that_can_not_be_told_changes_nothing() {
    let (mut world, _control) = world().await;
    let id = deferred_to(&mut world, &["b@example.net"]).await;
    let fail = &world.fail_signing;
    fail.store(true, std::sync::atomic::Ordering::SeqCst);
    fails(&world, &["bounce", &id], 69, "can not be told").await;
    let all = world.messages().await;
    assert_eq!(all[0].states[0].status, Status::Waiting);
    world
        .fail_signing
        .store(false, std::sync::atomic::Ordering::SeqCst);
    words(&world, &["bounce", &id]).await;
    world.job().await;
    world.stop().await;
}

#[actix::test]
async fn redirect_sends_waiting_mail_elsewhere_at_once() {
    let (mut world, _control) = world().await;
    let id = deferred_to(
        &mut world,
        &["b@example.net", "c@example.net", "d@example.com"],
    )
    .await;
    let several = vec!["x@example.net".to_owned(), "y@example.net".to_owned()];
    world.leads.lock().unwrap().extend([
        ("list@example.org".to_owned(), several),
        ("nobody@example.org".to_owned(), Vec::new()),
        (
            "me@example.org".to_owned(),
            vec!["me@gmail.example".to_owned()],
        ),
    ]);
    let to = |target| ["redirect", "--domain", "example.net", "--target", target];
    fails(&world, &to("list@example.org"), 65, "leads to 2 addresses").await;
    fails(&world, &to("nobody@example.org"), 65, "leads to nobody").await;
    fails(&world, &to("no address"), 65, "no address").await;
    let told = words(&world, &to("me@example.org")).await;
    assert_eq!(told, "2 recipients redirected to me@example.org\n");
    let job = world.job().await;
    assert_eq!(job.recipients, [0], "the address gets it once");
    let recipient = &job.message.envelope.recipients[0];
    assert_eq!(recipient.address, "me@gmail.example");
    assert_eq!(recipient.alias_of.as_deref(), Some("b@example.net"));
    assert_eq!(job.message.states[1].status, Status::Removed);
    assert_eq!(job.message.states[2].status, Status::Waiting);
    world.restart().await;
    let job = world.job().await;
    assert_eq!(
        job.message.envelope.recipients[0].address,
        "me@gmail.example"
    );
    assert_eq!(job.message.id.to_string(), id);
    world.stop().await;
}

#[actix::test]
async fn i4_a_suspension_survives_restarts_and_ends_with_resume() {
    let (mut world, control) = world().await;
    fails(
        &world,
        &["suspend", "no domain", "--for", "2h"],
        65,
        "no domain",
    )
    .await;
    fails(&world, &["resume", "example.net"], 65, "is not suspended").await;
    assert_eq!(words(&world, &["suspend"]).await, "Nothing is suspended.\n");
    deferred_to(&mut world, &["a@example.net"]).await;
    let order = [
        "suspend",
        "Example.NET",
        "--for",
        "2h",
        "--reason",
        "they asked for it",
    ];
    let told = words(&world, &[&order[..], &["--dry-run"]].concat()).await;
    assert!(
        told.contains("would be suspended") && told.contains("1 recipient"),
        "{told}"
    );
    assert_eq!(words(&world, &["suspend"]).await, "Nothing is suspended.\n");
    let told = words(&world, &order).await;
    assert!(told.starts_with("example.net suspended until "), "{told}");

    let id = world.accept(&["b@example.net", "c@example.com"]).await;
    let job = world.job().await;
    assert_eq!(job.recipients, [1], "other destinations are not touched");
    world.report(&job, Outcome::Delivered, 250).await;
    world
        .until("it waits", |all| {
            all.iter()
                .any(|one| one.id == id && one.states[0].suspended.is_some())
        })
        .await;
    let listed = objects(&world, &["list", "--json", "--to", "b@example.net"]).await;
    let why = listed[0]["suspended"].as_str().unwrap();
    assert!(why.starts_with("example.net is suspended by anna"), "{why}");
    assert!(why.ends_with(": they asked for it"));
    assert_eq!(listed[0]["state"], "suspended");
    assert_eq!(listed[0]["last_reply"], Value::Null, "nobody said anything");
    assert_eq!(listed[0]["last_attempt"], Value::Null);
    assert_eq!(listed[0]["attempts"], 0, "it is no attempt");
    let now = chapar::time::now();
    let due: jiff::Timestamp = listed[0]["next_due"].as_str().unwrap().parse().unwrap();
    let wait = due.as_millisecond() as u64 - now;
    assert!((7_100_000..8_000_000).contains(&wait), "{wait}");

    drop(control);
    world.restart().await;
    world.no_job().await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    world.accept(&["e@example.net"]).await;
    world.no_job().await;
    let suspended = objects(&world, &["suspend", "--json"]).await;
    assert_eq!(suspended[0]["destination"], "example.net");
    assert_eq!(suspended[0]["reason"], "they asked for it");
    assert!(
        words(&world, &["suspend"])
            .await
            .contains("they asked for it")
    );

    let told = words(&world, &["resume", "example.net", "--dry-run"]).await;
    assert!(told.ends_with("2 recipients would be due now\n"), "{told}");
    world.no_job().await;
    let told = words(&world, &["resume", "example.net"]).await;
    assert_eq!(told, "example.net resumed\n2 recipients due now\n");
    for _ in 0..2 {
        let job = world.job().await;
        assert_eq!(job.recipients, [0]);
        world.report(&job, Outcome::Delivered, 250).await;
    }
    assert_eq!(words(&world, &["suspend"]).await, "Nothing is suspended.\n");
    world.stop().await;
}

#[actix::test]
async fn i5_a_suspended_recipient_expires_at_its_deadline() {
    let mut world = World::start(|config| config.retry.give_up = "800ms".parse().unwrap()).await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    words(&world, &["suspend", "*.net", "--for", "5d"]).await;
    world.accept(&["b@example.net"]).await;
    let notice = world.job().await;
    let notice = text(notice.content.as_ref().unwrap());
    assert!(
        notice.contains("b@example.net") && notice.contains("4.4.7"),
        "{notice}"
    );
    world.stop().await;
}

#[actix::test]
async fn replay_is_spread_over_a_span() {
    let (mut world, _control) = world().await;
    for _ in 0..8 {
        deferred_to(&mut world, &["b@example.net"]).await;
    }
    let now = chapar::time::now();
    let told = words(&world, &["replay", "all", "--spread", "10m"]).await;
    assert_eq!(told, "8 recipients due within 10m\n");
    let due: Vec<u64> = world
        .messages()
        .await
        .iter()
        .map(|message| message.states[0].next_due)
        .collect();
    assert!(due.iter().all(|due| (now..now + 610_000).contains(due)));
    let least = due.iter().min().unwrap();
    assert!(
        due.iter().any(|due| due - least > 20_000),
        "spread: {due:?}"
    );
    fails(
        &world,
        &["replay", "all", "--spread", "soon"],
        65,
        "no span of time",
    )
    .await;
    world.stop().await;
}

#[actix::test]
async fn a_dry_run_touches_nothing_and_every_order_bears_its_operator() {
    let (mut world, _control) = world().await;
    let id = deferred_to(&mut world, &["b@example.net"]).await;
    let before = world.messages().await;
    for verb in ["replay", "remove", "hold", "bounce"] {
        let told = words(&world, &[verb, "all", "--dry-run"]).await;
        assert!(told.contains("1 recipient would be "), "{told}");
    }
    let redirect = ["redirect", "all", "--target", "x@example.net", "--dry-run"];
    assert!(
        words(&world, &redirect)
            .await
            .contains("1 recipient would be")
    );
    assert_eq!(world.messages().await, before);
    words(&world, &["hold", &id]).await;
    assert!(
        words(&world, &["release", "all", "--dry-run"])
            .await
            .contains("1 recipient would be released")
    );
    words(&world, &["release", &id]).await;
    let shown = objects(&world, &["show", &id, "--json"]).await;
    let events = shown[0]["events"].as_array().unwrap();
    let brief: Vec<(&str, bool)> = events
        .iter()
        .map(|event| {
            let by = event["by"].as_str().unwrap();
            (
                event["event"].as_str().unwrap(),
                by.starts_with("anna (uid "),
            )
        })
        .collect();
    assert_eq!(
        brief,
        [("deferred", false), ("held", true), ("released", true)]
    );
    world.stop().await;
}

#[actix::test]
async fn show_tells_the_story_in_order() {
    let (mut world, _control) = world().await;
    let id = world
        .accept_with(&["b@example.net"], |accept| {
            accept.content.head = "Received: from x\r\n\tby mx.example.org; now\r\n\
                DKIM-Signature: v=1; d=example.org;\r\n s=2024e; b=x\r\nSubject: hello\r\n\r\n"
                .into();
        })
        .await
        .to_string();
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    words(&world, &["replay", &id]).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 421).await;
    world
        .until("it is deferred again", |all| all[0].states[0].attempts == 2)
        .await;
    let story = words(&world, &["show", &id]).await;
    let places: Vec<usize> = [
        "Accepted  ",
        "from user a@example.org at 192.0.2.9",
        "Signed    by example.org/2024e",
        "To        b@example.net",
        "deferred at mx.example.net[192.0.2.1]:25 in clear: 450 said 450",
        "replayed by anna (uid ",
        "deferred at mx.example.net[192.0.2.1]:25 in clear: 421 said 421",
        "state   deferred, 2 attempts",
    ]
    .iter()
    .map(|part| {
        story
            .find(part)
            .unwrap_or_else(|| panic!("{part}: {story}"))
    })
    .collect();
    assert!(places.is_sorted(), "{story}");
    world.stop().await;
}

#[actix::test]
async fn list_puts_the_newest_trouble_first_and_fits() {
    let (mut world, _control) = world().await;
    let old = deferred_to(&mut world, &["old@example.net"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let new = deferred_to(&mut world, &["new@example.net"]).await;
    let untried = world.accept(&["untried@example.net"]).await.to_string();
    world.job().await;
    for width in ["80", "160"] {
        let mut list = command(&world, &["list"]);
        list.env("COLUMNS", width);
        let output = tokio::task::spawn_blocking(move || list.output())
            .await
            .unwrap()
            .unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let ids: Vec<&str> = table.lines().skip(1).map(|line| &line[..13]).collect();
        assert_eq!(ids, [&new, &old, &untried]);
        let width: usize = width.parse().unwrap();
        assert!(
            table.lines().all(|line| line.chars().count() <= width),
            "{table}"
        );
    }
    let first = words(&world, &["list", "--limit", "1"]).await;
    assert!(first.contains(&new) && !first.contains(&old));
    assert!(first.contains("… and 2 more"), "{first}");
    world.stop().await;
}

#[actix::test]
async fn watch_follows_events_and_top_draws_a_screen() {
    let (mut world, _control) = world().await;
    let mut watch = command(&world, &["watch", "--json", "--domain", "example.net"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (send, mut events) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = send.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    // It is there once it says what happens.
    let first = loop {
        world.accept(&["z@example.net"]).await;
        let job = world.job().await;
        world.report(&job, Outcome::Delivered, 250).await;
        let wait = std::time::Duration::from_millis(200);
        if let Ok(Some(event)) = tokio::time::timeout(wait, events.recv()).await {
            break event;
        }
    };
    assert!(["accepted", "delivered"].contains(&first["event"].as_str().unwrap()));
    world.accept(&["elsewhere@example.com"]).await;
    let elsewhere = world.job().await;
    world.report(&elsewhere, Outcome::Delivered, 250).await;
    let id = deferred_to(&mut world, &["b@example.net"]).await;
    words(&world, &["remove", &id]).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(event, _)| event != "removed") {
        let wait = std::time::Duration::from_secs(5);
        let event = tokio::time::timeout(wait, events.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(!event["to"].to_string().contains("example.com"), "{event}");
        if event["id"] == *id {
            let word = event["event"].as_str().unwrap().to_owned();
            seen.push((word, event["by"].as_str().unwrap().to_owned()));
        }
    }
    let words_seen: Vec<&str> = seen.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(words_seen, ["accepted", "deferred", "removed"]);
    assert!(seen[2].1.starts_with("anna (uid "));
    watch.kill().unwrap();
    watch.wait().unwrap();

    deferred_to(&mut world, &["c@example.net"]).await;
    let screen = words(&world, &["top", "--once", "80x24"]).await;
    assert!(
        screen.contains("1 deferred") && screen.contains("example.net"),
        "{screen}"
    );
    assert!(
        screen.contains("450 said 450") && screen.contains("in 0.0/s"),
        "{screen}"
    );
    assert!(screen.lines().all(|line| line.chars().count() <= 80));
    fails(&world, &["top", "--once", "huge"], 64, "no size").await;
    world.stop().await;
}

#[actix::test]
async fn i6_verify_finds_what_is_damaged_and_rebuild_makes_the_index_anew() {
    let (mut world, control) = world().await;
    let id = deferred_to(&mut world, &["b@example.net"]).await;
    let other = deferred_to(&mut world, &["c@example.net"]).await;
    let told = words(&world, &["verify"]).await;
    assert!(told.starts_with("All is well: "), "{told}");
    let told = words(&world, &["rebuild"]).await;
    assert!(told.contains("at its next start"), "{told}");
    drop(control);
    world.restart().await;
    assert_eq!(world.messages().await.len(), 2, "nothing is lost by it");
    world.stop().await;
    world.no_daemon();
    let told = words(&world, &["rebuild"]).await;
    assert_eq!(told, "The index was made anew; 2 messages wait.\n");

    // One bit of the first message's bytes.
    world.open().await;
    world.connect().await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let segment = std::fs::read_dir(world.data("journal"))
        .unwrap()
        .next()
        .unwrap();
    let segment = segment.unwrap().path();
    let bytes = std::fs::read(&segment).unwrap();
    let at = bytes
        .windows(8)
        .position(|some| some == b"the body")
        .unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[at] ^ 1], at as u64).unwrap();
    let output = tool(&world, &["verify"]).await;
    assert_eq!(output.status.code(), Some(65));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("segment 1 at ") && said.contains(&id),
        "{said}"
    );
    assert!(!said.contains(&other), "{said}");
    let found = tool(&world, &["verify", "--json"]).await;
    let lines = String::from_utf8(found.stdout).unwrap();
    for line in lines.lines() {
        let finding: Value = serde_json::from_str(line).unwrap();
        assert!(finding["place"].is_string() && finding["problem"].is_string());
    }
    world.stop().await;
}

#[actix::test]
async fn verbs_that_need_a_daemon_say_so() {
    let (mut world, control) = world().await;
    let id = deferred_to(&mut world, &["b@example.net"]).await;
    drop(control);
    world.stop().await;
    world.no_daemon();
    for verb in [
        &["watch"][..],
        &["bounce", &id],
        &["redirect", &id, "--target", "x@example.net"],
    ] {
        fails(&world, verb, 69, "systemctl start chapar").await;
    }
    // What does not need one works.
    let told = words(&world, &["suspend", "example.net", "--for", "2h"]).await;
    assert!(told.contains("1 recipient"), "{told}");
    assert!(words(&world, &["suspend"]).await.contains("example.net"));
    assert!(words(&world, &["resume", "all"]).await.contains("resumed"));
    assert!(words(&world, &["verify"]).await.starts_with("All is well"));
    assert!(words(&world, &["show", &id]).await.contains("450 said 450"));
}
