//! Messages of other queues that are taken once, however often they are given: what became of them
//! for `chapar restore` and `chapar import`.

use super::queue::ask::{self, Failure, How, Taken};
use crate::config::{Config, files};

/// What became of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages that are in the queue now.
    pub(super) taken: u64,
    /// Messages that an earlier run took.
    pub(super) before: u64,
}

impl Counts {
    /// In words, for the end of a run.
    pub(super) fn remark(self) -> String {
        match self.before {
            0 => String::new(),
            before => format!(" ({before} were taken before)"),
        }
    }
}

/// Puts those of `messages` into the queue that were never taken from `source` before. One at a
/// time is in memory; the first that can not be taken ends it.
pub(super) fn take_new(
    config: &Config,
    source: &str,
    by: &str,
    messages: &mut dyn Iterator<Item = Result<Taken, Failure>>,
) -> Result<Counts, Failure> {
    let mut messages = messages.peekable();
    if messages.peek().is_none() {
        return Ok(Counts::default());
    }
    files::create_dir(&config.data_dir, 0o700).map_err(|error| {
        let path = config.data_dir.display();
        Failure::Other(format!("{path}: {error}"))
    })?;
    let mut counts = Counts::default();
    let how = How {
        source,
        by,
        again: false,
    };
    ask::take(config, how, &mut messages, &mut |became| {
        match became?.before {
            true => counts.before += 1,
            false => counts.taken += 1,
        }
        Ok(())
    })?;
    Ok(counts)
}
