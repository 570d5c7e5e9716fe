//! Free space: new mail is refused while outcomes can still be written.

use std::time::Duration;

use tokio::time::Instant;

use super::Options;

/// How long an answer of the system is believed.
const FRESH: Duration = Duration::from_secs(1);

/// Free space, asked of the system once a second, and again before mail is refused: what was
/// counted off since may be where room was reserved before, or freed again.
#[derive(Debug, Default)]
pub struct Space {
    checked: Option<Instant>,
    free: u64,
    inodes: u64,
}

impl Space {
    /// Whether `bytes` of new mail leave enough room for outcomes.
    pub fn allows(&mut self, options: &Options, bytes: u64) -> bool {
        let fresh = self.checked.is_some_and(|at| at.elapsed() < FRESH);
        if !fresh {
            self.ask(options);
        }
        if !self.suffices(options, bytes) && fresh {
            self.ask(options);
        }
        self.free = self.free.saturating_sub(bytes);
        self.suffices(options, 0)
    }

    fn suffices(&self, options: &Options, bytes: u64) -> bool {
        let left = self.free.saturating_sub(bytes);
        left >= options.free_space && self.inodes >= options.free_inodes
    }

    fn ask(&mut self, options: &Options) {
        self.checked = Some(Instant::now());
        (self.free, self.inodes) = match options.disk.free(&options.data_dir) {
            Ok(free) => (free.bytes, free.inodes),
            Err(error) => {
                tracing::error!(%error, "free space can not be read");
                (0, 0)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q18_a_burst_within_a_second_is_not_refused_by_an_old_figure() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path());
        let free = options.disk.free(dir.path()).unwrap().bytes;
        // Half of what is free must stay; the burst would count off much more than the other half.
        options.free_space = free / 2;
        let mut space = Space::default();
        for _ in 0..20 {
            assert!(space.allows(&options, free / 8));
        }
        options.free_space = u64::MAX;
        assert!(!space.allows(&options, 1));
    }
}
