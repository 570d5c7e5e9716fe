//! What operators look at: filters, orders, groups, fields, and output that can not be written.

use std::process::Stdio;
use std::sync::Arc;

use chapar::queue::{Attempt, Held, Outcome, Record};
use queue_schema::{Message, Notify, Origin, Recipient, Reply};
use serde_json::Value;

use crate::support::*;
use crate::tool::{command, fails, objects, tool, words};

fn slow(config: &mut chapar::config::Config) {
    config.retry.first = "1h".parse().unwrap();
}

/// Four messages: three that Gmail deferred, each with an id in its reply, and one new.
async fn filled() -> (World, actix::Addr<chapar::control::Control>, Vec<String>) {
    let mut world = World::start(slow).await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let mut ids = Vec::new();
    for n in 0..3u64 {
        let id = world
            .accept_with(&[], |accept| {
                let to = Recipient {
                    notify: Notify {
                        success: true,
                        failure: true,
                        delay: false,
                    },
                    ..Recipient::new(format!("u{n}@gmail.example"))
                };
                accept.envelope.recipients = vec![to];
                accept.envelope.envid = Some(format!("QQ{n}"));
                let body = "x".repeat(usize::try_from(n).unwrap() * 1100);
                accept.content.body = chapar::message::Body::Memory(body.into());
            })
            .await;
        ids.push(id.to_string());
        let job = world.job().await;
        let attempt = Attempt {
            recipient: 0,
            at: chapar::time::now(),
            outcome: deferred(true),
            reply: Reply {
                code: 421,
                enhanced: "4.7.28".into(),
                text: format!("too fast af79cd13be35{n}-7c5b8e1si123456{n}qkb.123 - gsmtp"),
                remote: format!("mx{n}.google.example[192.0.2.1]:25"),
            },
            tls: String::new(),
            notifies: false,
        };
        let record = Record {
            message: job.message.clone(),
            attempts: vec![attempt],
            synced: false,
        };
        world.handle().addr.send(record).await.unwrap();
    }
    world
        .until("all are deferred", |all| {
            all.len() == 3 && all.iter().all(|one| one.states[0].attempts == 1)
        })
        .await;
    ids.push(world.accept(&["d@example.net"]).await.to_string());
    world.job().await;
    (world, control, ids)
}

fn ids_of(list: &[Value]) -> Vec<&str> {
    list.iter().map(|one| one["id"].as_str().unwrap()).collect()
}

#[actix::test]
async fn q18_filters_come_in_numbers_and_with_not() {
    let (mut world, _control, ids) = filled().await;
    for (arguments, expected) in [
        (&["--domain", "gmail.example"][..], &[0, 1, 2][..]),
        (&["--to", "u0@*", "--to", "d@*"], &[0, 3]),
        (&["--not", "domain=gmail.example"], &[3]),
        (&["--size", "+1k", "--not", "size=+1500"], &[1]),
        (&["--size", "-1k"], &[0, 3]),
        (&["--attempts", "+0"], &[0, 1, 2]),
        (&["--code", "4.7.*"], &[0, 1, 2]),
        (&["--code", "450", "--code", "42x"], &[0, 1, 2]),
        (&["--next-hop", "mx1.google.example"], &[1]),
        (&["--next-hop", "example.net"], &[3]),
        (&["--due", "+30m"], &[0, 1, 2]),
        (&["--due", "now"], &[3]),
        (&["--user", "a@example.org"], &[0, 1, 2, 3]),
        (&["--client", "192.0.2.0/28", "--state", "queued"], &[3]),
        (&["--client", "2001:db8::1"], &[]),
        (&["--newer", "1h"], &[0, 1, 2, 3]),
    ] {
        let list = [&["list", "--json"], arguments].concat();
        let list = objects(&world, &list).await;
        let expected: Vec<&str> = expected.iter().map(|at: &usize| &*ids[*at]).collect();
        assert_eq!(ids_of(&list), expected, "{arguments:?}");
    }
    let list = objects(&world, &["list", "--json", &ids[2], &ids[0]]).await;
    assert_eq!(ids_of(&list), [&ids[0], &ids[2]]);
    fails(&world, &["list", "--size", "big"], 65, "+1M").await;
    fails(&world, &["watch", "--size", "+1"], 65, "--reply").await;
    let told = words(
        &world,
        &["hold", "--code", "421", "--not", "next-hop=mx2.*"],
    )
    .await;
    assert_eq!(told, "2 recipients held\n");
    world.stop().await;
}

#[actix::test]
async fn q18_a_list_has_an_order_a_limit_and_a_count() {
    let (mut world, _control, ids) = filled().await;
    let sorted = |list: &[Value]| -> Vec<usize> {
        let at = |id: &&str| ids.iter().position(|one| one == id).unwrap();
        ids_of(list).iter().map(at).collect()
    };
    for (arguments, expected) in [
        (&["--sort", "size"][..], &[2, 1, 3, 0][..]),
        (&["--sort", "size", "--reverse", "--limit", "2"], &[0, 3]),
        (&["--sort", "to"], &[3, 0, 1, 2]),
        (&["--sort", "arrived"], &[3, 2, 1, 0]),
        (&["--limit", "2"], &[2, 1]),
        (&["--limit", "0"], &[2, 1, 0, 3]),
    ] {
        let list = [&["list", "--json"], arguments].concat();
        let list = objects(&world, &list).await;
        assert_eq!(sorted(&list), expected, "{arguments:?}");
    }
    let output = tool(&world, &["list", "--json", "--limit", "3"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("1 more: filter"), "{error}");
    let table = words(&world, &["list", "--limit", "3"]).await;
    assert!(table.contains("… and 1 more: filter"), "{table}");
    assert_eq!(words(&world, &["list", "--count"]).await, "4\n");
    let counted = objects(&world, &["list", "--count", "--json", "--code", "421"]).await;
    assert_eq!(counted[0]["recipients"], 3);
    world.stop().await;
}

#[actix::test]
async fn q18_a_limit_of_zero_is_all() {
    let mut world = World::start(slow).await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let to: Vec<String> = (0..1010).map(|n| format!("u{n}@example.net")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for _ in 0..100 {
        world
            .accept_with(&to, |accept| accept.held.push(Held::default()))
            .await;
    }
    let output = tool(&world, &["list", "--json", "--limit", "0"]).await;
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, 101_000);
    drop(control);
    world.stop().await;
}

#[actix::test]
async fn q18_a_summary_groups_by_what_is_asked_for() {
    let (mut world, _control, _) = filled().await;
    let rows = objects(&world, &["summary", "--json"]).await;
    assert_eq!(rows[0]["domain"], "gmail.example");
    assert_eq!(rows[0]["reply"], "421 4.7.28 too fast … - gsmtp");
    for (by, expected) in [
        (
            "reason",
            &[("421 4.7.28 too fast … - gsmtp", 3), ("(not tried)", 1)][..],
        ),
        ("sender", &[("a@example.org", 4)]),
        ("user", &[("a@example.org", 4)]),
        ("state", &[("deferred", 3), ("queued", 1)]),
        (
            "next-hop",
            &[
                ("example.net", 1),
                ("mx0.google.example", 1),
                ("mx1.google.example", 1),
                ("mx2.google.example", 1),
            ],
        ),
    ] {
        let rows = objects(&world, &["summary", "--json", "--by", by]).await;
        let rows: Vec<(&str, u64)> = rows
            .iter()
            .map(|row| (row["key"].as_str().unwrap(), row["total"].as_u64().unwrap()))
            .collect();
        assert_eq!(rows, expected, "{by}");
    }
    let table = words(&world, &["summary", "--by", "reason"]).await;
    assert!(
        table.starts_with("REASON ") && table.contains("too fast … - gsmtp"),
        "{table}"
    );
    world.stop().await;
}

#[actix::test]
async fn q18_json_says_who_when_and_why() {
    let (mut world, _control, ids) = filled().await;
    let list = objects(&world, &["list", "--json"]).await;
    let first = &list[0];
    assert_eq!(first["code"], 421);
    assert_eq!(first["enhanced"], "4.7.28");
    assert_eq!(first["user"], "a@example.org");
    assert_eq!(first["client"], "192.0.2.9");
    assert_eq!(first["next_hop"], "mx0.google.example");
    assert_eq!(first["notify"], serde_json::json!(["success", "failure"]));
    assert_eq!(first["envid"], "QQ0");
    let time = |name: &str| -> jiff::Timestamp { first[name].as_str().unwrap().parse().unwrap() };
    let lives = time("expires").as_second() - time("arrived").as_second();
    assert_eq!(lives, 5 * 86_400);
    let last = &list[3];
    assert_eq!(
        (&last["code"], &last["enhanced"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(last["notify"], serde_json::json!(["failure", "delay"]));
    assert_eq!(last["next_hop"], "example.net");
    let shown = objects(&world, &["show", "--json", &ids[0]]).await;
    assert_eq!(shown[0]["expires"], first["expires"]);
    world.stop().await;
}

#[actix::test]
async fn r10_output_that_can_not_be_written_is_74_and_a_closed_pipe_is_silence() {
    let (mut world, _control, _) = filled().await;
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["list", "--count"],
        &["summary"],
        &["summary", "--json"],
        &["verify"],
        &["suspend"],
        &["replay", "all", "--dry-run"],
    ] {
        let mut full = command(&world, arguments);
        full.stdout(
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        );
        let output = tokio::task::spawn_blocking(move || full.output());
        let output = output.await.unwrap().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{arguments:?}: {error}");
        assert!(
            error.contains("can not be written"),
            "{arguments:?}: {error}"
        );

        let mut closed = command(&world, arguments);
        closed.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || {
            let mut child = closed.spawn().unwrap();
            drop(child.stdout.take());
            child.wait_with_output()
        });
        let output = output.await.unwrap().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), &*error),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    world.stop().await;
}

#[actix::test]
async fn replay_at_a_rate_gives_each_its_turn_and_counts_attempts_again() {
    let (mut world, _control, _) = filled().await;
    let before = chapar::time::now();
    let told = words(
        &world,
        &[
            "replay",
            "--next-hop",
            "mx*.google.example",
            "--rate",
            "2/m",
            "--reset-attempts",
        ],
    )
    .await;
    assert_eq!(told, "3 recipients due at 2/m, the last in 60s\n");
    let after = chapar::time::now();
    // The first is due at once.
    let job = world.job().await;
    assert_eq!(job.message.states[0].attempts, 0);
    world.report(&job, Outcome::Delivered, 250).await;
    let is_mail = |one: &Arc<Message>| !matches!(one.origin, Origin::Dsn { .. });
    world
        .until("it is delivered", |all| {
            all.iter().filter(|one| is_mail(one)).count() == 3
        })
        .await;
    let mut all = world.messages().await;
    all.retain(is_mail);
    for (one, wait) in all.iter().zip([30_000, 60_000]) {
        let due = one.states[0].next_due;
        assert!((before + wait..=after + wait).contains(&due), "{due}");
        assert_eq!(one.states[0].attempts, 0);
    }
    fails(&world, &["replay", "all", "--rate", "fast"], 65, "10/m").await;
    fails(
        &world,
        &["replay", "all", "--rate", "1/m", "--spread", "1h"],
        64,
        "",
    )
    .await;
    world.stop().await;
}
