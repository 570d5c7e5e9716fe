//! What the system calls say about the promise (I1).

use std::collections::HashMap;
use std::process::Command;

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::mx;
use crate::world::World;

const CLIENTS: usize = 20;
const EACH: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn i1_the_journal_is_synced_before_250_and_one_sync_serves_many() {
    let remote = Mx::start(MxConfig {
        keep: false,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let mut world = World::new(
        remote.address().port(),
        // Many messages in little time; the DNS has no part in it.
        "[incoming]\njudge_private = false\n",
    )
    .await;
    mx(&world, "box.example", &remote).await;
    let trace = world.dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-s", "2000000", "-e"])
        .arg("trace=fdatasync,fsync,write,pwrite64,writev,pwritev,sendto,sendmsg")
        .arg("-o")
        .arg(&trace)
        .arg(crate::world::binary());
    world.start_with(strace).await;
    let server = world.daemon().port("mx/starttls");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(server).await.expect("connect");
                client.reply().await.expect("greeting");
                client
                    .expect("EHLO c.example.net", 250)
                    .await
                    .expect("EHLO");
                for _ in 0..EACH {
                    let message = b"From: a@c.example.net\r\nSubject: x\r\n\r\nbody\r\n";
                    client
                        .send("", &["any@example.org"], message)
                        .await
                        .expect("accepted");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("client");
    }
    world.stop().await;
    let text = std::fs::read(&trace).expect("trace");
    let text = String::from_utf8_lossy(&text);
    let (accepted, syncs) = check(&text);
    println!("{accepted} messages, {syncs} syncs");
    assert_eq!(accepted, CLIENTS * EACH);
    assert!(
        syncs < accepted,
        "{syncs} syncs for {accepted} messages: no group commit"
    );
}

/// Walks the trace: a 250 that names an id must come after an fdatasync that began after the
/// write of a record with that id and has returned. Gives the number of 250s and of syncs.
fn check(trace: &str) -> (usize, usize) {
    let mut written: HashMap<String, usize> = HashMap::new();
    let mut begun: HashMap<&str, usize> = HashMap::new();
    let mut synced_from = 0;
    let mut accepted = 0;
    let mut syncs = 0;
    for (number, line) in trace.lines().enumerate() {
        let number = number + 1;
        let (pid, call) = line.split_once(' ').unwrap_or((line, ""));
        let call = call.trim_start();
        if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            syncs += 1;
            begun.insert(pid, number);
            if call.ends_with("= 0") {
                synced_from = synced_from.max(number);
            }
        } else if call.starts_with("<... fdatasync resumed")
            || call.starts_with("<... fsync resumed")
        {
            if let Some(from) = begun.get(pid) {
                assert!(call.ends_with("= 0"), "{call}");
                synced_from = synced_from.max(*from);
            }
        } else if let Some(at) = call.find("250 2.0.0 Queued as ") {
            let id = &call[at + 20..at + 33];
            let record = written
                .get(id)
                .unwrap_or_else(|| panic!("{id} was never written"));
            assert!(*record < synced_from, "250 for {id} before its sync");
            accepted += 1;
        } else if call.starts_with("pwrite") || call.starts_with("write") {
            // The record holds the message, whose trace header names the id.
            for (at, _) in call.match_indices(" id ") {
                if let Some(id) = call.get(at + 4..at + 17) {
                    written.entry(id.to_owned()).or_insert(number);
                }
            }
        }
    }
    (accepted, syncs)
}

/// From a server's 250 until our record of it is on disk: a crash within that time makes a second
/// copy, and nothing else does. Measured one message at a time, so that each sync is of its outcome.
#[tokio::test(flavor = "multi_thread")]
async fn i3_the_time_in_which_a_crash_makes_a_second_copy_is_short() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let trace = world.dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-ttt",
            "-T",
            "-e",
            "trace=fdatasync,recvfrom",
            "-o",
        ])
        .arg(&trace)
        .arg(crate::world::binary());
    world.start_with(strace).await;
    let mut client = world.mx().await;
    let messages = 10;
    for _ in 0..messages {
        let message = b"From: a@c.example.net\r\nSubject: x\r\n\r\nbody\r\n";
        client
            .send("", &["any@example.org"], message)
            .await
            .expect("accepted");
        world
            .wait_queue("it is gone", |queue| queue.is_empty())
            .await;
    }
    world.stop().await;
    let text = std::fs::read_to_string(&trace).expect("trace");
    let mut windows = Vec::new();
    // When the 250 came, and which thread syncs since.
    let (mut taken, mut syncing) = (None, None);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(at)) = (words.next(), words.next()) else {
            continue;
        };
        let at: f64 = at.parse().expect("a time");
        if line.contains("250 2.0.0 Ok: queued") {
            taken = Some(at);
        } else if line.contains("fdatasync(") && taken.is_some() && syncing.is_none() {
            syncing = Some(pid);
        }
        // A call that was not interrupted has the time of its begin, and how long it took.
        let took = line
            .rsplit_once('<')
            .and_then(|(_, took)| took.strip_suffix('>'));
        let took = took.filter(|_| !line.contains("resumed"));
        let end = at + took.and_then(|took| took.parse().ok()).unwrap_or(0.0);
        let done = line.contains("= 0") && line.contains("fdatasync");
        if let (Some(from), true) = (taken, done && syncing == Some(pid)) {
            windows.push((end - from) * 1000.0);
            (taken, syncing) = (None, None);
        }
    }
    assert_eq!(windows.len(), messages, "{windows:?}");
    windows.sort_by(f64::total_cmp);
    println!(
        "from the 250 to its record on disk: median {:.1} ms, longest {:.1} ms",
        windows[messages / 2],
        windows[messages - 1]
    );
    assert!(windows[messages - 1] < 2000.0, "{windows:?}");
}
