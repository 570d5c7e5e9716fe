//! Real clients of others: Python's smtplib, curl, msmtp, mutt and nodemailer. (swaks: `tests/it`;
//! mail servers as clients: `relays`.)

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use chapar::lab::{Client, Mx, MxConfig};

use crate::world::{DOMAIN, HOST, PASSWORD, PATIENCE, USER, World, write};

const SCRAM_USER: &str = "bob@example.org";

pub async fn world() -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let limits = "[limits]\nguess_delay = \"1ms\"\n";
    let mut world = World::new(remote.address().port(), limits).await;
    world.dns.mx("box.example", 10, "mx.box.example");
    world.dns.a("mx.box.example", std::net::Ipv4Addr::LOCALHOST);
    let users = world
        .dir
        .path()
        .join("domains")
        .join(DOMAIN)
        .join("users.toml");
    let text = std::fs::read_to_string(&users).expect("users");
    let secrets = chapar::identity::password::secrets(PASSWORD.as_bytes()).expect("secrets");
    let bob = format!(
        "\"{SCRAM_USER}\" = {{ password = \"{}\", scram = \"{}\" }}\n",
        secrets.hash, secrets.scram
    );
    write(users, &format!("{text}{bob}"), 0o600);
    world.start().await;
    (world, remote)
}

pub async fn arrived(remote: &Mx, count: usize) -> Vec<String> {
    let waited = tokio::time::timeout(PATIENCE, remote.wait(count)).await;
    assert!(
        waited.is_ok(),
        "{} of {count} messages",
        remote.received().len()
    );
    let text = |data: &Vec<u8>| String::from_utf8_lossy(data).into_owned();
    remote
        .received()
        .iter()
        .map(|message| text(&message.data))
        .collect()
}

pub fn port(world: &World, name: &str) -> String {
    world.daemon().port(name).port().to_string()
}

/// The certificate of the world's server, which clients are told to trust.
pub fn certificate(world: &World) -> PathBuf {
    let tls = world.dir.path().join("secrets/tls").join(HOST);
    tls.join("fullchain.pem")
}

/// Runs a client to its end, `input` as its standard input; gives what it said.
async fn run(mut command: Command, input: &'static str) -> String {
    let name = format!("{:?}", command.get_program());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name}, which tests/run gets: {error}"));
    let ended = tokio::task::spawn_blocking(move || {
        let mut stdin = child.stdin.take().expect("stdin");
        // A client that reads nothing may be gone already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output()
    });
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    let output = ended.expect(&name).expect("the runner").expect(&name);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}{complaint}");
    said
}

fn with_subject<'a>(messages: &'a [String], subject: &str) -> &'a String {
    let mark = format!("\r\nSubject: {subject}\r\n");
    let mut fitting = messages.iter().filter(|message| message.contains(&mark));
    let message = fitting.next().expect(subject);
    assert!(fitting.next().is_none(), "{subject} twice");
    assert!(message.contains(" with ESMTPSA id "), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn python_logs_in_in_every_way_and_its_mail_arrives() {
    let (world, remote) = world().await;
    let python = std::env::var("CHAPAR_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smtp/clients.py");
    let mut command = Command::new(python);
    command.arg(script).args([
        port(&world, "submission/implicit").as_str(),
        port(&world, "submission/starttls").as_str(),
        USER,
        PASSWORD,
        SCRAM_USER,
    ]);
    let said = run(command, "").await;
    assert_eq!(said, "plain\nlogin\nchallenged\nscram\nrefused\n");
    let messages = arrived(&remote, 4).await;
    for subject in ["plain", "login", "challenged", "scram"] {
        let message = with_subject(&messages, subject);
        assert!(message.contains("\r\n.leading dot\r\n"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_submits_over_465_and_587() {
    let (world, remote) = world().await;
    let mail = world.dir.path().join("mail");
    write(
        mail.clone(),
        "From: me@example.org\r\nSubject: curl\r\n\r\n.dots\r\n..\r\n",
        0o644,
    );
    for (scheme, listener) in [
        ("smtps", "submission/implicit"),
        ("smtp", "submission/starttls"),
    ] {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--show-error",
                "--insecure",
                "--ssl-reqd",
                "--user",
            ])
            .arg(format!("{USER}:{PASSWORD}"))
            .args(["--mail-from", USER, "--mail-rcpt", "you@box.example"])
            .arg("--upload-file")
            .arg(&mail)
            .arg(format!(
                "{scheme}://127.0.0.1:{}/client.example.net",
                port(&world, listener)
            ));
        run(command, "").await;
    }
    for message in arrived(&remote, 2).await {
        assert!(message.contains("\r\n.dots\r\n..\r\n"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn msmtp_submits_over_465_and_587_with_plain_login_and_scram() {
    let (world, remote) = world().await;
    for (listener, starttls) in [
        ("submission/implicit", "off"),
        ("submission/starttls", "on"),
    ] {
        for method in ["plain", "login", "scram-sha-256"] {
            let user = match method {
                "scram-sha-256" => SCRAM_USER,
                _ => USER,
            };
            let mut command = Command::new("msmtp");
            command
                .args(["--file=/dev/null", "--host=127.0.0.1", "--tls=on"])
                .arg(format!("--port={}", port(&world, listener)))
                .arg(format!("--tls-starttls={starttls}"))
                .arg(format!("--tls-host-override={HOST}"))
                .arg(format!(
                    "--tls-trust-file={}",
                    certificate(&world).display()
                ))
                .arg(format!("--auth={method}"))
                .arg(format!("--user={user}"))
                .arg(format!("--passwordeval=echo '{PASSWORD}'"))
                .arg(format!("--from={user}"))
                .args(["--dsn-return=headers", "--dsn-notify=failure,delay"])
                .args(["--", "you@box.example"]);
            run(
                command,
                "Subject: msmtp\nTo: you@box.example\nBcc: secret@box.example\n\n.dot\nGrüße\n",
            )
            .await;
        }
    }
    for message in arrived(&remote, 6).await {
        assert!(message.contains("\r\n.dot\r\nGrüße\r\n"), "{message}");
        assert!(message.contains(" with ESMTPSA id "), "{message}");
        assert!(!message.contains("secret@"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mutt_submits_over_its_own_smtp() {
    let (world, remote) = world().await;
    let home = world.dir.path().join("mutt");
    for (scheme, listener) in [
        ("smtps", "submission/implicit"),
        ("smtp", "submission/starttls"),
    ] {
        for method in ["plain", "login", "scram-sha-256"] {
            let user = match method {
                "scram-sha-256" => SCRAM_USER,
                _ => USER,
            };
            let settings = format!(
                "set from = \"{user}\"\n\
                 set use_from = yes\n\
                 set use_envelope_from = yes\n\
                 set copy = no\n\
                 set send_charset = \"utf-8\"\n\
                 set record = \"\"\n\
                 set smtp_url = \"{scheme}://{user}@127.0.0.1:{}/\"\n\
                 set smtp_pass = \"{PASSWORD}\"\n\
                 set smtp_authenticators = \"{method}\"\n\
                 set ssl_force_tls = yes\n\
                 set ssl_verify_host = no\n\
                 set ssl_ca_certificates_file = \"{}\"\n\
                 set certificate_file = \"{}\"\n",
                port(&world, listener),
                certificate(&world).display(),
                certificate(&world).display(),
            );
            let file = home.join(format!("{scheme}-{method}"));
            write(file.clone(), &settings, 0o600);
            let mut command = Command::new("mutt");
            command
                .env("HOME", &home)
                .env("LC_ALL", "C.UTF-8")
                .args(["-n", "-F"])
                .arg(&file)
                .args(["-s", &format!("{scheme} {method}")])
                .args(["you@box.example"]);
            run(command, ".dot\nGrüße\n").await;
        }
    }
    let messages = arrived(&remote, 6).await;
    for scheme in ["smtps", "smtp"] {
        for method in ["plain", "login", "scram-sha-256"] {
            let message = with_subject(&messages, &format!("{scheme} {method}"));
            assert!(message.contains("\r\n.dot\r\nGrüße\r\n"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodemailer_submits_over_465_and_587() {
    let (world, remote) = world().await;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = std::env::var_os("CHAPAR_PEERS").map(PathBuf::from);
    let bin = bin.unwrap_or_else(|| root.join("target/peers/bin"));
    let package = bin.join("../node/usr/share/nodejs/nodemailer");
    assert!(package.exists(), "{package:?}: tests/run installs it");
    let mut command = Command::new("node");
    command
        .arg(root.join("tests/smtp/nodemailer.js"))
        .arg(package)
        .arg(certificate(&world))
        .args([
            port(&world, "submission/implicit").as_str(),
            port(&world, "submission/starttls").as_str(),
            USER,
            PASSWORD,
        ]);
    let mut subjects = Vec::new();
    for way in ["implicit", "starttls"] {
        for method in ["PLAIN", "LOGIN"] {
            subjects.extend([1, 2].map(|number| format!("{way} {method} {number}")));
        }
    }
    let said = run(command, "").await;
    assert_eq!(
        said,
        format!("{}\nrefused EAUTH 535\n", subjects.join("\n"))
    );
    let messages = arrived(&remote, 8).await;
    for subject in &subjects {
        let message = with_subject(&messages, subject);
        assert!(message.len() > 400_000, "{} bytes", message.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_is_offered_once_every_user_can_use_it() {
    let mut world = World::new(25, "").await;
    let users = world.dir.path().join("domains").join(DOMAIN);
    let users = users.join("users.toml");
    let hash = chapar::identity::password::hash(PASSWORD.as_bytes()).expect("hash");
    let text = std::fs::read_to_string(&users).expect("users");
    let old = format!("\"{SCRAM_USER}\" = {{ password = \"{hash}\" }}\n");
    write(users, &format!("{text}{old}"), 0o600);
    world.start().await;
    let mut client = world.user().await;
    let offered = client.expect("EHLO client.example.org", 250).await;
    let offered = offered.expect("EHLO").text;
    assert!(offered.contains("250-AUTH PLAIN LOGIN\r\n"), "{offered}");
    // A login in clear inside TLS makes what SCRAM needs, and the changed file is loaded.
    let port = world.daemon().port("submission/implicit");
    let mut other = Client::connect_tls(port, HOST).await.expect("TLS");
    other.reply().await.expect("greeting");
    other
        .expect("EHLO client.example.org", 250)
        .await
        .expect("EHLO");
    let answer = other.auth_plain(SCRAM_USER, PASSWORD).await;
    assert_eq!(answer.expect("login").code, 235);
    world.daemon().event("daemon", "reloaded").await;
    let mut client = Client::connect_tls(port, HOST).await.expect("TLS");
    client.reply().await.expect("greeting");
    let offered = client.expect("EHLO client.example.org", 250).await;
    let offered = offered.expect("EHLO").text;
    assert!(
        offered.contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"),
        "{offered}"
    );
}
