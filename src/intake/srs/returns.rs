//! What this host remembers of rewritten reverse-paths: whom short ones stand for, and how many
//! bounces came to each today.
//!
//! Senders are lines of `srs-senders` in `data_dir`: the day since 1970, the key, the address. A line
//! is on disk before the message that carries its key is taken. Lines that are older than any
//! rewritten address holds go when the daemon starts. Counts are in memory only.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::MOST_DAYS;
use crate::smtp::address::{Address, Charset};

/// The file in `data_dir`.
const FILE: &str = "srs-senders";
/// Senders that are remembered, of about 150 octets each.
const MOST_SENDERS: usize = 200_000;
/// Addresses whose bounces are counted; beyond, those of today are forgotten.
const MOST_COUNTS: usize = 100_000;

/// See the module.
#[derive(Default)]
pub struct Returns {
    /// Empty: nothing is kept beyond this process (tests).
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By key, with the day of the last line.
    senders: HashMap<String, (String, u64)>,
    /// By address in lower case.
    counts: HashMap<String, usize>,
    counted: u64,
}

impl Returns {
    /// Reads what was remembered in `data_dir`. `day`: since 1970.
    pub fn open(data_dir: &Path, day: u64) -> io::Result<Returns> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut senders = HashMap::new();
        let mut lines = 0;
        for line in text.lines() {
            lines += 1;
            if let Some((made, key, sender)) = read(line)
                && made.saturating_add(MOST_DAYS + 1) >= day
            {
                senders.insert(key.to_owned(), (sender.to_owned(), made));
            }
        }
        if senders.len() < lines {
            let mut text = String::new();
            for (key, (sender, made)) in &senders {
                text.push_str(&format!("{made} {key} {sender}\n"));
            }
            let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(data_dir)?.sync_all()?;
        }
        Ok(Returns {
            path: Some(path),
            inner: Mutex::new(Inner {
                senders,
                ..Inner::default()
            }),
        })
    }

    /// Remembers whom a key stands for, on disk. Blocks.
    pub fn remember(&self, key: &str, sender: &str, day: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let known = inner.senders.get(key);
        if known.is_some_and(|(known, made)| known == sender && *made == day) {
            return Ok(());
        }
        if known.is_none() && inner.senders.len() >= MOST_SENDERS {
            let text = format!("{MOST_SENDERS} senders are remembered already");
            return Err(io::Error::other(text));
        }
        if let Some(path) = &self.path {
            let is_new = !path.exists();
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(format!("{day} {key} {sender}\n").as_bytes())?;
            file.sync_data()?;
            if let (true, Some(dir)) = (is_new, path.parent()) {
                File::open(dir)?.sync_all()?;
            }
        }
        inner
            .senders
            .insert(key.to_owned(), (sender.to_owned(), day));
        Ok(())
    }

    /// Whom a key stands for.
    pub fn sender(&self, key: &str) -> Option<String> {
        let inner = self.lock();
        inner.senders.get(key).map(|(sender, _)| sender.clone())
    }

    /// Counts a bounce to an address; false if there were `most` today. 0: no limit.
    pub fn count(&self, address: &str, day: u64, most: usize) -> bool {
        let mut inner = self.lock();
        if inner.counted != day || inner.counts.len() >= MOST_COUNTS {
            inner.counts.clear();
            inner.counted = day;
        }
        let count = inner
            .counts
            .entry(address.to_ascii_lowercase())
            .or_default();
        *count += 1;
        most == 0 || *count <= most
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is within is whole at every moment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Day, key and sender of a line; a line that a crash cut off is none.
fn read(line: &str) -> Option<(u64, &str, &str)> {
    let (day, rest) = line.split_once(' ')?;
    let (key, sender) = rest.split_once(' ')?;
    Address::parse_in(sender.as_bytes(), Charset::Utf8).ok()?;
    Some((day.parse().ok()?, key, sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_senders_outlive_the_daemon_and_go_when_their_time_is_over() {
        let dir = tempfile::tempdir().expect("directory");
        let open = |day| Returns::open(dir.path(), day).expect("opened");
        let returns = open(100);
        returns.remember("old", "a@b.example", 100).expect("kept");
        returns
            .remember("new", "\"c d\"@b.example", 300)
            .expect("kept");
        assert_eq!(open(300).sender("old").as_deref(), Some("a@b.example"));
        let path = dir.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).expect("read");
        text.push_str("300 torn c@b.exa mple");
        std::fs::write(&path, text).expect("written");
        let late = open(100 + MOST_DAYS + 2);
        assert_eq!(late.sender("old"), None);
        assert_eq!(late.sender("new").as_deref(), Some("\"c d\"@b.example"));
        assert_eq!(
            std::fs::read_to_string(&path)
                .expect("read")
                .lines()
                .count(),
            1
        );
    }

    #[test]
    fn s12_bounces_to_one_address_are_limited_for_a_day() {
        let returns = Returns::default();
        let count = |day, most| returns.count("SRS0=x@ours.example", day, most);
        assert!(count(5, 2) && returns.count("srs0=X@ours.example", 5, 2) && !count(5, 2));
        assert!(count(6, 2), "another day");
        assert!((0..100).all(|_| count(6, 0)), "no limit");
    }
}
