//! Mail from outside on a real directory of domains, with a real DNS server.

use super::*;
use crate::config::Dns;
use crate::dns::Resolver;
use crate::lab::DnsServer;
use crate::message::{Body, Content};
use crate::signing::keys::{Algorithm, PrivateKey};
use crate::signing::{Keys, arc};
use crate::smtp::params::{Mail, Rcpt};

const HONEST: &str = "From: Her <her@src.example>\r\nTo: me@ours.example\r\nSubject: Hello\r\n\
                      Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n";
const BODY: &[u8] = b"Hello,\r\n\r\nthis is it. \r\n";
const NOW: Millis = 1_764_000_000_000;

struct World {
    dns: DnsServer,
    resolver: Resolver,
    config: Config,
    identity: Identity,
    outside: Outside,
    /// Keys of src.example.
    theirs: Keys,
    _dir: tempfile::TempDir,
}

/// A directory with one domain, its aliases and an RSA key, and the record of the key.
fn domain(dir: &std::path::Path, name: &str, aliases: &str) -> String {
    let folder = dir.join("domains").join(name);
    std::fs::create_dir_all(&folder).expect("directory");
    std::fs::write(
        folder.join("domain.toml"),
        "mode = \"forward\"\nselectors = [\"s\"]\n",
    )
    .expect("domain");
    std::fs::write(folder.join("aliases"), aliases).expect("aliases");
    let key = PrivateKey::generate(Algorithm::Rsa).expect("key");
    let path = crate::signing::keys::path(dir, name, "s");
    std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    crate::config::files::create(&path, key.to_pem().as_bytes(), 0o600).expect("key");
    key.record()
}

async fn world() -> World {
    let dns = DnsServer::start().await.expect("a DNS server");
    let dir = tempfile::tempdir().expect("directory");
    let aliases = "me: me@box.example\nboth: a@box.example, b@box.example\n";
    let record = domain(dir.path(), "ours.example", aliases);
    dns.txt("s._domainkey.ours.example", &record);
    let far = tempfile::tempdir().expect("directory");
    let record = domain(far.path(), "src.example", "");
    dns.txt("s._domainkey.src.example", &record);
    dns.txt("src.example", "v=spf1 ip4:192.0.2.1 -all");
    dns.txt(
        "_dmarc.src.example",
        "v=DMARC1; p=reject; rua=mailto:r@src.example",
    );
    dns.ptr([192, 0, 2, 1].into(), "mail.src.example");
    dns.a("mail.src.example", [192, 0, 2, 1].into());
    let servers = vec![dns.address()];
    let resolver = Resolver::new(&Dns {
        servers,
        ..Dns::default()
    })
    .expect("a resolver");
    let text = "hostname = \"mx.ours.example\"\n";
    let config = Config::parse(text, "chapar.toml", dir.path()).expect("config");
    let load = |dir: &std::path::Path| Identity::load(dir, "").expect("identity");
    World {
        resolver,
        config,
        identity: load(dir.path()),
        outside: Outside::new(
            srs::Keys::new(["a key of sixteen bytes or more"]),
            &crate::config::Hooks::default(),
        ),
        theirs: Keys::load(far.path(), &load(far.path())).expect("keys"),
        dns,
        _dir: dir,
    }
}

fn address(text: &str) -> Address {
    Address::parse(text.as_bytes()).expect("address")
}

fn content(head: &str) -> Content {
    Content {
        head: format!("{head}\r\n").into_bytes().into(),
        body: Body::Memory(BODY.into()),
    }
}

fn join(front: &[u8], back: &[u8]) -> Bytes {
    [front, back].concat().into()
}

impl World {
    /// `content` with the signature of src.example.
    fn signed(&self, mut content: Content) -> Content {
        let signature = self.theirs.sign("src.example", &content).expect("signed");
        assert!(!signature.is_empty());
        content.head = join(&signature, &content.head);
        content
    }

    async fn send(
        &self,
        client: [u8; 4],
        from: &str,
        to: &[&str],
        content: Content,
    ) -> Result<Passed, (u16, &'static str)> {
        let transaction = Transaction {
            mail: Mail {
                from: (!from.is_empty()).then(|| address(from)),
                ..Mail::default()
            },
            recipients: to.iter().map(|to| Rcpt::new(address(to))).collect(),
            chunks: None,
        };
        let mut targets = Vec::new();
        let (config, identity) = (&self.config, &self.identity);
        for Rcpt { to, .. } in &transaction.recipients {
            let from = transaction.mail.from.as_ref();
            let bounce = self.outside.bounce(config, identity, from, to, NOW);
            let client = crate::Client::Outside;
            let found = crate::recipient(identity, client, to, bounce);
            targets.push(found.map_err(|r| (r.code, r.enhanced))?);
        }
        let arrival = Arrival {
            filters: None,
            standing: None,
            tally: &mut None,
            tls: false,
            client: client.into(),
            hello: "mail.src.example",
            transaction: &transaction,
            targets: &targets,
            content,
            eight_bit: false,
            id: QueueId(1),
            at: NOW,
        };
        let resolver = self.resolver.hickory();
        self.outside
            .receive(config, identity, &resolver, arrival)
            .await
            .map_err(|reply| (reply.code, reply.enhanced))
    }
}

const GOOD: [u8; 4] = [192, 0, 2, 1];
const BAD: [u8; 4] = [198, 51, 100, 1];

fn head(passed: &Passed) -> String {
    String::from_utf8(passed.content.head.to_vec()).expect("text")
}

#[tokio::test]
async fn c161_an_honest_message_goes_on_with_our_verdicts_and_not_a_byte_changed() {
    let world = world().await;
    let passed = world
        .send(
            GOOD,
            "her@src.example",
            &["me@ours.example"],
            content(HONEST),
        )
        .await
        .expect("passed");
    assert!(passed.verified);
    assert_eq!(passed.envelope.reverse_path, "her@src.example");
    let rewritten = passed.envelope.forwarded_as.clone().expect("SRS");
    assert!(
        rewritten.starts_with("SRS0=") && rewritten.ends_with("=src.example=her@ours.example"),
        "{rewritten}"
    );
    assert_eq!(
        head(&passed),
        format!(
            "Authentication-Results: mx.ours.example;\r\n\
             \tiprev=pass (mail.src.example) policy.iprev=192.0.2.1;\r\n\
             \tspf=pass smtp.mailfrom=her@src.example;\r\n\
             \tdkim=none;\r\n\
             \tdmarc=pass (p=reject) header.from=src.example;\r\n\
             \tarc=none\r\n\
             Delivered-To: me@ours.example\r\n\
             {HONEST}\r\n"
        )
    );
    let seal = passed.seal.expect("a seal");
    assert_eq!(
        (seal.domain.as_str(), seal.state),
        ("ours.example", ChainState::None)
    );
    // The bounce comes home, under the null reverse-path and with no new one.
    let bounce = "From: <postmaster@box.example>\r\nSubject: x\r\n";
    let home = world
        .send(BAD, "", &[&rewritten], content(bounce))
        .await
        .expect("bounce");
    assert_eq!(home.envelope.recipients[0].address, "her@src.example");
    assert_eq!((home.envelope.mail_from(), home.verified), ("", false));
    let forged = rewritten.replace("src.example", "evil.example");
    let refused = world.send(BAD, "", &[&forged], content(bounce)).await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.1.1")));
}

#[tokio::test]
async fn dkim_alone_is_enough_and_neither_is_refused_under_reject() {
    let world = world().await;
    let to = &["me@ours.example"];
    let signed = world.signed(content(HONEST));
    let passed = world
        .send(BAD, "her@src.example", to, signed)
        .await
        .expect("passed");
    let text = head(&passed);
    assert!(passed.verified, "the reverse-path's domain signed");
    assert!(text.contains("spf=fail smtp.mailfrom=her@src.example;\r\n\tdkim=pass header.d=src.example header.s=s header.a=\"rsa-sha256\" header.b=") || text.contains("header.a=rsa-sha256"), "{text}");
    assert!(text.contains("dmarc=pass"), "{text}");
    let spoof = world
        .send(BAD, "her@src.example", to, content(HONEST))
        .await;
    assert_eq!(spoof.map(|_| ()), Err((550, "5.7.1")));
    // The same from a domain that asks for nothing goes on, but no bounce would.
    world.dns.remove("_dmarc.src.example");
    let spoof = world
        .send(BAD, "her@src.example", to, content(HONEST))
        .await;
    assert!(!spoof.expect("passed").verified);
}

#[tokio::test]
async fn a_signature_of_somebody_else_proves_nothing_about_the_reverse_path() {
    let world = world().await;
    let signed = world.signed(content(HONEST));
    let passed = world
        .send(BAD, "victim@other.example", &["me@ours.example"], signed)
        .await;
    let passed = passed.expect("DMARC passes by DKIM");
    assert!(!passed.verified);
    assert!(head(&passed).contains("dmarc=pass"));
}

#[tokio::test]
async fn trouble_in_the_dns_defers() {
    let world = world().await;
    let to = &["me@ours.example"];
    world.dns.remove("src.example");
    world.dns.servfail("src.example");
    let deferred = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await;
    assert_eq!(deferred.map(|_| ()), Err((451, "4.7.0")));
    let signed = world.signed(content(HONEST));
    assert!(
        world
            .send(GOOD, "her@src.example", to, signed)
            .await
            .is_ok()
    );
    world.dns.remove("src.example");
    world.dns.servfail("_dmarc.src.example");
    let deferred = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await;
    assert_eq!(deferred.map(|_| ()), Err((451, "4.7.0")));
}

#[tokio::test]
async fn c151_forged_verdicts_are_taken_out_and_those_of_others_stay() {
    let world = world().await;
    let forged = format!(
        "Authentication-Results: mx.ours.example; dkim=pass\r\n\
         Authentication-Results: other.example; dkim=pass\r\n\
         {HONEST}authentication-results:\r\n MX.OURS.EXAMPLE/1; spf=pass\r\nX-Last: 1\r\n"
    );
    let passed = world
        .send(
            GOOD,
            "her@src.example",
            &["me@ours.example"],
            content(&forged),
        )
        .await
        .expect("passed");
    let text = head(&passed);
    assert_eq!(
        text.to_ascii_lowercase().matches("mx.ours.example").count(),
        1,
        "{text}"
    );
    let rest =
        format!("Authentication-Results: other.example; dkim=pass\r\n{HONEST}X-Last: 1\r\n\r\n");
    assert!(text.ends_with(&rest), "{text}");
}

#[tokio::test]
async fn two_authors_or_none_are_refused() {
    let world = world().await;
    for from in [
        "From: a@src.example\r\nFrom: b@evil.example\r\n",
        "Subject: none\r\n",
        "From: nobody\r\n",
    ] {
        let refused = world
            .send(GOOD, "her@src.example", &["me@ours.example"], content(from))
            .await;
        assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")), "{from}");
    }
    // One field with authors of two domains: the one that fares worse decides.
    let two = "From: a@other.example, b@src.example\r\n";
    // A comment hides nothing: the author is of src.example.
    let comment = "From: <any@src.example(a.evil.example>\r\n";
    let refused = world
        .send(
            BAD,
            "x@evil.example",
            &["me@ours.example"],
            content(comment),
        )
        .await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")));
    let refused = world
        .send(BAD, "x@other.example", &["me@ours.example"], content(two))
        .await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")));
}

#[tokio::test]
async fn c173_loops_end() {
    let world = world().await;
    let to = &["me@ours.example"];
    let hops = |count: usize, host: &str| {
        let hop = format!("Received: from a ([192.0.2.1])\r\n\tby {host} with ESMTP; x\r\n");
        format!("{}{HONEST}", hop.repeat(count))
    };
    for (text, expected) in [
        (hops(30, "other.example"), None),
        (hops(50, "other.example"), Some((554, "5.4.6"))),
        (hops(110, "other.example"), Some((554, "5.4.6"))),
        (hops(4, "mx.ours.example"), None),
        (hops(5, "MX.ours.example"), Some((554, "5.4.6"))),
        (
            format!("Delivered-To: ME@ours.example\r\n{HONEST}"),
            Some((554, "5.4.6")),
        ),
        (format!("Delivered-To: you@ours.example\r\n{HONEST}"), None),
    ] {
        let result = world
            .send(GOOD, "her@src.example", to, content(&text))
            .await;
        assert_eq!(
            result.err(),
            expected,
            "{}",
            text.get(..100).unwrap_or_default()
        );
    }
}

#[tokio::test]
async fn c162_only_foreign_senders_of_forwarded_mail_are_rewritten() {
    let mut world = world().await;
    let to = &["me@ours.example"];
    let ours = "From: a@ours.example\r\n";
    world.dns.txt("ours.example", "v=spf1 ip4:192.0.2.1 -all");
    let passed = world
        .send(GOOD, "a@ours.example", to, content(ours))
        .await
        .expect("passed");
    assert_eq!(passed.envelope.forwarded_as, None);
    let passed = world
        .send(GOOD, "", to, world.signed(content(HONEST)))
        .await
        .expect("passed");
    assert_eq!(passed.envelope.forwarded_as, None);
    world.config.forwarding.rewrite = Rewrite::WithoutDkim;
    let plain = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await
        .expect("passed");
    assert!(plain.envelope.forwarded_as.is_some());
    let signed = world.signed(content(HONEST));
    let signed = world
        .send(GOOD, "her@src.example", to, signed)
        .await
        .expect("passed");
    assert_eq!(signed.envelope.forwarded_as, None);
    world.config.forwarding.rewrite = Rewrite::Never;
    let plain = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await
        .expect("passed");
    assert_eq!(plain.envelope.mail_from(), "her@src.example");
}

#[tokio::test]
async fn srs_may_have_a_domain_of_its_own() {
    let mut world = world().await;
    world.config.forwarding.srs_domain = "fwd.ours.example".to_owned().try_into().expect("name");
    let to = &["me@ours.example"];
    let passed = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await
        .expect("passed");
    let rewritten = passed.envelope.forwarded_as.expect("SRS");
    assert!(rewritten.ends_with("=her@fwd.ours.example"), "{rewritten}");
    let bounce = content("From: <postmaster@box.example>\r\n");
    let home = world
        .send(BAD, "", &[&rewritten], bounce.clone())
        .await
        .expect("bounce");
    assert_eq!(home.envelope.recipients[0].address, "her@src.example");
    // C166: the same local part elsewhere is nothing.
    let elsewhere = rewritten.replace("@fwd.ours.example", "@ours.example");
    let refused = world.send(BAD, "", &[&elsewhere], bounce.clone()).await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.1.1")));
    let elsewhere = rewritten.replace("@fwd.ours.example", "@not-ours.example");
    let refused = world.send(BAD, "", &[&elsewhere], bounce).await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")));
}

#[tokio::test]
async fn c138_c139_seals_hold_for_the_next_hop_or_say_that_they_do_not() {
    let world = world().await;
    let to = &["me@ours.example"];
    let ours = Keys::load(world._dir.path(), &world.identity).expect("keys");
    let mut message = content(HONEST);
    for hop in 1..=3 {
        let passed = world
            .send(
                GOOD,
                "her@src.example",
                to,
                Content {
                    head: strip(&message.head),
                    ..message.clone()
                },
            )
            .await
            .expect("passed");
        let before = passed.content.head.clone();
        let mut seal = passed.seal.expect("a seal");
        let state = if hop == 1 {
            ChainState::None
        } else {
            ChainState::Pass
        };
        assert_eq!(seal.state, state, "hop {hop}");
        let set = ours.seal(&seal).expect("a set");
        message = Content {
            head: join(&set, &before),
            ..passed.content
        };
        let fields = headers::fields(&message.head).expect("fields");
        assert_eq!(fields.iter().filter(|f| f.is("ARC-Seal")).count(), hop);
        // Once more in the place of that: the same, and nothing where somebody wrote words into it.
        seal.replaces = Some(message.head.clone());
        assert_eq!(ours.seal(&seal).expect("a set"), set, "hop {hop}");
        let text = String::from_utf8(message.head.to_vec()).expect("UTF-8");
        let forged = text.replacen("dmarc=pass", "dmarc=none", 1);
        assert_ne!(forged, text);
        seal.replaces = Some(forged.into());
        assert_eq!(ours.seal(&seal).expect("no set").len(), 0, "hop {hop}");
    }
    // The body was changed after the third seal: our fourth set says so, over itself alone, and
    // nobody adds a fifth.
    let broken = Content {
        head: strip(&message.head),
        body: Body::Memory(b"Other\r\n"[..].into()),
    };
    let passed = world
        .send(GOOD, "her@src.example", to, broken)
        .await
        .expect("passed");
    assert!(
        head(&passed).contains("arc=fail (the body was changed)"),
        "{}",
        head(&passed)
    );
    let seal = passed.seal.expect("a seal");
    assert_eq!(seal.state, ChainState::Fail);
    let set = ours.seal(&seal).expect("a set");
    let text = String::from_utf8(set.to_vec()).expect("text");
    assert!(text.contains("cv=fail") && text.contains("i=4;"), "{text}");
    let content = Content {
        head: join(&set, &passed.content.head),
        ..passed.content
    };
    let again = Seal { content, ..seal };
    assert_eq!(ours.seal(&again).expect("no set").len(), 0);
}

/// Without the marks of a loop that is one only in this test.
fn strip(head: &[u8]) -> Bytes {
    let fields = headers::fields(head).expect("fields");
    let kept = fields
        .iter()
        .filter(|f| !f.is("Delivered-To"))
        .map(|f| f.whole);
    [kept.collect::<Vec<_>>().concat(), b"\r\n".to_vec()]
        .concat()
        .into()
}

#[tokio::test]
async fn c142_odd_arc_fields_stop_nothing() {
    let world = world().await;
    let to = &["me@ours.example"];
    for odd in [
        "i=0",
        "i=51",
        "i=1000000",
        "i=abc",
        "a=rsa-sha1; i=1; d=; s=x",
        "",
    ] {
        let text = format!("ARC-Seal: {odd}; cv=none\r\n{HONEST}");
        let passed = world
            .send(GOOD, "her@src.example", to, content(&text))
            .await;
        let passed = passed.expect("passed");
        assert!(head(&passed).contains("arc=fail"), "{odd}");
    }
    let set = |i: usize| {
        format!(
            "ARC-Seal: i={i}; cv=pass\r\nARC-Message-Signature: i={i}\r\nARC-Authentication-Results: i={i}; x\r\n"
        )
    };
    let sixty: String = (1..=60).map(set).collect();
    let passed = world
        .send(
            GOOD,
            "her@src.example",
            to,
            content(&format!("{sixty}{HONEST}")),
        )
        .await;
    let seal = passed.expect("passed").seal.expect("asked");
    let ours = Keys::load(world._dir.path(), &world.identity).expect("keys");
    assert!(ours.seal(&seal).expect("no set beyond 50").is_empty());
    assert_eq!(arc::SEALED.first(), Some(&"From"));
}

#[tokio::test]
async fn c147_hidden_clients_are_not_judged_and_null_senders_by_their_name() {
    let world = world().await;
    let to = &["me@ours.example"];
    let passed = world
        .send([127, 0, 0, 1], "her@src.example", to, content(HONEST))
        .await;
    let passed = passed.expect("passed");
    assert!(!passed.verified && passed.seal.is_none());
    assert!(head(&passed).starts_with("Delivered-To:"));
    world.dns.txt("mail.src.example", "v=spf1 a -all");
    for (client, result) in [(GOOD, "spf=pass"), (BAD, "spf=fail")] {
        let message = world.signed(content(HONEST));
        let text = head(&world.send(client, "", to, message).await.expect("passed"));
        assert!(
            text.contains(&format!("{result} smtp.helo=mail.src.example")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn with_several_recipients_none_is_named_to_the_others() {
    let mut world = world().await;
    world.config.forwarding.trace_headers = true;
    let to = &["me@ours.example", "both@ours.example"];
    let passed = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await
        .expect("passed");
    let text = head(&passed);
    assert!(
        !text.contains("Delivered-To") && !text.contains("X-Forwarded"),
        "{text}"
    );
    let to = &["me@ours.example"];
    let passed = world
        .send(GOOD, "her@src.example", to, content(HONEST))
        .await
        .expect("passed");
    let text = head(&passed);
    assert!(
        text.contains(
            "X-Forwarded-To: me@box.example\r\nX-Forwarded-For: me@ours.example me@box.example\r\n"
        ),
        "{text}"
    );
}

mod forged;
mod onward;
