//! Mail for mailboxes, programs and wildcards of our own domains, and for domains that we only send
//! for.

use std::path::Path;

use chapar::lab::{Mx, MxConfig};

use crate::journey::{arrived, ip, mx};
use crate::world::{PATIENCE, USER, World, write};

const MESSAGE: &[u8] =
    b"From: Her <her@src.example>\r\nTo: me@example.org\r\nSubject: A letter\r\n\r\nHello.\r\n";

/// Files of a Maildir once there are `count`.
async fn kept(maildir: &Path, count: usize) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let files = std::fs::read_dir(maildir.join("new"));
        let texts: Vec<String> = files
            .into_iter()
            .flatten()
            .map(|file| std::fs::read_to_string(file.expect("entry").path()).expect("text"))
            .collect();
        if texts.len() >= count {
            return texts;
        }
        assert!(tokio::time::Instant::now() < deadline, "{maildir:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn send(world: &World, to: &[&str]) {
    let mut client = world.mx().await;
    let answer = client.send("her@src.example", to, MESSAGE).await;
    assert_eq!(answer.expect("an answer").code, 250);
}

/// A world whose domain has mailboxes; `aliases` beside them.
async fn world(mailbox: &str, aliases: &str) -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let world = World::new(remote.address().port(), "").await;
    mx(&world, "box.example", &remote).await;
    let domain = world.dir.path().join("domains/example.org");
    let mailbox = mailbox.replace("DIR", &world.dir.path().display().to_string());
    let text = format!("mode = \"mailbox\"\nmailbox = \"{mailbox}\"\nselectors = [\"ed1\"]\n");
    write(domain.join("domain.toml"), &text, 0o644);
    let aliases = aliases.replace("DIR", &world.dir.path().display().to_string());
    write(domain.join("aliases"), &aliases, 0o644);
    (world, remote)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_a_program_and_a_forward_each_get_their_copy() {
    let aliases = "info: me, i@box.example\nlist: | /bin/sh -c \"cat > DIR/out.$RECIPIENT\" , maildir:DIR/list/{local}\n\
                   gone: !reject Moved away, write to her\nsink: discard:\n";
    let (mut world, remote) = world("maildir:DIR/mail/{domain}/{local}", aliases).await;
    world.start().await;
    let dir = world.dir.path().to_owned();
    let mail = dir.join("mail/example.org/me");
    send(&world, &["Me+tag@example.org"]).await;
    let texts = kept(&mail, 1).await;
    let top = "Return-Path: <her@src.example>\nDelivered-To: me@example.org\n";
    assert!(texts[0].starts_with(top), "{}", texts[0]);
    assert!(texts[0].ends_with("Subject: A letter\n\nHello.\n"));
    assert!(
        !texts[0].contains("ARC-Seal"),
        "nothing is sealed that stays"
    );

    // Mailbox, remote address and several recipients at once: one copy each.
    send(&world, &["info@example.org", "me@example.org"]).await;
    kept(&mail, 2).await;
    let received = arrived(&remote, 1).await;
    assert_eq!(received[0].recipients, ["i@box.example"]);
    assert!(received[0].reverse_path.starts_with("SRS0="));

    send(
        &world,
        &["list@example.org", "list+b@example.org", "sink@example.org"],
    )
    .await;
    world
        .wait_queue("all is delivered", |queue| queue.is_empty())
        .await;
    assert_eq!(kept(&mail, 2).await.len(), 2);
    for name in ["list", "list+b"] {
        let out = std::fs::read_to_string(dir.join(format!("out.{name}@example.org")));
        let out = out.expect("the program ran");
        assert!(out.ends_with("\n\nHello.\n"), "{out}");
        kept(&dir.join("list").join(name), 1).await;
    }

    let mut client = world.mx().await;
    client
        .expect("MAIL FROM:<her@src.example>", 250)
        .await
        .expect("MAIL");
    let refused = client
        .command("RCPT TO:<gone@example.org>")
        .await
        .expect("an answer");
    assert!(
        refused.text.contains("550 5.1.1 Moved away, write to her"),
        "{refused:?}"
    );
    let unknown = client
        .command("RCPT TO:<nobody@example.org>")
        .await
        .expect("an answer");
    assert_eq!(unknown.code, 550);

    let (code, out, steps) = world.run(&["alias", "resolve", "list@example.org"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("pipe:/bin/sh -c "), "{out}");
    assert!(steps.contains("to the program /bin/sh -c"), "{steps}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_lmtp_each_mailbox_is_asked_for_by_its_address() {
    let lmtp = Mx::start(MxConfig {
        lmtp: true,
        ..MxConfig::default()
    })
    .await
    .expect("LMTP");
    let (mut world, _remote) = world(&format!("lmtp://{}", lmtp.address()), "info: me\n").await;
    world.start().await;
    send(&world, &["info@example.org"]).await;
    send(&world, &["me+tag@example.org"]).await;
    let received = arrived(&lmtp, 2).await;
    assert_eq!(received[0].recipients, ["me@example.org"]);
    assert_eq!(received[0].reverse_path, "her@src.example");
    assert_eq!(received[1].recipients, ["me+tag@example.org"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_program_is_told_under_the_alias_not_under_its_path() {
    let (mut world, remote) = world(
        "maildir:DIR/m/{local}",
        "p: | /bin/sh -c \"echo no >&2; exit 67\"\n",
    )
    .await;
    world.start().await;
    let mut client = world.user().await;
    client
        .send(USER, &["p@example.org"], &ours())
        .await
        .expect("taken");
    let mail = world.dir.path().join("m/me");
    let bounce = kept(&mail, 1).await.remove(0);
    assert!(
        bounce.contains("Final-Recipient: rfc822; p@example.org"),
        "{bounce}"
    );
    assert!(!bounce.contains("/bin/sh"), "{bounce}");
    assert!(remote.received().is_empty());
    world.stop().await;
}

/// The same message by our user.
fn ours() -> Vec<u8> {
    String::from_utf8_lossy(MESSAGE)
        .replace("her@src.example", USER)
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_to_a_send_only_domain_follows_its_mx_also_from_our_users_and_aliases() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    mx(&world, "out.example", &remote).await;
    world.dns.a("mx.out.example", ip(&remote));
    let domains = world.dir.path().join("domains");
    write(
        domains.join("out.example/domain.toml"),
        "mode = \"send-only\"\n",
        0o644,
    );
    write(
        domains.join("out.example/aliases"),
        "her: nobody@box.example\n",
        0o644,
    );
    write(
        domains.join("example.org/aliases"),
        "to: her@out.example\n",
        0o644,
    );
    write(
        domains.join("*.example.org/aliases"),
        "*: *@out.example\n",
        0o644,
    );
    world.start().await;
    let mut client = world.user().await;
    let message = ours();
    for to in ["her@out.example", "to@example.org"] {
        client.send(USER, &[to], &message).await.expect("taken");
    }
    send(&world, &["any@sub.example.org"]).await;
    let received = arrived(&remote, 3).await;
    let mut to: Vec<&str> = received.iter().map(|r| r.recipients[0].as_str()).collect();
    to.sort_unstable();
    assert_eq!(
        to,
        ["any@out.example", "her@out.example", "her@out.example"]
    );
    let mut outside = world.mx().await;
    outside
        .expect("MAIL FROM:<her@src.example>", 250)
        .await
        .expect("MAIL");
    let refused = outside
        .command("RCPT TO:<her@out.example>")
        .await
        .expect("an answer");
    assert_eq!(refused.code, 550);
    world.stop().await;
}
