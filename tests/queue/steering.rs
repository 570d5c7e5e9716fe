//! What operators do, while delivery goes on.

use chapar::queue::{Outcome, Steer, Verb};
use queue_schema::{QueueId, Status};

use crate::support::*;

async fn steer(world: &World, verb: Verb, id: QueueId, recipients: &[u32]) -> u64 {
    let targets = vec![(id, recipients.to_vec())];
    let steer = Steer {
        verb,
        targets,
        by: "root".into(),
        manner: Default::default(),
    };
    world.handle().addr.send(steer).await.unwrap().unwrap()
}

fn slow(config: &mut chapar::config::Config) {
    config.retry.first = "1h".parse().unwrap();
}

#[actix::test]
async fn replay_makes_deferred_mail_due_now() {
    let mut world = World::start(slow).await;
    let id = world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    assert_eq!(
        steer(&world, Verb::Replay, id, &[0]).await,
        0,
        "under way already"
    );
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    world.no_job().await;
    assert_eq!(steer(&world, Verb::Replay, id, &[0]).await, 1);
    let job = world.job().await;
    assert_eq!(job.message.states[0].attempts, 1);
    world.report(&job, Outcome::Delivered, 250).await;
    world.until("it is gone", |all| all.is_empty()).await;
    assert_eq!(
        steer(&world, Verb::Replay, id, &[0]).await,
        0,
        "nothing is there"
    );
    world.stop().await;
}

#[actix::test]
async fn remove_ends_recipients_even_under_way_and_tells_nobody() {
    let mut world = World::start(slow).await;
    let id = world.accept(&["b@example.net", "c@example.net"]).await;
    let job = world.job().await;
    assert_eq!(steer(&world, Verb::Remove, id, &[0]).await, 1);
    let all = world.messages().await;
    assert_eq!(all[0].states[0].status, Status::Removed);
    assert!(
        all[0].states[0]
            .last_reply
            .as_ref()
            .unwrap()
            .text
            .ends_with("removed from the queue")
    );
    world.report(&job, Outcome::Failed, 550).await;
    let notice = world.job().await;
    let notice = text(notice.content.as_ref().unwrap());
    assert!(!notice.contains("b@example.net") && notice.contains("c@example.net"));
    world.restart().await;
    assert_eq!(world.messages().await.len(), 1, "the notice alone");
    let rest = world.messages().await[0].id;
    world.job().await;
    assert_eq!(steer(&world, Verb::Remove, rest, &[0]).await, 1);
    assert!(world.messages().await.is_empty());
    world.stop().await;
}

#[actix::test]
async fn a_held_message_waits_through_restarts_until_it_is_released() {
    let mut world = World::start(|_| {}).await;
    let id = world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    assert_eq!(steer(&world, Verb::Hold, id, &[0]).await, 1);
    assert_eq!(
        steer(&world, Verb::Hold, id, &[0]).await,
        0,
        "once is enough"
    );
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    world.no_job().await;
    world.restart().await;
    world.no_job().await;
    assert_eq!(steer(&world, Verb::Release, id, &[0]).await, 1);
    let job = world.job().await;
    assert_eq!(job.message.id, id);
    world.stop().await;
}
