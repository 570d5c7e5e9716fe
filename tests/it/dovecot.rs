//! Dovecot, as Debian has it, knows users and keeps their mail. `tests/dovecot` runs it; it needs
//! root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::{arrived, body, mx, records};
use crate::oracle;
use crate::world::{HOST, PATIENCE, USER, World, write};

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
    start_at(state, 0).await
}

/// With IMAP on this port of 127.0.0.1.
async fn start_at(state: &Path, imap: u16) -> Dovecot {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dovecot");
    let child = Command::new(script)
        .arg("up")
        .arg(oracle::dovecot())
        .arg(state)
        .env("IMAP_PORT", imap.to_string())
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

/// Whether nobody may mount here; tests/run says so where it finds out.
fn not_here() -> bool {
    let none = std::env::var_os("CHAPAR_RELAYS").is_some_and(|said| said == "none");
    if none {
        println!("Dovecot is not run: nobody may mount here");
    }
    none
}

#[tokio::test(flavor = "multi_thread")]
async fn users_logins_and_mailboxes_of_dovecot() {
    if not_here() {
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

/// Lines that suffer on the way to a mailbox if anybody is careless with them.
fn letter(subject: &str) -> Vec<u8> {
    let mut letter = format!(
        "From: Me <{USER}>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         .\r\n..\r\n.dots\r\nFrom here on\r\n\r\n>From\r\ntrailing \t \r\n\
         Gr\u{fc}\u{df}e \u{1f600}\r\n{}\r\n\r\n\r\n",
        "x".repeat(998)
    )
    .into_bytes();
    // More than what is kept in memory on its way.
    for line in 0..20_000 {
        letter.extend_from_slice(format!("{line} and so on\r\n").as_bytes());
    }
    letter
}

/// Routes to Dovecot, over LMTP and into Maildirs that it reads: what comes out over IMAP is what
/// was sent, each recipient has its own reply, and each reply its consequence.
#[tokio::test(flavor = "multi_thread")]
async fn lmtp_and_maildir_routes_to_dovecot() {
    if not_here() {
        return;
    }
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    // Where notices to the sender go.
    mx(&world, "box.example", &remote).await;
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let state = dir.path().display();
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    let routes = format!(
        "\n[[route]]\nto = \"lmtp.example\"\nvia = \"lmtp:{state}/run/lmtp\"\n\
         [[route]]\nto = \"dir.example\"\nvia = \"maildir:{state}/mail/dir/{{local}}\"\n"
    );
    std::fs::write(world.config(), config + &routes).expect("write");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let imap = free.expect("a port").port();
    let _dovecot = start_at(dir.path(), imap).await;
    world.start().await;

    let letter = letter("A letter");
    let to = [
        "her@lmtp.example",
        "nobody@lmtp.example",
        "full@lmtp.example",
        "soft@lmtp.example",
        "her@dir.example",
    ];
    let mut user = world.user().await;
    let sent = user.send(USER, &to, &letter).await.expect("an answer");
    assert_eq!(sent.code, 250, "{sent:?}");
    let left = world
        .wait_queue("one waits", |queue| {
            queue.len() == 1 && queue[0]["attempts"] == 1
        })
        .await;
    assert_eq!(left[0]["to"], "soft@lmtp.example");
    let reply = left[0]["last_reply"].as_str().expect("a reply");
    assert!(reply.starts_with("452 4.2.2 "), "{reply}");
    let notices = arrived(&remote, 1).await;
    let notices: Vec<_> = notices
        .iter()
        .map(|notice| String::from_utf8_lossy(&notice.data).into_owned())
        .collect();
    let told = notices.concat();
    for (who, status) in [("nobody", "5.1.1"), ("full", "5.2.2")] {
        let report = format!("Final-Recipient: rfc822; {who}@lmtp.example");
        let (_, rest) = told.split_once(&report).expect(&told);
        let (_, rest) = rest.split_once("\r\nStatus: ").expect(rest);
        assert!(rest.starts_with(status), "{who}: {told}");
    }

    // Who delivers into a Maildir is who owns what is in it; here that is not Dovecot's user.
    let mail = dir.path().join("mail/dir");
    let chown = Command::new("chown")
        .args(["-R", "7003:7003"])
        .arg(mail)
        .status();
    assert!(chown.is_ok_and(|status| status.success()));
    for who in ["her@lmtp.example", "her@dir.example"] {
        let kept = oracle::imap(imap, who, "secret");
        assert_eq!(kept.len(), 1, "{who}");
        let text = String::from_utf8_lossy(&kept[0]);
        assert!(
            text.starts_with("Return-Path: <me@example.org>\r\n"),
            "{who}"
        );
        // The head was completed.
        assert!(body(&kept[0]) == body(&letter), "{who}");
        assert_eq!(oracle::dkimpy(&kept[0], &records(&world)), (2, 2), "{who}");
    }
    assert!(oracle::imap(imap, "full@lmtp.example", "secret").is_empty());
    world.stop().await;
}
