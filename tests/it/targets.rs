//! Local targets under the real binary: what the system calls say of a Maildir, what a crash leaves
//! of one, and how much memory a large message takes on its way.

use std::path::Path;
use std::process::Command;

use chapar::lab::{Mx, MxConfig};
use serde_json::Value;

use crate::world::{PATIENCE, USER, World, binary, write};

/// A world with a Maildir for a@dir.example and a program for everybody at pipe.example, which
/// writes to a file `out`.
async fn world() -> World {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = World::new(remote.address().port(), "").await;
    let root = world.dir.path().display();
    let routes = format!(
        "\n[[route]]\nto = \"dir.example\"\nvia = \"maildir:{root}/box/{{local}}\"\n\
         \n[[route]]\nto = \"pipe.example\"\nvia = 'pipe:/bin/sh -c \"cat >{root}/out\"'\n"
    );
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    std::fs::write(world.config(), config + &routes).expect("written");
    world
}

async fn send(world: &World, to: &[&str], body: &str) {
    let message = format!("From: {USER}\r\nSubject: x\r\n\r\n{body}");
    let mut user = world.user().await;
    let reply = user.send(USER, to, message.as_bytes()).await;
    assert_eq!(reply.expect("a reply").code, 250);
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_on_disk_before_a_maildir_shows_it_and_so_is_the_directory() {
    let mut world = world().await;
    let trace = world.dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-s", "64", "-e"])
        .arg("trace=openat,write,fsync,fdatasync,link,linkat,rename,renameat2,unlink,unlinkat")
        .arg("-o")
        .arg(&trace)
        .arg(binary());
    world.start_with(strace).await;
    send(&world, &["a@dir.example"], "body\r\n").await;
    world
        .wait_queue("it is delivered", <[Value]>::is_empty)
        .await;
    world.stop().await;
    let new = names(&world.dir.path().join("box/a/new"));
    let [name] = &new[..] else { panic!("{new:?}") };
    let unique = name.split_once(",S=").expect("a size").0;
    let trace = std::fs::read(&trace).expect("trace");
    // One thread does it all: it begins a call when the one before has ended.
    let said: Vec<String> = String::from_utf8_lossy(&trace)
        .lines()
        .filter(|line| line.contains("/box/a/") && !line.contains("ENOENT"))
        .map(|line| line.replace(name, "NAME,S=").replace(unique, "NAME"))
        .collect();
    let at = |what: &str, parts: &[&str]| {
        let fits = |line: &String| parts.iter().all(|part| line.contains(part));
        let at = said.iter().position(fits);
        at.unwrap_or_else(|| panic!("no {what}: {said:#?}"))
    };
    let order = [
        at(
            "file",
            &["openat(", "/tmp/NAME\"", "O_CREAT|O_EXCL", "0600"],
        ),
        at("content", &["write(", "/tmp/NAME>"]),
        at("sync of it", &["fsync(", "/tmp/NAME>"]),
        at("link", &["link", "/tmp/NAME\"", "/new/NAME,S=\""]),
        at("end in tmp", &["unlink", "/tmp/NAME\""]),
        at("sync of the directory", &["fsync(", "/box/a/new>"]),
    ];
    assert!(order.is_sorted(), "{said:#?}");
}

/// The delivery ended, its record did not: after the restart it is repeated and finds itself.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_repeated_after_a_crash_adds_no_second_file() {
    let mut world = world().await;
    world.start_to_crash("before-record-sync").await;
    let message = format!("From: {USER}\r\nSubject: x\r\n\r\nbody\r\n");
    let mut user = world.user().await;
    let _ = user
        .send(USER, &["a@dir.example"], message.as_bytes())
        .await;
    world.stop_waiting().await;
    let new = world.dir.path().join("box/a/new");
    let before = names(&new);
    assert_eq!(before.len(), 1, "it was delivered");
    // A reader is quick.
    let seen = new.with_file_name("cur").join(format!("{}:2,", before[0]));
    std::fs::rename(new.join(&before[0]), &seen).expect("moved");
    world.start().await;
    world
        .wait_queue("it is recorded", <[Value]>::is_empty)
        .await;
    assert!(names(&new).is_empty() && seen.exists());
    world.stop().await;
}

/// A world whose pipe.example is a program that writes down whom it serves, and that stays with r5
/// until there is a file `go`.
async fn slow_program() -> World {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = World::new(remote.address().port(), "").await;
    let root = world.dir.path().display();
    let script = world.dir.path().join("program");
    let text = format!(
        "#!/bin/sh\ncat >/dev/null\necho \"$LOCAL\" >>{root}/out\n\
         if [ \"$LOCAL\" = r5 ]; then\n  while [ ! -e {root}/go ]; do sleep 0.05; done\nfi\n"
    );
    write(script.clone(), &text, 0o755);
    let route = format!(
        "\n[[route]]\nto = \"pipe.example\"\nvia = \"pipe:{}\"\n",
        script.display()
    );
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    std::fs::write(world.config(), config + &route).expect("written");
    world
}

/// Whom the program served so far.
fn served(world: &World) -> Vec<String> {
    let out = std::fs::read_to_string(world.dir.path().join("out")).unwrap_or_default();
    out.lines().map(str::to_owned).collect()
}

/// Sends to r0 to r9 and waits until the program is at r5.
async fn half_way(world: &World) {
    let to: Vec<String> = (0..10).map(|n| format!("r{n}@pipe.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    send(world, &to, "body\r\n").await;
    let waited = tokio::time::timeout(PATIENCE, async {
        while served(world).len() < 6 {
            // A program of the test's own has no other way to tell.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("six were served");
    assert_eq!(served(world), ["r0", "r1", "r2", "r3", "r4", "r5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_crash_repeats_the_program_that_ran_and_none_that_had_ended() {
    let mut world = slow_program().await;
    world.start().await;
    half_way(&world).await;
    world.kill();
    std::fs::write(world.dir.path().join("go"), "").expect("written");
    world.start().await;
    world
        .wait_queue("all are served", <[Value]>::is_empty)
        .await;
    let expected = [
        "r0", "r1", "r2", "r3", "r4", "r5", "r5", "r6", "r7", "r8", "r9",
    ];
    assert_eq!(served(&world), expected);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_stop_lets_the_program_end_and_begins_no_other() {
    let mut world = slow_program().await;
    world.start().await;
    half_way(&world).await;
    world.daemon().signal("TERM");
    world.daemon().event_containing("daemon", "stopping").await;
    std::fs::write(world.dir.path().join("go"), "").expect("written");
    assert_eq!(world.stop_waiting().await, Some(0));
    assert_eq!(served(&world), ["r0", "r1", "r2", "r3", "r4", "r5"]);
    world.start().await;
    world
        .wait_queue("all are served", <[Value]>::is_empty)
        .await;
    let expected = ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9"];
    assert_eq!(served(&world), expected);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_takes_no_more_memory_than_a_small_one() {
    let mut world = world().await;
    world.start().await;
    let line = "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789\r\n";
    let to = ["a@dir.example", "b@pipe.example"];
    // The first shows what it takes at all.
    send(&world, &to, &line.repeat(20_000)).await;
    world
        .wait_queue("it is delivered", <[Value]>::is_empty)
        .await;
    let before = peak(&world);
    let body = line.repeat(600_000);
    tokio::time::timeout(PATIENCE * 4, send(&world, &to, &body))
        .await
        .expect("in time");
    world
        .wait_queue("it is delivered", <[Value]>::is_empty)
        .await;
    let more = peak(&world).saturating_sub(before);
    let bytes = body.len() / 1024;
    assert!(
        more < bytes / 3,
        "{more} KiB more for a message of {bytes} KiB"
    );
    let body = body.replace("\r\n", "\n");
    let out = std::fs::read(world.dir.path().join("out")).expect("read");
    assert!(out.ends_with(body.as_bytes()));
    let new = world.dir.path().join("box/a/new");
    let sizes = names(&new)
        .into_iter()
        .map(|name| std::fs::metadata(new.join(name)));
    let largest = sizes.map(|found| found.expect("metadata").len()).max();
    assert!(largest.is_some_and(|size| size > body.len() as u64));
    world.stop().await;
}

/// The most memory the daemon had, in KiB.
fn peak(world: &World) -> usize {
    let status = format!("/proc/{}/status", world.daemon().pid());
    let status = std::fs::read_to_string(status).expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let size = line
        .and_then(|line| line.split_whitespace().nth(1))
        .expect("VmHWM");
    size.parse().expect("a number")
}
