//! Many large messages that arrive at once and do not end.

use std::net::{IpAddr, SocketAddr};

use chapar::lab::{Mx, MxConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::idle::memory;
use crate::world::World;

/// Messages at the same time.
const MESSAGES: usize = 300;
/// Clients they come from.
const CLIENTS: usize = 30;
/// Bytes of each.
const BYTES: usize = 250 * 1024;
/// By how much the memory of the daemon may grow, in KiB.
const MOST: u64 = 48 * 1024;

async fn said(stream: &mut TcpStream, code: &str) -> String {
    let mut said = String::new();
    while !said.lines().any(|line| line.starts_with(code)) {
        let mut block = [0; 1024];
        let read = stream.read(&mut block).await.expect("read");
        assert!(read > 0, "{code}: {said}");
        said.push_str(&String::from_utf8_lossy(&block[..read]));
    }
    said
}

/// A message on port 25 after DATA, and so much of it.
async fn begin(world: &World, client: usize, head: &[u8]) -> TcpStream {
    let last = u8::try_from(client % CLIENTS).expect("small") + 2;
    let socket = TcpSocket::new_v4().expect("socket");
    let from = SocketAddr::from((IpAddr::from([127, 0, 0, last]), 0));
    socket.bind(from).expect("an address of loopback");
    let to = world.daemon().port("mx/starttls");
    let mut stream = socket.connect(to).await.expect("connect");
    for (line, code) in [
        ("", "220"),
        ("EHLO c.example\r\n", "250 "),
        ("MAIL FROM:<a@box.example>\r\n", "250 "),
        ("RCPT TO:<x@example.org>\r\n", "250 "),
        ("DATA\r\n", "354 "),
    ] {
        stream.write_all(line.as_bytes()).await.expect("write");
        said(&mut stream, code).await;
    }
    stream.write_all(head).await.expect("write");
    stream
}

/// The reply once the message has ended.
async fn end(mut stream: TcpStream) -> String {
    stream.write_all(b"\r\n\r\n.\r\n").await.expect("write");
    let mut block = [0; 1024];
    let read = stream.read(&mut block).await.expect("read");
    String::from_utf8_lossy(&block[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_messages_that_arrive_share_a_budget_of_memory() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    world.start().await;
    let line = format!("X-Long: {}\r\n", "x".repeat(900));
    let from = "From: a@box.example\r\nSubject: x\r\n";
    let lines = line.repeat(BYTES / line.len());
    let header = format!("{from}{lines}");
    let body = format!("{from}\r\n{lines}");
    for (text, taken) in [(&body, MESSAGES), (&header, 0)] {
        let before = memory(&world);
        let mut open = Vec::new();
        for client in 0..MESSAGES {
            open.push(begin(&world, client, text.as_bytes()).await);
        }
        // One more, of the usual size, is taken meanwhile.
        let small = begin(&world, 0, b"From: a@box.example\r\nSubject: y\r\n").await;
        let reply = end(small).await;
        assert!(reply.starts_with("250 "), "{reply}");
        let grown = memory(&world).saturating_sub(before);
        assert!(grown < MOST, "{grown} KiB more than before");
        let mut replies = (0, 0);
        for stream in open {
            let reply = end(stream).await;
            match reply.get(..9) {
                Some("250 2.0.0") => replies.0 += 1,
                Some("452 4.3.1") => replies.1 += 1,
                _ => panic!("{reply}"),
            }
        }
        assert_eq!(replies.0 + replies.1, MESSAGES);
        assert!(replies.0 >= taken, "{replies:?}: bodies have the disk");
        if taken == 0 {
            assert!(replies.0 > 0 && replies.1 > 0, "{replies:?}");
        }
    }
    // What they held has been given back.
    let stream = begin(&world, 1, header.as_bytes()).await;
    let reply = end(stream).await;
    assert!(reply.starts_with("250 "), "{reply}");
}
