//! Mail servers of others take our mail over STARTTLS and keep it: nothing of it is lost on the
//! way, and its signatures hold. `tests/relay` runs Postfix, OpenSMTPD and Exim; it needs root.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chapar::lab::Client;
use serde_json::Value;

use crate::journey::records;
use crate::oracle;
use crate::peers::{Peer, aiosmtpd, files, find, normalised};
use crate::world::{PATIENCE, USER, World, write};

/// A server that keeps mail, and where.
struct Keeper {
    _peer: Peer,
    /// Where its messages lie, and how their names begin and end.
    kept: (PathBuf, &'static str, &'static str),
    log: PathBuf,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Starts one of those of `tests/relay` for mail to anybody at `host`.
async fn keeper(name: &str, host: &str, address: &str, port: u16, dir: &Path) -> Keeper {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let peers = oracle::postfix("../relay");
    let installed = peers.join("installed");
    assert!(installed.exists(), "{installed:?}: tests/run makes it");
    let peers = peers.canonicalize().expect("path");
    let made = chapar::tls::self_signed::generate(host, std::time::SystemTime::now());
    let made = made.expect("certificate");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| dir.join(file));
    write(certificate.clone(), &made.certificate, 0o644);
    write(key.clone(), &made.key, 0o600);
    let (state, log) = (dir.join("state"), dir.join("log"));
    let output = std::fs::File::create(&log).expect("log");
    let child = Command::new(root.join("tests/relay"))
        .args(["keep", name])
        .arg(peers)
        .arg(&state)
        .arg(port.to_string())
        .env("HOST", host)
        .env("ADDRESS", address)
        .env("CERTIFICATE", certificate)
        .env("KEY", key)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("log"))
        .stderr(output)
        .spawn()
        .expect("tests/relay runs");
    let mut keeper = Keeper {
        _peer: Peer(child),
        kept: (state.join("var/mail/box/new"), "", ""),
        log,
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let server = (address, port)
        .to_socket_addrs()
        .expect("an address")
        .next();
    let greeted = async || {
        let mut client = Client::connect(server.expect("an address")).await.ok()?;
        client.reply().await.ok().filter(|reply| reply.code == 220)
    };
    while greeted().await.is_none() {
        let ended = keeper._peer.0.try_wait().expect("status");
        assert!(ended.is_none(), "{name} ended: {ended:?}");
        let late = tokio::time::Instant::now() >= deadline;
        assert!(!late, "{name} does not listen");
        // It has no event for the outside.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    keeper
}

/// A letter of lines that suffer if anybody on the way is careless, and one with a line that is
/// longer than SMTP allows, which leaves us as quoted-printable.
fn letters() -> [Vec<u8>; 2] {
    let head = |subject: &str| {
        format!(
            "From: Me <{USER}>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
             X-Folded: a\r\n\tb\r\n   c \r\n\r\n"
        )
    };
    let lines = ".\r\n..\r\n.dots\r\n. \r\nFrom here on\r\n>From\r\ntrailing \t \r\n\
                 Gr\u{fc}\u{df}e \u{1f600}\r\n\t.\r\n";
    let long = "x".repeat(998);
    let rest = "1234567 and so on\r\n".repeat(20_000);
    let first = format!(
        "{}{lines}{long}\r\n.{}\r\n{rest}\r\n\r\n",
        head("lines"),
        &long[1..]
    );
    let second = format!("{}{}\r\n{lines}", head("long"), "\u{fc}ber ".repeat(1000));
    [first, second].map(String::into_bytes)
}

async fn keeps(name: &str, address: u8, tls: &str) {
    if name != "aiosmtpd" && std::env::var_os("CHAPAR_RELAYS").is_some_and(|said| said == "none") {
        // tests/run says so where it finds out.
        println!("{name} is not run: nobody may mount here");
        return;
    }
    let host = format!("mx.{name}.example");
    let ip = format!("127.0.0.{address}");
    // None of them can be told to take any port and to say which.
    let free = TcpListener::bind((ip.as_str(), 0)).and_then(|free| free.local_addr());
    let port = free.expect("a port").port();
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("mode");
    let keeper = match name {
        "aiosmtpd" => Keeper {
            _peer: aiosmtpd(address, port, dir.path()),
            kept: (dir.path().to_owned(), "aio-", ".eml"),
            log: dir.path().join("log"),
        },
        _ => keeper(name, &host, &ip, port, dir.path()).await,
    };
    let mut world = World::new(port, "").await;
    world.dns.mx(&host, 10, &host);
    world.dns.a(&host, ip.parse().expect("an address"));
    world.start().await;

    let letters = letters();
    for letter in &letters {
        let mut user = world.user().await;
        let to = format!("anybody@{host}");
        let reply = user.send(USER, &[&to], letter).await.expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let (place, prefix, suffix) = &keeper.kept;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !place.exists() {
        assert!(tokio::time::Instant::now() < deadline, "nothing arrives");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let kept = files(place, prefix, suffix, 2).await;
    assert_eq!(kept.len(), 2);
    let kept = kept.iter().map(|path| std::fs::read(path).expect("read"));
    let kept: Vec<Vec<u8>> = match name {
        "aiosmtpd" => kept.collect(),
        // On disk their lines end as the system's do.
        _ => kept.map(|message| normalised(&message)).collect(),
    };
    let of = |subject: &str| {
        let part = format!("\r\nSubject: {subject}\r\n");
        let found = kept.iter().find(|one| find(one, part.as_bytes()).is_some());
        found.expect(subject)
    };
    for message in &kept {
        // Both signatures, over what lies there.
        assert_eq!(oracle::dkimpy(message, &records(&world)), (2, 2), "{name}");
        let ours = find(message, b"Received: from localhost").expect("our trace");
        let theirs = String::from_utf8_lossy(&message[..ours]);
        assert!(theirs.contains(tls), "{theirs}");
    }
    if name == "aiosmtpd" {
        for told in files(place, prefix, ".json", 2).await {
            let told: Value =
                serde_json::from_slice(&std::fs::read(told).expect("read")).expect("JSON");
            assert_eq!(told["tls"], true, "{told}");
        }
    }
    let (_, body) = split(&letters[0]);
    let (_, lines) = split(of("lines"));
    assert!(lines == body, "{name}: not what was sent");
    let (head, encoded) = split(of("long"));
    assert!(find(head, b"Content-Transfer-Encoding: quoted-printable").is_some());
    assert!(
        encoded
            .split(|byte| *byte == b'\n')
            .all(|line| line.len() <= 998)
    );

    // What we say of it is what they say.
    let attempts = world.daemon().events("delivery", "attempt");
    assert_eq!(attempts.len(), 2);
    for attempt in &attempts {
        assert_eq!(attempt["status"], "delivered", "{attempt}");
        let used = attempt["tls"].as_str().unwrap_or_default();
        assert!(used.starts_with("TLSv1.3"), "{attempt}");
    }
    world.wait_queue("it is empty", <[Value]>::is_empty).await;
    assert_eq!(world.stop().await, Some(0));
}

/// Head and body.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = find(message, b"\r\n\r\n").expect("an empty line") + 4;
    message.split_at(end)
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_keeps_what_we_sent_and_its_signatures_hold() {
    keeps("postfix", 5, "using TLSv1.3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opensmtpd_keeps_what_we_sent_and_its_signatures_hold() {
    // Debian's can not do TLS itself: stunnel in front of it does, and asks for it.
    keeps("opensmtpd", 6, "(OpenSMTPD) with ESMTP id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exim_keeps_what_we_sent_and_its_signatures_hold() {
    keeps("exim", 7, "(TLS1.3)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aiosmtpd_keeps_what_we_sent_and_its_signatures_hold() {
    // What it is given is written as it came, without a word of its own; that TLS was used is in
    // the file beside it.
    keeps("aiosmtpd", 8, "").await;
}
