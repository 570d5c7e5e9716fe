//! DKIM signatures with every key a domain has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey as _};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{Canonicalization, DkimSigner, Done, Signature};
use rustls::pki_types::PrivateKeyDer;

use super::arc::{self, SEALED, Sealer};
use super::keys::{Algorithm, KeyError, PrivateKey};
use super::messages::{Seal, SignError};
use crate::identity::Identity;
use crate::message::canonical::{BodyHash, Form};
use crate::message::{Body, Content};

/// What is signed. Named twice: fields that may occur once only (RFC 5322 section 3.6) and those
/// that decide how the body is read, so that adding one breaks the signature (RFC 6376 section
/// 8.15). Named once: fields that mailing lists and receivers rightly add.
const SIGNED: [&str; 25] = [
    "From",
    "From",
    "To",
    "To",
    "Cc",
    "Cc",
    "Subject",
    "Subject",
    "Date",
    "Date",
    "Message-ID",
    "Message-ID",
    "Reply-To",
    "Reply-To",
    "MIME-Version",
    "MIME-Version",
    "Content-Type",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "Sender",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Bytes of a spooled body that are hashed at a time.
const BLOCK: usize = 64 * 1024;

enum Key {
    Rsa(Box<DkimSigner<RsaKey<Sha256>, Done>>),
    Ed25519(Box<DkimSigner<Ed25519Key, Done>>),
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
        let mut fields = String::new();
        for key in self.of(domain).unwrap_or_default() {
            let signature = match key {
                Key::Rsa(signer) => {
                    let mut stream = signer.sign_streaming();
                    feed(content, |block| stream.write(block))
                        .map_err(|error| failed(error.to_string()))?;
                    stream.finish()
                }
                Key::Ed25519(signer) => {
                    let mut stream = signer.sign_streaming();
                    feed(content, |block| stream.write(block))
                        .map_err(|error| failed(error.to_string()))?;
                    stream.finish()
                }
            };
            let signature: Signature = signature.map_err(|error| failed(error.to_string()))?;
            fields.push_str(&signature.to_header());
        }
        Ok(Bytes::from(fields))
    }
}

impl Keys {
    /// The ARC set for forwarded mail; blocking.
    pub fn seal(&self, request: &Seal) -> Result<Bytes, SignError> {
        let failed = |reason: String| SignError {
            domain: request.domain.clone(),
            reason,
        };
        let keys = self.of(&request.domain).unwrap_or_default();
        let Some(signer) = keys.iter().find_map(Key::rsa) else {
            return Ok(Bytes::new());
        };
        if let Some(head) = &request.replaces {
            // It may have been made with a key that is on its way out.
            let mut ours = keys.iter().filter_map(Key::rsa);
            if !ours.any(|signer| arc::is_own(&|text| raw(signer, text), head)) {
                return Ok(Bytes::new());
            }
        }
        let sealer = Sealer {
            sign: &|text| raw(signer, text),
            domain: &signer.template.d,
            selector: &signer.template.s,
            names: &SEALED,
            now: request.now,
        };
        let mut hash = BodyHash::new(Form::Relaxed);
        feed_body(&request.content, |block| hash.write(block))
            .map_err(|error| failed(error.to_string()))?;
        let head = &request.content.head;
        let set = arc::seal(
            &sealer,
            head,
            request.state,
            &request.results,
            &hash.finish(),
        );
        set.map(Bytes::from).map_err(failed)
    }
}

/// The bare signature of a text.
fn raw(signer: &DkimSigner<RsaKey<Sha256>, Done>, text: &[u8]) -> Result<Vec<u8>, String> {
    signer.key.sign(text).map_err(|error| error.to_string())
}

impl Key {
    fn rsa(&self) -> Option<&DkimSigner<RsaKey<Sha256>, Done>> {
        match self {
            Key::Rsa(signer) => Some(signer),
            Key::Ed25519(_) => None,
        }
    }
}

fn prepare(
    key: &PrivateKey,
    domain: &str,
    selector: &str,
    expires: Option<Duration>,
) -> Result<Key, String> {
    // 0: it does not.
    let expires = expires.map_or(0, |time| time.as_secs());
    let broken = |error: mail_auth::Error| error.to_string();
    match key.algorithm() {
        Algorithm::Rsa => {
            let key = RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs8(key.pkcs8().into()))
                .map_err(broken)?;
            let signer = DkimSigner::from_key(key).domain(domain).selector(selector);
            let signer = relaxed(signer.headers(SIGNED)).expiration(expires);
            Ok(Key::Rsa(Box::new(signer)))
        }
        Algorithm::Ed25519 => {
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(key.pkcs8()).map_err(broken)?;
            let signer = DkimSigner::from_key(key).domain(domain).selector(selector);
            let signer = relaxed(signer.headers(SIGNED)).expiration(expires);
            Ok(Key::Ed25519(Box::new(signer)))
        }
    }
}

fn relaxed<T: mail_auth::common::crypto::SigningKey>(
    signer: DkimSigner<T, Done>,
) -> DkimSigner<T, Done> {
    signer
        .header_canonicalization(Canonicalization::Relaxed)
        .body_canonicalization(Canonicalization::Relaxed)
}

/// Gives the message block by block, a spooled body from its file.
fn feed(content: &Content, mut write: impl FnMut(&[u8])) -> std::io::Result<()> {
    write(&content.head);
    feed_body(content, write)
}

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
        for field in ["From:", "Subject:", "Reply-To:", "To:"] {
            let listed = flat
                .split("h=")
                .nth(1)
                .expect("h=")
                .split(';')
                .next()
                .expect("list");
            let count = listed
                .split(':')
                .filter(|name| field.starts_with(name))
                .count();
            assert!(count >= 2, "{field} in {listed}");
        }
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
