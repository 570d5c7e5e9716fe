//! Reports of real users about signing, aliases and forwarding of other servers, against the real
//! binary. Named by the number of the case.

use std::net::Ipv4Addr;

use chapar::lab::{Act, Answer, Client, Mx, MxConfig, Stage};
use chapar::signing::keys::{Algorithm, PrivateKey, path};

use crate::journey::{arrived, body, head, ip, mx, records};
use crate::oracle;
use crate::world::{PASSWORD, USER, World, write};

const MESSAGE: &[u8] = b"From: Her <her@src.example>\r\nSubject: x\r\n\r\nbody\r\n";

async fn world(aliases: &str, mx_config: MxConfig) -> (World, Mx) {
    let remote = Mx::start(mx_config).await.expect("MX");
    let config = "[incoming]\njudge_private = true\n[retry]\nfirst = \"1s\"\n";
    let mut world = World::new(remote.address().port(), config).await;
    for domain in ["box.example", "x.example", "y.example", "remote.example"] {
        mx(&world, domain, &remote).await;
        world.dns.a(&format!("mx.{domain}"), ip(&remote));
    }
    let file = world.dir.path().join("domains/example.org/aliases");
    write(file, aliases, 0o644);
    world.start().await;
    (world, remote)
}

async fn submit(world: &World, to: &str, message: &str) -> Answer {
    let mut client = world.user().await;
    let answer = client.send(USER, &[to], message.as_bytes()).await;
    answer.expect("an answer")
}

/// Recipients of every message that came, in order of their names.
async fn recipients(remote: &Mx, messages: usize) -> Vec<String> {
    let received = arrived(remote, messages).await;
    let mut all: Vec<String> = received
        .into_iter()
        .flat_map(|one| one.recipients)
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn c089_c130_long_fields_are_signed_as_they_arrive() {
    let (mut world, remote) = world("*: me@box.example\n", MxConfig::default()).await;
    let ids: Vec<String> = (0..11)
        .map(|n| format!("<{n}{}@x.example>", "r".repeat(85)))
        .collect();
    let references = format!("References: {}\r\n", ids.join(" "));
    assert!(references.len() > 1000);
    let people: Vec<String> = (0..60)
        .map(|n| format!("Person {n} <someone.{n}@remote.example>"))
        .collect();
    let to = format!("To: {}\r\n", people.join(", "));
    let tabs = format!("To: {}\r\n", people.join(",\r\n\t"));
    let mut count = 0;
    for field in [references.as_str(), &to, &tabs, "To: a@remote.example \r\n"] {
        let message = format!("From: {USER}\r\nSubject: x\r\n{field}\r\nbody\r\n");
        let answer = submit(&world, "a@remote.example", &message).await;
        assert_eq!(answer.code, 250, "{field}: {}", answer.text);
        count += 1;
        let sent = arrived(&remote, count).await.remove(count - 1).data;
        assert_eq!(
            oracle::dkimpy(&sent, &records(&world)),
            (2, 2),
            "{}",
            head(&sent)
        );
        let longest = head(&sent).lines().map(str::len).max();
        assert!(longest <= Some(998), "{longest:?}");
        // Nothing is torn: the words are the same.
        let words: Vec<&str> = field.split_whitespace().collect();
        let arrived = head(&sent);
        let arrived: Vec<&str> = arrived.split_whitespace().collect();
        assert!(
            arrived.windows(words.len()).any(|window| window == words),
            "{}",
            head(&sent)
        );
    }
    // A word that can not be parted.
    let message = format!(
        "From: {USER}\r\nX-Long: {}\r\n\r\nbody\r\n",
        "x".repeat(1200)
    );
    let answer = submit(&world, "a@remote.example", &message).await;
    assert!(answer.text.starts_with("550 5.6.0 "), "{}", answer.text);
    assert_eq!(remote.received().len(), count);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c129_what_is_added_and_removed_is_so_before_it_is_signed() {
    let (mut world, remote) = world("out: you@box.example\n", MxConfig::default()).await;
    let message = format!("From: {USER}\r\nBcc: secret@box.example\r\nSubject: x\r\n\r\nbody\r\n");
    for (index, to) in ["you@box.example", "out@example.org"]
        .into_iter()
        .enumerate()
    {
        assert_eq!(submit(&world, to, &message).await.code, 250);
        let sent = arrived(&remote, index + 1).await.remove(index).data;
        let top = head(&sent);
        assert!(!top.contains("secret"), "{top}");
        for name in ["\r\nMessage-ID: ", "\r\nDate: "] {
            assert_eq!(top.matches(name).count(), 1, "{top}");
        }
        assert_eq!(oracle::dkimpy(&sent, &records(&world)), (2, 2), "{top}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c137_an_author_in_a_domain_beyond_ascii_is_signed_by_its_a_labels() {
    let remote = Mx::start(MxConfig {
        smtputf8: true,
        ..MxConfig::default()
    })
    .await
    .expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let labels = "xn--bcher-kva.example";
    let domain = world.dir.path().join("domains").join(labels);
    write(domain.join("domain.toml"), "selectors = [\"u\"]\n", 0o644);
    let key = PrivateKey::generate(Algorithm::Rsa).expect("key");
    write(path(world.dir.path(), labels, "u"), &key.to_pem(), 0o600);
    let users = world.dir.path().join("domains/example.org/users.toml");
    let text = std::fs::read_to_string(&users).expect("users");
    let text = text.replace(
        "[\"*@example.org\"]",
        "[\"*@example.org\", \"*@b\u{fc}cher.example\"]",
    );
    write(users, &text, 0o600);
    world.start().await;
    let record = (format!("u._domainkey.{labels}"), key.record());
    for (index, sender) in ["jan@b\u{fc}cher.example", "jan@xn--bcher-kva.example"]
        .into_iter()
        .enumerate()
    {
        let mut client = world.user().await;
        client
            .expect(&format!("MAIL FROM:<{sender}> SMTPUTF8"), 250)
            .await
            .expect("MAIL");
        client
            .expect("RCPT TO:<you@box.example>", 250)
            .await
            .expect("RCPT");
        client.expect("DATA", 354).await.expect("DATA");
        let message = "From: <jan@b\u{fc}cher.example>\r\nSubject: x\r\n\r\nbody\r\n.\r\n";
        client.write(message.as_bytes()).await.expect("written");
        let answer = client.reply().await.expect("an answer");
        assert_eq!(answer.code, 250, "{}", answer.text);
        let sent = arrived(&remote, index + 1).await.remove(index).data;
        let top = head(&sent);
        assert!(top.contains("d=xn--bcher-kva.example"), "{top}");
        assert_eq!(
            oracle::dkimpy(&sent, std::slice::from_ref(&record)),
            (1, 1),
            "{top}"
        );
    }
    let mut client = world.user().await;
    client
        .expect(&format!("MAIL FROM:<{USER}> SMTPUTF8"), 250)
        .await
        .expect("MAIL");
    client
        .expect("RCPT TO:<you@box.example>", 250)
        .await
        .expect("RCPT");
    client.expect("DATA", 354).await.expect("DATA");
    client
        .write(b"From: <jan@b\xfcch\xff.example>\r\n\r\nbody\r\n.\r\n")
        .await
        .expect("written");
    let answer = client.reply().await.expect("an answer");
    assert!((500..600).contains(&answer.code), "{}", answer.text);
    let plain = format!("From: {USER}\r\n\r\nbody\r\n");
    let again = Client::submit(
        world.daemon().port("submission/implicit"),
        crate::world::HOST,
        (USER, PASSWORD),
        USER,
        &["you@box.example"],
        plain.as_bytes(),
    );
    assert_eq!(again.await.expect("no crash").code, 250);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c153_the_catch_all_takes_only_what_nobody_else_does() {
    let aliases =
        "real: a@x.example\nsales: b@x.example\nold: !reject No longer here\n*: c@x.example\n";
    let (mut world, remote) = world(aliases, MxConfig::default()).await;
    for to in ["real", "sales", "REAL", "real+x", "nobody"] {
        let mut client = world.mx().await;
        let answer = client
            .send("", &[&format!("{to}@example.org")], MESSAGE)
            .await;
        assert_eq!(answer.expect("an answer").code, 250);
    }
    let mut client = world.mx().await;
    let both = ["real@example.org", "nobody@example.org"];
    client.send("", &both, MESSAGE).await.expect("taken");
    client.expect("MAIL FROM:<>", 250).await.expect("MAIL");
    let old = client
        .command("RCPT TO:<old@example.org>")
        .await
        .expect("an answer");
    assert!(
        old.text.contains("550 5.1.1 No longer here"),
        "{}",
        old.text
    );
    world
        .wait_queue("all is delivered", |queue| queue.is_empty())
        .await;
    let all = recipients(&remote, 6).await;
    let count = |name: &str| all.iter().filter(|to| *to == name).count();
    assert_eq!(
        (
            count("a@x.example"),
            count("b@x.example"),
            count("c@x.example"),
            all.len()
        ),
        (4, 1, 2, 7)
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c155_local_parts_of_others_and_reverse_paths_keep_their_case() {
    let (mut world, remote) =
        world("case: Case.Sensitive@Remote.Example\n", MxConfig::default()).await;
    let message = format!("From: {USER}\r\n\r\nbody\r\n");
    for to in ["John.Doe@Remote.Example", "case@example.org"] {
        let mut client = world.user().await;
        let answer = client
            .send("Bounce-AbC=@example.org", &[to], message.as_bytes())
            .await;
        assert_eq!(answer.expect("an answer").code, 250);
    }
    let all = recipients(&remote, 2).await;
    assert_eq!(
        all,
        ["Case.Sensitive@remote.example", "John.Doe@remote.example"]
    );
    for one in remote.received() {
        assert_eq!(one.reverse_path, "Bounce-AbC=@example.org");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c157_rings_are_refused_and_ways_that_meet_are_none() {
    let mut aliases = String::from("x: x\na: b\nb: a\nlist: p, q\np: z\nq: z\nz: z@x.example\n");
    for n in 0..60 {
        aliases.push_str(&format!("c{n}: c{}\n", n + 1));
    }
    let many: Vec<String> = (0..5000).map(|n| format!("m{n}@x.example")).collect();
    aliases.push_str(&format!("c60: end@x.example\nmany: {}\n", many.join(", ")));
    let (mut world, remote) = world(&aliases, MxConfig::default()).await;
    let mut client = world.mx().await;
    client.expect("MAIL FROM:<>", 250).await.expect("MAIL");
    for name in ["x", "a", "b", "c0", "many"] {
        let answer = client
            .command(&format!("RCPT TO:<{name}@example.org>"))
            .await;
        let answer = answer.expect("an answer");
        assert!(
            answer.text.starts_with("554 5.4.6 "),
            "{name}: {}",
            answer.text
        );
    }
    client.expect("RSET", 250).await.expect("RSET");
    client
        .send("", &["list@example.org"], MESSAGE)
        .await
        .expect("taken");
    assert_eq!(recipients(&remote, 1).await, ["z@x.example"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c158_two_targets_get_a_copy_each_and_fail_alone() {
    let aliases = "team: a@x.example, c@y.example\n*: c@y.example\n";
    let (mut world, remote) = world(aliases, MxConfig::default()).await;
    world.dns.txt("src.example", "v=spf1 ip4:127.0.0.1 -all");
    mx(&world, "src.example", &remote).await;
    world.dns.a("mx.src.example", ip(&remote));
    let mut client = world.mx().await;
    client
        .send("", &["team@example.org"], MESSAGE)
        .await
        .expect("taken");
    world
        .wait_queue("it is delivered", |queue| queue.is_empty())
        .await;
    let first: Vec<String> = remote
        .received()
        .into_iter()
        .flat_map(|r| r.recipients)
        .collect();
    assert_eq!(first.len(), 2);
    client
        .send("", &["team@example.org", "nobody@example.org"], MESSAGE)
        .await
        .expect("taken");
    world
        .wait_queue("it is delivered", |queue| queue.is_empty())
        .await;
    let all: Vec<String> = remote
        .received()
        .into_iter()
        .flat_map(|r| r.recipients)
        .collect();
    assert_eq!(all.len(), 4, "one copy more for each: {all:?}");
    remote.on(Stage::Rcpt, |line| match line.contains("a@x.example") {
        true => Act::reply("550 5.1.1 no such user"),
        false => Act::Default,
    });
    client
        .send("her@src.example", &["team@example.org"], MESSAGE)
        .await
        .expect("taken");
    world
        .wait_queue("it is over", |queue| queue.is_empty())
        .await;
    let received = remote.received();
    let bounces: Vec<_> = received
        .iter()
        .filter(|r| r.recipients == ["her@src.example"])
        .collect();
    assert_eq!(bounces.len(), 1);
    assert!(String::from_utf8_lossy(body(&bounces[0].data)).contains("team@example.org"));
    let copies = received
        .iter()
        .filter(|r| r.recipients == ["c@y.example"])
        .count();
    assert_eq!(copies, 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c163_c170_mail_that_only_spf_proves_is_sealed_and_its_failure_told_once() {
    let (mut world, remote) = world("i: me@box.example\n", MxConfig::default()).await;
    let strict = Ipv4Addr::new(127, 0, 0, 2);
    world
        .dns
        .txt("strict.example", &format!("v=spf1 ip4:{strict} -all"));
    world.dns.txt("_dmarc.strict.example", "v=DMARC1; p=reject");
    mx(&world, "strict.example", &remote).await;
    world.dns.a("mx.strict.example", ip(&remote));
    remote.on(Stage::Dot, |_| Act::reply("550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n550 5.7.26 gsmtp"));
    let port = world.daemon().port("mx/starttls");
    let message = b"From: <a@strict.example>\r\nSubject: x\r\n\r\nbody\r\n";
    let mut client = Client::connect_from(strict.into(), port)
        .await
        .expect("connect");
    client.reply().await.expect("greeting");
    client
        .expect("EHLO mail.strict.example", 250)
        .await
        .expect("EHLO");
    let answer = client
        .send("a@strict.example", &["i@example.org"], message)
        .await;
    assert_eq!(answer.expect("an answer").code, 250);
    // Refused once; then the notice to the one who sent it.
    remote
        .until(|mx| {
            mx.log()
                .iter()
                .any(|line| line.line.contains("RCPT TO:<a@strict.example>"))
        })
        .await;
    let log: Vec<String> = remote.log().into_iter().map(|line| line.line).collect();
    let tries = log
        .iter()
        .filter(|line| line.contains("RCPT TO:<me@box.example>"))
        .count();
    assert_eq!(tries, 1, "{log:#?}");
    let srs = log
        .iter()
        .find_map(|line| line.strip_prefix("MAIL FROM:<"))
        .and_then(|l| l.split('>').next());
    let srs = srs.expect("a sender").to_owned();
    assert!(
        srs.starts_with("SRS0=") && srs.ends_with("=strict.example=a@example.org"),
        "{srs}"
    );
    remote.behave();
    // A bounce to that address, from anybody, goes home as it is; anything else does not.
    let before = remote.received().len();
    let bounce = b"From: MAILER-DAEMON@box.example\r\nSubject: x\r\n\r\nbody\r\n";
    let mut client = world.mx().await;
    let answer = client.send("", &[&srs], bounce).await;
    assert_eq!(answer.expect("an answer").code, 250);
    // Something else may come before it.
    let mut count = before + 1;
    let home = loop {
        let received = arrived(&remote, count).await;
        let mut late = received.iter().skip(before);
        if let Some(home) = late.find(|one| one.recipients == ["a@strict.example"]) {
            break home.reverse_path.clone();
        }
        count = received.len() + 1;
    };
    assert_eq!(home, "");
    let answer = client.send("reply@gmail.example", &[&srs], bounce).await;
    let refused = answer.expect_err("s12: it takes bounces only").to_string();
    assert!(refused.contains("550 5.7.1"), "s12: {refused}");
    // The same from a forger is refused here.
    let mut client = world.mx().await;
    let answer = client
        .send("a@strict.example", &["i@example.org"], message)
        .await;
    let answer = answer.expect("an answer");
    assert!(answer.text.contains("550 5.7.1"), "{}", answer.text);
    world.stop().await;
}
