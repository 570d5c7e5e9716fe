//! Reports of real users about the tools of other queues, against the real binary. Named by the
//! number of the case.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use chapar::lab::{Act, Mx, MxConfig, Stage};
use serde_json::Value;

use crate::journey::{arrived, mx};
use crate::world::{MESSAGE, USER, World};

fn ids(queue: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = queue.iter().map(|item| text(item, "id")).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn text(item: &Value, key: &str) -> String {
    item[key].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn c111_the_list_is_the_same_whoever_reads_it() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    remote.on(Stage::Rcpt, |_| Act::reply("451 4.7.1 not now"));
    world.start().await;
    for _ in 0..3 {
        world.submit(USER, &["you@box.example"]).await;
    }
    let running = world
        .wait_queue("three are deferred", |queue| {
            queue.len() == 3 && queue.iter().all(|item| item["state"] == "deferred")
        })
        .await;
    for item in &running {
        assert_eq!(text(item, "to"), "you@box.example");
        assert!(item["attempts"].as_u64().is_some_and(|count| count >= 1));
        for key in ["arrived", "next_due", "last_attempt"] {
            assert!(text(item, key).ends_with('Z'), "{key}: {item}");
        }
        assert!(text(item, "last_reply").contains("not now"), "{item}");
    }
    world.stop().await;
    let stopped = world.queue();
    assert_eq!(stopped, running, "from the store itself");
    as_a_stranger(&world);
    world.start().await;
    assert_eq!(world.queue(), running, "after a restart");
    as_a_stranger(&world);

    let tries = |mx: &Mx| {
        let log = mx.log();
        log.iter()
            .filter(|line| line.line.starts_with("RCPT"))
            .count()
    };
    let before = tries(&remote);
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "3 recipients due now\n"),
        "{error}"
    );
    let each = remote.until(|mx| tries(mx) >= before + 3);
    let waited = tokio::time::timeout(crate::world::PATIENCE, each).await;
    assert!(waited.is_ok(), "an attempt of each");
}

/// Nobody in particular is told that the list is not for him, not that it is empty.
fn as_a_stranger(world: &World) {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    if !is_root {
        eprintln!("only root can become nobody; this part was left out");
        return;
    }
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(world.dir.path(), mode(0o755)).expect("mode");
    // Where nobody may go and run it.
    let copy = world.dir.path().join("mta-queue");
    if !copy.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_mta-queue"), &copy).expect("copy");
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["list", "--config"])
        .arg(world.config())
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(output.stdout.is_empty(), "no list");
    assert!(
        said.contains("Permission denied") && said.contains("as root or as the user of the daemon"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c112_a_message_removed_under_way_stays_away() {
    for (what, end) in [
        ("a 451", Act::reply("451 4.3.0 later")),
        ("a 250", Act::Default),
        ("a lost connection", Act::Close),
    ] {
        let remote = Mx::start(MxConfig::default()).await.expect("MX");
        let mut world = World::new(remote.address().port(), "").await;
        mx(&world, "box.example", &remote).await;
        // Hangs after RCPT for long enough to be removed.
        remote.on(Stage::Data, move |_| {
            Act::After(Duration::from_secs(2), Box::new(end.clone()))
        });
        world.start().await;
        world.submit(USER, &["you@box.example"]).await;
        remote
            .until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
            .await;
        let id = ids(&world.queue())[0].clone();
        let (code, out, error) = world.run(&["queue", "remove", &id]);
        assert_eq!(
            (code, out.as_str()),
            (0, "1 recipient removed\n"),
            "{error}"
        );
        assert_eq!(world.queue(), Vec::<Value>::new(), "{what}");
        remote.wait_closed().await;
        assert_eq!(world.queue(), Vec::<Value>::new(), "{what}, later");
        world.stop().await;
        world.start().await;
        assert_eq!(
            world.queue(),
            Vec::<Value>::new(),
            "{what}, after a restart"
        );
        for unknown in [id.as_str(), "0000000000001"] {
            let (code, out, error) = world.run(&["queue", "remove", unknown]);
            assert_eq!(code, 66, "{what}: {out}{error}");
            assert!(error.contains(unknown), "{error}");
        }
        let notices = remote.received();
        assert!(
            notices.iter().all(|one| !one.reverse_path.is_empty()),
            "{what}: nobody asked for a notice"
        );
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c114_each_recipient_is_listed_once_however_often_it_was_tried() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    remote.on(Stage::Mail, |_| Act::reply("451 4.3.2 busy"));
    world.start().await;
    let to = ["a@box.example", "b@box.example", "c@box.example"];
    world.submit(USER, &to).await;
    world.submit(USER, &to).await;
    let keys = |queue: &[Value]| -> Vec<(String, String)> {
        let mut keys: Vec<_> = queue
            .iter()
            .map(|item| (text(item, "id"), text(item, "to")))
            .collect();
        keys.sort();
        keys
    };
    let mut first = Vec::new();
    for round in 1..=10 {
        let queue = world
            .wait_queue("all were tried", |queue| {
                let tried = |item: &Value| item["attempts"].as_u64() >= Some(round);
                queue.len() == 6 && queue.iter().all(tried)
            })
            .await;
        let found = keys(&queue);
        let distinct: BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), 6, "round {round}: each once");
        if round == 1 {
            first = found;
        } else {
            assert_eq!(found, first, "round {round}: the same");
        }
        let (code, out, error) = world.run(&["queue", "summary", "--json"]);
        assert_eq!(code, 0, "{error}");
        let row: Value = serde_json::from_str(out.lines().next().expect("a row")).expect("JSON");
        assert_eq!(
            (&row["domain"], &row["total"]),
            (&"box.example".into(), &6.into())
        );
        let (_, out, _) = world.run(&["queue", "replay", "all"]);
        assert_eq!(out, "6 recipients due now\n");
    }
    // The store has as many, also without a daemon.
    world.stop().await;
    assert_eq!(keys(&world.queue()), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn c187_a_backlog_is_held_sifted_and_let_go() {
    let place = Mx::start(MxConfig::default()).await.expect("MX");
    let address = place.address();
    let config = format!(
        "[delivery]\n[retry]\nsteps = \"300ms\"\n\
         [[route]]\nto = \"*\"\nvia = \"smtp://{address}\"\n"
    );
    let mut world = World::new(address.port(), &config).await;
    drop(place);
    world.start().await;
    let mut client = world.user().await;
    for number in 0..50 {
        let from = if number < 10 {
            "news@example.org"
        } else {
            USER
        };
        let to = match number % 10 {
            9 => format!("gone{number}@box.example"),
            _ => format!("you{number}@box.example"),
        };
        let sent = client.send(from, &[&to], MESSAGE).await;
        assert_eq!(sent.expect("accepted").code, 250);
    }
    world
        .wait_queue("fifty wait", |queue| queue.len() == 50)
        .await;
    let done = |arguments: &[&str]| {
        let (code, out, error) = world.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    };
    assert_eq!(done(&["queue", "hold", "all"]), "50 recipients held\n");
    // The relay is there again, and also a new daemon leaves what is held alone.
    let config = MxConfig {
        address,
        ..MxConfig::default()
    };
    let relay = Mx::start(config).await.expect("MX");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.connections(), 0, "nothing is tried");
    world.stop().await;
    world.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.connections(), 0, "nor after a restart");
    let queue = world.queue();
    assert_eq!(queue.len(), 50);
    assert!(queue.iter().all(|item| item["state"] == "held"));

    let done = |arguments: &[&str]| {
        let (code, out, error) = world.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    };
    let released = done(&["queue", "release", "--from", "news@example.org"]);
    assert_eq!(released, "10 recipients released\n");
    // Each is due when it would have been; the relay is known to be there.
    done(&["queue", "replay", "all"]);
    arrived(&relay, 10).await;
    let all_news = relay
        .received()
        .iter()
        .all(|one| one.reverse_path == "news@example.org");
    assert!(all_news, "only what the filter means");
    // One of the five is gone already.
    let removed = done(&["queue", "remove", "--to", "gone*"]);
    assert_eq!(removed, "4 recipients removed\n");
    let (code, out, error) = world.run(&["queue", "release", "--from", "nobody@example.org"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "0 recipients released\n"),
        "{error}"
    );
    assert_eq!(
        done(&["queue", "release", "all"]),
        "36 recipients released\n"
    );
    done(&["queue", "replay", "all"]);
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let received = relay.received();
    let to: BTreeSet<String> = received
        .iter()
        .flat_map(|one| one.recipients.clone())
        .collect();
    let recipients: usize = received.iter().map(|one| one.recipients.len()).sum();
    assert_eq!((to.len(), recipients), (46, 46), "each once");
    assert!(to.contains("gone9@box.example") && !to.contains("gone19@box.example"));
    world.stop().await;
}
