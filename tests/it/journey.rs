//! One message's whole journey, from a mail client to a remote MX.

use std::time::Duration;

use chapar::lab::{Act, Client, Mx, MxConfig, Received, Stage};

use crate::oracle;
use crate::world::{HOST, PATIENCE, USER, World};

const MESSAGE: &[u8] =
    b"From: Me <me@example.org>\r\nTo: you@box.example\r\nBcc: secret@box.example\r\n\
    Subject: A letter\r\n\r\n.dots\r\n..\r\n.\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n";

pub async fn mx(world: &World, domain: &str, mx: &Mx) {
    let host = format!("mx.{domain}");
    world.dns.mx(domain, 10, &host);
    world.dns.a(&host, ip(mx));
}

pub fn ip(mx: &Mx) -> std::net::Ipv4Addr {
    match mx.address().ip() {
        std::net::IpAddr::V4(ip) => ip,
        std::net::IpAddr::V6(ip) => panic!("{ip}"),
    }
}

pub async fn arrived(mx: &Mx, count: usize) -> Vec<Received> {
    tokio::time::timeout(PATIENCE, mx.wait(count))
        .await
        .unwrap_or_else(|_| panic!("{} of {count} messages arrived", mx.received().len()))
}

/// What follows the first empty line.
pub fn body(data: &[u8]) -> &[u8] {
    let at = data
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an empty line");
    &data[at + 4..]
}

pub fn head(data: &[u8]) -> String {
    let length = data.len() - body(data).len();
    String::from_utf8_lossy(&data[..length]).into_owned()
}

/// The world's DKIM records, as the DNS would answer them.
pub fn records(world: &World) -> Vec<(String, String)> {
    ["rsa1", "ed1"]
        .map(|selector| {
            let key =
                chapar::signing::keys::PrivateKey::load(world.dir.path(), "example.org", selector)
                    .expect("key");
            (format!("{selector}._domainkey.example.org"), key.record())
        })
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn i12_a_users_message_arrives_signed_and_unchanged_over_465_and_587() {
    let remote = Mx::start(MxConfig {
        starttls: true,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;

    let mut implicit = world.user().await;
    let answer = implicit
        .send(USER, &["you@box.example"], MESSAGE)
        .await
        .expect("465");
    assert!(
        answer.text.starts_with("250 2.0.0 Queued as "),
        "{}",
        answer.text
    );

    let port = world.daemon().port("submission/starttls");
    let mut client = Client::connect(port).await.expect("587");
    assert_eq!(client.reply().await.expect("greeting").code, 220);
    let hello = client
        .expect("EHLO client.example.org", 250)
        .await
        .expect("EHLO");
    assert!(
        hello.text.contains("STARTTLS") && !hello.text.contains("AUTH"),
        "{}",
        hello.text
    );
    client.expect("STARTTLS", 220).await.expect("STARTTLS");
    let mut client = client.into_tls(HOST).await.expect("TLS");
    client
        .expect("EHLO client.example.org", 250)
        .await
        .expect("EHLO");
    client
        .expect("AUTH LOGIN bWVAZXhhbXBsZS5vcmc=", 334)
        .await
        .expect("AUTH");
    client
        .expect("Y29ycmVjdCBob3JzZSBiYXR0ZXJ5", 235)
        .await
        .expect("password");
    client
        .send(USER, &["you@box.example"], MESSAGE)
        .await
        .expect("587");

    let messages = arrived(&remote, 2).await;
    for message in &messages {
        assert!(message.tls, "STARTTLS was offered");
        assert_eq!(message.reverse_path, USER);
        assert_eq!(message.recipients, ["you@box.example"]);
        assert_eq!(
            body(&message.data),
            body(MESSAGE),
            "byte for byte below our headers"
        );
        let head = head(&message.data);
        assert!(
            head.starts_with("Received: from localhost\r\n\tby mx.example.org with ESMTPSA id "),
            "{head}"
        );
        assert_eq!(head.matches("Received:").count(), 1);
        assert_eq!(head.matches("\r\nDate: ").count(), 1, "{head}");
        assert_eq!(head.matches("\r\nMessage-ID: <").count(), 1, "{head}");
        assert!(
            !head.contains("secret") && !head.contains("127.0.0.1"),
            "{head}"
        );
        assert_eq!(
            oracle::dkimpy(&message.data, &records(&world)),
            (2, 2),
            "{head}"
        );
        let forged = [b"From: evil@example.net\r\n".as_slice(), &message.data].concat();
        assert_eq!(
            oracle::dkimpy(&forged, &records(&world)),
            (0, 2),
            "a second From"
        );
    }
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    assert_eq!(world.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_from_outside_follows_aliases_and_the_catch_all() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    for domain in ["one.example", "two.example", "box.example"] {
        mx(&world, domain, &remote).await;
    }
    world.start().await;
    let message = b"From: a@client.example.net\r\nSubject: x\r\n\r\nbody\r\n";
    let mut client = world.mx().await;
    let to = ["sales@example.org", "whoever@example.org"];
    client
        .send("a@client.example.net", &to, message)
        .await
        .expect("accepted");
    for (to, code) in [
        ("x@elsewhere.example", 550),
        ("x%box.example@elsewhere.example", 550),
        ("me@example.org", 250),
    ] {
        let _ = client.command("RSET").await;
        client
            .expect("MAIL FROM:<a@client.example.net>", 250)
            .await
            .expect("MAIL");
        client
            .expect(&format!("RCPT TO:<{to}>"), code)
            .await
            .expect(to);
    }
    let messages = arrived(&remote, 1).await;
    let mut all: Vec<String> = messages.iter().flat_map(|m| m.recipients.clone()).collect();
    while all.len() < 3 {
        all = arrived(&remote, messages.len() + 1)
            .await
            .iter()
            .flat_map(|m| m.recipients.clone())
            .collect();
    }
    all.sort();
    assert_eq!(all, ["a@one.example", "b@two.example", "me@box.example"]);
    let message = &remote.received()[0];
    let head = head(&message.data);
    assert!(
        head.starts_with("Received: from client.example.net ("),
        "{head}"
    );
    assert!(
        head.ends_with("\r\nFrom: a@client.example.net\r\nSubject: x\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_450_of_three_is_retried_alone() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    remote.on(Stage::Rcpt, |line| match line.contains("late@") {
        true => Act::Reply("450 4.2.1 slow down".into()),
        false => Act::Default,
    });
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let mut client = world.user().await;
    let to = ["a@box.example", "late@box.example", "b@box.example"];
    client.send(USER, &to, MESSAGE).await.expect("accepted");
    let first = arrived(&remote, 1).await;
    assert_eq!(first[0].recipients, ["a@box.example", "b@box.example"]);
    let queue = world
        .wait_queue("one is deferred", |queue| {
            queue.len() == 1 && queue[0]["state"] == "deferred"
        })
        .await;
    assert_eq!(queue[0]["to"], "late@box.example");
    assert_eq!(queue[0]["attempts"], 1);
    assert!(
        queue[0]["last_reply"]
            .as_str()
            .expect("text")
            .contains("450 4.2.1 slow down")
    );
    // A restart forgets neither state nor schedule (I4), and causes no attempt of its own.
    world.kill();
    world.start().await;
    let again = world.queue();
    assert_eq!(again[0]["next_due"], queue[0]["next_due"]);
    assert_eq!(again[0]["attempts"], 1);
    remote.on(Stage::Rcpt, |_| Act::Default);
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(code, 0, "{out}{error}");
    let second = arrived(&remote, 2).await;
    assert_eq!(second[1].recipients, ["late@box.example"]);
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    assert_eq!(remote.received().len(), 2, "nothing arrived twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_after_an_outage_ends_the_pause_of_the_destination() {
    // Nobody listens at this address until the outage ends.
    let place = Mx::start(MxConfig::default()).await.expect("MX");
    let address = place.address();
    let mut world = World::new(address.port(), "").await;
    mx(&world, "box.example", &place).await;
    drop(place);
    world.start().await;
    let mut client = world.user().await;
    for _ in 0..3 {
        client
            .send(USER, &["you@box.example"], MESSAGE)
            .await
            .expect("accepted");
    }
    world
        .wait_queue("all wait", |queue| {
            queue.len() == 3 && queue.iter().all(|item| item["state"] == "deferred")
        })
        .await;
    let config = MxConfig {
        address,
        ..MxConfig::default()
    };
    let remote = Mx::start(config).await.expect("MX");
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(code, 0, "{out}{error}");
    arrived(&remote, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_recipient_is_told_to_the_sender_by_a_signed_dsn() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    remote.on(Stage::Rcpt, |line| match line.contains("gone@") {
        true => Act::Reply("550-5.1.1 no such\r\n550 5.1.1 user".into()),
        false => Act::Default,
    });
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let mut client = world.user().await;
    client
        .send(USER, &["gone@box.example", "here@box.example"], MESSAGE)
        .await
        .expect("accepted");
    let messages = arrived(&remote, 2).await;
    let dsn = messages
        .iter()
        .find(|m| m.reverse_path.is_empty())
        .expect("a DSN");
    assert_eq!(
        dsn.recipients,
        ["me@box.example"],
        "the sender's alias leads there"
    );
    let text = String::from_utf8_lossy(&dsn.data).into_owned();
    for part in [
        "Auto-Submitted: auto-replied",
        "Content-Type: multipart/report",
        "report-type=delivery-status",
        "Content-Type: message/delivery-status",
        "Final-Recipient: rfc822; gone@box.example",
        "Action: failed",
        "Status: 5.1.1",
        "Subject: A letter",
    ] {
        assert!(
            text.to_lowercase().contains(&part.to_lowercase()),
            "{part} in {text}"
        );
    }
    assert!(
        !text.contains("here@box.example"),
        "the other recipient arrived: {text}"
    );
    assert_eq!(oracle::dkimpy(&dsn.data, &records(&world)), (2, 2));
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_bounce_goes_to_no_null_and_no_forged_sender() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    remote.on(Stage::Rcpt, |_| Act::Reply("550 5.1.1 no".into()));
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    mx(&world, "honest.example", &remote).await;
    world.dns.txt("honest.example", "v=spf1 ip4:127.0.0.1 -all");
    world.start().await;
    let message = b"From: a@b.example\r\n\r\nx\r\n";
    let mut client = world.mx().await;
    for from in ["", "forged@stranger.example", "real@honest.example"] {
        client
            .send(from, &["any@example.org"], message)
            .await
            .expect("accepted");
    }
    // Only the one whose SPF passed is told; then nothing is left.
    let told = tokio::time::timeout(
        PATIENCE,
        remote.until(|mx| {
            mx.log()
                .iter()
                .any(|l| l.line.contains("TO:<real@honest.example>"))
        }),
    );
    assert!(told.await.is_ok(), "the honest sender is told");
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let lines = remote.log();
    assert!(
        !lines
            .iter()
            .any(|l| l.line.contains("forged@") && l.line.contains("RCPT"))
    );
    // Three messages, one notice to the honest sender; that this one failed is told to the
    // postmaster, and that nobody could be told of it ends there.
    let to = |who: &str| {
        let wanted = format!("RCPT TO:<{who}");
        lines.iter().filter(|l| l.line.starts_with(&wanted)).count()
    };
    assert_eq!(to("me@box.example"), 3);
    assert_eq!(to("real@honest.example"), 1);
    assert_eq!(to("postmaster@box.example"), 1);
    assert_eq!(to(""), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_goes_through_a_spool_file_unchanged() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let mut message = b"From: me@example.org\r\nSubject: big\r\n\r\n".to_vec();
    for line in 0..80_000 {
        message.extend_from_slice(
            format!(".{line} a line that starts with a dot, and goes on\r\n").as_bytes(),
        );
    }
    let mut client = world.user().await;
    client
        .send(USER, &["you@box.example"], &message)
        .await
        .expect("accepted");
    let messages = arrived(&remote, 1).await;
    assert!(body(&messages[0].data) == body(&message), "bytes differ");
    assert_eq!(oracle::dkimpy(&messages[0].data, &records(&world)), (2, 2));
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let spool = world.data().join("spool");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while std::fs::read_dir(&spool).expect("spool").count() > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the spool file is still there"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
