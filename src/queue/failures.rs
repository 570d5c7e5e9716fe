//! How often the store has failed lately: the process ends each time, to start afresh, and waits
//! longer before it does so the oftener that was of no use. Service managers restart at once.

use std::path::Path;
use std::time::Duration;

use queue_schema::Millis;
use tokio::time::Instant;

use super::actor::{Event, Queue};
use super::store::Disk;
use super::{blocking, end_process, kept};

/// The list of when it failed, in `data_dir`.
pub(super) const FILE: &str = "failures.json";
/// The wait after the first failure: sessions hear 451 meanwhile.
pub(super) const FIRST: Duration = Duration::from_secs(2);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// How long attempts under way may go on after the index failed, before the process ends.
const RESTART_LIMIT: Duration = Duration::from_secs(30);
/// Failures that are older are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// How long to wait after failures at these times, the last of them now.
fn wait(times: &[Millis]) -> Duration {
    let before = u32::try_from(times.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let doubled = 2u32.saturating_pow(before);
    FIRST.saturating_mul(doubled).min(LONGEST)
}

/// Remembers that it failed `now`; how long to wait. A disk that can not be read or written forgets.
pub(super) fn another(disk: &Disk, data_dir: &Path, now: Millis) -> Duration {
    let mut times: Vec<Millis> = kept::load(disk, data_dir, FILE).unwrap_or_default();
    let oldest = now.saturating_sub(crate::time::millis(FORGOTTEN));
    times.retain(|at| (oldest..=now).contains(at));
    times.push(now);
    if let Err(error) = kept::save(disk, data_dir, FILE, &times) {
        tracing::warn!(%error, file = FILE, "it can not be written");
    }
    wait(&times)
}

impl Queue {
    /// Ends the process once the store has failed: a start reads the journal anyway and makes a
    /// failed index anew, and while nothing is taken nor delivered there is nothing to stay for.
    /// What is under way is written down first where only the index failed.
    pub(super) fn restart_step(&mut self) {
        let Some((error, journal)) = self.store.needs_restart() else {
            return;
        };
        if !self.is_running() {
            return;
        }
        let since = match self.failed_since {
            Some(since) => since,
            None => {
                self.look_up_failures();
                *self.failed_since.insert(Instant::now())
            }
        };
        let waited = since.elapsed() >= self.failed_wait;
        let idle = self.active == 0 && self.commits.is_idle();
        let end = match journal {
            true => waited,
            false => waited && (idle || since.elapsed() > RESTART_LIMIT),
        };
        if end {
            tracing::error!(%error, "the process ends, to start afresh");
            end_process();
        }
    }

    /// Finds out how long to wait before the process ends; see [`another`].
    fn look_up_failures(&self) {
        let (disk, data_dir) = (self.store.disk(), self.config.data_dir.clone());
        let (now, inbox) = (crate::time::now(), self.inbox.clone());
        actix_rt::spawn(async move {
            let wait = blocking(move || another(&disk, &data_dir, now)).await;
            inbox.push(Event::Wait(wait.unwrap_or(FIRST)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q10_the_wait_grows_with_each_failure_of_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let mut waits = Vec::new();
        for minute in 0..10 {
            let wait = another(&disk, dir.path(), 1_700_000_000_000 + minute * 60_000);
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let later = 1_700_000_000_000 + 2 * 3_600_000;
        assert_eq!(another(&disk, dir.path(), later), FIRST);
    }
}
