//! Whether a certificate and a key can be served.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Why `chain` and `key`, both PEM, can not be served.
pub(super) fn check(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("no certificate in PEM: {error}"))?;
    if chain.is_empty() {
        return Err("no certificate in PEM; its first line is BEGIN CERTIFICATE".into());
    }
    if let Some(problem) = crate::pem::no_key(key) {
        return Err(format!("the private key: {problem}"));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("no private key in PEM: {error}"))?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the certificate and the key do not belong together".into())
        }
        Err(error) => Err(error.to_string()),
    }
}
