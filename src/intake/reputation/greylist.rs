//! Greylisting: who has not been here before is asked to come again (RFC 6647). Pure: asked with
//! the time, decides, and says what changed.
//!
//! An entry is a triplet of who sends, reverse-path and recipient. Who sends is the domain of the
//! reverse-path where SPF passes for it, so that a provider with a thousand hosts is one; else the
//! client's network. Whoever came back [`Rules::known`] times is not asked again.

use std::collections::HashMap;
use std::net::IpAddr;

use queue_schema::Millis;
use ring::digest::{SHA256, digest};

/// What an entry is found by.
pub type Key = [u8; 16];

/// The rules of `[greylist]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Who comes again before this time waits on.
    pub wait: Millis,
    /// Who does not come again in this time is new.
    pub window: Millis,
    /// Who was let in and does not come for this time is new.
    pub keep: Millis,
    /// So often who sends has to come back to be asked no more.
    pub known: u32,
    /// Entries that are kept.
    pub most: usize,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Pass,
    /// It is to come again in so many milliseconds.
    Wait(Millis),
}

/// What is remembered of a triplet, or of who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// When it came first.
    pub first: Millis,
    /// When it was let in last; 0: not yet.
    pub last: Millis,
    /// How often it came back.
    pub passed: u32,
}

/// All that is remembered.
#[derive(Debug, Default)]
pub struct Book {
    entries: HashMap<Key, Entry>,
    changed: Vec<(Key, Entry)>,
    /// When room was looked for last.
    swept: Millis,
}

/// How far `last` may be behind: not every message is worth a write.
const GRAIN: Millis = 3_600_000;

/// Who sends: a domain that SPF proves, or a network.
pub fn sender(proven: Option<&str>, client: IpAddr) -> String {
    match (proven, client.to_canonical()) {
        (Some(domain), _) => format!("domain {}", domain.to_lowercase()),
        (None, IpAddr::V4(v4)) => {
            let [a, b, c, _] = v4.octets();
            format!("network {a}.{b}.{c}.0/24")
        }
        (None, IpAddr::V6(v6)) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("network {a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// The key of some words.
pub fn key(words: &[&str]) -> Key {
    let mut key = Key::default();
    let hash = digest(&SHA256, words.join("\0").to_lowercase().as_bytes());
    for (to, from) in key.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    key
}

impl Book {
    /// Whether mail of `who` with this triplet may pass `now`.
    pub fn ask(&mut self, who: Key, triplet: Key, now: Millis, rules: &Rules) -> Verdict {
        if let Some(known) = self.alive(who, now, rules)
            && known.passed >= rules.known
        {
            self.seen(who, known, now);
            return Verdict::Pass;
        }
        let Some(entry) = self.alive(triplet, now, rules) else {
            if !self.room(now, rules) {
                return Verdict::Pass;
            }
            let entry = Entry {
                first: now,
                ..Entry::default()
            };
            self.put(triplet, entry);
            return Verdict::Wait(rules.wait);
        };
        if entry.passed > 0 {
            self.seen(triplet, entry, now);
            return Verdict::Pass;
        }
        let left = (entry.first + rules.wait).saturating_sub(now);
        if left > 0 {
            return Verdict::Wait(left);
        }
        let known = self.alive(who, now, rules).unwrap_or(Entry {
            first: now,
            ..Entry::default()
        });
        for (key, entry) in [(triplet, entry), (who, known)] {
            let back = Entry {
                last: now,
                passed: entry.passed.saturating_add(1),
                ..entry
            };
            self.put(key, back);
        }
        Verdict::Pass
    }

    /// Takes what was read from disk; a later entry of a key replaces an earlier one.
    pub fn restore(&mut self, key: Key, entry: Entry) {
        self.entries.insert(key, entry);
    }

    /// What changed since this was asked last.
    pub fn changed(&mut self) -> Vec<(Key, Entry)> {
        std::mem::take(&mut self.changed)
    }

    /// Everything.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn alive(&self, key: Key, now: Millis, rules: &Rules) -> Option<Entry> {
        let entry = self.entries.get(&key)?;
        is_alive(entry, now, rules).then_some(*entry)
    }

    fn seen(&mut self, key: Key, entry: Entry, now: Millis) {
        if now.saturating_sub(entry.last) >= GRAIN {
            self.put(key, Entry { last: now, ..entry });
        }
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.entries.insert(key, entry);
        self.changed.push((key, entry));
    }

    /// Whether there is room for one more. Where there is none even without those that are over,
    /// mail passes: whoever fills the book must not keep others out.
    fn room(&mut self, now: Millis, rules: &Rules) -> bool {
        // An entry may bring that of who sends.
        let most = rules.most.max(2);
        if self.entries.len() + 2 > most && now.saturating_sub(self.swept) >= 60_000 {
            self.swept = now;
            self.entries.retain(|_, entry| is_alive(entry, now, rules));
        }
        self.entries.len() + 2 <= most
    }
}

/// A clock that was set back makes no entry of the future last longer.
fn is_alive(entry: &Entry, now: Millis, rules: &Rules) -> bool {
    let (since, time) = match entry.last {
        0 => (entry.first, rules.window),
        last => (last, rules.keep),
    };
    since <= now.saturating_add(rules.wait) && now.saturating_sub(since) < time
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Millis = 60_000;
    const HOUR: Millis = 60 * MINUTE;
    const RULES: Rules = Rules {
        wait: 5 * MINUTE,
        window: 48 * HOUR,
        keep: 35 * 24 * HOUR,
        known: 2,
        most: 1000,
    };

    fn ask(book: &mut Book, who: &str, to: &str, now: Millis) -> Verdict {
        book.ask(key(&[who]), key(&[who, "a@b.example", to]), now, &RULES)
    }

    #[test]
    fn who_comes_back_in_time_passes_and_is_known_after_some_times() {
        let mut book = Book::default();
        let start = 1_000 * HOUR;
        assert_eq!(ask(&mut book, "x", "1", start), Verdict::Wait(5 * MINUTE));
        assert_eq!(
            ask(&mut book, "x", "1", start + MINUTE),
            Verdict::Wait(4 * MINUTE)
        );
        assert_eq!(ask(&mut book, "x", "1", start + 5 * MINUTE), Verdict::Pass);
        assert_eq!(ask(&mut book, "x", "1", start + 6 * MINUTE), Verdict::Pass);
        assert!(matches!(
            ask(&mut book, "x", "2", start + HOUR),
            Verdict::Wait(_)
        ));
        assert_eq!(ask(&mut book, "x", "2", start + 2 * HOUR), Verdict::Pass);
        // Twice back: it is known.
        assert_eq!(ask(&mut book, "x", "3", start + 3 * HOUR), Verdict::Pass);
        assert!(matches!(
            ask(&mut book, "y", "3", start + 3 * HOUR),
            Verdict::Wait(_)
        ));
    }

    #[test]
    fn what_is_over_begins_anew() {
        let mut book = Book::default();
        let start = 1_000 * HOUR;
        ask(&mut book, "x", "1", start);
        assert_eq!(
            ask(&mut book, "x", "1", start + 48 * HOUR),
            Verdict::Wait(5 * MINUTE)
        );
        assert_eq!(ask(&mut book, "x", "1", start + 49 * HOUR), Verdict::Pass);
        let later = start + 49 * HOUR + RULES.keep;
        assert_eq!(ask(&mut book, "x", "1", later), Verdict::Wait(5 * MINUTE));
        // A clock set back: nothing waits for a time that never comes.
        assert_eq!(ask(&mut book, "x", "1", start), Verdict::Wait(5 * MINUTE));
        assert_eq!(ask(&mut book, "x", "1", start + 5 * MINUTE), Verdict::Pass);
    }

    #[test]
    fn a_full_book_keeps_nobody_out() {
        let mut book = Book::default();
        let start = 1_000 * HOUR;
        for number in 0..2_000 {
            ask(&mut book, "x", &number.to_string(), start);
        }
        assert!(book.len() <= RULES.most);
        assert_eq!(ask(&mut book, "new", "1", start), Verdict::Pass);
        assert!(matches!(
            ask(&mut book, "new", "1", start + 48 * HOUR),
            Verdict::Wait(_)
        ));
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn what_changed_restores_the_book() {
        let mut book = Book::default();
        ask(&mut book, "x", "1", HOUR);
        ask(&mut book, "x", "1", 2 * HOUR);
        let mut other = Book::default();
        for (key, entry) in book.changed() {
            other.restore(key, entry);
        }
        assert_eq!(other.entries, book.entries);
        assert!(book.changed().is_empty());
    }

    #[test]
    fn networks_and_proven_domains() {
        let ip = |text: &str| text.parse().expect(text);
        assert_eq!(sender(None, ip("192.0.2.9")), "network 192.0.2.0/24");
        assert_eq!(sender(None, ip("::ffff:192.0.2.9")), "network 192.0.2.0/24");
        assert_eq!(sender(None, ip("2001:db8::1")), "network 2001:db8:0:0::/64");
        assert_eq!(
            sender(Some("Gmail.example"), ip("::1")),
            "domain gmail.example"
        );
    }
}
