//! Reports of real users about other clients, against the real binary. Named by the number of the
//! case; `tests/delivery/cases.rs` has those that need no daemon.

use std::net::{Ipv4Addr, Ipv6Addr};

use chapar::lab::{Act, Client, Mx, MxConfig, Received, Stage};

use crate::journey::{arrived, body, ip, mx, records};
use crate::oracle;
use crate::world::{HOST, USER, World, write};

/// A daemon whose users write to box.example and src.example, where `config` is the MX.
async fn world(config: MxConfig, more: &str) -> (World, Mx) {
    let remote = Mx::start(config).await.expect("MX");
    let mut world = World::new(remote.address().port(), more).await;
    for domain in ["box.example", "src.example"] {
        mx(&world, domain, &remote).await;
        world.dns.a(&format!("mx.{domain}"), ip(&remote));
    }
    // Rules that make a fault of ours wait are not what these are about.
    let none = "[[provider]]\nname = \"default\"\nmx = [\"*\"]\n";
    write(world.config().with_file_name("providers.toml"), none, 0o644);
    world.start().await;
    (world, remote)
}

const SOON: &str = "[delivery]\n[retry]\nfirst = \"1s\"\n";

/// The DSN among what arrived, its line ends unfolded.
fn dsn(received: &[Received]) -> String {
    let found = received.iter().find(|one| one.reverse_path.is_empty());
    String::from_utf8(found.expect("a DSN").data.clone()).expect("a DSN is ASCII, or says so")
}

fn to<'a>(received: &'a [Received], address: &str) -> Vec<&'a Received> {
    let is = |one: &&Received| one.recipients.iter().any(|to| to == address);
    received.iter().filter(is).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn c047_smtputf8_is_asked_for_only_where_it_is_needed() {
    let (mut world, remote) = world(MxConfig::default(), "").await;
    let mut user = world.user().await;
    // Asked for, needed by nothing.
    user.expect(&format!("MAIL FROM:<{USER}> SMTPUTF8"), 250)
        .await
        .expect("MAIL");
    user.expect("RCPT TO:<a@box.example>", 250)
        .await
        .expect("RCPT");
    user.expect("DATA", 354).await.expect("DATA");
    user.write(b"From: me@example.org\r\nSubject: plain\r\n\r\nx\r\n.\r\n")
        .await
        .expect("written");
    assert_eq!(user.reply().await.expect("a reply").code, 250);
    let received = arrived(&remote, 1).await;
    assert!(!received[0].parameters.contains("SMTPUTF8"), "{received:?}");
    // Needed, and not to be had: the sender hears of it at once.
    user.expect(&format!("MAIL FROM:<{USER}> SMTPUTF8"), 250)
        .await
        .expect("MAIL");
    user.expect("RCPT TO:<m\u{fc}ller@box.example>", 250)
        .await
        .expect("RCPT");
    user.expect("DATA", 354).await.expect("DATA");
    user.write(b"From: me@example.org\r\nSubject: x\r\n\r\nx\r\n.\r\n")
        .await
        .expect("written");
    assert_eq!(user.reply().await.expect("a reply").code, 250);
    let notice = dsn(&arrived(&remote, 2).await);
    assert!(notice.contains("Status: 5.6.7\r\n"), "{notice}");
    let lines = remote.log();
    assert!(lines.iter().all(|line| line.line.is_ascii()), "{lines:?}");
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c064_each_recipient_has_its_own_end() {
    let (mut world, remote) = world(MxConfig::default(), SOON).await;
    let mut first = true;
    remote.on(Stage::Rcpt, move |line| match line {
        line if line.contains("<b@") => Act::reply("550 5.1.1 no such user"),
        line if line.contains("<c@") && std::mem::take(&mut first) => {
            Act::reply("451 4.7.1 greylisted")
        }
        _ => Act::Default,
    });
    let mut user = world.user().await;
    let all = ["a@box.example", "b@box.example", "c@box.example"];
    let message = b"From: me@example.org\r\nSubject: three\r\n\r\nx\r\n";
    user.send(USER, &all, message).await.expect("taken");
    let received = arrived(&remote, 3).await;
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    assert_eq!(remote.taken(), 3, "a, the DSN, and c");
    assert_eq!(to(&received, "a@box.example").len(), 1);
    assert_eq!(to(&received, "c@box.example")[0].recipients.len(), 1);
    let notice = dsn(&received);
    for part in [
        "Final-Recipient: rfc822; b@box.example\r\n",
        "Action: failed\r\n",
        "Status: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n",
    ] {
        assert!(notice.contains(part), "{part}: {notice}");
    }
    assert_eq!(notice.matches("Final-Recipient:").count(), 1, "{notice}");
    let tries = |who: &str| {
        let log = remote.log();
        let mut lines = log.iter().map(|line| line.line.as_str());
        lines.by_ref().filter(|line| line.contains(who)).count()
    };
    assert_eq!((tries("<a@"), tries("<b@"), tries("<c@")), (1, 1, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c070_all_lines_of_a_refusal_are_in_the_notice_and_in_the_log() {
    let (mut world, remote) = world(MxConfig::default(), "").await;
    let mut first = true;
    remote.on(Stage::Dot, move |_| match std::mem::take(&mut first) {
        true => Act::Raw(
            b"550-5.7.26 first line\r\n550-5.7.26 second \xe9\xe8 latin1\r\n\
              550 5.7.26 third https://example.net/why\r\n"
                .to_vec(),
        ),
        false => Act::Default,
    });
    let mut user = world.user().await;
    let message = b"From: me@example.org\r\nSubject: one\r\n\r\nx\r\n";
    user.send(USER, &["a@box.example"], message)
        .await
        .expect("taken");
    let received = arrived(&remote, 1).await;
    let notice = dsn(&received);
    let unfolded = notice.replace("\r\n ", " ").replace("\r\n\t", " ");
    assert!(unfolded.contains("Status: 5.7.26\r\n"), "{notice}");
    let line = unfolded
        .lines()
        .find(|line| line.starts_with("Diagnostic-Code: smtp; 550 5.7.26 first line second "));
    let line = line.unwrap_or_else(|| panic!("the reply: {notice}"));
    assert!(
        line.ends_with("latin1 third https://example.net/why"),
        "{line}"
    );
    assert_eq!(oracle::dkimpy(&received[0].data, &records(&world)), (2, 2));
    let said = "550 5.7.26 first line second \u{fffd}\u{fffd} latin1 third https://example.net/why";
    world
        .daemon()
        .event_where("delivery", "attempt", |event| event["reply"] == said)
        .await;
    world.stop().await;
}

/// What is too long for a line is encoded before it is signed; 998 octets are not touched.
#[tokio::test(flavor = "multi_thread")]
async fn c088_no_line_is_longer_than_it_may_be_and_signatures_hold() {
    let config = MxConfig {
        smtputf8: true,
        dsn: true,
        ..MxConfig::default()
    };
    let (mut world, remote) = world(config, "").await;
    let mut user = world.user().await;
    let head = "From: me@example.org\r\nSubject: long\r\nMIME-Version: 1.0\r\n";
    let html =
        "Content-Type: text/html; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n";
    let mut count = 0;
    for length in [998, 999, 1000, 5000] {
        let line = "x".repeat(length);
        for text in [
            format!("{head}{html}{line}\r\n"),
            format!(
                "{head}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nshort\r\n\
                 --b\r\n{html}{line}\r\n--b--\r\n"
            ),
        ] {
            user.send(USER, &["a@box.example"], text.as_bytes())
                .await
                .expect("taken");
            count += 1;
            let received = arrived(&remote, count).await;
            let data = &received[count - 1].data;
            let longest = data.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
            assert!(longest <= Some(999), "{length}: {longest:?} with its CR");
            assert_eq!(oracle::dkimpy(data, &records(&world)), (2, 2), "{length}");
            let kept = body(data)
                .windows(length)
                .any(|part| part == line.as_bytes());
            assert_eq!(kept, length == 998, "{length}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c095_a_forward_refused_for_good_is_tried_once() {
    let (mut world, remote) = world(MxConfig::default(), SOON).await;
    world.dns.txt("src.example", "v=spf1 ip4:127.0.0.1 -all");
    let refused = "554 5.7.1 does not meet our delivery requirements";
    let mut forwards = false;
    remote.on(Stage::Rcpt, |_| Act::Default);
    remote.on(Stage::Mail, |_| Act::Default);
    remote.on(Stage::Dot, move |_| {
        // The forward is refused, the notice is taken.
        forwards = !forwards;
        match forwards {
            true => Act::reply(refused),
            false => Act::Default,
        }
    });
    let message = b"From: her@src.example\r\nSubject: x\r\n\r\nx\r\n";
    let mut client = world.mx().await;
    client
        .send("her@src.example", &["any@example.org"], message)
        .await
        .expect("taken");
    let received = arrived(&remote, 1).await;
    assert_eq!(
        received[0].recipients,
        ["her@src.example"],
        "not the SRS address"
    );
    let notice = dsn(&received);
    assert!(notice.contains("Status: 5.7.1\r\n"), "{notice}");
    assert!(notice.contains(refused), "{notice}");
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    let tries = |who: &str| {
        let log = remote.log();
        log.iter().filter(|line| line.line.contains(who)).count()
    };
    assert_eq!(tries("RCPT TO:<me@box.example>"), 1);
    // A null sender is told nothing.
    client
        .send("", &["any@example.org"], message)
        .await
        .expect("taken");
    remote
        .until(|mx| mx.log().iter().filter(|line| line.line == "DATA").count() == 3)
        .await;
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    assert_eq!((tries("RCPT TO:<me@box.example>"), remote.taken()), (2, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c075_ipv4_alone_where_ipv6_has_no_ptr() {
    let four = Mx::start(MxConfig::default()).await.expect("MX");
    let port = four.address().port();
    let config = MxConfig {
        address: (Ipv6Addr::LOCALHOST, port).into(),
        ..MxConfig::default()
    };
    let six = Mx::start(config).await.expect("an MX on ::1");
    let refusal = "550-5.7.25 The IP address sending this message does not have a PTR\n\
                   550-5.7.25 record setup, or the corresponding forward DNS entry does not\n\
                   550 5.7.25 point to the sending IP. gsmtp";
    six.on(Stage::Dot, move |_| Act::reply(refusal));
    for (family, over_six) in [("family = \"ipv4\"\n", false), ("", true)] {
        // What is about this host is tried again, so that who mends it loses nothing.
        let config = format!(
            "[delivery]\nsource = [\"127.0.0.1\", \"::1\"]\n{family}\
             [retry]\nfirst = \"1s\"\nlongest = \"1s\"\ngive_up = \"3s\"\n"
        );
        let mut world = World::new(port, &config).await;
        mx(&world, "box.example", &four).await;
        world.dns.mx("both.example", 10, "mx.both.example");
        world.dns.aaaa("mx.both.example", Ipv6Addr::LOCALHOST);
        match over_six {
            true => {}
            false => world.dns.a("mx.both.example", Ipv4Addr::LOCALHOST),
        }
        world.start().await;
        let before = four.taken();
        world.submit(USER, &["you@both.example"]).await;
        let came = arrived(&four, before + 1).await;
        let last = came.last().expect("one");
        let said = String::from_utf8_lossy(&last.data).into_owned();
        if over_six {
            assert_eq!(last.reverse_path, "", "a notice");
            // Lines of a notice are folded.
            let words: Vec<&str> = said.split_whitespace().collect();
            let said = words.join(" ");
            for part in [
                "does not have a PTR",
                "record setup, or the corresponding forward DNS entry does not",
                "point to the sending IP. gsmtp",
                "550 5.7.25",
            ] {
                assert!(said.contains(part), "{part} in {said}");
            }
            assert!(six.connections() > 0);
        } else {
            assert_eq!(last.recipients, ["you@both.example"]);
            assert_eq!(six.connections(), 0, "no connection over IPv6 is tried");
        }
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c160_a_domain_that_only_sends_from_here_goes_to_its_real_mx() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    // Not this host, as mx.example.org would be.
    world.dns.mx("example.org", 10, "mail.hoster.example");
    world.dns.a("mail.hoster.example", Ipv4Addr::LOCALHOST);
    let dir = world.dir.path().join("domains/example.org");
    write(
        dir.join("domain.toml"),
        "mode = \"send-only\"\nselectors = [\"rsa1\", \"ed1\"]\n",
        0o644,
    );
    std::fs::remove_file(dir.join("aliases")).expect("aliases");
    world.start().await;
    world.submit(USER, &["v@example.org"]).await;
    let came = arrived(&remote, 1).await;
    assert_eq!(came[0].recipients, ["v@example.org"]);
    assert_eq!(oracle::dkimpy(&came[0].data, &records(&world)), (2, 2));
    let mut stranger = world.mx().await;
    stranger
        .expect("MAIL FROM:<a@client.example.net>", 250)
        .await
        .expect("MAIL");
    let answer = stranger
        .command("RCPT TO:<v@example.org>")
        .await
        .expect("RCPT");
    assert_eq!(answer.code, 550, "{}", answer.text);
    assert!(
        answer.text.starts_with("550 5.7.1 ") || answer.text.starts_with("550 5.1.1 "),
        "{}",
        answer.text
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c168_no_name_that_is_none_is_ever_said() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    let good = std::fs::read_to_string(world.config()).expect("configuration");
    // Both the check and the daemon name file, line and value.
    let refused = |what: &str, parts: &[&str]| {
        for command in [&["check"][..], &["serve"]] {
            let (code, out, error) = world.run(command);
            assert_eq!(code, 78, "{what}: {out}{error}");
            for part in parts {
                assert!(error.contains(part), "{what}: {part} in {error}");
            }
        }
    };
    for bad in [
        "$myhostname",
        "",
        "localhost",
        "mail.example.org:587",
        "mylaptop.",
        "-bad-.example",
        "host",
        "[192.0.2.1]",
        "mx.example.org..",
    ] {
        let toml = good.replace("\"mx.example.org\"", &format!("\"{bad}\""));
        write(world.config(), &toml, 0o644);
        refused(bad, &["chapar.toml:1: ", &format!("hostname = \"{bad}\"")]);
    }
    write(world.config(), &good, 0o644);

    // The domain of signatures, and of rewritten senders.
    let domains = world.dir.path().join("domains");
    for bad in ["$mydomain", "-bad-.example", "example.org:587"] {
        write(
            domains.join(bad).join("domain.toml"),
            "mode = \"forward\"\nselectors = [\"rsa1\"]\n",
            0o644,
        );
        refused(bad, &[bad]);
        std::fs::remove_dir_all(domains.join(bad)).expect("removed");
    }

    // Its key.
    let key = world.dir.path().join("secrets/dkim/example.org/rsa1.pem");
    let kept = std::fs::read_to_string(&key).expect("key");
    write(key.clone(), &kept, 0o644);
    refused("a key that others can read", &["rsa1.pem", "0644"]);
    std::fs::remove_file(&key).expect("removed");
    refused("a key that is missing", &["rsa1.pem"]);
    write(key, &kept, 0o600);

    // The root's dot is no mistake, and never said.
    mx(&world, "box.example", &remote).await;
    let toml = good.replace("\"mx.example.org\"", "\"mx.example.org.\"");
    write(world.config(), &toml, 0o644);
    world.start().await;
    let port = world.daemon().port("mx/starttls");
    let mut client = Client::connect(port).await.expect("connect");
    let greeting = client.reply().await.expect("greeting").text;
    assert!(greeting.starts_with("220 mx.example.org "), "{greeting}");
    world.submit(USER, &["you@box.example"]).await;
    let came = arrived(&remote, 1).await;
    assert_eq!(came[0].hello, HOST);
    world.stop().await;
}
