//! App passwords: one for each program or device, which can be taken back alone.
//!
//! They are made here with 130 bits of chance, so a plain SHA-256 keeps them as safely as argon2
//! keeps what people choose, and a login with one costs nothing. The first part names the password,
//! the rest is the secret. They work with PLAIN and LOGIN; SCRAM knows the user's own password only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use super::password::PasswordError;

/// Letters and digits that nobody mistakes for one another; 32, so that each is 5 bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of the name.
const NAME: usize = 6;
/// Characters of the secret.
const SECRET: usize = 26;
/// What every one begins with.
const PREFIX: &str = "app-";
/// Most of them of one user.
pub const MOST: usize = 100;
/// Longest label, in characters.
pub const LONGEST_LABEL: usize = 60;

/// What is kept of an app password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPassword {
    /// Which it is: what follows `app-`.
    pub id: String,
    /// What it is for, in the user's words.
    pub label: String,
    /// SHA-256 of the whole, in base64.
    pub hash: String,
}

/// A new one: what is kept, and the password, which is shown once.
pub fn make(label: &str) -> Result<(AppPassword, String), PasswordError> {
    let mut random = [0; NAME + SECRET];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| PasswordError::NoRandomness)?;
    let letters: String = random
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(*byte % 32)))
        .map(|letter| char::from(*letter))
        .collect();
    let (id, secret) = letters.split_at(NAME);
    let password = format!("{PREFIX}{id}-{secret}");
    let kept = AppPassword {
        id: id.to_owned(),
        label: label.to_owned(),
        hash: STANDARD.encode(digest::digest(&digest::SHA256, password.as_bytes())),
    };
    Ok((kept, password))
}

/// Which of `known` this password is.
pub fn find<'a>(password: &str, known: &'a [AppPassword]) -> Option<&'a AppPassword> {
    let (id, _) = password.strip_prefix(PREFIX)?.split_once('-')?;
    let found = known.iter().find(|app| app.id == id)?;
    let kept = STANDARD.decode(&found.hash).ok()?;
    let given = digest::digest(&digest::SHA256, password.as_bytes());
    // What a comparison of hashes tells by its time leads to no password.
    (given.as_ref() == kept).then_some(found)
}

/// Why an entry of `users.toml` is none of ours.
pub fn check(app: &AppPassword) -> Result<(), String> {
    let id = app.id.len() == NAME && app.id.bytes().all(|byte| ALPHABET.contains(&byte));
    let hash = STANDARD
        .decode(&app.hash)
        .is_ok_and(|hash| hash.len() == 32);
    match id && hash {
        true => check_label(&app.label),
        false => Err("this is no app password; `chapar user app-password add` makes one".into()),
    }
}

/// Why `label` can be none.
pub fn check_label(label: &str) -> Result<(), String> {
    let long = label.chars().count() > LONGEST_LABEL;
    match label.trim().is_empty() || long || label.chars().any(char::is_control) {
        true => Err(format!(
            "a label has 1 to {LONGEST_LABEL} characters, such as \"phone\""
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_password_is_known_again() {
        let (phone, password) = make("phone").expect("made");
        let (laptop, other) = make("laptop").expect("made");
        assert_eq!(password.len(), 4 + 6 + 1 + 26);
        assert_eq!(check(&phone), Ok(()));
        let known = [phone.clone(), laptop];
        assert_eq!(find(&password, &known), Some(&phone));
        let first = |text: &str| text.get(..11).map(str::to_owned).unwrap_or_default();
        let rest = |text: &str| text.get(11..).map(str::to_owned).unwrap_or_default();
        let mixed = first(&password) + &rest(&other);
        for wrong in [
            mixed.as_str(),
            "app-",
            "app-a-b",
            "",
            &password.to_uppercase(),
        ] {
            assert_eq!(find(wrong, &known), None, "{wrong}");
        }
        let revoked = known.get(1..).unwrap_or_default();
        assert_eq!(find(&password, revoked), None);
        assert!(check_label(" ").is_err());
        assert!(check_label("a\nb").is_err());
    }
}
