//! When app passwords were used last: `auth/last-use.json` in `data_dir`, for `chapar user
//! app-password list`.
//!
//! One file, written at most once a minute for each password; blocks, so it runs on the pool. It is
//! a convenience: one that is lost or damaged begins again empty.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use queue_schema::Millis;

use crate::config::files;

/// How far a time in the file may be behind.
const GRAIN: Millis = 60_000;

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("auth/last-use.json")
}

/// Id to milliseconds since 1970.
pub fn load(data_dir: &Path) -> BTreeMap<String, Millis> {
    let text = std::fs::read(path(data_dir)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Notes that `id` was used `now`, and forgets those that are not in `known`, if it says any.
pub fn note(data_dir: &Path, id: &str, now: Millis) -> io::Result<()> {
    let mut uses = load(data_dir);
    let recent = |before: &Millis| *before <= now && now - before < GRAIN;
    if uses.get(id).is_some_and(recent) {
        return Ok(());
    }
    uses.insert(id.to_owned(), now);
    let text = serde_json::to_vec(&uses).map_err(io::Error::other)?;
    files::replace_state(&path(data_dir), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_kept_by_the_minute_and_damage_costs_only_them() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::create_dir(dir.path().join("auth")).expect("directory");
        note(dir.path(), "abc", 1_000_000).expect("noted");
        note(dir.path(), "abc", 1_030_000).expect("noted");
        assert_eq!(load(dir.path()).get("abc"), Some(&1_000_000));
        note(dir.path(), "abc", 1_060_000).expect("noted");
        assert_eq!(load(dir.path()).get("abc"), Some(&1_060_000));
        std::fs::write(path(dir.path()), b"{").expect("write");
        note(dir.path(), "def", 5).expect("noted");
        assert_eq!(load(dir.path()).len(), 1);
    }
}
