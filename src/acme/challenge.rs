//! What the CA is shown to prove that a name is ours: answers that wait for its questions.
//!
//! The order puts them in, the web listeners give them out.

use std::collections::HashMap;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

/// The protocol name of TLS-ALPN-01 (RFC 8737 section 6.1).
pub const ALPN: &[u8] = b"acme-tls/1";

/// Answers by token (HTTP-01) and certificates by name (TLS-ALPN-01).
#[derive(Debug, Default, Clone)]
struct Open {
    tokens: HashMap<String, String>,
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

/// The side of the order.
#[derive(Debug)]
pub struct Challenges(watch::Sender<Arc<Open>>);

/// The side of the web listeners; cheap to clone.
#[derive(Debug, Clone)]
pub struct Answers(watch::Receiver<Arc<Open>>);

impl Challenges {
    /// None yet.
    pub fn new() -> (Challenges, Answers) {
        let (sender, receiver) = watch::channel(Arc::default());
        (Challenges(sender), Answers(receiver))
    }

    fn change(&self, change: impl FnOnce(&mut Open)) {
        self.0.send_modify(|open| change(Arc::make_mut(open)));
    }

    /// `token` is answered with `authorization` (RFC 8555 section 8.3).
    pub fn token(&self, token: &str, authorization: &str) {
        self.change(|open| {
            open.tokens
                .insert(token.to_owned(), authorization.to_owned());
        });
    }

    /// A handshake for `name` is answered with a certificate that bears `digest` (RFC 8737).
    pub fn certificate(&self, name: &str, digest: &[u8]) -> Result<(), String> {
        let made = self_signed(name, digest)?;
        self.change(|open| {
            open.certificates.insert(name.to_owned(), Arc::new(made));
        });
        Ok(())
    }

    /// The order has ended.
    pub fn clear(&self) {
        self.change(|open| *open = Open::default());
    }
}

impl Answers {
    /// The answer for `token`.
    pub fn token(&self, token: &str) -> Option<String> {
        self.0.borrow().tokens.get(token).cloned()
    }

    /// The certificate for `name`.
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().certificates.get(name).cloned()
    }
}

fn self_signed(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = any_supported_type(&der).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}
