//! A DNS server that signs for real: BIND with a root of its own, on loopback.
//!
//! `.` and `example.` are signed, and so are the zones given as such; a resolver that trusts the
//! key of this root can prove all of it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chapar::config::{Config, Dns, Dnssec};
use chapar::dns::Resolver;
use chapar::dns::mx::Lookup;

/// How a zone below `example.` is.
#[derive(Clone, Copy, PartialEq)]
pub enum How {
    /// Its parent says that it is not signed.
    Unsigned,
    /// Signed, by other keys than its parent names.
    WrongKey,
    /// Signed, at another time.
    Expired,
    /// The server can not answer for it.
    Failing,
}

/// A zone below `example.`.
pub struct Zone {
    pub name: &'static str,
    pub how: How,
    pub records: String,
}

/// It runs until it is dropped.
pub struct Bind {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
    serial: u32,
    zones: Vec<Zone>,
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn file(zone: &str) -> String {
    format!("zone.{}", zone.replace('.', "_"))
}

impl Bind {
    /// Serves these records of `example.` and these zones below it.
    pub async fn start(example: &str, zones: Vec<Zone>) -> Bind {
        let dir = tempfile::tempdir().expect("a directory");
        for zone in [".", "example."]
            .into_iter()
            .chain(zones.iter().map(|zone| zone.name))
        {
            run(
                dir.path(),
                "dnssec-keygen",
                &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone],
            );
        }
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = udp.local_addr().expect("a port").port();
        drop(udp);
        let mut conf = format!(
            "options {{ directory \"{}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
             recursion no; pid-file none; session-keyfile none; empty-zones-enable no;\n\
             dnssec-validation no; notify no; minimal-responses no; }};\ncontrols {{ }};\n",
            dir.path().display()
        );
        let served = [".", "example."]
            .into_iter()
            .chain(zones.iter().map(|zone| zone.name));
        for zone in served {
            let _ = writeln!(
                conf,
                "zone \"{zone}\" {{ type primary; file \"{}\"; }};",
                file(zone)
            );
        }
        std::fs::write(dir.path().join("named.conf"), conf).expect("written");
        let mut serial = 1;
        write_zones(dir.path(), example, &zones, &mut serial);
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(dir.path().join("named.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("named; tests/run installs it");
        let bind = Bind {
            dir,
            child,
            port,
            serial,
            zones,
        };
        bind.ready().await;
        bind
    }

    /// Serves other records of `example.` from now on.
    pub async fn change(&mut self, example: &str) {
        write_zones(self.dir.path(), example, &self.zones, &mut self.serial);
        run(
            Path::new("/"),
            "kill",
            &["-HUP", &self.child.id().to_string()],
        );
        self.ready().await;
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Asks it, and trusts its root.
    pub fn configure(&self, config: &mut Config) {
        config.dns = self.dns(self.address());
    }

    pub fn dns(&self, server: SocketAddr) -> Dns {
        Dns {
            servers: vec![server],
            dnssec: Dnssec::On,
            trust_anchor: self.dir.path().join("anchor").display().to_string(),
            ..Dns::default()
        }
    }

    /// Waits until it serves what was written last.
    async fn ready(&self) {
        let wanted = format!("serial{}.example.", self.serial);
        for _ in 0..500 {
            let resolver = Resolver::new(&self.dns(self.address())).expect("a resolver");
            if let (Lookup::Records(found), _, true) = resolver.mx_proven("ready.example").await
                && found
                    .iter()
                    .any(|record| format!("{}.", record.host) == wanted)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join("log"));
        panic!(
            "BIND does not serve what it should: {}",
            log.unwrap_or_default()
        );
    }
}

fn write_zones(dir: &Path, example: &str, zones: &[Zone], serial: &mut u32) {
    *serial += 1;
    let head = format!(
        "$TTL 0\n@ SOA ns.example. root.example. {serial} 3600 600 86400 0\n@ NS ns.example.\n"
    );
    let key = |zone: &str| {
        let zone = if zone == "." {
            ""
        } else {
            zone.trim_end_matches('.')
        };
        let name = format!("K{zone}.+013+");
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let found = names.find(|file| file.starts_with(&name) && file.ends_with(".key"));
        found.expect("a key")
    };
    let sign = |zone: &str, text: &str, more: &[&str]| {
        std::fs::write(dir.join("plain"), text).expect("written");
        let served = file(zone);
        let mut arguments = vec!["-q", "-z", "-S", "-o", zone, "-f", &served];
        arguments.extend(more);
        arguments.push("plain");
        run(dir, "dnssec-signzone", &arguments);
    };
    let mut parent =
        format!("{head}ns A 127.0.0.1\nready MX 0 serial{serial}.example.\n{example}\n");
    for zone in zones {
        let text = format!("{head}{}\n", zone.records);
        let _ = writeln!(parent, "{} NS ns.example.", zone.name);
        match zone.how {
            How::Unsigned => std::fs::write(dir.join(file(zone.name)), text).expect("written"),
            How::Failing => {
                std::fs::write(dir.join(file(zone.name)), "no zone").expect("written");
            }
            How::WrongKey => {
                sign(zone.name, &text, &[]);
                let ds = run(dir, "dnssec-dsfromkey", &[&key("example.")]);
                let data = ds.split(" DS ").nth(1).expect("a DS record").to_owned();
                let _ = writeln!(parent, "{} DS {data}", zone.name);
            }
            How::Expired => {
                sign(
                    zone.name,
                    &text,
                    &["-P", "-s", "20010101000000", "-e", "20020101000000"],
                );
                let ds = run(dir, "dnssec-dsfromkey", &[&key(zone.name)]);
                let _ = writeln!(parent, "{ds}");
            }
        }
    }
    sign("example.", &parent, &["-3", "-"]);
    let ds = run(dir, "dnssec-dsfromkey", &[&key("example.")]);
    sign(
        ".",
        &format!("{head}example. NS ns.example.\n{ds}\nns.example. A 127.0.0.1\n"),
        &[],
    );
    let anchor = std::fs::read_to_string(dir.join(key("."))).expect("a key");
    let anchor: Vec<_> = anchor
        .lines()
        .filter(|line| !line.starts_with(';'))
        .collect();
    std::fs::write(dir.join("anchor"), anchor.join("\n") + "\n").expect("written");
}
