//! Real clients of others: Python's smtplib and curl.

use std::process::Command;

use chapar::lab::{Mx, MxConfig};

use crate::world::{DOMAIN, PASSWORD, PATIENCE, USER, World, write};

const SCRAM_USER: &str = "bob@example.org";

async fn world() -> (World, Mx) {
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
    let secrets = chapar::auth::password::secrets(PASSWORD.as_bytes()).expect("secrets");
    let bob = format!(
        "\"{SCRAM_USER}\" = {{ password = \"{}\", scram = \"{}\" }}\n",
        secrets.hash, secrets.scram
    );
    write(users, &format!("{text}{bob}"), 0o600);
    world.start().await;
    (world, remote)
}

async fn arrived(remote: &Mx, count: usize) -> Vec<String> {
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

fn port(world: &World, name: &str) -> String {
    world.daemon().port(name).port().to_string()
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
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("the runner").expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{complaint}");
    assert_eq!(said, "plain\nlogin\nchallenged\nscram\nrefused\n");
    let messages = arrived(&remote, 4).await;
    for subject in ["plain", "login", "challenged", "scram"] {
        let mark = format!("\r\nSubject: {subject}\r\n");
        let message = messages.iter().find(|message| message.contains(&mark));
        let message = message.expect(subject);
        assert!(message.contains("\r\n.leading dot\r\n"), "{message}");
        assert!(message.contains(" with ESMTPSA id "), "{message}");
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
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("the runner").expect("curl runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for message in arrived(&remote, 2).await {
        assert!(message.contains("\r\n.dots\r\n..\r\n"), "{message}");
    }
}
