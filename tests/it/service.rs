//! The daemon as a service: signals, reload, inherited sockets.

use std::process::Command;

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::{arrived, mx};
use crate::world::{self, HOST, MESSAGE, PASSWORD, USER, World, free_ports};

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
    let ports = free_ports(3);
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

/// Holds the sockets as systemd does and starts the daemon again whenever it ends.
const HOLDER: &str = r#"
import ctypes, os, socket, subprocess, sys
ports, program, arguments = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
held = []
for port in ports:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", int(port)))
    one.listen(1024)
    held.append(one)
def child():
    ctypes.CDLL(None).prctl(1, 9)  # it ends with this process
    copies = [os.dup(one.fileno()) for one in held]
    copies = [os.dup2(fd, 100 + at) for at, fd in enumerate(copies)]
    for at, fd in enumerate(copies):
        os.dup2(fd, 3 + at)
        os.set_inheritable(3 + at, True)
while True:
    start = ["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', program, *arguments]
    environment = dict(os.environ, LISTEN_FDS=str(len(held)), LISTEN_FDNAMES="smtp:submission:submissions")
    subprocess.run(start, env=environment, preexec_fn=child, close_fds=False)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_refused_while_the_daemon_is_replaced() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    let config = std::fs::read_to_string(world.config()).expect("config");
    let mut text = config;
    for name in ["smtp", "submission", "submissions"] {
        text = text.replacen("127.0.0.1:0\"", &format!("systemd:{name}\""), 1);
    }
    world::write(world.config(), &text, 0o644);
    let ports = free_ports(3);
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    let mut holder = Command::new("python3");
    holder
        .args(["-c", HOLDER, &list.join(",")])
        .arg(world::binary());
    world.start_with(holder).await;
    let (stop, greeted) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, greeted, port) = (stop.clone(), greeted.clone(), ports[0]);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let connected = Client::connect(([127, 0, 0, 1], port).into()).await;
                    let mut client = connected.expect("no connection is refused");
                    let reply = client.reply().await.expect("every connection is answered");
                    assert_eq!(reply.code, 220, "{}", reply.text);
                    greeted.fetch_add(1, Ordering::SeqCst);
                    let _ = client.write(b"QUIT\r\n").await;
                }
            })
        })
        .collect();
    let first = world.daemon().pid();
    world.daemon().signal("TERM");
    let second = world
        .daemon()
        .event_where("daemon", "ready", |event| event["pid"] != first)
        .await;
    assert_ne!(second["pid"], first);
    // The new one answers, too.
    let before = greeted.load(Ordering::SeqCst);
    while greeted.load(Ordering::SeqCst) < before + 20 && clients.iter().all(|c| !c.is_finished()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no client failed");
    }
}
