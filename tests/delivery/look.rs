//! `chapar tls DOMAIN`: what would be used, and why, as the real command says it.

use std::path::Path;

use chapar::lab::{Ca, DnsServer, Identity, Mx, MxConfig, Page, Site};
use serde_json::Value;

use crate::bind::Bind;
use crate::dane::tlsa;
use crate::world::{free_port, hosts, ip};

/// Exit code, output; for a domain in a configuration.
async fn tls(dir: &Path, config: &str, arguments: &[&str]) -> (i32, String) {
    let file = dir.join("chapar.toml");
    let text = format!("hostname = \"mx.example.org\"\ndata_dir = \"data\"\n{config}");
    std::fs::write(&file, text).expect("written");
    let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_chapar"))
        .arg("--config")
        .arg(&file)
        .arg("tls")
        .args(arguments)
        .output()
        .await
        .expect("chapar");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(errors, "");
    let output = String::from_utf8(done.stdout).expect("text");
    (done.status.code().expect("a code"), output)
}

#[actix::test]
async fn a_policy_a_bad_certificate_and_a_rule() {
    let ca = Ca::new("Lab CA").expect("a CA");
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("written");
    let shows = |identity| MxConfig {
        starttls: true,
        identity: Some(identity),
        ..MxConfig::default()
    };
    let good = ca.issue("mx1.example.com").expect("a certificate");
    let bad = ca.issue_expired("mx2.example.com").expect("a certificate");
    let mx = hosts(vec![shows(good), shows(bad)]).await;
    let policy =
        "version: STSv1\nmode: enforce\nmx: mx1.example.com\nmx: mx2.example.com\nmax_age: 86400\n";
    let identity = ca.issue("mta-sts.example.com").expect("a certificate");
    let site = Site::start(([127, 0, 0, 1], 0).into(), identity, Page::text(policy)).await;
    let site = site.expect("a web server");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.mx("example.com", 10, "mx1.example.com");
    dns.mx("example.com", 20, "mx2.example.com");
    dns.a("mx1.example.com", ip(&mx[0]));
    dns.a("mx2.example.com", ip(&mx[1]));
    dns.a("mta-sts.example.com", [127, 0, 0, 1].into());
    dns.txt("_mta-sts.example.com", "v=STSv1; id=7;");
    let port = mx[0].address().port();
    let config = |more: &str| {
        format!(
            "[dns]\nservers = [\"{}\"]\n[delivery]\nport = {port}\nprivate_targets = true\n\
             [tls]\nca_file = \"ca.pem\"\nmta_sts_port = {}\n{more}",
            dns.address(),
            site.address().port()
        )
    };
    let (code, text) = tls(dir.path(), &config(""), &["Example.com"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(code, 0, "{text}");
    assert_eq!(lines[0], "example.com");
    assert!(lines[1].starts_with("  DNSSEC    not validated"), "{text}");
    assert!(
        lines[2]
            .starts_with("  MTA-STS   enforce, mx mx1.example.com mx2.example.com, id 7, until 20"),
        "{text}"
    );
    let expected = [
        format!("mx1.example.com[127.0.0.2]:{port}"),
        "  policy    mta-sts: the MTA-STS policy demands a certificate valid for it".to_owned(),
        "  TLS       TLSv1.3 TLS13_AES_256_GCM_SHA384 mta-sts".to_owned(),
        format!("mx2.example.com[127.0.0.3]:{port}"),
        "  policy    mta-sts: the MTA-STS policy demands a certificate valid for it".to_owned(),
    ];
    assert_eq!(lines[3..8], expected);
    assert!(
        lines[8].starts_with("  no mail   invalid peer certificate: certificate expired"),
        "{text}"
    );
    assert_eq!(lines.len(), 9);

    let (code, text) = tls(dir.path(), &config(""), &["example.com", "--json"]).await;
    let view: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(code, 0);
    assert_eq!(view["mta_sts"]["mode"], "enforce");
    assert_eq!(view["hosts"][0]["policy"], "mta-sts");
    assert_eq!(view["hosts"][0]["problem"], Value::Null);
    assert_eq!(view["hosts"][1]["tls"], Value::Null);

    let rule = config("domains = { \"example.com\" = \"encrypt\" }\n");
    let (code, text) = tls(dir.path(), &rule, &["example.com"]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains("  rule      encrypt (tls.domains)\n"),
        "{text}"
    );
    assert!(!text.contains("MTA-STS"), "{text}");
    assert_eq!(text.matches(" unverified\n").count(), 2, "{text}");
    // It sends nothing, and nobody is there.
    assert!(
        mx.iter()
            .all(|mx| !mx.log().iter().any(|line| line.line.starts_with("MAIL")))
    );
    let nobody = config("").replace(
        &format!("port = {port}"),
        &format!("port = {}", free_port()),
    );
    let (code, text) = tls(dir.path(), &nobody, &["example.com"]).await;
    assert_eq!((code, text.matches("  no mail ").count()), (1, 2), "{text}");
    let (code, text) = tls(dir.path(), &config(""), &["nowhere.example"]).await;
    assert_eq!(code, 1);
    assert!(
        text.ends_with("  problem   550 5.1.2 nowhere.example does not exist in DNS\n"),
        "{text}"
    );
}

#[actix::test]
async fn dane_and_records_that_can_not_be_looked_up() {
    let own = Identity::self_signed("mx").expect("a certificate");
    let mx = Mx::start(MxConfig {
        starttls: true,
        identity: Some(own.clone()),
        ..MxConfig::default()
    })
    .await
    .expect("an MX");
    let port = mx.address().port();
    let zone = format!(
        "good MX 10 mx.good\nmx.good A {}\n_{port}._tcp.mx.good TLSA {}\n",
        ip(&mx),
        tlsa(3, 1, 1, &own.chain[0])
    );
    let bind = Bind::start(&zone, Vec::new()).await;
    let dns = bind.dns(bind.address());
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!(
        "[dns]\nservers = [\"{}\"]\ntrust_anchor = \"{}\"\n[delivery]\nport = {port}\nprivate_targets = true\n",
        bind.address(),
        dns.trust_anchor
    );
    let (code, text) = tls(dir.path(), &config, &["good.example"]).await;
    assert_eq!(
        (code, text),
        (
            0,
            format!(
                "good.example\n  DNSSEC    the MX records are proven\n  MTA-STS   no policy\n\
                 mx.good.example[127.0.0.1]:{port}\n\
                 \x20 policy    dane: TLSA records name its certificate, proven by DNSSEC\n\
                 \x20 TLS       TLSv1.3 TLS13_AES_256_GCM_SHA384 dane\n"
            )
        )
    );
}
