//! From where users have logged in: `auth/regulars.json` in `data_dir`.
//!
//! Pure but for [`load`] and [`save`], which run at the start and on the pool. What it is for: who
//! shares an address with a guesser (a NAT, a webmail, a container's gateway) must not be kept out
//! with it. A convenience: a file that is lost or damaged begins again empty. Never holds more than
//! [`MOST`] pairs, nor [`MOST_OF_ONE`] of one user.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use crate::config::files;
use crate::time::DAY;

/// How long a login is remembered.
pub const KEPT: Millis = 30 * DAY;
/// Pairs of client and user that are remembered; beyond it the oldest go.
pub const MOST: usize = 10_000;
/// Clients of one user that are remembered: one user must not take the places of all others.
pub const MOST_OF_ONE: usize = 100;

/// Who has logged in from where.
#[derive(Debug, Default)]
pub struct Regulars {
    /// By client and user: when last.
    seen: HashMap<IpAddr, HashMap<String, Millis>>,
}

/// One pair, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// An IPv4 address, or the first address of an IPv6 /64.
    address: IpAddr,
    /// The user's name as it is compared.
    user: String,
    /// When it logged in last.
    last: Millis,
}

impl Regulars {
    /// Whether `user` has logged in from `client`.
    pub fn knows(&self, client: IpAddr, user: &str, now: Millis) -> bool {
        let last = self.seen.get(&client).and_then(|users| users.get(user));
        last.is_some_and(|last| is_recent(*last, now))
    }

    /// Whether anybody has.
    pub fn knows_any(&self, client: IpAddr, now: Millis) -> bool {
        let users = self.seen.get(&client);
        users.is_some_and(|users| users.values().any(|last| is_recent(*last, now)))
    }

    /// Takes note of a login, once a day for each pair; true: the file should be written again.
    pub fn note(&mut self, client: IpAddr, user: &str, now: Millis) -> bool {
        let users = self.seen.entry(client).or_default();
        if let Some(last) = users.get(user)
            && now.saturating_sub(*last) < DAY
        {
            return false;
        }
        users.insert(user.to_owned(), now);
        self.bound(user, now);
        true
    }

    /// Every pair, the newest first.
    pub fn list(&self) -> Vec<Seen> {
        let pairs = self.seen.iter().flat_map(|(address, users)| {
            users.iter().map(|(user, last)| Seen {
                address: *address,
                user: user.clone(),
                last: *last,
            })
        });
        let mut all: Vec<Seen> = pairs.collect();
        all.sort_by_key(|seen| std::cmp::Reverse(seen.last));
        all
    }

    fn bound(&mut self, user: &str, now: Millis) {
        let all = self.seen.values().map(HashMap::len).sum::<usize>();
        let own = self.seen.values();
        let own = own.filter(|users| users.contains_key(user)).count();
        if all <= MOST && own <= MOST_OF_ONE {
            return;
        }
        let mut of_user = 0;
        let mut list = self.list();
        list.retain(|seen| {
            of_user += usize::from(seen.user == user);
            is_recent(seen.last, now) && (seen.user != user || of_user <= MOST_OF_ONE)
        });
        list.truncate(MOST);
        *self = list.into();
    }
}

impl From<Vec<Seen>> for Regulars {
    fn from(list: Vec<Seen>) -> Regulars {
        let mut regulars = Regulars::default();
        for seen in list {
            let users = regulars.seen.entry(seen.address).or_default();
            users.insert(seen.user, seen.last);
        }
        regulars
    }
}

fn is_recent(last: Millis, now: Millis) -> bool {
    now.saturating_sub(last) < KEPT
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("auth/regulars.json")
}

/// Those of this `data_dir`.
pub fn load(data_dir: &Path, now: Millis) -> Regulars {
    let text = std::fs::read(path(data_dir)).unwrap_or_default();
    let mut list: Vec<Seen> = serde_json::from_slice(&text).unwrap_or_default();
    list.retain(|seen| is_recent(seen.last, now));
    list.truncate(MOST);
    list.into()
}

/// Writes them.
pub fn save(data_dir: &Path, list: &[Seen]) -> io::Result<()> {
    let text = serde_json::to_vec(list).map_err(io::Error::other)?;
    files::replace_state(&path(data_dir), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u32) -> IpAddr {
        IpAddr::from((0xC000_0200 + last).to_be_bytes())
    }

    #[test]
    fn logins_are_remembered_for_thirty_days_and_over_restarts() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::create_dir(dir.path().join("auth")).expect("directory");
        let mut regulars = Regulars::default();
        assert!(regulars.note(ip(1), "ann@example.org", DAY));
        assert!(!regulars.note(ip(1), "ann@example.org", DAY + 5));
        assert!(regulars.note(ip(1), "bob@example.org", 2 * DAY));
        save(dir.path(), &regulars.list()).expect("saved");
        let again = load(dir.path(), 2 * DAY);
        assert_eq!(again.list(), regulars.list());
        assert!(again.knows(ip(1), "ann@example.org", 2 * DAY));
        assert!(!again.knows(ip(2), "ann@example.org", 2 * DAY));
        assert!(!again.knows(ip(1), "ann@example.org", DAY + KEPT));
        assert!(again.knows_any(ip(1), DAY + KEPT), "bob came later");
        assert!(!again.knows_any(ip(1), 2 * DAY + KEPT));
        std::fs::write(path(dir.path()), b"{").expect("write");
        assert_eq!(load(dir.path(), 0).list(), []);
    }

    #[test]
    fn one_user_and_all_of_them_have_bounds() {
        let mut regulars = Regulars::default();
        for n in 0..2 * MOST_OF_ONE as u32 {
            regulars.note(ip(n), "ann@example.org", Millis::from(n));
        }
        assert_eq!(regulars.list().len(), MOST_OF_ONE);
        assert!(
            regulars.knows(ip(199), "ann@example.org", 200),
            "the newest stay"
        );
        for n in 0..MOST as u32 {
            regulars.note(ip(n), &format!("u{n}"), 1000 + Millis::from(n));
        }
        assert_eq!(regulars.list().len(), MOST);
    }
}
