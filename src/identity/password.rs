//! Password hashes: argon2id (RFC 9106) in PHC form. Pure functions that take tens of milliseconds
//! and 19 MiB each: never on an arbiter.

use std::borrow::Cow;
use std::fmt::Write as _;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};

use super::imported;
use crate::smtp::scram;

/// Memory of one hash, KiB (OWASP's first choice for argon2id).
pub const MEMORY: u32 = 19 * 1024;
/// Passes over it.
pub const PASSES: u32 = 2;
/// Lanes.
pub const LANES: u32 = 1;
/// Longest password that is looked at, octets.
pub const LONGEST: usize = 1024;
/// Shortest password that `chapar user` takes, octets.
pub const SHORTEST: usize = 8;
/// Most memory that a hash in a file may ask for, KiB.
pub const MOST_MEMORY: u32 = 256 * 1024;
/// Most passes that a hash in a file may ask for.
pub const MOST_PASSES: u32 = 16;

/// A hash with our parameters whose password nobody knows: that of users who only receive.
pub const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9ubw$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A password or a hash that can not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short, too long, or with characters that clients can not type.
    #[error("a password has {SHORTEST} to {LONGEST} octets and no control characters")]
    Unfit,
    /// Not `$argon2id$v=19$m=...,t=...,p=...$salt$hash`.
    #[error(
        "this is no argon2id hash of version 19 in PHC form, nor scrypt, bcrypt or crypt(3) of SHA"
    )]
    NoHash,
    /// A hash that would take too much of the machine at each login.
    #[error("this hash asks for more than {MOST_MEMORY} KiB or {MOST_PASSES} passes")]
    TooCostly,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// The form of a password that is hashed, by SASLprep (RFC 4616 section 2, RFC 4013): however a
/// client composes an accent, it is the same password. What that can not prepare stays as it is.
fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        Some(Cow::Borrowed(_)) | None => Cow::Borrowed(password),
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(|_| PasswordError::TooCostly)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes `password` with a new salt.
pub fn hash(password: &[u8]) -> Result<String, PasswordError> {
    let length = SHORTEST..=LONGEST;
    if !length.contains(&password.len()) || password.iter().any(u8::is_ascii_control) {
        return Err(PasswordError::Unfit);
    }
    let mut salt = [0; 16];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| PasswordError::NoRandomness)?;
    let hash = hasher()?.hash_password_with_salt(&prepared(password), &salt);
    Ok(hash.map_err(|_| PasswordError::NoHash)?.to_string())
}

/// What is kept of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// The argon2id hash, for PLAIN and LOGIN.
    pub hash: String,
    /// The SCRAM-SHA-256 verifier in the form of RFC 5803.
    pub scram: String,
}

/// Hashes `password` in both ways, each with a new salt.
pub fn secrets(password: &[u8]) -> Result<Secrets, PasswordError> {
    Ok(Secrets {
        hash: hash(password)?,
        scram: scram(password)?.to_string(),
    })
}

/// The SCRAM verifier of `password` with a new salt.
pub fn scram(password: &[u8]) -> Result<scram::Verifier, PasswordError> {
    let mut salt = [0; scram::SALT];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| PasswordError::NoRandomness)?;
    let password = prepared(password);
    Ok(scram::Verifier::new(&password, &salt, scram::ITERATIONS))
}

/// Whether `password` is the one that `hash` was made of, prepared or as it was typed: others may
/// have hashed it so. Anything that is no hash: no.
pub fn verify(password: &[u8], hash: &str) -> bool {
    if password.len() > LONGEST || check(hash).is_err() {
        return false;
    }
    let prepared = prepared(password);
    verify_form(&prepared, hash) || (*prepared != *password && verify_form(password, hash))
}

fn verify_form(password: &[u8], hash: &str) -> bool {
    if is_imported(hash) {
        return imported::verify(password, hash);
    }
    let Ok(parsed) = PasswordHash::new(hash) else {
        return false;
    };
    Argon2::default().verify_password(password, &parsed).is_ok()
}

/// Does what [`verify`] does for a user who exists, and answers no: the time of a refusal must not
/// tell whether there is such a user.
pub fn verify_nobody(password: &[u8]) -> bool {
    verify(password, NOBODY);
    false
}

/// Whether `hash` is of another kind than [`hash`] makes, and should be replaced.
pub fn is_imported(hash: &str) -> bool {
    imported::check(hash).is_some()
}

/// Whether `hash` can be verified with at bounded cost.
pub fn check(hash: &str) -> Result<(), PasswordError> {
    if let Some(checked) = imported::check(hash) {
        return checked;
    }
    let parsed = PasswordHash::new(hash).map_err(|_| PasswordError::NoHash)?;
    let ours = Algorithm::Argon2id.ident();
    let well = parsed.algorithm == ours
        && parsed.version == Some(u32::from(Version::V0x13))
        && parsed.salt.is_some()
        && parsed.hash.is_some();
    let params = Params::try_from(&parsed).map_err(|_| PasswordError::NoHash)?;
    if !well {
        return Err(PasswordError::NoHash);
    }
    if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES || params.p_cost() > 16 {
        return Err(PasswordError::TooCostly);
    }
    Ok(())
}

/// A new password: 24 of 32 letters and digits that are not taken for each other, in groups of six;
/// 120 bits.
pub fn generate() -> Result<String, PasswordError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0u8; 24];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| PasswordError::NoRandomness)?;
    let mut password = String::new();
    for (at, byte) in random.iter().enumerate() {
        if at > 0 && at % 6 == 0 {
            password.push('-');
        }
        let letter = LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'x');
        let _ = password.write_char(char::from(letter));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_only() {
        let hashed = hash(b"correct horse").expect("hash");
        assert!(
            hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hashed}"
        );
        assert!(verify(b"correct horse", &hashed));
        assert!(!verify(b"correct horsf", &hashed));
        assert!(!verify(b"", &hashed));
        assert!(!verify(&[b'a'; LONGEST + 1], &hashed));
        assert_ne!(hash(b"correct horse").expect("hash"), hashed);
    }

    #[test]
    fn r11_a_password_is_the_same_however_its_accents_are_composed() {
        let (composed, combining) = ("K\u{f6}nigsweg 7", "Ko\u{308}nigsweg 7");
        for stored in [composed, combining] {
            let hash = hash(stored.as_bytes()).unwrap();
            for typed in [composed, combining] {
                assert!(verify(typed.as_bytes(), &hash), "{stored} typed as {typed}");
            }
            assert!(!verify(b"Konigsweg 7", &hash));
        }
        let scram = |password: &str| {
            let salt = [7; scram::SALT];
            let verifier =
                scram::Verifier::new(&prepared(password.as_bytes()), &salt, scram::ITERATIONS);
            verifier.to_string()
        };
        assert_eq!(scram(composed), scram(combining));
        // Hashed by others as it was typed.
        let raw = hasher()
            .unwrap()
            .hash_password_with_salt(combining.as_bytes(), &[9; 16]);
        let raw = raw.unwrap().to_string();
        assert!(verify(combining.as_bytes(), &raw));
        // SASLprep forbids a private character: such a password is hashed as it is.
        let private = "geheim \u{e000} geheim".as_bytes();
        assert!(verify(private, &hash(private).unwrap()));
    }

    #[test]
    fn only_argon2id_of_bounded_cost_is_a_hash() {
        let tail = "$bm9ib2R5bm9ib2R5bm8$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let of = |head: &str| check(&format!("{head}{tail}"));
        assert_eq!(of("$argon2id$v=19$m=19456,t=2,p=1"), Ok(()));
        assert_eq!(
            of("$argon2id$v=19$m=262145,t=2,p=1"),
            Err(PasswordError::TooCostly)
        );
        assert_eq!(
            of("$argon2id$v=19$m=1024,t=17,p=1"),
            Err(PasswordError::TooCostly)
        );
        assert_eq!(
            of("$argon2i$v=19$m=19456,t=2,p=1"),
            Err(PasswordError::NoHash)
        );
        assert_eq!(
            of("$argon2id$v=16$m=19456,t=2,p=1"),
            Err(PasswordError::NoHash)
        );
        assert_eq!(
            check("$argon2id$v=19$m=19456,t=2,p=1"),
            Err(PasswordError::NoHash)
        );
        assert_eq!(check("secret"), Err(PasswordError::NoHash));
        assert!(!verify(b"secret", "secret"));
    }

    #[test]
    fn passwords_that_no_client_can_send_are_refused() {
        for bad in [
            &b"short"[..],
            b"with\0nul octet",
            b"line\r\nbreak",
            &[b'a'; LONGEST + 1],
        ] {
            assert_eq!(hash(bad), Err(PasswordError::Unfit));
        }
        let (first, second) = (generate().expect("password"), generate().expect("password"));
        assert_ne!(first, second);
        assert_eq!(first.len(), 27);
        assert!(hash(first.as_bytes()).is_ok());
    }

    #[test]
    fn a_stranger_costs_the_same_work_as_a_user() {
        assert!(!verify_nobody(b"anything"));
        let made = hash(b"correct horse").expect("hash");
        let shape = |hash: &str| {
            let parsed = PasswordHash::new(hash).expect("hash");
            let salt = parsed.salt.as_ref().map(|salt| salt.len());
            (Params::try_from(&parsed).expect("parameters"), salt)
        };
        assert_eq!(check(NOBODY), Ok(()));
        assert_eq!(shape(NOBODY), shape(&made));
    }
}
