//! Who may not log in for now: an address, or one user from there, as they lie on disk: `auth/bans.json` in `data_dir`.
//!
//! The file is the truth, and every change reads it, changes it and replaces it under a lock, so
//! that `chapar auth bans --clear` works while the daemon runs and while it does not.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use crate::config::files;

/// Bans that are kept; beyond it the one that ends first goes.
pub const MAX_BANS: usize = 10_000;

/// One client that guessed too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// An IPv4 address, or the first address of an IPv6 /64.
    pub address: IpAddr,
    /// When it ends.
    pub until: Millis,
    /// How many different guesses led to it.
    pub guesses: u32,
    /// Whom the last guess was about.
    pub user: String,
    /// Only `user` is kept out, not whoever else comes from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_user: bool,
}

impl Ban {
    /// Who is kept out from there, unless all are.
    pub fn only(&self) -> Option<&str> {
        self.only_user.then_some(self.user.as_str())
    }

    /// Whether it keeps `user` out who comes from `client`. `regular`: it has logged in from there
    /// before, and is not kept out for what others guessed.
    pub fn keeps_out(&self, client: IpAddr, user: &str, regular: bool) -> bool {
        self.address == client && self.only().map_or(!regular, |only| only == user)
    }
}

/// Where the bans of this `data_dir` are.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("auth/bans.json")
}

/// Those that last. A file that can not be read bans nobody.
pub fn load(data_dir: &Path, now: Millis) -> Vec<Ban> {
    let path = file(data_dir);
    let read = fs::read(&path)
        .and_then(|text| serde_json::from_slice::<Vec<Ban>>(&text).map_err(io::Error::other));
    match read {
        Ok(bans) => bans.into_iter().filter(|ban| ban.until > now).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::error!(target: "auth", file = %path.display(), %error, "bans can not be read");
            Vec::new()
        }
    }
}

/// Adds one; gives all that last.
pub fn add(data_dir: &Path, ban: Ban, now: Millis) -> io::Result<Vec<Ban>> {
    change(data_dir, now, |bans| {
        bans.retain(|known| (known.address, known.only()) != (ban.address, ban.only()));
        bans.push(ban);
        if bans.len() > MAX_BANS {
            bans.sort_by_key(|ban| std::cmp::Reverse(ban.until));
            bans.truncate(MAX_BANS);
        }
    })
}

/// Removes the bans of the client that `address` belongs to. False: there was none.
pub fn clear(data_dir: &Path, address: IpAddr, now: Millis) -> io::Result<bool> {
    let client = super::guessers::client(address);
    let mut found = false;
    change(data_dir, now, |bans| {
        let before = bans.len();
        bans.retain(|ban| ban.address != client);
        found = bans.len() != before;
    })?;
    Ok(found)
}

fn change(
    data_dir: &Path,
    now: Millis,
    change: impl FnOnce(&mut Vec<Ban>),
) -> io::Result<Vec<Ban>> {
    let path = file(data_dir);
    let dir = data_dir.join("auth");
    files::create_dir(&dir, 0o700)?;
    let _lock = files::lock(&dir)?;
    let mut bans = load(data_dir, now);
    change(&mut bans);
    let text = serde_json::to_vec_pretty(&bans).map_err(io::Error::other)?;
    files::replace_state(&path, &text, 0o600)?;
    Ok(bans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_survive_and_can_be_cleared() {
        let dir = tempfile::tempdir().expect("directory");
        let ban = |address: &str, until| Ban {
            address: address.parse().expect("address"),
            until,
            guesses: 10,
            user: "alice@example.org".into(),
            only_user: false,
        };
        assert_eq!(load(dir.path(), 0), []);
        add(dir.path(), ban("192.0.2.1", 100), 0).expect("add");
        add(dir.path(), ban("2001:db8::", 200), 0).expect("add");
        add(dir.path(), ban("192.0.2.1", 150), 0).expect("add");
        assert_eq!(
            load(dir.path(), 0),
            [ban("2001:db8::", 200), ban("192.0.2.1", 150)]
        );
        assert_eq!(load(dir.path(), 150), [ban("2001:db8::", 200)]);
        let address = "2001:db8::7".parse().expect("address");
        assert!(clear(dir.path(), address, 0).expect("clear"));
        assert!(!clear(dir.path(), address, 0).expect("clear"));
        assert_eq!(load(dir.path(), 0), [ban("192.0.2.1", 150)]);
        let only = Ban {
            only_user: true,
            ..ban("192.0.2.1", 150)
        };
        add(dir.path(), only.clone(), 0).expect("add");
        assert_eq!(load(dir.path(), 0), [ban("192.0.2.1", 150), only]);
        assert!(clear(dir.path(), [192, 0, 2, 1].into(), 0).expect("clear"));
        assert_eq!(load(dir.path(), 0), [], "both");
        fs::write(file(dir.path()), "garbage").expect("write");
        assert_eq!(load(dir.path(), 0), []);
    }
}
