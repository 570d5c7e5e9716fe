//! The daemon as a service: signals, reload, inherited sockets.

use std::process::Command;

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::{arrived, mx};
use crate::world::{self, HOST, PASSWORD, USER, World};

const MESSAGE: &[u8] = b"From: me@example.org\r\nSubject: x\r\n\r\nbody\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_message_under_way_end_and_accepts_no_other() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let mut idle = world.user().await;
    let mut busy = world.user().await;
    busy.expect("MAIL FROM:<me@example.org>", 250)
        .await
        .expect("MAIL");
    busy.expect("RCPT TO:<you@box.example>", 250)
        .await
        .expect("RCPT");
    busy.expect("DATA", 354).await.expect("DATA");
    busy.write(b"From: me@example.org\r\n").await.expect("data");
    world.daemon().signal("TERM");
    assert_eq!(idle.reply().await.expect("farewell").code, 421);
    busy.write(b"Subject: last\r\n\r\nbody\r\n.\r\n")
        .await
        .expect("data");
    assert_eq!(
        busy.reply().await.expect("reply").code,
        250,
        "its data had begun"
    );
    assert_eq!(busy.reply().await.expect("farewell").code, 421);
    assert_eq!(world.stop_waiting().await, Some(0));
    // What was accepted is not lost.
    world.start().await;
    let messages = arrived(&remote, 1).await;
    assert!(String::from_utf8_lossy(&messages[0].data).contains("Subject: last"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_at_once() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    world.start().await;
    let mut busy = world.user().await;
    busy.expect("MAIL FROM:<me@example.org>", 250)
        .await
        .expect("MAIL");
    busy.expect("RCPT TO:<you@box.example>", 250)
        .await
        .expect("RCPT");
    busy.expect("DATA", 354).await.expect("DATA");
    world.daemon().signal("TERM");
    world.daemon().event_containing("daemon", "stopping").await;
    world.daemon().signal("TERM");
    assert_eq!(world.stop_waiting().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_sighup_takes_new_users_and_keeps_the_old_on_a_mistake() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    world.start().await;
    let users = world.dir.path().join("domains/example.org/users.toml");
    let good = std::fs::read_to_string(&users).expect("users");
    let more = good.replace("\"me@example.org\"", "\"you@example.org\"");
    world::write(users.clone(), &format!("{good}{more}"), 0o600);
    world.daemon().signal("HUP");
    world.daemon().event("daemon", "reloaded").await;
    let login = async |user: &str| {
        let port = world.daemon().port("submission/implicit");
        let mut client = Client::connect_tls(port, HOST).await.expect("connect");
        client.reply().await.expect("greeting");
        client.expect("EHLO c.example", 250).await.expect("EHLO");
        client.auth_plain(user, PASSWORD).await.expect("AUTH").code
    };
    assert_eq!(login("you@example.org").await, 235);
    world::write(users, "\"me@example.org\" = { passwort = \"x\" }\n", 0o600);
    world.daemon().signal("HUP");
    let error = world
        .daemon()
        .event_containing("daemon", "nothing changed")
        .await;
    let text = error["message"].as_str().expect("text").to_owned();
    assert!(text.contains("users.toml:1"), "file and line: {text}");
    assert_eq!(login(USER).await, 235);
    assert_eq!(login("you@example.org").await, 235);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_inherited_by_name_from_systemd() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let config = std::fs::read_to_string(world.config()).expect("config");
    let mut names = ["systemd:smtp", "systemd:submission", "systemd:submissions"].iter();
    let text: Vec<String> = config
        .lines()
        .map(|line| match line.starts_with("address = ") {
            true => format!("address = \"{}\"", names.next().expect("three listeners")),
            false => line.to_owned(),
        })
        .collect();
    world::write(world.config(), &text.join("\n"), 0o644);
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let mut activate = Command::new("systemd-socket-activate");
    // The order is not that of the configuration: names alone decide.
    for port in [ports[1], ports[2], ports[0]] {
        activate.arg("-l").arg(format!("127.0.0.1:{port}"));
    }
    activate.arg("--fdname=submission:submissions:smtp");
    activate
        .args(["-E", "CHAPAR_LOG_FORMAT", "-E", "CHAPAR_LOG"])
        .arg(world::binary());
    // The activator starts the daemon at the first connection.
    let first_port = ports[0];
    let knock = tokio::spawn(async move {
        loop {
            if let Ok(client) = Client::connect(([127, 0, 0, 1], first_port).into()).await {
                return client;
            }
            tokio::task::yield_now().await;
        }
    });
    world.start_with(activate).await;
    let mut first = knock.await.expect("a connection");
    assert_eq!(first.reply().await.expect("greeting").code, 220);
    assert_eq!(world.daemon().port("mx/starttls").port(), ports[0]);
    assert_eq!(world.daemon().port("submission/implicit").port(), ports[2]);
    let mut client = world.user().await;
    client
        .send(USER, &["you@box.example"], MESSAGE)
        .await
        .expect("accepted");
    arrived(&remote, 1).await;
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address").port()
}
