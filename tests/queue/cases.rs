//! Reports of real users about other servers' queues and notices, as tests: the stimulus of each
//! case and the right behaviour. Named by the number of the case.

use chapar::config::Span;
use chapar::queue::{Attempt, Job, Outcome, Record};
use queue_schema::{Notify, Origin, Reply, Ret, Status};

use crate::support::*;

fn is_notice(job: &Job) -> bool {
    job.message.envelope.reverse_path.is_empty() && matches!(job.message.origin, Origin::Dsn { .. })
}

fn notice(job: &Job) -> String {
    assert!(is_notice(job), "a notice: {job:?}");
    text(job.content.as_ref().unwrap())
}

async fn say(world: &World, job: &Job, outcome: Outcome, reply: (u16, &str, &str), remote: &str) {
    let attempts = job.recipients.iter().map(|recipient| Attempt {
        recipient: *recipient,
        at: chapar::time::now(),
        outcome: outcome.clone(),
        reply: Reply {
            code: reply.0,
            enhanced: reply.1.into(),
            text: reply.2.into(),
            remote: remote.into(),
        },
        tls: String::new(),
        notifies: false,
    });
    let record = Record {
        message: job.message.clone(),
        attempts: attempts.collect(),
        synced: false,
    };
    world.handle().addr.send(record).await.unwrap();
}

#[actix::test]
async fn c051_a_failure_is_final_whatever_becomes_of_its_notice() {
    let mut world = World::start(|config| config.postmaster = "boss@example.com".into()).await;
    world.accept(&["gone@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    // The notice is refused; the postmaster is told once; that is refused as well.
    let first = world.job().await;
    notice(&first);
    world.report(&first, Outcome::Failed, 550).await;
    let second = world.job().await;
    let said = notice(&second);
    assert_eq!(
        second.message.envelope.recipients[0].address,
        "boss@example.com"
    );
    assert!(
        said.contains("\r\nSubject: A notice could not be delivered\r\n"),
        "{said}"
    );
    world.report(&second, Outcome::Failed, 550).await;
    world.until("nothing is left", |all| all.is_empty()).await;
    for _ in 0..3 {
        world.restart().await;
        world.no_job().await;
    }
    assert!(world.messages().await.is_empty());
    world.stop().await;
}

#[actix::test]
async fn c104_mail_that_can_not_be_delivered_expires_and_its_sender_is_told() {
    let mut world = World::start(|config| {
        config.retry.first = Span::millis(50);
        config.retry.longest = Span::millis(100);
        config.retry.give_up = Span::millis(2000);
        config.retry.warn_after = Span::NEVER;
    })
    .await;
    assert!(chapar::config::Retry::default().give_up >= Span::days(4));
    let refused = world.accept(&["refused@example.net"]).await;
    let busy = world.accept(&["busy@example.com"]).await;
    let null = world
        .accept_with(&["null@example.org"], |a| a.envelope.reverse_path.clear())
        .await;
    let mut notices = Vec::new();
    // The one whose sender is nobody may be the last to end.
    while notices.len() < 2 || !world.messages().await.is_empty() {
        let Ok(job) =
            tokio::time::timeout(std::time::Duration::from_millis(20), world.jobs.recv()).await
        else {
            continue;
        };
        let job = job.expect("a queue");
        match job.message.id {
            id if id == refused => {
                let remote = "mx.example.net[192.0.2.1]:25";
                let words = (451, "4.4.1", "no connection: refused");
                say(&world, &job, deferred(false), words, remote).await;
            }
            id if id == busy || id == null => {
                let words = (450, "4.2.1", "busy");
                say(
                    &world,
                    &job,
                    deferred(true),
                    words,
                    "mx.example.com[192.0.2.2]:25",
                )
                .await;
            }
            _ => {
                notices.push(notice(&job));
                world.report(&job, Outcome::Delivered, 250).await;
            }
        }
    }
    world.until("nothing is left", |all| all.is_empty()).await;
    notices.sort();
    let all = notices.join("\n");
    assert!(all.contains("Final-Recipient: rfc822; refused@example.net"));
    assert!(all.contains("Diagnostic-Code: smtp; 451 4.4.1 no connection: refused"));
    assert!(all.contains("Final-Recipient: rfc822; busy@example.com"));
    assert!(all.contains("Diagnostic-Code: smtp; 450 4.2.1 busy"));
    assert_eq!(all.matches("\r\nStatus: 4.4.7\r\n").count(), 2);
    assert!(!all.contains("null@example.org"));
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn c115_no_notice_about_a_notice() {
    let mut world = World::start(|config| config.retry.warn_after = Span::millis(1)).await;
    world.accept(&["x@dead.example"]).await;
    world
        .accept_with(&["y@dead.example"], |a| a.envelope.reverse_path.clear())
        .await;
    let mut notices = 0;
    for _ in 0..3 {
        let job = world.job().await;
        notices += usize::from(is_notice(&job));
        world.report(&job, Outcome::Failed, 550).await;
    }
    assert_eq!(notices, 1);
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    // Late mail of a null sender: nobody is told.
    world
        .accept_with(&["z@dead.example"], |a| a.envelope.reverse_path.clear())
        .await;
    for _ in 0..3 {
        let job = world.job().await;
        assert!(!is_notice(&job));
        world.report(&job, deferred(true), 450).await;
    }
    world.stop().await;
}

#[actix::test]
async fn c116_a_notice_has_a_null_sender_and_all_that_makes_it_acceptable() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let job = world.job().await;
    let said = notice(&job);
    assert_eq!(job.message.envelope.recipients.len(), 1);
    let head = said.split("\r\n\r\n").next().unwrap();
    for line in [
        "DKIM-Signature: d=example.org",
        "From: Mail delivery at example.org <MAILER-DAEMON@example.org>",
        "To: <a@example.org>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
    ] {
        assert!(head.split("\r\n").any(|own| own == line), "{line}: {head}");
    }
    assert!(head.contains("\r\nMessage-ID: <") && head.contains("\r\nDate: "));
    // Refused because of its null sender: it ends.
    world.report(&job, Outcome::Failed, 550).await;
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn c117_notify_is_obeyed() {
    let mut world = World::start(|_| {}).await;
    let to = [
        "a@example.net",
        "b@example.net",
        "c@example.net",
        "d@example.net",
    ];
    let ask = |success, failure, delay| Notify {
        success,
        failure,
        delay,
    };
    world
        .accept_with(&to, |accept| {
            let recipients = &mut accept.envelope.recipients;
            recipients[0].notify = ask(false, false, false);
            recipients[1].notify = ask(true, true, false);
            recipients[2].notify = ask(false, false, true);
        })
        .await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let said = notice(&world.job().await);
    for (address, named) in to.iter().zip([false, true, false, true]) {
        assert_eq!(said.contains(address), named, "{address}: {said}");
    }
    world.no_job().await;

    // Success: told by us where the next hop knows no DSN, by the next hop where it does.
    for notifies in [false, true] {
        world
            .accept_with(&["e@example.net"], |accept| {
                accept.envelope.recipients[0].notify = ask(true, true, false);
            })
            .await;
        let job = world.job().await;
        let attempt = Attempt {
            recipient: 0,
            at: chapar::time::now(),
            outcome: Outcome::Delivered,
            reply: Reply {
                code: 250,
                enhanced: "2.0.0".into(),
                text: "queued".into(),
                remote: "mx.example.net[192.0.2.1]:25".into(),
            },
            tls: String::new(),
            notifies,
        };
        let record = Record {
            message: job.message.clone(),
            attempts: vec![attempt],
            synced: false,
        };
        world.handle().addr.send(record).await.unwrap();
        if notifies {
            world.no_job().await;
        } else {
            let said = notice(&world.job().await);
            assert!(
                said.contains("\r\nAction: relayed\r\nStatus: 2.0.0\r\n"),
                "{said}"
            );
            assert!(said.contains("Content-Type: text/rfc822-headers"));
        }
    }
    world.stop().await;
}

#[actix::test]
async fn c118_a_notice_is_small_and_returns_headers_unless_asked() {
    let mut world = World::start(|_| {}).await;
    let variants = [
        (None, 100usize),
        (Some(Ret::Headers), 100),
        (Some(Ret::Full), 100),
        (Some(Ret::Full), 5 << 20),
        (None, 5 << 20),
    ];
    for (ret, size) in variants {
        world
            .accept_with(&["b@example.net"], |accept| {
                accept.envelope.ret = ret;
                let mut head = b"Subject: h\xe9\r\n--0020000000000.mx.example.org--\r\n".to_vec();
                if size > 1000 {
                    head.extend(b"X-Long: x\r\n".repeat(30_000));
                }
                head.extend_from_slice(b"\r\n");
                accept.content.head = head.into();
                let body = b"secret body ".repeat(size / 12 + 1);
                accept.content.body = chapar::message::Body::Memory(body.into());
            })
            .await;
        let job = world.job().await;
        world.report(&job, Outcome::Failed, 550).await;
        let job = world.job().await;
        assert!(is_notice(&job));
        let content = job.content.as_ref().unwrap();
        let chapar::message::Body::Memory(body) = &content.body else {
            panic!("in memory")
        };
        let whole = [&content.head[..], body].concat();
        assert!(whole.len() < 80 << 10, "{} bytes", whole.len());
        let said = String::from_utf8_lossy(&whole);
        let full = ret == Some(Ret::Full) && size < 1000;
        assert_eq!(said.contains("secret body"), full);
        let kind = if full {
            "message/rfc822"
        } else {
            "text/rfc822-headers"
        };
        assert!(
            said.contains(&format!("Content-Type: {kind}\r\n")),
            "{kind}"
        );
        let boundary = said
            .split("boundary=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(
            said.matches(&format!("\r\n--{boundary}\r\n")).count(),
            3,
            "three parts"
        );
        assert!(
            said.ends_with(&format!("\r\n--{boundary}--\r\n")),
            "and an end"
        );
        world.report(&job, Outcome::Delivered, 250).await;
    }
    world.stop().await;
}

#[actix::test]
async fn c120_who_fails_together_is_told_of_together_and_once() {
    let mut world = World::start(|config| config.retry.first = Span::millis(200)).await;
    let twenty: Vec<String> = (0..20).map(|n| format!("u{n}@example.net")).collect();
    let to: Vec<&str> = twenty.iter().map(String::as_str).collect();
    world.accept(&to).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let first = world.job().await;
    let said = notice(&first);
    assert_eq!(said.matches("\r\nFinal-Recipient: ").count(), 20);
    world.report(&first, Outcome::Delivered, 250).await;
    world.no_job().await;

    world
        .accept(&["a@example.net", "b@example.net", "late@example.net"])
        .await;
    let job = world.job().await;
    let (now, later): (Vec<u32>, Vec<u32>) = job.recipients.iter().partition(|at| **at < 2);
    world.report_of(&job, &later, deferred(true), 450).await;
    world.report_of(&job, &now, Outcome::Failed, 550).await;
    let mut named = Vec::new();
    for _ in 0..3 {
        let job = world.job().await;
        if is_notice(&job) {
            named.push(notice(&job).matches("\r\nFinal-Recipient: ").count());
        } else {
            assert_eq!(job.recipients, [2]);
            world.report(&job, Outcome::Failed, 550).await;
        }
    }
    named.sort_unstable();
    assert_eq!(named, [1, 2], "nobody is reported twice");
    world.stop().await;
}

#[actix::test]
async fn c121_a_notice_repeats_the_other_servers_words_in_full() {
    let mut world = World::start(|config| config.retry.give_up = Span::millis(1)).await;
    let blocked =
        "Service unavailable; Client host [192.0.2.1] blocked using LIST; see https://bl.example/x";
    let remote = "mx.example.net[192.0.2.7]:25";
    for (outcome, words, remote) in [
        (Outcome::Failed, (550, "5.7.1", blocked), remote),
        (
            Outcome::Failed,
            (554, "5.6.0", "no thanks, after the dot"),
            remote,
        ),
        (
            deferred(false),
            (
                451,
                "4.4.1",
                "mx.example.net[192.0.2.7]:25: connection refused",
            ),
            "",
        ),
        (
            deferred(true),
            (451, "4.7.5", "mx.example.net: the certificate is not valid"),
            "",
        ),
    ] {
        world.accept(&["b@example.net"]).await;
        // Until its time is over, which is at once or a millisecond later.
        let notice_job = loop {
            let job = world.job().await;
            if is_notice(&job) {
                break job;
            }
            say(&world, &job, outcome.clone(), words, remote).await;
        };
        let said = notice(&notice_job);
        let flat = said
            .replace("\r\n ", " ")
            .replace("    ", " ")
            .replace("\r\n", " ");
        let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
        let reply = format!("{} {} {}", words.0, words.1, words.2);
        assert_eq!(
            flat.matches(&reply).count(),
            2,
            "for people and for programs: {flat}"
        );
        assert!(said.contains("\r\nFinal-Recipient: rfc822; b@example.net\r\n"));
        assert!(said.contains("\r\nLast-Attempt-Date: "));
        if remote.is_empty() {
            assert!(said.contains("\r\nStatus: 4.4.7\r\n"));
        } else {
            assert!(said.contains("\r\nRemote-MTA: dns; mx.example.net\r\n"));
            assert!(said.contains("\r\nDiagnostic-Code: smtp; "));
            assert!(said.contains(&format!("\r\nStatus: {}\r\n", words.1)));
        }
        world.report(&notice_job, Outcome::Delivered, 250).await;
    }
    world.stop().await;
}

#[actix::test]
async fn c124_a_stranger_is_not_told_where_an_alias_leads() {
    let mut world = World::start(|_| {}).await;
    world
        .accept_with(&["Private@icloud.example"], |accept| {
            accept.origin = Origin::Outside {
                client: [192, 0, 2, 9].into(),
                verified: true,
            };
            accept.envelope.reverse_path = "stranger@example.com".into();
            accept.envelope.recipients[0].alias_of = Some("info@example.org".into());
        })
        .await;
    let job = world.job().await;
    let words = (550, "5.1.1", "<private@icloud.example> unknown");
    say(
        &world,
        &job,
        Outcome::Failed,
        words,
        "mx.icloud.example[192.0.2.7]:25",
    )
    .await;
    let said = notice(&world.job().await);
    assert!(!said.to_lowercase().contains("private@"), "{said}");
    assert!(said.contains("\r\nOriginal-Recipient: rfc822; info@example.org\r\n"));
    assert!(said.contains("\r\nFinal-Recipient: rfc822; info@example.org\r\n"));
    assert!(
        said.contains("550 5.1.1 <info@example.org> unknown"),
        "{said}"
    );
    world.stop().await;
    assert_eq!(job.message.states[0].status, Status::Waiting);
}
