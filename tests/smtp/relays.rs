//! Mail servers of others that use ours as their smarthost: over TLS whose certificate they verify,
//! with a login, on both ports. `tests/relay` runs them; it needs root.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chapar::lab::Client;

use crate::interop::{arrived, certificate, port, world};
use crate::world::{HOST, PASSWORD, PATIENCE, USER, World};

/// A running mail server, which ends with all its processes when this is dropped.
struct Relay {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

impl Relay {
    fn start(name: &str, world: &World, tls: &str) -> Relay {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bin = std::env::var_os("CHAPAR_PEERS").map(PathBuf::from);
        let bin = bin.unwrap_or_else(|| root.join("target/peers/bin"));
        let peers = bin.join("../relay");
        let installed = peers.join("installed");
        assert!(installed.exists(), "{installed:?}: tests/run makes it");
        let peers = peers.canonicalize().expect("path");
        // None of the three can be told to take any port and to say which.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("port");
        let address = free.local_addr().expect("address");
        drop(free);
        let state = world.dir.path().join(format!("{name}-{tls}"));
        let log = state.with_extension("log");
        let output = std::fs::File::create(&log).expect("log");
        let child = Command::new(root.join("tests/relay"))
            .args(["up", name])
            .arg(peers)
            .arg(&state)
            .arg(address.port().to_string())
            .env("HOST", HOST)
            .env("TO_PORT", port(world, &format!("submission/{tls}")))
            .env("TLS", tls)
            .env("AUTH_USER", USER)
            .env("AUTH_PASSWORD", PASSWORD)
            .env("CA", certificate(world))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("log"))
            .stderr(output)
            .spawn()
            .expect("tests/relay runs");
        Relay {
            child,
            address,
            log,
        }
    }

    /// A client of the server, once it listens and has greeted.
    async fn client(&mut self) -> Client {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = Client::connect(self.address).await
                && let Ok(answer) = client.reply().await
            {
                assert_eq!(answer.code, 220, "{answer:?}");
                return client;
            }
            let ended = self.child.try_wait().expect("status");
            assert!(ended.is_none(), "the mail server ended: {ended:?}");
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "the mail server does not listen");
            // It has no event for the outside.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn relays(name: &str) {
    if std::env::var_os("CHAPAR_RELAYS").is_some_and(|said| said == "none") {
        // tests/run says so where it finds out.
        println!("{name} is not run: nobody may mount here");
        return;
    }
    let (world, remote) = world().await;
    for (count, tls) in [(1, "starttls"), (2, "implicit")] {
        let mut relay = Relay::start(name, &world, tls);
        let mut client = relay.client().await;
        client
            .expect("EHLO client.example.org", 250)
            .await
            .expect("EHLO");
        let message = format!(
            "From: {USER}\r\nTo: you@box.example\r\nSubject: {tls}\r\n\r\n.dot\r\nGrüße\r\n"
        );
        let to = ["you@box.example", "too@box.example"];
        let answer = client.send(USER, &to, message.as_bytes()).await;
        assert_eq!(answer.expect("message").code, 250);
        let messages = arrived(&remote, count).await;
        let subject = format!("\r\nSubject: {tls}\r\n");
        let message = messages.iter().find(|message| message.contains(&subject));
        let message = message.expect(tls);
        assert!(message.contains(" with ESMTPSA id "), "{message}");
        assert!(message.contains("by relay.example.net"), "{message}");
        assert!(message.contains("\r\n.dot\r\n"), "{message}");
    }
    assert_eq!(remote.received().len(), 2);
    let refused = world.daemon().events("auth", "login refused");
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_relays_over_tls_with_a_login() {
    relays("postfix").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opensmtpd_relays_over_tls_with_a_login() {
    relays("opensmtpd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exim_relays_over_tls_with_a_login() {
    relays("exim").await;
}
