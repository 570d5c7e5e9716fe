//! Password hashes of other servers: scrypt in PHC form (chasquid), bcrypt, and SHA-256 and SHA-512
//! of crypt(3). They are verified, never made; the next login replaces them by ours.

use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use scrypt::Params;
use sha_crypt::ShaCrypt;

use super::password::{MOST_MEMORY, PasswordError};

/// Most that the exponent of bcrypt may be: two to the power of it are the rounds.
const MOST_BCRYPT: u32 = 14;
/// Most rounds of crypt(3).
const MOST_ROUNDS: u32 = 1_000_000;

/// The kinds we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scrypt,
    Bcrypt,
    ShaCrypt,
}

fn kind(hash: &str) -> Option<Kind> {
    let starts = |heads: &[&str]| heads.iter().any(|head| hash.starts_with(head));
    match hash {
        _ if starts(&["$scrypt$"]) => Some(Kind::Scrypt),
        _ if starts(&["$2a$", "$2b$", "$2x$", "$2y$"]) => Some(Kind::Bcrypt),
        _ if starts(&["$5$", "$6$"]) => Some(Kind::ShaCrypt),
        _ => None,
    }
}

/// Whether a hash can be verified with at bounded cost; `None`: it is of no kind of others.
pub(super) fn check(hash: &str) -> Option<Result<(), PasswordError>> {
    let bounded = |cheap: bool| match cheap {
        true => Ok(()),
        false => Err(PasswordError::TooCostly),
    };
    Some(match kind(hash)? {
        Kind::Scrypt => scrypt_params(hash)
            .ok_or(PasswordError::NoHash)
            .and_then(|params| {
                let blocks = 1u64
                    .checked_shl(u32::from(params.log_n()))
                    .unwrap_or(u64::MAX);
                let memory = blocks.saturating_mul(128 * u64::from(params.r())) / 1024;
                bounded(memory <= u64::from(MOST_MEMORY) && params.p() <= 4)
            }),
        Kind::Bcrypt => hash
            .get(4..6)
            .filter(|_| hash.len() == 60)
            .and_then(|cost| cost.parse::<u32>().ok())
            .ok_or(PasswordError::NoHash)
            .and_then(|cost| bounded(cost <= MOST_BCRYPT)),
        Kind::ShaCrypt => {
            let mut parts = hash.split('$').skip(2).peekable();
            let rounds = parts.peek().and_then(|part| part.strip_prefix("rounds="));
            let rounds = match rounds.map(str::parse::<u32>) {
                None => 0,
                Some(Ok(rounds)) => {
                    parts.next();
                    rounds
                }
                Some(Err(_)) => return Some(Err(PasswordError::NoHash)),
            };
            match (parts.next(), parts.next(), parts.next()) {
                (Some(_), Some(sum), None) if !sum.is_empty() => bounded(rounds <= MOST_ROUNDS),
                _ => Err(PasswordError::NoHash),
            }
        }
    })
}

/// Whether `password` is the one that a checked hash was made of.
pub(super) fn verify(password: &[u8], hash: &str) -> bool {
    match kind(hash) {
        Some(Kind::Scrypt) => verify_scrypt(password, hash).unwrap_or(false),
        Some(Kind::Bcrypt) => bcrypt::verify(password, hash).unwrap_or(false),
        Some(Kind::ShaCrypt) => ShaCrypt::default().verify_password(password, hash).is_ok(),
        None => false,
    }
}

fn scrypt_params(hash: &str) -> Option<Params> {
    let parsed = PasswordHash::new(hash).ok()?;
    parsed.salt?;
    parsed.hash?;
    Params::try_from(&parsed.params).ok()
}

fn verify_scrypt(password: &[u8], hash: &str) -> Option<bool> {
    let parsed = PasswordHash::new(hash).ok()?;
    let expected = parsed.hash?;
    let mut sum = vec![0; expected.len()];
    let params = Params::try_from(&parsed.params).ok()?;
    scrypt::scrypt(password, parsed.salt?.as_ref(), &params, &mut sum).ok()?;
    let differences = sum
        .iter()
        .zip(expected.as_bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    Some(differences == 0)
}

#[cfg(test)]
mod tests {
    use super::super::password;

    /// Made with Python's hashlib, bcrypt and `openssl passwd`.
    const HASHES: [&str; 4] = [
        "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$0LupyHkzAIgDr9UDsriAAf87vMbCbcaUfDvFOAHk0D0",
        "$2b$10$.sqyU4mYyCkyoMnp7aBB8e4DlaM0XwzBjaeg4kJm6v8QIuO32UP9y",
        "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0",
        "$5$rounds=5001$saltsalt$ttmI310Xw4/c5iJHf1PZEbs1k9zn0tuelFh4Z2ginA2",
    ];

    #[test]
    fn hashes_of_others_know_their_password_only() {
        for hash in HASHES {
            assert_eq!(password::check(hash), Ok(()), "{hash}");
            assert!(password::verify(b"correct horse", hash), "{hash}");
            assert!(!password::verify(b"correct horsf", hash), "{hash}");
            assert!(password::is_imported(hash));
        }
    }

    #[test]
    fn dear_and_broken_ones_are_refused() {
        let [scrypt, bcrypt, _, sha] = HASHES;
        for (hash, expected) in [
            (
                scrypt.replace("ln=14", "ln=22"),
                password::PasswordError::TooCostly,
            ),
            (
                bcrypt.replace("$10$", "$20$"),
                password::PasswordError::TooCostly,
            ),
            (
                sha.replace("rounds=5001", "rounds=900000000"),
                password::PasswordError::TooCostly,
            ),
            (
                sha.replace("rounds=5001", "rounds=x"),
                password::PasswordError::NoHash,
            ),
            ("$6$salt".to_owned(), password::PasswordError::NoHash),
            ("$2b$10$short".to_owned(), password::PasswordError::NoHash),
            (
                "$scrypt$ln=14,r=8,p=1".to_owned(),
                password::PasswordError::NoHash,
            ),
            (
                "$1$salt$0000000000000000000000".to_owned(),
                password::PasswordError::NoHash,
            ),
        ] {
            assert_eq!(password::check(&hash), Err(expected), "{hash}");
        }
    }
}
