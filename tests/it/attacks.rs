//! Headers that are made to deceive: who a message says it is from, what a client writes into our
//! own fields, signatures that cost.

use std::net::{IpAddr, Ipv4Addr};

use chapar::lab::{Client, Mx, MxConfig};
use chapar::signing::keys::{Algorithm, PrivateKey, path};

use crate::journey::{arrived, head, mx};
use crate::world::{DOMAIN, USER, World, write};

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

async fn world() -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    // Whatever names below evil.example are asked for, they are the attacker's.
    world
        .dns
        .txt("evil.example", &format!("v=spf1 ip4:{ATTACKER} -all"));
    world.dns.txt("legit.example", "v=spf1 ip4:192.0.2.1 -all");
    world.dns.txt("_dmarc.legit.example", "v=DMARC1; p=reject");
    (world, remote)
}

/// What became of one message: the reply that refused it, or the fields that arrived.
async fn attempt(
    world: &World,
    remote: &Mx,
    hello: &str,
    sender: &str,
    fields: &[u8],
) -> Result<String, String> {
    let before = remote.received().len();
    let port = world.daemon().port("mx/starttls");
    let mut client = Client::connect_from(ATTACKER.into(), port)
        .await
        .expect("connect");
    client.reply().await.expect("greeting");
    for line in [
        format!("EHLO {hello}"),
        format!("MAIL FROM:{sender}"),
        "RCPT TO:<i@example.org>".into(),
        "DATA".into(),
    ] {
        let answer = client
            .command(&line)
            .await
            .map_err(|error| error.to_string())?;
        if answer.code >= 400 {
            return Err(answer.text);
        }
    }
    let message = [fields, b"Subject: x\r\n\r\nbody\r\n.\r\n"].concat();
    client
        .write(&message)
        .await
        .map_err(|error| error.to_string())?;
    let answer = client.reply().await.map_err(|error| error.to_string())?;
    match answer.code {
        250 => {
            let received = arrived(remote, before + 1).await;
            Ok(head(&received[before].data))
        }
        _ => Err(answer.text),
    }
}

/// The attacks of "Composition Kills" (espoofer), by their numbers: a receiver that reads one
/// identity and judges another.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_passes_for_a_domain_that_says_reject() {
    let (mut world, remote) = world().await;
    let key = PrivateKey::generate(Algorithm::Rsa).expect("key");
    for name in [
        "s._domainkey.evil.example",
        "s._domainkey.legit.example'a.evil.example",
    ] {
        world.dns.txt(name, &key.record());
    }
    world.start().await;
    let evil = "<a@evil.example>";
    let plain = "From: <admin@legit.example>\r\n";
    let signature = |tags: &str| {
        format!(
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; {tags} h=from:subject; bh=AAAA; b=AAAA\r\n{plain}"
        )
    };
    let attacks: Vec<(&str, &str, String, Vec<u8>)> = [
        (
            "A1",
            "evil.example",
            "<any@none.legit.example>",
            plain.to_owned(),
        ),
        (
            "A2",
            "evil.example",
            "<(any@legit.example>",
            plain.to_owned(),
        ),
        ("A2", "evil.example", "<>", plain.to_owned()),
        (
            "A3",
            "evil.example",
            evil,
            signature("d=legit.example(.evil.example; s=s;"),
        ),
        (
            "A4",
            "evil.example",
            evil,
            signature("d=legit.example'a.evil.example; s=s;"),
        ),
        (
            "A6",
            "evil.example",
            "<any@legit.example(a.evil.example>",
            plain.to_owned(),
        ),
        (
            "A6",
            "evil.example",
            "<any@legit.example'@a.evil.example>",
            plain.to_owned(),
        ),
        ("A7", "legit.example", evil, plain.to_owned()),
        (
            "A8",
            "evil.example",
            evil,
            format!("From: {evil}\r\n{plain}"),
        ),
        (
            "A8",
            "evil.example",
            evil,
            format!("{plain}From: {evil}\r\n"),
        ),
        (
            "A9",
            "evil.example",
            evil,
            format!("From : <admin@legit.example>\r\nFrom: {evil}\r\n"),
        ),
        (
            "A9",
            "evil.example",
            evil,
            " From: <admin@legit.example>\r\n".to_owned() + &format!("From: {evil}\r\n"),
        ),
        (
            "A10",
            "evil.example",
            evil,
            format!("From\r\n : <admin@legit.example>\r\nFrom: {evil}\r\n"),
        ),
        (
            "A11",
            "evil.example",
            evil,
            "Sender: <a@evil.example>\r\nResent-From: <admin@legit.example>\r\n".to_owned(),
        ),
        (
            "A12",
            "evil.example",
            evil,
            format!("From: {evil}, <admin@legit.example>\r\n"),
        ),
        (
            "A12",
            "evil.example",
            evil,
            format!("From: <admin@legit.example>, {evil}\r\n"),
        ),
        (
            "A13",
            "evil.example",
            evil,
            "From: =?utf-8?B?YWRtaW5AbGVnaXQuZXhhbXBsZQ==?=\r\n".to_owned(),
        ),
        (
            "A14",
            "evil.example",
            evil,
            "From: <@evil.example,@x.example:admin@legit.example>\r\n".to_owned(),
        ),
        (
            "A15",
            "evil.example",
            evil,
            "From: (comment <a@evil.example>) <admin@legit.example>\r\n".to_owned(),
        ),
        (
            "A16",
            "evil.example",
            evil,
            "From: <admin@legit.example>\\,<a@evil.example>\r\n".to_owned(),
        ),
        (
            "A17",
            "evil.example",
            evil,
            "From: a@evil.example admin@legit.example\r\n".to_owned(),
        ),
        (
            "A18",
            "evil.example",
            evil,
            "From: <a@evil.example>admin@legit.example\r\n".to_owned(),
        ),
        (
            "A19",
            "evil.example",
            evil,
            "From: \"<a@evil.example>\" <admin@legit.example>\r\n".to_owned(),
        ),
    ]
    .map(|(name, hello, sender, fields)| (name, hello, sender.to_owned(), fields.into_bytes()))
    .into_iter()
    .chain([
        (
            "A5",
            "evil.example",
            evil.to_owned(),
            signature("d=legit.example\0.evil.example; s=s;").into_bytes(),
        ),
        (
            "A7",
            "evil.example",
            evil.to_owned(),
            signature("d=legit.example; s=s._domainkey.evil.example.\0.any;").into_bytes(),
        ),
        (
            "A9",
            "evil.example",
            evil.to_owned(),
            b"From: <a@evil.example>\r\n\0From: <admin@legit.example>\r\n".to_vec(),
        ),
    ])
    .collect();
    assert!(attacks.len() >= 26);
    for (name, hello, sender, fields) in attacks {
        let text = String::from_utf8_lossy(&fields).into_owned();
        let arrived = match attempt(&world, &remote, hello, &sender, &fields).await {
            Err(reply) => {
                assert!(reply.starts_with('5'), "{name} {text}: {reply}");
                continue;
            }
            Ok(arrived) => arrived,
        };
        // Whatever went on: the verdict is about an author that everybody sees.
        let verdicts = arrived
            .split("Authentication-Results: mx.example.org")
            .nth(1)
            .expect(&arrived);
        let verdicts = verdicts.split("\r\nFrom").next().unwrap_or_default();
        let bad = verdicts.contains("dmarc=pass") && verdicts.contains("header.from=legit.example");
        assert!(!bad, "{name}: {arrived}");
        let unfolded = arrived.replace("\r\n ", " ").replace("\r\n\t", " ");
        let shown: Vec<&str> = unfolded
            .split("\r\n")
            .filter(|line| line.to_ascii_lowercase().starts_with("from"))
            .collect();
        assert_eq!(shown.len(), 1, "{name}: {arrived}");
        assert!(
            !shown[0].contains("legit.example"),
            "{name}: what a reader takes for legit.example was let through: {arrived}"
        );
    }
    world.stop().await;
}

/// Values of a client, of the DNS and of a user in fields of ours.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_choose_ends_no_field_of_ours_and_forges_no_verdict() {
    let (mut world, remote) = world().await;
    world
        .dns
        .ptr(IpAddr::from(ATTACKER), "x;spf=pass.evil.example");
    world.dns.a("x;spf=pass.evil.example", ATTACKER);
    world.start().await;
    let fields = b"From: \"x; dkim=pass\" <a@evil.example>\r\n";
    let mut count = 0;
    for (hello, sender) in [
        ("evil.example", "<\"a; spf=pass; dmarc=pass\"@evil.example>"),
        ("evil.example", "<\"a\\\" spf=pass (\"@evil.example>"),
        ("evil.example;spf=pass", "<>"),
        ("evil.example\x01", "<>"),
        ("[127.0.0.66]", "<a@evil.example>"),
        ("x(", "<>"),
        ("\"x\r", "<>"),
        ("evil.example", "<a@evil.example>\r\nX-Evil: 1"),
        ("evil.example", "<a;b@evil.example>"),
    ] {
        let Ok(arrived) = attempt(&world, &remote, hello, sender, fields).await else {
            continue;
        };
        count += 1;
        assert!(!arrived.contains("X-Evil"), "{arrived}");
        assert!(
            arrived
                .bytes()
                .all(|byte| matches!(byte, b'\r' | b'\n' | b'\t' | b' '..=b'~')),
            "{arrived:?}"
        );
        let field = arrived
            .split("\r\nAuthentication-Results: mx.example.org")
            .nth(1)
            .expect(&arrived);
        // Without quoted strings and comments every method is there once.
        let mut bare = String::new();
        let (mut quoted, mut depth, mut escaped) = (false, 0, false);
        for c in field.split("\r\nFrom").next().unwrap_or_default().chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' if depth == 0 => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth -= 1,
                c if !quoted && depth == 0 => bare.push(c),
                _ => {}
            }
        }
        for method in ["spf=", "dkim=", "dmarc=", "iprev="] {
            assert_eq!(
                bare.matches(&format!("\t{method}")).count(),
                1,
                "{method} {field}"
            );
            assert_eq!(
                bare.matches(method).count(),
                1 + usize::from(method == "iprev="),
                "{method} {bare}"
            );
        }
    }
    assert!(count >= 3, "{count} were taken");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_and_keys_without_end_cost_little() {
    let (mut world, remote) = world().await;
    world.dns.txt(
        "s._domainkey.evil.example",
        &format!("v=DKIM1; n={}; p=AAAA", "x".repeat(60_000)),
    );
    world.start().await;
    let one = "DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=s; h=from; bh=AAAA; b=AAAA\r\n";
    let names = format!(
        "DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=s; bh=AAAA; b=AAAA; h=from{}\r\n",
        ":\r\n a".repeat(10_000)
    );
    let started = std::time::Instant::now();
    for fields in [one.repeat(100), names] {
        let fields = format!("{fields}From: <a@evil.example>\r\n");
        let arrived = attempt(
            &world,
            &remote,
            "evil.example",
            "<a@evil.example>",
            fields.as_bytes(),
        )
        .await;
        let arrived = arrived.expect("it is taken: a bad signature is as none");
        let verdicts = arrived
            .split("Authentication-Results: mx.example.org")
            .nth(1)
            .expect(&arrived);
        let own = verdicts
            .split("\r\nDelivered-To")
            .next()
            .unwrap_or_default();
        assert!(own.matches("\tdkim=").count() <= 10, "{own}");
        assert!(!own.contains("dkim=pass"), "{own}");
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_can_end_and_covers_whom_it_is_for() {
    let (mut world, remote) = world().await;
    let file = world
        .dir
        .path()
        .join("domains")
        .join(DOMAIN)
        .join("domain.toml");
    write(
        file,
        "selectors = [\"ed1\"]\nsignature_expires = \"7d\"\n",
        0o644,
    );
    assert!(path(world.dir.path(), DOMAIN, "ed1").exists());
    world.start().await;
    let mut client = world.user().await;
    let message = format!("From: {USER}\r\nTo: a@box.example\r\nCc: b@box.example\r\n\r\nbody\r\n");
    client
        .send(USER, &["a@box.example"], message.as_bytes())
        .await
        .expect("taken");
    let sent = arrived(&remote, 1).await.remove(0).data;
    let top = head(&sent).replace("\r\n\t", "").replace("\r\n ", "");
    let tag = |name: &str| -> u64 {
        let value = top
            .split(&format!("; {name}="))
            .nth(1)
            .or_else(|| top.split(&format!(";{name}=")).nth(1));
        let value = value.expect(&top);
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .parse()
            .expect("a number")
    };
    assert_eq!(tag("x") - tag("t"), 7 * 24 * 60 * 60);
    let names = top
        .split("h=")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect("h=");
    for name in ["To", "Cc"] {
        let times = names
            .split(':')
            .filter(|signed| signed.trim().eq_ignore_ascii_case(name))
            .count();
        assert_eq!(times, 2, "{name} can not be added either: {names}");
    }
    world.stop().await;
}
