//! DKIM keys: made, kept and published.
//!
//! A key lies as PKCS#8 in PEM in `secrets/dkim/DOMAIN/SELECTOR.pem`, mode 0600, as
//! `openssl genpkey` writes it. It is refused if others may read it. RSA keys of 2048 bits, since a
//! longer record does not fit a UDP answer and gains nothing (RFC 8301 section 3.2); Ed25519 beside
//! it (RFC 8463), which not every verifier knows yet.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

pub use crate::message::tags::RSA_LEAST;

/// Bits of a new RSA key.
pub const RSA_BITS: usize = 2048;
/// Most bits of an RSA key that is used: verifiers need not take more (RFC 8301 section 3.2).
pub const RSA_MOST: usize = 4096;

/// PKCS#8 version 1 of an Ed25519 key up to its seed (RFC 8410 section 7), as OpenSSL reads it.
const ED25519_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa-sha256`.
    Rsa,
    /// `ed25519-sha256`.
    Ed25519,
}

impl Algorithm {
    /// The value of `k=` in its DNS record.
    pub fn tag(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

/// A key that can not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can not be read.
    #[error("{}: {error}; `chapar domain add {domain}` makes missing keys", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Whose key.
        domain: String,
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
    /// It is no key.
    #[error("{}: {problem}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<KeyError>,
    },
    /// No PEM, no PKCS#8, or of another algorithm.
    #[error("no RSA or Ed25519 private key in PKCS#8 PEM (BEGIN PRIVATE KEY)")]
    Unknown,
    /// The same, where it can be told what it is.
    #[error("no RSA or Ed25519 private key in PKCS#8 PEM (BEGIN PRIVATE KEY): {0}")]
    Unfit(String),
    /// An RSA key of an unsuitable size.
    #[error("an RSA key of {0} bits; DKIM takes {RSA_LEAST} to {RSA_MOST}")]
    Size(usize),
    /// The system gives no random numbers, or no key came of them.
    #[error("no key could be made: {0}")]
    NotMade(String),
}

/// A private key. Its `Debug` shows no part of it.
pub struct PrivateKey {
    algorithm: Algorithm,
    pkcs8: Vec<u8>,
    public: Vec<u8>,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Makes a key; for RSA that takes up to a few seconds.
    pub fn generate(algorithm: Algorithm) -> Result<PrivateKey, KeyError> {
        let not_made = |error: &dyn std::fmt::Display| KeyError::NotMade(error.to_string());
        match algorithm {
            Algorithm::Rsa => {
                let key = rsa::PrivateKey::new(&mut System(SystemRandom::new()), RSA_BITS)
                    .map_err(|error| not_made(&error))?;
                let der = key.to_pkcs8_der().map_err(|error| not_made(&error))?;
                PrivateKey::from_pkcs8(der.as_bytes())
            }
            Algorithm::Ed25519 => {
                let mut seed = [0; 32];
                SystemRandom::new()
                    .fill(&mut seed)
                    .map_err(|_| not_made(&"the system gives no random numbers"))?;
                PrivateKey::from_pkcs8(&[&ED25519_HEAD[..], &seed[..]].concat())
            }
        }
    }

    /// Reads a key in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<PrivateKey, KeyError> {
        let unknown = || crate::pem::no_key(pem).map_or(KeyError::Unknown, KeyError::Unfit);
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| unknown())?;
        match PrivateKey::from_pkcs8(der.secret_pkcs8_der()) {
            Err(KeyError::Unknown) => Err(unknown()),
            made => made,
        }
    }

    /// Reads a key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = pair.public_key().as_ref().to_vec();
            return Ok(PrivateKey {
                algorithm: Algorithm::Ed25519,
                pkcs8: der.to_vec(),
                public,
            });
        }
        let key = rsa::PrivateKey::from_pkcs8_der(der).map_err(|_| KeyError::Unknown)?;
        let bits = key.size() * 8;
        if !(RSA_LEAST..=RSA_MOST).contains(&bits) {
            return Err(KeyError::Size(bits));
        }
        let public = key
            .to_public_key()
            .to_public_key_der()
            .map_err(|_| KeyError::Unknown)?;
        let public = public.as_bytes().to_vec();
        Ok(PrivateKey {
            algorithm: Algorithm::Rsa,
            pkcs8: der.to_vec(),
            public,
        })
    }

    /// Reads the key of `selector` of `domain` below the configuration directory `dir`.
    pub fn load(dir: &Path, domain: &str, selector: &str) -> Result<PrivateKey, KeyError> {
        let path = path(dir, domain, selector);
        let unreadable = |error| KeyError::Unreadable {
            path: path.clone(),
            domain: domain.to_owned(),
            error,
        };
        let mode = fs::metadata(&path)
            .map_err(unreadable)?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path, mode });
        }
        let pem = fs::read(&path).map_err(unreadable)?;
        PrivateKey::from_pem(&pem).map_err(|problem| KeyError::InFile {
            path,
            problem: Box::new(problem),
        })
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key in PKCS#8: for Ed25519 version 1 or 2, so let ring read it "maybe unchecked".
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key as `p=` holds it before base64: SubjectPublicKeyInfo for RSA (RFC 6376
    /// section 3.6.1), the 32 bytes themselves for Ed25519 (RFC 8463 section 4).
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.pkcs8);
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// The text of the TXT record at `SELECTOR._domainkey.DOMAIN` (RFC 6376 section 3.6.1).
    pub fn record(&self) -> String {
        format!(
            "v=DKIM1; k={}; p={}",
            self.algorithm.tag(),
            STANDARD.encode(&self.public)
        )
    }
}

/// Where the key of `selector` of `domain` lies below the configuration directory `dir`.
pub fn path(dir: &Path, domain: &str, selector: &str) -> PathBuf {
    dir.join("secrets/dkim")
        .join(domain)
        .join(format!("{selector}.pem"))
}

/// The system's random numbers for the `rsa` crate.
struct System(SystemRandom);

impl TryRng for System {
    type Error = io::Error;

    fn try_next_u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0
            .fill(bytes)
            .map_err(|_| io::Error::other("the system gives no random numbers"))
    }
}

impl TryCryptoRng for System {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8463 appendix A.2 and its record.
    #[test]
    fn the_ed25519_key_of_rfc_8463_gives_its_record() {
        let seed = STANDARD
            .decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
            .expect("seed");
        let key = PrivateKey::from_pkcs8(&[&ED25519_HEAD[..], &seed].concat()).expect("key");
        assert_eq!(
            key.record(),
            "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        );
    }

    #[test]
    fn keys_survive_their_pem() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let key = PrivateKey::generate(algorithm).expect("key");
            assert_eq!(key.algorithm(), algorithm);
            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).expect("same key");
            assert_eq!(again.pkcs8(), key.pkcs8());
            assert_eq!(again.record(), key.record());
            assert!(key.to_pem().lines().all(|line| line.len() <= 64));
            assert!(!format!("{key:?}").contains("pkcs8"));
            let (message, random) = (b"hello", SystemRandom::new());
            match algorithm {
                Algorithm::Rsa => {
                    let pair = ring::signature::RsaKeyPair::from_pkcs8(key.pkcs8()).expect("pair");
                    assert_eq!(pair.public().modulus_len(), 256);
                    let mut signature = vec![0; 256];
                    let padding = &ring::signature::RSA_PKCS1_SHA256;
                    pair.sign(padding, &random, message, &mut signature)
                        .expect("signed");
                }
                Algorithm::Ed25519 => assert_eq!(key.public().len(), 32),
            }
        }
    }

    #[test]
    fn what_is_no_key_or_open_to_others_is_refused() {
        assert!(matches!(
            PrivateKey::from_pem(b"nonsense"),
            Err(KeyError::Unfit(_))
        ));
        let dir = tempfile::tempdir().expect("directory");
        let file = path(dir.path(), "example.org", "one");
        let load = || PrivateKey::load(dir.path(), "example.org", "one");
        assert!(matches!(load(), Err(KeyError::Unreadable { .. })));
        fs::create_dir_all(file.parent().expect("parent")).expect("directories");
        let key = PrivateKey::generate(Algorithm::Ed25519).expect("key");
        fs::write(&file, key.to_pem()).expect("write");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
        assert!(matches!(load(), Err(KeyError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode");
        assert_eq!(load().expect("key").record(), key.record());
        fs::write(
            &file,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        )
        .expect("write");
        let error = load().expect_err("damaged").to_string();
        assert!(
            error.ends_with(
                "one.pem: no RSA or Ed25519 private key in PKCS#8 PEM (BEGIN PRIVATE KEY)"
            ),
            "{error}"
        );
    }
}
