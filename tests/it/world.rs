//! The real binary in a world of its own: a directory made by hand, ports from the OS, a DNS server
//! and MX hosts on loopback.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use chapar::identity::password::{self, Secrets};
use chapar::lab::{Client, DnsServer};
use serde_json::Value;
use tokio::sync::watch;

pub const DOMAIN: &str = "example.org";
pub const HOST: &str = "mx.example.org";
pub const USER: &str = "me@example.org";
pub const PASSWORD: &str = "correct horse battery";

/// A message of [`USER`].
pub const MESSAGE: &[u8] = b"From: me@example.org\r\nSubject: x\r\n\r\nbody\r\n";

/// How long anything awaited may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration directory, its DNS, and the daemon while it runs.
pub struct World {
    pub dir: tempfile::TempDir,
    pub dns: DnsServer,
    pub daemon: Option<Daemon>,
}

/// A running `chapar serve` and what it logged.
pub struct Daemon {
    child: Child,
    /// The daemon's own process, which a tracer's child is.
    pid: u32,
    log: watch::Receiver<Vec<Value>>,
    pub ports: HashMap<String, SocketAddr>,
}

/// The daemon under test: `CHAPAR_BINARY`, or this tree's.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("CHAPAR_BINARY") {
        Some(given) => given.into(),
        None => env!("CARGO_BIN_EXE_chapar").into(),
    })
}

/// What is kept of [`PASSWORD`], made once: it costs time.
fn secrets() -> &'static Secrets {
    static SECRETS: OnceLock<Secrets> = OnceLock::new();
    SECRETS.get_or_init(|| password::secrets(PASSWORD.as_bytes()).expect("secrets"))
}

/// Ports that nobody has now, all different.
pub fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let held: Vec<TcpListener> = (0..count).map(bind).collect();
    let port = |socket: &TcpListener| socket.local_addr().expect("address").port();
    held.iter().map(port).collect()
}

/// One of them.
pub fn free_port() -> u16 {
    free_ports(1)[0]
}

/// All that a program printed.
pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).expect("UTF-8")
}

impl World {
    /// An empty directory and a DNS server that knows nothing.
    pub async fn empty() -> World {
        World {
            dir: tempfile::tempdir().expect("directory"),
            dns: DnsServer::start().await.expect("DNS server"),
            daemon: None,
        }
    }

    /// A forward domain with one user, DKIM keys and a certificate; `config` is added to
    /// chapar.toml. `mx_port` is where every MX of this world listens.
    pub async fn new(mx_port: u16, config: &str) -> World {
        let world = World::empty().await;
        let (root, dns) = (world.dir.path(), &world.dns);
        let toml = format!(
            "hostname = \"{HOST}\"\ndata_dir = \"data\"\npostmaster = \"postmaster@box.example\"\n{}\n\
             {}{}{}\n\
             {}\
             [dns]\nservers = [\"{}\"]\n\
             [delivery]\nport = {mx_port}\nprivate_targets = true\n{}",
            section(config, "top"),
            listener("mx", "starttls"),
            listener("submission", "starttls"),
            listener("submission", "implicit"),
            // Every client of these tests is on loopback.
            match config.contains("[incoming]") {
                true => "",
                false => "[incoming]\njudge_private = true\n",
            },
            dns.address(),
            section(config, "rest"),
        );
        write(root.join("chapar.toml"), &toml, 0o644);
        let domain = root.join("domains").join(DOMAIN);
        write(
            domain.join("domain.toml"),
            "mode = \"forward\"\nselectors = [\"rsa1\", \"ed1\"]\n",
            0o644,
        );
        let users = format!(
            "\"{USER}\" = {{ password = \"{}\", scram = \"{}\", send_as = [\"*@{DOMAIN}\"] }}\n",
            secrets().hash,
            secrets().scram
        );
        write(domain.join("users.toml"), &users, 0o600);
        write(
            domain.join("aliases"),
            "sales: a@one.example, b@two.example\n*: me@box.example\n",
            0o644,
        );
        use chapar::signing::keys::{Algorithm, PrivateKey, path};
        for (selector, algorithm) in [("rsa1", Algorithm::Rsa), ("ed1", Algorithm::Ed25519)] {
            let key = match algorithm {
                Algorithm::Rsa => PrivateKey::from_pem(rsa_pem().as_bytes()),
                Algorithm::Ed25519 => PrivateKey::generate(algorithm),
            };
            let key = key.expect("key");
            write(path(root, DOMAIN, selector), &key.to_pem(), 0o600);
            dns.txt(&format!("{selector}._domainkey.{DOMAIN}"), &key.record());
        }
        let made = chapar::tls::self_signed::generate(HOST, std::time::SystemTime::now())
            .expect("certificate");
        let tls = root.join("secrets/tls").join(HOST);
        write(tls.join("fullchain.pem"), &made.certificate, 0o644);
        write(tls.join("privkey.pem"), &made.key, 0o600);
        world
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("chapar.toml")
    }

    /// Gives the listeners ports that are known before the daemon starts, in their order.
    pub fn fix_ports(&self) -> Vec<u16> {
        let mut toml = std::fs::read_to_string(self.config()).expect("configuration");
        let ports = free_ports(toml.matches("127.0.0.1:0\"").count());
        for port in &ports {
            toml = toml.replacen("127.0.0.1:0\"", &format!("127.0.0.1:{port}\""), 1);
        }
        write(self.config(), &toml, 0o644);
        ports
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the daemon and waits until it is ready.
    pub async fn start(&mut self) {
        self.start_with(Command::new(binary())).await;
    }

    /// The same, with a daemon that crashes at this step of the queue, such as `before-sync:20`.
    pub async fn start_to_crash(&mut self, step: &str) {
        let mut command = Command::new(binary());
        command.env("CHAPAR_FAILPOINT", step);
        self.start_with(command).await;
    }

    /// The same, with `command` in front of `serve`, such as a tracer.
    pub async fn start_with(&mut self, mut command: Command) {
        command.args(["serve", "--config"]).arg(self.config());
        command.env("CHAPAR_LOG_FORMAT", "json");
        if command.get_envs().all(|(name, _)| name != "CHAPAR_LOG") {
            command.env("CHAPAR_LOG", "info");
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("daemon");
        let stderr = child.stderr.take().expect("stderr");
        let (sender, log) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                match serde_json::from_str::<Value>(&line) {
                    Ok(event) => sender.send_modify(|events| events.push(event)),
                    Err(_) => eprintln!("daemon: {line}"),
                }
            }
        });
        let pid = child.id();
        let mut daemon = Daemon {
            child,
            pid,
            log,
            ports: HashMap::new(),
        };
        let ready = daemon.event("daemon", "ready").await;
        daemon.pid = ready["pid"]
            .as_u64()
            .and_then(|pid| pid.try_into().ok())
            .expect("pid");
        let listening: Vec<Value> = daemon.events("listener", "listening");
        for event in listening {
            let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = format!("{}/{}", text("service"), text("tls"));
            daemon
                .ports
                .insert(name, text("local").parse().expect("address"));
        }
        self.daemon = Some(daemon);
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.daemon().signal("TERM");
        self.stop_waiting().await
    }

    /// The exit code of a daemon that was told to stop.
    pub async fn stop_waiting(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take()?;
        let waited = tokio::task::spawn_blocking(move || daemon.child.wait());
        let status = tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("the daemon stops");
        status.ok()?.ok()?.code()
    }

    /// Runs `chapar` with `arguments` on this world's configuration; gives code and output.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(binary())
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .output()
            .expect("chapar runs");
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// The queue as `mta-queue list --json` tells it.
    pub fn queue(&self) -> Vec<Value> {
        let (code, out, error) = self.run(&["queue", "list", "--json"]);
        assert_eq!(code, 0, "{error}");
        out.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// A client of the port for mail from outside, greeted and after EHLO.
    pub async fn mx(&self) -> Client {
        let mut client = Client::connect(self.daemon().port("mx/starttls"))
            .await
            .expect("connect");
        assert_eq!(client.reply().await.expect("greeting").code, 220);
        client
            .expect("EHLO client.example.net", 250)
            .await
            .expect("EHLO");
        client
    }

    /// A client of the implicit TLS port, logged in.
    pub async fn user(&self) -> Client {
        let port = self.daemon().port("submission/implicit");
        let mut client = Client::connect_tls(port, HOST).await.expect("connect");
        assert_eq!(client.reply().await.expect("greeting").code, 220);
        client
            .expect("EHLO client.example.org", 250)
            .await
            .expect("EHLO");
        assert_eq!(
            client.auth_plain(USER, PASSWORD).await.expect("AUTH").code,
            235
        );
        client
    }

    /// Submits [`MESSAGE`] as [`USER`].
    pub async fn submit(&self, from: &str, to: &[&str]) {
        let mut client = self.user().await;
        let answer = client.send(from, to, MESSAGE).await.expect("an answer");
        assert_eq!(answer.code, 250);
    }

    /// Waits until `mta-queue list` shows what `done` asks for.
    pub async fn wait_queue(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let queue = self.queue();
            if done(&queue) {
                return queue;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {queue:#?}");
            // The queue has no event for the outside; its own log line would come first.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn port(&self, name: &str) -> SocketAddr {
        *self
            .ports
            .get(name)
            .unwrap_or_else(|| panic!("{name} in {:?}", self.ports))
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid.to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Every event of `target` with `message` so far.
    pub fn events(&self, target: &str, message: &str) -> Vec<Value> {
        self.log
            .borrow()
            .iter()
            .filter(|event| is(event, target, message))
            .cloned()
            .collect()
    }

    /// The messages of `target` so far that contain `part`.
    pub fn events_containing(&self, target: &str, part: &str) -> Vec<String> {
        let log = self.log.borrow();
        let own = log.iter().filter(|event| event["target"] == target);
        own.filter_map(|event| event["message"].as_str())
            .filter(|text| text.contains(part))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for the message of `target` that contains `part` and comes after `seen` such ones.
    pub async fn nth_containing(&self, target: &str, part: &str, seen: usize) -> String {
        let mut log = self.log.clone();
        log.mark_unchanged();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(text) = self.events_containing(target, part).get(seen) {
                return text.clone();
            }
            let change = tokio::time::timeout_at(deadline, log.changed()).await;
            assert!(matches!(change, Ok(Ok(()))), "no {target}: ...{part}");
        }
    }

    /// Waits for the first event of `target` whose message contains `part`.
    pub async fn event_containing(&self, target: &str, part: &str) -> Value {
        let mut log = self.log.clone();
        let found = |events: &Vec<Value>| {
            let text = |event: &Value| event["message"].as_str().unwrap_or_default().contains(part);
            events
                .iter()
                .find(|event| event["target"] == target && text(event))
                .cloned()
        };
        let waited = tokio::time::timeout(PATIENCE, log.wait_for(|events| found(events).is_some()));
        match waited.await {
            Ok(Ok(events)) => found(&events).expect("it was just seen"),
            _ => panic!("no {target}: ...{part}; the log: {:#?}", self.log.borrow()),
        }
    }

    /// Waits for the first such event.
    pub async fn event(&self, target: &str, message: &str) -> Value {
        self.event_where(target, message, |_| true).await
    }

    /// Waits for the first such event that `fits`.
    pub async fn event_where(
        &self,
        target: &str,
        message: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut log = self.log.clone();
        let found = |events: &Vec<Value>| {
            events
                .iter()
                .find(|event| is(event, target, message) && fits(event))
                .cloned()
        };
        let waited = tokio::time::timeout(PATIENCE, log.wait_for(|events| found(events).is_some()));
        match waited.await {
            Ok(Ok(events)) => found(&events).expect("it was just seen"),
            _ => panic!("no {target}: {message}; the log: {:#?}", self.log.borrow()),
        }
    }
}

fn is(event: &Value, target: &str, message: &str) -> bool {
    event.get("target").and_then(Value::as_str) == Some(target)
        && event.get("message").and_then(Value::as_str) == Some(message)
}

fn listener(service: &str, tls: &str) -> String {
    format!("[[listen]]\naddress = \"127.0.0.1:0\"\nservice = \"{service}\"\ntls = \"{tls}\"\n")
}

/// Configuration of a test: what is before the first line with `[` belongs to the top of the file,
/// the rest to its end; lines of `[delivery]`, which is there already, come first in the rest.
fn section<'a>(config: &'a str, which: &str) -> &'a str {
    let at = match config.starts_with('[') {
        true => 0,
        false => config.find("\n[").map_or(config.len(), |at| at + 1),
    };
    let (top, rest) = config.split_at(at);
    if which == "top" {
        top
    } else {
        rest.strip_prefix("[delivery]\n").unwrap_or(rest)
    }
}

pub fn write(path: PathBuf, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().expect("parent");
    std::fs::create_dir_all(dir).expect("directory");
    std::fs::write(&path, text).expect("file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

/// One RSA key for all worlds of a process: generating takes long.
fn rsa_pem() -> &'static str {
    use chapar::signing::keys::{Algorithm, PrivateKey};
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| {
        PrivateKey::generate(Algorithm::Rsa)
            .expect("key")
            .to_pem()
            .to_string()
    })
}
