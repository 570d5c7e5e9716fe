//! I8: files that change while mail comes in, and files that are wrong.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chapar::lab::{Client, Mx, MxConfig};
use chapar::signing::keys::{Algorithm, PrivateKey, path};

use crate::journey::{head, ip, mx};
use crate::world::{DOMAIN, PATIENCE, USER, World, write};

/// Changes while clients send.
const CHANGES: usize = 100;
const CLIENTS: usize = 20;

/// Replaces a file as an editor does: never half of it is seen.
fn replace(file: &Path, text: &str, mode: u32) {
    let beside = file.with_file_name(".being-written");
    write(beside.clone(), text, mode);
    std::fs::rename(beside, file).expect("renamed");
}

/// What was answered to clients.
#[derive(Default)]
struct Seen {
    taken: AtomicUsize,
    unknown: AtomicUsize,
    connections: AtomicUsize,
}

/// One message to what both versions know, and to what one of them knows; the first must be taken.
async fn message(client: &mut Client, from: &str, name: &str, seen: &Seen) {
    let said = |line: String| format!("{from}: {line}");
    for line in [
        format!("MAIL FROM:<{from}>"),
        "RCPT TO:<always@example.org>".into(),
    ] {
        let answer = client
            .command(&line)
            .await
            .expect("no connection is dropped");
        assert_eq!(answer.code, 250, "{} {}", said(line), answer.text);
    }
    for alias in ["one", "two"] {
        let line = format!("RCPT TO:<{alias}@example.org>");
        let answer = client
            .command(&line)
            .await
            .expect("no connection is dropped");
        match answer.code {
            250 => {}
            550 if answer.text.contains("5.1.1") => {
                seen.unknown.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{} {}", said(line), answer.text),
        }
    }
    client.expect("DATA", 354).await.expect("DATA");
    let text = format!(
        "From: <{from}>\r\nTo: always@example.org\r\nSubject: {name}\r\n\r\nHello.\r\n.\r\n"
    );
    client.write(text.as_bytes()).await.expect("written");
    let answer = client.reply().await.expect("no connection is dropped");
    assert_eq!(answer.code, 250, "{}", said(answer.text));
    seen.taken.fetch_add(1, Ordering::Relaxed);
}

/// Sends until told to stop, several messages over each connection.
async fn client(world: Arc<World>, number: usize, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let (mut client, from) = match number % 2 {
            0 => (world.mx().await, "her@src.example"),
            _ => (world.user().await, USER),
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        for _ in 0..5 {
            message(&mut client, from, &format!("{number}-{count}"), &seen).await;
            count += 1;
        }
        client.expect("QUIT", 221).await.expect("QUIT");
    }
}

/// Version `number` of users, aliases, domains and keys.
fn change(world: &World, users: &str, keys: &[(String, String)], number: usize) {
    let domains = world.dir.path().join("domains");
    let domain = domains.join(DOMAIN);
    let odd = number % 2 == 1;
    let name = if odd { "one" } else { "two" };
    let aliases = format!("# {number}\nalways: her@box.example\n{name}: {name}@box.example\n");
    replace(&domain.join("aliases"), &aliases, 0o644);
    let guest = format!("{users}\"guest{number}@example.org\" = {{ receive_only = true }}\n");
    replace(&domain.join("users.toml"), &guest, 0o600);
    let other = domains.join("other.example");
    if odd {
        write(other.join("aliases"), "*: her@box.example\n", 0o644);
    } else if other.exists() {
        let away = domains.join(".away");
        std::fs::rename(&other, &away).expect("renamed");
        std::fs::remove_dir_all(&away).expect("removed");
    }
    let (selector, pem) = &keys[number % 2];
    let key = path(world.dir.path(), DOMAIN, selector);
    replace(&key, pem, 0o600);
    let text = format!("mode = \"forward\"\nselectors = [\"{selector}\"]\n");
    replace(&domain.join("domain.toml"), &text, 0o644);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_a_hundred_changes_while_twenty_clients_send_drop_and_refuse_nothing() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let config =
        "[incoming]\njudge_private = false\n[limits]\nuser_messages = 0\nuser_recipients = 0\n";
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    world.dns.a("mx.box.example", ip(&remote));
    let domain = world.dir.path().join("domains").join(DOMAIN);
    let users = std::fs::read_to_string(domain.join("users.toml")).expect("users");
    let keys: Vec<(String, String)> = ["ka", "kb"]
        .iter()
        .map(|selector| {
            let key = PrivateKey::generate(Algorithm::Ed25519).expect("key");
            world
                .dns
                .txt(&format!("{selector}._domainkey.{DOMAIN}"), &key.record());
            ((*selector).to_owned(), key.to_pem().to_string())
        })
        .collect();
    for (selector, pem) in &keys {
        write(path(world.dir.path(), DOMAIN, selector), pem, 0o600);
    }
    change(&world, &users, &keys, 0);
    world.start().await;
    let world = Arc::new(world);
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(world.clone(), number, seen.clone(), stop.clone())))
        .collect();
    let reloaded = || world.daemon().events("daemon", "reloaded").len();
    for number in 1..=CHANGES {
        let before = reloaded();
        let (again, users, keys) = (world.clone(), users.clone(), keys.clone());
        tokio::task::spawn_blocking(move || change(&again, &users, &keys, number))
            .await
            .expect("changed");
        world.daemon().signal("HUP");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while reloaded() == before {
            assert!(tokio::time::Instant::now() < deadline, "change {number}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client that was dropped or refused");
    }
    assert!(world.daemon().events("daemon", "reloaded").len() >= CHANGES);
    let taken = seen.taken.load(Ordering::Relaxed);
    assert!(taken >= CLIENTS * 5, "{taken}");
    assert!(
        seen.unknown.load(Ordering::Relaxed) >= taken,
        "each version knows one of two"
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let subjects = loop {
        let received = remote.received();
        let always = received
            .iter()
            .filter(|one| one.recipients.contains(&"her@box.example".to_owned()));
        let subjects: HashSet<String> = always
            .flat_map(|one| {
                let head = head(&one.data);
                let subject = head.lines().find_map(|line| line.strip_prefix("Subject: "));
                subject.map(str::to_owned)
            })
            .collect();
        if subjects.len() == taken {
            break subjects;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} of {taken} arrived",
            subjects.len()
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert_eq!(subjects.len(), taken);
    // Every message of our user is signed, by the key of one version or the other.
    for one in remote.received() {
        let head = head(&one.data);
        if head.contains("From: <me@example.org>") {
            assert!(head.contains("s=ka;") || head.contains("s=kb;"), "{head}");
        }
    }
}

/// A file below the configuration directory, what is wrong in it, and what the log says.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const MISTAKES: [Mistake; 21] = [
    (
        "chapar.toml",
        "hostname = \"mx.example.org\"\nhostnam = 1\n",
        "chapar.toml:2: ",
        "unknown field",
    ),
    (
        "chapar.toml",
        "hostname = \"mx.example.org\"\n[retry]\nfirst = \"5 parsecs\"\n",
        "chapar.toml:3: ",
        "5m",
    ),
    ("chapar.toml", "hostname = \n", "chapar.toml:1: ", ""),
    (
        "domains/example.org/domain.toml",
        "mode = \"fwd\"\n",
        "domain.toml:1: ",
        "`forward`",
    ),
    (
        "domains/example.org/domain.toml",
        "mode = \"forward\"\nselectors = [\"no_such key\"]\n",
        "domain.toml:2: ",
        "letters, digits and hyphens",
    ),
    (
        "domains/example.org/domain.toml",
        "mode = \"forward\"\nselectors = [\"missing\"]\n",
        "missing.pem: ",
        "`chapar domain add example.org` makes missing keys",
    ),
    (
        "domains/example.org/domain.toml",
        "mode = \"mailbox\"\n",
        "domain.toml: ",
        "write mailbox = ",
    ),
    (
        "domains/example.org/domain.toml",
        "separators = \"@\"\n",
        "domain.toml:1: ",
        "choose among",
    ),
    (
        "domains/example.org/users.toml",
        "\n\"me@example.org\" = { password = \"secret\" }\n",
        "users.toml:2: ",
        "chapar user passwd me@example.org",
    ),
    (
        "domains/example.org/users.toml",
        "\"me@example.net\" = { receive_only = true }\n",
        "users.toml:1: ",
        "domains/example.net/users.toml",
    ),
    (
        "domains/example.org/users.toml",
        "\"me@example.org\" = { pasword = \"x\" }\n",
        "users.toml:1: ",
        "unknown field",
    ),
    (
        "domains/example.org/users.toml",
        "me@example.org\n",
        "users.toml:1: ",
        "",
    ),
    (
        "domains/example.org/aliases",
        "a: b@c.example\nb c\n",
        "aliases:2: ",
        "has no colon",
    ),
    (
        "domains/example.org/aliases",
        "a: b@c.example\n\na: d@c.example\n",
        "aliases:3: ",
        "put all its targets on one line",
    ),
    (
        "domains/example.org/aliases",
        "a: | cmd\n",
        "aliases:1: ",
        "write | /usr/local/bin/command",
    ),
    (
        "domains/example.org/aliases",
        "a: b@c.example, !reject x\n",
        "aliases:1: ",
        "remove the other targets",
    ),
    (
        "domains/example.org/aliases",
        "*: *@\n",
        "aliases:1: ",
        "write a whole address",
    ),
    (
        "domains/Example.NET/aliases",
        "*: a@b.example\n",
        "Example.NET: ",
        "write 'example.net'",
    ),
    ("secrets/srs.key", "short\n", "srs.key:1: ", ""),
    (
        "secrets/dkim/example.org/ed1.pem",
        "-----BEGIN NOTHING-----\n",
        "ed1.pem: ",
        "PKCS#8 PEM",
    ),
    (
        "secrets/tls/mx.example.org/fullchain.pem",
        "no certificate\n",
        "fullchain.pem: ",
        "",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_malformed_file_changes_nothing_and_is_named_with_its_line_and_remedy() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    write(
        world.dir.path().join("secrets/srs.key"),
        &format!("{}\n", "k".repeat(64)),
        0o600,
    );
    world.start().await;
    for (number, (file, text, place, remedy)) in MISTAKES.iter().enumerate() {
        let file: PathBuf = world.dir.path().join(file);
        let old = std::fs::read_to_string(&file).ok();
        let mode =
            if file.starts_with(world.dir.path().join("secrets")) || file.ends_with("users.toml") {
                0o600
            } else {
                0o644
            };
        let seen = world
            .daemon()
            .events_containing("daemon", "nothing changed: ")
            .len();
        write(file.clone(), text, mode);
        world.daemon().signal("HUP");
        let error = world
            .daemon()
            .nth_containing("daemon", "nothing changed: ", seen)
            .await;
        assert!(error.contains(place), "{place}: {error}");
        assert!(error.contains(remedy), "{remedy}: {error}");
        assert!(
            error.contains(&world.dir.path().display().to_string()),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
        // The old holds: users, aliases, keys.
        if number % 4 == 0 {
            let mut user = world.user().await;
            let sent = user
                .send(
                    USER,
                    &["sales@example.org"],
                    b"From: me@example.org\r\n\r\nHello.\r\n",
                )
                .await;
            assert_eq!(sent.expect("an answer").code, 250);
        }
        match old {
            Some(old) => write(file, &old, mode),
            None => {
                let dir = file.parent().expect("parent");
                match dir.ends_with("Example.NET") {
                    true => std::fs::remove_dir_all(dir).expect("removed"),
                    false => std::fs::remove_file(file).expect("removed"),
                }
            }
        }
    }
    let before = world.daemon().events("daemon", "reloaded").len();
    world.daemon().signal("HUP");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.daemon().events("daemon", "reloaded").len() == before {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the good files load again"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.stop().await;
}
