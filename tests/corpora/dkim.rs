//! The examples of RFC 8463 and RFC 6376, and messages that were changed on the way.

use bytes::Bytes;
use chapar::config::Dns;
use chapar::dns::Resolver;
use chapar::lab::DnsServer;
use chapar::message::headers::{empty_line, fields};
use chapar::message::{Body, Content};
use chapar::signing::Keys;
use chapar::signing::keys::{Algorithm, PrivateKey, path};
use chapar::verify::dkim::{DkimResult, Verdict};
use chapar::verify::{Question, verify};

/// RFC 8463 appendix A.3: two signatures over one message.
const RFC_8463: &str = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
";
const RFC_8463_KEYS: [(&str, &str); 2] = [
    (
        "brisbane._domainkey.football.example.com",
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    ),
    (
        "test._domainkey.football.example.com",
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
    ),
];

struct World {
    dns: DnsServer,
    resolver: Resolver,
    keys: Keys,
    _dir: tempfile::TempDir,
}

/// A DNS, and a signer for src.example with both kinds of key.
async fn world() -> World {
    let dns = DnsServer::start().await.expect("a DNS server");
    let config = Dns {
        servers: vec![dns.address()],
        ..Dns::default()
    };
    let dir = tempfile::tempdir().expect("directory");
    let domain = dir.path().join("domains/src.example");
    std::fs::create_dir_all(&domain).expect("directory");
    let text = "mode = \"forward\"\nselectors = [\"rsa\", \"ed\"]\n";
    std::fs::write(domain.join("domain.toml"), text).expect("domain");
    for (selector, algorithm) in [("rsa", Algorithm::Rsa), ("ed", Algorithm::Ed25519)] {
        let key = PrivateKey::generate(algorithm).expect("key");
        let path = path(dir.path(), "src.example", selector);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        chapar::config::files::create(&path, key.to_pem().as_bytes(), 0o600).expect("key");
        dns.txt(&format!("{selector}._domainkey.src.example"), &key.record());
    }
    let identity = chapar::identity::Identity::load(dir.path(), "").expect("identity");
    World {
        resolver: Resolver::new(&config).expect("a resolver"),
        keys: Keys::load(dir.path(), &identity).expect("keys"),
        dns,
        _dir: dir,
    }
}

impl World {
    async fn judge(&self, message: &[u8]) -> Vec<Verdict> {
        let end = empty_line(message, 0).map_or(message.len(), |line| line.end);
        let (head, body) = message.split_at(end);
        let fields = fields(head).expect("fields");
        let question = Question {
            client: [192, 0, 2, 1].into(),
            hello: "mail.example.net",
            from: "",
            receiver: "mx.example.org",
            fields: &fields,
            body: &Body::Memory(Bytes::copy_from_slice(body)),
            now: 1_764_000_000,
            time: std::time::Duration::from_secs(20),
        };
        let verdicts = verify(&self.resolver.hickory(), &question).await;
        verdicts.expect("verdicts").dkim
    }

    async fn results(&self, message: &[u8]) -> Vec<DkimResult> {
        let verdicts = self.judge(message).await;
        verdicts.iter().map(|verdict| verdict.result).collect()
    }

    /// `head` and `body` with our signatures on top.
    fn signed(&self, head: &str, body: &str) -> String {
        let content = Content {
            head: format!("{head}\r\n").into_bytes().into(),
            body: Body::Memory(Bytes::copy_from_slice(body.as_bytes())),
        };
        let signature = self.keys.sign("src.example", &content).expect("signed");
        let signature = String::from_utf8(signature.to_vec()).expect("text");
        format!("{signature}{head}\r\n{body}")
    }
}

#[tokio::test]
async fn the_examples_of_rfc_8463_hold() {
    let world = world().await;
    for (name, record) in RFC_8463_KEYS {
        world.dns.txt(name, record);
    }
    let message = RFC_8463.replace('\n', "\r\n");
    let verdicts = world.judge(message.as_bytes()).await;
    let found: Vec<_> = verdicts
        .iter()
        .map(|v| (v.result, v.selector.as_str(), v.algorithm))
        .collect();
    assert_eq!(
        found,
        [
            (DkimResult::Pass, "brisbane", "ed25519-sha256"),
            (DkimResult::Pass, "test", "rsa-sha256")
        ]
    );
    let changed = message.replace("dinner", "lunch");
    let fail = [DkimResult::Fail; 2];
    assert_eq!(world.results(changed.as_bytes()).await, fail);
    let changed = message.replace("hungry", "thirsty");
    assert_eq!(world.results(changed.as_bytes()).await, fail);
}

const HEAD: &str = "From: Her <her@src.example>\r\nTo: me@ours.example\r\nSubject: Hello  there\r\n\
                    Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n\
                    MIME-Version: 1.0\r\nContent-Type: text/plain\r\n";
const BODY: &str = "Hello,\r\n\r\nthis is  it. \r\n\r\n\r\n";

/// A change, and whether the message must still verify.
type Mutation = (&'static str, bool, fn(&str) -> String);

const MUTATIONS: [Mutation; 24] = [
    ("nothing", true, str::to_owned),
    ("a folded Subject", true, |m| {
        m.replace("Hello  there", "Hello\r\n\tthere")
    }),
    ("a field name in capitals", true, |m| {
        m.replace("\r\nSubject:", "\r\nSUBJECT:")
    }),
    ("white space in a field", true, |m| {
        m.replace("Subject: Hello  there", "Subject:   Hello there  ")
    }),
    ("white space in the body", true, |m| {
        m.replace("this is  it. \r\n", "this is it.\r\n")
    }),
    ("empty lines at the end", true, |m| format!("{m}\r\n\r\n")),
    ("no empty lines at the end", true, |m| {
        m.trim_end_matches("\r\n").to_owned() + "\r\n"
    }),
    ("a Received on top", true, |m| {
        format!("Received: by x; y\r\n{m}")
    }),
    ("an Authentication-Results on top", true, |m| {
        format!("Authentication-Results: x; none\r\n{m}")
    }),
    ("a List-ID", true, |m| {
        format!("List-ID: <l.example>\r\n{m}")
    }),
    ("fields in another order", true, |m| {
        let line = "To: me@ours.example\r\n";
        m.replace(line, "")
            .replace("\r\n\r\nHello", &format!("\r\n{line}\r\nHello"))
    }),
    ("a second From on top", false, |m| {
        format!("From: evil@src.example\r\n{m}")
    }),
    ("a second From below", false, |m| {
        m.replace("\r\n\r\nHello", "\r\nFrom: evil@src.example\r\n\r\nHello")
    }),
    ("a second Subject", false, |m| {
        format!("Subject: evil\r\n{m}")
    }),
    ("a second To", false, |m| {
        format!("To: evil@src.example\r\n{m}")
    }),
    ("a second Date", false, |m| {
        format!("Date: Mon, 24 Nov 2025 17:00:00 +0000\r\n{m}")
    }),
    ("a second Message-ID", false, |m| {
        format!("Message-ID: <2@src.example>\r\n{m}")
    }),
    ("a second Content-Type", false, |m| {
        format!("Content-Type: text/html\r\n{m}")
    }),
    ("a Reply-To that was not there", false, |m| {
        format!("Reply-To: evil@src.example\r\n{m}")
    }),
    ("a Cc that was not there", false, |m| {
        format!("Cc: evil@src.example\r\n{m}")
    }),
    ("another Subject", false, |m| {
        m.replace("Hello  there", "Hello where")
    }),
    ("no Subject", false, |m| {
        m.replace("Subject: Hello  there\r\n", "")
    }),
    ("an appended body", false, |m| format!("{m}evil\r\n")),
    ("a changed body", false, |m| {
        m.replace("this is", "this was")
    }),
];

#[tokio::test]
async fn c128_changed_messages_are_judged_right() {
    let world = world().await;
    let message = world.signed(HEAD, BODY);
    for (what, holds, change) in MUTATIONS {
        let results = world.results(change(&message).as_bytes()).await;
        let expected = match holds {
            true => DkimResult::Pass,
            false => DkimResult::Fail,
        };
        assert_eq!(results, [expected; 2], "{what}");
    }
}

#[tokio::test]
async fn c136_signatures_that_can_not_hold() {
    let world = world().await;
    let message = world.signed(HEAD, BODY);
    let swap = |from: &str, to: &str| message.replace(from, to);
    for (what, message, expected) in [
        (
            "l= does not cover what was appended",
            swap("c=relaxed/relaxed;", "c=relaxed/relaxed; l=10;"),
            DkimResult::Fail,
        ),
        (
            "rsa-sha1",
            swap("a=rsa-sha256", "a=rsa-sha1").replace("a=ed25519-sha256", "a=rsa-sha1"),
            DkimResult::PermError,
        ),
        ("no v=", swap("v=1;", ""), DkimResult::PermError),
        (
            "a tag twice",
            swap("v=1;", "v=1; v=1;"),
            DkimResult::PermError,
        ),
        (
            "another domain in i=",
            swap("v=1;", "v=1; i=@other.example;"),
            DkimResult::PermError,
        ),
        (
            "From not signed",
            swap("h=from:from:", "h="),
            DkimResult::PermError,
        ),
        ("expired", swap("v=1;", "v=1; x=2;"), DkimResult::PermError),
        (
            "a trick in d=",
            swap("d=src.example;", "d=src.example'a.evil.example;"),
            DkimResult::PermError,
        ),
        (
            "b= is no base64",
            swap("\tb=", "\tb=!"),
            DkimResult::PermError,
        ),
    ] {
        let results = world.results(message.as_bytes()).await;
        assert_eq!(results, [expected; 2], "{what}: {message}");
    }
    let hundred = message
        .split("From: Her")
        .next()
        .expect("signatures")
        .repeat(50);
    let results = world
        .results(format!("{hundred}{message}").as_bytes())
        .await;
    assert_eq!(results.len(), 10);
    world.dns.remove("rsa._domainkey.src.example");
    world.dns.servfail("ed._domainkey.src.example");
    let results = world.results(message.as_bytes()).await;
    assert_eq!(results, [DkimResult::PermError, DkimResult::TempError]);
    world.dns.txt("rsa._domainkey.src.example", "v=DKIM1; p=");
    assert_eq!(world.results(message.as_bytes()).await[0], DkimResult::Fail);
}

#[tokio::test]
async fn a_list_of_a_hundred_thousand_names_costs_nothing() {
    let world = world().await;
    let names = "a:".repeat(100_000);
    let message = format!(
        "DKIM-Signature: v=1; a=rsa-sha256; d=src.example; s=rsa; b=AAAA; bh=AAAA; h={names}from\r\n{HEAD}\r\n{BODY}"
    );
    let started = std::time::Instant::now();
    assert_eq!(
        world.results(message.as_bytes()).await,
        [DkimResult::PermError]
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}
