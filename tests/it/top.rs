//! `mta-queue top` at a terminal: keys, its questions, and that it leaves the terminal as it was.

use std::net::Ipv4Addr;

use crate::terminal::Terminal;
use crate::world::{World, binary};

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

    let mut screen = Terminal::run(&format!(
        "stty rows 24 cols 100; exec {} queue top --config {}",
        binary().display(),
        world.config().display()
    ));
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
    assert_eq!(screen.end().1, Some(0));
    assert_eq!(world.stop().await, Some(0));
}
