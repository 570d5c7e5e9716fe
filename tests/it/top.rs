//! `mta-queue top` at a terminal: keys, its questions, and that it leaves the terminal as it was.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::world::{PATIENCE, World, binary};

/// What the terminal showed since it was looked at last.
struct Screen {
    child: Child,
    bytes: Receiver<Vec<u8>>,
    seen: String,
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

impl Screen {
    /// Waits until it shows `text`; what came before is forgotten.
    fn shows(&mut self, text: &str) {
        // It draws each second, so that bytes alone say nothing.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at);
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.bytes.recv_timeout(left);
            let more = more.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn press(&mut self, keys: &str) {
        self.seen.clear();
        let to = self.child.stdin.as_mut().expect("stdin");
        to.write_all(keys.as_bytes()).expect("keys");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_filters_holds_and_leaves_the_terminal_as_it_was() {
    // Nobody listens at this port.
    let mut world = World::new(1, "[retry]\nfirst = \"1h\"\n").await;
    world.dns.mx("a.example", 10, "mx.a.example");
    world.dns.a("mx.a.example", Ipv4Addr::LOCALHOST);
    world.start().await;
    let mut user = world.user().await;
    let message = b"From: i@example.org\r\nSubject: it waits\r\n\r\nhello\r\n";
    let sent = user
        .send("i@example.org", &["to@a.example"], message)
        .await
        .expect("sent");
    assert_eq!(sent.code, 250);
    world
        .wait_queue("it is deferred", |queue| {
            queue.iter().any(|one| one["state"] == "deferred")
        })
        .await;

    // script(1) runs it at a terminal of its own.
    let command = format!(
        "stty rows 24 cols 100; exec {} queue top --config {}",
        binary().display(),
        world.config().display()
    );
    let mut child = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1)");
    let mut output = child.stdout.take().expect("stdout");
    let (send, bytes) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            let _ = send.send(buffer[..length].to_vec());
        }
    });
    let mut screen = Screen {
        child,
        bytes,
        seen: String::new(),
    };
    screen.shows("\x1b[?1049h"); // a screen of its own
    screen.shows("a.example");
    screen.press("\r");
    // Only what changes is drawn, so that words come apart.
    screen.shows("domain:a.example");
    screen.shows("to@a.example");
    screen.press("h");
    screen.shows("yes");
    screen.press("y");
    world
        .wait_queue("it is held", |queue| {
            queue.iter().all(|one| one["state"] == "held")
        })
        .await;
    screen.press("/nowhere\r");
    screen.press("q");
    screen.shows("\x1b[?1049l"); // and back
    // Waiting closes its standard input, without which script(1) would not end.
    let ended = screen.child.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0));
    assert_eq!(world.stop().await, Some(0));
}
