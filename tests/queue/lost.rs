//! Messages whose bytes are damaged or gone (Q13): their senders and the postmaster are told, once.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use chapar::queue::{Fetch, LOST, Outcome, Steer, Verb};
use queue_schema::{Message, Origin, QueueId, Status};

use crate::support::*;

async fn world() -> World {
    World::start(|config| {
        config.retry.first = "1h".parse().unwrap();
        config.postmaster = "postmaster@example.com".into();
    })
    .await
}

/// A message that was deferred and is damaged on disk.
async fn damaged(world: &mut World, sender: &str) -> Arc<Message> {
    let id = world
        .accept_with(&["b@example.net", "c@example.net"], |accept| {
            accept.envelope.reverse_path = sender.to_owned();
        })
        .await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| {
            let one = all.iter().find(|message| message.id == id);
            one.is_some_and(|message| message.states[1].attempts == 1)
        })
        .await;
    let message = world.handle().view.message(id).await.unwrap().unwrap();
    let location = message.location.clone();
    let path = world
        .data("journal")
        .join(format!("{:012}.journal", location.segment));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"?", location.offset + u64::from(location.length) - 4)
        .unwrap();
    message
}

/// Who is told of it, in order.
async fn told(world: &mut World, id: QueueId, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let notice = world.job().await;
        assert!(matches!(notice.message.origin, Origin::Dsn { about, .. } if about == id));
        let text = text(notice.content.as_ref().unwrap());
        // Whatever its lines.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("5.3.0") && words.contains(LOST), "{text}");
        assert!(
            text.contains("b@example.net") && text.contains("c@example.net"),
            "{text}"
        );
        let to = &notice.message.envelope.recipients[0].address;
        told.push(to.clone());
        world.report(&notice, Outcome::Delivered, 250).await;
    }
    told.sort();
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    told
}

#[actix::test]
async fn q13_a_message_that_delivery_can_not_read_fails_at_once_and_two_are_told() {
    let mut world = world().await;
    let message = damaged(&mut world, "a@example.org").await;
    let id = message.id;
    let replay = Steer {
        verb: Verb::Replay,
        targets: vec![(id, vec![0, 1])],
        by: "root".into(),
        manner: Default::default(),
    };
    assert_eq!(world.handle().addr.send(replay).await.unwrap(), Ok(2));
    let job = world.job().await;
    let fetch = Fetch {
        id,
        location: job.message.location.clone(),
    };
    let unread = world.handle().addr.send(fetch).await.unwrap().unwrap_err();
    assert!(unread.lost, "{unread}");
    world.report(&job, Outcome::Lost, 554).await;
    let kept = world.data("quarantine").join(format!("{id}.record"));
    assert!(kept.exists());
    let notice = world.job().await;
    assert!(matches!(notice.message.origin, Origin::Dsn { about, .. } if about == id));
    world.report(&notice, Outcome::Delivered, 250).await;
    let second = world.job().await;
    let mut to = [&notice, &second].map(|job| job.message.envelope.recipients[0].address.clone());
    to.sort();
    assert_eq!(to, ["a@example.org", "postmaster@example.com"]);
    world.report(&second, Outcome::Delivered, 250).await;
    world.until("nothing is left", |all| all.is_empty()).await;
    world.no_job().await;
    world.stop().await;
}

#[actix::test]
async fn q13_a_message_that_is_found_lost_while_it_waits_ends_there_and_then() {
    for (sender, expected) in [
        (
            "a@example.org",
            &["a@example.org", "postmaster@example.com"][..],
        ),
        ("", &["postmaster@example.com"]),
        ("postmaster@example.com", &["postmaster@example.com"]),
    ] {
        let mut world = world().await;
        let message = damaged(&mut world, sender).await;
        let unread = world.handle().view.content(message.clone()).await;
        assert!(unread.unwrap_err().lost);
        assert_eq!(told(&mut world, message.id, expected.len()).await, expected);
        world.stop().await;
    }
}

#[actix::test]
async fn q13_what_is_held_and_lost_ends_too() {
    let mut world = world().await;
    let message = damaged(&mut world, "a@example.org").await;
    let hold = Steer {
        verb: Verb::Hold,
        targets: vec![(message.id, vec![0, 1])],
        by: "root".into(),
        manner: Default::default(),
    };
    assert_eq!(world.handle().addr.send(hold).await.unwrap(), Ok(2));
    let held = world
        .handle()
        .view
        .message(message.id)
        .await
        .unwrap()
        .unwrap();
    assert!(
        held.states
            .iter()
            .all(|state| state.status == Status::Waiting)
    );
    world
        .handle()
        .view
        .content(message.clone())
        .await
        .unwrap_err();
    assert_eq!(told(&mut world, message.id, 2).await.len(), 2);
    world.stop().await;
}
