//! Replies that rules of providers count, kept over a restart: `counted.json` in `data_dir`.
//!
//! Written when the daemon stops, read once when it starts, then removed: after a crash the counts
//! begin afresh, which costs a rule a few replies more. Blocks.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use queue_schema::Millis;

/// The file they lie in.
const FILE: &str = "counted.json";
/// Bytes that are read of it.
const MOST_BYTES: u64 = 1024 * 1024;

/// When replies came, by scope and rule.
pub(super) type Counts = BTreeMap<String, BTreeMap<String, Vec<Millis>>>;

/// Takes what was kept; nothing if there is nothing that can be read.
pub(super) fn take(data_dir: &Path) -> Counts {
    let path = data_dir.join(FILE);
    let read = || -> io::Result<Counts> {
        if std::fs::metadata(&path)?.len() > MOST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let text = std::fs::read(&path)?;
        // Counted once: a daemon that crashes has other counts by then.
        std::fs::remove_file(&path)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        Ok(counts) => counts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Counts::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "counted replies can not be read; counting begins afresh");
            Counts::new()
        }
    }
}

/// Keeps them, whole or not at all.
pub(super) fn keep(data_dir: &Path, counts: &Counts) -> io::Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let mut new = tempfile::NamedTempFile::new_in(data_dir)?;
    new.write_all(&serde_json::to_vec(counts)?)?;
    new.persist(data_dir.join(FILE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_taken_once_and_damage_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(take(dir.path()), Counts::new());
        keep(dir.path(), &Counts::new()).expect("nothing to keep");
        assert!(!dir.path().join(FILE).exists());
        let rules = BTreeMap::from([("unusual-rate-again".to_owned(), vec![1, 2])]);
        let counts = Counts::from([("google".to_owned(), rules)]);
        keep(dir.path(), &counts).expect("kept");
        assert_eq!(take(dir.path()), counts);
        assert_eq!(take(dir.path()), Counts::new());
        std::fs::write(dir.path().join(FILE), "no JSON").expect("written");
        assert_eq!(take(dir.path()), Counts::new());
    }
}
