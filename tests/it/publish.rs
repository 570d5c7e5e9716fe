//! Records published at a real name server: BIND, by RFC 2136.

use std::path::Path;
use std::process::{Command, Output};

use chapar::lab::Named;

use crate::world::{binary, text, write};

fn chapar(args: &[&str]) -> Output {
    Command::new(binary())
        .args(args)
        .output()
        .expect("chapar runs")
}

/// What the server has at a name, in the order of their text.
pub fn dig(named: &Named, name: &str, kind: &str) -> Vec<String> {
    let at = named.address();
    let output = Command::new("dig")
        .args([
            "+short",
            "+norec",
            "-p",
            &at.port().to_string(),
            "@127.0.0.1",
            name,
            kind,
        ])
        .output()
        .expect("dig; tests/run installs it");
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Credentials in a file of the operator's.
fn credentials(named: &Named, dir: &Path) -> String {
    let file = dir.join("key.toml");
    let text = format!(
        "server = \"{}\"\nkey = \"{}\"\nsecret = \"{}\"\n",
        named.address(),
        Named::KEY,
        Named::SECRET
    );
    write(file.clone(), &text, 0o600);
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_publishes_all_records_again_changes_nothing_and_what_others_made_stays() {
    let zone = "@ TXT \"v=spf1 include:_spf.example.net include:_spf.example.net ~all\"\n@ TXT \"site=1\"\n\
                _dmarc TXT \"v=DMARC1; p=reject\"\nautoconfig A 192.0.2.99\nwww A 192.0.2.80";
    let named = Named::start(&[("example.org", zone)])
        .await
        .expect("named; tests/run installs it");
    let dir = tempfile::tempdir().expect("a directory");
    let site = dir.path().join("site");
    let at = site.to_str().expect("a path");
    let from = credentials(&named, dir.path());
    let resolver = named.address().to_string();
    let setup = |more: &[&str]| {
        let first = [
            "setup",
            "example.org",
            "--dir",
            at,
            "--forward",
            "me@gmail.example",
            "--ip",
            "192.0.2.1",
            "--ip",
            "2001:db8::1",
            "--resolver",
            &resolver,
            "--acme",
            "--dns",
            "rfc2136",
            "--no-start",
            "--yes",
        ];
        chapar(&[&first, more].concat())
    };
    // Without credentials it says what belongs where.
    let without = setup(&[]);
    assert_eq!(without.status.code(), Some(1));
    assert!(
        text(&without).contains("secrets/dns/rfc2136.toml: No such file"),
        "{}",
        text(&without)
    );

    let done = setup(&["--dns-credentials", &from]);
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    for line in [
        "+ mx.example.org. A 192.0.2.1\n",
        "+ example.org. MX 10 mx.example.org.\n",
        "~ example.org. TXT \"v=spf1 include:_spf.example.net a:mx.example.org ~all\"\n    in place of TXT \"v=spf1 include:_spf.example.net include:_spf.example.net ~all\"\n",
        "! _dmarc.example.org. TXT \"v=DMARC1; p=quarantine; rua=mailto:postmaster@example.org\"\n    is not published: TXT \"v=DMARC1; p=reject\" is there and not from here\n    it stays; that is well",
        "! autoconfig.example.org. CNAME mx.example.org.\n    is not published: A 192.0.2.99 is there and not from here\n    it stays; remove it at rfc2136",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let config = std::fs::read_to_string(site.join("chapar.toml")).expect("written");
    assert!(config.contains("provider = \"rfc2136\"\n"), "{config}");
    assert!(config.contains("challenge = \"dns-01\"\n"), "{config}");

    assert_eq!(dig(&named, "mx.example.org", "A"), ["192.0.2.1"]);
    assert_eq!(dig(&named, "mx.example.org", "AAAA"), ["2001:db8::1"]);
    assert_eq!(
        dig(&named, "mx.example.org", "CAA"),
        ["0 issue \"letsencrypt.org\""]
    );
    assert_eq!(dig(&named, "example.org", "MX"), ["10 mx.example.org."]);
    assert_eq!(
        dig(&named, "example.org", "TXT"),
        [
            "\"site=1\"",
            "\"v=spf1 include:_spf.example.net a:mx.example.org ~all\""
        ]
    );
    assert_eq!(
        dig(&named, "_dmarc.example.org", "TXT"),
        ["\"v=DMARC1; p=reject\""]
    );
    assert_eq!(dig(&named, "autoconfig.example.org", "A"), ["192.0.2.99"]);
    assert_eq!(
        dig(&named, "mta-sts.example.org", "CNAME"),
        ["mx.example.org."]
    );
    assert_eq!(
        dig(&named, "_submissions._tcp.example.org", "SRV"),
        ["0 1 465 mx.example.org."]
    );
    assert_eq!(
        dig(&named, "_smtp._tls.example.org", "TXT"),
        ["\"v=TLSRPTv1; rua=mailto:postmaster@example.org\""]
    );
    for selector in ["chapar1-rsa", "chapar1-ed25519"] {
        let key = dig(&named, &format!("{selector}._domainkey.example.org"), "TXT");
        assert!(
            key.len() == 1 && key[0].starts_with("\"v=DKIM1; "),
            "{key:?}"
        );
    }
    assert!(dig(&named, "_mta-sts.example.org", "TXT")[0].starts_with("\"v=STSv1; id="));
    assert_eq!(dig(&named, "www.example.org", "A"), ["192.0.2.80"]);

    // Again: nothing changes, also in the server's journal.
    let before = named.log().matches("adding an RR").count();
    assert!(before > 10, "{}", named.log());
    let again = setup(&[]);
    let said = text(&again);
    assert!(said.contains("= 13 records are there already\n"), "{said}");
    assert!(!said.contains("\n+ ") && !said.contains("\n~ "), "{said}");
    assert_eq!(named.log().matches("adding an RR").count(), before);

    // The address changes: ours is replaced, since it is ours.
    let file = format!("{at}/chapar.toml");
    let moved = [
        "dns",
        "example.org",
        "--publish",
        "--ip",
        "192.0.2.2",
        "--config",
        &file,
    ];
    let rehearsed = chapar(&[&moved[..], &["--dry-run"]].concat());
    let line = "~ mx.example.org. A 192.0.2.2\n    in place of A 192.0.2.1\n";
    assert!(text(&rehearsed).contains(line), "{}", text(&rehearsed));
    assert_eq!(dig(&named, "mx.example.org", "A"), ["192.0.2.1"]);
    let moved = chapar(&moved);
    assert!(text(&moved).contains(line), "{}", text(&moved));
    // autoconfig is somebody else's still.
    assert_eq!(moved.status.code(), Some(1));
    assert_eq!(dig(&named, "mx.example.org", "A"), ["192.0.2.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_a_hand() {
    let named = Named::start(&[("example.org", "")])
        .await
        .expect("named; tests/run installs it");
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("site").display().to_string();
    let from = credentials(&named, dir.path());
    let resolver = named.address().to_string();
    let done = chapar(&[
        "setup",
        "example.org",
        "--dir",
        &at,
        "--ip",
        "192.0.2.1",
        "--resolver",
        &resolver,
        "--dns",
        "rfc2136",
        "--dns-credentials",
        &from,
        "--no-start",
        "--yes",
    ]);
    assert!(done.status.success(), "{}", text(&done));
    let file = format!("{at}/chapar.toml");
    let toml = std::fs::read_to_string(&file).expect("read");
    let port = named.address().port();
    write(
        file.clone().into(),
        &format!("{toml}\n[acme]\ndns_port = {port}\n"),
        0o640,
    );
    let rotate = |keep: &str| {
        let output = chapar(&[
            "dkim",
            "rotate",
            "example.org",
            "--wait",
            "0s",
            "--keep",
            keep,
            "--config",
            &file,
        ]);
        (output.status.code(), text(&output))
    };
    let key = |selector: &str| dig(&named, &format!("{selector}._domainkey.example.org"), "TXT");
    let (code, said) = rotate("7d");
    assert_eq!(code, Some(75), "{said}");
    for selector in ["chapar2-rsa", "chapar2-ed25519"] {
        let line = format!("published {selector}._domainkey.example.org. at rfc2136\n");
        assert!(said.contains(&line), "{said}");
        assert_eq!(key(selector).len(), 1);
    }
    assert!(
        said.contains("example.org signs with chapar2-ed25519")
            || said.contains("example.org signs with chapar2-rsa"),
        "{said}"
    );
    assert_eq!(key("chapar1-rsa").len(), 1, "it stays for mail under way");
    let (code, said) = rotate("0s");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("removed chapar1-rsa._domainkey.example.org. at rfc2136\n"),
        "{said}"
    );
    assert!(key("chapar1-rsa").is_empty() && key("chapar1-ed25519").is_empty());
    assert_eq!(key("chapar2-rsa").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_asks_others_for_our_address_and_tries_the_way_out() {
    let dns = chapar::lab::DnsServer::start().await.expect("a DNS server");
    let ip = std::net::Ipv4Addr::new(198, 51, 100, 7);
    dns.a("myip.opendns.com", ip);
    dns.ptr(ip.into(), "static.7.100.51.198.clients.your-server.de");
    dns.mx("probe.example", 10, "mx.probe.example");
    // Nobody takes mail there.
    dns.a("mx.probe.example", std::net::Ipv4Addr::new(127, 0, 0, 25));
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().display().to_string();
    let server = dns.address().to_string();
    let done = chapar(&[
        "setup",
        "example.org",
        "--dir",
        &at,
        "--resolver",
        &server,
        "--ask-ip",
        &server,
        "--probe",
        "probe.example",
        "--no-start",
        "--yes",
    ]);
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    for line in [
        "Others see this host at 198.51.100.7.\n",
        "mx.example.org. 3600 IN A 198.51.100.7\n",
        "The PTR record of 198.51.100.7 must be mx.example.org.\nAt Hetzner: Hetzner Console: server, Networking",
        "Mail can not leave: mx.probe.example [127.0.0.25]:25 can not be reached (",
        "Hetzner: ports 25 and 465 are closed for new cloud customers",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn records_are_printed_as_a_panel_wants_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().display().to_string();
    let file = format!("{at}/chapar.toml");
    let done = chapar(&["setup", "example.org", "--dir", &at, "--no-start", "--yes"]);
    assert!(done.status.success(), "{}", text(&done));
    let print = |format: &str| {
        let output = chapar(&[
            "dns",
            "example.org",
            "--ip",
            "192.0.2.1",
            "--format",
            format,
            "--config",
            &file,
        ]);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let cloudflare = print("cloudflare");
    assert!(cloudflare.starts_with("Type  Name "), "{cloudflare}");
    assert!(
        cloudflare.ends_with("no port 25, 465 or 587.\n"),
        "{cloudflare}"
    );
    let row = cloudflare
        .lines()
        .find(|line| line.starts_with("A     mx "));
    assert!(row.expect("a row").ends_with("  192.0.2.1"), "{cloudflare}");
    let table = print("table");
    assert!(
        table.contains("(SPF: this host may send mail of the domain)\n"),
        "{table}"
    );
    assert!(
        table.contains("\nThe PTR record of each address must be mx.example.org. "),
        "{table}"
    );
    assert!(print("zone").contains("example.org. 3600 IN TXT \"v=spf1 a:mx.example.org ~all\"\n"));
    for line in print("json").lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert!(
            object["name"].is_string() && object["why"].is_string(),
            "{object}"
        );
    }
    let none = chapar(&["dns", "example.org", "--publish", "--config", &file]);
    assert_eq!(none.status.code(), Some(65));
    assert!(
        text(&none).contains("no DNS provider is configured"),
        "{}",
        text(&none)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_spf_record_that_would_ask_too_often_gets_addresses() {
    let dns = chapar::lab::DnsServer::start().await.expect("a DNS server");
    // Nine of its own and one by way of an include: full.
    let many: String = (1..9).map(|n| format!("a:h{n}.example.net ")).collect();
    dns.txt(
        "example.org",
        &format!("v=spf1 {many}include:_spf.example.net -all"),
    );
    dns.txt("_spf.example.net", "v=spf1 mx:example.net -all");
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().display().to_string();
    let server = dns.address().to_string();
    let setup = |ip: &[&str]| {
        let first = [
            "setup",
            "example.org",
            "--dir",
            &at,
            "--resolver",
            &server,
            "--no-start",
            "--yes",
        ];
        let done = chapar(&[&first, ip].concat());
        assert!(done.status.success(), "{}", text(&done));
        text(&done)
    };
    let said = setup(&["--ip", "192.0.2.1", "--ip", "2001:db8::1"]);
    let line = format!(
        "example.org. 3600 IN TXT \"v=spf1 {many}include:_spf.example.net ip4:192.0.2.1 ip6:2001:db8::1 -all\"\n"
    );
    assert!(said.contains(&line), "{said}");
    assert!(!said.contains("makes receivers ask"), "{said}");
}
