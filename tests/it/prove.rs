//! `chapar setup` proves what it made; `chapar guide` tells mail programs of it.

use std::process::{Command, Output};

use chapar::lab::{Mx, MxConfig};

use crate::journey::{arrived, head, mx};
use crate::world::{self, World, free_port, text};

const HOST: &str = "mx.example.org";

fn setup(world: &World, more: &[&str]) -> Output {
    let dir = world.dir.path().to_str().expect("path");
    let resolver = world.dns.address().to_string();
    Command::new(world::binary())
        .args([
            "setup",
            "example.org",
            "--dir",
            dir,
            "--resolver",
            &resolver,
        ])
        .args(["--ip", "192.0.2.1", "--forward", "me@box.example"])
        .args(more)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("chapar setup")
}

/// A site that setup made, on ports of its own, with its daemon.
async fn site(remote: &Mx) -> World {
    let mut world = World::empty().await;
    mx(&world, "box.example", remote).await;
    let first = setup(&world, &["--no-start"]);
    assert!(first.status.success(), "{}", text(&first));
    let mut config = std::fs::read_to_string(world.config()).expect("configuration");
    for port in [":25\"", ":587\"", ":465\""] {
        let at = config.find(port).expect("a listener");
        let start = config[..at].rfind('"').expect("a quote");
        config.replace_range(
            start..at + port.len(),
            &format!("\"127.0.0.1:{}\"", free_port()),
        );
    }
    let delivery = format!(
        "\n[delivery]\nport = {}\nprivate_targets = true\n[limits]\nfree_space = \"16MiB\"\n",
        remote.address().port()
    );
    world::write(world.config(), &format!("{config}{delivery}"), 0o644);
    std::fs::remove_file(world.dir.path().join("domains/example.org/users.toml")).expect("remove");
    world.start().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_logs_in_queues_verifies_and_delivers() {
    let remote = Mx::start(MxConfig {
        hostname: "mx.box.example".into(),
        starttls: true,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let world = site(&remote).await;
    let run = setup(&world, &["--test-to", "you@box.example"]);
    let out = text(&run);
    assert!(run.status.success(), "{out}");
    for part in [
        "(starttls): me@example.org: 235 2.7.0",
        "(implicit): me@example.org: 235 2.7.0",
        "✓ queue ",
        "a message was signed and made durable",
        "! dkim chapar1-rsa._domainkey.example.org: the signature can not be verified yet",
        "! dkim chapar1-ed25519._domainkey.example.org: ",
        "publish the records above; then: chapar check example.org",
        "✓ delivery you@box.example: delivered you@box.example by mx.box.example[127.0.0.1]:",
        ", TLSv1.3 ",
        ": 250 ",
        "Next: chapar guide gmail me@example.org",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let got = arrived(&remote, 1).await;
    assert!(head(&got[0].data).contains("Subject: A test of chapar setup"));
    assert!(world.queue().is_empty(), "the held message was removed");

    // The records published, the signatures hold; nothing is asked of a password it does not know.
    let records = world.run(&["dns", "example.org", "--json"]).1;
    for line in records.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let name = record["name"].as_str().expect("name");
        if name.contains("._domainkey.") {
            let text = record["text"].as_str().expect("text");
            world.dns.txt(name.trim_end_matches('.'), text);
        }
    }
    // What was not there is remembered by the daemon's resolver, not by that of a new process.
    let run = setup(&world, &[]);
    let out = text(&run);
    assert!(run.status.success(), "{out}");
    for selector in ["chapar1-rsa", "chapar1-ed25519"] {
        let holds = format!("✓ dkim {selector}._domainkey.example.org: our signature holds");
        assert!(out.contains(&holds), "{out}");
    }
    assert!(
        out.contains("not tried: only the run that makes a user"),
        "{out}"
    );
    assert!(!out.contains("Password:"), "{out}");

    // A delivery that fails is said and is the exit code.
    let run = setup(&world, &["--test-to", "you@nowhere.example"]);
    let out = text(&run);
    assert_eq!(run.status.code(), Some(1), "{out}");
    assert!(
        out.contains("✗ delivery you@nowhere.example: bounced"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_name_is_that_of_the_ptr_if_it_is_a_name_of_its_own() {
    for (ptr, host) in [
        ("smtp.company.example", "smtp.company.example"),
        ("static-1.hoster.example", HOST),
    ] {
        let world = World::empty().await;
        let ip = std::net::Ipv4Addr::new(192, 0, 2, 1);
        world.dns.ptr(ip.into(), ptr);
        world.dns.a(ptr, ip);
        let run = setup(&world, &[]);
        assert!(run.status.success(), "{}", text(&run));
        let config = std::fs::read_to_string(world.config()).expect("configuration");
        assert!(
            config.contains(&format!("hostname = \"{host}\"")),
            "{config}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guide_tells_what_to_type() {
    let world = World::new(1, "").await;
    let (code, out, error) = world.run(&["guide", "gmail", "me@example.org"]);
    assert_eq!(code, 0, "{error}");
    for part in [
        "Send mail as",
        "  Email address   me@example.org\n",
        "  SMTP Server     mx.example.org\n",
        "  Username        me@example.org\n",
        "  Secured connection using   SSL\n",
        "Gmail refuses the self-signed certificate of this host: chapar setup with --acme",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, _) = world.run(&["guide", "thunderbird", "ME@example.org", "--new-password"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("Security        SSL/TLS") && out.contains("with STARTTLS."),
        "{out}"
    );
    let password = out
        .lines()
        .find_map(|line| line.trim().strip_prefix("Password        "))
        .and_then(|line| line.split(' ').next())
        .expect("a password");
    assert!(password.starts_with("app-"), "{password}");
    let (_, out, _) = world.run(&["user", "app-password", "list", "me@example.org"]);
    assert!(out.contains("Thunderbird"), "{out}");
    let (code, _, error) = world.run(&["guide", "gmail", "nobody@example.org"]);
    assert_eq!(code, 65, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_step_by_step_and_never_used_before_the_dns_has_them() {
    let world = World::new(1, "").await;
    let rotate = |wait: &str, keep: &str| {
        let arguments = [
            "dkim",
            "rotate",
            "example.org",
            "--wait",
            wait,
            "--keep",
            keep,
        ];
        let (code, out, error) = world.run(&arguments);
        (code, format!("{out}{error}"))
    };
    let domain = world.dir.path().join("domains/example.org/domain.toml");
    let signs = || std::fs::read_to_string(&domain).expect("domain");
    let key = |selector: &str| {
        let path = format!("secrets/dkim/example.org/{selector}.pem");
        world.dir.path().join(path)
    };
    let before = signs();
    let (code, out) = rotate("0s", "0s");
    assert_eq!(code, 75, "{out}");
    assert!(out.contains("publish, and run this again:"), "{out}");
    let record = |selector: &str| {
        let name = format!("{selector}._domainkey.example.org. 3600 IN TXT ");
        let line = out.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a record")
            .replace("\" \"", "")
            .replace('"', "")
    };
    assert_eq!(signs(), before, "the DNS has no new key");
    world
        .dns
        .txt("chapar1-rsa._domainkey.example.org", &record("chapar1-rsa"));
    let (code, again) = rotate("0s", "0s");
    assert_eq!(code, 75);
    assert!(!again.contains("chapar1-rsa._domainkey"), "{again}");
    assert!(again.contains("chapar1-ed25519._domainkey"), "{again}");
    assert_eq!(signs(), before, "one of two is not enough");
    let ed25519 = record("chapar1-ed25519");
    world
        .dns
        .txt("chapar1-ed25519._domainkey.example.org", &ed25519);
    let (code, out) = rotate("1h", "7d");
    assert_eq!(code, 75);
    assert!(
        out.contains("signing with them begins in 60 minutes"),
        "{out}"
    );
    assert_eq!(signs(), before);
    let (code, out) = rotate("0s", "7d");
    assert_eq!(code, 75);
    assert!(out.contains("run this again in 168 hours"), "{out}");
    let now = signs();
    assert!(
        now.contains("selectors = [\"chapar1-rsa\", \"chapar1-ed25519\"]"),
        "{now}"
    );
    assert!(now.contains("mode = \"forward\""), "{now}");
    assert!(key("rsa1").exists() && key("chapar1-rsa").exists());
    let (code, out) = rotate("0s", "0s");
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("remove its record rsa1._domainkey.example.org."),
        "{out}"
    );
    assert!(!key("rsa1").exists() && key("chapar1-rsa").exists());
    assert!(
        !world
            .dir
            .path()
            .join("secrets/dkim/example.org/rotation.json")
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_configuration_secrets_and_queue_to_another_host() {
    use std::io::Write as _;
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    remote.on(chapar::lab::Stage::Rcpt, |_| {
        chapar::lab::Act::reply("450 4.2.0 later")
    });
    world.start().await;
    world.run(&["send", "--to", "you@box.example", "--wait", "2s"]);
    let new = tempfile::tempdir().expect("directory");
    let file = new.path().join("chapar.age");
    let file = file.to_str().expect("path");
    let run = |config: &std::path::Path, arguments: &[&str], passphrase: &str| {
        let mut child = Command::new(world::binary())
            .args(arguments)
            .arg("--config")
            .arg(config)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("chapar runs");
        let mut stdin = child.stdin.take().expect("stdin");
        let _ = stdin.write_all(passphrase.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("output");
        (output.status.code(), text(&output))
    };
    let (code, out) = run(&world.config(), &["backup", file], "a long passphrase\n");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(" and 1 messages are in "), "{out}");
    let bytes = std::fs::read(file).expect("backup");
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    assert!(!bytes.windows(11).any(|part| part == b"PRIVATE KEY"));
    assert_eq!(
        run(&world.config(), &["backup", file], "a long passphrase\n").0,
        Some(65)
    );
    assert_eq!(
        run(&world.config(), &["backup", "x.age"], "short\n").0,
        Some(65)
    );
    world.stop().await;

    let config = new.path().join("site/chapar.toml");
    let (code, out) = run(&config, &["restore", file], "another passphrase\n");
    assert_eq!(code, Some(65), "{out}");
    assert!(!config.exists());
    let (code, out) = run(&config, &["restore", file], "a long passphrase\n");
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("1 messages are in the queue"), "{out}");
    for name in [
        "chapar.toml",
        "domains/example.org/users.toml",
        "secrets/dkim/example.org/rsa1.pem",
    ] {
        let old = std::fs::read(world.dir.path().join(name)).expect(name);
        assert_eq!(
            std::fs::read(new.path().join("site").join(name)).expect(name),
            old
        );
    }
    let (_, out) = run(&config, &["queue", "list", "--json"], "");
    assert!(
        out.contains("you@box.example") && out.contains("450 4.2.0 later"),
        "{out}"
    );
    // Again, also once the message went out: nothing is there twice.
    let (code, out) = run(&config, &["restore", file], "a long passphrase\n");
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("0 messages are in the queue (1 were taken before)"),
        "{out}"
    );
    let (_, out) = run(&config, &["queue", "list", "--json"], "");
    assert_eq!(out.lines().count(), 1, "{out}");
    let (_, out) = run(
        &config,
        &["restore", file, "--no-queue"],
        "a long passphrase\n",
    );
    assert!(out.starts_with("0 files restored"), "{out}");
}
