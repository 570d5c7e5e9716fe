//! Reports of real users about how other daemons start and stop, against the real binary. Named by
//! the number of the case.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use chapar::lab::{Act, Mx, MxConfig, Stage};
use serde_json::Value;

use crate::journey::{head, mx};
use crate::world::{MESSAGE, USER, World, binary};

/// So long a stopping daemon may take: TimeoutStopSec of the unit.
const STOP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn c107_sigterm_ends_what_is_under_way_and_repeats_nothing() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let config = "[delivery]\nconnections = 1\n";
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    // The reply to each dot takes a while, and one message goes at a time: the others wait.
    let slow = |_: &str| Act::After(Duration::from_secs(3), Box::new(Act::Default));
    remote.on(Stage::Dot, slow);
    world.start().await;
    let mut idle = world.user().await;
    let mut busy = world.user().await;
    for _ in 0..11 {
        world.submit(USER, &["you@box.example"]).await;
    }
    remote
        .until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
        .await;
    busy.expect("MAIL FROM:<me@example.org>", 250)
        .await
        .expect("MAIL");
    busy.expect("RCPT TO:<you@box.example>", 250)
        .await
        .expect("RCPT");
    busy.expect("DATA", 354).await.expect("DATA");
    busy.write(b"From: me@example.org\r\nSubject: late\r\n")
        .await
        .expect("data");
    let asked = Instant::now();
    world.daemon().signal("TERM");
    let farewell = idle.reply().await.expect("farewell");
    assert!(farewell.text.starts_with("421 4.3.2 "), "{}", farewell.text);
    busy.write(b"\r\nbody\r\n.\r\n").await.expect("data");
    assert_eq!(busy.reply().await.expect("reply").code, 250);
    assert_eq!(world.stop_waiting().await, Some(0));
    assert!(asked.elapsed() < STOP, "{:?}", asked.elapsed());
    let done = remote.taken();
    assert!((1..12).contains(&done), "{done} before it stopped");
    remote.behave();
    world.start().await;
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let all = remote.received();
    assert_eq!(all.len(), 12, "each once");
    let once: BTreeSet<String> = all
        .iter()
        .map(|message| {
            let head = head(&message.data);
            let id = head.split("Message-ID: <").nth(1).expect("Message-ID");
            id.split('>').next().expect("its end").to_owned()
        })
        .collect();
    assert_eq!(once.len(), 12, "and none twice");

    // A second signal does not wait: what had no 250 is not there afterwards.
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
    world.daemon().event_containing("daemon", "stopping").await;
    world.daemon().signal("TERM");
    assert_eq!(world.stop_waiting().await, Some(0));
    assert!(!busy.rest().await.contains("250 2.0.0"), "no 250");
    world.start().await;
    assert_eq!(world.queue(), Vec::<Value>::new());
    assert_eq!(remote.taken(), 12);
}

/// Hears what a service manager is told; at READY=1 it connects to each port at once.
fn manager(
    socket: std::os::unix::net::UnixDatagram,
    ports: Vec<u16>,
) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (sender, said) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let mut said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.contains("READY=1") {
                let open = |port: &&u16| TcpStream::connect((Ipv4Addr::LOCALHOST, **port)).is_ok();
                said.push_str(&format!("\nopen={}", ports.iter().filter(open).count()));
            }
            if sender.send(said).is_err() {
                return;
            }
        }
    });
    said
}

async fn told(said: &mut tokio::sync::mpsc::UnboundedReceiver<String>, part: &str) -> String {
    let heard = async {
        loop {
            let one = said.recv().await.expect("the socket lives");
            if one.contains(part) {
                return one;
            }
        }
    };
    let waited = tokio::time::timeout(crate::world::PATIENCE, heard).await;
    waited.unwrap_or_else(|_| panic!("nobody was told {part}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn c110_the_service_manager_is_told_the_truth() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    for kind in ["path", "abstract"] {
        let mut world = World::new(25, "").await;
        let ports = world.fix_ports();
        let path = world.dir.path().join("notify");
        let (socket, name) = if kind == "path" {
            let socket = UnixDatagram::bind(&path).expect("socket");
            (socket, path.display().to_string())
        } else {
            let name = format!("chapar-test-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("name");
            let socket = UnixDatagram::bind_addr(&address).expect("socket");
            (socket, format!("@{name}"))
        };
        let mut said = manager(socket, ports.clone());
        let mut command = Command::new(binary());
        command
            .env("NOTIFY_SOCKET", &name)
            .env("WATCHDOG_USEC", "1000000")
            .env_remove("WATCHDOG_PID");
        world.start_with(command).await;
        let ready = told(&mut said, "READY=1").await;
        assert!(ready.ends_with("open=3"), "{kind}: {ready}");
        assert_eq!(world.queue(), Vec::<Value>::new(), "the queue answers");
        let began = Instant::now();
        for _ in 0..3 {
            told(&mut said, "WATCHDOG=1").await;
        }
        assert!(began.elapsed() < Duration::from_secs(3), "often enough");
        world.daemon().signal("HUP");
        let reloading = told(&mut said, "RELOADING=1").await;
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        told(&mut said, "READY=1").await;
        world.daemon().signal("TERM");
        told(&mut said, "STOPPING=1").await;
        assert_eq!(world.stop_waiting().await, Some(0));

        // A port that another has: no READY, and an exit code that says so.
        let _other = TcpListener::bind(("127.0.0.1", ports[2])).expect("bind");
        let output = Command::new(binary())
            .args(["serve", "--config"])
            .arg(world.config())
            .env("NOTIFY_SOCKET", &name)
            .output()
            .expect("chapar runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.contains(&ports[2].to_string()), "{error}");
        while let Ok(one) = said.try_recv() {
            assert!(!one.contains("READY=1"), "{one}");
        }
    }
}

/// The queue of a daemon that stopped: `count` messages that nobody may send before an hour is over.
async fn filled(world: &World, count: u64) {
    use chapar::queue::store::{Options, Store, new_message};
    use queue_schema::{Envelope, Origin, QueueId, Recipient};
    let (store, _) = Store::open(&Options::new(&world.data())).expect("the store");
    let now = chapar::time::now();
    let accept = |number: u64| {
        let to = Recipient::new(format!("u{number}@box.example"));
        let mut envelope = Envelope::new(USER, vec![to]);
        envelope.release_at = Some(now + 3_600_000);
        let origin = Origin::Network {
            client: Ipv4Addr::LOCALHOST.into(),
        };
        let content = chapar::message::Content {
            head: MESSAGE.into(),
            body: chapar::message::Body::Memory(Default::default()),
        };
        store.accept(new_message(QueueId(number), now, origin, envelope), content)
    };
    let numbers: Vec<u64> = (1..=count).collect();
    for some in numbers.chunks(2_000) {
        let all = futures_util::future::join_all(some.iter().map(|number| accept(*number))).await;
        assert!(all.iter().all(Result::is_ok), "stored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c110_it_is_ready_when_a_hundred_thousand_messages_are() {
    use std::os::unix::net::UnixDatagram;
    const MESSAGES: u64 = 100_000;
    let mut world = World::new(25, "").await;
    let ports = world.fix_ports();
    filled(&world, MESSAGES).await;
    let path = world.dir.path().join("notify");
    let mut said = manager(UnixDatagram::bind(&path).expect("socket"), ports);
    let mut command = Command::new(binary());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "5000000")
        .env_remove("WATCHDOG_PID");
    world.start_with(command).await;
    let ready = told(&mut said, "READY=1").await;
    assert!(ready.ends_with("open=3"), "{ready}");
    let (code, out, error) = world.run(&["queue", "summary", "--json"]);
    assert_eq!(code, 0, "{error}");
    let summary: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["queued"], MESSAGES, "{summary}");
    let late = Instant::now();
    for _ in 0..2 {
        told(&mut said, "WATCHDOG=1").await;
    }
    assert!(late.elapsed() < Duration::from_secs(10), "often enough");
    world.submit(USER, &["you@box.example"]).await;
    assert_eq!(world.stop().await, Some(0));
}
