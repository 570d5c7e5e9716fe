//! OpenDKIM, which shares no code with us, signs for us to verify, verifies what we sign, and is a
//! milter.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chapar::lab::{Mx, MxConfig};
use chapar::signing::keys::{Algorithm, PrivateKey};

use crate::journey::{arrived, head, mx, records};
use crate::oracle;
use crate::world::{PATIENCE, USER, World};

const MESSAGE: &str = "From: Her <her@src.example>\r\nTo: i@example.org\r\nSubject: A   letter\r\n folded\r\n\
    Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n\r\nHello,  \r\n\r\nthis is it.\r\n\r\n\r\n";

/// A directory for OpenDKIM with what the DNS answers it.
struct Place(tempfile::TempDir);

impl Place {
    fn new(records: &[(String, String)]) -> Place {
        let dir = tempfile::tempdir().expect("directory");
        let lines: String = records
            .iter()
            .map(|(name, text)| format!("{} {text}\n", name.trim_end_matches('.')))
            .collect();
        std::fs::write(dir.path().join("dns"), lines).expect("write");
        Place(dir)
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("conf");
        let dns = self.0.path().join("dns");
        let text = format!(
            "Syslog no\nBackground no\nRequireSafeKeys no\nTestDNSData file:{}\n{text}",
            dns.display()
        );
        std::fs::write(&path, text).expect("write");
        path
    }

    /// What OpenDKIM does with a message.
    fn run(&self, config: &str, message: &[u8]) -> String {
        let file = self.0.path().join("message");
        std::fs::write(&file, message).expect("write");
        let output = Command::new(oracle::opendkim())
            .arg("-t")
            .arg(&file)
            .arg("-x")
            .arg(self.config(config))
            .arg("-vv")
            .output()
            .expect("OpenDKIM runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Which signatures hold: the selector of each.
    fn verifies(&self, message: &[u8]) -> Vec<String> {
        let config = "Mode v\nSocket inet:1@127.0.0.1\nAuthservID opendkim.example\n";
        let out = self.run(config, message);
        let lines = out.split([';', '\n']).map(str::trim);
        lines
            .filter(|part| part.starts_with("dkim=pass"))
            .filter_map(|part| part.split("header.s=").nth(1)?.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    /// `message` with a signature of `s._domainkey.src.example` on top.
    fn signs(&self, key: &PrivateKey, forms: &str, message: &[u8]) -> Vec<u8> {
        let pem = self.0.path().join("key.pem");
        std::fs::write(&pem, key.to_pem().as_bytes()).expect("write");
        let config = format!(
            "Mode s\nSocket inet:1@127.0.0.1\nDomain src.example\nSelector s\nKeyFile {}\n\
             SignatureAlgorithm rsa-sha256\nOversignHeaders From\nCanonicalization {forms}\n",
            pem.display()
        );
        let out = self.run(&config, message);
        let from = out.split("hname='DKIM-Signature' hvalue='").nth(1);
        let value = from.and_then(|rest| rest.split('\'').next()).expect(&out);
        let field = format!("DKIM-Signature: {}\r\n", value.replace('\n', "\r\n"));
        [field.as_bytes(), message].concat()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opendkim_verifies_what_we_sign() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    world.start().await;
    let message = MESSAGE.replace("her@src.example", USER);
    let mut client = world.user().await;
    client
        .send(USER, &["i@box.example"], message.as_bytes())
        .await
        .expect("taken");
    let sent = arrived(&remote, 1).await.remove(0).data;
    let place = Place::new(&records(&world));
    assert_eq!(place.verifies(&sent), ["rsa1", "ed1"]);
    let text = String::from_utf8(sent).expect("text");
    for (what, changed) in [
        ("body", text.replace("this is it", "this was it")),
        ("subject", text.replace("A   letter", "Another letter")),
        ("a second From", format!("From: evil@src.example\r\n{text}")),
        ("a second Subject", format!("Subject: evil\r\n{text}")),
    ] {
        assert!(place.verifies(changed.as_bytes()).is_empty(), "{what}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opendkim_signs_we_verify() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let key = PrivateKey::generate(Algorithm::Rsa).expect("key");
    world.dns.txt("s._domainkey.src.example", &key.record());
    world.start().await;
    let place = Place::new(&[]);
    let mut count = 0;
    for forms in [
        "relaxed/relaxed",
        "relaxed/simple",
        "simple/relaxed",
        "simple/simple",
    ] {
        let signed = place.signs(&key, forms, MESSAGE.as_bytes());
        let text = String::from_utf8(signed).expect("text");
        let fold = |text: &str| text.replace("A   letter\r\n folded", "A letter folded");
        for (what, message, verdict) in [
            ("as it is", text.clone(), "pass"),
            (
                "folded",
                fold(&text),
                match forms.starts_with("relaxed") {
                    true => "pass",
                    false => "fail",
                },
            ),
            ("appended", format!("{text}more\r\n"), "fail"),
            ("changed", text.replace("this is", "this was"), "fail"),
        ] {
            let mut client = world.mx().await;
            let answer = client
                .send("", &["i@example.org"], message.as_bytes())
                .await;
            assert_eq!(answer.expect("an answer").code, 250);
            let received = arrived(&remote, count + 1).await;
            let top = head(&received[count].data);
            count += 1;
            let wanted = format!("\tdkim={verdict}");
            assert!(top.contains(&wanted), "{forms} {what}: {top}");
        }
    }
    world.stop().await;
}

/// OpenDKIM as a daemon, until it is dropped.
struct Milter(Child);

impl Drop for Milter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opendkim_is_a_milter() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let key = PrivateKey::generate(Algorithm::Rsa).expect("key");
    let record = ("s._domainkey.src.example".to_owned(), key.record());
    world.dns.txt(&record.0, &record.1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = free.expect("a port").port();
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    let with = format!("milters = [\"inet:127.0.0.1:{port}\"]\ntls = ");
    std::fs::write(world.config(), config.replacen("tls = ", &with, 1)).expect("write");
    let place = Place::new(&[record]);
    let signed = place.signs(&key, "relaxed/relaxed", MESSAGE.as_bytes());
    let text = format!(
        "Mode v\nSocket inet:{port}@127.0.0.1\nAuthservID opendkim.example\nAlwaysAddARHeader yes\n\
         ExternalIgnoreList {0}\nPeerList {0}\n",
        empty(place.0.path()).display()
    );
    let milter = Command::new(oracle::opendkim())
        .args(["-f", "-x"])
        .arg(place.config(&text))
        .stdout(Stdio::null())
        .spawn()
        .expect("OpenDKIM runs");
    let _milter = Milter(milter);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .is_err()
    {
        assert!(tokio::time::Instant::now() < deadline, "OpenDKIM listens");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    world.start().await;
    let mut client = world.mx().await;
    let answer = client.send("", &["i@example.org"], &signed).await;
    assert_eq!(answer.expect("an answer").code, 250);
    let received = arrived(&remote, 1).await;
    let top = head(&received[0].data);
    let theirs = top.split("Authentication-Results: opendkim.example").nth(1);
    assert!(
        theirs.is_some_and(|field| field.contains("dkim=pass")),
        "{top}"
    );
    assert!(
        top.contains("Authentication-Results: mx.example.org;"),
        "{top}"
    );
    // What it may have changed is below what we seal and judge: the signature still holds.
    let judged = place.verifies(&received[0].data);
    assert!(judged.contains(&"s".to_owned()), "{top}");
    world.stop().await;
}

/// A file of no networks: everybody is a stranger.
fn empty(dir: &Path) -> PathBuf {
    let path = dir.join("nobody");
    std::fs::write(&path, "192.0.2.255\n").expect("write");
    path
}
