//! Who guesses passwords: counts failed logins by client and by account, pure, told the time.
//!
//! A client is an IPv4 address or an IPv6 /64. The same wrong password tried again is no further
//! guess: a program with a stale password must not lock out everybody behind its address. An
//! account is never locked, or anybody could lock its owner out; replies to failures only take
//! longer. Nothing tells an account that exists from one that does not.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use queue_schema::Millis;

use super::bans::Ban;
use crate::config::Limits;

/// Clients, and accounts, that are remembered.
pub const MAX_REMEMBERED: usize = 10_000;
/// Wrong passwords of one client that are told apart.
const MAX_FINGERPRINTS: usize = 32;
/// The delay is at most this many times doubled.
const MAX_DOUBLINGS: u32 = 6;

/// The counts.
#[derive(Debug, Default)]
pub struct Guessers {
    clients: HashMap<IpAddr, Count>,
    accounts: HashMap<String, Count>,
    bans: HashMap<IpAddr, Ban>,
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
        self.bans = bans.into_iter().map(|ban| (ban.address, ban)).collect();
    }

    /// Whether `address` may not log in.
    pub fn is_banned(&self, address: IpAddr, now: Millis) -> bool {
        self.bans
            .get(&client(address))
            .is_some_and(|ban| ban.until > now)
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
        let too_many = usize::try_from(by_client).unwrap_or(usize::MAX) >= limits.guesses;
        let ban = too_many.then(|| Ban {
            address: client,
            until: now.saturating_add(window),
            guesses: by_client,
            user: user.to_owned(),
        });
        if let Some(ban) = &ban {
            self.clients.remove(&client);
            self.bans.insert(client, ban.clone());
        }
        Verdict { delay, ban }
    }

    /// Takes note of a right one: its owner's earlier failures cost the account nothing more.
    pub fn succeeded(&mut self, user: &str) {
        self.accounts.remove(user);
    }
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
        assert!(guessers.is_banned(a, 1000));
        assert!(
            !guessers.is_banned(b, 1000),
            "the owner gets in from elsewhere"
        );
        assert!(!guessers.is_banned(a, 1000 + 3_600_000));
    }

    #[test]
    fn one_stale_password_is_one_guess() {
        let mut guessers = Guessers::default();
        let (limits, shared) = (limits(), ip("192.0.2.1"));
        for _ in 0..50 {
            let verdict = guessers.failed(shared, "bob@example.org", 7, &limits, 0);
            assert_eq!((verdict.delay.as_secs(), verdict.ban), (1, None));
        }
        assert!(!guessers.is_banned(shared, 0));
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_old_guesses_are_forgotten() {
        let mut guessers = Guessers::default();
        let limits = limits();
        for guess in 0..4 {
            let address = ip(&format!("2001:db8::{guess}"));
            guessers.failed(address, &format!("user{guess}"), guess, &limits, 0);
        }
        assert!(guessers.is_banned(ip("2001:db8::ffff"), 1));
        assert!(!guessers.is_banned(ip("2001:db8:0:1::1"), 1));
        let other = ip("192.0.2.1");
        for hour in 0..10 {
            let verdict = guessers.failed(other, "x", hour, &limits, hour * 3_600_000);
            assert_eq!(verdict.ban, None);
        }
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
    }
}
