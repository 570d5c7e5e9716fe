//! Reports of real users about DKIM, ARC, SPF and DMARC of other servers, through our own code.
//! Named by the number of the case.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chapar::config::Dns;
use chapar::dns::Resolver;
use chapar::lab::DnsServer;
use chapar::message::Body;
use chapar::message::canonical::{BodyHash, Form};
use chapar::message::headers::{empty_line, fields};
use chapar::signing::arc::{ChainState, Sealer, seal};
use chapar::verify::arc::ArcResult;
use chapar::verify::dkim::DkimResult;
use chapar::verify::dmarc::{self, DmarcResult, Policy};
use chapar::verify::lookup::Lookup;
use chapar::verify::spf::{Sender, SpfResult, check};
use chapar::verify::{Question, Verdicts, verify};
use rsa::Pkcs1v15Sign;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::EncodePublicKey as _;

use crate::arc::SHA256;

struct World {
    dns: DnsServer,
    resolver: Resolver,
}

async fn world() -> World {
    let dns = DnsServer::start().await.expect("a DNS server");
    let config = Dns {
        servers: vec![dns.address()],
        ..Dns::default()
    };
    let resolver = Resolver::new(&config).expect("a resolver");
    World { dns, resolver }
}

impl World {
    async fn judge(&self, message: &str) -> Verdicts {
        let message = message.as_bytes();
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
        verdicts.expect("verdicts")
    }

    async fn dkim(&self, message: &str) -> DkimResult {
        let verdicts = self.judge(message).await;
        assert_eq!(verdicts.dkim.len(), 1, "{message}");
        verdicts.dkim[0].result
    }

    async fn spf(&self, domain: &str, client: &str) -> SpfResult {
        let lookup = Lookup::new(self.resolver.hickory());
        let sender = Sender {
            client: client.parse::<IpAddr>().expect("an address"),
            hello: "mail.example.net",
            from: &format!("a@{domain}"),
            receiver: "mx.example.org",
            now: 1_764_000_000,
        };
        check(&lookup, sender).await.result
    }

    async fn dmarc(&self, domain: &str) -> (DmarcResult, Policy) {
        let lookup = Lookup::new(self.resolver.hickory());
        let verdict = dmarc::check(&lookup, domain, &[]).await;
        (verdict.result, verdict.policy)
    }
}

fn key(pem: &str) -> rsa::PrivateKey {
    rsa::PrivateKey::from_pkcs1_pem(pem).expect("key")
}

fn record(key: &rsa::PrivateKey) -> String {
    let der = key.as_public_key().to_public_key_der().expect("public key");
    format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(der.as_bytes()))
}

fn rsa(key: &rsa::PrivateKey, text: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text);
    let padded = [SHA256, digest.as_ref()].concat();
    let signed = key.sign(Pkcs1v15Sign::new_unprefixed(), &padded);
    STANDARD.encode(signed.expect("signed"))
}

/// A message whose fields are such that the simple and the relaxed form of each are the same, with
/// a signature whose tag `c` is this, and whose body is hashed as `hashed`.
fn signed(key: &rsa::PrivateKey, c: &str, body: &str, hashed: &str) -> String {
    let head = "from:Her <her@src.example>\r\nsubject:Hello\r\n";
    let hash = ring::digest::digest(&ring::digest::SHA256, hashed.as_bytes());
    let bare = format!(
        "dkim-signature:v=1; a=rsa-sha256; {c}d=src.example; s=s; h=from:subject; bh={}; b=",
        STANDARD.encode(hash)
    );
    let b = rsa(key, format!("{head}{bare}").as_bytes());
    format!("{bare}{b}\r\n{head}\r\n{body}")
}

#[tokio::test]
async fn c126_a_signature_is_judged_by_the_forms_it_names_or_by_simple() {
    let world = world().await;
    let key = key(include_str!("keys/rsa1024.pem"));
    world.dns.txt("s._domainkey.src.example", &record(&key));
    let lines = "Hello,  \r\n\r\nthis is it.\r\n\r\n\r\n\r\n";
    let simple = "Hello,  \r\n\r\nthis is it.\r\n";
    let relaxed = "Hello,\r\n\r\nthis is it.\r\n";
    for (c, body, hashed) in [
        ("", lines, simple),
        ("c=simple; ", lines, simple),
        ("c=relaxed; ", lines, simple),
        ("c=simple/simple; ", lines, simple),
        ("c=simple/relaxed; ", lines, relaxed),
        ("c=relaxed/relaxed; ", lines, relaxed),
        ("", "", "\r\n"),
        ("c=relaxed; ", "", "\r\n"),
        ("c=relaxed/relaxed; ", "", ""),
        ("c=relaxed/relaxed; ", "\r\n\r\n", ""),
        ("", "\r\n\r\n", "\r\n"),
    ] {
        let message = signed(&key, c, body, hashed);
        assert_eq!(world.dkim(&message).await, DkimResult::Pass, "{message}");
        let changed = message.replace("subject:Hello", "subject:hello");
        assert_eq!(world.dkim(&changed).await, DkimResult::Fail, "{changed}");
    }
    // What is relaxed for the header only is not for the body, and without c= nothing is.
    let message = signed(&key, "c=relaxed; ", lines, relaxed);
    assert_eq!(world.dkim(&message).await, DkimResult::Fail);
    let message = signed(&key, "", simple, simple).replace("subject:Hello", "Subject: Hello");
    assert_eq!(world.dkim(&message).await, DkimResult::Fail);
    let message =
        signed(&key, "c=relaxed; ", simple, simple).replace("subject:Hello", "Subject: Hello");
    assert_eq!(world.dkim(&message).await, DkimResult::Pass);
}

/// RFC 6376 appendix A.3, signed with the key of appendix C; its indentation is of six spaces.
const RFC_6376: &str = "\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
";

#[tokio::test]
async fn the_example_of_rfc_6376_holds() {
    let world = world().await;
    world.dns.txt(
        "brisbane._domainkey.example.com",
        "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB",
    );
    let message = RFC_6376.replace('\n', "\r\n");
    assert_eq!(world.dkim(&message).await, DkimResult::Pass);
    for (from, to) in [("game. Are", "game.  Are"), ("dinner", "lunch")] {
        let changed = message.replace(from, to);
        assert_eq!(world.dkim(&changed).await, DkimResult::Fail, "{to}");
    }
    let folded = message.replace(
        "client1.football.example.com  [",
        "client1.football.example.com [",
    );
    assert_eq!(world.dkim(&folded).await, DkimResult::Fail);
}

#[tokio::test]
async fn c134_keys_of_all_sizes_also_over_tcp_and_none_that_is_weak() {
    let world = world().await;
    for (pem, expected) in [
        (include_str!("keys/rsa1024.pem"), DkimResult::Pass),
        (include_str!("keys/rsa4096.pem"), DkimResult::Pass),
        (include_str!("keys/rsa512.pem"), DkimResult::PermError),
    ] {
        let key = key(pem);
        // Longer than an answer over UDP may be.
        let record = format!("{}; n={}", record(&key), "x".repeat(1500));
        world.dns.remove("s._domainkey.src.example");
        world.dns.txt("s._domainkey.src.example", &record);
        let fresh = World {
            dns: world.dns.clone(),
            resolver: Resolver::new(&Dns {
                servers: vec![world.dns.address()],
                ..Dns::default()
            })
            .expect("a resolver"),
        };
        let message = signed(&key, "", "Hello.\r\n", "Hello.\r\n");
        assert_eq!(fresh.dkim(&message).await, expected);
    }
}

#[tokio::test]
async fn c141_a_seal_is_relaxed_whatever_the_message_signature_says() {
    let world = world().await;
    let key = key(include_str!("keys/rsa1024.pem"));
    world.dns.txt("s._domainkey.src.example", &record(&key));
    let head = "From: Her <her@src.example>\r\nSubject: Hello\r\n\r\n";
    let body = "Hello.\r\n";
    let mut hash = BodyHash::new(Form::Relaxed);
    hash.write(body.as_bytes());
    let hash = hash.finish();
    let sign = |text: &[u8]| Ok(STANDARD.decode(rsa(&key, text)).expect("base64"));
    let sealer = Sealer {
        sign: &sign,
        domain: "src.example",
        selector: "s",
        names: &["from", "subject"],
        now: 1_764_000_000,
    };
    let results = "mx.src.example; spf=pass";
    let set = seal(
        &sealer,
        head.as_bytes(),
        ChainState::None,
        results,
        hash.as_ref(),
    );
    let set = set.expect("sealed");
    let message = format!("{set}{head}{body}");
    let arc = world.judge(&message).await.arc;
    assert_eq!(arc.result, ArcResult::Pass, "{message}");
    let field = set
        .split("ARC-Seal:")
        .nth(1)
        .and_then(|rest| rest.split("\nARC-").next());
    assert!(field.is_some_and(|field| !field.contains("c=")), "{set}");
    assert!(set.contains("c=relaxed/relaxed"), "{set}");
    let with_h = message.replacen("ARC-Seal: ", "ARC-Seal: h=from; ", 1);
    assert_eq!(world.judge(&with_h).await.arc.result, ArcResult::Fail);
    // Without c= it would be simple/simple, which this set is not.
    let without = message.replacen("c=relaxed/relaxed;", "", 1);
    assert_eq!(world.judge(&without).await.arc.result, ArcResult::Fail);
}

#[tokio::test]
async fn c144_terms_are_counted_and_hosts_of_mx_are_not() {
    let world = world().await;
    let dns = &world.dns;
    for name in ["a", "b", "c", "d", "e"] {
        dns.txt(&format!("{name}.example"), "v=spf1 ip4:198.51.100.1 -all");
    }
    let includes = "include:a.example include:b.example include:c.example include:d.example";
    dns.txt(
        "six.example",
        &format!("v=spf1 mx {includes} include:e.example -all"),
    );
    for host in 1..=6 {
        dns.mx("six.example", host, &format!("m{host}.six.example"));
        dns.a(
            &format!("m{host}.six.example"),
            [192, 0, 2, 10 + u8::try_from(host).expect("small")].into(),
        );
    }
    assert_eq!(
        world.spf("six.example", "192.0.2.16").await,
        SpfResult::Pass
    );
    dns.txt("eleven.example", "v=spf1 mx -all");
    for host in 1..=11 {
        dns.mx("eleven.example", host, &format!("m{host}.eleven.example"));
        dns.a(&format!("m{host}.eleven.example"), [192, 0, 2, 100].into());
    }
    assert_eq!(
        world.spf("eleven.example", "192.0.2.1").await,
        SpfResult::PermError
    );
    dns.a("x.example", [198, 51, 100, 9].into());
    dns.ptr("192.0.2.1".parse().expect("address"), "x.example");
    // Ten terms that ask, of every kind, in nested records; all, ip4 and ip6 ask nothing.
    let rest = "a:x.example a:x.example a:x.example a:x.example exists:no.x.example ip4:198.51.100.7 ip6:2001:db8::7";
    for (name, more, expected) in [
        ("ten", "", SpfResult::Fail),
        ("more", "a:x.example ", SpfResult::PermError),
        ("pointer", "ptr:y.example ", SpfResult::PermError),
    ] {
        dns.txt(
            &format!("{name}.example"),
            &format!("v=spf1 include:one.{name}.example redirect=two.{name}.example"),
        );
        dns.txt(
            &format!("one.{name}.example"),
            &format!("v=spf1 {rest} -all"),
        );
        dns.txt(
            &format!("two.{name}.example"),
            &format!(
                "v=spf1 a:x.example mx:six.example exists:x.example.invalid.example {more}-all"
            ),
        );
        assert_eq!(
            world.spf(&format!("{name}.example"), "192.0.2.1").await,
            expected,
            "{name}"
        );
    }
}

#[tokio::test]
async fn c145_hosts_without_the_family_are_no_void_lookups() {
    let world = world().await;
    let dns = &world.dns;
    dns.txt("six.example", "v=spf1 mx ~all");
    for host in 1..=4 {
        let name = format!("m{host}.six.example");
        dns.mx("six.example", host, &name);
        dns.a(&name, [192, 0, 2, 1].into());
    }
    dns.aaaa("m4.six.example", "2001:db8::4".parse().expect("address"));
    assert_eq!(
        world.spf("six.example", "2001:db8::4").await,
        SpfResult::Pass
    );
    dns.txt(
        "include.example",
        "v=spf1 include:gone1.example include:gone2.example include:gone3.example -all",
    );
    assert_eq!(
        world.spf("include.example", "192.0.2.1").await,
        SpfResult::PermError
    );
    dns.txt(
        "void.example",
        "v=spf1 a:gone1.example a:gone2.example a:gone3.example -all",
    );
    assert_eq!(
        world.spf("void.example", "192.0.2.1").await,
        SpfResult::PermError
    );
    dns.txt("two.example", "v=spf1 a:gone1.example a:gone2.example -all");
    assert_eq!(world.spf("two.example", "192.0.2.1").await, SpfResult::Fail);
}

#[tokio::test]
async fn c148_a_sub_domain_has_the_policy_of_the_domain_above() {
    let world = world().await;
    let name = "_dmarc.example.co.uk";
    let author = "x.y.example.co.uk";
    let none = (DmarcResult::None, Policy::None);
    for (records, expected) in [
        (
            &["v=DMARC1; p=reject; sp=quarantine"][..],
            (DmarcResult::Fail, Policy::Quarantine),
        ),
        (&["v=DMARC1; p=reject"], (DmarcResult::Fail, Policy::Reject)),
        (&["v=DMARC1;p=reject"], (DmarcResult::Fail, Policy::Reject)),
        (
            &["v=DMARC1; p=reject; xyz=1"],
            (DmarcResult::Fail, Policy::Reject),
        ),
        (
            &["v=DMARC1; rua=mailto:a@example.co.uk"],
            (DmarcResult::Fail, Policy::None),
        ),
        (&["v=DMARC1; p=reject", "v=DMARC1; p=none"], none),
        (&["v=DMARC2; p=reject"], none),
        (&[], none),
    ] {
        let fresh = self::world().await;
        for text in records {
            fresh.dns.txt(name, text);
        }
        assert_eq!(fresh.dmarc(author).await, expected, "{records:?}");
    }
    world.dns.servfail(name);
    assert_eq!(world.dmarc(author).await.0, DmarcResult::TempError);
    // The tree walk knows no list of public suffixes: a record there counts (RFC 9989), where RFC
    // 7489 would not ask for it.
    let suffix = self::world().await;
    suffix.dns.txt("_dmarc.co.uk", "v=DMARC1; p=reject");
    assert_eq!(
        suffix.dmarc(author).await,
        (DmarcResult::Fail, Policy::Reject)
    );
}

#[tokio::test]
async fn c149_the_sub_domain_policy_of_a_sub_domain_is_nobodys() {
    let world = world().await;
    world
        .dns
        .txt("_dmarc.b.example.org", "v=DMARC1; p=none; sp=none");
    world
        .dns
        .txt("_dmarc.example.org", "v=DMARC1; p=reject; sp=quarantine");
    // Neither record is its own: that of the organization counts, which has the fewest labels.
    assert_eq!(
        world.dmarc("a.b.example.org").await,
        (DmarcResult::Fail, Policy::Quarantine)
    );
    assert_eq!(
        world.dmarc("b.example.org").await,
        (DmarcResult::Fail, Policy::None)
    );
    assert_eq!(
        world.dmarc("example.org").await,
        (DmarcResult::Fail, Policy::Reject)
    );
}
