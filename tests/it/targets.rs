//! Local targets under the real binary: what the system calls say of a Maildir, what a crash leaves
//! of one, and how much memory a large message takes on its way.

use std::path::Path;
use std::process::Command;

use chapar::lab::{Mx, MxConfig};
use serde_json::Value;

use crate::world::{PATIENCE, USER, World, binary};

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
