//! Policies on disk, one file each, so that a restart forgets none (RFC 8461 section 5.1).
//!
//! A file's name is the hash of its domain: what a stranger names never becomes a path. A file that
//! can not be read is put aside and reported.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::policy::Policy;
use crate::time::Millis;

/// Policies that are kept; beyond, the one that was not used for the longest time goes.
pub const MOST: usize = 10_000;
/// Bytes of one file.
const MOST_BYTES: u64 = 256 * 1024;

/// A policy as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it is.
    pub domain: String,
    /// The id of the record that led to it.
    pub id: String,
    /// It.
    pub policy: Policy,
    /// When it was fetched.
    pub fetched: Millis,
    /// When mail for the domain last asked for it.
    pub used: Millis,
}

impl Kept {
    /// When it ends.
    pub fn until(&self) -> Millis {
        let age = self.policy.max_age.saturating_mul(1000);
        self.fetched.saturating_add(age)
    }

    /// Whether it is in force.
    pub fn holds(&self, now: Millis) -> bool {
        now < self.until()
    }

    /// Whether it is to be fetched again: half of its life is over, and it is still in use.
    pub fn is_due(&self, now: Millis) -> bool {
        const UNUSED: Millis = 30 * 86_400_000;
        let half = self.policy.max_age.saturating_mul(500);
        self.holds(now)
            && now >= self.fetched.saturating_add(half)
            && now < self.used.saturating_add(UNUSED)
    }
}

/// The directory of policies.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("mta-sts")
}

fn file(dir: &Path, domain: &str) -> PathBuf {
    let hash = digest(&SHA256, domain.as_bytes());
    let hex: String = hash
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect();
    dir.join(hex + ".json")
}

/// Reads every policy that holds; forgets those that ended.
pub fn load(dir: &Path, now: Millis) -> HashMap<String, Kept> {
    let mut all = HashMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return all;
    };
    for entry in entries.flatten().take(MOST * 2) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Ok(kept) if !kept.holds(now) => {
                let _ = std::fs::remove_file(&path);
            }
            Ok(kept) if all.len() < MOST => {
                all.insert(kept.domain.clone(), kept);
            }
            Ok(_) => {}
            Err(error) => {
                let aside = path.with_extension("damaged");
                tracing::warn!(
                    path = %path.display(), %error,
                    "a kept MTA-STS policy can not be read and was put aside; it is fetched again"
                );
                let _ = std::fs::rename(&path, aside);
            }
        }
    }
    all
}

/// The policy of one domain, if one is kept.
pub fn load_one(dir: &Path, domain: &str) -> Option<Kept> {
    read(&file(dir, domain)).ok()
}

fn read(path: &Path) -> io::Result<Kept> {
    if std::fs::metadata(path)?.len() > MOST_BYTES {
        return Err(io::Error::other("it is too long"));
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Keeps a policy; it is there whole, or as it was before.
pub fn save(dir: &Path, kept: &Kept) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(&serde_json::to_vec(kept)?)?;
    new.as_file().sync_all()?;
    new.persist(file(dir, &kept.domain))?;
    Ok(())
}

/// Forgets a policy.
pub fn remove(dir: &Path, domain: &str) {
    let _ = std::fs::remove_file(file(dir, domain));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sts::Mode;

    fn kept(domain: &str) -> Kept {
        Kept {
            domain: domain.to_owned(),
            id: "1".to_owned(),
            policy: Policy {
                mode: Mode::Enforce,
                mx: vec!["mx.example.com".to_owned()],
                max_age: 100,
            },
            fetched: 1_000_000,
            used: 1_000_000,
        }
    }

    #[test]
    fn kept_policies_come_back_until_they_end_and_damage_is_put_aside() {
        let dir = tempfile::tempdir().expect("directory");
        let (one, other) = (kept("example.com"), kept("../../etc/passwd"));
        for kept in [&one, &other] {
            save(dir.path(), kept).expect("saved");
        }
        std::fs::write(dir.path().join("00.json"), "{").expect("written");
        let all = load(dir.path(), 1_099_999);
        assert_eq!(all.len(), 2);
        assert_eq!(all["example.com"], one);
        assert_eq!(load_one(dir.path(), "../../etc/passwd"), Some(other));
        assert!(dir.path().join("00.damaged").exists());
        assert_eq!(load(dir.path(), 1_100_000).len(), 0);
        assert_eq!(load_one(dir.path(), "example.com"), None);
    }

    #[test]
    fn due_after_half_of_its_life_while_it_is_used() {
        let mut kept = kept("example.com");
        let due = |kept: &Kept, now| kept.is_due(now);
        assert!(!due(&kept, 1_049_999));
        assert!(due(&kept, 1_050_000));
        assert!(!due(&kept, 1_100_000), "it has ended");
        kept.policy.max_age = 31_557_600;
        let half = 1_000_000 + 15_778_800_000;
        assert!(!due(&kept, half), "nobody used it");
        kept.used = half;
        assert!(due(&kept, half));
    }
}
