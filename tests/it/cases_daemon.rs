//! Reports of real users about other daemons and their tools, against the real binary. Named by the
//! number of the case.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use chapar::lab::{Act, Client, Mx, MxConfig, Stage};
use serde_json::Value;

use crate::journey::{arrived, head, mx, records};
use crate::oracle;
use crate::world::{HOST, USER, World, binary, write};

const MESSAGE: &[u8] = b"From: me@example.org\r\nSubject: x\r\n\r\nbody\r\n";

/// So long a stopping daemon may take: TimeoutStopSec of the unit.
const STOP: Duration = Duration::from_secs(90);

async fn submit(world: &World, from: &str, to: &[&str]) {
    let mut client = world.user().await;
    client.send(from, to, MESSAGE).await.expect("accepted");
}

fn ids(queue: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = queue.iter().map(|item| text(item, "id")).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn text(item: &Value, key: &str) -> String {
    item[key].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn c075_ipv4_alone_where_ipv6_has_no_ptr() {
    let four = Mx::start(MxConfig::default()).await.expect("MX");
    let port = four.address().port();
    let config = MxConfig {
        address: (Ipv6Addr::LOCALHOST, port).into(),
        ..MxConfig::default()
    };
    let six = Mx::start(config).await.expect("an MX on ::1");
    let refusal = "550-5.7.25 The IP address sending this message does not have a PTR\n\
                   550-5.7.25 record setup, or the corresponding forward DNS entry does not\n\
                   550 5.7.25 point to the sending IP. gsmtp";
    six.on(Stage::Dot, move |_| Act::reply(refusal));
    for (family, over_six) in [("family = \"ipv4\"\n", false), ("", true)] {
        // What is about this host is tried again, so that who mends it loses nothing.
        let config = format!(
            "[delivery]\nsource = [\"127.0.0.1\", \"::1\"]\n{family}\
             [retry]\nfirst = \"1s\"\nlongest = \"1s\"\ngive_up = \"3s\"\n"
        );
        let mut world = World::new(port, &config).await;
        mx(&world, "box.example", &four).await;
        world.dns.mx("both.example", 10, "mx.both.example");
        world.dns.aaaa("mx.both.example", Ipv6Addr::LOCALHOST);
        match over_six {
            true => {}
            false => world.dns.a("mx.both.example", Ipv4Addr::LOCALHOST),
        }
        world.start().await;
        let before = four.taken();
        submit(&world, USER, &["you@both.example"]).await;
        let came = arrived(&four, before + 1).await;
        let last = came.last().expect("one");
        let said = String::from_utf8_lossy(&last.data).into_owned();
        if over_six {
            assert_eq!(last.reverse_path, "", "a notice");
            // Lines of a notice are folded.
            let words: Vec<&str> = said.split_whitespace().collect();
            let said = words.join(" ");
            for part in [
                "does not have a PTR",
                "record setup, or the corresponding forward DNS entry does not",
                "point to the sending IP. gsmtp",
                "550 5.7.25",
            ] {
                assert!(said.contains(part), "{part} in {said}");
            }
            assert!(six.connections() > 0);
        } else {
            assert_eq!(last.recipients, ["you@both.example"]);
            assert_eq!(six.connections(), 0, "no connection over IPv6 is tried");
        }
        world.stop().await;
    }
}

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
        submit(&world, USER, &["you@box.example"]).await;
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

fn free_ports() -> Vec<u16> {
    let held: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("bind"))
        .collect();
    held.iter()
        .map(|one| one.local_addr().expect("address").port())
        .collect()
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
        let ports = free_ports();
        let mut toml = std::fs::read_to_string(world.config()).expect("configuration");
        for port in &ports {
            toml = toml.replacen("127.0.0.1:0\"", &format!("127.0.0.1:{port}\""), 1);
        }
        write(world.config(), &toml, 0o644);
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

#[tokio::test(flavor = "multi_thread")]
async fn c111_the_list_is_the_same_whoever_reads_it() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    remote.on(Stage::Rcpt, |_| Act::reply("451 4.7.1 not now"));
    world.start().await;
    for _ in 0..3 {
        submit(&world, USER, &["you@box.example"]).await;
    }
    let running = world
        .wait_queue("three are deferred", |queue| {
            queue.len() == 3 && queue.iter().all(|item| item["state"] == "deferred")
        })
        .await;
    for item in &running {
        assert_eq!(text(item, "to"), "you@box.example");
        assert!(item["attempts"].as_u64().is_some_and(|count| count >= 1));
        for key in ["arrived", "next_due", "last_attempt"] {
            assert!(text(item, key).ends_with('Z'), "{key}: {item}");
        }
        assert!(text(item, "last_reply").contains("not now"), "{item}");
    }
    world.stop().await;
    let stopped = world.queue();
    assert_eq!(stopped, running, "from the store itself");
    as_a_stranger(&world);
    world.start().await;
    assert_eq!(world.queue(), running, "after a restart");
    as_a_stranger(&world);

    let tries = |mx: &Mx| {
        let log = mx.log();
        log.iter()
            .filter(|line| line.line.starts_with("RCPT"))
            .count()
    };
    let before = tries(&remote);
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "3 recipients due now\n"),
        "{error}"
    );
    let each = remote.until(|mx| tries(mx) >= before + 3);
    let waited = tokio::time::timeout(crate::world::PATIENCE, each).await;
    assert!(waited.is_ok(), "an attempt of each");
}

/// Nobody in particular is told that the list is not for him, not that it is empty.
fn as_a_stranger(world: &World) {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    if !is_root {
        eprintln!("only root can become nobody; this part was left out");
        return;
    }
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(world.dir.path(), mode(0o755)).expect("mode");
    // Where nobody may go and run it.
    let copy = world.dir.path().join("mta-queue");
    if !copy.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_mta-queue"), &copy).expect("copy");
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["list", "--config"])
        .arg(world.config())
        .output()
        .expect("setpriv");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(output.stdout.is_empty(), "no list");
    assert!(
        said.contains("Permission denied") && said.contains("as root or as the user of the daemon"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c112_a_message_removed_under_way_stays_away() {
    for (what, end) in [
        ("a 451", Act::reply("451 4.3.0 later")),
        ("a 250", Act::Default),
        ("a lost connection", Act::Close),
    ] {
        let remote = Mx::start(MxConfig::default()).await.expect("MX");
        let mut world = World::new(remote.address().port(), "").await;
        mx(&world, "box.example", &remote).await;
        // Hangs after RCPT for long enough to be removed.
        remote.on(Stage::Data, move |_| {
            Act::After(Duration::from_secs(2), Box::new(end.clone()))
        });
        world.start().await;
        submit(&world, USER, &["you@box.example"]).await;
        remote
            .until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
            .await;
        let id = ids(&world.queue())[0].clone();
        let (code, out, error) = world.run(&["queue", "remove", &id]);
        assert_eq!(
            (code, out.as_str()),
            (0, "1 recipient removed\n"),
            "{error}"
        );
        assert_eq!(world.queue(), Vec::<Value>::new(), "{what}");
        remote.wait_closed().await;
        assert_eq!(world.queue(), Vec::<Value>::new(), "{what}, later");
        world.stop().await;
        world.start().await;
        assert_eq!(
            world.queue(),
            Vec::<Value>::new(),
            "{what}, after a restart"
        );
        for unknown in [id.as_str(), "0000000000001"] {
            let (code, out, error) = world.run(&["queue", "remove", unknown]);
            assert_eq!(code, 66, "{what}: {out}{error}");
            assert!(error.contains(unknown), "{error}");
        }
        let notices = remote.received();
        assert!(
            notices.iter().all(|one| !one.reverse_path.is_empty()),
            "{what}: nobody asked for a notice"
        );
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c114_each_recipient_is_listed_once_however_often_it_was_tried() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    remote.on(Stage::Mail, |_| Act::reply("451 4.3.2 busy"));
    world.start().await;
    let to = ["a@box.example", "b@box.example", "c@box.example"];
    submit(&world, USER, &to).await;
    submit(&world, USER, &to).await;
    let keys = |queue: &[Value]| -> Vec<(String, String)> {
        let mut keys: Vec<_> = queue
            .iter()
            .map(|item| (text(item, "id"), text(item, "to")))
            .collect();
        keys.sort();
        keys
    };
    let mut first = Vec::new();
    for round in 1..=10 {
        let queue = world
            .wait_queue("all were tried", |queue| {
                let tried = |item: &Value| item["attempts"].as_u64() >= Some(round);
                queue.len() == 6 && queue.iter().all(tried)
            })
            .await;
        let found = keys(&queue);
        let distinct: BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), 6, "round {round}: each once");
        if round == 1 {
            first = found;
        } else {
            assert_eq!(found, first, "round {round}: the same");
        }
        let (code, out, error) = world.run(&["queue", "summary", "--json"]);
        assert_eq!(code, 0, "{error}");
        let row: Value = serde_json::from_str(out.lines().next().expect("a row")).expect("JSON");
        assert_eq!(
            (&row["domain"], &row["total"]),
            (&"box.example".into(), &6.into())
        );
        let (_, out, _) = world.run(&["queue", "replay", "all"]);
        assert_eq!(out, "6 recipients due now\n");
    }
    // The store has as many, also without a daemon.
    world.stop().await;
    assert_eq!(keys(&world.queue()), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn c160_a_domain_that_only_sends_from_here_goes_to_its_real_mx() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    // Not this host, as mx.example.org would be.
    world.dns.mx("example.org", 10, "mail.hoster.example");
    world.dns.a("mail.hoster.example", Ipv4Addr::LOCALHOST);
    let dir = world.dir.path().join("domains/example.org");
    write(
        dir.join("domain.toml"),
        "mode = \"send-only\"\nselectors = [\"rsa1\", \"ed1\"]\n",
        0o644,
    );
    std::fs::remove_file(dir.join("aliases")).expect("aliases");
    world.start().await;
    submit(&world, USER, &["v@example.org"]).await;
    let came = arrived(&remote, 1).await;
    assert_eq!(came[0].recipients, ["v@example.org"]);
    assert_eq!(oracle::dkimpy(&came[0].data, &records(&world)), (2, 2));
    let mut stranger = world.mx().await;
    stranger
        .expect("MAIL FROM:<a@client.example.net>", 250)
        .await
        .expect("MAIL");
    let answer = stranger
        .command("RCPT TO:<v@example.org>")
        .await
        .expect("RCPT");
    assert_eq!(answer.code, 550, "{}", answer.text);
    assert!(
        answer.text.starts_with("550 5.7.1 ") || answer.text.starts_with("550 5.1.1 "),
        "{}",
        answer.text
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c168_no_name_that_is_none_is_ever_said() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    let good = std::fs::read_to_string(world.config()).expect("configuration");
    // Both the check and the daemon name file, line and value.
    let refused = |what: &str, parts: &[&str]| {
        for command in [&["check"][..], &["serve"]] {
            let (code, out, error) = world.run(command);
            assert_eq!(code, 78, "{what}: {out}{error}");
            for part in parts {
                assert!(error.contains(part), "{what}: {part} in {error}");
            }
        }
    };
    for bad in [
        "$myhostname",
        "",
        "localhost",
        "mail.example.org:587",
        "mylaptop.",
        "-bad-.example",
        "host",
        "[192.0.2.1]",
        "mx.example.org..",
    ] {
        let toml = good.replace("\"mx.example.org\"", &format!("\"{bad}\""));
        write(world.config(), &toml, 0o644);
        refused(bad, &["chapar.toml:1: ", &format!("hostname = \"{bad}\"")]);
    }
    write(world.config(), &good, 0o644);

    // The domain of signatures, and of rewritten senders.
    let domains = world.dir.path().join("domains");
    for bad in ["$mydomain", "-bad-.example", "example.org:587"] {
        write(
            domains.join(bad).join("domain.toml"),
            "mode = \"forward\"\nselectors = [\"rsa1\"]\n",
            0o644,
        );
        refused(bad, &[bad]);
        std::fs::remove_dir_all(domains.join(bad)).expect("removed");
    }

    // Its key.
    let key = world.dir.path().join("secrets/dkim/example.org/rsa1.pem");
    let kept = std::fs::read_to_string(&key).expect("key");
    write(key.clone(), &kept, 0o644);
    refused("a key that others can read", &["rsa1.pem", "0644"]);
    std::fs::remove_file(&key).expect("removed");
    refused("a key that is missing", &["rsa1.pem"]);
    write(key, &kept, 0o600);

    // The root's dot is no mistake, and never said.
    mx(&world, "box.example", &remote).await;
    let toml = good.replace("\"mx.example.org\"", "\"mx.example.org.\"");
    write(world.config(), &toml, 0o644);
    world.start().await;
    let port = world.daemon().port("mx/starttls");
    let mut client = Client::connect(port).await.expect("connect");
    let greeting = client.reply().await.expect("greeting").text;
    assert!(greeting.starts_with("220 mx.example.org "), "{greeting}");
    submit(&world, USER, &["you@box.example"]).await;
    let came = arrived(&remote, 1).await;
    assert_eq!(came[0].hello, HOST);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c187_a_backlog_is_held_sifted_and_let_go() {
    let place = Mx::start(MxConfig::default()).await.expect("MX");
    let address = place.address();
    let config = format!(
        "[delivery]\n[retry]\nsteps = \"300ms\"\n\
         [[route]]\nto = \"*\"\nvia = \"smtp://{address}\"\n"
    );
    let mut world = World::new(address.port(), &config).await;
    drop(place);
    world.start().await;
    let mut client = world.user().await;
    for number in 0..50 {
        let from = if number < 10 {
            "news@example.org"
        } else {
            USER
        };
        let to = match number % 10 {
            9 => format!("gone{number}@box.example"),
            _ => format!("you{number}@box.example"),
        };
        let sent = client.send(from, &[&to], MESSAGE).await;
        assert_eq!(sent.expect("accepted").code, 250);
    }
    world
        .wait_queue("fifty wait", |queue| queue.len() == 50)
        .await;
    let done = |arguments: &[&str]| {
        let (code, out, error) = world.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    };
    assert_eq!(done(&["queue", "hold", "all"]), "50 recipients held\n");
    // The relay is there again, and also a new daemon leaves what is held alone.
    let config = MxConfig {
        address,
        ..MxConfig::default()
    };
    let relay = Mx::start(config).await.expect("MX");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.connections(), 0, "nothing is tried");
    world.stop().await;
    world.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.connections(), 0, "nor after a restart");
    let queue = world.queue();
    assert_eq!(queue.len(), 50);
    assert!(queue.iter().all(|item| item["state"] == "held"));

    let done = |arguments: &[&str]| {
        let (code, out, error) = world.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    };
    let released = done(&["queue", "release", "--from", "news@example.org"]);
    assert_eq!(released, "10 recipients released\n");
    // Each is due when it would have been; the relay is known to be there.
    done(&["queue", "replay", "all"]);
    arrived(&relay, 10).await;
    let all_news = relay
        .received()
        .iter()
        .all(|one| one.reverse_path == "news@example.org");
    assert!(all_news, "only what the filter means");
    // One of the five is gone already.
    let removed = done(&["queue", "remove", "--to", "gone*"]);
    assert_eq!(removed, "4 recipients removed\n");
    let (code, out, error) = world.run(&["queue", "release", "--from", "nobody@example.org"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "0 recipients released\n"),
        "{error}"
    );
    assert_eq!(
        done(&["queue", "release", "all"]),
        "36 recipients released\n"
    );
    done(&["queue", "replay", "all"]);
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let received = relay.received();
    let to: BTreeSet<String> = received
        .iter()
        .flat_map(|one| one.recipients.clone())
        .collect();
    let recipients: usize = received.iter().map(|one| one.recipients.len()).sum();
    assert_eq!((to.len(), recipients), (46, 46), "each once");
    assert!(to.contains("gone9@box.example") && !to.contains("gone19@box.example"));
    world.stop().await;
}
