//! A clock that is set while mail waits. Each test has a process of its own.

use queue_schema::Status;

use crate::support::*;

const YEAR: i64 = 365 * 24 * 3_600_000;

/// Mail that waits for a while, a clock that is set, and a restart: it comes when it would have.
async fn set_by(by: i64) {
    let mut world = World::start(|config| config.retry.first = "4s".parse().unwrap()).await;
    let began = std::time::Instant::now();
    let id = world.accept(&["b@example.net"]).await;
    let job = world.job().await;
    world.report(&job, deferred(true), 450).await;
    world
        .until("it is deferred", |all| all[0].states[0].attempts == 1)
        .await;
    chapar::time::set_by(by);
    // It is noticed with the next thing that happens.
    let new = world.accept(&["c@example.net"]).await;
    let job = world.job().await;
    assert_eq!(job.message.id, new, "new mail flows, old mail has no burst");
    world
        .report(&job, chapar::queue::Outcome::Delivered, 250)
        .await;
    world.no_job().await;
    world.restart().await;
    world.no_job().await;
    let job = world.job().await;
    assert_eq!(job.message.id, id);
    let waited = began.elapsed().as_millis();
    assert!((3_400..9_000).contains(&waited), "{waited} ms");
    assert_eq!(job.message.states[0].status, Status::Waiting);
    // Its deadline moved with the clock: it is not over because of a year that never was.
    world.report(&job, deferred(true), 450).await;
    world
        .until("it waits again", |all| {
            all.len() == 1 && all[0].states[0].attempts == 2
        })
        .await;
    assert_eq!(world.messages().await[0].states[0].status, Status::Waiting);
    world.stop().await;
}

#[actix::test]
async fn i4_a_clock_set_forward_by_a_year_causes_no_burst_and_no_loss() {
    set_by(YEAR).await;
}

#[actix::test]
async fn i4_a_clock_set_back_by_a_year_causes_no_burst_and_no_loss() {
    set_by(-YEAR).await;
}

#[actix::test]
async fn i4_a_clock_set_forward_by_an_hour_causes_no_burst_and_no_loss() {
    set_by(3_600_000).await;
}

#[actix::test]
async fn i4_a_clock_set_back_by_an_hour_causes_no_burst_and_no_loss() {
    set_by(-3_600_000).await;
}

const DAY: i64 = 24 * 3_600_000;

/// Twenty messages that wait for their second attempt.
async fn twenty_wait(world: &mut World) {
    for _ in 0..20 {
        world.accept(&["b@example.net"]).await;
        let job = world.job().await;
        world.report(&job, deferred(true), 450).await;
    }
    world
        .until("they are deferred", |all| {
            all.len() == 20 && all.iter().all(|one| one.states[0].attempts == 1)
        })
        .await;
}

/// All twenty come for a real attempt, between so many milliseconds from `began`, and not at once.
async fn twenty_come(world: &mut World, began: std::time::Instant, earliest: u128, latest: u128) {
    let mut times = Vec::new();
    for _ in 0..20 {
        let job = world.job().await;
        assert_eq!(job.message.states[0].status, Status::Waiting, "not expired");
        times.push(began.elapsed().as_millis());
        world
            .report(&job, chapar::queue::Outcome::Delivered, 250)
            .await;
    }
    assert!(
        times.iter().all(|at| (earliest..latest).contains(at)),
        "{times:?}"
    );
    let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
    assert!(spread > 50, "no burst: {times:?}");
    world.until("nothing is left", |all| all.is_empty()).await;
}

#[actix::test]
async fn c106_a_clock_set_right_after_boot_stalls_nothing() {
    // The machine came up a month ahead.
    chapar::time::set_by(30 * DAY);
    let mut world = World::start(|config| config.retry.first = "4s".parse().unwrap()).await;
    let began = std::time::Instant::now();
    twenty_wait(&mut world).await;
    chapar::time::set_by(-30 * DAY);
    twenty_come(&mut world, began, 3_000, 9_000).await;
    world.stop().await;
}

#[actix::test]
async fn c106_a_step_of_six_days_expires_nothing_untried() {
    let mut world = World::start(|config| config.retry.first = "4s".parse().unwrap()).await;
    let began = std::time::Instant::now();
    twenty_wait(&mut world).await;
    chapar::time::set_by(6 * DAY);
    twenty_come(&mut world, began, 3_000, 9_000).await;
    world.stop().await;
}

#[actix::test]
async fn c106_a_night_asleep_causes_no_storm() {
    // While a machine sleeps the monotonic clock stands still and the other goes on: a step.
    let mut world = World::start(|config| config.retry.first = "4s".parse().unwrap()).await;
    let began = std::time::Instant::now();
    twenty_wait(&mut world).await;
    chapar::time::set_by(8 * 3_600_000);
    twenty_come(&mut world, began, 3_000, 9_000).await;
    world.stop().await;
}
