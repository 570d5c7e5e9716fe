//! Clients that mean harm, or nothing: the daemon answers or closes, stays small, and serves the
//! next (I10).

use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::journey::{arrived, mx};
use crate::world::{MESSAGE, PATIENCE, USER, World};

/// Peak resident memory in KiB.
fn peak_memory(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon().pid()));
    let status = status.expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}

async fn next_client_is_served(world: &World, remote: &Mx) {
    let before = remote.received().len();
    let mut client = world.user().await;
    client
        .send(USER, &["you@box.example"], MESSAGE)
        .await
        .expect("accepted");
    arrived(remote, before + 1).await;
    let peak = peak_memory(world);
    assert!(peak < 200 * 1024, "{peak} KiB");
}

async fn world() -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let limits = "[limits]\nconnections_per_client = 1000\nerror_delay = \"0s\"\n";
    let mut world = World::new(remote.address().port(), limits).await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    (world, remote)
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_each_port_ends_with_an_answer_or_a_close() {
    let (world, remote) = world().await;
    let mut seed = fastrand::Rng::with_seed(7);
    for name in ["mx/starttls", "submission/starttls", "submission/implicit"] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(world.daemon().port(name))
                .await
                .expect("connect");
            let garbage: Vec<u8> = (0..100_000).map(|_| seed.u8(..)).collect();
            // The server may close before it has read all of it.
            let _ = stream.write_all(&garbage).await;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
            assert!(read.await.is_ok(), "{name} neither answers nor closes");
        }
    }
    next_client_is_served(&world, &remote).await;
}

/// Writes up to `total` bytes of `block` and gives how many went before the server closed.
async fn pour(stream: &mut TcpStream, block: &[u8], total: usize) -> usize {
    let mut sent = 0;
    while sent < total {
        match tokio::time::timeout(PATIENCE, stream.write(block)).await {
            Ok(Ok(1..)) => sent += block.len(),
            _ => break,
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_is_cut_off() {
    let (world, remote) = world().await;
    let gigabyte = 1 << 30;
    let block = vec![b'a'; 64 * 1024];
    // As a command.
    let mut stream = TcpStream::connect(world.daemon().port("mx/starttls"))
        .await
        .expect("connect");
    let sent = pour(&mut stream, &block, gigabyte).await;
    assert!(sent < 16 << 20, "{sent} bytes of a command were read");
    // As message data.
    let mut client = world.mx().await;
    client.expect("MAIL FROM:<>", 250).await.expect("MAIL");
    client
        .expect("RCPT TO:<any@example.org>", 250)
        .await
        .expect("RCPT");
    client.expect("DATA", 354).await.expect("DATA");
    let mut sent = 0;
    while sent < gigabyte && client.write(&block).await.is_ok() {
        sent += block.len();
    }
    assert!(sent < 100 << 20, "{sent} bytes of data were read");
    next_client_is_served(&world, &remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_silent_connections_cost_little() {
    let (world, remote) = world().await;
    let server = world.daemon().port("mx/starttls");
    let mut silent = Vec::new();
    for _ in 0..500 {
        let mut client = Client::connect(server).await.expect("connect");
        assert_eq!(client.reply().await.expect("greeting").code, 220);
        silent.push(client);
    }
    next_client_is_served(&world, &remote).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_client_are_limited() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let limits = "[limits]\nconnections_per_client = 3\n";
    let mut world = World::new(remote.address().port(), limits).await;
    world.start().await;
    let server = world.daemon().port("mx/starttls");
    let mut codes = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(server).await.expect("connect");
        codes.push(client.reply().await.expect("greeting").code);
        kept.push(client);
    }
    assert_eq!(codes, [220, 220, 220, 421]);
    kept.remove(0).expect("QUIT", 221).await.expect("QUIT");
    // The place is free once the session has ended, which nothing tells the client.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut client = Client::connect(server).await.expect("connect");
        if client.reply().await.expect("greeting").code == 220 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
