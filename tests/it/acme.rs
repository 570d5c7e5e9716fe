//! Certificates from a CA: Pebble, with a root, a DNS server and ports of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use chapar::lab::{Client, Named};
use chapar::tls::certificate::Facts;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{HOST, World, free_port, write};

/// Seconds a certificate of this CA is valid: it is renewed after eight.
const VALID: u64 = 12;

/// A CA that runs until it is dropped.
struct Pebble {
    child: Child,
    port: u16,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pebble {
    /// Its own https certificate comes from a CA in `dir/ca.pem`.
    fn start(dir: &Path, dns: SocketAddr, http: u16, https: u16) -> Pebble {
        let ca_key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("CA");
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let own = params.signed_by(&key, &issuer).expect("certificate");
        write(dir.join("ca.pem"), &ca.pem(), 0o644);
        write(dir.join("pebble.crt"), &own.pem(), 0o644);
        write(dir.join("pebble.key"), &key.serialize_pem(), 0o600);
        let port = free_port();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": dir.join("pebble.crt"),
            "privateKey": dir.join("pebble.key"),
            "httpPort": http,
            "tlsPort": https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": VALID,
        }});
        let file = dir.join("pebble.json");
        write(file.clone(), &config.to_string(), 0o644);
        let child = Command::new("pebble")
            .args(["-dnsserver", &dns.to_string(), "-config"])
            .arg(&file)
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble; tests/run installs it");
        Pebble { child, port }
    }

    async fn ready(&self) {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A world whose certificate is `challenge`'s, and its CA.
async fn world(challenge: &str) -> (World, Pebble, u16) {
    let http = free_port();
    let web = format!("[web]\nhttp = [\"127.0.0.1:{http}\"]\n");
    world_with(challenge, http, "", &web).await
}

/// The same with more keys of `[acme]` and another way to answer at the port for http.
async fn world_with(challenge: &str, http: u16, acme: &str, web: &str) -> (World, Pebble, u16) {
    let https = free_port();
    let mut world = World::new(25, "").await;
    let pebble = Pebble::start(world.dir.path(), world.dns.address(), http, https);
    let toml = std::fs::read_to_string(world.config()).expect("configuration");
    let more = format!(
        "[acme]\nenabled = true\ndirectory = \"https://localhost:{}/dir\"\n\
         challenge = \"{challenge}\"\n{acme}\
         {web}https = [\"127.0.0.1:{https}\"]\n\
         [tls]\nca_file = \"ca.pem\"\n",
        pebble.port
    );
    write(world.config(), &(toml + &more), 0o644);
    for name in [HOST, "mta-sts.example.org"] {
        world.dns.a(name, Ipv4Addr::LOCALHOST);
    }
    pebble.ready().await;
    world.start().await;
    (world, pebble, https)
}

fn on_disk(world: &World) -> Facts {
    let file = world
        .dir
        .path()
        .join("secrets/tls")
        .join(HOST)
        .join("fullchain.pem");
    Facts::of_pem(&std::fs::read(file).expect("chain")).expect("certificate")
}

/// The name of the issuer that a client of port 465 is shown.
async fn shown(world: &World) -> Vec<u8> {
    let port = world.daemon().port("submission/implicit");
    let mut client = Client::connect_tls(port, HOST).await.expect("handshake");
    client.reply().await.expect("greeting");
    client.certificate().expect("certificate")
}

/// Four clients that connect as fast as they can, until the load ends.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<u32>>,
}

impl Load {
    fn start(server: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |stop: Arc<AtomicBool>| async move {
            let mut handshakes = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut client = Client::connect_tls(server, HOST).await.expect("handshake");
                client.reply().await.expect("greeting");
                client.expect("QUIT", 221).await.expect("QUIT");
                handshakes += 1;
            }
            handshakes
        };
        let clients = (0..4).map(|_| tokio::spawn(client(stop.clone())));
        Load {
            clients: clients.collect(),
            stop,
        }
    }

    /// Ends it; no handshake may have failed.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            assert!(client.await.expect("no handshake failed") > 10);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ones_own_is_watched_where_it_lies_and_swapped_under_load() {
    let mut world = World::new(25, "").await;
    let own = tempfile::tempdir().expect("directory");
    let (chain, key) = (own.path().join("mx.crt"), own.path().join("mx.key"));
    let renew = || {
        let made = chapar::tls::self_signed::generate(HOST, SystemTime::now());
        let made = made.expect("certificate");
        // As certbot's hooks do: each file by itself, so that for a moment they do not fit.
        write(key.clone(), &made.key, 0o640);
        write(chain.clone(), &made.certificate, 0o644);
    };
    renew();
    let toml = std::fs::read_to_string(world.config()).expect("configuration");
    let more = format!(
        "[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        chain.display(),
        key.display()
    );
    write(world.config(), &(toml + &more), 0o644);
    world.start().await;
    let mut before = shown(&world).await;
    let load = Load::start(world.daemon().port("submission/implicit"));
    for _ in 0..3 {
        renew();
        let swapped = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let now = shown(&world).await;
                if now != before {
                    break now;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        before = swapped.await.expect("the new one is shown");
    }
    // One that can not be used changes nothing.
    write(key.clone(), "no key", 0o640);
    world
        .daemon()
        .event_containing("daemon", "nothing changed")
        .await;
    assert_eq!(shown(&world).await, before);
    load.end().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_http_and_is_renewed_under_load_without_a_failed_handshake() {
    let (mut world, _pebble, https) = world("http-01").await;
    let daemon = world.daemon();
    daemon
        .event("certificate", "a new certificate is in place")
        .await;
    daemon.event("daemon", "reloaded").await;
    let facts = on_disk(&world);
    assert!(!facts.self_signed);
    assert_eq!(facts.names, [HOST, "mta-sts.example.org"]);
    let first = shown(&world).await;

    let load = Load::start(world.daemon().port("submission/implicit"));
    let deadline = SystemTime::now() + Duration::from_secs(VALID * 2);
    let renewed = loop {
        let now = shown(&world).await;
        if now != first {
            break true;
        }
        if SystemTime::now() > deadline {
            break false;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    load.end().await;
    assert!(renewed, "the certificate was not renewed");
    assert!(on_disk(&world).begins > facts.begins);

    // The policy is served under its name, with a certificate for it (RFC 8461 section 3.3).
    let answer = get(https, "mta-sts.example.org", "/.well-known/mta-sts.txt").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("answer");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(
        body,
        "version: STSv1\r\nmode: testing\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"
    );
    let answer = get(https, "mta-sts.example.com", "/.well-known/mta-sts.txt").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    world.stop().await;
}

/// Another web server: gives files below `root`, and says which modes they had.
async fn web_server(root: std::path::PathBuf) -> (u16, tokio::sync::mpsc::UnboundedReceiver<u32>) {
    use std::os::unix::fs::PermissionsExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let port = listener.local_addr().expect("address").port();
    let (said, modes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let file = root.join(path.trim_start_matches('/'));
            let answer = match std::fs::read_to_string(&file) {
                Ok(text) => {
                    let mode = std::fs::metadata(&file).expect("mode").permissions().mode();
                    let _ = said.send(mode & 0o777);
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                        text.len()
                    )
                }
                Err(_) => {
                    "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, modes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_and_is_renewed_through_the_webroot_of_another_server() {
    let www = tempfile::tempdir().expect("directory");
    let (http, mut modes) = web_server(www.path().to_owned()).await;
    let webroot = format!("webroot = \"{}\"\n", www.path().display());
    let (world, _pebble, _) = world_with("http-01", http, &webroot, "[web]\n").await;
    let daemon = world.daemon();
    daemon
        .event("certificate", "a new certificate is in place")
        .await;
    let first = on_disk(&world);
    assert!(!first.self_signed);
    assert_eq!(modes.recv().await, Some(0o644));
    let challenges = www.path().join(".well-known/acme-challenge");
    let left = || std::fs::read_dir(&challenges).expect("list").count();
    assert_eq!(left(), 0, "no token stays");
    // After two thirds of its twelve seconds.
    let renewed = tokio::time::timeout(Duration::from_secs(30), async {
        while on_disk(&world).begins == first.begins {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    renewed.await.expect("it is renewed");
    assert_eq!(left(), 0, "no token stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_in_a_handshake() {
    let (mut world, _pebble, _) = world("tls-alpn-01").await;
    world
        .daemon()
        .event("certificate", "a new certificate is in place")
        .await;
    assert_eq!(on_disk(&world).names, [HOST, "mta-sts.example.org"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_ca_that_fails_changes_nothing_and_is_told() {
    let (mut world, pebble, _) = world("http-01").await;
    world
        .daemon()
        .event("certificate", "a new certificate is in place")
        .await;
    world.stop().await;
    let before = on_disk(&world);
    // It is old enough to be renewed, and the CA is gone.
    drop(pebble);
    tokio::time::sleep(Duration::from_secs(VALID)).await;
    world.start().await;
    let daemon = world.daemon();
    let alarm = daemon
        .event_containing("certificate", "ALARM: the certificate ends soon")
        .await;
    assert_eq!(alarm["level"], "ERROR");
    let failed = daemon
        .event_containing("certificate", "no new certificate, the old one stays")
        .await;
    assert_eq!(failed["next_try_minutes"], 5);
    assert_eq!(on_disk(&world), before);
    shown(&world).await;
    world.stop().await;
}

/// A world whose certificate comes by the DNS, from a name server where `key` may change what it
/// may; not started.
async fn by_dns(key: &str) -> (World, Named, Pebble) {
    let zone = "mx A 127.0.0.1\nmta-sts CNAME mx\n_acme-challenge TXT \"of another\"\n\
                _acme-challenge.mx TXT \"left by a crash\"";
    let named = Named::start(&[("example.org", zone)]).await;
    let named = named.expect("named; tests/run installs it");
    let world = World::new(25, "").await;
    named.credentials(world.dir.path(), key).expect("written");
    let left = "[[\"_acme-challenge.mx.example.org\", \"TXT\", \"\\\"left by a crash\\\"\"]]";
    write(world.dir.path().join(NOTED), left, 0o600);
    let pebble = Pebble::start(world.dir.path(), named.address(), 1, 1);
    pebble.ready().await;
    let toml = std::fs::read_to_string(world.config()).expect("configuration");
    let servers = format!("servers = [\"{}\"]", world.dns.address());
    let ours = format!(
        "servers = [\"{}\"]\nprovider = \"rfc2136\"",
        named.address()
    );
    let more = format!(
        "[acme]\nenabled = true\ndirectory = \"https://localhost:{}/dir\"\n\
         challenge = \"dns-01\"\nnames = [\"example.org\", \"*.example.org\"]\ndns_port = {}\nkeep_key = true\n\
         [tls]\nca_file = \"ca.pem\"\n",
        pebble.port,
        named.address().port()
    );
    let toml = toml.replace(&servers, &ours) + &more;
    write(world.config(), &toml, 0o644);
    (world, named, pebble)
}

/// Answers to the CA that may have to be removed.
const NOTED: &str = "secrets/dns/challenges.json";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_wildcard_come_by_the_dns_and_nothing_stays_there() {
    let (mut world, named, _pebble) = by_dns(Named::KEY).await;
    let (_, records, _) = world.run(&["dns", "example.org", "--ip", "192.0.2.1"]);
    let mut lines = records.lines();
    let tlsa = lines.find(|line| line.starts_with("_25._tcp.mx.example.org. 3600 IN TLSA 3 1 1 "));
    let before = tlsa.expect("a record").to_owned();
    world.start().await;
    world
        .daemon()
        .event("certificate", "a new certificate is in place")
        .await;
    // Before it is renewed.
    let log = named.log();
    let noted = std::fs::read_to_string(world.dir.path().join(NOTED));
    assert_eq!(noted.expect("read"), "[]");
    // The wildcard stands for the host, too.
    let facts = on_disk(&world);
    assert_eq!(facts.names, ["example.org", "*.example.org"]);
    assert!(facts.covers(HOST) && facts.covers("mta-sts.example.org"));
    assert!(!facts.self_signed);
    let (_, records, _) = world.run(&["dns", "example.org", "--ip", "192.0.2.1"]);
    assert!(
        records.contains(&before),
        "the key is kept: {before} in {records}"
    );
    let added = log.matches("adding an RR at '_acme-challenge").count();
    assert_eq!(added, 2, "both answers are at one name");
    let removed = log.matches("deleting an RR at _acme-challenge").count();
    assert_eq!(removed, 3, "{log}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_name_server_that_refuses_changes_nothing_and_is_told() {
    let (mut world, named, _pebble) = by_dns(Named::READER).await;
    let before = on_disk(&world);
    world.start().await;
    let failed = world
        .daemon()
        .event_containing(
            "certificate",
            "no new certificate, the old one stays: rfc2136 refuses (REFUSED: the key may not change this; give it update-policy",
        )
        .await;
    assert_eq!(failed["level"], "ERROR");
    assert_eq!(failed["next_try_minutes"], 5);
    assert_eq!(on_disk(&world), before);
    assert_eq!(named.log().matches("adding an RR").count(), 0);
    world.stop().await;
}

async fn get(port: u16, host: &str, path: &str) -> String {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("connection");
    let mut stream = chapar::lab::tls(tcp, host).await.expect("handshake");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    answer
}
