//! DNS lists and greylisting, on a real DNS server and over restarts.

use std::net::Ipv4Addr;

use chapar::lab::{Answer, Client, Mx, MxConfig};

use crate::journey::{arrived, head, mx};
use crate::world::World;

const MESSAGE: &[u8] =
    b"From: Her <her@src.example>\r\nTo: me@example.org\r\nSubject: A letter\r\n\r\nHello.\r\n";

async fn connect(world: &World, from: Ipv4Addr) -> Client {
    let port = world.daemon().port("mx/starttls");
    let mut client = Client::connect_from(from.into(), port)
        .await
        .expect("connect");
    assert_eq!(client.reply().await.expect("greeting").code, 220);
    client
        .expect("EHLO mail.src.example", 250)
        .await
        .expect("EHLO");
    client
}

/// The reply to RCPT of a client at `from`.
async fn rcpt(world: &World, from: Ipv4Addr, sender: &str, to: &str) -> Answer {
    let mut client = connect(world, from).await;
    client
        .expect(&format!("MAIL FROM:<{sender}>"), 250)
        .await
        .expect("MAIL");
    client
        .command(&format!("RCPT TO:<{to}>"))
        .await
        .expect("an answer")
}

fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, last)
}

async fn world(config: &str) -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let config = format!("[incoming]\njudge_private = true\n{config}");
    let world = World::new(remote.address().port(), &config).await;
    mx(&world, "box.example", &remote).await;
    (world, remote)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_client_is_refused_with_the_reason_and_trouble_refuses_nobody() {
    let lists = "[dnslists]\nblock = [\"bl.example=127.0.0.2-9\", \"gone.example\", \"closed.example\"]\n\
                 allow = [\"wl.example\"]\n";
    let (mut world, remote) = world(lists).await;
    for (client, answer) in [
        (2, [127, 0, 0, 2]),
        (3, [127, 0, 0, 10]),
        (4, [127, 0, 0, 3]),
    ] {
        let name = format!("{client}.1.0.127.bl.example");
        world.dns.a(&name, answer.into());
        world
            .dns
            .txt(&name, "Spam source, see https://bl.example/?q=1");
    }
    world
        .dns
        .a("4.1.0.127.wl.example", Ipv4Addr::new(127, 0, 10, 1));
    world.dns.servfail_otherwise("gone.example");
    for client in 1..9 {
        let name = format!("{client}.1.0.127.closed.example");
        world.dns.a(&name, Ipv4Addr::new(127, 255, 255, 254));
    }
    world.start().await;
    let refused = rcpt(&world, at(2), "her@src.example", "i@example.org").await;
    assert_eq!(
        refused.text,
        "554 5.7.1 127.0.1.2 is listed by bl.example: Spam source, see https://bl.example/?q=1\r\n"
    );
    for (client, to) in [
        (2, "postmaster@example.org"),
        (2, "Abuse@example.org"),
        (3, "i@example.org"),
        (4, "i@example.org"),
        (5, "i@example.org"),
    ] {
        let taken = rcpt(&world, at(client), "her@src.example", to).await;
        assert_eq!(taken.code, 250, "{client} {to}: {}", taken.text);
    }
    let unknown = rcpt(&world, at(2), "her@src.example", "i@elsewhere.example").await;
    assert!(unknown.text.contains("Relaying denied"), "{}", unknown.text);
    let mut client = connect(&world, at(4)).await;
    let answer = client
        .send("her@src.example", &["i@example.org"], MESSAGE)
        .await;
    assert_eq!(answer.expect("an answer").code, 250);
    let received = arrived(&remote, 1).await;
    let top = head(&received[0].data);
    assert!(
        top.contains("dnswl=pass dns.zone=wl.example policy.ip=127.0.10.1"),
        "{top}"
    );
    // The users' own port asks nobody.
    let mut user = world.user().await;
    let sent = user.send(
        "me@example.org",
        &["i@box.example"],
        b"From: me@example.org\r\n\r\nx\r\n",
    );
    assert_eq!(sent.await.expect("an answer").code, 250);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_client_can_be_tagged_or_held_instead() {
    for (listed, held) in [("tag", false), ("hold", true)] {
        let lists = format!(
            "[forwarding]\nsuspect = \"tag\"\n[dnslists]\nblock = [\"bl.example\"]\nlisted = \"{listed}\"\n"
        );
        let (mut world, remote) = world(&lists).await;
        world
            .dns
            .a("2.1.0.127.bl.example", Ipv4Addr::new(127, 0, 0, 2));
        world.start().await;
        let mut client = connect(&world, at(2)).await;
        let answer = client
            .send("her@src.example", &["i@example.org"], MESSAGE)
            .await;
        assert_eq!(answer.expect("an answer").code, 250);
        if held {
            let queue = world.queue();
            assert_eq!(queue[0]["state"], "held", "{queue:?}");
            assert!(remote.received().is_empty());
        } else {
            let received = arrived(&remote, 1).await;
            let top = head(&received[0].data);
            assert!(top.contains("\r\nX-Spam: Yes\r\n"), "{top}");
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sender_comes_again_a_known_one_does_not_and_a_restart_forgets_nobody() {
    let config = "[dnslists]\nallow = [\"wl.example\"]\n[greylist]\nenabled = true\nwait = \"1s\"\nknown = 2\n";
    let (mut world, _remote) = world(config).await;
    world
        .dns
        .a("9.1.0.127.wl.example", Ipv4Addr::new(127, 0, 10, 1));
    world.dns.txt(
        "src.example",
        "v=spf1 ip4:127.0.2.0/24 ip4:127.0.3.0/24 -all",
    );
    world.start().await;
    let first = rcpt(&world, at(2), "her@net.example", "i@example.org").await;
    assert_eq!(
        first.text,
        "451 4.7.1 Mail of network 127.0.1.0/24 is new here: please come again in 1 seconds (greylisting)\r\n"
    );
    // Where SPF passes it is the domain that is new, from wherever it comes.
    let proven = rcpt(
        &world,
        [127, 0, 2, 1].into(),
        "her@src.example",
        "i@example.org",
    )
    .await;
    assert!(
        proven
            .text
            .contains("Mail of domain src.example is new here"),
        "{}",
        proven.text
    );
    // On a list of good clients.
    let listed = rcpt(&world, at(9), "any@net.example", "i@example.org").await;
    assert_eq!(listed.code, 250);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    // A crash: what was asked for a second ago is on disk.
    world.kill();
    world.start().await;
    for (client, sender) in [
        // Another host of the network, another of the domain.
        (at(3), "her@net.example"),
        ([127, 0, 3, 1].into(), "her@src.example"),
    ] {
        let again = rcpt(&world, client, sender, "i@example.org").await;
        assert_eq!(again.code, 250, "{}", again.text);
    }
    let other = rcpt(&world, at(3), "her@net.example", "other@example.org").await;
    assert_eq!(other.code, 451, "{}", other.text);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let other = rcpt(&world, at(3), "her@net.example", "other@example.org").await;
    assert_eq!(other.code, 250, "{}", other.text);
    // Twice back: it is known.
    let known = rcpt(&world, at(4), "who@else.example", "third@example.org").await;
    assert_eq!(known.code, 250, "{}", known.text);
    world.stop().await;
}
