//! Destinations that are busy, and recipients who have nothing to do with them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chapar::queue::{Belongs, Job, Outcome};

use crate::support::*;

/// Messages for the busy destination, more than its share of `delivery.active`.
const BUSY: usize = 4_000;
/// How long anybody else may wait.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The class of a domain when there were 1,024 of them.
fn class(domain: &str) -> u32 {
    crc32c::crc32c(domain.as_bytes()) % 1024
}

/// A domain that had the same class as `busy.example`.
fn twin() -> String {
    let busy = class("busy.example");
    let named = (0..).map(|n| format!("d{n}.example"));
    let mut same = named.filter(|domain| class(domain) == busy);
    same.next().expect("one of a thousand")
}

/// A world in which `busy.example` has 4,000 messages and answers nothing.
async fn busy() -> World {
    let mut world = World::new(|_| {});
    world.open().await;
    for _ in 0..BUSY / 500 {
        let some = (0..500).map(|n| {
            let (world, to) = (&world, format!("u{n}@busy.example"));
            async move { world.accept(&[&to]).await }
        });
        futures_util::future::join_all(some).await;
    }
    world.connect().await;
    // Its share is under way and stays there.
    while let Ok(Some(job)) =
        tokio::time::timeout(Duration::from_millis(500), world.jobs.recv()).await
    {
        assert!(to(&job)[0].ends_with("@busy.example"));
    }
    world
}

fn to(job: &Job) -> Vec<String> {
    let recipients = job.recipients.iter();
    let address = |at: &u32| {
        let at = usize::try_from(*at).unwrap();
        job.message.envelope.recipients[at].address.clone()
    };
    recipients.map(address).collect()
}

#[actix::test]
async fn d6_a_domain_that_shared_the_class_of_a_busy_one_does_not_wait_for_it() {
    let mut world = busy().await;
    let boss = format!("boss@{}", twin());
    let since = Instant::now();
    let id = world.accept(&[&boss]).await;
    let job = world.job().await;
    assert_eq!((job.message.id, to(&job)), (id, vec![boss]));
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    world.stop().await;
}

#[actix::test]
async fn q14_d6_a_recipient_does_not_wait_for_another_of_its_message() {
    let mut world = busy().await;
    for order in [
        ["x@busy.example", "boss@other.example"],
        ["boss@other.example", "x@busy.example"],
    ] {
        let since = Instant::now();
        let id = world.accept(&order).await;
        let job = world.job().await;
        assert_eq!(
            (job.message.id, to(&job)),
            (id, vec!["boss@other.example".to_owned()])
        );
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        world.report(&job, deferred(true), 450).await;
        // It comes again by itself, while the other still waits.
        let job = world.job().await;
        assert_eq!(
            (job.message.id, to(&job)),
            (id, vec!["boss@other.example".to_owned()])
        );
        world.report(&job, Outcome::Delivered, 250).await;
        world.no_job().await;
    }
    // After a restart, in which nothing is under way, both come.
    world.restart().await;
    let mut left = HashMap::new();
    while let Ok(Some(job)) = tokio::time::timeout(Duration::from_secs(2), world.jobs.recv()).await
    {
        for to in to(&job) {
            *left.entry(to).or_insert(0) += 1;
        }
        world.report(&job, Outcome::Delivered, 250).await;
    }
    assert_eq!(left.get("x@busy.example"), Some(&2), "{left:?}");
    assert_eq!(left.get("boss@other.example"), None);
    world.until("all is delivered", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn d6_recipients_of_one_message_go_together_where_all_may_go() {
    let mut world = World::start(|_| {}).await;
    world
        .accept(&["a@one.example", "b@two.example", "c@one.example"])
        .await;
    let job = world.job().await;
    assert_eq!(job.recipients, [0, 1, 2]);
    world.report(&job, Outcome::Delivered, 250).await;
    world.no_job().await;
    world.until("it is gone", |all| all.is_empty()).await;
    world.stop().await;
}

#[actix::test]
async fn d6_domains_at_the_hosts_of_a_busy_one_share_its_place_and_others_do_not() {
    let mut world = busy().await;
    let hosts = |way: &str| (way.to_owned(), "mx.example.net:25".into());
    world.accept(&["a@tenant.example"]).await;
    let job = world.job().await;
    world.report(&job, Outcome::Delivered, 250).await;
    // What delivery found out: a thousand domains at one provider are one destination.
    let belongs = Belongs(vec![hosts("busy.example"), hosts("tenant.example")]);
    world.handle().addr.send(belongs).await.unwrap();
    world
        .accept(&["a@tenant.example", "boss@other.example"])
        .await;
    let job = world.job().await;
    assert_eq!(to(&job), ["boss@other.example"]);
    world.no_job().await;
    world.stop().await;
}
