//! rspamd, as Debian has it, is a milter of ours.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use chapar::lab::{Mx, MxConfig};

use crate::journey::{arrived, head, mx};
use crate::oracle;
use crate::world::{PATIENCE, World};

/// The text that every spam filter takes for spam.
const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

/// rspamd as a daemon, until it is dropped.
struct Rspamd {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Rspamd {
    fn drop(&mut self) {
        // It ends its workers, which a kill would leave behind.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let _ = self.child.wait();
    }
}

impl Rspamd {
    /// Listens on `port`; its DNS is at `dns`.
    async fn start(port: u16, dns: std::net::SocketAddr) -> Rspamd {
        let dir = tempfile::tempdir().expect("directory");
        let local = dir.path().join("local.d");
        std::fs::create_dir(&local).expect("directory");
        let off = "enabled = false;\n";
        for (name, text) in [
            (
                "worker-proxy.inc",
                format!(
                    "bind_socket = \"127.0.0.1:{port}\";\nmilter = yes;\ncount = 1;\n\
                     upstream \"local\" {{ default = yes; self_scan = yes; }}\n"
                ),
            ),
            ("worker-normal.inc", off.to_owned()),
            ("worker-controller.inc", off.to_owned()),
            ("worker-fuzzy.inc", off.to_owned()),
            ("fuzzy_check.conf", off.to_owned()),
            ("logging.inc", "type = \"console\";\n".to_owned()),
            (
                "options.inc",
                format!(
                    "dns {{ nameserver = [\"{}:{}\"]; timeout = 1s; retransmits = 1; }}\n",
                    dns.ip(),
                    dns.port()
                ),
            ),
        ] {
            std::fs::write(local.join(name), text).expect("write");
        }
        let root = oracle::rspamd();
        let share = root.join("usr/share/rspamd");
        let place = dir.path().display().to_string();
        let variable = |name: &str, value: String| format!("--var={name}={value}");
        let log = File::create(dir.path().join("log")).expect("log");
        let child = Command::new(root.join("usr/bin/rspamd"))
            .env("LD_LIBRARY_PATH", root.join("usr/lib/rspamd"))
            // No other user is needed where everything is below a directory of its own.
            .args(["-f", "-i", "-c"])
            .arg(root.join("etc/rspamd/rspamd.conf"))
            .arg(variable(
                "CONFDIR",
                root.join("etc/rspamd").display().to_string(),
            ))
            .arg(variable("LOCAL_CONFDIR", place.clone()))
            .args(["DBDIR", "RUNDIR", "LOGDIR"].map(|name| variable(name, place.clone())))
            .arg(variable("SHAREDIR", share.display().to_string()))
            .args(
                [
                    ("PLUGINSDIR", ""),
                    ("RULESDIR", "rules"),
                    ("LUALIBDIR", "lualib"),
                    ("WWWDIR", "www"),
                ]
                .map(|(name, below)| variable(name, share.join(below).display().to_string())),
            )
            .stdout(log.try_clone().expect("log"))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("rspamd runs");
        let rspamd = Rspamd { child, dir };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(tokio::time::Instant::now() < deadline, "{}", rspamd.log());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        rspamd
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rspamd_passes_what_is_good_and_refuses_what_is_spam() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = free.expect("a port").port();
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    let with = format!("milters = [\"inet:127.0.0.1:{port}\"]\ntls = ");
    std::fs::write(world.config(), config.replacen("tls = ", &with, 1)).expect("write");
    let rspamd = Rspamd::start(port, world.dns.address()).await;
    world.start().await;
    let letter = |body: &str| {
        format!(
            "From: Her <her@src.example>\r\nTo: i@example.org\r\nSubject: A letter\r\n\
             Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n\r\n{body}\r\n"
        )
    };
    let mut client = world.mx().await;
    let answer = client
        .send(
            "her@src.example",
            &["i@example.org"],
            letter("Hello.").as_bytes(),
        )
        .await
        .expect("an answer");
    assert_eq!(answer.code, 250, "{} {}", answer.text, rspamd.log());
    let answer = client
        .send(
            "her@src.example",
            &["i@example.org"],
            letter(GTUBE).as_bytes(),
        )
        .await
        .expect("an answer");
    assert!(
        answer.text.starts_with("554 5.7.1 "),
        "{} {}",
        answer.text,
        rspamd.log()
    );
    let received = arrived(&remote, 1).await;
    let top = head(&received[0].data);
    assert!(top.contains("Subject: A letter"), "{top}");
    assert_eq!(remote.received().len(), 1);
    // Without it mail is deferred, not passed on unseen.
    drop(rspamd);
    let mut client = world.mx().await;
    let later = client
        .command("MAIL FROM:<her@src.example>")
        .await
        .expect("an answer");
    assert!(later.text.starts_with("451 4.7.1 "), "{}", later.text);
    world.stop().await;
}
