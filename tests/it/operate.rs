//! Running it: `chapar send`, `status`, `log`, `trace`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use chapar::lab::{Act, Mx, MxConfig, Stage};
use serde_json::Value;

use crate::journey::{arrived, head, mx};
use crate::world::{self, USER, World};

/// Fixed ports instead of those the system chooses, and a log file.
async fn started(remote: &Mx) -> World {
    let mut world = World::new(remote.address().port(), "[log]\nfile = \"log.json\"\n").await;
    mx(&world, "box.example", remote).await;
    world.fix_ports();
    world.start().await;
    world
}

fn lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn send_tells_where_a_test_message_went_and_what_was_said() {
    let remote = Mx::start(MxConfig {
        hostname: "mx.box.example".into(),
        starttls: true,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let world = started(&remote).await;
    let (code, out, error) = world.run(&["send", "--to", "you@box.example"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.starts_with("queued as "), "{out}");
    assert!(
        out.contains("signed by example.org/rsa1, example.org/ed1")
            || out.contains("signed by example.org/ed1, example.org/rsa1"),
        "{out}"
    );
    let port = remote.address().port();
    let told = format!("delivered you@box.example by mx.box.example[127.0.0.1]:{port}, TLSv1.3 ");
    assert!(out.contains(&told), "{out}");
    assert!(out.contains(": 250 "), "{out}");
    let messages = arrived(&remote, 1).await;
    assert_eq!(messages[0].reverse_path, USER);
    let head = head(&messages[0].data);
    assert!(head.contains("DKIM-Signature:") && head.contains("Subject: A test of chapar"));

    // An alias of ours is followed, and each of its targets told of.
    mx(&world, "one.example", &remote).await;
    mx(&world, "two.example", &remote).await;
    let (code, out, _) = world.run(&["send", "--to", "sales@example.org", "--json"]);
    assert_eq!(code, 0, "{out}");
    let told = lines(&out);
    assert_eq!(told[0]["event"], "queued");
    assert_eq!(
        told.iter()
            .filter(|event| event["event"] == "delivered")
            .count(),
        2
    );

    // A refusal is the end, too.
    remote.on(Stage::Rcpt, |line| match line.contains("gone@") {
        true => Act::reply("550 5.1.1 no such user"),
        false => Act::reply("250 2.1.5 ok"),
    });
    let (code, out, _) = world.run(&["send", "--to", "gone@box.example"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("bounced gone@box.example"), "{out}");
    assert!(out.contains("550 5.1.1 no such user"), "{out}");

    // One that is not at its end.
    remote.on(Stage::Rcpt, |_| Act::reply("451 4.7.1 later"));
    let (code, out, _) = world.run(&["send", "--to", "late@box.example", "--wait", "2s"]);
    assert_eq!(code, 75, "{out}");
    assert!(out.contains("deferred late@box.example"), "{out}");
    assert!(out.contains("`chapar trace "), "{out}");

    for (arguments, code) in [
        (
            ["send", "--to", "you@box.example", "--from", "x@box.example"],
            65,
        ),
        (["send", "--to", "not an address", "--from", USER], 65),
    ] {
        let (found, _, error) = world.run(&arguments);
        assert_eq!(found, code, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn send_says_that_the_daemon_does_not_run() {
    let world = World::new(1, "").await;
    let (code, _, error) = world.run(&["send", "--to", "you@box.example"]);
    assert_eq!(code, 69);
    assert!(error.contains("systemctl start chapar"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_trace_tell_the_story_of_a_message() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = started(&remote).await;
    remote.on(Stage::Rcpt, |line| match line.contains("late@") {
        true => Act::reply("451 4.7.1 come later"),
        false => Act::reply("250 2.1.5 ok"),
    });
    let (code, out, _) = world.run(&["send", "--to", "you@box.example", "--json"]);
    assert_eq!(code, 0, "{out}");
    let delivered = lines(&out)[0]["id"].as_str().expect("id").to_owned();
    let (code, out, _) = world.run(&["send", "--to", "late@box.example", "--wait", "2s", "--json"]);
    assert_eq!(code, 75, "{out}");
    let late = lines(&out)[0]["id"].as_str().expect("id").to_owned();

    let (code, out, error) = world.run(&["log", "--id", &delivered]);
    assert_eq!(code, 0, "{error}");
    assert!(
        out.contains("accepted") && out.contains("attempt") && out.contains("status=delivered")
    );
    assert!(!out.contains(&late), "{out}");
    let (_, out, _) = world.run(&["log", "--address", "LATE@box.example", "--json"]);
    let found = lines(&out);
    assert!(!found.is_empty());
    assert!(
        found.iter().all(|entry| entry["to"] == "late@box.example"),
        "{out}"
    );
    let (_, out, _) = world.run(&["log", "--until", "2020-01-01T00:00:00Z"]);
    assert_eq!(out, "");
    let (_, out, _) = world.run(&["log", "--since", "1h", "-n", "1"]);
    assert_eq!(out.lines().count(), 1);
    let (code, _, error) = world.run(&["log", "--since", "yesterday"]);
    assert_eq!(code, 65, "{error}");

    // Of one that is gone the log knows, of one that waits the queue too.
    let (code, out, error) = world.run(&["trace", &delivered]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("log   INFO  delivery: attempt"), "{out}");
    let (code, out, _) = world.run(&["trace", &late]);
    assert_eq!(code, 0);
    assert!(
        out.contains("queue came from me@example.org for late@box.example"),
        "{out}"
    );
    assert!(out.contains("signed by example.org/"), "{out}");
    assert!(out.contains("451 4.7.1 come later"), "{out}");
    assert!(
        out.contains("late@box.example is deferred, 1 tries, next try "),
        "{out}"
    );
    let times: Vec<&str> = out.lines().map(|line| &line[..19]).collect();
    assert!(times.is_sorted(), "{out}");
    // By address both.
    let (code, out, _) = world.run(&["trace", "me@example.org", "--json"]);
    assert_eq!(code, 0);
    let ids: std::collections::BTreeSet<String> = lines(&out)
        .iter()
        .map(|line| line["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(ids.contains(&delivered) && ids.contains(&late), "{ids:?}");
    let (code, _, error) = world.run(&["trace", "zzzzzzzz"]);
    assert_eq!(code, 66, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_follows_a_file_that_is_moved_away() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = started(&remote).await;
    let mut follow = Command::new(world::binary())
        .args(["log", "--follow", "--address", "box.example", "--config"])
        .arg(world.config())
        .stdout(Stdio::piped())
        .spawn()
        .expect("chapar log");
    let mut out = BufReader::new(follow.stdout.take().expect("stdout"));
    let mut line = String::new();
    world.run(&["send", "--to", "one@box.example"]);
    out.read_line(&mut line).expect("line");
    assert!(line.contains("to=one@box.example"), "{line}");
    let file = world.dir.path().join("log.json");
    std::fs::rename(&file, world.dir.path().join("log.json.1")).expect("rename");
    world.daemon().signal("HUP");
    world.daemon().event("daemon", "reloaded").await;
    assert!(file.exists());
    world.run(&["send", "--to", "two@box.example"]);
    while !line.contains("to=two@box.example") {
        line.clear();
        assert_ne!(out.read_line(&mut line).expect("line"), 0);
    }
    follow.kill().expect("kill");
    follow.wait().expect("wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_read_through_journalctl() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = World::new(remote.address().port(), "").await;
    let bin = world.dir.path().join("bin");
    let entry = r#"{"__REALTIME_TIMESTAMP":"1795600801500000","PRIORITY":"6","CHAPAR_TARGET":"delivery","CHAPAR_EVENT":"attempt","CHAPAR_ID":"a1","CHAPAR_TO":"you@box.example"}"#;
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {}\necho '{entry}'\n",
        bin.join("asked").display()
    );
    world::write(bin.join("journalctl"), &script, 0o755);
    let output = Command::new(world::binary())
        .args([
            "log",
            "--id",
            "a1",
            "--since",
            "2026-11-25T10:00:00Z",
            "--config",
        ])
        .arg(world.config())
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .output()
        .expect("chapar log");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "2026-11-25T10:00:01Z INFO  delivery: attempt id=a1 to=you@box.example\n"
    );
    let asked = std::fs::read_to_string(bin.join("asked")).expect("asked");
    assert_eq!(
        asked.trim_end(),
        "--unit chapar --output json --no-pager --quiet --since 2026-11-25 10:00:00 UTC CHAPAR_ID=a1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_tracing_shows_the_dialogue_and_no_secret() {
    let remote = Mx::start(MxConfig {
        hostname: "mx.box.example".into(),
        starttls: true,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let world = started(&remote).await;
    let watch = |about: &str| {
        let mut child = Command::new(world::binary())
            .args(["trace", "--live", about, "--config"])
            .arg(world.config())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chapar trace");
        // It has begun once it says so.
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr"));
        stderr.read_line(&mut said).expect("line");
        assert!(said.contains("watching connections with"), "{said}");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        (child, out, said)
    };
    let (mut to_box, mut lines_of_box, said) = watch("box.example");
    assert!(said.contains("mx.box.example"), "{said}");
    let (mut to_client, mut lines_of_client, _) = watch("127.0.0.1");
    let mut user = world.user().await;
    let message = b"From: me@example.org\r\nSubject: the subject\r\n\r\nthe body\r\n";
    user.send(USER, &["you@box.example"], message)
        .await
        .expect("accepted");
    arrived(&remote, 1).await;
    let read = |out: &mut BufReader<std::process::ChildStdout>, end: &str| {
        let mut all = String::new();
        while !all.contains(end) {
            assert_ne!(out.read_line(&mut all).expect("line"), 0, "{all}");
        }
        all
    };
    let all = read(&mut lines_of_box, "< 250 2.0.0");
    let peer = format!("mx.box.example[127.0.0.1]:{}", remote.address().port());
    for part in [
        "< 220 ",
        "> EHLO mx.example.org",
        "> STARTTLS",
        "> (TLSv1.3 ",
        "> MAIL FROM:<me@example.org>",
        "> RCPT TO:<you@box.example>",
        "> DATA",
        "< 354 ",
    ] {
        assert!(all.contains(&format!("{peer} {part}")), "{part}: {all}");
    }
    let client = read(&mut lines_of_client, "> 235 ");
    assert!(client.contains("< AUTH PLAIN"), "{client}");
    for text in [all, client] {
        assert!(
            !text.contains("the subject") && !text.contains("the body"),
            "{text}"
        );
        assert!(
            !text.contains("AG1l") && !text.contains("correct horse"),
            "{text}"
        );
    }
    for child in [&mut to_box, &mut to_client] {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_one_screen_that_says_how_the_host_is() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = started(&remote).await;
    remote.on(Stage::Rcpt, |_| Act::reply("450 4.2.0 the box is full"));
    world.run(&["send", "--to", "you@box.example", "--wait", "2s"]);
    let (code, out, error) = world.run(&["status", "--ip", "192.0.2.1"]);
    // Nothing of this domain is in this DNS but its keys.
    assert_eq!(code, 2, "{out}{error}");
    for part in [
        "on mx.example.org: ✓ runs and takes mail",
        "(submission, implicit): answers as mx.example.org with TLS",
        "(mx, starttls): answers as mx.example.org with TLS",
        "! mx.example.org: ",
        " days left)",
        "1 messages wait; since the start 1 accepted, 0 delivered, 1 deferred",
        "     1 for box.example: 450 4.2.0 the box is full",
        "deferred you@box.example: 450 4.2.0 the box is full",
        "✗ example.org: ",
        "✗ spf example.org: ",
        "chapar check example.org tells what to do",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.lines().count() < 40, "{out}");
    let (code, out, _) = world.run(&["status", "--no-dns", "--json"]);
    assert_eq!(code, 1, "a self-signed certificate could be better: {out}");
    let status: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(status["running"], true);
    assert_eq!(status["queue"]["messages"], 1);
    assert_eq!(status["waiting"][0]["domain"], "box.example");
    assert_eq!(status["failures"][0]["event"], "deferred");
    assert_eq!(status["listeners"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["domains"], serde_json::json!([]));
    world.stop().await;
    let (code, out, _) = world.run(&["status", "--no-dns"]);
    assert_eq!(code, 2);
    assert!(
        out.contains("✗ the daemon does not run; systemctl start chapar"),
        "{out}"
    );
    assert!(
        out.contains("nothing answers, because the daemon does not run"),
        "{out}"
    );
}
