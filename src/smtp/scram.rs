//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677, 9266), the server's side, without I/O.
//!
//! The server keeps a [`Verifier`], which is not enough to log in with elsewhere. For a user who
//! does not exist [`Verifier::fake`] makes one that stays the same, so that the dialogue tells
//! nothing about who exists (RFC 5802 section 9).

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// Rounds of PBKDF2 for new verifiers; RFC 7677 section 4 asks for at least 4096.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(65_536).expect("not zero");
/// Most rounds a verifier in a file may name: the client does the work at each login.
pub const MOST_ITERATIONS: u32 = 1_000_000;
/// Bytes of a salt.
pub const SALT: usize = 16;
/// Longest user name or nonce that is looked at, in bytes.
const LONGEST: usize = 320;

const NAME: &str = "SCRAM-SHA-256";

type Key = [u8; 32];

/// What the server must know of a password (RFC 5803).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// What a client sees of a verifier beside its salt: PBKDF2's rounds, and bytes of the salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    iterations: NonZeroU32,
    salt: usize,
}

/// That of the verifiers we make.
impl Default for Form {
    fn default() -> Self {
        Form {
            iterations: ITERATIONS,
            salt: SALT,
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

/// As RFC 5803 writes it: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|part| STANDARD.encode(part));
        write!(f, "{NAME}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl Verifier {
    /// For `password`. Takes tens of milliseconds: never on an arbiter.
    pub fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Verifier {
        let mut salted: Key = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            &mut salted,
        );
        let client_key = sign(&salted, b"Client Key");
        Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// What a client sees of it.
    pub fn form(&self) -> Form {
        Form {
            iterations: self.iterations,
            salt: self.salt.len(),
        }
    }

    /// For a user who does not exist: the same salt each time, and keys nobody has. `user` in the
    /// form in which users are compared; `form`: that of somebody who exists.
    pub fn fake(secret: &[u8], user: &str, form: Form) -> Verifier {
        let of = |what: &str| sign(secret, format!("{what} {user}").as_bytes());
        let more = |part: usize| of(&format!("salt {part}"));
        let salt = of("salt").into_iter().chain((1..).flat_map(more));
        Verifier {
            iterations: form.iterations,
            salt: salt.take(form.salt).collect(),
            stored_key: of("stored"),
            server_key: of("server"),
        }
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix(NAME)?.strip_prefix('$')?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        let salt = STANDARD.decode(salt).ok()?;
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        let sound = (4096..=MOST_ITERATIONS).contains(&iterations.get()) && !salt.is_empty();
        sound.then_some(Verifier {
            iterations,
            salt,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

fn sign(key: &[u8], text: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().try_into().unwrap_or_default()
}

fn hash(text: &[u8]) -> Key {
    digest::digest(&digest::SHA256, text)
        .as_ref()
        .try_into()
        .unwrap_or_default()
}

fn xor(left: Key, right: &[u8]) -> Option<Key> {
    let mut out = left;
    if right.len() != out.len() {
        return None;
    }
    out.iter_mut()
        .zip(right)
        .for_each(|(out, byte)| *out ^= byte);
    Some(out)
}

/// Compares without telling where they differ.
fn same(left: &Key, right: &Key) -> bool {
    left.iter()
        .zip(right)
        .fold(0, |differ, (left, right)| differ | (left ^ right))
        == 0
}

/// The client's first message, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// The user as given, decoded.
    pub user: String,
    /// The nonce it chose.
    nonce: String,
    /// The message without the GS2 header: part of what is proved.
    bare: String,
    /// What the `c=` attribute must hold: the GS2 header and the channel binding.
    binding: Vec<u8>,
}

/// Why a first message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstError {
    /// It breaks the grammar.
    Malformed,
    /// The client believes that we offer no channel binding although we do, or asks for one we do
    /// not have: somebody between us took it away (RFC 5802 section 6).
    Binding,
    /// It wants to act as somebody else.
    OtherUser,
}

impl First {
    /// Reads the client's first message. `exporter` is the value of `tls-exporter` (RFC 9266) where
    /// -PLUS is offered; `plus` says that the client chose it.
    pub fn parse(text: &str, plus: bool, exporter: Option<&Key>) -> Result<First, FirstError> {
        use FirstError::*;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let mut binding = format!("{flag},{authzid},").into_bytes();
        match (flag, plus, exporter) {
            ("n", false, _) | ("y", false, None) => {}
            ("p=tls-exporter", true, Some(value)) => binding.extend_from_slice(value),
            ("n" | "y", _, _) => return Err(Binding),
            (other, _, _) if other.starts_with("p=") => return Err(Binding),
            _ => return Err(Malformed),
        }
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|part| part.strip_prefix("n="));
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r="));
        let (Some(name), Some(nonce)) = (name, nonce) else {
            return Err(Malformed);
        };
        let user = decode_name(name).ok_or(Malformed)?;
        let printable = nonce.bytes().all(|byte| matches!(byte, 33..=43 | 45..=126));
        if user.is_empty() || nonce.is_empty() || !printable || text.len() > 4 * LONGEST {
            return Err(Malformed);
        }
        match authzid.strip_prefix("a=") {
            None if authzid.is_empty() => {}
            None => return Err(Malformed),
            Some(other) => {
                let other = decode_name(other).ok_or(Malformed)?;
                if !other.eq_ignore_ascii_case(&user) {
                    return Err(OtherUser);
                }
            }
        }
        Ok(First {
            user,
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
            binding,
        })
    }

    /// Our first message and what waits for the answer to it. `nonce` is random and printable.
    pub fn challenge(self, verifier: Verifier, nonce: &str) -> (String, Waiting) {
        let nonce = format!("{}{nonce}", self.nonce);
        let message = format!(
            "r={nonce},s={},i={}",
            STANDARD.encode(&verifier.salt),
            verifier.iterations
        );
        let waiting = Waiting {
            user: self.user,
            nonce,
            binding: self.binding,
            signed: format!("{},{message}", self.bare),
            verifier,
        };
        (message, waiting)
    }
}

/// `=2C` and `=3D` stand for `,` and `=` (RFC 5802 section 5.1).
fn decode_name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let rest = if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            rest
        } else {
            name.push('=');
            part.strip_prefix("3D")?
        };
        name.push_str(rest);
    }
    let sound = name.len() <= LONGEST && !name.chars().any(char::is_control);
    sound.then_some(name)
}

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub struct Waiting {
    user: String,
    nonce: String,
    binding: Vec<u8>,
    signed: String,
    verifier: Verifier,
}

/// What the client's last message proved.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// It knows the password: our last message, which proves that we know the verifier.
    Right {
        /// Who it is.
        user: String,
        /// `v=...`.
        last: String,
    },
    /// It does not.
    Wrong {
        /// Who it claimed to be.
        user: String,
    },
    /// It breaks the grammar.
    Malformed {
        /// Who it claimed to be.
        user: String,
    },
}

impl Waiting {
    /// Whose verifier it holds.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Reads the client's last message.
    pub fn proof(self, text: &str) -> Proof {
        let Some((signed, proof)) = text.rsplit_once(",p=") else {
            return Proof::Malformed { user: self.user };
        };
        let mut attributes = signed.split(',');
        let binding = attributes.next().and_then(|part| part.strip_prefix("c="));
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r="));
        let (Some(binding), Some(nonce), Ok(proof)) = (binding, nonce, STANDARD.decode(proof))
        else {
            return Proof::Malformed { user: self.user };
        };
        let bound = STANDARD
            .decode(binding)
            .is_ok_and(|bytes| bytes == self.binding);
        let message = format!("{},{signed}", self.signed);
        let signature = sign(&self.verifier.stored_key, message.as_bytes());
        let right = xor(signature, &proof)
            .is_some_and(|client_key| same(&hash(&client_key), &self.verifier.stored_key));
        if !(right && bound && nonce == self.nonce) {
            return Proof::Wrong { user: self.user };
        }
        let server = sign(&self.verifier.server_key, message.as_bytes());
        Proof::Right {
            user: self.user,
            last: format!("v={}", STANDARD.encode(server)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of RFC 7677 section 3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn verifier() -> Verifier {
        let salt = STANDARD.decode(SALT).expect("salt");
        Verifier::new(b"pencil", &salt, NonZeroU32::new(4096).expect("number"))
    }

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let first = First::parse(FIRST, false, None).expect("first");
        let (message, waiting) = first.challenge(verifier(), NONCE);
        assert_eq!(
            message,
            format!("r=rOprNGfwEbeRWgbNEkqO{NONCE},s={SALT},i=4096")
        );
        assert_eq!(
            waiting.proof(LAST),
            Proof::Right {
                user: "user".into(),
                last: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".into()
            }
        );
    }

    #[test]
    fn a_verifier_comes_back_from_its_text() {
        let text = verifier().to_string();
        assert_eq!(Verifier::parse(&text), Some(verifier()));
        for bad in [
            "",
            "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$1:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            &text.replace("4096", "99999999"),
            &text.replace(':', ";"),
        ] {
            assert_eq!(Verifier::parse(bad), None, "{bad}");
        }
        let fake = Verifier::fake(b"secret", "nobody@example.org", Form::default());
        assert_eq!(
            fake,
            Verifier::fake(b"secret", "nobody@example.org", Form::default())
        );
        assert_ne!(
            fake,
            Verifier::fake(b"secret", "somebody@example.org", Form::default())
        );
        assert_eq!(Verifier::parse(&fake.to_string()), Some(fake));
    }

    #[test]
    fn wrong_proofs_nonces_and_bindings_are_wrong() {
        for bad in [
            LAST.replace("dHzb", "aHzb"),
            LAST.replace("biws", "eSws"),
            LAST.replace("k0,p", "k1,p"),
        ] {
            let first = First::parse(FIRST, false, None).expect("first");
            let (_, waiting) = first.challenge(verifier(), NONCE);
            let user = "user".to_owned();
            assert_eq!(waiting.proof(&bad), Proof::Wrong { user }, "{bad}");
        }
        let exporter = [7; 32];
        let plus = "p=tls-exporter,,n=user,r=abc";
        let first = First::parse(plus, true, Some(&exporter)).expect("first");
        assert_eq!(first.binding, [b"p=tls-exporter,,", &exporter[..]].concat());
    }

    #[test]
    fn a_binding_taken_away_is_noticed() {
        let exporter = [7; 32];
        let parse = |text: &str, plus, exporter| First::parse(text, plus, exporter).map(|f| f.user);
        for (text, plus, exporter, expected) in [
            (
                "y,,n=u,r=a",
                false,
                Some(&exporter),
                Err(FirstError::Binding),
            ),
            (
                "n,,n=u,r=a",
                true,
                Some(&exporter),
                Err(FirstError::Binding),
            ),
            (
                "p=tls-unique,,n=u,r=a",
                true,
                Some(&exporter),
                Err(FirstError::Binding),
            ),
            (
                "p=tls-exporter,,n=u,r=a",
                false,
                Some(&exporter),
                Err(FirstError::Binding),
            ),
            (
                "p=tls-exporter,,n=u,r=a",
                true,
                None,
                Err(FirstError::Binding),
            ),
            ("n,,n=u,r=a", false, Some(&exporter), Ok("u".to_owned())),
            ("y,,n=u,r=a", false, None, Ok("u".to_owned())),
            ("n,a=u,n=u,r=a", false, None, Ok("u".to_owned())),
            ("n,a=v,n=u,r=a", false, None, Err(FirstError::OtherUser)),
            ("n,,n=a=2Cb=3Dc,r=a", false, None, Ok("a,b=c".to_owned())),
            ("n,,n=a=2cb,r=a", false, None, Err(FirstError::Malformed)),
            ("n,,n=,r=a", false, None, Err(FirstError::Malformed)),
            ("n,,m=x,n=u,r=a", false, None, Err(FirstError::Malformed)),
            ("n,,n=u", false, None, Err(FirstError::Malformed)),
            ("n", false, None, Err(FirstError::Malformed)),
            ("", false, None, Err(FirstError::Malformed)),
        ] {
            assert_eq!(parse(text, plus, exporter), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_at_worst(text in ".{0,200}") {
            let _ = First::parse(&text, false, None);
            let _ = Verifier::parse(&text);
            let first = First::parse(FIRST, false, None).expect("first");
            let (_, waiting) = first.challenge(Verifier::fake(b"s", "u", Form::default()), NONCE);
            let right = matches!(waiting.proof(&text), Proof::Right { .. });
            prop_assert!(!right);
        }
    }
}
