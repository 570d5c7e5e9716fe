//! No destination starves another (I10): many thousands wait at one, and mail to another goes out
//! within a second, new mail as well as mail that was deferred.
//!
//! `CHAPAR_WAITING` says how many wait (default 3,000; `tests/long fair` takes 500,000).

use std::time::{Duration, Instant};

use chapar::queue::{Job, Outcome};

use crate::support::*;

const SLOW: &str = "slow.example.net";

fn waiting() -> usize {
    let text = std::env::var("CHAPAR_WAITING").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

fn is_slow(job: &Job) -> bool {
    job.message.envelope.recipients[0].address.ends_with(SLOW)
}

/// The next job that is not for the slow destination, within a second. What is for that one is
/// sent back, as its worker does when it has enough.
async fn next(world: &mut World, since: Instant, what: &str) -> Job {
    loop {
        let job = world.job().await;
        if !is_slow(&job) {
            let took = since.elapsed();
            assert!(took < Duration::from_secs(1), "{what} took {took:?}");
            println!("{what}: {took:?}");
            return job;
        }
        let full = Outcome::Deferred {
            retry_after: Some(Duration::from_secs(5)),
            counts: false,
        };
        world.report(&job, full, 451).await;
    }
}

#[actix::test]
async fn i10_a_backlog_at_one_destination_delays_no_other_by_a_second() {
    let count = waiting();
    let mut world = World::new(|config| config.retry.first = "1h".parse().unwrap());
    world.open().await;
    let to = format!("u@{SLOW}");
    for start in (0..count).step_by(500) {
        let (world, to) = (&world, to.as_str());
        let some =
            (start..count.min(start + 500)).map(|_| async move { world.accept(&[to]).await });
        futures_util::future::join_all(some).await;
    }
    world.connect().await;
    for round in 0..10 {
        // New mail, and mail that becomes due in the middle of the backlog.
        let since = Instant::now();
        let id = world.accept(&["new@example.org"]).await;
        let job = next(&mut world, since, &format!("new {round}")).await;
        assert_eq!(job.message.id, id);
        world.report(&job, Outcome::Delivered, 250).await;

        let wait = Duration::from_millis(200);
        let since = Instant::now() + wait;
        let at = chapar::time::now() + 200;
        let id = world
            .accept_with(&["later@example.com"], |accept| {
                accept.envelope.release_at = Some(at);
            })
            .await;
        let job = next(&mut world, since, &format!("due {round}")).await;
        assert_eq!(job.message.id, id);
        assert!(chapar::time::now() >= at);
        world.report(&job, Outcome::Delivered, 250).await;
    }
    world.stop().await;
}
