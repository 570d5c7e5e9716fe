//! Mail that passes a scripted milter and a post-data hook.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use chapar::lab::{Mx, MxConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::journey::{arrived, body, head, mx};
use crate::world::{PATIENCE, USER, World, write};

const MESSAGE: &[u8] =
    b"From: Her <her@src.example>\r\nTo: i@example.org\r\nSubject: A letter\r\n folded\r\n\
    X-Old: 1\r\nX-Old: 2\r\n\r\nHello.\r\n";

/// A milter that does what the local part of the reverse-path says.
struct Scripted {
    address: String,
    heard: Arc<watch::Sender<Vec<String>>>,
}

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).expect("small");
    [&length.to_be_bytes()[..], &[command], data].concat()
}

fn numbered(index: u32, text: &str) -> Vec<u8> {
    [&index.to_be_bytes()[..], text.as_bytes()].concat()
}

/// What the milter answers to `command` of a message from `who`.
fn answers(command: u8, who: &str, data: &[u8]) -> Vec<Vec<u8>> {
    let go = packet(b'c', b"");
    match (command, who) {
        (b'M', "rejectmail") => vec![packet(b'r', b"")],
        (b'M', "accept") => vec![packet(b'a', b"")],
        (b'R', "somercpt") if data.starts_with(b"<no@") => {
            vec![packet(b'y', b"550 5.1.1 Not this one\0")]
        }
        (b'R', "breaks") if data.starts_with(b"<first@") => vec![Vec::new()],
        (b'E', "spam") => vec![packet(b'y', b"554 5.7.1 Spam message rejected\0")],
        (b'E', "later") => vec![packet(b't', b"")],
        (b'E', "discard") => vec![packet(b'd', b"")],
        (b'E', "progress") => vec![packet(b'p', b""), packet(b'p', b""), go],
        (b'E', "quarantine") => vec![packet(b'q', b"looks odd\0"), go],
        (b'E', "tagged") => vec![packet(b'h', b"X-Spam\0Yes\0"), go],
        (b'E', "body") => vec![packet(b'b', b"other\n"), packet(b'b', b"body\r\n"), go],
        (b'E', "rcpt") => vec![packet(b'+', b"<x@y.example>\0"), go],
        (b'E', "nonsense") => vec![packet(b'Z', b"")],
        (b'E', "silent") => vec![],
        (b'E', "edit") => vec![
            packet(b'h', b"X-Added\0one\n\ttwo\0"),
            packet(b'i', &numbered(0, "X-Top\0top\0")),
            packet(b'm', &numbered(2, "X-Old\0changed\0")),
            packet(b'm', &numbered(1, "X-Old\0\0")),
            go,
        ],
        (b'E', "close") => vec![Vec::new()],
        (b'D' | b'Q', _) => vec![],
        _ => vec![go],
    }
}

async fn serve(mut stream: TcpStream, heard: Arc<watch::Sender<Vec<String>>>) {
    let mut who = String::new();
    loop {
        let Ok(length) = stream.read_u32().await else {
            return;
        };
        let mut data = vec![0; usize::try_from(length).expect("length")];
        if stream.read_exact(&mut data).await.is_err() {
            return;
        }
        let command = data.remove(0);
        let text: String = String::from_utf8_lossy(&data).replace('\0', "|");
        if command == b'M' {
            who = text
                .trim_start_matches('<')
                .split('@')
                .next()
                .unwrap_or_default()
                .to_owned();
        }
        let name = char::from(command);
        heard.send_modify(|lines| lines.push(format!("{name} {text}")));
        let out = match command {
            b'O' => vec![packet(b'O', &[0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0, 0, 0])],
            _ => answers(command, &who, &data),
        };
        for packet in out {
            if packet.is_empty() || stream.write_all(&packet).await.is_err() {
                return;
            }
        }
    }
}

impl Scripted {
    async fn start() -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = format!("inet:{}", listener.local_addr().expect("address"));
        let heard = Arc::new(watch::Sender::new(Vec::new()));
        let kept = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone()));
            }
        });
        Scripted { address, heard }
    }

    /// What it heard up to now.
    fn heard(&self) -> Vec<String> {
        self.heard.send_replace(Vec::new())
    }

    /// What it heard up to the end of a connection, which the client does not wait for.
    async fn heard_all(&self) -> Vec<String> {
        let mut lines = self.heard.subscribe();
        let ended = lines.wait_for(|lines| lines.last().is_some_and(|line| line == "Q "));
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        drop(ended.expect("an end in time").expect("a milter"));
        self.heard()
    }
}

/// A world whose listeners ask `milter`, and where its mail goes.
async fn world(milter: &str, config: &str) -> (World, Mx) {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    let file = world.config();
    let text = std::fs::read_to_string(&file).expect("configuration");
    let with = format!("milters = [\"{milter}\"]\ntls = ");
    write(file, &text.replace("tls = ", &with), 0o644);
    world.start().await;
    (world, remote)
}

/// The reply to a message from `who`.
async fn send(world: &World, who: &str) -> String {
    let from = format!("{who}@src.example");
    let mut client = world.mx().await;
    let answer = client.send(&from, &["i@example.org"], MESSAGE).await;
    answer.expect("reply").text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_milter_hears_all_and_refuses_edits_keeps_and_discards() {
    let milter = Scripted::start().await;
    let (world, remote) = world(&milter.address, "[forwarding]\nsuspect = \"tag\"\n").await;

    assert!(send(&world, "edit").await.starts_with("250 "));
    let heard = milter.heard_all().await;
    let without_ids: Vec<&str> = heard
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("D "))
        .collect();
    let port = without_ids.get(1).expect("connect");
    assert!(port.starts_with("C localhost|4"), "{port}");
    assert!(port.ends_with("127.0.0.1|"), "{port}");
    assert_eq!(
        without_ids.get(2..).expect("the rest"),
        [
            "H client.example.net|",
            "M <edit@src.example>|",
            "R <i@example.org>|",
            "T ",
            "L From|Her <her@src.example>|",
            "L To|i@example.org|",
            "L Subject|A letter\n folded|",
            "L X-Old|1|",
            "L X-Old|2|",
            "N ",
            "B Hello.\r\n",
            "E ",
            "Q ",
        ]
    );
    assert!(
        heard
            .iter()
            .any(|line| line.starts_with("D Cj|mx.example.org|"))
    );
    assert!(heard.iter().any(|line| line.starts_with("D Ei|")));
    let taken = arrived(&remote, 1).await;
    let first = &taken.first().expect("one").data;
    let top = head(first);
    assert!(
        top.ends_with(
            "X-Top: top\r\nFrom: Her <her@src.example>\r\nTo: i@example.org\r\n\
             Subject: A letter\r\n folded\r\nX-Old: changed\r\nX-Added: one\r\n\ttwo\r\n\r\n"
        ),
        "{top}"
    );
    assert_eq!(body(first), b"Hello.\r\n");

    for (who, reply) in [
        ("spam", "554 5.7.1 Spam message rejected"),
        ("later", "451 4.7.1 Not now"),
        ("body", "451 4.7.1 A filter"),
        ("rcpt", "451 4.7.1 A filter"),
        ("nonsense", "451 4.7.1 A filter"),
        ("close", "451 4.7.1 A filter"),
        ("discard", "250 "),
        ("progress", "250 "),
        ("accept", "250 "),
        ("tagged", "250 "),
        ("quarantine", "250 "),
    ] {
        let answer = send(&world, who).await;
        assert!(answer.starts_with(reply), "{who}: {answer}");
    }
    let taken = arrived(&remote, 4).await;
    assert!(
        taken
            .iter()
            .any(|message| head(&message.data).contains("\r\nX-Spam: Yes\r\n"))
    );

    // What is quarantined waits for an operator.
    let queue = world
        .wait_queue("one is held", |queue| queue.len() == 1)
        .await;
    let held = queue.first().expect("one");
    assert_eq!(held["state"], "held");
    assert_eq!(held["from"], "quarantine@src.example");
    let id = held["id"].as_str().expect("id");
    assert_eq!(world.run(&["queue", "release", id]).0, 0);
    arrived(&remote, 5).await;

    let mut client = world.mx().await;
    let refused = client
        .expect("MAIL FROM:<rejectmail@src.example>", 550)
        .await
        .expect("reply");
    assert!(refused.text.starts_with("550 5.7.1 "), "{}", refused.text);
    client
        .expect("MAIL FROM:<somercpt@src.example>", 250)
        .await
        .expect("reply");
    let refused = client
        .expect("RCPT TO:<no@example.org>", 550)
        .await
        .expect("reply");
    assert_eq!(refused.text.trim_end(), "550 5.1.1 Not this one");
    client
        .expect("RCPT TO:<yes@example.org>", 250)
        .await
        .expect("reply");

    // Users' mail is signed after the milter changed it.
    let mut user = world.user().await;
    let message = b"From: me@example.org\r\nTo: you@box.example\r\nSubject: s\r\n\r\nHello.\r\n";
    let sent = user.send(USER, &["you@box.example"], message).await;
    assert_eq!(sent.expect("reply").code, 250);
    assert!(
        milter
            .heard()
            .iter()
            .any(|line| line.contains("{auth_authen}|me@example.org|"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_milters_reject_is_kept_or_tagged_and_who_fails_is_passed_if_so_configured() {
    let milter = Scripted::start().await;
    let config = "[forwarding]\nsuspect = \"tag\"\n[milter]\nfailure = \"accept\"\nrejected = \"hold\"\ntagged = \"refuse\"\n\
                  changes = \"all\"\nreply = \"300ms\"\n";
    let (mut first, remote) = world(&milter.address, config).await;
    assert!(send(&first, "spam").await.starts_with("250 "));
    let queue = first.queue();
    assert_eq!(queue.first().expect("one")["state"], "held");
    assert!(send(&first, "tagged").await.starts_with("550 5.7.1 "));
    assert!(send(&first, "silent").await.starts_with("250 "));
    assert!(send(&first, "nonsense").await.starts_with("250 "));
    assert!(send(&first, "body").await.starts_with("250 "));
    let taken = arrived(&remote, 3).await;
    let changed = taken.last().expect("three");
    assert_eq!(body(&changed.data), b"other\r\nbody\r\n");
    assert_eq!(first.stop().await, Some(0));

    let text = std::fs::read_to_string(first.config()).expect("configuration");
    let text = text.replace("rejected = \"hold\"", "rejected = \"tag\"");
    write(first.config(), &text, 0o644);
    first.start().await;
    assert!(send(&first, "spam").await.starts_with("250 "));
    let taken = arrived(&remote, 4).await;
    let tagged = head(&taken.last().expect("four").data);
    assert!(
        tagged.ends_with("X-Old: 2\r\nX-Spam: Yes\r\n\r\n"),
        "{tagged}"
    );
    first.kill();

    // Nobody listens there: mail waits, by default.
    let (second, _remote) = world("unix:/nonexistent/milter.sock", "").await;
    let mut client = second.mx().await;
    let deferred = client
        .command("MAIL FROM:<a@src.example>")
        .await
        .expect("reply");
    assert!(deferred.text.starts_with("451 4.7.1 "), "{}", deferred.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_post_data_hook_of_chasquid_works() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let config = "[hooks]\npost_data = \"hooks/post-data\"\n";
    let mut world = World::new(remote.address().port(), config).await;
    mx(&world, "box.example", &remote).await;
    let path = world.dir.path().join("hooks/post-data");
    let script = "#!/bin/sh\nif grep -q EICAR; then echo 'A virus'; exit 20; fi\n\
                  [ \"$MAIL_FROM\" = later@src.example ] && exit 1\n\
                  echo \"X-Hook: $REMOTE_ADDR $EHLO_DOMAIN $RCPT_TO $AUTH_AS\"\n";
    write(path.clone(), script, 0o755);
    let mode = std::fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    world.start().await;

    assert!(send(&world, "her").await.starts_with("250 "));
    assert!(send(&world, "later").await.starts_with("451 4.7.1 "));
    let mut client = world.mx().await;
    let virus = [MESSAGE, b"EICAR\r\n"].concat();
    let refused = client
        .send("her@src.example", &["i@example.org"], &virus)
        .await;
    assert_eq!(refused.expect("reply").text.trim_end(), "554 5.7.1 A virus");
    let mut user = world.user().await;
    let message = b"From: me@example.org\r\nTo: you@box.example\r\nSubject: s\r\n\r\nHello.\r\n";
    let sent = user.send(USER, &["you@box.example"], message).await;
    assert_eq!(sent.expect("reply").code, 250);
    let taken = arrived(&remote, 2).await;
    let heads: Vec<String> = taken.iter().map(|message| head(&message.data)).collect();
    let has = |text: &str| heads.iter().any(|head| head.contains(text));
    assert!(
        has("\r\nX-Hook: 127.0.0.1 client.example.net i@example.org \r\nFrom: "),
        "{heads:?}"
    );
    assert!(has(
        "\r\nX-Hook: 127.0.0.1 client.example.org you@box.example me@example.org\r\n"
    ));
}

/// What one milter says about a recipient takes the message from no other.
#[tokio::test(flavor = "multi_thread")]
async fn s3_no_client_switches_a_filter_off() {
    let (first, second) = (Scripted::start().await, Scripted::start().await);
    let both = format!("{}\", \"{}", first.address, second.address);
    let (mut world, remote) = world(&both, "").await;
    let mut client = world.mx().await;
    for (line, code) in [
        ("MAIL FROM:<somercpt@src.example>", 250),
        ("RCPT TO:<no@example.org>", 550),
        ("RCPT TO:<i@example.org>", 250),
        ("DATA", 354),
    ] {
        client.expect(line, code).await.expect(line);
    }
    client.write(MESSAGE).await.expect("written");
    client.write(b".\r\n").await.expect("written");
    assert_eq!(client.reply().await.expect("a reply").code, 250);
    arrived(&remote, 1).await;
    for milter in [&first, &second] {
        let heard = milter.heard_all().await;
        for line in ["R <i@example.org>|", "B Hello.\r\n", "E "] {
            assert!(
                heard.iter().any(|heard| heard == line),
                "{line}: {heard:#?}"
            );
        }
    }
    // One that breaks has not seen all of the transaction: nothing of it is taken.
    let mut client = world.mx().await;
    for (line, code) in [
        ("MAIL FROM:<breaks@src.example>", 250),
        ("RCPT TO:<i@example.org>", 250),
        ("RCPT TO:<first@example.org>", 451),
        ("RCPT TO:<second@example.org>", 451),
        ("DATA", 354),
    ] {
        client.expect(line, code).await.expect(line);
    }
    client.write(MESSAGE).await.expect("written");
    client.write(b".\r\n").await.expect("written");
    assert_eq!(client.reply().await.expect("a reply").code, 451);
    world.stop().await;
}

/// S21: what a filter tagged does not leave for another provider.
#[tokio::test(flavor = "multi_thread")]
async fn s21_what_a_filter_tagged_is_not_forwarded() {
    let milter = Scripted::start().await;
    let (mut world, _remote) = world(&milter.address, "").await;
    assert!(
        send(&world, "tagged")
            .await
            .starts_with("550 5.7.1 This address is forwarded")
    );
    world.stop().await;
}
