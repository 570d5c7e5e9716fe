//! `chapar import chasquid`, against Debian's chasquid where it is installed.

use std::path::Path;
use std::process::Command;

use chapar::lab::{Client, Mx, MxConfig};
use serde_json::Value;

use crate::world;

const QUEUED: &str = r#"ID:  "abc123"
From:  "me@example.org"
Rcpt:  {
  Address:  "you@box.example"
  Type:  EMAIL
  Status:  PENDING
  LastFailureMessage:  "451 later"
  OriginalAddress:  "you@box.example"
}
Rcpt:  {
  Address:  "done@box.example"
  Type:  EMAIL
  Status:  SENT
}
Data:  "Subject: \303\244\r\nFrom: me@example.org\r\n\r\nhello\r\n"
CreatedAtTs:  {
  seconds:  1700000000
}
"#;

/// Debian's chasquid-util; `tests/run` has it.
fn chasquid_util() -> std::ffi::OsString {
    std::env::var_os("CHAPAR_CHASQUID_UTIL").unwrap_or_else(|| "chasquid-util".into())
}

/// One user as chasquid 1.11 wrote it; the password is "old password".
fn chasquid(dir: &Path) -> bool {
    let write = |name: &str, text: &str| world::write(dir.join(name), text, 0o640);
    let conf = "hostname: \"mx.example.org\"\nsmtp_address: \":2525\"\nsubmission_address: \"127.0.0.1:2587\"\n\
                submission_over_tls_address: \"systemd\"\nmax_data_size_mb: 20\ndata_dir: \"DATA\"\n\
                mail_delivery_agent_bin: \"/usr/bin/env\"\nmail_delivery_agent_args: \"-f\"\n\
                mail_delivery_agent_args: \"%from%\"\nmail_delivery_agent_args: \"-d\"\n\
                mail_delivery_agent_args: \"%to_user%\"\n";
    write(
        "chasquid.conf",
        &conf.replace("DATA", &dir.join("data").display().to_string()),
    );
    write("data/queue/m:abc123", QUEUED);
    write(
        "domains/example.org/aliases",
        "# of chasquid\nsales: a@one.example, b@two.example\nlist: | /usr/bin/env list\n\
         info: me\n*: me@box.example\n",
    );
    write("domains/example.net/aliases", "*: *@example.org\n");
    let key =
        chapar::signing::keys::PrivateKey::generate(chapar::signing::keys::Algorithm::Ed25519);
    write(
        "domains/example.org/dkim:20260101.pem",
        &key.expect("key").to_pem(),
    );
    let made = chapar::tls::self_signed::generate("mx.example.org", std::time::SystemTime::now());
    let made = made.expect("certificate");
    write("certs/mx.example.org/fullchain.pem", &made.certificate);
    write("certs/mx.example.org/privkey.pem", &made.key);
    for user in ["me@example.org", "dora@example.net"] {
        let added = Command::new(chasquid_util())
            .arg(format!("-C={}", dir.display()))
            .args(["user-add", user, "--password=old password"])
            .output();
        match added {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => return false,
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn users_aliases_keys_and_mail_of_chasquid_go_on() {
    let old = tempfile::tempdir().expect("directory");
    if !chasquid(old.path()) {
        eprintln!("skipped: no chasquid-util; tests/run gets it");
        return;
    }
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = world::World::new(remote.address().port(), "").await;
    crate::journey::mx(&world, "box.example", &remote).await;
    let lab = std::fs::read_to_string(world.config()).expect("configuration");
    let new = tempfile::tempdir().expect("directory");
    let config = new.path().join("chapar.toml");
    let run = |arguments: &[&str]| {
        let output = Command::new(world::binary())
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .output()
            .expect("chapar runs");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{out}{error}");
        out
    };
    let from = old.path().to_str().expect("path");
    let out = run(&["import", "chasquid", from, "--no-queue"]);
    assert!(out.contains("2 domains, 2 users"), "{out}");
    let text = std::fs::read_to_string(&config).expect("configuration");
    for part in [
        "hostname = \"mx.example.org\"",
        ":2525\"\nservice = \"mx\"\ntls = \"starttls\"",
        "address = \"127.0.0.1:2587\"\nservice = \"submission\"\ntls = \"starttls\"",
        ":465\"\nservice = \"submission\"\ntls = \"implicit\"",
        "message = \"20MiB\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The same key, the same certificate, and a second run changes nothing.
    let domain = std::fs::read_to_string(new.path().join("domains/example.org/domain.toml"));
    assert!(
        domain
            .expect("domain")
            .contains("selectors = [\"20260101\"]")
    );
    assert!(
        new.path()
            .join("secrets/dkim/example.org/20260101.pem")
            .exists()
    );
    let chain = |root: &Path, name: &str| std::fs::read(root.join(name)).expect("chain");
    assert_eq!(
        chain(old.path(), "certs/mx.example.org/fullchain.pem"),
        chain(new.path(), "secrets/tls/mx.example.org/fullchain.pem")
    );
    assert!(!run(&["import", "chasquid", from, "--no-queue"]).contains("wrote "));

    // Addresses lead where chasquid says they lead.
    for address in [
        "sales@example.org",
        "s.ales@example.org",
        "sales+tag@example.org",
        "list@example.org",
        "info@example.org",
        "me@example.org",
    ] {
        let asked = Command::new(chasquid_util())
            .arg(format!("-C={from}"))
            .args(["aliases-resolve", address])
            .output()
            .expect("chasquid-util");
        let theirs = String::from_utf8_lossy(&asked.stdout).into_owned();
        let ours = run(&["alias", "resolve", address]);
        let targets = theirs.lines().filter(|line| line.starts_with('('));
        assert!(targets.clone().count() > 0, "{address}: {theirs}");
        for line in targets {
            // "(email)  a@one.example" or "(pipe)   /usr/bin/env list".
            let target = line
                .split_once(')')
                .map_or(line, |(_, target)| target.trim());
            let has_mailbox = target == "me@example.org";
            match has_mailbox {
                true => assert!(ours.contains("/usr/bin/env -d me"), "{address}: {ours}"),
                false => assert!(ours.contains(target), "{address}: {theirs} but {ours}"),
            }
        }
    }

    // A catch-all, which chasquid-util knows from version 1.12 on.
    for (address, target) in [
        ("nobody@example.org", "me@box.example"),
        ("sales@example.net", "a@one.example"),
        ("anybody@example.net", "me@box.example"),
    ] {
        let ours = run(&["alias", "resolve", address]);
        assert!(ours.contains(target), "{address}: {ours}");
    }

    // The old password, on a daemon with this directory; its mail goes out.
    let listeners = lab.find("[[listen]]").expect("listeners");
    let host = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n";
    let limits = "[limits]\nfree_space = \"16MiB\"\n";
    world::write(
        config.clone(),
        &format!("{host}{}{limits}", &lab[listeners..]),
        0o644,
    );
    let out = run(&["import", "chasquid", from]);
    assert!(out.contains("1 messages taken"), "{out}");
    let queue = run(&["queue", "list", "--json"]);
    let waits: Value = serde_json::from_str(queue.lines().next().expect("a line")).expect("JSON");
    assert_eq!(waits["to"], "you@box.example");
    assert_eq!(queue.lines().count(), 1, "who has it gets it no more");
    let again = run(&["import", "chasquid", from]);
    assert!(
        again.contains("0 messages taken") && again.contains("(1 were taken before)"),
        "{again}"
    );
    assert_eq!(run(&["queue", "list", "--json"]), queue, "once is enough");
    world.dir = new;
    world.start().await;
    let got = crate::journey::arrived(&remote, 1).await;
    assert_eq!(got[0].recipients, ["you@box.example"]);
    assert!(got[0].data.ends_with(b"\r\n\r\nhello\r\n"));
    world
        .wait_queue("it was delivered", |queue| queue.is_empty())
        .await;
    let output = Command::new(world::binary())
        .args(["import", "chasquid", from, "--config"])
        .arg(world.config())
        .output()
        .expect("chapar runs");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(out.contains("0 messages taken"), "also afterwards: {out}");
    for (user, password, code) in [
        ("me@example.org", "old password", 235),
        ("dora@example.net", "old password", 235),
        ("me@example.org", "another", 535),
    ] {
        let port = world.daemon().port("submission/implicit");
        let mut client = Client::connect_tls(port, world::HOST)
            .await
            .expect("connect");
        client.reply().await.expect("greeting");
        client.expect("EHLO c.example", 250).await.expect("EHLO");
        let answer = client.auth_plain(user, password).await.expect("AUTH");
        assert_eq!(answer.code, code, "{user}: {}", answer.text);
    }
}
