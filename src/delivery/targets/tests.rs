//! Each local target, with real directories and programs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use queue_schema::{Envelope, Origin, QueueId};

use super::source::{PIECE, Source};
use super::*;
use crate::message::{Body, SpoolFile};
use crate::queue::Outcome;
use crate::queue::store::new_message;

fn message(address: &str, alias_of: Option<&str>) -> Message {
    let envelope = Envelope::new(
        "sender@example.org",
        vec![Recipient {
            alias_of: alias_of.map(str::to_owned),
            ..Recipient::new(address)
        }],
    );
    let origin = Origin::Network {
        client: [127, 0, 0, 1].into(),
    };
    new_message(QueueId(7), 5000, origin, envelope)
}

fn content(head: &str, body: &str) -> Content {
    Content {
        head: Bytes::from(head.to_owned()),
        body: Body::Memory(Bytes::from(body.to_owned())),
    }
}

async fn go(via: &str, message: &Message, content: &Content, patience: u64) -> Verdict {
    let errand = Errand {
        message,
        at: 0,
        recipient: &message.envelope.recipients[0],
        content,
        hostname: "mx.example.org",
        patience: Duration::from_secs(patience),
        hidden: Hidden::default(),
        repeated: true,
    };
    deliver(&Via::parse(via).expect(via), &errand).await
}

/// A message whose body lies in a file.
fn spooled(path: &Path, body: &[u8]) -> Content {
    std::fs::write(path, body).expect("written");
    Content {
        head: Bytes::from(HEAD),
        body: Body::Spool(SpoolFile {
            path: std::sync::Arc::new(path.to_owned()),
            len: body.len() as u64,
            crc: crc32c::crc32c(body),
        }),
    }
}

/// Long, and not the same anywhere.
fn long(lines: usize) -> String {
    (0..lines)
        .map(|line| format!("{line:07} {}\r\n", "x".repeat(line % 90)))
        .collect()
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name")
    };
    entries.map(name).collect()
}

const HEAD: &str = "Subject: x\r\n\r\n";

#[tokio::test]
async fn a_maildir_gets_the_message_once_and_for_its_owner_only() {
    let dir = tempfile::tempdir().expect("directory");
    let via = format!("maildir:{}/{{domain}}/{{local}}", dir.path().display());
    let message = message("Me@Example.com", None);
    let content = content(HEAD, "one\r\n.two\r\nthree");
    for _ in 0..2 {
        let verdict = go(&via, &message, &content, 5).await;
        assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    }
    let maildir = dir.path().join("example.com/me");
    assert_eq!(files(&maildir.join("tmp")), [""; 0]);
    let names = files(&maildir.join("new"));
    let [name] = &names[..] else {
        panic!("one file: {names:?}");
    };
    let stored = std::fs::read(maildir.join("new").join(name)).expect("read");
    let expected = "Return-Path: <sender@example.org>\nDelivered-To: Me@Example.com\n\
                    Subject: x\n\none\n.two\nthree";
    assert_eq!(String::from_utf8_lossy(&stored), expected);
    // Nor when a reader has marked it.
    let seen = maildir.join("cur").join(format!("{name}:2,S"));
    std::fs::rename(maildir.join("new").join(name), &seen).expect("moved");
    let verdict = go(&via, &message, &content, 5).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    assert_eq!(files(&maildir.join("new")), [""; 0]);
    std::fs::rename(&seen, maildir.join("new").join(name)).expect("moved");
    let unique = format!("5.Q{}R0.mx.example.org,S={}", message.id, stored.len());
    assert_eq!(name, &unique);
    for (path, mode) in [
        (maildir.join("new"), 0o700),
        (maildir.join("new").join(name), 0o600),
    ] {
        let found = std::fs::metadata(&path)
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
}

#[tokio::test]
async fn no_address_leaves_its_directory_or_passes_for_an_option() {
    let dir = tempfile::tempdir().expect("directory");
    let via = format!("maildir:{}/{{local}}", dir.path().display());
    for bad in [
        "../x@a.example",
        "a/b@a.example",
        ".@a.example",
        "@a.example",
    ] {
        let verdict = go(&via, &message(bad, None), &content(HEAD, ""), 5).await;
        assert_eq!(
            (verdict.outcome, verdict.reply.code),
            (Outcome::Failed, 553),
            "{bad}"
        );
    }
    assert_eq!(files(dir.path()), [""; 0]);
    let to = message("-rf@a.example", None);
    let verdict = go("pipe:/bin/echo {recipient}", &to, &content(HEAD, ""), 5).await;
    assert_eq!(verdict.reply.enhanced, "5.1.3");
    let verdict = go("pipe:/bin/echo to={recipient}", &to, &content(HEAD, ""), 5).await;
    assert_eq!(verdict.reply.text, "taken by echo: to=-rf@a.example");
}

#[tokio::test]
async fn a_directory_that_can_not_be_written_defers() {
    let message = message("a@b.example", None);
    let verdict = go("maildir:/proc/nowhere", &message, &content(HEAD, ""), 5).await;
    assert!(matches!(verdict.outcome, Outcome::Deferred { .. }));
    assert!(
        verdict
            .reply
            .text
            .starts_with("the mailbox can not be written: "),
        "{}",
        verdict.reply.text
    );
}

#[tokio::test]
async fn a_program_gets_the_message_and_no_shell_sees_its_arguments() {
    let dir = tempfile::tempdir().expect("directory");
    let out = dir.path().join("out");
    let script = dir.path().join("take");
    let text = format!(
        "#!/bin/sh\n{{ printf '%s|' \"$@\" \"$SENDER\" \"$RECIPIENT\" \"$LOCAL\" \"$DOMAIN\"; cat; }} >{}\n",
        out.display()
    );
    std::fs::write(&script, text).expect("a script");
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&script, mode).expect("mode");
    let via = format!("pipe:{} \"$(id) ; *\" {{domain}}", script.display());
    let message = message(&via, Some("list@example.com"));
    let verdict = go(&via, &message, &content(HEAD, "body\r\n"), 20).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    let expected = "$(id) ; *|example.com|sender@example.org|list@example.com|list|example.com|\
                    Return-Path: <sender@example.org>\nDelivered-To: list@example.com\n\
                    Subject: x\n\nbody\n";
    assert_eq!(std::fs::read_to_string(&out).expect("read"), expected);
}

#[tokio::test]
async fn exit_codes_are_those_of_sysexits() {
    let message = message("a@b.example", None);
    for (code, expected) in [
        ("0", "250 2.0.0"),
        ("65", "554 5.6.0"),
        ("67", "550 5.1.1"),
        ("68", "550 5.1.2"),
        ("69", "554 5.3.0"),
        ("77", "550 5.7.0"),
        ("71", "451 4.3.0"),
        ("74", "451 4.3.0"),
        ("75", "451 4.3.0"),
        ("78", "451 4.3.5"),
        ("64", "451 4.3.5"),
        ("1", "451 4.3.0"),
        ("255", "451 4.3.0"),
    ] {
        let via = format!("pipe:/bin/sh -c \"exit {code}\"");
        let verdict = go(&via, &message, &content(HEAD, ""), 20).await;
        let found = format!("{} {}", verdict.reply.code, verdict.reply.enhanced);
        assert_eq!(found, expected, "exit {code}");
        let kind = match verdict.outcome {
            Outcome::Delivered => 2,
            Outcome::Deferred { .. } | Outcome::Suspended { .. } => 4,
            Outcome::Failed | Outcome::Lost => 5,
        };
        assert_eq!(kind, verdict.reply.code / 100, "exit {code}");
    }
    let verdict = go(
        "pipe:/bin/sh -c \"kill -9 $$\"",
        &message,
        &content(HEAD, ""),
        20,
    )
    .await;
    assert_eq!(verdict.reply.text, "sh: was ended by a signal");
    let verdict = go("pipe:/no/such/program", &message, &content(HEAD, ""), 20).await;
    assert_eq!(verdict.reply.code, 451);
}

#[tokio::test]
async fn a_program_that_never_ends_is_killed_with_its_children() {
    let dir = tempfile::tempdir().expect("directory");
    let pid = dir.path().join("pid");
    let via = format!(
        "pipe:/bin/sh -c \"sleep 600 & echo $! >{}; wait\"",
        pid.display()
    );
    let verdict = go(&via, &message("a@b.example", None), &content(HEAD, ""), 1).await;
    assert_eq!(verdict.reply.text, "sh took longer than 1 s");
    let pid = std::fs::read_to_string(&pid).expect("a pid");
    let status = format!("/proc/{}/stat", pid.trim());
    for _ in 0..100 {
        // Gone, or dead and not yet collected by init.
        match std::fs::read_to_string(&status) {
            Ok(stat) if !stat.contains(") Z ") => {}
            _ => return,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the child of the program lives");
}

#[tokio::test]
async fn discard_takes_all_and_a_loop_is_seen() {
    let message = message("a@b.example", None);
    let verdict = go("discard:", &message, &content(HEAD, ""), 5).await;
    assert_eq!(verdict.outcome, Outcome::Delivered);
    let looped = content("Delivered-To: A@b.example\r\n\r\n", "");
    let verdict = go("discard:", &message, &looped, 5).await;
    assert_eq!(
        (verdict.outcome, verdict.reply.enhanced.as_str()),
        (Outcome::Failed, "5.4.6")
    );
}

#[tokio::test]
async fn a_large_message_passes_in_pieces_and_arrives_whole() {
    let dir = tempfile::tempdir().expect("directory");
    let text = long(200_000);
    assert!(text.len() > 100 * PIECE);
    let content = spooled(&dir.path().join("body"), text.as_bytes());
    let message = message("a@b.example", None);
    let errand = Errand {
        message: &message,
        at: 0,
        recipient: &message.envelope.recipients[0],
        content: &content,
        hostname: "mx.example.org",
        patience: Duration::from_secs(20),
        hidden: Hidden::default(),
        repeated: false,
    };
    let (mut source, mut piece, mut whole) = (Source::new(&errand), Vec::new(), Vec::new());
    while source.fill(&mut piece).expect("read") {
        assert!(piece.len() <= 2 * PIECE && piece.capacity() <= 4 * PIECE);
        whole.extend_from_slice(&piece);
    }
    let expected = format!(
        "Return-Path: <sender@example.org>\nDelivered-To: a@b.example\nSubject: x\n\n{}",
        text.replace("\r\n", "\n")
    );
    assert!(whole == expected.as_bytes());

    let via = format!("maildir:{}/box", dir.path().display());
    let verdict = go(&via, &message, &content, 20).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    let new = dir.path().join("box/new");
    let names = files(&new);
    assert_eq!(names.len(), 1);
    assert!(
        names[0].ends_with(&format!(",S={}", expected.len())),
        "{names:?}"
    );
    assert!(std::fs::read(new.join(&names[0])).expect("read") == expected.as_bytes());

    // A program that takes its time.
    let out = dir.path().join("out");
    let via = format!("pipe:/bin/sh -c \"sleep 0.2; cat >{}\"", out.display());
    let verdict = go(&via, &message, &content, 20).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    assert!(std::fs::read(out).expect("read") == expected.as_bytes());
    // One that wants none of it.
    let verdict = go("pipe:/bin/true", &message, &content, 20).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
}

#[tokio::test]
async fn a_damaged_message_reaches_no_mailbox_and_no_program_sees_its_end() {
    let dir = tempfile::tempdir().expect("directory");
    let message = message("a@b.example", None);
    let (body, done) = (dir.path().join("body"), dir.path().join("done"));
    let good = long(20_000);
    let maildir = format!("maildir:{}/box", dir.path().display());
    let pipe = format!(
        "pipe:/bin/sh -c \"cat >/dev/null; touch {}\"",
        done.display()
    );
    for damage in ["changed", "shorter", "longer", "gone"] {
        let content = spooled(&body, good.as_bytes());
        match damage {
            "changed" => std::fs::write(&body, good.replace("0000100", "0000101")),
            "shorter" => std::fs::write(&body, &good[..good.len() - 2]),
            "longer" => std::fs::write(&body, format!("{good}x")),
            _ => std::fs::remove_file(&body),
        }
        .expect(damage);
        for via in [&maildir, &pipe] {
            let verdict = go(via, &message, &content, 20).await;
            assert!(
                matches!(verdict.outcome, Outcome::Deferred { .. }),
                "{damage}"
            );
            assert_eq!(verdict.reply.code, 451, "{damage}");
            let text = verdict.reply.text;
            assert!(text.starts_with("the message can not be read: "), "{text}");
        }
        assert_eq!(files(&dir.path().join("box/new")), [""; 0], "{damage}");
        assert_eq!(files(&dir.path().join("box/tmp")), [""; 0], "{damage}");
        assert!(!done.exists(), "{damage}");
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_or_writes_holds_up_nobody() {
    let message = message("a@b.example", None);
    let begun = std::time::Instant::now();
    // Its child keeps its output open.
    let via = "pipe:/bin/sh -c \"sleep 600 & echo taken\"";
    let verdict = go(via, &message, &content(HEAD, ""), 60).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    assert_eq!(verdict.reply.text, "taken by sh: taken");
    // A megabyte of words is enough.
    let verdict = go("pipe:/usr/bin/yes", &message, &content(HEAD, ""), 60).await;
    assert!(matches!(verdict.outcome, Outcome::Deferred { .. }));
    assert!(verdict.reply.text.len() < 600, "{}", verdict.reply.text);
    let via = "pipe:/bin/sh -c \"head -c 900000 /dev/zero | tr '\\0' x; exit 0\"";
    let verdict = go(via, &message, &content(HEAD, ""), 60).await;
    assert_eq!(verdict.outcome, Outcome::Delivered, "{:?}", verdict.reply);
    assert!(verdict.reply.text.len() < 600);
    assert!(begun.elapsed() < Duration::from_secs(30));
}
