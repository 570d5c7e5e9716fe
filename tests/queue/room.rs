//! Nothing is handed out whose outcome could not be written down (Q3).

use chapar::lab::Volume;
use chapar::queue::Outcome;

use crate::support::*;

/// Recipients of one message.
const EACH: usize = 500;

#[actix::test]
async fn q3_no_more_is_handed_out_than_there_is_room_for_outcomes() {
    let mut world = World::new(|config| {
        config.limits.free_inodes = 0;
        config.delivery.active = 100_000;
    });
    let at = world.data("../disk");
    let volume = match Volume::new(&at, 28) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("skipped, no loop file system can be mounted here: {error}");
            return;
        }
    };
    world.config.data_dir = at.join("data");
    world.open().await;
    let reserve = std::fs::metadata(world.data("reserve")).unwrap().len();
    // One KiB for each recipient; the last message may go beyond.
    let room = usize::try_from(reserve / 1024).unwrap();
    let expected = room.div_ceil(EACH);
    let to: Vec<String> = (0..EACH).map(|n| format!("u{n}@example.net")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for _ in 0..expected + 2 {
        world.accept(&to).await;
    }
    world.connect().await;
    let mut jobs = Vec::new();
    for _ in 0..expected {
        jobs.push(world.job().await);
    }
    world.no_job().await;
    world.report(&jobs[0], Outcome::Delivered, 250).await;
    let next = world.job().await;
    assert_eq!(next.recipients.len(), EACH);
    world.no_job().await;
    world.stop().await;
    drop(volume);
}
