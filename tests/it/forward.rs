//! Mail from outside that is forwarded to a receiver as strict as Gmail, judged there by the code
//! of others.

use std::io::BufRead as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chapar::lab::Client;
use chapar::message::{Body, Content};
use chapar::signing::Keys;
use serde_json::Value;

use crate::journey::{body, head};
use crate::oracle;
use crate::world::{PATIENCE, World, write};

const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const BAD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Retries do not wait for minutes.
const CONFIG: &str = "[retry]\nfirst = \"1s\"\nlongest = \"2s\"\n";

const HEAD: &str = "From: Her <her@src.example>\r\nTo: i@example.org\r\nSubject: A letter\r\n\
                    Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n";
const BODY: &str = "Hello,\r\n\r\nthis is it. \r\n";

struct Gmail {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Gmail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gmail {
    fn start(world: &World, port: u16) -> Gmail {
        let dir = tempfile::tempdir().expect("directory");
        let mut child = Command::new(oracle::python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/gmail.py"))
            .args(["127.0.0.1", &port.to_string()])
            .arg(world.dns.address().port().to_string())
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        std::io::BufReader::new(stdout)
            .read_line(&mut line)
            .expect("ready");
        assert_eq!(line.trim(), "ready");
        Gmail { child, dir }
    }

    /// What it saw of the message number `index`, and the message.
    async fn saw(&self, index: usize) -> (Value, Vec<u8>) {
        let base = self.dir.path().join(format!("{index:06}"));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read(base.with_extension("json")) {
                let seen = serde_json::from_slice(&text).expect("JSON");
                return (
                    seen,
                    std::fs::read(base.with_extension("eml")).expect("message"),
                );
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "message {index} arrives"
            );
            // Another process tells of it by a file only.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// The tutorial's domain, a Gmail to which it forwards, and a domain with SPF, DKIM and DMARC.
async fn world(dmarc: &str) -> (World, Gmail, Keys) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = port.expect("a free port").port();
    let mut world = World::new(port, CONFIG).await;
    let aliases = "i: me@gmail.example\n*: me@gmail.example\n";
    write(
        world.dir.path().join("domains/example.org/aliases"),
        aliases,
        0o644,
    );
    world.dns.mx("gmail.example", 10, "mx.gmail.example");
    world.dns.a("mx.gmail.example", Ipv4Addr::LOCALHOST);
    world.dns.txt("example.org", "v=spf1 ip4:127.0.0.1 -all");
    world
        .dns
        .txt("src.example", &format!("v=spf1 ip4:{GOOD} -all"));
    world.dns.txt("_dmarc.src.example", dmarc);
    world.dns.ptr(GOOD.into(), "mail.src.example");
    world.dns.a("mail.src.example", GOOD);
    let far = world.dir.path().join("far");
    let domain = far.join("domains/src.example/domain.toml");
    write(domain, "mode = \"forward\"\nselectors = [\"s\"]\n", 0o644);
    let made = chapar::signing::keys::PrivateKey::load(world.dir.path(), "example.org", "rsa1");
    let key = made.expect("key");
    let path = chapar::signing::keys::path(&far, "src.example", "s");
    write(path, &key.to_pem(), 0o600);
    world.dns.txt("s._domainkey.src.example", &key.record());
    let identity = chapar::identity::Identity::load(&far, "").expect("identity");
    let keys = Keys::load(&far, &identity).expect("keys");
    world.start().await;
    let gmail = Gmail::start(&world, port);
    (world, gmail, keys)
}

fn letter(head: &str) -> Vec<u8> {
    format!("{head}\r\n{BODY}").into_bytes()
}

/// `head` with a signature of src.example by our own signer.
fn signed(keys: &Keys, head: &str) -> Vec<u8> {
    let content = Content {
        head: format!("{head}\r\n").into_bytes().into(),
        body: Body::Memory(BODY.as_bytes().into()),
    };
    let signature = keys.sign("src.example", &content).expect("signed");
    [&signature, letter(head).as_slice()].concat()
}

/// `message` with an ARC set of src.example on top.
fn sealed(keys: &Keys, message: &[u8]) -> Vec<u8> {
    let body = body(message);
    let head = &message[..message.len() - body.len()];
    let seal = chapar::signing::Seal {
        domain: "src.example".to_owned(),
        content: Content {
            head: head.to_vec().into(),
            body: Body::Memory(body.to_vec().into()),
        },
        replaces: None,
        state: chapar::signing::arc::ChainState::None,
        results: "src.example; spf=pass".to_owned(),
        now: chapar::time::now() / 1000,
    };
    let set = keys.seal(&seal).expect("sealed");
    [&set, message].concat()
}

/// One message over port 25 from `client`; the reply to its end.
async fn send(world: &World, client: Ipv4Addr, from: &str, to: &str, message: &[u8]) -> String {
    let port = world.daemon().port("mx/starttls");
    let mut session = Client::connect_from(client.into(), port)
        .await
        .expect("connect");
    assert_eq!(session.reply().await.expect("greeting").code, 220);
    session
        .expect("EHLO mail.src.example", 250)
        .await
        .expect("EHLO");
    let answer = session.send(from, &[to], message).await;
    match answer {
        Ok(answer) => answer.text,
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_honest_sender_sent_is_accepted_at_gmail() {
    let (world, gmail, keys) = world("v=DMARC1; p=reject").await;
    let plain = letter(HEAD);
    let dkim = signed(&keys, HEAD);
    // A list whose domain publishes nothing but an SPF record.
    world
        .dns
        .txt("plain.example", &format!("v=spf1 ip4:{GOOD} ~all"));
    let bare = letter(&HEAD.replace("src.example", "plain.example"));
    // And one that publishes nothing at all.
    let nothing = letter(&HEAD.replace("src.example", "nothing.example"));
    let mut index = 0;
    for (client, from, message) in [
        (GOOD, "her@src.example", &dkim),
        (BAD, "her@src.example", &dkim),
        (GOOD, "her@src.example", &plain),
        (GOOD, "her@plain.example", &bare),
        (GOOD, "her@nothing.example", &nothing),
    ] {
        for to in ["i@example.org", "any123@example.org", "i+sub@example.org"] {
            let answer = send(&world, client, from, to, message).await;
            assert!(answer.starts_with("250 "), "{from} {to}: {answer}");
            let (seen, arrived) = gmail.saw(index).await;
            index += 1;
            let reply = seen["reply"].as_str().expect("reply");
            assert!(reply.starts_with("250"), "{from} {to}: {seen:#}");
            assert_eq!(seen["spf"], "pass", "our own domain's: {seen:#}");
            assert_eq!(seen["arc"], "pass", "{seen:#}");
            let sender = seen["from"].as_str().expect("from");
            assert!(
                sender.starts_with("SRS0=") && sender.ends_with("@example.org"),
                "{sender}"
            );
            assert_eq!(seen["to"][0], "me@gmail.example");
            let signed = message.starts_with(b"DKIM-Signature");
            assert_eq!(
                seen["dkim"].as_array().map(Vec::len),
                Some(usize::from(signed))
            );
            // I12: not one byte below our fields is another.
            assert!(arrived.ends_with(message), "{}", head(&arrived));
            assert_eq!(body(&arrived), BODY.as_bytes());
        }
    }
}

/// Whoever looks at Gmail's side sees the author's own signature hold, ours too, and no forgery.
#[tokio::test(flavor = "multi_thread")]
async fn r1_r2_s1_gmail_sees_what_was_signed_and_no_forgery_of_ours() {
    let (world, gmail, keys) = world("v=DMARC1; p=reject").await;
    let text = "Hello,\r\n\r\nthis is it.  \r\n   \r\n \t\r\n";
    let content = Content {
        head: format!("{HEAD}\r\n").into_bytes().into(),
        body: Body::Memory(text.as_bytes().into()),
    };
    let signature = keys.sign("src.example", &content).expect("signed");
    // What a list adds to a message of others.
    let added = b"Sender: list@lists.example\r\nList-Unsubscribe: <mailto:x@lists.example>\r\n";
    let message = [added, &signature[..], &content.head[..], text.as_bytes()].concat();
    let answer = send(&world, BAD, "her@src.example", "i@example.org", &message).await;
    assert!(answer.starts_with("250 "), "{answer}");
    let (seen, arrived) = gmail.saw(0).await;
    assert!(
        seen["reply"].as_str().is_some_and(|r| r.starts_with("250")),
        "{seen:#}"
    );
    assert_eq!(seen["arc"], "pass", "{seen:#}");
    assert!(
        head(&arrived).contains("dkim=pass header.d=src.example"),
        "{}",
        head(&arrived)
    );
    let records = [("s._domainkey.src.example".to_owned(), record(&world))];
    assert_eq!(oracle::dkimpy(&message, &records), (1, 1));
    // A stranger in our name, with every reverse-path.
    let forged = letter(&HEAD.replace("Her <her@src.example>", "CEO <ceo@example.org>"));
    for from in ["ceo@example.org", "her@src.example", ""] {
        let answer = send(&world, GOOD, from, "i@example.org", &forged).await;
        assert!(
            answer.contains("550 5.7.1 The author is of a domain"),
            "{from}: {answer}"
        );
    }
}

/// The TXT record of the key that src.example and example.org share in this world.
fn record(world: &World) -> String {
    let key = chapar::signing::keys::PrivateKey::load(world.dir.path(), "example.org", "rsa1");
    key.expect("key").record()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_under_reject_is_refused_at_the_door() {
    let (world, gmail, _) = world("v=DMARC1; p=reject").await;
    let answer = send(
        &world,
        BAD,
        "her@src.example",
        "i@example.org",
        &letter(HEAD),
    )
    .await;
    assert!(answer.contains("550 5.7.1"), "{answer}");
    assert!(world.queue().is_empty());
    assert_eq!(
        std::fs::read_dir(gmail.dir.path()).expect("list").count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gmails_throttle_is_obeyed_and_its_bounce_comes_home_through_srs() {
    let (world, gmail, keys) = world("v=DMARC1; p=none").await;
    let home = chapar::lab::Mx::start(chapar::lab::MxConfig {
        address: (Ipv4Addr::new(127, 0, 0, 4), gmail_port(&world)).into(),
        ..Default::default()
    })
    .await
    .expect("MX");
    world.dns.mx("src.example", 10, "mx.src.example");
    world.dns.a("mx.src.example", Ipv4Addr::new(127, 0, 0, 4));
    let throttle = "421 4.7.28 Our system has detected an unusual rate of mail. gsmtp\n";
    std::fs::write(gmail.dir.path().join("say"), throttle).expect("say");
    let message = signed(&keys, HEAD);
    let answer = send(&world, GOOD, "her@src.example", "i@example.org", &message).await;
    assert!(answer.starts_with("250 "), "{answer}");
    let (first, _) = gmail.saw(0).await;
    assert!(
        first["reply"]
            .as_str()
            .is_some_and(|r| r.starts_with("421")),
        "{first:#}"
    );
    // It waits; nobody is told anything.
    let waiting = world
        .wait_queue("it waits", |queue| {
            queue
                .iter()
                .any(|m| m["last_reply"].to_string().contains("4.7.28"))
        })
        .await;
    assert_eq!(waiting.len(), 1);
    assert!(home.received().is_empty());
    // A bounce that Gmail sends later, to the reverse-path it saw.
    let srs = first["from"].as_str().expect("from").to_lowercase();
    let bounce = letter("From: Mail <mailer-daemon@gmail.example>\r\nSubject: Failure\r\n");
    let answer = send(&world, BAD, "", &srs, &bounce).await;
    assert!(answer.starts_with("250 "), "{answer}");
    let arrived = crate::journey::arrived(&home, 1).await;
    assert_eq!(arrived[0].reverse_path, "");
    assert_eq!(arrived[0].recipients, ["her@src.example"]);
    let forged = srs.replace("src.example", "evil.example");
    let answer = send(&world, BAD, "", &forged, &bounce).await;
    assert!(answer.contains("550 5.1.1"), "{answer}");
}

/// The port on which every MX of a world listens.
fn gmail_port(world: &World) -> u16 {
    let text = std::fs::read_to_string(world.config()).expect("configuration");
    let line = text.lines().find_map(|line| line.strip_prefix("port = "));
    line.expect("port").parse().expect("number")
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_forward_refused_for_its_content_makes_no_bounce_to_a_forged_sender() {
    let (world, gmail, _) = world("v=DMARC1; p=none").await;
    let home = chapar::lab::Mx::start(chapar::lab::MxConfig {
        address: (Ipv4Addr::new(127, 0, 0, 4), gmail_port(&world)).into(),
        ..Default::default()
    })
    .await
    .expect("MX");
    world.dns.mx("src.example", 10, "mx.src.example");
    world.dns.a("mx.src.example", Ipv4Addr::new(127, 0, 0, 4));
    std::fs::write(gmail.dir.path().join("spam"), "").expect("spam");
    for (number, client) in [(0, BAD), (1, GOOD)] {
        let answer = send(
            &world,
            client,
            "her@src.example",
            "i@example.org",
            &letter(HEAD),
        )
        .await;
        assert!(answer.starts_with("250 "), "{answer}");
        let (seen, _) = gmail.saw(number).await;
        assert!(
            seen["reply"].as_str().is_some_and(|r| r.starts_with("550")),
            "{seen:#}"
        );
    }
    // The honest one is told, at the address it wrote from; the forged one is not.
    let told = crate::journey::arrived(&home, 1).await;
    assert_eq!(told[0].recipients, ["her@src.example"]);
    world
        .wait_queue("nothing is left", <[Value]>::is_empty)
        .await;
    assert_eq!(home.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_c171_what_dkimpy_signs_we_verify_and_forward_octet_for_octet() {
    let (world, gmail, _) = world("v=DMARC1; p=reject").await;
    let key = chapar::signing::keys::PrivateKey::load(world.dir.path(), "example.org", "rsa1");
    let pem = key.expect("key").to_pem();
    let long = format!("X-Long: {}\r\n", "x".repeat(980));
    let odd = format!(
        "SUBJect:  A  B\t\r\n\tC \r\nfrom:Her <her@src.example>\r\nX-Empty:\r\n{long}\
         X-Eight: Gr\u{fc}\u{df}e\r\nMessage-ID:\t<1@src.example>\r\nTo: a@b.example,\r\n\t c@d.example\r\n\
         Content-Type: MULTIPART/mixed;\r\n boundary=\"A b\"\r\n\r\n--A b\r\n \r\n \t \r\n--a B--\r\n\r\n\r\n"
    );
    for (index, forms) in [
        ("relaxed", "relaxed"),
        ("simple", "simple"),
        ("relaxed", "simple"),
    ]
    .into_iter()
    .enumerate()
    {
        let message = oracle::dkimpy_signs(odd.as_bytes(), &pem, forms);
        assert!(message.starts_with(b"DKIM-Signature:"));
        let forms = (forms.0.as_bytes(), forms.1.as_bytes());
        // SPF fails: the signature alone carries it.
        let answer = send(&world, BAD, "her@src.example", "i@example.org", &message).await;
        assert!(answer.starts_with("250 "), "{forms:?}: {answer}");
        let (seen, arrived) = gmail.saw(index).await;
        assert!(
            head(&arrived).contains("dkim=pass header.d=src.example"),
            "{}",
            head(&arrived)
        );
        assert_eq!(seen["dkim"][0], "src.example", "{seen:#}");
        assert_eq!(seen["arc"], "pass", "{seen:#}");
        assert!(arrived.ends_with(&message));
    }
}

/// Encoding the body breaks the author's signature and the seal that was made when it came: the
/// seal is made again, and carries the message.
#[tokio::test(flavor = "multi_thread")]
async fn eight_bit_mail_forwarded_to_a_hop_without_8bitmime_is_sealed_again() {
    let (world, gmail, keys) = world("v=DMARC1; p=reject").await;
    std::fs::write(gmail.dir.path().join("seven"), "").expect("seven");
    let key = chapar::signing::keys::PrivateKey::load(world.dir.path(), "example.org", "rsa1");
    let pem = key.expect("key").to_pem();
    let letter = format!(
        "{HEAD}MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n.\r\n"
    );
    let plain = oracle::dkimpy_signs(letter.as_bytes(), &pem, ("relaxed", "relaxed"));
    // A list sealed it before: the body its set is about is gone as well, its seal is not.
    let list = sealed(&keys, &plain);
    for (index, (message, sets)) in [(&plain, 1), (&list, 2)].into_iter().enumerate() {
        let answer = send(&world, GOOD, "her@src.example", "i@example.org", message).await;
        assert!(answer.starts_with("250 "), "{answer}");
        let (seen, arrived) = gmail.saw(index).await;
        let text = String::from_utf8(arrived).expect("7-bit");
        assert!(
            text.is_ascii() && text.contains("\r\n\r\nGr=C3=BC=C3=9Fe\r\n"),
            "{text}"
        );
        assert_eq!(text.matches("ARC-Seal:").count(), sets, "{text}");
        assert!(
            text.starts_with("Received: from mail.src.example "),
            "{text}"
        );
        assert_eq!(seen["arc"], "pass", "{text}");
        assert_eq!(seen["dkim"].as_array().map(Vec::len), Some(0), "{seen:#}");
        assert_eq!(seen["reply"], "250 2.0.0 OK by ARC gsmtp", "{seen:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_loaded_and_broken_ones_change_nothing() {
    let (world, _gmail, _) = world("v=DMARC1; p=none").await;
    let aliases = world.dir.path().join("domains/example.org/aliases");
    write(aliases.clone(), "new: me@gmail.example\n", 0o644);
    world.daemon().event("daemon", "reloaded").await;
    let refused = send(
        &world,
        GOOD,
        "her@src.example",
        "i@example.org",
        &letter(HEAD),
    )
    .await;
    assert!(refused.contains("550 5.1.1"), "{refused}");
    for (number, broken) in [
        "new me@gmail.example",
        "a: b c",
        "a: b\na: c",
        "*: *@",
        "a: | cmd",
    ]
    .iter()
    .enumerate()
    {
        let text = format!("# {number}\nnew: x@y.example\n{broken}\n");
        write(aliases.clone(), &text, 0o644);
        let what = format!(
            "nothing changed: {}:{}",
            aliases.display(),
            3 + usize::from(number == 2)
        );
        world.daemon().event_containing("daemon", &what).await;
    }
    let answer = send(
        &world,
        GOOD,
        "her@src.example",
        "new@example.org",
        &letter(HEAD),
    )
    .await;
    assert!(
        answer.starts_with("250 "),
        "the last good version holds: {answer}"
    );
}
