//! What we have published: records that may be replaced and removed again because they are ours.
//!
//! A file below `secrets/`, since it lies where the daemon may write; it holds no secret.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::data::Record;
use crate::config::files;

/// Mode of the file.
const MODE: u32 = 0o600;
/// Mode of its directory.
const DIR_MODE: u32 = 0o700;

/// A list of records that survives restarts.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    records: BTreeSet<Record>,
}

/// The list can not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}; with the file removed, what was published counts as somebody else's", file.display())]
pub struct LedgerError {
    file: PathBuf,
    error: io::Error,
}

impl Ledger {
    /// The records of our domains; `dir` is that of the configuration. Blocks.
    pub fn published(dir: &Path) -> Result<Ledger, LedgerError> {
        Ledger::load(dir.join("secrets/dns/published.json"))
    }

    /// Answers for the CA that may not have been removed. Blocks.
    pub fn challenges(dir: &Path) -> Result<Ledger, LedgerError> {
        Ledger::load(dir.join("secrets/dns/challenges.json"))
    }

    fn load(file: PathBuf) -> Result<Ledger, LedgerError> {
        let records = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| LedgerError {
                file: file.clone(),
                error: error.into(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(LedgerError { file, error }),
        };
        Ok(Ledger { file, records })
    }

    /// Whether a record is ours.
    pub fn has(&self, record: &Record) -> bool {
        self.records.contains(record)
    }

    /// All of them.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Notes these and forgets those, durably. Blocks.
    pub fn change(&mut self, come: &[Record], go: &[Record]) -> Result<(), LedgerError> {
        let before = self.records.clone();
        for record in go {
            self.records.remove(record);
        }
        self.records.extend(come.iter().cloned());
        if self.records == before {
            return Ok(());
        }
        self.write().map_err(|error| LedgerError {
            file: self.file.clone(),
            error,
        })
    }

    fn write(&self) -> io::Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        files::create_dir(dir, DIR_MODE)?;
        let text = serde_json::to_vec_pretty(&self.records)?;
        files::replace(&self.file, &text, MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Data, Kind};

    #[test]
    fn what_was_published_is_known_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = |name: &str, kind, written: &str| {
            Record::new(name, Data::parse(kind, written).expect(written))
        };
        let a = record("mx.example.org", Kind::A, "192.0.2.1");
        let text = record("example.org", Kind::Txt, "\"v=spf1 -all\"");
        let mut ledger = Ledger::published(dir.path()).expect("none yet");
        let both = [a.clone(), text.clone()];
        ledger.change(&both, &[]).expect("written");
        ledger.change(&[], &both[..1]).expect("written");
        let again = Ledger::published(dir.path()).expect("read");
        assert!(!again.has(&a) && again.has(&text));
        std::fs::write(dir.path().join("secrets/dns/published.json"), "[").expect("written");
        assert!(Ledger::published(dir.path()).is_err());
    }
}
