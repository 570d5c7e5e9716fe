//! Many clients that do nothing, or next to nothing, while one does its work.
//!
//! Short by default; `tests/long idle` runs it with 2,000 idle and 200 slow clients.

use std::time::{Duration, Instant};

use chapar::lab::{Client, Mx, MxConfig};
use tokio::task::JoinSet;

use crate::world::{HOST, World};

/// Messages of which the median is taken.
const MESSAGES: usize = 41;
/// Most memory of one idle connection, in KiB.
const MOST_MEMORY: u64 = 64;
/// Latencies below this are noise of the machine, not of the server.
const NOISE: Duration = Duration::from_millis(15);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Resident memory of the daemon in KiB.
pub fn memory(world: &World) -> u64 {
    let status = format!("/proc/{}/status", world.daemon().pid());
    let status = std::fs::read_to_string(status).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.expect("VmRSS").trim().trim_end_matches(" kB").parse();
    number.expect("a number")
}

/// From connecting to the reply to the dot: the median.
async fn latency(world: &World) -> Duration {
    let mut times = Vec::new();
    for _ in 0..MESSAGES {
        let started = Instant::now();
        let mut client = world.mx().await;
        let message = b"From: a@box.example\r\nSubject: x\r\n\r\nbody\r\n";
        let answer = client
            .send("a@box.example", &["x@example.org"], message)
            .await;
        assert_eq!(answer.expect("an answer").code, 250);
        times.push(started.elapsed());
    }
    times.sort();
    times[MESSAGES / 2]
}

/// Connects and goes as far as an idle client does: a greeting, and EHLO over TLS or in clear.
async fn idle(world: &World, tls: bool) -> Client {
    let mut client = if tls {
        let port = world.daemon().port("submission/implicit");
        Client::connect_tls(port, HOST).await.expect("connect")
    } else {
        Client::connect(world.daemon().port("mx/starttls"))
            .await
            .expect("connect")
    };
    client.reply().await.expect("greeting");
    client
        .expect("EHLO idle.example.net", 250)
        .await
        .expect("EHLO");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_clients_cost_little_and_hold_up_nobody() {
    let (count, slow) = (number("CHAPAR_IDLE", 300), number("CHAPAR_SLOW", 40));
    let remote = Mx::start(MxConfig {
        keep: false,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let limits = "[limits]\nconnections = 10000\nconnections_per_client = 10000\n";
    let mut world = World::new(remote.address().port(), limits).await;
    world.dns.mx("box.example", 10, "mx.box.example");
    world.dns.a("mx.box.example", std::net::Ipv4Addr::LOCALHOST);
    world.start().await;
    // What the first clients cost once: caches, threads, the allocator.
    latency(&world).await;
    drop(idle(&world, true).await);
    let alone = latency(&world).await;

    let mut held = Vec::new();
    for (name, tls) in [("in clear", false), ("over TLS", true)] {
        let before = memory(&world);
        for _ in 0..count / 2 {
            held.push(idle(&world, tls).await);
        }
        let each = memory(&world).saturating_sub(before) / (count / 2) as u64;
        println!("{each} KiB for each idle connection {name}");
        assert!(
            each < MOST_MEMORY,
            "{each} KiB for each idle connection {name}"
        );
    }
    let mut drips = JoinSet::new();
    for _ in 0..slow {
        let mut client = Client::connect(world.daemon().port("mx/starttls"))
            .await
            .expect("connect");
        drips.spawn(async move {
            for byte in b"EHLO slow.example.net".iter().cycle() {
                if client.write(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let crowded = latency(&world).await;
    println!(
        "median latency {alone:?} alone, {crowded:?} among {count} idle and {slow} slow clients"
    );
    assert!(
        crowded < (alone * 2).max(NOISE),
        "{alone:?} alone, {crowded:?} in the crowd"
    );
    drips.shutdown().await;
    drop(held);
}
