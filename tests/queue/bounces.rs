//! Who is told what: invariants I2 and I11.

use std::sync::atomic::Ordering;

use chapar::queue::{Job, Outcome};
use queue_schema::{Origin, Status};

use crate::support::*;

fn is_notice(job: &Job) -> bool {
    job.message.envelope.reverse_path.is_empty() && matches!(job.message.origin, Origin::Dsn { .. })
}

#[actix::test]
async fn one_signed_notice_tells_of_all_that_failed_together() {
    let mut world = World::start(|_| {}).await;
    let id = world
        .accept_with(&["b@example.net", "c@example.net"], |accept| {
            accept.envelope.ret = Some(queue_schema::Ret::Full);
        })
        .await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let notice = world.job().await;
    assert!(is_notice(&notice));
    assert!(matches!(notice.message.origin, Origin::Dsn { about, .. } if about == id));
    assert_eq!(
        notice.message.envelope.recipients[0].address,
        "a@example.org"
    );
    let text = text(notice.content.as_ref().unwrap());
    assert!(
        text.starts_with("DKIM-Signature: d=example.org\r\nDate: "),
        "{text}"
    );
    assert!(
        text.contains("rfc822; b@example.net\r\n") && text.contains("rfc822; c@example.net\r\n")
    );
    assert!(text.contains("\r\nDiagnostic-Code: smtp; 550 said 550\r\n"));
    assert!(
        text.contains("\r\nSubject: hello\r\n\r\nthe body\r\n"),
        "the original comes back"
    );
    world
        .until("only the notice is left", |all| {
            all.len() == 1 && all[0].id == notice.message.id
        })
        .await;
    // A notice that fails ends.
    world.report(&notice, Outcome::Failed, 550).await;
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn i11_nobody_is_told_who_does_not_deserve_it() {
    let mut world = World::start(|_| {}).await;
    let client = [192, 0, 2, 9].into();
    world
        .accept_with(&["b@example.net"], |a| a.envelope.reverse_path.clear())
        .await;
    let forged = Origin::Outside {
        client,
        verified: false,
    };
    world
        .accept_with(&["b@example.net"], |a| a.origin = forged)
        .await;
    world
        .accept_with(&["b@example.net"], |a| {
            a.envelope.recipients[0].notify.failure = false
        })
        .await;
    for _ in 0..3 {
        let job = world.job().await;
        world.report(&job, Outcome::Failed, 550).await;
    }
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;

    let verified = Origin::Outside {
        client,
        verified: true,
    };
    world
        .accept_with(&["b@example.net"], |a| a.origin = verified)
        .await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    assert!(is_notice(&world.job().await));
    world.stop().await;
}

#[actix::test]
async fn a_notice_that_can_not_be_signed_loses_nothing() {
    let mut world = World::start(|_| {}).await;
    world.fail_signing.store(true, Ordering::SeqCst);
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    world
        .until("it is deferred for our own reason", |all| {
            let state = &all[0].states[0];
            let reply = state.last_reply.as_ref();
            state.status == Status::Waiting
                && reply.is_some_and(|reply| {
                    reply.code == 451 && reply.remote.is_empty() && reply.text.contains("550 said")
                })
        })
        .await;
    world.fail_signing.store(false, Ordering::SeqCst);
    let job = world.job().await;
    assert!(!is_notice(&job));
    world.report(&job, Outcome::Failed, 550).await;
    assert!(is_notice(&world.job().await));
    world
        .until("only the notice is left", |all| all.len() == 1)
        .await;
    world.stop().await;
}

#[actix::test]
async fn i5_what_could_not_be_delivered_in_time_comes_back() {
    let mut world = World::start(|config| config.retry.give_up = "300ms".parse().unwrap()).await;
    world.accept(&["b@example.net"]).await;
    let mut attempts = 0;
    let notice = loop {
        let job = world.job().await;
        if is_notice(&job) {
            break job;
        }
        attempts += 1;
        world.report(&job, deferred(false), 421).await;
    };
    assert!((2..10).contains(&attempts), "{attempts} attempts");
    let text = text(notice.content.as_ref().unwrap());
    assert!(text.contains("\r\nAction: failed\r\nStatus: 4.4.7\r\n"));
    world.stop().await;
}

#[actix::test]
async fn lateness_is_told_once() {
    let mut world = World::start(|config| config.retry.warn_after = "0s".parse().unwrap()).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    let (mut notices, mut retries) = (0, 0);
    while retries < 2 {
        let job = world.job().await;
        if is_notice(&job) {
            assert!(text(job.content.as_ref().unwrap()).contains("\r\nAction: delayed\r\n"));
            world.report(&job, Outcome::Delivered, 250).await;
            notices += 1;
        } else {
            retries += 1;
            assert!(job.message.states[0].warned);
            world.report(&job, deferred(true), 450).await;
        }
    }
    assert_eq!(notices, 1);
    world.stop().await;
}

#[actix::test]
async fn a_notice_follows_the_aliases_of_its_recipient() {
    let mut world = World::start(|_| {}).await;
    let targets = vec!["x@example.com".to_owned(), "y@example.com".to_owned()];
    world
        .leads
        .lock()
        .unwrap()
        .push(("a@example.org".into(), targets));
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let notice = world.job().await;
    let to: Vec<_> = notice
        .message
        .envelope
        .recipients
        .iter()
        .map(|r| &r.address)
        .collect();
    assert_eq!(to, ["x@example.com", "y@example.com"]);
    assert!(text(notice.content.as_ref().unwrap()).contains("\r\nTo: <a@example.org>\r\n"));
    world.report(&notice, Outcome::Delivered, 250).await;

    world.leads.lock().unwrap()[0].1.clear();
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    world
        .until("it ends although nobody could be told", |all| {
            all.is_empty()
        })
        .await;
    world.stop().await;
}

#[actix::test]
async fn a_notice_is_sent_even_if_the_message_can_not_be_read_any_more() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    let segment = std::fs::read_dir(world.data("journal"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let bytes = std::fs::read(&segment).unwrap();
    let at = memchr::memmem::find(&bytes, b"the body").unwrap();
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .unwrap();
    file.write_all_at(b"THE", at as u64).unwrap();
    world.report(&job, Outcome::Failed, 550).await;
    let notice = world.job().await;
    assert!(is_notice(&notice));
    assert!(!text(notice.content.as_ref().unwrap()).contains("body\r\n"));
    world.stop().await;
}
