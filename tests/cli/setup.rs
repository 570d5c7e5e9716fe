//! `chapar setup` as an operator meets it: the real binary, twice, every byte compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::site::{chapar, run, stdout, text};

/// Every file below `dir` with its mode and bytes.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777;
        if path.is_dir() {
            files.extend(snapshot(&path));
            files.insert(path, (mode, Vec::new()));
        } else {
            let bytes = fs::read(&path).expect("read");
            files.insert(path, (mode, bytes));
        }
    }
    files
}

/// The password on the line that shows it.
fn password(output: &str) -> Option<&str> {
    let line = output.lines().find(|line| line.starts_with("Password: "))?;
    line.split_whitespace().nth(1)
}

fn verify(config: &str, address: &str, password: &str) -> Option<i32> {
    let words = [
        "user",
        "verify",
        address,
        "--password-stdin",
        "--config",
        config,
    ];
    run(&words, &format!("{password}\n")).status.code()
}

#[test]
fn the_second_run_changes_no_byte() {
    let dir = tempfile::tempdir().expect("directory");
    let site = dir.path().join("site");
    let at = site.to_str().expect("path");
    let config = format!("{at}/chapar.toml");
    let args = [
        "setup",
        "Example.org",
        "--dir",
        at,
        "--forward",
        "me@gmail.example",
        "--ip",
        "192.0.2.1",
    ];

    let first = stdout(&chapar(&args));
    let before = snapshot(&site);
    let second = stdout(&chapar(&args));
    assert_eq!(snapshot(&site), before);

    let shown = password(&first).expect("the password is shown");
    assert_eq!(verify(&config, "me@example.org", shown), Some(0));
    assert_eq!(
        verify(&config, "me@example.org", "another password"),
        Some(77)
    );
    assert_eq!(verify(&config, "you@example.org", shown), Some(67));
    assert!(
        !before
            .values()
            .any(|(_, bytes)| text(bytes).contains(shown)),
        "only its hash is kept"
    );
    assert_eq!(password(&second), None);
    assert!(
        second.starts_with("Nothing was missing: all 9 files were kept as they are.\n"),
        "{second}"
    );
    let records = |output: &str| -> Vec<String> {
        output
            .lines()
            .filter(|line| line.contains(" IN "))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(records(&first), records(&second));

    for (path, (mode, _)) in &before {
        let name = path
            .strip_prefix(&site)
            .expect("below")
            .to_str()
            .expect("name");
        let expected = match name {
            _ if name.starts_with("secrets") && path.is_dir() => 0o700,
            _ if name.starts_with("secrets") || name.ends_with("users.toml") => 0o600,
            _ if path.is_dir() => 0o750,
            _ => 0o640,
        };
        assert_eq!(*mode, expected, "{name}: {mode:o}");
    }
    let ignored = &before.get(&site.join(".gitignore")).expect(".gitignore").1;
    assert_eq!(text(ignored), "/secrets/\n/data/\n");
    assert!(
        stdout(&chapar(&["check", "--config", &config]))
            .contains("good: listeners 3, domains 1, users 1")
    );
    assert_eq!(
        stdout(&chapar(&[
            "alias",
            "resolve",
            "any123@example.org",
            "--config",
            &config
        ])),
        "me@gmail.example\n"
    );
    assert_eq!(
        stdout(&chapar(&["alias", "list", "--config", &config])),
        "*@example.org: me@gmail.example\nme@example.org: me@gmail.example\n"
    );
}

#[test]
fn what_is_missing_is_repaired_and_nothing_else() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let run = || stdout(&chapar(&["setup", "example.org", "--dir", at]));
    run();
    let key = dir
        .path()
        .join("secrets/dkim/example.org/chapar1-ed25519.pem");
    fs::remove_file(&key).expect("remove");
    fs::remove_file(dir.path().join(".gitignore")).expect("remove");
    fs::write(
        dir.path().join("domains/example.org/aliases"),
        "a: b@gmail.example\n",
    )
    .expect("write");
    let before = snapshot(dir.path());
    let output = run();
    assert!(
        output.contains("chapar1-ed25519.pem\n") && output.contains("kept 7 files"),
        "{output}"
    );
    let mut after = snapshot(dir.path());
    assert!(after.remove(&key).is_some_and(|(mode, _)| mode == 0o600));
    assert!(after.remove(&dir.path().join(".gitignore")).is_some());
    assert_eq!(after, before);
}

#[test]
fn s17_a_setup_that_was_ended_between_key_and_chain_is_run_again() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let run = || chapar(&["setup", "example.org", "--dir", at]);
    stdout(&run());
    let tls = dir.path().join("secrets/tls/mx.example.org");
    let (chain, key) = (tls.join("fullchain.pem"), tls.join("privkey.pem"));
    let kept = fs::read(&key).expect("key");
    fs::remove_file(&chain).expect("remove");
    stdout(&run());
    assert_eq!(fs::read(&key).expect("key"), kept, "the key stays");
    let config = format!("{at}/chapar.toml");
    stdout(&chapar(&["check", "--config", &config]));
    // What can not be mended is refused with what to do.
    let made = chapar::tls::self_signed::generate("x", std::time::SystemTime::now());
    let other = made.expect("certificate");
    fs::write(&chain, other.certificate).expect("write");
    let refused = run();
    assert_eq!(refused.status.code(), Some(65));
    let error = text(&refused.stderr);
    assert!(error.contains("do not belong together") && error.contains("--cert and --key"));
    fs::remove_file(&key).expect("remove");
    let refused = run();
    assert_eq!(refused.status.code(), Some(65));
    let error = text(&refused.stderr);
    assert!(error.contains("has no key beside it"), "{error}");
    fs::remove_file(&chain).expect("remove");
    stdout(&run());
    stdout(&chapar(&["check", "--config", &config]));
}

#[test]
fn s17_a_rehearsal_that_is_ended_leaves_no_secret() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempfile::tempdir().expect("directory");
    let (site, tmp) = (dir.path().join("site"), dir.path().join("tmp"));
    fs::create_dir(&tmp).expect("directory");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_chapar"))
            .args(["setup", "example.org", "--dry-run", "--dir"])
            .arg(&site)
            .env("TMPDIR", &tmp)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("chapar runs");
        // It is met while it writes: the RSA key takes some time.
        let began = std::time::Instant::now();
        let made = |path: &Path| path.join("chapar.toml").exists();
        let rehearses = || {
            fs::read_dir(&tmp)
                .expect("list")
                .flatten()
                .any(|e| made(&e.path()))
        };
        while !rehearses() {
            assert!(began.elapsed().as_secs() < 30, "there is no rehearsal");
            assert_eq!(child.try_wait().expect("status"), None, "it ended too soon");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let id = i32::try_from(child.id()).expect("id");
        kill_process(Pid::from_raw(id).expect("id"), signal).expect("kill");
        assert_eq!(child.wait().expect("status").code(), Some(code));
        assert_eq!(fs::read_dir(&tmp).expect("list").count(), 0, "{code}");
    }
    assert!(!site.exists());
}

/// What root writes must be readable by the daemon, which is not root.
#[test]
fn files_belong_to_whom_the_directory_belongs() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let config = format!("{at}/chapar.toml");
    // Only root can give a directory away; for others both are theirs.
    let _ = chown(dir.path(), Some(12_345), Some(12_346));
    stdout(&chapar(&["setup", "example.org", "--dir", at]));
    stdout(&chapar(&[
        "user",
        "passwd",
        "me@example.org",
        "--config",
        &config,
    ]));
    stdout(&chapar(&[
        "alias",
        "add",
        "a@example.org",
        "b@gmail.example",
        "--config",
        &config,
    ]));
    let owner = |path: &Path| {
        let found = fs::metadata(path).expect("metadata");
        (found.uid(), found.gid())
    };
    for path in snapshot(dir.path()).keys() {
        assert_eq!(owner(path), owner(dir.path()), "{}", path.display());
    }
}

#[test]
fn acme_is_configured_with_its_listeners_and_records() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let config = format!("{at}/chapar.toml");
    let setup = |more: &[&str]| {
        let first = [
            "setup",
            "example.org",
            "--dir",
            at,
            "--forward",
            "a@b.example",
        ];
        chapar(&[&first, more].concat())
    };
    let shown = stdout(&setup(&[
        "--acme",
        "--acme-directory",
        "https://ca.example.net/dir",
    ]));
    let text = std::fs::read_to_string(&config).expect("configuration");
    assert!(text.contains("[acme]\nenabled = true\ndirectory = \"https://ca.example.net/dir\"\n"));
    assert!(text.contains(":80\"]\nhttps = [\""), "{text}");
    assert!(
        shown.contains("mta-sts.example.org. 3600 IN CNAME mx.example.org.\n"),
        "{shown}"
    );
    let id = shown
        .lines()
        .find_map(|line| line.strip_prefix("_mta-sts.example.org. 3600 IN TXT \"v=STSv1; id="));
    // RFC 8461 section 3.1: 1 to 32 letters and digits.
    let id = id.expect("record").trim_end_matches('"');
    assert_eq!(id.len(), 16);
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    stdout(&chapar(&["check", "--config", &config]));

    let clear = setup(&["--acme", "--acme-directory", "http://ca.example.net/dir"]);
    assert_eq!(clear.status.code(), Some(64));
    let both = setup(&["--acme", "--cert", "a", "--key", "b"]);
    assert_eq!(both.status.code(), Some(64));
}

#[test]
fn records_are_ready_to_paste() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let config = format!("{at}/chapar.toml");
    stdout(&chapar(&[
        "setup",
        "example.org",
        "--dir",
        at,
        "--hostname",
        "mail.example.net",
        "--forward",
        "a@b.example",
    ]));
    let zone = stdout(&chapar(&[
        "dns",
        "example.org",
        "--ip",
        "192.0.2.1",
        "2001:db8::1",
        "--config",
        &config,
    ]));
    let lines: Vec<&str> = zone.lines().collect();
    let [a, aaaa, mx, spf, helo, rsa, ed25519, dmarc, tlsrpt, srv] = lines.as_slice() else {
        panic!("{zone}")
    };
    assert_eq!(*a, "mail.example.net. 3600 IN A 192.0.2.1");
    assert_eq!(*aaaa, "mail.example.net. 3600 IN AAAA 2001:db8::1");
    assert_eq!(*mx, "example.org. 3600 IN MX 10 mail.example.net.");
    assert_eq!(
        *spf,
        "example.org. 3600 IN TXT \"v=spf1 a:mail.example.net ~all\""
    );
    assert_eq!(*helo, "mail.example.net. 3600 IN TXT \"v=spf1 a -all\"");
    assert_eq!(
        *dmarc,
        "_dmarc.example.org. 3600 IN TXT \"v=DMARC1; p=quarantine; rua=mailto:postmaster@example.org\""
    );
    assert_eq!(
        *tlsrpt,
        "_smtp._tls.example.org. 3600 IN TXT \"v=TLSRPTv1; rua=mailto:postmaster@example.org\""
    );
    assert_eq!(
        *srv,
        "_submissions._tcp.example.org. 3600 IN SRV 0 1 465 mail.example.net."
    );
    assert!(ed25519.starts_with(
        "chapar1-ed25519._domainkey.example.org. 3600 IN TXT \"v=DKIM1; k=ed25519; p="
    ));
    assert!(
        rsa.starts_with("chapar1-rsa._domainkey.example.org. 3600 IN TXT \"v=DKIM1; k=rsa; p=MII")
    );
    let strings: Vec<&str> = rsa.split('"').skip(1).step_by(2).collect();
    assert_eq!(
        strings.iter().map(|s| s.len()).collect::<Vec<_>>(),
        [255, 155]
    );

    let json = stdout(&chapar(&[
        "dns",
        "example.org",
        "--json",
        "--ip",
        "192.0.2.1",
        "--config",
        &config,
    ]));
    let records: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert_eq!(records.len(), 9);
    let found = records
        .iter()
        .find(|r| r["name"] == "chapar1-rsa._domainkey.example.org.")
        .expect("record");
    assert_eq!(found["text"], strings.concat());
    assert_eq!(
        chapar(&["dns", "example.com", "--config", &config])
            .status
            .code(),
        Some(65)
    );
}

#[test]
fn a_send_only_domain_keeps_its_mx() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let output = stdout(&chapar(&[
        "setup",
        "example.org",
        "--dir",
        at,
        "--user",
        "News",
    ]));
    assert!(!output.contains(" IN MX "), "{output}");
    assert!(output.contains("User:     news@example.org\n"), "{output}");
    assert!(output.contains("\"v=DMARC1; p=none; "), "{output}");
    let kept = stdout(&chapar(&[
        "setup",
        "example.org",
        "--dir",
        at,
        "--forward",
        "a@b.example",
        "--hostname",
        "other.example.org",
    ]));
    assert!(kept.contains("send-only by its domain.toml"), "{kept}");
    assert!(
        kept.contains("says hostname = \"mx.example.org\"; it was kept"),
        "{kept}"
    );
}

#[test]
fn a_given_certificate_is_checked_and_replaced_when_given_again() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    let write = |name: &str, bytes: &str| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("write");
        path.to_str().expect("path").to_owned()
    };
    let make = |host: &str| {
        chapar::tls::self_signed::generate(host, std::time::SystemTime::now()).expect("certificate")
    };
    let (one, two) = (make("mx.example.org"), make("mx.example.org"));
    let (cert, key, wrong) = (
        write("c", &one.certificate),
        write("k", &one.key),
        write("w", &two.key),
    );
    let site = format!("{at}/site");
    let run = |cert: &str, key: &str| {
        chapar(&[
            "setup",
            "example.org",
            "--dir",
            &site,
            "--cert",
            cert,
            "--key",
            key,
        ])
    };
    let refused = run(&cert, &wrong);
    assert_eq!(refused.status.code(), Some(65));
    assert!(text(&refused.stderr).contains("do not belong together"));
    assert!(
        !Path::new(&site).exists(),
        "nothing is written before all is checked"
    );
    stdout(&run(&cert, &key));
    let tls = dir.path().join("site/secrets/tls/mx.example.org");
    assert_eq!(
        fs::read_to_string(tls.join("privkey.pem")).expect("key"),
        one.key
    );
    write("c", &two.certificate);
    stdout(&run(&cert, &wrong));
    assert_eq!(
        fs::read_to_string(tls.join("privkey.pem")).expect("key"),
        two.key
    );
    assert_eq!(
        fs::read_to_string(tls.join("fullchain.pem")).expect("chain"),
        two.certificate
    );
}

#[test]
fn nonsense_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("directory");
    let site = dir.path().join("site");
    let at = site.to_str().expect("path");
    let absent = format!("example.org|--dns|hetzner|--dns-credentials|{at}/../absent.toml");
    // Words between bars.
    for (words, code, remedy) in [
        ("example..org", 65, "write one such as example.org"),
        ("../etc", 65, "no domain name"),
        ("bücher.example", 65, "xn--"),
        ("example.org|--forward|me", 65, "write user@example.org"),
        ("example.org|--forward|me@Example.org", 65, "another domain"),
        ("example.org|--user|a b", 65, "write user@example.org"),
        ("example.org|--hostname|mx", 78, "such as mx.example.org"),
        ("example.org|--cert|x", 64, "--key"),
        (
            "example.org|--dns|godaddy",
            64,
            "rfc2136, cloudflare, hetzner, digitalocean, desec, route53, acme-dns",
        ),
        (
            "example.org|--dns|hetzner",
            1,
            "site/secrets/dns/hetzner.toml: No such file or directory (os error 2); write into it: token",
        ),
        (
            absent.as_str(),
            65,
            "absent.toml: No such file or directory (os error 2)",
        ),
    ] {
        let words: Vec<&str> = words.split('|').collect();
        let output = chapar(&[&["setup", "--dir", at], &words[..]].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert!(error.contains(remedy), "{words:?}: {error}");
        assert!(!site.exists(), "{words:?}");
    }
    let output = chapar(&["setup"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("<DOMAIN>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dns_says_is_kept_and_told() {
    let dns = chapar::lab::DnsServer::start().await.expect("DNS server");
    dns.mx("example.org", 10, "mail.other.example");
    dns.txt("example.org", "unrelated");
    dns.txt(
        "example.org",
        "v=spf1 include:_spf.other.example include:_spf.other.example -all",
    );
    let ip = "192.0.2.1".parse().expect("address");
    dns.ptr(std::net::IpAddr::V4(ip), "static.hoster.example");
    dns.a("static.hoster.example", ip);
    let resolver = dns.address().to_string();
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path").to_owned();
    let run = move |more: &[&str]| {
        let first = [
            "setup",
            "example.org",
            "--dir",
            &at,
            "--ip",
            "192.0.2.1",
            "--resolver",
            &resolver,
        ];
        let all = [&first, more].concat();
        stdout(&chapar(&all))
    };
    let before = std::fs::read_dir(dir.path()).expect("list").count();
    let rehearsal = run(&["--dry-run", "--forward", "a@b.example"]);
    assert!(
        rehearsal.starts_with("This is a rehearsal in "),
        "{rehearsal}"
    );
    assert!(rehearsal.contains("/chapar.toml\n"), "{rehearsal}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), before);

    let shown = run(&["--forward", "a@b.example"]);
    for line in [
        "example.org. 3600 IN TXT \"v=spf1 include:_spf.other.example a:mx.example.org -all\"",
        "Mail to example.org goes to mail.other.example now. With the MX record above it comes here \
         instead; to only send from here, remove domains/example.org and run setup without --forward.",
        "example.org has the SPF record \"v=spf1 include:_spf.other.example \
         include:_spf.other.example -all\": replace it by the one above, which contains it.",
        "The PTR record of 192.0.2.1 is static.hoster.example. and must be mx.example.org.: set it at \
         the hoster, or use that name: --hostname static.hoster.example in a new setup.",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line}\nis not in\n{shown}"
        );
    }
    let config = std::fs::read_to_string(dir.path().join("chapar.toml")).expect("configuration");
    assert!(config.contains(&format!("[dns]\nservers = [\"{}\"]\n", dns.address())));

    dns.txt("example.org", "v=spf1 mx -all");
    let shown = run(&[]);
    let two = "example.org has 2 SPF records, which receivers take for an error: leave the one above alone.";
    assert!(shown.lines().any(|line| line == two), "{shown}");
}

#[test]
fn ports_that_others_have_are_told() {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_str().expect("path");
    stdout(&chapar(&["setup", "example.org", "--dir", at]));
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("socket");
    let address = other.local_addr().expect("address");
    let file = dir.path().join("chapar.toml");
    let config = std::fs::read_to_string(&file).expect("configuration");
    let more = format!("{config}\n[web]\nhttp = [\"{address}\"]\n");
    std::fs::write(&file, more).expect("configuration");
    let shown = stdout(&chapar(&["setup", "example.org", "--dir", at]));
    let line = format!(
        "{address} is taken by another program (`ss -ltnp` shows which): stop it, or change the \
         address in chapar.toml."
    );
    assert!(shown.lines().any(|shown| shown == line), "{shown}");
}
