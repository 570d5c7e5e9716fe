//! What is remembered of a recipient: who holds it and why, what its destination is suspended
//! for, whether its sender was told; and orders that stand.

use chapar::queue::{Held, Outcome, Steer, Verb};
use queue_schema::{HoldKind, QueueId, Status};
use serde_json::Value;

use crate::support::*;
use crate::tool::{fails, objects, words};

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
async fn deferred_to(world: &mut World, to: &[&str]) -> QueueId {
    let id = world.accept(to).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| {
            let mine = all.iter().find(|message| message.id == id);
            mine.is_some_and(|message| message.states.iter().all(|state| state.attempts == 1))
        })
        .await;
    id
}

fn states(listed: &[Value]) -> Vec<(&str, &str)> {
    let mut states: Vec<_> = listed
        .iter()
        .map(|item| {
            (
                item["to"].as_str().unwrap(),
                item["state"].as_str().unwrap(),
            )
        })
        .collect();
    states.sort_unstable();
    states
}

#[actix::test]
async fn q16_a_hold_means_the_recipients_that_were_named() {
    let (mut world, _control) = world().await;
    deferred_to(&mut world, &["a@one.example", "b@two.example"]).await;
    let order = ["hold", "--domain", "one.example", "--reason", "they moved"];
    assert_eq!(words(&world, &order).await, "1 recipient held\n");
    assert_eq!(words(&world, &order).await, "0 recipients held\n", "again");
    let listed = objects(&world, &["list", "--json"]).await;
    assert_eq!(
        states(&listed),
        [("a@one.example", "held"), ("b@two.example", "deferred")]
    );
    let held = listed.iter().find(|item| item["state"] == "held").unwrap();
    let [hold] = &held["held"].as_array().unwrap()[..] else {
        panic!("one hold: {held}")
    };
    assert!(hold["who"].as_str().unwrap().starts_with("anna (uid "));
    assert_eq!(
        (&hold["why"], &hold["kind"]),
        (&"they moved".into(), &"operator".into())
    );
    assert_eq!(hold["until"], Value::Null);
    assert_eq!(held["next_due"], Value::Null);

    // The other goes on, also after a restart.
    words(&world, &["replay", "all"]).await;
    let job = world.job().await;
    assert_eq!(job.recipients, [1]);
    world.report(&job, Outcome::Delivered, 250).await;
    world
        .until("one is left", |all| {
            all[0].states[1].status == Status::Delivered
        })
        .await;
    world.restart().await;
    world.no_job().await;
    let states = &world.messages().await[0].states;
    assert_eq!(states[0].holds.len(), 1);
    world.stop().await;
}

#[actix::test]
async fn q16_release_of_one_reason_leaves_the_others() {
    let (mut world, _control) = world().await;
    let id = world
        .accept_with(&["a@one.example"], |accept| {
            accept
                .held
                .push(Held::quarantine("milter rspamd", "score 17"));
        })
        .await
        .to_string();
    words(&world, &["hold", &id, "--reason", "the police asked"]).await;
    words(
        &world,
        &["hold", &id, "--reason", "a stolen password", "--for", "8h"],
    )
    .await;
    let listed = objects(&world, &["list", "--json"]).await;
    let kinds: Vec<_> = listed[0]["held"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hold| &hold["kind"])
        .collect();
    assert_eq!(kinds, ["quarantine", "operator", "operator"]);
    assert!(
        words(&world, &["show", &id])
            .await
            .contains("in quarantine by milter rspamd: score 17")
    );

    let told = words(&world, &["release", "all", "--reason", "a stolen*"]).await;
    assert_eq!(told, "1 recipient released\n");
    world.no_job().await;
    let told = words(
        &world,
        &["release", "all", "--kind", "operator", "--dry-run"],
    )
    .await;
    assert!(told.ends_with("1 recipient would be released\n"), "{told}");
    let told = words(&world, &["release", "all", "--kind", "operator"]).await;
    assert_eq!(told, "1 recipient released\n");
    world.no_job().await;
    let holds = world.messages().await[0].states[0].holds.clone();
    assert_eq!((holds.len(), holds[0].kind), (1, HoldKind::Quarantine));
    let told = words(
        &world,
        &["release", "all", "--kind", "quarantine", "--by", "*rspamd"],
    )
    .await;
    assert_eq!(told, "1 recipient released\n");
    assert_eq!(world.job().await.message.id.to_string(), id);
    fails(
        &world,
        &["release", "all", "--kind", "filter"],
        64,
        "quarantine",
    )
    .await;
    fails(&world, &["replay", "all", "--reason", "x"], 64, "--reason").await;
    world.stop().await;
}

#[actix::test]
async fn q16_a_hold_of_what_is_under_way_is_kept_and_nothing_goes_out_twice() {
    let (mut world, _control) = world().await;
    let id = world.accept(&["a@one.example"]).await.to_string();
    let job = world.job().await;
    assert_eq!(words(&world, &["hold", &id]).await, "1 recipient held\n");
    assert_eq!(
        words(&world, &["release", &id]).await,
        "1 recipient released\n"
    );
    world.no_job().await;
    words(&world, &["hold", &id, "--reason", "again"]).await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    let state = world.messages().await[0].states[0].clone();
    assert_eq!(state.holds.len(), 1, "{state:?}");
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn q16_a_hold_ends_by_itself_and_stops_the_deadline_until_then() {
    let mut world = World::start(|config| config.retry.give_up = "100ms".parse().unwrap()).await;
    let id = world
        .accept_with(&["a@one.example"], |accept| {
            accept.held.push(Held {
                until: Some(chapar::time::now() + 700),
                ..Held::default()
            });
        })
        .await;
    world.no_job().await;
    assert_eq!(
        world.messages().await[0].states[0].status,
        Status::Waiting,
        "I5"
    );
    let job = world.job().await;
    assert_eq!((job.message.id, &job.recipients[..]), (id, &[0][..]));
    assert!(!job.message.states[0].is_held(chapar::time::now()));
    world.report(&job, Outcome::Delivered, 250).await;
    world.until("it is gone", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn q8_the_sender_is_told_of_each_recipient_that_is_late() {
    let mut world = World::start(|config| {
        config.retry.warn_after = "0s".parse().unwrap();
        config.retry.first = "1h".parse().unwrap();
    })
    .await;
    world.accept(&["a@one.example", "b@two.example"]).await;
    let job = world.job().await;
    for (recipient, address) in [(0, "a@one.example"), (1, "b@two.example")] {
        // Each destination answers for itself.
        world
            .report_of(&job, &[recipient], deferred(true), 450)
            .await;
        let notice = world.job().await;
        let told = text(notice.content.as_ref().unwrap());
        assert!(told.contains("\r\nAction: delayed\r\n"), "{told}");
        assert_eq!(told.matches("Final-Recipient").count(), 1);
        assert!(
            told.contains(&format!("Final-Recipient: rfc822; {address}")),
            "{told}"
        );
        world.report(&notice, Outcome::Delivered, 250).await;
    }
    world
        .until("both are remembered", |all| {
            all.len() == 1 && all[0].states.iter().all(|state| state.warned)
        })
        .await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn q11_a_suspension_is_beside_the_last_reply_and_no_sender_reads_of_it() {
    let (mut world, _control) = world().await;
    let id = deferred_to(&mut world, &["a@one.example"]).await;
    let before = world.messages().await[0].states[0].clone();
    words(&world, &["replay", "all"]).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is tried again", |all| all[0].states[0].attempts == 2)
        .await;
    let before_last = world.messages().await[0].states[0].last_attempt;
    assert!(before_last >= before.last_attempt);
    let reason = "their admin Bob is a fool";
    words(&world, &["suspend", "one.example", "--reason", reason]).await;
    // It is due, and its destination is suspended.
    words(&world, &["replay", &id.to_string()]).await;
    world
        .until("it is suspended", |all| {
            all[0].states[0].suspended.is_some()
        })
        .await;
    let state = world.messages().await[0].states[0].clone();
    assert_eq!((state.attempts, state.last_attempt), (2, before_last));
    assert_eq!(
        state.last_reply.unwrap().text,
        "said 450",
        "what the remote said last"
    );
    let listed = objects(&world, &["list", "--json"]).await;
    assert_eq!(listed[0]["state"], "suspended");
    assert_eq!(listed[0]["last_reply"], "450 said 450");
    assert!(listed[0]["suspended"].as_str().unwrap().contains(reason));
    assert_eq!(
        listed[0]["suspended_until"],
        Value::Null,
        "R22: until it is resumed"
    );
    let shown = words(&world, &["show", &id.to_string()]).await;
    assert!(
        shown.contains(reason) && shown.contains("450 said 450"),
        "{shown}"
    );

    // Its end, whatever it is, says nothing of it.
    words(&world, &["bounce", "all"]).await;
    let notice = world.job().await;
    let told = text(notice.content.as_ref().unwrap());
    for secret in [reason, "anna", "uid ", "suspend"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    world.stop().await;
}

#[actix::test]
async fn q11_who_expires_at_a_suspended_destination_reads_neutral_words() {
    let mut world = World::start(|config| config.retry.give_up = "500ms".parse().unwrap()).await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    words(
        &world,
        &[
            "suspend",
            "one.example",
            "--for",
            "1h",
            "--reason",
            "a secret",
        ],
    )
    .await;
    world.accept(&["a@one.example"]).await;
    let notice = world.job().await;
    let told = text(notice.content.as_ref().unwrap());
    assert!(told.contains("\r\nStatus: 4.4.7\r\n"), "{told}");
    assert!(
        !told.contains("Last-Attempt-Date"),
        "it was not tried: {told}"
    );
    for secret in ["a secret", "anna", "uid ", "suspended"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    world.stop().await;
}

#[actix::test]
async fn r22_a_suspension_without_a_time_holds_until_it_is_resumed() {
    let (mut world, control) = world().await;
    let told = words(&world, &["suspend", "one.example"]).await;
    assert!(
        told.starts_with("one.example suspended until it is resumed\n"),
        "{told}"
    );
    world.accept(&["a@one.example"]).await;
    world.no_job().await;
    drop(control);
    world.restart().await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    world.no_job().await;
    let listed = objects(&world, &["suspend", "--json"]).await;
    assert_eq!(
        (&listed[0]["destination"], &listed[0]["until"]),
        (&"one.example".into(), &Value::Null)
    );
    assert!(words(&world, &["suspend"]).await.contains("resumed"));
    let told = words(&world, &["resume", "one.example"]).await;
    assert_eq!(told, "one.example resumed\n1 recipient due now\n");
    world.job().await;
    world.stop().await;
}

#[actix::test]
async fn an_order_holds_what_is_there_and_what_comes_until_it_is_ended() {
    let (mut world, control) = world().await;
    deferred_to(&mut world, &["a@one.example"]).await;
    let order = [
        "order",
        "hold",
        "--user",
        "A@example.org",
        "--for",
        "8h",
        "--reason",
        "a stolen password",
    ];
    let told = words(&world, &[&order[..], &["--dry-run"]].concat()).await;
    assert!(
        told.ends_with("1 recipient in the queue would be held\n"),
        "{told}"
    );
    assert_eq!(words(&world, &["orders"]).await, "No order stands.\n");
    let told = words(&world, &order).await;
    assert!(
        told.starts_with("order 1: mail of user a@example.org is held until "),
        "{told}"
    );
    assert!(told.ends_with("1 recipient in the queue held\n"), "{told}");
    words(&world, &["replay", "all"]).await;
    world.no_job().await;
    world.accept(&["b@two.example"]).await;
    world.no_job().await;
    world
        .until("both are held", |all| {
            let mut holds = all.iter().map(|message| &message.states[0].holds[..]);
            holds.all(|holds| matches!(holds, [one] if one.kind == HoldKind::Order))
        })
        .await;
    // Others are not meant, and one that an operator releases goes.
    world
        .accept_with(&["c@two.example"], |accept| {
            accept.origin = queue_schema::Origin::User {
                user: "bob@example.org".into(),
                client: [192, 0, 2, 10].into(),
            };
        })
        .await;
    let job = world.job().await;
    assert_eq!(job.message.envelope.recipients[0].address, "c@two.example");
    world.report(&job, Outcome::Delivered, 250).await;
    words(&world, &["release", "--to", "b@two.example"]).await;
    let job = world.job().await;
    assert_eq!(job.message.envelope.recipients[0].address, "b@two.example");
    world.report(&job, deferred(true), 450).await;
    words(&world, &["replay", "--to", "b@two.example"]).await;
    let job = world.job().await;
    assert_eq!(job.recipients, [0], "the order is not applied to it again");
    world.report(&job, Outcome::Delivered, 250).await;

    drop(control);
    world.restart().await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    chapar::control::catch_up(world.handle().clone()).await;
    world.accept(&["d@two.example"]).await;
    world.no_job().await;
    let listed = objects(&world, &["orders", "--json"]).await;
    assert_eq!(listed[0]["id"], "1");
    assert_eq!(listed[0]["does"], "hold");
    assert_eq!(listed[0]["user"], "a@example.org");
    assert_eq!(listed[0]["recipients"], 3, "{listed:?}");
    let told = words(&world, &["order", "end", "1", "--dry-run"]).await;
    assert!(told.ends_with("2 recipients would be released\n"), "{told}");
    let told = words(&world, &["order", "end", "1"]).await;
    assert!(told.ends_with("2 recipients released\n"), "{told}");
    words(&world, &["replay", "all"]).await;
    for _ in 0..2 {
        let job = world.job().await;
        world.report(&job, Outcome::Delivered, 250).await;
    }
    fails(&world, &["order", "end", "1"], 65, "has ended already").await;
    fails(&world, &["order", "end", "7"], 65, "there is no order 7").await;
    let ended = objects(&world, &["orders", "--all", "--json"]).await;
    assert!(ended[0]["ended"].is_string() && ended[0]["ended_by"].is_string());
    world.stop().await;
}

#[actix::test]
async fn an_order_that_discards_or_bounces_ends_what_comes_after_250() {
    let (mut world, _control) = world().await;
    fails(&world, &["order", "bounce", "--for", "1h"], 64, "--user").await;
    words(&world, &["order", "discard", "--domain", "spam.example"]).await;
    let tell = "that site is closed until Monday";
    words(
        &world,
        &[
            "order",
            "bounce",
            "--domain",
            "closed.example",
            "--tell",
            tell,
            "--reason",
            "a secret",
        ],
    )
    .await;
    world
        .accept(&["a@spam.example", "b@closed.example", "c@two.example"])
        .await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let job = world.job().await;
        if job.message.envelope.reverse_path.is_empty() {
            let told = text(job.content.as_ref().unwrap());
            assert!(
                told.contains("b@closed.example") && told.contains(tell),
                "{told}"
            );
            assert!(
                !told.contains("spam.example") && !told.contains("a secret"),
                "{told}"
            );
            assert!(!told.contains("order 2"), "{told}");
            seen.push("notice");
        } else {
            assert_eq!(job.recipients, [2]);
            seen.push("message");
        }
        world.report(&job, Outcome::Delivered, 250).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, ["message", "notice"]);
    world.until("nothing is left", |all| all.is_empty()).await;
    let counts: Vec<_> = objects(&world, &["orders", "--json"])
        .await
        .iter()
        .map(|one| one["recipients"].clone())
        .collect();
    assert_eq!(counts, [1, 1]);
    world.stop().await;
}

#[actix::test]
async fn an_order_whose_notice_cannot_be_signed_yet_delivers_nothing() {
    let (mut world, _control) = world().await;
    words(&world, &["order", "bounce", "--from", "a@*"]).await;
    world
        .fail_signing
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let id = world.accept(&["b@one.example"]).await;
    world
        .until("it waits", |all| all[0].states[0].last_reply.is_some())
        .await;
    world.no_job().await;
    world
        .fail_signing
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let steer = Steer {
        verb: Verb::Obey,
        targets: vec![(id, vec![0])],
        by: "test".into(),
        manner: Default::default(),
    };
    assert_eq!(world.handle().addr.send(steer).await.unwrap(), Ok(1));
    let notice = world.job().await;
    assert_eq!(notice.message.envelope.reverse_path, "");
    world.stop().await;
}

#[actix::test]
async fn requeue_follows_aliases_as_they_are_now() {
    let (mut world, _control) = world().await;
    let alias = |to: &[&str]| {
        let to = to.iter().map(|to| (*to).to_owned()).collect();
        vec![("info@example.org".to_owned(), to)]
    };
    world
        .accept_with(&["old@one.example"], |accept| {
            accept.envelope.recipients[0].alias_of = Some("info@example.org".into());
        })
        .await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    *world.leads.lock().unwrap() = alias(&["new@two.example", "also@two.example"]);
    let told = words(&world, &["requeue", "all"]).await;
    assert_eq!(told, "1 recipient resolved again and due now\n");
    let job = world.job().await;
    let to: Vec<_> = job
        .message
        .envelope
        .recipients
        .iter()
        .map(|to| to.address.as_str())
        .collect();
    assert_eq!(
        (&to[..], &job.recipients[..]),
        (&["new@two.example", "also@two.example"][..], &[0, 1][..])
    );
    world.report_of(&job, &[0], Outcome::Delivered, 250).await;
    world.report_of(&job, &[1], deferred(true), 450).await;
    world
        .until("one is left", |all| {
            all[0].states[0].status == Status::Delivered
        })
        .await;
    world.restart().await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();

    // Who leads to nobody any more is returned.
    *world.leads.lock().unwrap() = alias(&[]);
    words(&world, &["requeue", "all"]).await;
    let notice = world.job().await;
    let told = text(notice.content.as_ref().unwrap());
    assert!(
        told.contains("\r\nStatus: 5.1.1\r\n") && told.contains("also@two.example"),
        "{told}"
    );
    world.stop().await;
}
