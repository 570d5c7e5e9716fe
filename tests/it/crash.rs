//! Crashes at random moments, and at each step, while clients submit (I2, I3).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};
use tokio::task::JoinHandle;

use crate::journey::{arrived, mx};
use crate::world::World;

/// Clients that submit at the same time.
const CLIENTS: usize = 20;

/// `CHAPAR_ROUNDS` of kill -9, a few unless told.
fn rounds() -> usize {
    std::env::var("CHAPAR_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3)
}

/// One client: submits numbered messages until the connection breaks; gives those that got 250.
async fn submit(server: std::net::SocketAddr, name: String) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut client) = Client::connect(server).await else {
        return acknowledged;
    };
    if client.reply().await.is_err() || client.command("EHLO c.example.net").await.is_err() {
        return acknowledged;
    }
    for number in 0.. {
        let subject = format!("{name}-{number}");
        let message = format!(
            "From: a@c.example.net\r\nSubject: {subject}\r\n\r\n{}\r\n",
            "x".repeat(number % 3000)
        );
        match client
            .send("", &["any@example.org"], message.as_bytes())
            .await
        {
            Ok(answer) if answer.code == 250 => acknowledged.push(subject),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_kill_9_loses_nothing_and_repeats_only_what_was_in_flight() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(
        remote.address().port(),
        "[retry]\nfirst = \"1s\"\nlongest = \"2s\"\n",
    )
    .await;
    mx(&world, "box.example", &remote).await;
    let mut acknowledged = HashSet::new();
    let rounds = rounds();
    for round in 0..rounds {
        world.start().await;
        let clients = clients(&world, round);
        // The moment is what is random here, not something awaited.
        tokio::time::sleep(Duration::from_millis(150 + (round as u64 * 97) % 500)).await;
        world.kill();
        acknowledged.extend(answers(clients).await);
    }
    assert!(
        acknowledged.len() > rounds * CLIENTS,
        "only {} accepted",
        acknowledged.len()
    );
    all_arrive(&mut world, &remote, &acknowledged, rounds).await;
}

/// Every step of the store and of the queue at which it could crash, and the how manyth time.
#[cfg(debug_assertions)]
const STEPS: [&str; 9] = [
    "before-write:40",
    "before-sync:60",
    "after-sync:80",
    "before-ack:30",
    "after-ack:50",
    "index-applied:3",
    "index-flushed:2",
    "before-record-sync:40",
    "after-record-sync:60",
];

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_crash_at_any_step_loses_nothing_and_repeats_only_what_was_in_flight() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let retry = "[retry]\nfirst = \"1s\"\nlongest = \"2s\"\n";
    let mut world = World::new(remote.address().port(), retry).await;
    mx(&world, "box.example", &remote).await;
    let mut acknowledged = HashSet::new();
    for (round, step) in STEPS.iter().enumerate() {
        world.start_to_crash(step).await;
        let clients = clients(&world, round);
        assert_eq!(world.stop_waiting().await, None, "{step}: it was a crash");
        acknowledged.extend(answers(clients).await);
    }
    assert!(acknowledged.len() > STEPS.len() * CLIENTS);
    all_arrive(&mut world, &remote, &acknowledged, STEPS.len()).await;
}

fn clients(world: &World, round: usize) -> Vec<JoinHandle<Vec<String>>> {
    let server = world.daemon().port("mx/starttls");
    (0..CLIENTS)
        .map(|client| tokio::spawn(submit(server, format!("r{round}c{client}"))))
        .collect()
}

async fn answers(clients: Vec<JoinHandle<Vec<String>>>) -> Vec<String> {
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.expect("client"));
    }
    all
}

/// After so many crashes: what got a 250 arrives, and only what was under way at a crash twice.
async fn all_arrive(world: &mut World, remote: &Mx, acknowledged: &HashSet<String>, rounds: usize) {
    world.start().await;
    let subjects = |received: &[chapar::lab::Received]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for message in received {
            let text = String::from_utf8_lossy(&message.data).into_owned();
            let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
            *counts
                .entry(subject.expect("subject").to_owned())
                .or_default() += 1;
        }
        counts
    };
    let mut wanted = acknowledged.len();
    let counts = loop {
        let received = arrived(remote, wanted).await;
        let counts = subjects(&received);
        if acknowledged
            .iter()
            .all(|subject| counts.contains_key(subject))
        {
            break counts;
        }
        // One more than was looked at: more may have come since.
        wanted = received.len() + 1;
    };
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let repeated = counts.values().filter(|count| **count > 1).count();
    let most = rounds * (20 + 32);
    println!(
        "{rounds} rounds: {} accepted, {} delivered, {repeated} of them again (in flight at a kill)",
        acknowledged.len(),
        counts.len(),
    );
    // At each kill: one on each of the 20 connections to the destination, and those whose 250 came
    // but whose outcome was not yet on disk, at most 32.
    assert!(repeated <= most, "{repeated} were delivered twice");
    assert!(counts.values().all(|count| *count <= rounds + 1));
}
