//! Free space: new mail is refused while outcomes can still be written.

use std::time::Duration;

use tokio::time::Instant;

use super::Options;

/// Free space, asked of the system at most once a second.
#[derive(Debug, Default)]
pub struct Space {
    checked: Option<Instant>,
    free: u64,
    inodes: u64,
}

impl Space {
    /// Whether `bytes` of new mail leave enough room for outcomes.
    pub fn allows(&mut self, options: &Options, bytes: u64) -> bool {
        let fresh = self
            .checked
            .is_some_and(|at| at.elapsed() < Duration::from_secs(1));
        if !fresh {
            self.checked = Some(Instant::now());
            (self.free, self.inodes) = match options.disk.free(&options.data_dir) {
                Ok(free) => (free.bytes, free.inodes),
                Err(error) => {
                    tracing::error!(%error, "free space can not be read");
                    (0, 0)
                }
            };
        }
        self.free = self.free.saturating_sub(bytes);
        self.free >= options.free_space && self.inodes >= options.free_inodes
    }
}
