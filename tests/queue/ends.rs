//! An end happens once, whoever comes with it and when (Q1, I2).

use chapar::queue::{Job, Outcome, Steer, Verb};
use queue_schema::{Origin, QueueId, Status};

use crate::support::*;

fn slow(config: &mut chapar::config::Config) {
    config.retry.first = "1h".parse().unwrap();
}

fn order(verb: Verb, id: QueueId) -> Steer {
    Steer {
        verb,
        targets: vec![(id, vec![0])],
        by: "root".into(),
        manner: Default::default(),
    }
}

fn is_notice_about(job: &Job, id: QueueId) -> bool {
    matches!(job.message.origin, Origin::Dsn { about, .. } if about == id)
}

/// A message that stays, and one that was deferred.
async fn two(world: &mut World) -> (QueueId, QueueId) {
    let mut ids = Vec::new();
    for to in ["stays@example.com", "b@example.net"] {
        ids.push(world.accept(&[to]).await);
        let job = world.job().await;
        world.report(&job, deferred(true), 450).await;
    }
    world
        .until("both are deferred", |all| {
            all.len() == 2 && all.iter().all(|message| message.states[0].attempts == 1)
        })
        .await;
    (ids[0], ids[1])
}

/// What is on disk, and that all of it counts and can be read.
async fn left(world: &World) -> Vec<QueueId> {
    let all = world.messages().await;
    let view = &world.handle().view;
    assert_eq!(view.stats().messages, all.len() as u64);
    for message in &all {
        view.content(message.clone()).await.unwrap();
    }
    all.iter().map(|message| message.id).collect()
}

#[actix::test]
async fn q1_four_bounces_at_once_are_one_end_with_one_notice_and_each_answers_truly() {
    let mut world = World::start(slow).await;
    let (stays, id) = two(&mut world).await;
    let bounce = || world.handle().addr.send(order(Verb::Bounce, id));
    let (a, b, c, d) = tokio::join!(bounce(), bounce(), bounce(), bounce());
    let answers = [a, b, c, d].map(|answer| answer.unwrap());
    assert_eq!(answers, [Ok(1), Ok(0), Ok(0), Ok(0)]);
    let notice = world.job().await;
    assert!(is_notice_about(&notice, id), "{notice:?}");
    world.no_job().await;
    assert_eq!(left(&world).await, [stays, notice.message.id]);
    let late = world.handle().addr.send(order(Verb::Bounce, id)).await;
    assert_eq!(late.unwrap(), Ok(0));
    world.restart().await;
    assert_eq!(left(&world).await, [stays, notice.message.id]);
    world.stop().await;
}

#[actix::test]
async fn q1_a_bounce_and_an_outcome_that_cross_are_one_end() {
    for (outcome, code, ended) in [(Outcome::Failed, 550, 0), (deferred(true), 450, 1)] {
        let mut world = World::start(slow).await;
        let (stays, _) = two(&mut world).await;
        let id = world.accept(&["c@example.net"]).await;
        let job = world.job().await;
        // The notice takes a while; the outcome is there before it is written.
        let (bounced, ()) = tokio::join!(
            world.handle().addr.send(order(Verb::Bounce, id)),
            world.report(&job, outcome, code)
        );
        let notice = world.job().await;
        assert!(is_notice_about(&notice, id), "{notice:?}");
        world.no_job().await;
        // Whichever notice was ready first made the end.
        let bounced = bounced.unwrap().unwrap();
        assert!((ended..=1).contains(&bounced), "{bounced}");
        let ids = left(&world).await;
        assert!(
            ids.len() == 3 && ids.contains(&stays) && !ids.contains(&id),
            "{ids:?}"
        );
        world.stop().await;
    }
}

#[actix::test]
async fn q1_what_was_delivered_while_a_bounce_was_written_is_delivered_and_nobody_is_told_else() {
    let mut world = World::start(slow).await;
    let (stays, other) = two(&mut world).await;
    let id = world.accept(&["c@example.net"]).await;
    let job = world.job().await;
    let (bounced, ()) = tokio::join!(
        world.handle().addr.send(order(Verb::Bounce, id)),
        world.report(&job, Outcome::Delivered, 250)
    );
    assert_eq!(bounced.unwrap(), Ok(0));
    world.no_job().await;
    assert_eq!(left(&world).await, [stays, other]);
    assert_eq!(world.handle().feed.counts().delivered, 1);
    world.stop().await;
}

#[actix::test]
async fn q1_a_remove_while_a_failure_becomes_a_notice_finds_nothing_to_do() {
    let mut world = World::start(slow).await;
    let (stays, other) = two(&mut world).await;
    let id = world.accept(&["c@example.net"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Failed, 550).await;
    let removed = world.handle().addr.send(order(Verb::Remove, id)).await;
    assert_eq!(removed.unwrap(), Ok(0));
    let notice = world.job().await;
    assert!(is_notice_about(&notice, id), "{notice:?}");
    world.no_job().await;
    assert_eq!(left(&world).await, [stays, other, notice.message.id]);
    world.stop().await;
}

#[actix::test]
async fn q1_a_remove_ends_what_is_under_way_once_whatever_its_outcome() {
    let mut world = World::start(slow).await;
    let (stays, other) = two(&mut world).await;
    let id = world.accept(&["c@example.net"]).await;
    let job = world.job().await;
    let remove = || world.handle().addr.send(order(Verb::Remove, id));
    let (one, two, ()) = tokio::join!(remove(), remove(), world.report(&job, Outcome::Failed, 550));
    assert_eq!([one.unwrap(), two.unwrap()], [Ok(1), Ok(0)]);
    world.no_job().await;
    assert_eq!(left(&world).await, [stays, other]);
    let all = world.messages().await;
    assert!(
        all.iter()
            .all(|message| message.states[0].status == Status::Waiting)
    );
    world.stop().await;
}
