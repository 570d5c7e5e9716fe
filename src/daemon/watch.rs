//! Notices that a file of the configuration changed.
//!
//! Looks at names, times and sizes every few seconds: it works on every file system, costs one
//! `stat` a file, and an editor that writes in several steps is waited for.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it looks. A change counts once two looks in a row see the same.
pub(super) const PERIOD: Duration = Duration::from_secs(2);

/// Most files that are looked at; beyond, `systemctl reload chapar` is needed.
const MOST_FILES: usize = 100_000;
/// Directories below one another that are looked at.
const DEEPEST: usize = 6;

/// Inode, time in nanoseconds, size.
type Stamp = (u64, i64, i64, u64);

/// What the files looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look(BTreeMap<PathBuf, Stamp>);

impl Look {
    /// Looks at `chapar.toml`, `providers.toml` and everything below `domains/` and `secrets/` beside
    /// it, and at `more`; blocking.
    pub(super) fn at(file: &Path, more: &[PathBuf]) -> Look {
        let mut look = Look::default();
        let dir = file.parent().unwrap_or(Path::new("."));
        look.add(file, 0);
        look.add(&dir.join(crate::config::providers::FILE), 0);
        look.add(&dir.join("domains"), 0);
        look.add(&dir.join("secrets"), 0);
        more.iter().for_each(|file| look.add(file, 0));
        look
    }

    fn add(&mut self, path: &Path, depth: usize) {
        let Ok(found) = std::fs::metadata(path) else {
            return;
        };
        if found.is_dir() {
            if depth >= DEEPEST {
                return;
            }
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                // Files that are being written, and those of editors and git.
                if !entry.file_name().to_string_lossy().starts_with('.') {
                    self.add(&entry.path(), depth + 1);
                }
            }
        } else if self.0.len() < MOST_FILES {
            let stamp = (found.ino(), found.mtime(), found.mtime_nsec(), found.size());
            self.0.insert(path.to_owned(), stamp);
        }
    }
}

/// What was loaded last, and what the last look saw.
pub(super) struct Watch {
    file: PathBuf,
    more: Vec<PathBuf>,
    loaded: Look,
    last: Look,
}

impl Watch {
    /// From now on; `more` lies elsewhere.
    pub(super) async fn new(file: &Path, more: Vec<PathBuf>) -> Watch {
        let look = look(file, &more).await;
        Watch {
            file: file.to_owned(),
            more,
            loaded: look.clone(),
            last: look,
        }
    }

    /// Looks; true once when something changed and stands still.
    pub(super) async fn changed(&mut self) -> bool {
        let now = look(&self.file, &self.more).await;
        let still = now == self.last;
        self.last = now;
        if !still || self.last == self.loaded {
            return false;
        }
        self.loaded = self.last.clone();
        true
    }

    /// Takes what is there as loaded.
    pub(super) async fn loaded(&mut self) {
        self.last = look(&self.file, &self.more).await;
        self.loaded = self.last.clone();
    }

    /// Looks elsewhere from now on: these files were just loaded.
    pub(super) async fn also(&mut self, more: Vec<PathBuf>) {
        if more != self.more {
            self.more = more;
            self.loaded().await;
        }
    }
}

async fn look(file: &Path, more: &[PathBuf]) -> Look {
    let (file, more) = (file.to_owned(), more.to_owned());
    let look = tokio::task::spawn_blocking(move || Look::at(&file, &more)).await;
    look.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_when_it_stands_still() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("chapar.toml");
        std::fs::write(&file, "a").expect("write");
        let aliases = dir.path().join("domains/example.org/aliases");
        std::fs::create_dir_all(aliases.parent().expect("parent")).expect("directory");
        let key = dir.path().join("elsewhere.pem");
        let mut watch = Watch::new(&file, vec![key.clone()]).await;
        assert!(!watch.changed().await);
        std::fs::write(&aliases, "a: b").expect("write");
        assert!(!watch.changed().await, "it may still be being written");
        assert!(watch.changed().await);
        assert!(!watch.changed().await);
        std::fs::write(dir.path().join("providers.toml"), "").expect("write");
        assert!(!watch.changed().await && watch.changed().await);
        std::fs::write(&key, "key").expect("write");
        assert!(!watch.changed().await && watch.changed().await);
        std::fs::remove_file(&aliases).expect("remove");
        std::fs::write(dir.path().join("domains/.new-1"), "x").expect("write");
        watch.loaded().await;
        assert!(!watch.changed().await);
    }
}
