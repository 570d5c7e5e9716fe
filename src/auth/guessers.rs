//! Who guesses passwords: counts failed logins by client and by account, pure, told the time.
//!
//! A client is an IPv4 address or an IPv6 /64. The same wrong password tried again is no further
//! guess: a program with a stale password must not lock out everybody behind its address. An
//! account is never locked, or anybody could lock its owner out; replies to failures only take
//! longer. A wrong password is remembered, so that trying it again costs no hash. Nothing tells an
//! account that exists from one that does not.
//!
//! An address from which users have logged in is shared by more than the guesser: there the user
//! whose password is guessed is kept out alone, and who has logged in from there is kept out for
//! [`REGULAR`] times as many guesses at its own name only.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use queue_schema::Millis;

use super::bans::Ban;
use super::regulars::{Regulars, Seen};
use crate::config::Limits;
use chapar_base::net::is_in;

/// Clients, and accounts, that are remembered.
pub const MAX_REMEMBERED: usize = 10_000;
/// Wrong passwords of one client that are told apart.
const MAX_FINGERPRINTS: usize = 32;
/// How many times as many guesses it takes to keep out a user from where it has logged in before,
/// or all others from where users have.
pub const REGULAR: usize = 10;
/// The delay is at most this many times doubled.
const MAX_DOUBLINGS: u32 = 6;

/// The counts.
#[derive(Debug, Default)]
pub struct Guessers {
    clients: HashMap<IpAddr, Count>,
    accounts: HashMap<String, Count>,
    /// Of one account by one client.
    pairs: HashMap<(IpAddr, String), Count>,
    bans: HashMap<(IpAddr, Option<String>), Ban>,
    regulars: Regulars,
    /// Passwords that were wrong, by fingerprint, and until when that is remembered.
    wrong: HashMap<u64, Millis>,
}

#[derive(Debug, Default)]
struct Count {
    guesses: u32,
    last: Millis,
    fingerprints: Vec<u64>,
}

/// What follows from a failed login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How long the reply waits.
    pub delay: Duration,
    /// The client is banned from now on.
    pub ban: Option<Ban>,
}

/// The client that `address` belongs to.
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Guessers {
    /// Replaces the bans by what is on disk.
    pub fn set_bans(&mut self, bans: Vec<Ban>) {
        self.bans = bans.into_iter().map(|ban| (key(&ban), ban)).collect();
    }

    /// Replaces who has logged in from where by what is on disk.
    pub fn set_regulars(&mut self, regulars: Regulars) {
        self.regulars = regulars;
    }

    /// Whether `user` has logged in from `address` before.
    pub fn is_regular(&self, address: IpAddr, user: &str, now: Millis) -> bool {
        self.regulars.knows(client(address), user, now)
    }

    /// Whether `user` may not log in from `address`.
    pub fn is_banned(&self, address: IpAddr, user: &str, now: Millis) -> bool {
        let client = client(address);
        let regular = self.regulars.knows(client, user, now);
        [None, Some(user.to_owned())].into_iter().any(|only| {
            let ban = self.bans.get(&(client, only));
            ban.is_some_and(|ban| ban.until > now && ban.keeps_out(client, user, regular))
        })
    }

    /// Whether this user and password were wrong a while ago, and no user has changed since.
    pub fn is_wrong(&self, fingerprint: u64, now: Millis) -> bool {
        self.wrong
            .get(&fingerprint)
            .is_some_and(|until| *until > now)
    }

    /// A password was found to be wrong.
    pub fn remember_wrong(&mut self, fingerprint: u64, limits: &Limits, now: Millis) {
        if self.wrong.len() >= MAX_REMEMBERED {
            self.wrong.retain(|_, until| *until > now);
        }
        if self.wrong.len() >= MAX_REMEMBERED {
            self.wrong.clear();
        }
        let until = now.saturating_add(crate::time::millis(limits.ban.0));
        self.wrong.insert(fingerprint, until);
    }

    /// Users may have changed: what was wrong may be right now.
    pub fn forget_wrong(&mut self) {
        self.wrong.clear();
    }

    /// Takes note of a failed login. `fingerprint` is the same for the same user and password.
    pub fn failed(
        &mut self,
        address: IpAddr,
        user: &str,
        fingerprint: u64,
        limits: &Limits,
        now: Millis,
    ) -> Verdict {
        let window = crate::time::millis(limits.ban.0);
        let client = client(address);
        let by_client = count(&mut self.clients, client, fingerprint, window, now);
        let by_account = count(
            &mut self.accounts,
            user.to_owned(),
            fingerprint,
            window,
            now,
        );
        let doublings = by_client
            .max(by_account)
            .saturating_sub(1)
            .min(MAX_DOUBLINGS);
        let delay = limits.guess_delay.0.saturating_mul(1 << doublings);
        let pair = (client, user.to_owned());
        let by_pair = count(&mut self.pairs, pair.clone(), fingerprint, window, now);
        if is_in(&limits.never_ban, address) {
            return Verdict { delay, ban: None };
        }
        let many = |guesses: u32, regular: bool| {
            let times = if regular { REGULAR } else { 1 };
            let most = limits.guesses.saturating_mul(times);
            usize::try_from(guesses).unwrap_or(usize::MAX) >= most
        };
        let shared = self.regulars.knows_any(client, now);
        let regular = self.regulars.knows(client, user, now);
        let ban = |guesses, only_user| Ban {
            address: client,
            until: now.saturating_add(window),
            guesses,
            user: user.to_owned(),
            only_user,
        };
        let ban = match () {
            () if many(by_client, shared) => Some(ban(by_client, false)),
            () if shared && many(by_pair, regular) => Some(ban(by_pair, true)),
            () => None,
        };
        if let Some(ban) = &ban {
            match ban.only_user {
                true => drop(self.pairs.remove(&pair)),
                false => drop(self.clients.remove(&client)),
            }
            self.bans.insert(key(ban), ban.clone());
        }
        Verdict { delay, ban }
    }

    /// Takes note of a right one: its owner's earlier failures cost the account nothing more. Who
    /// has logged in from where, if that should be written.
    pub fn succeeded(&mut self, address: IpAddr, user: &str, now: Millis) -> Option<Vec<Seen>> {
        self.accounts.remove(user);
        let new = self.regulars.note(client(address), user, now);
        new.then(|| self.regulars.list())
    }
}

fn key(ban: &Ban) -> (IpAddr, Option<String>) {
    (ban.address, ban.only().map(str::to_owned))
}

/// One more guess of `key`, unless the same one was made before; how many there were.
fn count<K: Hash + Eq>(
    counts: &mut HashMap<K, Count>,
    key: K,
    fingerprint: u64,
    window: Millis,
    now: Millis,
) -> u32 {
    if counts.len() >= MAX_REMEMBERED && !counts.contains_key(&key) {
        counts.retain(|_, count| now.saturating_sub(count.last) < window);
        let mut excess = counts.len().saturating_sub(MAX_REMEMBERED * 3 / 4);
        counts.retain(|_, _| {
            let keep = excess == 0;
            excess = excess.saturating_sub(1);
            keep
        });
    }
    let count = counts.entry(key).or_default();
    if now.saturating_sub(count.last) >= window {
        *count = Count::default();
    }
    count.last = now;
    if !count.fingerprints.contains(&fingerprint) {
        count.guesses = count.guesses.saturating_add(1);
        if count.fingerprints.len() >= MAX_FINGERPRINTS {
            count.fingerprints.remove(0);
        }
        count.fingerprints.push(fingerprint);
    }
    count.guesses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    fn limits() -> Limits {
        Limits {
            guesses: 4,
            ban: Span::hours(1),
            guess_delay: Span::secs(1),
            ..Limits::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn guesses_are_slowed_and_then_banned() {
        let mut guessers = Guessers::default();
        let (limits, a, b) = (limits(), ip("192.0.2.1"), ip("192.0.2.2"));
        let delays: Vec<_> = (0..4)
            .map(|guess| guessers.failed(a, "alice@example.org", guess, &limits, 1000))
            .map(|verdict| (verdict.delay.as_secs(), verdict.ban.is_some()))
            .collect();
        assert_eq!(delays, [(1, false), (2, false), (4, false), (8, true)]);
        assert!(guessers.is_banned(a, "alice@example.org", 1000));
        assert!(
            !guessers.is_banned(b, "alice@example.org", 1000),
            "the owner gets in from elsewhere"
        );
        assert!(!guessers.is_banned(a, "alice@example.org", 1000 + 3_600_000));
    }

    #[test]
    fn one_stale_password_is_one_guess() {
        let mut guessers = Guessers::default();
        let (limits, shared) = (limits(), ip("192.0.2.1"));
        for _ in 0..50 {
            let verdict = guessers.failed(shared, "bob@example.org", 7, &limits, 0);
            assert_eq!((verdict.delay.as_secs(), verdict.ban), (1, None));
        }
        assert!(!guessers.is_banned(shared, "bob@example.org", 0));
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_old_guesses_are_forgotten() {
        let mut guessers = Guessers::default();
        let limits = limits();
        for guess in 0..4 {
            let address = ip(&format!("2001:db8::{guess}"));
            guessers.failed(address, &format!("user{guess}"), guess, &limits, 0);
        }
        assert!(guessers.is_banned(ip("2001:db8::ffff"), "x", 1));
        assert!(!guessers.is_banned(ip("2001:db8:0:1::1"), "x", 1));
        let other = ip("192.0.2.1");
        for hour in 0..10 {
            let verdict = guessers.failed(other, "x", hour, &limits, hour * 3_600_000);
            assert_eq!(verdict.ban, None);
        }
    }

    #[test]
    fn s7_who_shares_an_address_with_a_guesser_is_not_kept_out_with_it() {
        let mut guessers = Guessers::default();
        let (limits, nat) = (limits(), ip("192.0.2.1"));
        let (ann, bob, eve) = ("ann@example.org", "bob@example.org", "eve@example.org");
        assert!(guessers.succeeded(nat, ann, 0).is_some());
        assert!(guessers.succeeded(nat, ann, 1).is_none(), "once a day");
        // Guesses at bob keep bob out from there, and nobody else.
        let bans: Vec<_> = (0..4)
            .filter_map(|guess| guessers.failed(nat, bob, guess, &limits, 10).ban)
            .map(|ban| (ban.only().map(str::to_owned), ban.guesses))
            .collect();
        assert_eq!(bans, [(Some(bob.to_owned()), 4)]);
        assert!(guessers.is_banned(nat, bob, 10));
        assert!(!guessers.is_banned(nat, ann, 10) && !guessers.is_banned(nat, eve, 10));
        assert!(!guessers.is_banned(ip("192.0.2.2"), bob, 10));
        // At ann, who has logged in from there, it takes ten times as many.
        let ban = (0..36).find_map(|n| guessers.failed(nat, ann, 100 + n, &limits, 10).ban);
        let all = ban.expect("40 guesses of this client in all keep the others out");
        assert_eq!((all.only(), all.guesses), (None, 40));
        assert!(guessers.is_banned(nat, eve, 10) && !guessers.is_banned(nat, ann, 10));
        let ban = (0..4).find_map(|n| guessers.failed(nat, ann, 200 + n, &limits, 10).ban);
        assert_eq!(
            ban.and_then(|ban| ban.only().map(str::to_owned)),
            Some(ann.to_owned())
        );
        assert!(guessers.is_banned(nat, ann, 10));
    }

    #[test]
    fn s7_networks_that_are_never_banned_are_slowed_only() {
        let mut guessers = Guessers::default();
        let limits = Limits {
            never_ban: vec!["172.16.0.0/12".parse().expect("network")],
            ..limits()
        };
        let gateway = ip("::ffff:172.17.0.1");
        for guess in 0..100 {
            let verdict = guessers.failed(gateway, "ann@example.org", guess, &limits, 0);
            assert_eq!(verdict.ban, None);
            let doubled = 1 << guess.min(6);
            assert_eq!(verdict.delay.as_secs(), doubled);
        }
        assert!(!guessers.is_banned(gateway, "ann@example.org", 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guessers = Guessers::default();
        let limits = limits();
        for n in 0..3 * MAX_REMEMBERED as u32 {
            let address = IpAddr::from(n.to_be_bytes());
            guessers.failed(address, &n.to_string(), u64::from(n), &limits, 0);
        }
        assert!(guessers.clients.len() <= MAX_REMEMBERED);
        assert!(guessers.accounts.len() <= MAX_REMEMBERED);
        assert!(guessers.pairs.len() <= MAX_REMEMBERED);
        for n in 0..3 * MAX_REMEMBERED as u64 {
            guessers.remember_wrong(n, &limits, 0);
        }
        assert!(guessers.wrong.len() <= MAX_REMEMBERED);
    }
}
