//! The queue actor between a scripted dispatcher and a scripted signer, on a real store.

mod bounces;
mod cases;
mod clock;
mod ends;
mod fair;
mod held;
mod lanes;
mod lost;
mod moves;
mod peer_faults;
mod room;
mod steering;
mod support;
mod tool;
mod transfer;
mod verbs;
mod views;

use std::time::Duration;

use chapar::message::Body;
use chapar::queue::{AcceptError, Fetch, Outcome};
use queue_schema::{QueueId, Status};
use support::*;

#[actix::test]
async fn a_message_goes_out_from_memory_and_is_gone_after_delivery() {
    let mut world = World::start(|_| {}).await;
    let id = world.accept(&["b@example.net", "c@example.net"]).await;
    let job = world.job().await;
    assert_eq!((job.message.id, &job.recipients[..]), (id, &[0, 1][..]));
    assert_eq!(
        text(job.content.as_ref().unwrap()),
        "Subject: hello\r\n\r\nthe body\r\n"
    );
    world.report_of(&job, &[1], Outcome::Delivered, 250).await;
    world
        .until("the first outcome is on disk", |all| {
            all.len() == 1 && all[0].states[1].status == Status::Delivered
        })
        .await;
    world.report_of(&job, &[0], Outcome::Delivered, 250).await;
    world
        .until("the message is gone", |all| all.is_empty())
        .await;
    world.restart().await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn i4_a_deferred_recipient_alone_is_tried_again_also_after_a_restart() {
    let mut world = World::start(|config| config.retry.first = "700ms".parse().unwrap()).await;
    let id = world.accept(&["b@example.net", "c@example.net"]).await;
    let job = world.job().await;
    world.report_of(&job, &[0], Outcome::Delivered, 250).await;
    world.report_of(&job, &[1], deferred(true), 450).await;
    world
        .until("both outcomes are on disk", |all| {
            all[0].states[1].attempts == 1
        })
        .await;
    let due = world.messages().await[0].states[1].next_due;
    world.restart().await;
    let job = world.job().await;
    assert!(chapar::time::now() >= due, "not before it is due");
    assert_eq!((job.message.id, &job.recipients[..]), (id, &[1][..]));
    let state = &job.message.states[1];
    assert_eq!(
        state.last_reply.as_ref().unwrap().to_string(),
        "450 said 450"
    );
    assert!(job.content.is_none(), "its bytes are on disk only");
    let fetch = Fetch {
        id,
        location: job.message.location.clone(),
    };
    let content = world.handle().addr.send(fetch).await.unwrap().unwrap();
    assert_eq!(text(&content), "Subject: hello\r\n\r\nthe body\r\n");
    world.report(&job, Outcome::Delivered, 250).await;
    world.until("it is gone", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn backoff_grows_with_attempts_that_count_only() {
    let mut world = World::start(|config| config.retry.first = "20ms".parse().unwrap()).await;
    world.accept(&["b@example.net"]).await;
    for (counts, attempts) in [(true, 1), (false, 1), (false, 1), (true, 2)] {
        let job = world.job().await;
        world.report(&job, deferred(counts), 421).await;
        world
            .until("it is on disk", |all| all[0].states[0].attempts == attempts)
            .await;
    }
    world.stop().await;
}

#[actix::test]
async fn recipients_of_one_message_are_tried_apart_when_they_are_due_apart() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net", "c@example.com"]).await;
    let first = world.job().await;
    world.report_of(&first, &[0], deferred(true), 450).await;
    // The other one is still under way.
    let second = world.job().await;
    assert_eq!(second.recipients, [0]);
    world.report(&second, Outcome::Delivered, 250).await;
    world.report_of(&first, &[1], Outcome::Delivered, 250).await;
    world.until("it is gone", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn an_outcome_counts_once() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net", "c@example.net"]).await;
    let job = world.job().await;
    world.report_of(&job, &[0], Outcome::Delivered, 250).await;
    world.report_of(&job, &[0, 7], Outcome::Failed, 550).await;
    world.report_of(&job, &[1], Outcome::Delivered, 250).await;
    world.until("it is gone", |all| all.is_empty()).await;
    world.report(&job, Outcome::Failed, 550).await;
    world.no_job().await;
    assert!(
        world.messages().await.is_empty(),
        "no bounce for what was delivered"
    );
    world.stop().await;
}

#[actix::test]
async fn outcomes_that_come_together_share_syncs() {
    let mut world = World::start(|_| {}).await;
    let mut jobs = Vec::new();
    for _ in 0..100 {
        world.accept(&["b@example.net"]).await;
        jobs.push(world.job().await);
    }
    let before = world.handle().view.stats().syncs;
    let reports = jobs
        .iter()
        .map(|job| world.report(job, Outcome::Delivered, 250));
    futures_util::future::join_all(reports).await;
    world.until("they are gone", |all| all.is_empty()).await;
    let syncs = world.handle().view.stats().syncs - before;
    assert!((1..=40).contains(&syncs), "{syncs} syncs for 100 outcomes");
    world.stop().await;
}

#[actix::test]
async fn beyond_the_budget_bytes_are_read_back() {
    let mut world = World::start(|config| {
        config.limits.memory_bodies = chapar::config::Size(30);
    })
    .await;
    world.accept(&["b@example.net"]).await;
    let first = world.job().await;
    assert!(first.content.is_some(), "28 bytes fit");
    world.accept(&["c@example.net"]).await;
    let second = world.job().await;
    assert!(second.content.is_none(), "not twice");
    drop(first);
    world.accept(&["d@example.net"]).await;
    assert!(world.job().await.content.is_some(), "they came back");
    world.stop().await;
}

#[actix::test]
async fn only_so_many_messages_are_on_their_way_at_once() {
    let mut world = World::start(|config| config.delivery.active = 2).await;
    for _ in 0..5 {
        world.accept(&["b@example.net"]).await;
    }
    let first = world.job().await;
    let second = world.job().await;
    world.no_job().await;
    for job in [first, second] {
        world.report(&job, Outcome::Delivered, 250).await;
        let next = world.job().await;
        world.report(&next, Outcome::Delivered, 250).await;
    }
    let last = world.job().await;
    world.report(&last, Outcome::Delivered, 250).await;
    world.until("all are gone", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn new_mail_and_backlog_take_turns() {
    let mut world = World::new(|config| {
        config.delivery.active = 1;
        config.limits.memory_bodies = chapar::config::Size(28 * 4);
    });
    world.open().await;
    // Four fit into memory, the others are backlog from the beginning.
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(world.accept(&["b@example.net"]).await);
    }
    world.connect().await;
    let mut backlog = Vec::new();
    for _ in 0..8 {
        let job = world.job().await;
        backlog.push(job.content.is_none());
        world.report(&job, Outcome::Delivered, 250).await;
    }
    assert_eq!(backlog.iter().filter(|is| **is).count(), 4);
    let first_four = backlog[..5].iter().filter(|is| **is).count();
    assert!(
        (1..=3).contains(&first_four),
        "neither starves: {backlog:?}"
    );
    world.stop().await;
}

#[actix::test]
async fn a_dispatcher_that_is_gone_costs_nothing() {
    let mut world = World::new(|_| {});
    world.open().await;
    let id = world.accept(&["b@example.net"]).await;
    let gone = {
        let dispatcher = Dispatcher(world.sender.clone());
        let arbiter = actix::Arbiter::new();
        let addr = actix::Actor::start_in_arbiter(&arbiter.handle(), |_| dispatcher);
        arbiter.stop();
        addr
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let connect = chapar::queue::Connect(gone.recipient());
    world.handle().addr.send(connect).await.unwrap();
    world.no_job().await;
    world.connect().await;
    let job = world.job().await;
    assert_eq!((job.message.id, &job.recipients[..]), (id, &[0][..]));
    world.stop().await;
}

#[actix::test]
async fn after_stop_nothing_is_accepted_and_what_was_reported_is_kept() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Delivered, 250).await;
    let handle = world.handle().clone();
    world.stop().await;
    let accept = chapar::queue::Accept {
        id: QueueId(1),
        arrived: 0,
        origin: job.message.origin.clone(),
        envelope: job.message.envelope.clone(),
        content: job.content.clone().unwrap(),
        held: Vec::new(),
    };
    assert_eq!(
        handle.addr.send(accept).await.unwrap(),
        Err(AcceptError::Draining)
    );
    world.open().await;
    assert!(world.messages().await.is_empty());
    world.stop().await;
}

#[actix::test]
async fn i7_a_full_disk_is_told_and_the_spool_file_goes() {
    let mut world = World::new(|config| config.limits.free_space = chapar::config::Size(u64::MAX));
    world.open().await;
    let (spool, id) = (world.handle().spool.clone(), world.handle().ids.issue());
    let file = tokio::task::spawn_blocking(move || {
        let mut writer = spool.begin(id).unwrap();
        writer.write(b"large").unwrap();
        writer.finish().unwrap()
    })
    .await
    .unwrap();
    let accept = chapar::queue::Accept {
        id,
        arrived: 0,
        origin: queue_schema::Origin::Network {
            client: [127, 0, 0, 1].into(),
        },
        envelope: queue_schema::Envelope::new("", vec![recipient("b@example.net")]),
        content: chapar::message::Content {
            head: bytes::Bytes::new(),
            body: Body::Spool(file.clone()),
        },
        held: Vec::new(),
    };
    let refused = world.handle().addr.send(accept).await.unwrap();
    assert_eq!(refused, Err(AcceptError::DiskFull));
    assert!(!file.path.exists());
    world.stop().await;
}
