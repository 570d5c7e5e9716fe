//! `chapar check` on a world where all is well, and on worlds that are broken one thing at a time.

mod worlds;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use chapar::doctor::tlsa::public_key_hash;
use chapar::lab::{Mx, MxConfig};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::world::{DOMAIN, HOST, World, binary, free_port, write};
use worlds::{OWNERS, SPF, W, WORLDS, install, reverse};

pub const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// A time server that is wrong by so many seconds.
fn time_server(wrong: i64) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("socket");
    let address = socket.local_addr().expect("address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.expect("after 1970").as_secs() as i64 + 2_208_988_800 + wrong;
            let mut answer = [0; 48];
            answer[40..44].copy_from_slice(&(now as u32).to_be_bytes());
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}

/// A CA, which signs in memory.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Ca {
    fn named(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params, KeyPair::generate().expect("key"))
    }

    fn root() -> Ca {
        let (params, key) = Ca::named("root");
        let certificate = params.self_signed(&key).expect("CA");
        let issuer = Issuer::new(params, key);
        Ca {
            issuer,
            certificate,
        }
    }

    pub fn below(&self) -> Ca {
        let (params, key) = Ca::named("middle");
        let certificate = params.signed_by(&key, &self.issuer).expect("CA");
        let issuer = Issuer::new(params, key);
        Ca {
            issuer,
            certificate,
        }
    }

    /// Certificate and key for names, that end so many days from now.
    pub fn sign(&self, names: &[&str], days: i64) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let span = day * u32::try_from(days.abs()).expect("days");
        params.not_before = (now - day * 400).into();
        params.not_after = match days < 0 {
            true => now - span,
            false => now + span,
        }
        .into();
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (certificate, key)
    }
}

/// A directory for the doctor; the daemon has its own, so that nothing is loaded anew.
pub struct Lab {
    world: World,
    pub copy: tempfile::TempDir,
    pub ca: Ca,
    leaf: Certificate,
    pub gmail: Mx,
    right: SocketAddr,
    wrong: SocketAddr,
    pub ports: Vec<u16>,
}

pub const NAMES: [&str; 2] = [HOST, "mta-sts.example.org"];

impl Lab {
    async fn new() -> Lab {
        let gmail = Mx::start(MxConfig::default()).await.expect("MX");
        let https = free_port();
        let config = format!(
            "[tls]\nca_file = \"ca.pem\"\n[limits]\nfree_space = \"1MiB\"\n\
             [web]\nhttps = [\"127.0.0.1:{https}\"]\n"
        );
        let mut world = World::new(gmail.address().port(), &config).await;
        let file = world.config();
        let ports = world.fix_ports();
        let mut text = fs::read_to_string(&file).expect("configuration");
        let data = world.data();
        text = text.replace("\"data\"", &format!("\"{}\"", data.display()));
        fs::write(&file, &text).expect("configuration");
        let ca = Ca::root();
        let (leaf, key) = ca.sign(&NAMES, 60);
        write(
            world.dir.path().join("ca.pem"),
            &ca.certificate.pem(),
            0o644,
        );
        install(world.dir.path(), &leaf.pem(), &key.serialize_pem());
        world.start().await;
        let copy = tempfile::tempdir().expect("directory");
        let lab = Lab {
            copy,
            ca,
            leaf,
            gmail,
            right: time_server(0),
            wrong: time_server(-3600),
            ports,
            world,
        };
        lab.reset();
        lab
    }

    /// Everything as it should be.
    fn reset(&self) {
        let to = self.copy.path();
        let copied = Command::new("cp")
            .args(["-a", "-T"])
            .args([self.world.dir.path(), to])
            .status();
        assert!(copied.expect("cp").success());
        let dns = &self.world.dns;
        for owner in OWNERS {
            dns.remove(owner);
        }
        for ip in [IP, OTHER] {
            dns.remove(&reverse(ip));
        }
        dns.authentic(true);
        dns.a(HOST, IP);
        dns.txt(HOST, "v=spf1 a -all");
        dns.ptr(IP.into(), HOST);
        dns.mx(DOMAIN, 10, HOST);
        dns.txt(DOMAIN, SPF);
        dns.txt(
            "_dmarc.example.org",
            "v=DMARC1; p=quarantine; rua=mailto:postmaster@example.org",
        );
        dns.txt(
            "_smtp._tls.example.org",
            "v=TLSRPTv1; rua=mailto:postmaster@example.org",
        );
        dns.cname("mta-sts.example.org", HOST);
        dns.txt(
            "_mta-sts.example.org",
            &format!("v=STSv1; id={}", self.policy_id()),
        );
        let hash = public_key_hash(self.leaf.der()).expect("hash");
        let hash: Vec<u8> = hash
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")
            })
            .collect();
        dns.tlsa("_25._tcp.mx.example.org", 3, 1, 1, &hash);
        for selector in ["rsa1", "ed1"] {
            let key = chapar::signing::keys::PrivateKey::load(to, DOMAIN, selector).expect("key");
            dns.txt(&format!("{selector}._domainkey.{DOMAIN}"), &key.record());
        }
        dns.mx("gmail.com", 5, "gw.gmail.com");
        dns.a("gw.gmail.com", Ipv4Addr::LOCALHOST);
    }

    fn policy_id(&self) -> String {
        let (_, out, error) = self.world.run(&["dns", DOMAIN, "--json"]);
        let lines = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut lines = lines.filter(|line| line["name"] == "_mta-sts.example.org.");
        let record = lines.next().unwrap_or_else(|| panic!("{error}"));
        let text = record["text"].as_str().expect("text").to_owned();
        text.rsplit_once('=').expect("id").1.to_owned()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.copy.path().join(name)
    }

    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("chapar.toml")).expect("configuration");
        assert!(text.contains(from), "{text}");
        fs::write(self.path("chapar.toml"), text.replace(from, to)).expect("write");
    }

    /// A message that waits for six hours already.
    fn old_mail(&self) {
        let done = |arguments: &[&str]| {
            let (code, out, error) = self.world.run(arguments);
            assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        };
        done(&["queue", "suspend", "late.example", "--for", "1h"]);
        self.world
            .run(&["send", "--to", "you@late.example", "--wait", "1s"]);
        let dir = self.copy.path().join("mail");
        let dir = dir.to_str().expect("path");
        done(&["queue", "export", dir, "all", "--remove"]);
        for entry in fs::read_dir(dir).expect("files") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|ending| ending == "json") {
                let text = fs::read_to_string(&path).expect("description");
                let mut told: Value = serde_json::from_str(&text).expect("JSON");
                let arrived = told["arrived"].as_u64().expect("a time");
                told["arrived"] = (arrived - 6 * 3_600_000).into();
                fs::write(&path, told.to_string()).expect("description");
            }
        }
        done(&["queue", "import", dir]);
    }

    /// Exit code and findings.
    fn check(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let time = match more.contains(&"--time-server") {
            true => vec![],
            false => vec!["--time-server".to_owned(), self.right.to_string()],
        };
        let output = Command::new(binary())
            .args(["check", DOMAIN, "--json", "--ip", "192.0.2.10"])
            .args(time)
            .args(more)
            .arg("--config")
            .arg(self.path("chapar.toml"))
            .output()
            .expect("chapar runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let out = String::from_utf8(output.stdout).expect("UTF-8");
        let findings = out
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let findings: Vec<Value> = findings.collect();
        assert!(!findings.is_empty(), "{error}");
        (output.status.code().expect("code"), findings)
    }
}

fn troubles(findings: &[Value]) -> Vec<(String, String)> {
    let bad = findings.iter().filter(|finding| finding["level"] != "good");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut bad: Vec<_> = bad
        .map(|one| (text(&one["check"]), text(&one["level"])))
        .collect();
    bad.sort();
    bad
}

/// Case C075 among them: an address without a forward-confirmed PTR is told of.
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_broken_world_is_named_precisely() {
    let mut lab = Lab::new().await;
    let (code, findings) = lab.check(&[]);
    assert_eq!((code, troubles(&findings)), (0, vec![]), "{findings:#?}");
    let checks: BTreeSet<&str> = findings
        .iter()
        .map(|f| f["check"].as_str().expect("text"))
        .collect();
    for check in [
        "ptr",
        "fcrdns",
        "ipv6",
        "ehlo",
        "port-in",
        "port-out",
        "mx",
        "spf",
        "dkim",
        "dmarc",
        "alignment",
        "mta-sts",
        "tls-rpt",
        "dane",
        "certificate",
        "dnssec",
        "clock",
        "disk",
        "modes",
        "dnsbl",
        "bulk-rules",
        "daemon",
        "queue",
        "spf-host",
    ] {
        assert!(checks.contains(check), "{check}: {checks:?}");
    }
    for (name, break_it, arguments, expected, part) in WORLDS {
        lab.reset();
        break_it(&lab, &lab.world.dns);
        let (code, findings) = lab.check(arguments);
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(check, level)| ((*check).to_owned(), (*level).to_owned()))
            .collect();
        expected.sort();
        assert_eq!(troubles(&findings), expected, "{name}: {findings:#?}");
        let worst = if expected.iter().any(|(_, level)| level == W) {
            2
        } else {
            1
        };
        assert_eq!(code, worst, "{name}");
        let bad = findings.iter().filter(|finding| finding["level"] != "good");
        for finding in bad.clone() {
            for key in ["what", "why", "remedy"] {
                assert!(
                    finding[key].as_str().is_some_and(|text| !text.is_empty()),
                    "{name}: {finding}"
                );
            }
        }
        let texts: Vec<&str> = bad
            .map(|finding| finding["what"].as_str().expect("text"))
            .collect();
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{name}: {texts:?}"
        );
    }

    lab.reset();
    let wrong = lab.wrong.to_string();
    let (code, findings) = lab.check(&["--time-server", &wrong]);
    assert_eq!(code, 2);
    assert_eq!(troubles(&findings), [("clock".to_owned(), W.to_owned())]);
    let clock = findings
        .iter()
        .find(|finding| finding["check"] == "clock")
        .expect("clock");
    assert!(
        clock["what"].as_str().expect("text").contains("s ahead"),
        "{clock}"
    );

    lab.reset();
    lab.old_mail();
    let (code, findings) = lab.check(&[]);
    assert_eq!(
        (code, troubles(&findings)),
        (1, vec![("queue".into(), "warning".into())])
    );
    let queue = findings.iter().find(|finding| finding["check"] == "queue");
    let what = queue.expect("queue")["what"].as_str().expect("text");
    assert!(
        what.starts_with("1 of 1 recipients wait for more than 320 minutes"),
        "{what}"
    );

    lab.world.stop().await;
    let (code, findings) = lab.check(&[]);
    assert_eq!(code, 2);
    let found = troubles(&findings);
    assert!(
        found.contains(&("daemon".to_owned(), W.to_owned())),
        "{found:?}"
    );
    let ports = found.iter().filter(|(check, _)| check == "port-in").count();
    assert_eq!(ports, 3, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_speaks_to_people_and_only_of_our_domains() {
    let lab = Lab::new().await;
    let config = lab.path("chapar.toml");
    let run = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(["check", "--config"])
            .arg(&config)
            .args(["--time-server", &lab.right.to_string()])
            .args(arguments)
            .output()
            .expect("chapar runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    lab.world.dns.remove("_smtp._tls.example.org");
    let (code, out, error) = run(&["Example.org", "--ip", "192.0.2.10"]);
    assert_eq!(code, Some(1), "{out}{error}");
    let line = "! tls-rpt example.org: there is no TLS-RPT record; nobody tells us when deliveries to \
                us fail because of TLS. Remedy: publish _smtp._tls.example.org TXT \
                \"v=TLSRPTv1; rua=mailto:postmaster@example.org\"\n";
    assert!(out.contains(line), "{out}");
    assert!(
        out.contains("✓ ptr 192.0.2.10: PTR is mx.example.org\n"),
        "{out}"
    );
    assert!(out.ends_with(", 1 could be better, 0 wrong\n"), "{out}");
    let (code, _, error) = run(&["example.net"]);
    assert_eq!(code, Some(65));
    assert!(error.contains("chapar domain add example.net"), "{error}");
    // Without a domain it is the configuration that is checked, as ever.
    let (code, out, error) = run(&[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.ends_with("good: listeners 3, domains 1, users 1\n"),
        "{out}"
    );
}
