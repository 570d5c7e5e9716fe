//! A certificate for the time before there is a better one: other servers do not check it for
//! opportunistic STARTTLS (RFC 7435); mail clients warn of it.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// How long it is valid.
const VALID: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long before now it begins, for clients whose clock is behind.
const SLACK: Duration = Duration::from_secs(86_400);

/// A certificate and its key, in PEM.
pub struct SelfSigned {
    /// `fullchain.pem`.
    pub certificate: String,
    /// `privkey.pem`, PKCS#8, ECDSA P-256.
    pub key: String,
}

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
#[error("no certificate could be made for {name}: {error}")]
pub struct SelfSignedError {
    name: String,
    error: rcgen::Error,
}

/// Makes a certificate for the host `name`, valid from about `now` for ten years.
pub fn generate(name: &str, now: SystemTime) -> Result<SelfSigned, SelfSignedError> {
    make(name, now).map_err(|error| SelfSignedError {
        name: name.to_owned(),
        error,
    })
}

/// The same for a key that is there, PKCS#8 in PEM.
pub fn for_key(name: &str, key: &str, now: SystemTime) -> Result<String, SelfSignedError> {
    let made = KeyPair::from_pem(key).and_then(|key| certificate(name, &key, now));
    made.map_err(|error| SelfSignedError {
        name: name.to_owned(),
        error,
    })
}

fn make(name: &str, now: SystemTime) -> Result<SelfSigned, rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok(SelfSigned {
        certificate: certificate(name, &key, now)?,
        key: key.serialize_pem(),
    })
}

fn certificate(name: &str, key: &KeyPair, now: SystemTime) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = (now - SLACK).into();
    params.not_after = (now + VALID).into();
    Ok(params.self_signed(key)?.pem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    #[test]
    fn rustls_serves_it() {
        let made = generate("mx.example.org", SystemTime::now()).expect("certificate");
        let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).expect("pem")];
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).expect("key");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("certificate and key belong together");
    }
}
