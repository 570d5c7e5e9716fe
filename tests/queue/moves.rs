//! Messages that move to another queue: each goes whole or not at all, and is taken once.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Output, Stdio};
use std::sync::Arc;

use chapar::queue::{Claim, Claimed, Outcome, Steer, Verb};
use queue_schema::{Message, Origin, QueueId};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::support::*;
use crate::tool::{command, fails, objects, tool, words};

fn slow(config: &mut chapar::config::Config) {
    config.retry.first = "1h".parse().unwrap();
}

/// A daemon with so many messages that were deferred once.
async fn with_deferred(
    count: usize,
) -> (World, actix::Addr<chapar::control::Control>, Vec<QueueId>) {
    let mut world = World::start(slow).await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let mut ids = Vec::new();
    for n in 0..count {
        let to = format!("u{n}@example.net");
        ids.push(world.accept(&[&to]).await);
        let job = world.job().await;
        world.report(&job, deferred(true), 450).await;
    }
    world
        .until("all are deferred", |all| {
            all.len() == count && all.iter().all(|one| one.states[0].attempts == 1)
        })
        .await;
    (world, control, ids)
}

async fn empty() -> (World, actix::Addr<chapar::control::Control>) {
    let world = World::start(slow).await;
    let control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    (world, control)
}

async fn steer(world: &World, verb: Verb, id: QueueId) -> u64 {
    let steer = Steer {
        verb,
        targets: vec![(id, vec![0])],
        by: "root".into(),
        manner: Default::default(),
    };
    world.handle().addr.send(steer).await.unwrap().unwrap()
}

fn dir(world: &World, name: &str) -> String {
    world.data(&format!("../{name}")).display().to_string()
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A client of the control socket that stays.
struct Client(tokio::io::BufReader<tokio::net::UnixStream>);

impl Client {
    async fn new(world: &World) -> Client {
        let path = chapar::control::socket(&world.config.data_dir);
        let stream = tokio::net::UnixStream::connect(path).await.unwrap();
        Client(tokio::io::BufReader::new(stream))
    }

    /// All answers to a request.
    async fn ask(&mut self, request: Value) -> Vec<Value> {
        let line = format!("{request}\n");
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            let last = answer.get("end").is_some() || answer.get("error").is_some();
            answers.push(answer);
            if last {
                return answers;
            }
        }
    }

    async fn claim(&mut self, id: QueueId) -> Vec<Value> {
        let request = serde_json::json!({ "ask": "claim", "id": id.to_string() });
        self.ask(request).await
    }

    async fn hand_over(&mut self, id: QueueId) -> Vec<Value> {
        let ids = [id.to_string()];
        let request = serde_json::json!({ "ask": "handover", "ids": ids, "by": "test" });
        self.ask(request).await
    }
}

#[actix::test]
async fn q6_export_remove_by_state_moves_what_it_means_and_holds_nothing() {
    let (mut from, control, ids) = with_deferred(3).await;
    assert_eq!(steer(&from, Verb::Hold, ids[2]).await, 1);
    let place = dir(&from, "moved");
    let told = words(
        &from,
        &["export", &place, "--state", "deferred", "--remove"],
    )
    .await;
    let expected = format!("2 messages written to {place} and removed from this queue\n");
    assert_eq!(told, expected);
    let left = from.messages().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, ids[2]);
    assert_eq!(read(&format!("{place}/{}.json", ids[0]))["held"], false);
    // One that was held is written so.
    words(&from, &["export", &place, "all", "--remove"]).await;
    assert_eq!(read(&format!("{place}/{}.json", ids[2]))["held"], true);
    assert!(from.messages().await.is_empty());
    let names: Vec<String> = std::fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 6, "nothing half is left: {names:?}");

    let (mut to, other) = empty().await;
    words(&to, &["import", &place]).await;
    let now = chapar::time::now();
    let all = to.messages().await;
    let held: Vec<bool> = all.iter().map(|one| one.states[0].is_held(now)).collect();
    assert_eq!(held, [false, false, true]);
    drop((control, other));
    from.stop().await;
    to.stop().await;
}

#[actix::test]
async fn q6_the_store_alone_is_exported_as_well() {
    let (mut from, control, _) = with_deferred(2).await;
    drop(control);
    from.stop().await;
    from.no_daemon();
    let place = dir(&from, "moved");
    let told = words(
        &from,
        &["export", &place, "--state", "deferred", "--remove"],
    )
    .await;
    assert!(told.starts_with("2 messages written to "), "{told}");
    from.open().await;
    assert!(from.messages().await.is_empty());
    from.stop().await;
}

/// Starts an export and returns it once it waits for what is being delivered.
async fn waiting(world: &World, place: &str) -> std::process::Child {
    let mut export = command(world, &["export", place, "all", "--remove"]);
    let started = tokio::task::spawn_blocking(move || {
        let mut child = export
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Byte by byte: what follows the line is for `wait_with_output`.
        let mut line = Vec::new();
        let error = child.stderr.as_mut().unwrap();
        let mut byte = [0];
        while error.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        (child, String::from_utf8(line).unwrap())
    });
    let (child, line) = started.await.unwrap();
    let expected = "mta-queue: 1 messages are being delivered; waiting for them";
    assert_eq!(line, expected);
    child
}

async fn ended(child: std::process::Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

#[actix::test]
async fn q6_what_is_under_way_is_waited_for_and_goes_as_it_is_then() {
    let (mut world, _control) = empty().await;
    let id = world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    let place = dir(&world, "moved");
    let child = waiting(&world, &place).await;
    world.report(&job, deferred(true), 450).await;
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(0));
    let described = read(&format!("{place}/{id}.json"));
    assert_eq!(described["states"][0]["attempts"], 1);
    assert!(world.messages().await.is_empty());

    // What is delivered meanwhile has not been moved, and leaves no file.
    let id = world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    let child = waiting(&world, &place).await;
    world.report(&job, Outcome::Delivered, 250).await;
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(0));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("it has ended meanwhile"), "{error}");
    assert!(!std::path::Path::new(&format!("{place}/{id}.json")).exists());
    world.stop().await;
}

#[actix::test]
async fn q6_a_client_that_goes_away_leaves_everything_as_it_was() {
    let (mut world, _control, ids) = with_deferred(1).await;
    let mut client = Client::new(&world).await;
    let answers = client.claim(ids[0]).await;
    assert_eq!(answers[0]["message"]["id"], ids[0].to_string());
    assert_eq!(answers.last().unwrap()["end"], 1);
    // It is not tried while it is given out, though it is due; nobody else gets it.
    assert_eq!(steer(&world, Verb::Replay, ids[0]).await, 1);
    world.no_job().await;
    let mut other = Client::new(&world).await;
    let answers = other.claim(ids[0]).await;
    assert_eq!(answers[0]["skipped"]["stays"], "busy");
    assert_eq!(answers[1]["end"], 0);
    let answers = other.hand_over(ids[0]).await;
    assert_eq!(answers[1]["end"], 0, "it is not his: {answers:?}");
    drop(client);
    let job = world.job().await;
    assert_eq!(job.message.id, ids[0]);
    world.stop().await;
}

#[actix::test]
async fn q6_a_message_that_was_changed_after_it_was_written_stays_as_it_is() {
    let (mut world, _control, ids) = with_deferred(2).await;
    let mut client = Client::new(&world).await;
    for id in &ids {
        client.claim(*id).await;
    }
    assert_eq!(steer(&world, Verb::Hold, ids[0]).await, 1);
    let answers = client.hand_over(ids[0]).await;
    assert_eq!(answers[0]["skipped"]["stays"], "changed");
    assert_eq!(answers[1]["end"], 0);
    assert_eq!(client.hand_over(ids[1]).await[0]["end"], 1);
    let all = world.messages().await;
    assert_eq!(all.len(), 1);
    assert!(all[0].id == ids[0] && all[0].states[0].is_held(chapar::time::now()));
    world.stop().await;
}

#[actix::test]
async fn q6_a_restart_forgets_claims() {
    let (mut world, control, ids) = with_deferred(1).await;
    drop(control);
    let claim = Claim {
        id: ids[0],
        owner: 7,
        wait: false,
    };
    let claimed = world.handle().addr.send(claim).await.unwrap().unwrap();
    assert!(matches!(claimed, Claimed::Given(message) if message.id == ids[0]));
    assert_eq!(steer(&world, Verb::Replay, ids[0]).await, 1);
    world.no_job().await;
    world.restart().await;
    assert_eq!(world.job().await.message.id, ids[0]);
    world.stop().await;
}

#[actix::test]
async fn q6_one_message_that_can_not_be_read_costs_no_other() {
    let (mut world, _control, ids) = with_deferred(3).await;
    let all = world.messages().await;
    let location = all
        .iter()
        .find(|one| one.id == ids[1])
        .unwrap()
        .location
        .clone();
    let segment = world
        .data("journal")
        .join(format!("{:012}.journal", location.segment));
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    let last = location.offset + u64::from(location.length) - 3;
    file.write_all_at(b"X", last).unwrap();
    let place = dir(&world, "moved");
    let output = tool(&world, &["export", &place, "all", "--remove"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{error}");
    assert!(
        error.contains("1 messages can not be read and stay"),
        "{error}"
    );
    assert!(error.contains(&ids[1].to_string()), "{error}");
    // It ends here, since nobody can read it any more, and its sender is told (Q13).
    world
        .until("what is left tells of it", |all| {
            let tells = |one: &Arc<Message>| {
                matches!(one.origin, Origin::Dsn { about, .. } if about == ids[1])
            };
            !all.is_empty() && all.iter().all(tells)
        })
        .await;
    world.stop().await;
}

#[actix::test]
async fn q6_files_that_can_not_be_written_cost_nothing() {
    let (mut world, _control, ids) = with_deferred(2).await;
    let place = dir(&world, "moved");
    // Where the second file is to be there is a directory.
    std::fs::create_dir_all(format!("{place}/{}.eml", ids[1])).unwrap();
    fails(&world, &["export", &place, "all", "--remove"], 74, "").await;
    assert_eq!(world.messages().await.len(), 2);
    assert!(!std::path::Path::new(&format!("{place}/{}.json", ids[0])).exists());
    assert_eq!(
        words(&world, &["replay", "all"]).await,
        "2 recipients due now\n"
    );
    world.job().await;
    world.job().await;
    world.stop().await;
}

#[actix::test]
async fn q7_importing_twice_changes_nothing_also_after_a_restart_and_the_end() {
    let (mut from, control, ids) = with_deferred(2).await;
    let place = dir(&from, "moved");
    words(&from, &["export", &place, "all"]).await;
    let (mut to, mut there) = empty().await;
    let first = objects(&to, &["import", &place, "--json"]).await;
    assert_eq!(first.len(), 2);
    assert_eq!(first[0]["was"], ids[0].to_string());
    assert_eq!(first[0]["before"], false);
    let again = objects(&to, &["import", &place, "--json"]).await;
    assert_eq!(again[0]["before"], true);
    assert_eq!(again[0]["id"], first[0]["id"]);
    assert_eq!(to.messages().await.len(), 2);
    // After a restart, after they have ended, and on the store alone.
    words(&to, &["remove", "all"]).await;
    drop(there);
    to.restart().await;
    there = chapar::control::start(&to.config.data_dir, to.handle().clone()).unwrap();
    let told = words(&to, &["import", &place]).await;
    assert!(
        told.ends_with("0 messages imported (2 were taken before)\n"),
        "{told}"
    );
    drop(there);
    to.stop().await;
    to.no_daemon();
    let told = words(&to, &["import", &place]).await;
    assert!(
        told.ends_with("0 messages imported (2 were taken before)\n"),
        "{told}"
    );
    // Unless somebody says so.
    let told = words(&to, &["import", &place, "--again"]).await;
    assert!(told.ends_with("2 messages imported\n"), "{told}");
    drop(control);
    from.stop().await;
}

#[actix::test]
async fn q7_two_who_import_the_same_at_once_take_it_once() {
    let (mut from, control, _) = with_deferred(8).await;
    let place = dir(&from, "moved");
    words(&from, &["export", &place, "all"]).await;
    let (mut to, _there) = empty().await;
    let mut running = Vec::new();
    for _ in 0..3 {
        let mut import = command(&to, &["import", &place]);
        running.push(tokio::task::spawn_blocking(move || import.output()));
    }
    let mut taken = 0;
    for one in running {
        let output = one.await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        taken += text.lines().filter(|line| line.ends_with(" here")).count();
    }
    assert_eq!(taken, 8);
    assert_eq!(to.messages().await.len(), 8);
    drop(control);
    from.stop().await;
    to.stop().await;
}

#[actix::test]
async fn q7_a_due_time_of_a_file_is_clamped() {
    let (mut from, control, ids) = with_deferred(1).await;
    let place = dir(&from, "moved");
    words(&from, &["export", &place, "all"]).await;
    let json = format!("{place}/{}.json", ids[0]);
    let mut described = read(&json);
    let year = chapar::time::now() + 365 * 86_400_000;
    described["states"][0]["next_due"] = year.into();
    std::fs::write(&json, described.to_string()).unwrap();
    let (mut to, _there) = empty().await;
    words(&to, &["import", &place]).await;
    let all = to.messages().await;
    let longest = to.config.retry.longest.0.as_millis() as u64;
    let latest = chapar::time::now() + longest;
    assert!(
        all[0].states[0].next_due <= latest,
        "{:?}",
        all[0].states[0]
    );
    assert!(all[0].states[0].next_due > latest - 60_000);
    drop(control);
    from.stop().await;
    to.stop().await;
}

/// `mta-queue export - all` into a file.
async fn stream(world: &World, arguments: &[&str]) -> (String, Output) {
    let path = dir(world, "queue.tar");
    let file = std::fs::File::create(&path).unwrap();
    let mut export = command(world, arguments);
    export.stdout(file);
    let output = tokio::task::spawn_blocking(move || export.output());
    (path, output.await.unwrap().unwrap())
}

/// `mta-queue import -` from a file.
async fn import(world: &World, path: &str) -> Output {
    let mut import = command(world, &["import", "-"]);
    import.stdin(std::fs::File::open(path).unwrap());
    let output = tokio::task::spawn_blocking(move || import.output());
    output.await.unwrap().unwrap()
}

#[actix::test]
async fn a_stream_moves_a_queue_and_importing_it_twice_changes_nothing() {
    let (mut from, control, ids) = with_deferred(3).await;
    let (path, output) = stream(&from, &["export", "-", "all", "--remove"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(
        error.contains("3 messages written to standard output and removed"),
        "{error}"
    );
    assert!(from.messages().await.is_empty());
    let mut archive = tar::Archive::new(std::fs::File::open(&path).unwrap());
    let mut names = Vec::new();
    let mut manifest = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        names.push(entry.path().unwrap().display().to_string());
        if names.last().unwrap() == "manifest" {
            entry.read_to_string(&mut manifest).unwrap();
        }
    }
    assert_eq!(names.len(), 7);
    assert_eq!(names[0], format!("{}.json", ids[0]));
    assert_eq!(names[1], format!("{}.eml", ids[0]));
    let lines: Vec<Value> = BufReader::new(manifest.as_bytes())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(lines[0]["messages"], 3);
    assert_eq!(lines[1]["id"], ids[0].to_string());
    assert_eq!(lines[1]["sha256"].as_str().unwrap().len(), 64);

    let (mut to, _there) = empty().await;
    for (taken, before) in [(3, ""), (0, " (3 were taken before)")] {
        let output = import(&to, &path).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(
            said.ends_with(&format!("{taken} messages imported{before}\n")),
            "{said}"
        );
        assert_eq!(to.messages().await.len(), 3);
    }
    drop(control);
    from.stop().await;
    to.stop().await;
}

#[actix::test]
async fn a_stream_that_was_cut_off_is_noticed_and_says_what_was_taken() {
    let (mut from, control, _) = with_deferred(3).await;
    let (path, _) = stream(&from, &["export", "-", "all"]).await;
    assert_eq!(from.messages().await.len(), 3);
    let whole = std::fs::read(&path).unwrap();
    let (mut to, _there) = empty().await;
    let manifest = whole.windows(8).position(|at| at == b"manifest").unwrap();
    // In the middle of the second message, between two files, before the manifest and in it.
    for length in [3 * 512 + 100, 5 * 512 + 10, manifest, manifest + 600] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let output = import(&to, &path).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{length}: {error}");
        assert!(error.contains("cut off"), "{length}: {error}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(import(&to, &path).await.status.success());
    assert_eq!(to.messages().await.len(), 3);

    // A bit that flipped on the way: that message is refused, the others are taken.
    let (mut other, _there) = empty().await;
    let mut flipped = whole.clone();
    let body = flipped.windows(8).position(|at| at == b"the body").unwrap();
    flipped[body] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let output = import(&other, &path).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{error}");
    assert!(error.contains("not those that were exported"), "{error}");
    assert_eq!(other.messages().await.len(), 2);
    drop(control);
    from.stop().await;
    to.stop().await;
    other.stop().await;
}

#[actix::test]
async fn a_stream_that_is_removed_from_here_must_be_a_file() {
    let (mut world, _control, _) = with_deferred(1).await;
    let says = "standard output is no file";
    fails(&world, &["export", "-", "all", "--remove"], 64, says).await;
    fails(
        &world,
        &["export", "-", "all", "--json"],
        64,
        "leave out --json",
    )
    .await;
    assert_eq!(world.messages().await.len(), 1);
    world.stop().await;
}
