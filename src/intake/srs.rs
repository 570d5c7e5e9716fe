//! SRS: reverse-paths of ours that lead back to the sender of forwarded mail.
//!
//! `SRS0=HHHHHHHH=TT=domain=local@ours` for a sender of another's domain, and
//! `SRS1=HHHHHHHH=other==...@ours` for one that another forwarder rewrote already, so that a chain
//! of forwarders does not grow. The hash is HMAC-SHA-256 over all that follows it, in lower case,
//! since mail systems change case, and over our domain, so that it holds nowhere else; 40 bits in
//! base32. The date is the day modulo 1024. Pure, except [`Keys::load`] and [`returns`].
//!
//! A local part has at most 64 octets. What would be longer, and senders that are quoted or not
//! ASCII, become `SRS0=HHHHHHHH=TT=-=KEY@ours`: whom the key stands for, this host remembers.
//!
//! The key file has one key a line, the newest first: that one signs, all verify. It is made with
//! the first use and may be rotated by putting a line on top.

pub mod returns;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::files;
use crate::smtp::address::{Address, Charset};

/// Octets of a local part that every server takes (RFC 5321 section 4.5.3.1.1).
const LONGEST: usize = 64;
/// Where the domain stands, in a short form: no domain is called so.
const SHORT: &str = "-";
/// Characters of a hash: 5 bits each.
const HASH: usize = 8;
/// Days after which a date repeats.
const CYCLE: u64 = 1024;
/// Most days that a rewritten address may be valid.
pub const MOST_DAYS: u64 = 255;
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Most keys of a file.
const MOST_KEYS: usize = 16;
/// Fewest characters of a key.
const SHORTEST_KEY: usize = 16;

/// The keys, the newest first.
pub struct Keys(Vec<hmac::Key>);

/// The key file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It can not be read or made.
    #[error("{}: {error}; see its owner and mode", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others may read it.
    #[error("{}: mode {mode:04o} lets others read this key; chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is no key.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl Keys {
    /// From texts, the newest first.
    pub fn new<T: AsRef<[u8]>>(keys: impl IntoIterator<Item = T>) -> Keys {
        let keys = keys.into_iter();
        Keys(
            keys.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
                .collect(),
        )
    }

    /// Reads `secrets/srs.key` in `dir`, and makes it if it is not there.
    pub fn load(dir: &Path) -> Result<Keys, KeysError> {
        let path = dir.join("secrets/srs.key");
        let failed = |error| KeysError::Io {
            path: path.clone(),
            error,
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                let random = SystemRandom::new().fill(&mut key);
                random
                    .map_err(|_| failed(io::Error::other("the system gives no random numbers")))?;
                let text = format!("{}\n", STANDARD.encode(key));
                let secrets = path.parent().unwrap_or(dir);
                files::create_dir(secrets, 0o700).map_err(failed)?;
                files::create(&path, text.as_bytes(), 0o600).map_err(failed)?;
                fs::read_to_string(&path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Exposed { path, mode });
        }
        let lines = text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.trim()));
        let mut keys = Vec::new();
        for (line, key) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            if key.len() < SHORTEST_KEY || keys.len() >= MOST_KEYS {
                let problem = format!(
                    "a key has at least {SHORTEST_KEY} characters, and a file at most {MOST_KEYS} keys; `openssl rand -base64 32` makes one"
                );
                return Err(KeysError::Line {
                    path,
                    line,
                    problem,
                });
            }
            keys.push(key);
        }
        if keys.is_empty() {
            let problem = "there is no key; remove the file and one is made".to_owned();
            return Err(KeysError::Line {
                path,
                line: 1,
                problem,
            });
        }
        Ok(Keys::new(keys))
    }

    fn hashes<'a>(&'a self, text: &str) -> impl Iterator<Item = String> + 'a {
        let text = text.to_ascii_lowercase();
        self.0.iter().map(move |key| {
            let tag = hmac::sign(key, text.as_bytes());
            base32(tag.as_ref())
        })
    }

    /// `=hash=text`
    fn signed(&self, kind: char, text: &str, ours: &str) -> String {
        let hash = self.hashes(&format!("{kind}={text}@{ours}")).next();
        format!("SRS{kind}={}={text}", hash.unwrap_or_default())
    }

    fn holds(&self, hash: &str, text: &str) -> bool {
        let hash = hash.to_ascii_lowercase();
        // No early end: how long this takes tells nothing about the right hash.
        self.hashes(text)
            .fold(false, |found, right| found | equal(&hash, &right))
    }

    /// `sender` as an address of `ours` that leads back to it. One that would be too long for a local
    /// part, or that a local part can not hold, is short: it leads back through [`returns`].
    pub fn rewrite(&self, sender: &Address, ours: &str, day: u64) -> Rewritten {
        let local = match other(sender.local()) {
            Some(Other::Srs0(rest)) => {
                self.signed('1', &format!("{}=={rest}", sender.domain()), ours)
            }
            // Whose SRS1 it is does not matter: it leads to the first forwarder.
            Some(Other::Srs1 { first, rest }) => {
                self.signed('1', &format!("{first}=={rest}"), ours)
            }
            None => {
                let text = format!("{}={}={}", date(day), sender.domain(), sender.local());
                self.signed('0', &text, ours)
            }
        };
        let address = format!("{local}@{ours}");
        if local.len() <= LONGEST && Address::parse(address.as_bytes()).is_ok() {
            return Rewritten {
                address,
                short: None,
            };
        }
        let key = self.key(sender);
        let text = format!("{}={SHORT}={key}", date(day));
        Rewritten {
            address: format!("{}@{ours}", self.signed('0', &text, ours)),
            short: Some(key),
        }
    }

    /// What stands for a sender in a short form: the same each time.
    fn key(&self, sender: &Address) -> String {
        let tag = self
            .0
            .first()
            .map(|key| hmac::sign(key, format!("sender {sender}").as_bytes()));
        let bytes: &[u8] = tag.as_ref().map(AsRef::as_ref).unwrap_or_default();
        base32(bytes) + &base32(bytes.get(5..).unwrap_or_default())
    }

    /// Where an address of ours leads back to; `None`: we did not make it, or it is too old.
    /// `short` knows the senders of short forms.
    pub fn reverse(
        &self,
        address: &Address,
        day: u64,
        valid_days: u64,
        short: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Address> {
        let (kind, rest) = split_prefix(address.local())?;
        let (hash, text) = rest.split_once('=')?;
        let signed = format!("{kind}={text}@{}", address.domain());
        if hash.len() != HASH || !self.holds(hash, &signed) {
            return None;
        }
        let address = match kind {
            '0' => {
                let (date, rest) = text.split_once('=')?;
                let (domain, local) = rest.split_once('=')?;
                let age = (day + CYCLE - undate(date)?) % CYCLE;
                // One day of grace for clocks that differ.
                if age > valid_days && age != CYCLE - 1 {
                    return None;
                }
                match domain {
                    SHORT => short(&local.to_ascii_lowercase())?,
                    _ => format!("{local}@{domain}"),
                }
            }
            _ => {
                let (first, rest) = text.split_once("==")?;
                format!("SRS0={rest}@{first}")
            }
        };
        Address::parse_in(address.as_bytes(), Charset::Utf8).ok()
    }
}

/// A reverse-path of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The address.
    pub address: String,
    /// What it stands for has to be remembered under this key.
    pub short: Option<String>,
}

/// Whether a local part has the form of SRS, whoever made it: `SRS0=hash=date=domain=local` or
/// `SRS1=hash=domain==...`. Others may begin with the same letters.
pub fn is_srs(local: &str) -> bool {
    let mut parts = match split_prefix(local) {
        Some((_, rest)) => rest.splitn(4, '=').skip(1),
        None => return false,
    };
    let Some((kind, _)) = split_prefix(local) else {
        return false;
    };
    match kind {
        '0' => parts.next().is_some_and(|date| date.len() == 2) && parts.count() == 2,
        _ => parts.next().is_some_and(|domain| !domain.is_empty()) && parts.next() == Some(""),
    }
}

enum Other<'a> {
    Srs0(&'a str),
    Srs1 { first: &'a str, rest: &'a str },
}

/// What another forwarder wrote: the parts that must be kept.
fn other(local: &str) -> Option<Other<'_>> {
    let (kind, rest) = split_prefix(local)?;
    match kind {
        '0' => Some(Other::Srs0(rest)),
        _ => {
            let (_, text) = rest.split_once('=')?;
            let (first, rest) = text.split_once("==")?;
            Some(Other::Srs1 { first, rest })
        }
    }
}

/// `0` or `1`, and what follows the separator: `=`, `+` or `-` behind SRS0 and SRS1.
fn split_prefix(local: &str) -> Option<(char, &str)> {
    let (prefix, rest) = local.split_at_checked(5)?;
    let kind = prefix.chars().nth(3)?;
    let srs = prefix.get(..3)?.eq_ignore_ascii_case("srs");
    let separator = prefix.ends_with(['=', '+', '-']);
    (srs && matches!(kind, '0' | '1') && separator).then_some((kind, rest))
}

/// Two digits of a day.
fn date(day: u64) -> String {
    let digit = |value: u64| {
        let at = usize::try_from(value % 32).unwrap_or_default();
        DIGITS.get(at).map_or('a', |digit| char::from(*digit))
    };
    [digit(day / 32), digit(day)].iter().collect()
}

fn undate(text: &str) -> Option<u64> {
    let digit = |byte: u8| {
        let at = DIGITS
            .iter()
            .position(|d| *d == byte.to_ascii_lowercase())?;
        u64::try_from(at).ok()
    };
    match text.as_bytes() {
        [high, low] => Some(digit(*high)? * 32 + digit(*low)?),
        _ => None,
    }
}

/// The first [`HASH`] digits of bytes.
fn base32(bytes: &[u8]) -> String {
    let mut number = 0u64;
    for byte in bytes.iter().take(5) {
        number = number << 8 | u64::from(*byte);
    }
    let digits = (0..HASH).rev().map(|place| {
        let at = usize::try_from(number >> (5 * place) & 31).unwrap_or_default();
        DIGITS.get(at).map_or('a', |digit| char::from(*digit))
    });
    digits.collect()
}

/// Compares in a time that does not depend on where two texts differ.
fn equal(a: &str, b: &str) -> bool {
    let differences = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests;
