//! Faults of other servers' queues, by their numbers in the list of faults they were taken from:
//! each is the right behaviour. Those of the disk are in `it::disk` (6) and `store::damage` (21).

use std::time::Duration;

use chapar::config::Span;
use chapar::queue::{AcceptError, Job, Outcome};
use queue_schema::{Origin, Status};

use crate::support::*;
use crate::tool::words;

fn is_notice(job: &Job) -> bool {
    matches!(job.message.origin, Origin::Dsn { .. })
}

fn after(wait: Duration) -> Outcome {
    Outcome::Deferred {
        retry_after: Some(wait),
        counts: false,
    }
}

#[actix::test]
async fn fault_01_i5_a_deadline_holds_however_long_a_destination_says_nothing() {
    let mut world = World::start(|config| config.retry.give_up = Span::millis(600)).await;
    world.accept(&["b@example.net"]).await;
    let mut tries = 0;
    let notice = loop {
        let job = world.job().await;
        if is_notice(&job) {
            break job;
        }
        tries += 1;
        world
            .report(&job, after(Duration::from_secs(86_400)), 451)
            .await;
    };
    assert_eq!(tries, 2, "once, and at the deadline");
    assert!(text(notice.content.as_ref().unwrap()).contains("4.4.7"));
    world.stop().await;
}

#[actix::test]
async fn fault_02_i4_a_wait_that_was_chosen_is_kept() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    let wait = Duration::from_secs(1000);
    let now = chapar::time::now();
    world.report(&job, after(wait), 421).await;
    world
        .until("it waits", |all| all[0].states[0].last_reply.is_some())
        .await;
    let due = world.messages().await[0].states[0].next_due;
    assert!((now + 1_000_000..now + 1_001_000).contains(&due));
    world.restart().await;
    assert_eq!(world.messages().await[0].states[0].next_due, due);
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn fault_03_and_04_a_suspension_burns_no_attempt_and_its_end_is_no_burst() {
    let mut world = World::start(|_| {}).await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    words(&world, &["suspend", "example.net", "--for", "3s"]).await;
    for _ in 0..20 {
        world.accept(&["b@example.net"]).await;
    }
    world
        .until("all wait", |all| {
            all.len() == 20 && all.iter().all(|one| one.states[0].suspended.is_some())
        })
        .await;
    let mut due: Vec<u64> = world
        .messages()
        .await
        .iter()
        .map(|message| message.states[0].next_due)
        .collect();
    due.sort_unstable();
    let spread = due[19] - due[0];
    assert!(spread > 30, "they are due at {spread} ms from each other");
    for _ in 0..20 {
        let job = world.job().await;
        assert_eq!(job.message.states[0].attempts, 0);
        world.report(&job, Outcome::Delivered, 250).await;
    }
    world.until("nothing is left", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn fault_05_22_and_28_each_recipient_has_its_own_state_through_restarts() {
    let mut world = World::start(|config| config.retry.first = Span::millis(900)).await;
    world
        .accept(&["good@example.net", "bad@example.net", "late@example.net"])
        .await;
    let job = world.job().await;
    world.report_of(&job, &[0], Outcome::Delivered, 250).await;
    world.report_of(&job, &[1], Outcome::Failed, 550).await;
    world.report_of(&job, &[2], deferred(true), 450).await;
    let notice = world.job().await;
    let said = text(notice.content.as_ref().unwrap());
    assert!(said.contains("bad@example.net"), "{said}");
    assert!(!said.contains("good@") && !said.contains("late@"), "{said}");
    world.report(&notice, Outcome::Delivered, 250).await;
    world
        .until("all of it is on disk", |all| {
            all.len() == 1 && all[0].states[2].attempts == 1
        })
        .await;
    world.restart().await;
    let job = world.job().await;
    assert_eq!(job.recipients, [2], "the others have ended");
    let states: Vec<Status> = job
        .message
        .states
        .iter()
        .map(|state| state.status)
        .collect();
    assert_eq!(
        states,
        [Status::Delivered, Status::Bounced, Status::Waiting]
    );
    assert_eq!(job.message.states[2].attempts, 1);
    assert_eq!(job.message.states[2].last_reply.as_ref().unwrap().code, 450);
    world.stop().await;
}

#[actix::test]
async fn fault_29_i11_a_notice_is_never_answered_with_a_notice() {
    let mut world = World::start(|_| {}).await;
    world
        .accept_with(&["b@example.net"], |a| a.envelope.reverse_path.clear())
        .await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn fault_32_an_attempt_counts_once() {
    let mut world = World::start(|config| {
        config.retry.steps = "10m, 20m, 40m".parse().unwrap();
    })
    .await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    world.accept(&["b@example.net"]).await;
    for (attempt, minutes) in [(1, 10), (2, 20), (3, 40), (4, 40)] {
        let job = world.job().await;
        let now = chapar::time::now();
        world.report(&job, deferred(true), 450).await;
        world
            .until("it counts", |all| all[0].states[0].attempts == attempt)
            .await;
        let wait = world.messages().await[0].states[0].next_due - now;
        let tenth = minutes * 6_000;
        let plain = minutes * 60_000;
        assert!(
            (plain - tenth..plain + tenth + 1000).contains(&wait),
            "{attempt}: {wait}"
        );
        words(&world, &["replay", "all"]).await;
    }
    world.stop().await;
}

#[actix::test]
async fn fault_35_no_250_once_the_stop_has_begun() {
    let mut world = World::start(|_| {}).await;
    world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    let handle = world.handle().clone();
    let stop = handle.addr.send(chapar::queue::Stop);
    let accept = chapar::queue::Accept {
        id: handle.ids.issue(),
        arrived: chapar::time::now(),
        origin: job.message.origin.clone(),
        envelope: job.message.envelope.clone(),
        content: job.content.clone().unwrap(),
        held: Vec::new(),
    };
    let accepted = handle.addr.send(accept);
    let (stopped, accepted) = tokio::join!(stop, accepted);
    stopped.unwrap();
    assert_eq!(accepted.unwrap(), Err(AcceptError::Draining));
    world.queue = None;
    world.open().await;
    assert_eq!(world.messages().await.len(), 1);
    world.stop().await;
}
