//! Which messages of other queues were taken already: `imported` in the data directory, a line for
//! each, so that an import or a restore that is run again takes none twice.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::digest;

use super::queue::ask::{self, Failure, Taken};
use crate::config::{Config, files};

/// Mode of the list.
const MODE: u32 = 0o600;
/// Octets of a message's digest that are kept: enough that no two messages with one id share them.
const DIGEST: usize = 16;

/// What was taken.
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    known: HashSet<String>,
}

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

impl Ledger {
    fn open(data_dir: &Path) -> io::Result<Ledger> {
        files::create_dir(data_dir, 0o700)?;
        let path = data_dir.join("imported");
        files::create(&path, b"", MODE)?;
        let text = std::fs::read_to_string(&path)?;
        // A line that was cut off by a crash is no line.
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        let known = whole.lines().map(str::to_owned).collect();
        let mut file = OpenOptions::new().append(true).open(&path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Ledger { file, path, known })
    }

    /// The line of a message. The digest tells messages of two hosts apart that have one id.
    fn line(source: &str, taken: &Taken) -> String {
        let mut line = format!("{source} ");
        let plain = |c: char| c.is_ascii_graphic();
        line.extend(taken.exported.id.chars().filter(|c| plain(*c)));
        line.push(' ');
        let digest = digest::digest(&digest::SHA256, &taken.bytes);
        for octet in digest.as_ref().iter().take(DIGEST) {
            line.push_str(&format!("{octet:02x}"));
        }
        line
    }

    fn add(&mut self, line: String) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()?;
        self.known.insert(line);
        Ok(())
    }
}

/// Puts those of `messages` into the queue that were never taken from `source` before. One at a
/// time is in memory; each is noted once it is durable in the queue. A run that is killed may take
/// the one message again that it was at.
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
    let failed =
        |path: &Path, error: io::Error| Failure::Other(format!("{}: {error}", path.display()));
    let ledger = Ledger::open(&config.data_dir).map_err(|e| failed(&config.data_dir, e))?;
    let path = ledger.path.clone();
    let ledger = std::cell::RefCell::new(ledger);
    let mut counts = Counts::default();
    let mut before = 0;
    // The line of the message that is under way: they are asked for one by one.
    let under_way = std::cell::RefCell::new(None);
    let mut new = messages.filter_map(|taken| {
        let taken = match taken {
            Ok(taken) => taken,
            Err(failure) => return Some(Err(failure)),
        };
        let line = Ledger::line(source, &taken);
        if ledger.borrow().known.contains(&line) {
            before += 1;
            return None;
        }
        *under_way.borrow_mut() = Some(line);
        Some(Ok(taken))
    });
    counts.taken = ask::take(config, by, &mut new, &mut |_| match under_way.take() {
        Some(line) => ledger
            .borrow_mut()
            .add(line)
            .map_err(|error| failed(&path, error)),
        None => Ok(()),
    })?;
    drop(new);
    counts.before = before;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_being_cut_off() {
        let dir = tempfile::tempdir().expect("directory");
        let data = dir.path().join("data");
        let mut ledger = Ledger::open(&data).expect("list");
        ledger.add("chasquid one 00".into()).expect("added");
        ledger.file.write_all(b"chasquid tw").expect("written");
        let mut again = Ledger::open(&data).expect("list");
        assert_eq!(again.known.len(), 1);
        again.add("chasquid two 01".into()).expect("added");
        let text = std::fs::read_to_string(data.join("imported")).expect("text");
        assert_eq!(text, "chasquid one 00\nchasquid tw\nchasquid two 01\n");
        let last = Ledger::open(&data).expect("list");
        assert!(last.known.contains("chasquid one 00") && last.known.contains("chasquid two 01"));
    }
}
