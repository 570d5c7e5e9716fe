//! Dovecot, as Debian has it, knows users and keeps their mail. `tests/dovecot` runs it; it needs
//! root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::{arrived, mx};
use crate::oracle;
use crate::world::{HOST, PATIENCE, World, write};

const MESSAGE: &[u8] = b"From: Her <a@src.example>\r\nSubject: A letter\r\n\r\nHello.\r\n";

/// Dovecot until it is dropped.
struct Dovecot(Child);

impl Drop for Dovecot {
    fn drop(&mut self) {
        // The view ends with its first process.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(state: &Path) -> Dovecot {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dovecot");
    let child = Command::new(script)
        .arg("up")
        .arg(oracle::dovecot())
        .arg(state)
        .stdin(Stdio::null())
        .spawn()
        .expect("tests/dovecot runs");
    let mut dovecot = Dovecot(child);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for socket in ["auth-client", "auth-userdb", "lmtp"] {
        let path = state.join("run").join(socket);
        while tokio::net::UnixStream::connect(&path).await.is_err() {
            let ended = dovecot.0.try_wait().expect("status");
            assert!(ended.is_none(), "Dovecot ended: {ended:?}");
            assert!(tokio::time::Instant::now() < deadline, "{socket}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    dovecot
}

#[tokio::test(flavor = "multi_thread")]
async fn users_logins_and_mailboxes_of_dovecot() {
    if std::env::var_os("CHAPAR_RELAYS").is_some_and(|said| said == "none") {
        // tests/run says so where it finds out.
        println!("Dovecot is not run: nobody may mount here");
        return;
    }
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    // Its users must be able to walk there.
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let run = dir.path().join("run").display().to_string();
    let domain = world.dir.path().join("domains/example.org");
    let text = format!(
        "mode = \"mailbox\"\nmailbox = \"lmtp:{run}/lmtp\"\ndovecot = true\nselectors = [\"ed1\"]\n"
    );
    write(domain.join("domain.toml"), &text, 0o644);
    write(
        domain.join("aliases"),
        "info: her\n*: all@box.example\n",
        0o644,
    );
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    let auth = format!(
        "\n[auth]\ndovecot = \"{run}/auth-client\"\ndovecot_users = \"{run}/auth-userdb\"\n"
    );
    std::fs::write(world.config(), config + &auth).expect("write");
    let _dovecot = start(dir.path()).await;
    world.start().await;
    for to in [
        "her@example.org",
        "HER+tag@example.org",
        "info@example.org",
        "nobody@example.org",
    ] {
        let mut client = world.mx().await;
        let answer = client.send("a@src.example", &[to], MESSAGE).await;
        assert_eq!(answer.expect("an answer").code, 250, "{to}");
    }
    assert_eq!(arrived(&remote, 1).await[0].recipients, ["all@box.example"]);
    world
        .wait_queue("all is delivered", |queue| queue.is_empty())
        .await;
    let kept: Vec<String> = std::fs::read_dir(dir.path().join("mail/her/new"))
        .expect("a Maildir")
        .map(|file| std::fs::read_to_string(file.expect("entry").path()).expect("text"))
        .collect();
    assert_eq!(kept.len(), 3);
    for text in &kept {
        assert!(text.starts_with("Return-Path: <a@src.example>\n"), "{text}");
        assert!(text.contains("\nDelivered-To: her"), "{text}");
    }
    // A login, and one with the wrong password, which Dovecot answers late.
    let port = world.daemon().port("submission/implicit");
    for (password, code) in [("wrong", 535), ("secret", 235)] {
        let mut client = Client::connect_tls(port, HOST).await.expect("connect");
        client.reply().await.expect("greeting");
        client
            .expect("EHLO client.example.org", 250)
            .await
            .expect("EHLO");
        let answer = client
            .auth_plain("her@example.org", password)
            .await
            .expect("AUTH");
        assert_eq!(answer.code, code, "{}", answer.text);
        if code == 235 {
            let message = b"From: her@example.org\r\nSubject: x\r\n\r\nbody\r\n";
            let sent = client
                .send("her@example.org", &["you@box.example"], message)
                .await;
            assert_eq!(sent.expect("an answer").code, 250);
            let other = client
                .command("MAIL FROM:<me@example.org>")
                .await
                .expect("an answer");
            assert_eq!(other.code, 553, "{}", other.text);
        }
    }
    assert_eq!(arrived(&remote, 2).await[1].reverse_path, "her@example.org");
    world.stop().await;
}
