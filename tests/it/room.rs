//! The daemon on a small file system that is filled to the last byte (Q2, Q3).

use std::collections::HashMap;
use std::time::Duration;

use chapar::lab::{Act, Client, Mx, MxConfig, Stage, Volume};

use crate::journey::mx;
use crate::world::{PATIENCE, World};

/// Messages under way when the disk is full.
const UNDER_WAY: usize = 300;
/// Lines of a message that fills the journal: below `limits.memory_body`, so that it goes into it.
const LONG: usize = 4000;

/// A world whose data is on a disk of so many MiB and whose MX defers; `None` where nobody mounts.
async fn world(mib: u64) -> Option<(World, Volume, Mx)> {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    remote.on(Stage::Mail, |_| Act::reply("450 4.3.2 come later"));
    let config = "[limits]\nfree_space = \"1MiB\"\nfree_inodes = 0\n[retry]\nfirst = \"1h\"\n";
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    let volume = match Volume::new(&world.data(), mib) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("skipped, no loop file system can be mounted here: {error}");
            return None;
        }
    };
    world.start().await;
    Some((world, volume, remote))
}

/// Sends one message of so many lines; the code of the answer.
async fn send(client: &mut Client, subject: &str, lines: usize) -> u16 {
    let line = "0123456789 0123456789 0123456789 0123456789\r\n";
    let body = line.repeat(lines);
    let text = format!("From: a@c.example.net\r\nSubject: {subject}\r\n\r\n{body}");
    let sent = client.send("", &["any@example.org"], text.as_bytes()).await;
    sent.expect("an answer").code
}

/// Fills the disk and then the journal, until mail is refused; how many messages were taken.
async fn fill(client: &mut Client, volume: &Volume) -> usize {
    let mut taken = 0;
    loop {
        volume.fill().expect("filled");
        match send(client, &format!("long {taken}"), LONG).await {
            250 => taken += 1,
            code => {
                assert_eq!(code, 452);
                return taken;
            }
        }
        assert!(taken < 1000, "it is never full");
    }
}

/// Waits until mail is taken again.
async fn until_taken(client: &mut Client) {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match send(client, "again", 1).await {
            250 => return,
            code => assert_eq!(code, 452),
        }
        assert!(tokio::time::Instant::now() < until, "mail stays refused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tool(world: &World, arguments: &[&str]) -> String {
    let (code, out, err) = world.run(&[&["queue"], arguments].concat());
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

/// How often each message came, by its subject.
fn received(remote: &Mx) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for message in remote.received() {
        let text = String::from_utf8_lossy(&message.data).into_owned();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
        *counts
            .entry(subject.expect("a subject").to_owned())
            .or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_i7_a_disk_filled_to_the_last_byte_answers_452_delivers_and_heals_by_itself() {
    let Some((mut world, volume, remote)) = world(64).await else {
        return;
    };
    let mut client = world.mx().await;
    for number in 0..20 {
        assert_eq!(send(&mut client, &format!("short {number}"), 1).await, 250);
    }
    let long = fill(&mut client, &volume).await;
    let listed = world.queue();
    assert_eq!(listed.len(), 20 + long);
    let first = listed[0]["id"].as_str().expect("an id");
    assert_eq!(tool(&world, &["remove", first]), "1 recipient removed\n");
    tool(&world, &["show", listed[1]["id"].as_str().expect("an id")]);
    // What can be recorded is delivered.
    remote.behave();
    tool(&world, &["replay", "all"]);
    world.wait_queue("all is delivered", <[_]>::is_empty).await;
    let counts = received(&remote);
    assert_eq!(counts.len(), 19 + long);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    // A start on the full disk serves, refuses and heals.
    volume.fill().expect("filled");
    world.stop().await;
    volume.fill().expect("filled");
    world.start().await;
    assert!(world.queue().is_empty());
    volume.drain().expect("drained");
    let mut client = world.mx().await;
    until_taken(&mut client).await;
    world.stop().await;
    let condemned: Vec<_> = std::fs::read_dir(world.data())
        .expect("data")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("index."))
        .collect();
    assert_eq!(condemned, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_i3_what_is_under_way_on_a_full_disk_is_not_delivered_again_after_a_restart() {
    let Some((mut world, volume, remote)) = world(64).await else {
        return;
    };
    let mut client = world.mx().await;
    for number in 0..UNDER_WAY {
        assert_eq!(send(&mut client, &format!("short {number}"), 1).await, 250);
    }
    let all = UNDER_WAY + fill(&mut client, &volume).await;
    remote.behave();
    tool(&world, &["replay", "all"]);
    tokio::time::timeout(PATIENCE, remote.wait(all))
        .await
        .unwrap_or_else(|_| panic!("{} of {all} came", remote.taken()));
    volume.fill().expect("filled");
    assert_eq!(world.stop().await, Some(0));
    volume.fill().expect("filled");
    world.start().await;
    tool(&world, &["replay", "all"]);
    world.wait_queue("nothing is left", <[_]>::is_empty).await;
    let counts = received(&remote);
    let again: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(counts.len(), all);
    world.stop().await;
}
