//! DKIM signatures with every key a domain has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey as _};
use rustls::pki_types::PrivateKeyDer;

use super::arc::{self, SEALED, Sealer};
use super::keys::{Algorithm, KeyError, PrivateKey};
use super::messages::{Seal, SignError};
use crate::identity::Identity;
use crate::message::canonical::{BodyHash, Form};
use crate::message::headers::{Field, fields};
use crate::message::{Body, Content};

/// What is signed. Fields that occur once only and that no hop adds (RFC 5322 section 3.6), and those
/// that decide how the body is read, are named once more than they are there (true), so that adding
/// one breaks the signature (RFC 6376 section 8.15). What mailing lists and receivers rightly add is
/// named as often as it is there, so that adding it breaks nothing.
const SIGNED: [(&str, bool); 15] = [
    ("From", true),
    ("To", true),
    ("Cc", true),
    ("Reply-To", true),
    ("Subject", true),
    ("Date", true),
    ("Message-ID", true),
    ("MIME-Version", true),
    ("Content-Type", true),
    ("Content-Transfer-Encoding", true),
    ("In-Reply-To", false),
    ("References", false),
    ("Sender", false),
    ("List-Unsubscribe", false),
    ("List-Unsubscribe-Post", false),
];

/// Characters of a line of a signature field, without its fold (RFC 5322 section 2.1.1 wants 78).
const LINE: usize = 72;

/// Bytes of a spooled body that are hashed at a time.
const BLOCK: usize = 64 * 1024;

/// One key of a domain.
struct Key {
    secret: Secret,
    domain: String,
    selector: String,
    /// Seconds that its signatures hold.
    expires: Option<u64>,
}

enum Secret {
    Rsa(Box<RsaKey<Sha256>>),
    Ed25519(Box<Ed25519Key>),
}

/// The keys of all our domains.
#[derive(Default)]
pub struct Keys {
    domains: BTreeMap<String, Vec<Key>>,
}

/// A key that is named in a domain's `selectors` and can not be used.
#[derive(Debug, thiserror::Error)]
#[error("DKIM key {selector} of {domain}: {reason}")]
pub struct KeysError {
    domain: String,
    selector: String,
    reason: String,
}

impl Keys {
    /// Reads the keys of every domain of `identity` below `secrets/dkim/` in `dir`.
    pub fn load(dir: &Path, identity: &Identity) -> Result<Keys, KeysError> {
        let mut domains = BTreeMap::new();
        for (name, domain) in identity.domains() {
            let mut keys = Vec::new();
            for selector in &domain.selectors {
                let key = PrivateKey::load(dir, name, selector)
                    .map_err(|error: KeyError| error.to_string())
                    .and_then(|key| prepare(&key, name, selector, domain.signature_expires))
                    .map_err(|reason| KeysError {
                        domain: name.to_owned(),
                        selector: selector.clone(),
                        reason,
                    })?;
                keys.push(key);
            }
            if !keys.is_empty() {
                domains.insert(name.to_owned(), keys);
            }
        }
        Ok(Keys { domains })
    }

    /// Whether mail from `domain` is signed: with its own keys, or with those of a parent domain,
    /// which align with it (RFC 9989, relaxed alignment).
    pub fn covers(&self, domain: &str) -> bool {
        self.of(domain).is_some()
    }

    fn of(&self, domain: &str) -> Option<&[Key]> {
        let mut name = domain;
        loop {
            if let Some(keys) = self.domains.get(name) {
                return Some(keys);
            }
            name = name.split_once('.')?.1;
        }
    }

    /// One DKIM-Signature field for each key of `domain`; blocking.
    pub fn sign(&self, domain: &str, content: &Content) -> Result<Bytes, SignError> {
        let failed = |reason: String| SignError {
            domain: domain.to_owned(),
            reason,
        };
        let keys = self.of(domain).unwrap_or_default();
        if keys.is_empty() {
            return Ok(Bytes::new());
        }
        let body = body_hash(content).map_err(|error| failed(error.to_string()))?;
        let fields = fields(&content.head).map_err(|error| failed(error.to_string()))?;
        let (names, text) = chosen(&fields);
        let now = crate::time::now() / 1000;
        let mut signatures = String::new();
        for key in keys {
            let field = key.field(&names, &body, text.clone(), now);
            signatures.push_str(&field.map_err(failed)?);
        }
        Ok(Bytes::from(signatures))
    }
}

/// The names of the fields that are signed, and these in their canonical form.
fn chosen(fields: &[Field<'_>]) -> (Vec<String>, Vec<u8>) {
    let mut names = Vec::new();
    let mut text = Vec::new();
    for (name, once_more) in SIGNED {
        // Each occurrence from the bottom up, as verifiers look for them (RFC 6376 section 5.4.2).
        for field in fields.iter().rev().filter(|field| field.is(name)) {
            Form::Relaxed.write_field(field, &mut text);
            names.push(name.to_ascii_lowercase());
        }
        if once_more {
            names.push(name.to_ascii_lowercase());
        }
    }
    (names, text)
}

impl Keys {
    /// The ARC set for forwarded mail; blocking.
    pub fn seal(&self, request: &Seal) -> Result<Bytes, SignError> {
        let failed = |reason: String| SignError {
            domain: request.domain.clone(),
            reason,
        };
        let keys = self.of(&request.domain).unwrap_or_default();
        let Some(key) = keys.iter().find(|key| key.is_rsa()) else {
            return Ok(Bytes::new());
        };
        if let Some(head) = &request.replaces {
            // It may have been made with a key that is on its way out.
            let mut ours = keys.iter().filter(|key| key.is_rsa());
            if !ours.any(|key| arc::is_own(&|text| key.raw(text), head)) {
                return Ok(Bytes::new());
            }
        }
        let sealer = Sealer {
            sign: &|text| key.raw(text),
            domain: &key.domain,
            selector: &key.selector,
            names: &SEALED,
            now: request.now,
        };
        let hash = body_hash(&request.content).map_err(|error| failed(error.to_string()))?;
        let head = &request.content.head;
        let set = arc::seal(&sealer, head, request.state, &request.results, &hash);
        set.map(Bytes::from).map_err(failed)
    }
}

impl Key {
    fn is_rsa(&self) -> bool {
        matches!(self.secret, Secret::Rsa(_))
    }

    /// The bare signature of a text.
    fn raw(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let signature = match &self.secret {
            Secret::Rsa(key) => key.sign(text),
            Secret::Ed25519(key) => key.sign(text),
        };
        signature.map_err(|error| error.to_string())
    }

    /// The DKIM-Signature field over fields that are canonical already.
    fn field(
        &self,
        names: &[String],
        body: &[u8],
        mut text: Vec<u8>,
        now: u64,
    ) -> Result<String, String> {
        let algorithm = match self.secret {
            Secret::Rsa(_) => "rsa-sha256",
            Secret::Ed25519(_) => "ed25519-sha256",
        };
        let expires = self.expires.map_or(String::new(), |time| {
            format!(" x={};", now.saturating_add(time))
        });
        let front = format!(
            " v=1; a={algorithm}; c=relaxed/relaxed;\r\n\td={};\r\n\ts={}; t={now};{expires}\r\n\t\
             {};\r\n\tbh={};\r\n\tb=",
            self.domain,
            self.selector,
            folded_names(names),
            STANDARD.encode(body),
        );
        Form::Relaxed.write_last(NAME.as_bytes(), front.as_bytes(), &mut text);
        let signature = STANDARD.encode(self.raw(&text)?);
        let mut field = format!("{NAME}:{front}");
        let mut room = LINE - 2;
        for character in signature.chars() {
            if room == 0 {
                field.push_str("\r\n\t");
                room = LINE;
            }
            field.push(character);
            room -= 1;
        }
        field.push_str("\r\n");
        Ok(field)
    }
}

const NAME: &str = "DKIM-Signature";

/// `h=` folded at its colons.
fn folded_names(names: &[String]) -> String {
    let mut out = String::from("h=");
    let mut length = out.len();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.push(':');
            length += 1;
        }
        if length + name.len() >= LINE {
            out.push_str("\r\n\t");
            length = 0;
        }
        out.push_str(name);
        length += name.len();
    }
    out
}

fn prepare(
    key: &PrivateKey,
    domain: &str,
    selector: &str,
    expires: Option<Duration>,
) -> Result<Key, String> {
    let broken = |error: mail_auth::Error| error.to_string();
    let secret = match key.algorithm() {
        Algorithm::Rsa => {
            let key = RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs8(key.pkcs8().into()));
            Secret::Rsa(Box::new(key.map_err(broken)?))
        }
        Algorithm::Ed25519 => {
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(key.pkcs8());
            Secret::Ed25519(Box::new(key.map_err(broken)?))
        }
    };
    Ok(Key {
        secret,
        domain: domain.to_owned(),
        selector: selector.to_owned(),
        expires: expires.map(|time| time.as_secs()),
    })
}

/// The hash of the body in its relaxed form.
fn body_hash(content: &Content) -> std::io::Result<Vec<u8>> {
    let mut hash = BodyHash::new(Form::Relaxed);
    feed_body(content, |block| hash.write(block))?;
    Ok(hash.finish())
}

/// Gives the body block by block, a spooled one from its file.
fn feed_body(content: &Content, mut write: impl FnMut(&[u8])) -> std::io::Result<()> {
    match &content.body {
        Body::Memory(bytes) => write(bytes),
        Body::Spool(file) => {
            let mut reader = File::open(file.path.as_path())?;
            let mut block = vec![0; BLOCK];
            loop {
                match reader.read(&mut block)? {
                    0 => break,
                    read => write(block.get(..read).unwrap_or_default()),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn keys() -> Keys {
        let mut domains = BTreeMap::new();
        let made = [Algorithm::Rsa, Algorithm::Ed25519].map(|algorithm| {
            let key = PrivateKey::generate(algorithm).expect("key");
            prepare(&key, "example.org", "s", None).expect("signer")
        });
        domains.insert("example.org".to_owned(), Vec::from(made));
        Keys { domains }
    }

    const HEAD: &[u8] = b"From: me@example.org\r\nSubject: x\r\n\r\n";

    #[test]
    fn both_keys_sign_and_single_fields_are_oversigned() {
        let keys = keys();
        let content = Content {
            head: HEAD.into(),
            body: Body::Memory(b"body\r\n"[..].into()),
        };
        let fields = keys.sign("example.org", &content).expect("signature");
        let text = String::from_utf8(fields.to_vec()).expect("text");
        assert_eq!(text.matches("DKIM-Signature:").count(), 2);
        assert!(
            text.contains("a=rsa-sha256") && text.contains("a=ed25519-sha256"),
            "{text}"
        );
        assert!(
            text.contains("c=relaxed/relaxed") && text.ends_with("\r\n"),
            "{text}"
        );
        let flat = text.replace("\r\n\t", "");
        let listed = flat
            .split("h=")
            .nth(1)
            .and_then(|rest| rest.split(';').next());
        assert_eq!(
            listed,
            Some(
                "from:from:to:cc:reply-to:subject:subject:date:message-id:mime-version:content-type:\
                 content-transfer-encoding"
            ),
            "r2: what lists add is not named while it is absent"
        );
        assert!(text.lines().all(|line| line.len() <= 78), "r18: {text}");
        assert!(!flat.contains(" l="));
        assert!(keys.covers("mail.example.org"));
        assert!(!keys.covers("example.net") && !keys.covers("org"));
    }

    #[test]
    fn a_spooled_body_has_the_signature_of_the_same_bytes_in_memory() {
        let keys = keys();
        let body = b"A line of text that goes on.\r\n".repeat(10_000);
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), &body).expect("write");
        let spooled = Content {
            head: HEAD.into(),
            body: Body::Spool(crate::message::SpoolFile {
                path: Arc::new(file.path().to_owned()),
                len: body.len() as u64,
                crc: 0,
            }),
        };
        let memory = Content {
            head: HEAD.into(),
            body: Body::Memory(body.into()),
        };
        let hash = |content: &Content| {
            let fields = keys.sign("example.org", content).expect("signature");
            let text = String::from_utf8(fields.to_vec()).expect("text");
            let from = text.find("bh=").expect("bh=");
            text[from..from + 47].to_owned()
        };
        assert_eq!(hash(&spooled), hash(&memory));
    }
}
