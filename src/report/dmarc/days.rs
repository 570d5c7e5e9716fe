//! The files of tallies: `reports/dmarc/YYYY-MM-DD.jsonl` in `data_dir`, one tally a line, a file
//! for each UTC day, and beside it `YYYY-MM-DD.sent` with the domains that have their report.
//!
//! Blocking: called on threads. A line that can not be read, such as one that a crash tore, is left
//! out; nothing but a report depends on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use queue_schema::Millis;

use super::Tally;
use crate::config::files;
use crate::time::DAY;

/// Longest line of a file, in bytes.
const LINE: u64 = 16 * 1024;

/// Tallies of one domain that are alike, and how many.
pub type Rows = HashMap<Tally, u32>;

/// The directory.
#[derive(Debug, Clone)]
pub struct Days {
    dir: PathBuf,
    /// Bytes of one day's file.
    most: u64,
}

/// The day of a time, as files are named.
pub fn name(at: Millis) -> String {
    crate::time::text(at).chars().take(10).collect()
}

/// When the day of this name begins.
pub fn begin(name: &str) -> Option<Millis> {
    let date: jiff::civil::Date = name.parse().ok()?;
    let midnight: jiff::Timestamp = format!("{date}T00:00:00Z").parse().ok()?;
    u64::try_from(midnight.as_millisecond()).ok()
}

impl Days {
    /// Below `data_dir`; a file takes `most` bytes.
    pub fn new(data_dir: &Path, most: u64) -> Days {
        Days {
            dir: data_dir.join("reports/dmarc"),
            most,
        }
    }

    fn file(&self, day: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{day}.{kind}"))
    }

    /// Appends lines to the file of a day and syncs them. False: it is full.
    pub fn append(&self, day: &str, lines: &[u8]) -> io::Result<bool> {
        files::create_dir(&self.dir, 0o700)?;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(self.file(day, "jsonl"))?;
        if file.metadata()?.len().saturating_add(lines.len() as u64) > self.most {
            return Ok(false);
        }
        file.write_all(lines)?;
        file.sync_data()?;
        Ok(true)
    }

    /// Days that have a file and end at `now` at the latest, the oldest first.
    pub fn over(&self, now: Millis) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut days = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(day) = name.strip_suffix(".jsonl")
                && begin(day).is_some_and(|begin| begin.saturating_add(DAY) <= now)
            {
                days.insert(day.to_owned());
            }
        }
        Ok(days.into_iter().collect())
    }

    /// The rows of a day for each domain that has no report yet. At most `most` domains and rows of
    /// each are kept apart; what is beyond is counted nowhere.
    pub fn read(&self, day: &str, most: usize) -> io::Result<BTreeMap<String, Rows>> {
        let sent = self.sent(day)?;
        let mut domains: BTreeMap<String, Rows> = BTreeMap::new();
        let mut file = BufReader::new(File::open(self.file(day, "jsonl"))?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = io::Read::take(&mut file, LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(domains);
            }
            let Ok(tally) = serde_json::from_slice::<Tally>(&line) else {
                continue;
            };
            if sent.contains(&tally.domain) {
                continue;
            }
            let full = domains.len() >= most;
            let rows = match domains.get_mut(&tally.domain) {
                Some(rows) => rows,
                None if full => continue,
                None => domains.entry(tally.domain.clone()).or_default(),
            };
            let full = rows.len() >= most;
            match rows.get_mut(&tally) {
                Some(count) => *count = count.saturating_add(1),
                None if full => {}
                None => {
                    rows.insert(tally, 1);
                }
            }
        }
    }

    fn sent(&self, day: &str) -> io::Result<BTreeSet<String>> {
        match fs::read_to_string(self.file(day, "sent")) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Notes that the report of `domain` is in the queue, or never will be.
    pub fn mark(&self, day: &str, domain: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(self.file(day, "sent"))?;
        file.write_all(format!("{domain}\n").as_bytes())?;
        file.sync_data()
    }

    /// Forgets a day.
    pub fn remove(&self, day: &str) -> io::Result<()> {
        fs::remove_file(self.file(day, "jsonl"))?;
        match fs::remove_file(self.file(day, "sent")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
