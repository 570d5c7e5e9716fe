//! Destinations that an operator suspended: nothing is tried there until a time.
//!
//! They lie in `data_dir/suspensions.json`, which a person can read, replaced as a whole and
//! synced before an operator is answered. A file that can not be read is put into the quarantine
//! and reported; mail then flows, which is the safe side. A suspension stops no deadline (I5).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use super::selector::like;
use super::store::sync_dir;

/// Suspensions at the same time.
pub const MOST: usize = 1000;
/// The text by which a suspended recipient is known, also to `resume`.
pub const MARK: &str = "is suspended";

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// A recipient domain or the name of a next hop; `*` stands for anything. In lower case.
    pub destination: String,
    /// Nothing is tried before then; milliseconds since 1970.
    pub until: Millis,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Since when.
    pub since: Millis,
}

impl Suspension {
    /// Whether it means this domain or host now.
    pub fn holds(&self, name: &str, now: Millis) -> bool {
        self.until > now && like(&self.destination, name)
    }

    /// What is said about a recipient that waits for it.
    pub fn text(&self) -> String {
        let reason = match self.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reason),
        };
        format!("{} {MARK} by {}{reason}", self.destination, self.by)
    }

    /// How long one recipient waits: to the end, and a little longer by chance, so that not all
    /// mail comes at once.
    pub fn wait(&self, now: Millis, chance: f64) -> Duration {
        let rest = Duration::from_millis(self.until.saturating_sub(now));
        let spread = (rest / 10).min(Duration::from_secs(600));
        rest + spread.mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// Where they lie.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("suspensions.json")
}

/// Reads them. What was damaged and where it was put is told beside.
pub(super) fn load(data_dir: &Path) -> io::Result<Vec<Suspension>> {
    let path = file(data_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(list) => Ok(list),
        Err(error) => {
            let aside = data_dir
                .join("quarantine")
                .join(format!("suspensions-{}.json", crate::time::now()));
            fs::rename(&path, &aside)?;
            tracing::error!(%error, kept = %aside.display(), "suspensions can not be read and end");
            Ok(Vec::new())
        }
    }
}

/// Replaces the file; when this returns, it survives a power cut. Blocks.
pub(super) fn save(data_dir: &Path, list: &[Suspension]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    serde_json::to_writer_pretty(&mut file, list)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    if rustix::process::geteuid().is_root() {
        // Root works on another user's store: the daemon must be able to read it.
        let owner = fs::metadata(data_dir)?;
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    file.persist(self::file(data_dir))
        .map_err(|error| error.error)?;
    sync_dir(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspension() -> Suspension {
        Suspension {
            destination: "*.example".into(),
            until: 10_000,
            reason: "they are busy".into(),
            by: "root".into(),
            since: 0,
        }
    }

    #[test]
    fn a_suspension_ends_at_its_time_and_means_what_it_names() {
        let one = suspension();
        assert!(one.holds("Mx.EXAMPLE", 9_999));
        assert!(!one.holds("mx.example", 10_000));
        assert!(!one.holds("example.org", 0));
        assert_eq!(one.wait(0, 0.0), Duration::from_secs(10));
        assert_eq!(one.wait(0, 1.0), Duration::from_secs(11));
        assert_eq!(one.wait(20_000, 1.0), Duration::ZERO);
    }

    #[test]
    fn i6_a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("quarantine")).unwrap();
        assert_eq!(load(dir.path()).unwrap(), []);
        save(dir.path(), &[suspension()]).unwrap();
        assert_eq!(load(dir.path()).unwrap(), [suspension()]);
        fs::write(file(dir.path()), b"[{").unwrap();
        assert_eq!(load(dir.path()).unwrap(), []);
        assert!(!file(dir.path()).exists());
        assert_eq!(
            fs::read_dir(dir.path().join("quarantine")).unwrap().count(),
            1
        );
    }
}
