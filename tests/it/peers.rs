//! Real programs of others: swaks submits, smtp-sink and aiosmtpd receive.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chapar::lab::{Act, Mx, MxConfig, Stage};

use crate::journey::{arrived, body, head, records};
use crate::oracle;
use crate::world::{PASSWORD, PATIENCE, USER, World};

/// A program that is ended when the test ends.
pub struct Peer(pub Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes mail on 127.0.0.`host`:`port` over STARTTLS and writes each message into `dir`.
pub fn aiosmtpd(host: u8, port: u16, dir: &std::path::Path) -> Peer {
    let script = r#"
import sys, ssl, os, json, itertools, asyncio
from aiosmtpd.smtp import SMTP
host, port, out, cert, key = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
counter = itertools.count()
class Handler:
    async def handle_DATA(self, server, session, envelope):
        base = os.path.join(out, "aio-%06d" % next(counter))
        with open(base + ".tmp", "wb") as f:
            f.write(envelope.original_content)
        with open(base + ".json", "w") as f:
            json.dump({"rcpt": envelope.rcpt_tos, "tls": session.ssl is not None}, f)
        os.rename(base + ".tmp", base + ".eml")
        return "250 2.0.0 OK"
async def main():
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(Handler(), tls_context=context, data_size_limit=60000000), host, port)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"#;
    let made = chapar::tls::self_signed::generate("mx.aio.example", std::time::SystemTime::now())
        .expect("certificate");
    crate::world::write(dir.join("cert.pem"), &made.certificate, 0o644);
    crate::world::write(dir.join("key.pem"), &made.key, 0o600);
    let mut child = Command::new(oracle::python())
        .args(["-c", script, &format!("127.0.0.{host}"), &port.to_string()])
        .arg(dir)
        .arg(dir.join("cert.pem"))
        .arg(dir.join("key.pem"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("aiosmtpd starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("ready");
    assert_eq!(line.trim(), "ready");
    Peer(child)
}

/// Postfix's smtp-sink, which dumps each message into `dir`.
fn smtp_sink(host: u8, port: u16, dir: &std::path::Path) -> Peer {
    let child = Command::new(oracle::postfix("smtp-sink"))
        .arg("-d")
        .arg(format!("{}/sink-%M.", dir.display()))
        .arg(format!("127.0.0.{host}:{port}"))
        .arg("100")
        .stdout(Stdio::null())
        .spawn()
        .expect("smtp-sink starts");
    Peer(child)
}

pub async fn files(
    dir: &std::path::Path,
    prefix: &str,
    suffix: &str,
    count: usize,
) -> Vec<std::path::PathBuf> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut found: Vec<_> = std::fs::read_dir(dir)
            .expect("directory")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(prefix) && name.ends_with(suffix)
            })
            .collect();
        if found.len() >= count {
            found.sort();
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} of {count} {prefix}",
            found.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn swaks(server: std::net::SocketAddr, more: &[&str]) {
    let output = Command::new("swaks")
        .args([
            "--server",
            "127.0.0.1",
            "--port",
            &server.port().to_string(),
        ])
        .args([
            "--auth",
            "PLAIN",
            "--auth-user",
            USER,
            "--auth-password",
            PASSWORD,
        ])
        .args([
            "--from",
            USER,
            "--helo",
            "client.example.org",
            "--silent",
            "2",
        ])
        .args(more)
        .output()
        .expect("swaks runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks_to_three_kinds_of_servers_over_465_and_587() {
    let scripted = Mx::start(MxConfig {
        address: ([127, 0, 0, 4], 0).into(),
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    scripted.on(Stage::Rcpt, |line| match line.contains("late@") {
        true => Act::Reply("450 4.2.1 later".into()),
        false => Act::Default,
    });
    let port = scripted.address().port();
    let mut world = World::new(port, "[retry]\nfirst = \"2s\"\n").await;
    let dir = tempfile::tempdir().expect("directory");
    let _sink = smtp_sink(2, port, dir.path());
    let _aio = aiosmtpd(3, port, dir.path());
    for (domain, host) in [
        ("sink.example", 2),
        ("aio.example", 3),
        ("script.example", 4),
    ] {
        world.dns.mx(domain, 10, &format!("mx.{domain}"));
        world
            .dns
            .a(&format!("mx.{domain}"), [127, 0, 0, host].into());
    }
    world.start().await;

    // An 8-bit body and a 5 MB attachment.
    let attachment = dir.path().join("attachment.bin");
    let bytes: Vec<u8> = (0..5_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&attachment, bytes).expect("attachment");
    let to = "a@sink.example,b@aio.example,c@script.example";
    let file = format!("@{}", attachment.display());
    swaks(
        world.daemon().port("submission/implicit"),
        &[
            "--tls-on-connect",
            "--to",
            to,
            "--attach",
            &file,
            "--body",
            "Grüße aus dem Süden",
        ],
    );
    // 50 recipients at three destinations, one of which answers 450 once.
    let many: Vec<String> = (0..50)
        .map(|n| match n {
            17 => "late@script.example".to_owned(),
            n => format!(
                "r{n}@{}",
                ["sink.example", "aio.example", "script.example"][n % 3]
            ),
        })
        .collect();
    swaks(
        world.daemon().port("submission/starttls"),
        &["--tls", "--to", &many.join(","), "--body", "short"],
    );

    let scripts = arrived(&scripted, 2).await;
    scripted.on(Stage::Rcpt, |_| Act::Default);
    let late = arrived(&scripted, 3).await;
    assert_eq!(
        late[2].recipients,
        ["late@script.example"],
        "the 450 alone is retried"
    );
    let mut at_script: Vec<&str> = late
        .iter()
        .flat_map(|m| m.recipients.iter().map(String::as_str))
        .collect();
    at_script.sort();
    let mut expected: Vec<&str> = many
        .iter()
        .map(String::as_str)
        .filter(|r| r.ends_with("script.example"))
        .collect();
    expected.push("c@script.example");
    expected.sort();
    assert_eq!(at_script, expected, "each once");

    let aio = files(dir.path(), "aio-", ".eml", 2).await;
    let sink = files(dir.path(), "sink-", "", 2).await;
    let big = |message: &Vec<u8>| message.len() > 1_000_000;
    let reference = scripts
        .iter()
        .map(|m| m.data.clone())
        .find(big)
        .expect("the attachment");
    for path in aio.iter().chain(&sink) {
        let bytes = std::fs::read(path).expect("message");
        if bytes.len() < 1_000_000 {
            continue;
        }
        let name = path.display();
        // smtp-sink writes its own trace lines first and bare line ends.
        let bytes = match path.to_string_lossy().contains("sink-") {
            true => normalised(&bytes),
            false => bytes,
        };
        let start = find(&bytes, b"Received: from localhost").expect("our trace");
        assert!(
            bytes[start..].trim_ascii_end() == reference.trim_ascii_end(),
            "{name} differs"
        );
    }
    assert!(head(&reference).contains("DKIM-Signature"));
    assert!(find(body(&reference), "Grüße aus dem Süden".as_bytes()).is_some());
    for message in &late {
        assert_eq!(oracle::dkimpy(&message.data, &records(&world)), (2, 2));
    }
    let told: Vec<serde_json::Value> = files(dir.path(), "aio-", ".json", 2)
        .await
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).expect("file")).expect("JSON"))
        .collect();
    assert!(
        told.iter().all(|message| message["tls"] == true),
        "{told:?}"
    );
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}

pub fn normalised(text: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\r').collect();
    let mut out = Vec::with_capacity(text.len() + text.len() / 40);
    for byte in text {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}
