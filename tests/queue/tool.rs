//! `mta-queue`, the program itself: over the socket while a daemon runs, on the store otherwise.

use std::process::{Command, Output};

use chapar::queue::Outcome;
use serde_json::Value;

use crate::support::*;

/// Runs `mta-queue` beside the daemon of this test.
pub async fn tool(world: &World, arguments: &[&str]) -> Output {
    let mut command = command(world, arguments);
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

/// `mta-queue` with these arguments, not yet started.
pub fn command(world: &World, arguments: &[&str]) -> Command {
    let config = world.data("../chapar.toml");
    let text = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n[limits]\nfree_space = \"0\"\n";
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mta-queue"));
    command.arg("--config").arg(config).args(arguments);
    command.env("USER", "anna").env_remove("SUDO_USER");
    command.env_remove("COLUMNS");
    command
}

pub async fn objects(world: &World, arguments: &[&str]) -> Vec<Value> {
    let output = tool(world, arguments).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub async fn words(world: &World, arguments: &[&str]) -> String {
    let output = tool(world, arguments).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub async fn fails(world: &World, arguments: &[&str], code: i32, says: &str) {
    let output = tool(world, arguments).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(says), "{error}");
}

/// Three recipients: one deferred, one in delivery, one held.
async fn filled(world: &mut World) -> [String; 2] {
    let first = world.accept(&["b@example.net", "c@example.com"]).await;
    let job = world.job().await;
    world.report_of(&job, &[0], deferred(true), 450).await;
    let second = world.accept(&["d@example.net"]).await;
    world.job().await;
    world
        .until("it is deferred", |all| {
            all.len() == 2 && all[0].states[0].attempts == 1
        })
        .await;
    [first.to_string(), second.to_string()]
}

/// Everything that must be the same with a daemon and without one.
async fn looks(world: &World, ids: &[String; 2]) {
    let all = objects(world, &["list", "--json"]).await;
    let brief: Vec<_> = all
        .iter()
        .map(|o| [&o["id"], &o["from"], &o["to"], &o["state"]].map(|v| v.as_str().unwrap()))
        .collect();
    let from = "a@example.org";
    assert_eq!(
        brief,
        [
            [&ids[0], from, "b@example.net", "deferred"],
            [&ids[0], from, "c@example.com", "queued"],
            [&ids[1], from, "d@example.net", "queued"],
        ]
    );
    assert_eq!(all[0]["attempts"], 1);
    assert_eq!(all[0]["last_reply"], "450 said 450");
    assert_eq!(all[0]["remote"], "mx.example.net[192.0.2.1]:25");
    assert!(
        all[0]["next_due"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok()
    );
    assert_eq!(
        (&all[1]["attempts"], &all[1]["last_reply"]),
        (&0.into(), &Value::Null)
    );

    let some = objects(
        world,
        &["list", "--json", "--domain", "example.net", "--reply", "^4"],
    )
    .await;
    assert_eq!(some.len(), 1);
    let mut shown = objects(world, &["show", &ids[0], "--json"]).await;
    for object in &mut shown {
        let object = object.as_object_mut().unwrap();
        assert_eq!(object.remove("signed_by"), Some(Value::Array(Vec::new())));
        assert!(object.remove("events").unwrap().is_array());
    }
    assert_eq!(shown, all[..2]);
    assert_eq!(
        words(world, &["cat", &ids[1]]).await,
        "Subject: hello\r\n\r\nthe body\r\n"
    );
    let rows = objects(world, &["summary", "--json"]).await;
    assert_eq!(
        (&rows[0]["domain"], &rows[0]["total"]),
        (&"example.net".into(), &2.into())
    );

    let table = words(world, &["list"]).await;
    assert!(
        table.contains("LAST REPLY") && table.contains("450 said 450"),
        "{table}"
    );
    assert!(
        words(world, &["show", &ids[0]])
            .await
            .contains("reply   450 said 450")
    );
    assert!(words(world, &["summary"]).await.contains("example.com"));
    let count = words(world, &["remove", "all", "--dry-run"]).await;
    assert!(
        count.ends_with("3 recipients would be removed\n"),
        "{count}"
    );

    fails(
        world,
        &["show", "0000000000001"],
        66,
        "no message 0000000000001",
    )
    .await;
    fails(world, &["cat", "nonsense"], 65, "13 letters").await;
    fails(
        world,
        &["list", "--state", "waiting"],
        65,
        "queued, deferred",
    )
    .await;
    fails(world, &["remove"], 64, "say which").await;
    fails(world, &["frobnicate"], 64, "frobnicate").await;
}

#[actix::test]
async fn the_tool_over_the_socket() {
    let mut world = World::start(|config| config.retry.first = "1h".parse().unwrap()).await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let ids = filled(&mut world).await;
    looks(&world, &ids).await;

    let told = words(&world, &["replay", "--state", "deferred"]).await;
    assert_eq!(told, "1 recipient due now\n");
    let job = world.job().await;
    assert_eq!(
        (job.message.id.to_string(), &job.recipients[..]),
        (ids[0].clone(), &[0][..])
    );
    assert_eq!(
        words(&world, &["hold", "--domain", "example.com"]).await,
        "1 recipient held\n"
    );
    assert_eq!(
        words(&world, &["release", &ids[0]]).await,
        "1 recipient released\n"
    );
    let touched = objects(&world, &["remove", &ids[0], "--json"]).await;
    assert_eq!(touched.len(), 2);
    assert_eq!(objects(&world, &["list", "--json"]).await.len(), 1);
    world.report(&job, Outcome::Failed, 550).await;
    world.no_job().await;
    drop(control);
    world.stop().await;
}

#[actix::test]
async fn the_tool_on_a_store_that_no_daemon_uses() {
    let mut world = World::start(|config| config.retry.first = "1h".parse().unwrap()).await;
    let ids = filled(&mut world).await;
    fails(&world, &["list"], 69, "in use by another process").await;
    world.stop().await;
    looks(&world, &ids).await;
    assert_eq!(
        words(&world, &["replay", &ids[0]]).await,
        "1 recipient due now\n"
    );
    assert_eq!(
        words(&world, &["remove", &ids[1]]).await,
        "1 recipient removed\n"
    );
    world.open().await;
    world.connect().await;
    let job = world.job().await;
    assert_eq!(
        (job.message.id.to_string(), &job.recipients[..]),
        (ids[0].clone(), &[0, 1][..])
    );
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn looking_at_a_queue_that_never_was_makes_none() {
    let world = World::new(|_| {});
    std::fs::create_dir_all(world.data("")).unwrap();
    assert_eq!(words(&world, &["list"]).await, "Nothing.\n");
    assert!(objects(&world, &["summary", "--json"]).await.is_empty());
    fails(&world, &["show", "0000000000001"], 66, "no daemon has run").await;
    assert_eq!(std::fs::read_dir(world.data("")).unwrap().count(), 0);
}

#[actix::test]
async fn nonsense_on_the_socket_costs_only_its_sender() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut world = World::start(|_| {}).await;
    let path = chapar::control::socket(&world.config.data_dir);
    std::fs::write(&path, b"left by a process that was killed").unwrap();
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    for nonsense in [b"{}\n".to_vec(), b"\xff\xfe\n".to_vec(), vec![b'['; 70_000]] {
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let _ = client.write_all(&nonsense).await;
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        let said = String::from_utf8(said).unwrap();
        assert!(
            said.is_empty() || said.starts_with("{\"error\":{\"kind\":\"wrong\""),
            "{said}"
        );
    }
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    for _ in 0..2 {
        client
            .write_all(b"{\"ask\":\"list\",\"selector\":{}}\n")
            .await
            .unwrap();
        let mut said = [0; 8];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"{\"end\":0");
        client.read_exact(&mut [0; 2]).await.unwrap();
    }
    drop(silent);
    world.stop().await;
}

/// A daemon has the store before it has its socket: its ports answer, and the tool is asked.
#[actix::test]
async fn q18_the_tool_waits_for_a_daemon_that_is_still_starting() {
    let mut world = World::start(|config| config.retry.first = "1h".parse().unwrap()).await;
    filled(&mut world).await;
    let later = async {
        // What the rest of a start takes.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap()
    };
    let asked = ["list", "--json"];
    let (listed, control) = tokio::join!(objects(&world, &asked), later);
    assert_eq!(listed.len(), 3);
    drop(control);
    world.stop().await;
}

#[actix::test]
async fn a_store_on_a_disk_that_can_only_be_read_is_listed_shown_read_and_exported() {
    let mut world = World::new(|_| {});
    let at = world.data("../disk");
    let volume = match chapar::lab::Volume::new(&at, 32) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("skipped, no loop file system can be mounted here: {error}");
            return;
        }
    };
    world.config.data_dir = at.join("data");
    world.open().await;
    let id = world.accept(&["b@example.net"]).await.to_string();
    world.stop().await;
    volume.remount("ro").unwrap();
    let config = at.with_file_name("read.toml");
    let text = "hostname = \"mx.example.org\"\ndata_dir = \"disk/data\"\n";
    std::fs::write(&config, text).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mta-queue"));
        command.arg("--config").arg(&config).args(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            said,
        )
    };
    let (code, listed, said) = run(&["list", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        listed.contains(&id) && listed.lines().count() == 1,
        "{listed}"
    );
    assert!(said.contains("the queue is read as it is"), "{said}");
    let (code, text, said) = run(&["cat", &id]);
    assert_eq!(
        (code, &text[..]),
        (Some(0), "Subject: hello\r\n\r\nthe body\r\n"),
        "{said}"
    );
    assert!(run(&["show", &id]).1.contains("b@example.net"));
    let out = at.with_file_name("out");
    let (code, _, said) = run(&["export", out.to_str().unwrap(), "all"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = run(&["remove", &id]);
    assert!(
        code != Some(0) && said.contains("Read-only"),
        "{code:?} {said}"
    );
    volume.remount("rw").unwrap();
    drop(volume);
}
