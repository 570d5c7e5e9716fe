//! A CA of the lab: certificates that lead to it, good ones and those that peers find fault with.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// A CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A chain, the leaf first, and the leaf's key.
#[derive(Clone)]
pub struct Identity {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key as PKCS #8.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity of {} certificates", self.chain.len())
    }
}

impl Ca {
    /// A new one.
    pub fn new(name: &str) -> Result<Ca, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        Ok(Ca {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a host; its chain has the CA's behind it.
    pub fn issue(&self, host: &str) -> Result<Identity, rcgen::Error> {
        self.sign(host, CertificateParams::new(vec![host.to_owned()])?)
    }

    /// One whose time is over.
    pub fn issue_expired(&self, host: &str) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(host, params)
    }

    fn sign(&self, host: &str, mut params: CertificateParams) -> Result<Identity, rcgen::Error> {
        params.distinguished_name.push(DnType::CommonName, host);
        let key = KeyPair::generate()?;
        let own = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            chain: vec![own.der().clone(), self.certificate.clone()],
            key: key.serialize_der(),
        })
    }
}

impl Identity {
    /// One that nobody signed but itself.
    pub fn self_signed(host: &str) -> Result<Identity, rcgen::Error> {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()])?;
        Ok(Identity {
            chain: vec![made.cert.der().clone()],
            key: made.signing_key.serialize_der(),
        })
    }

    /// Its leaf as PEM.
    pub fn pem(&self) -> String {
        let leaf = self.chain.first().map(AsRef::as_ref).unwrap_or_default();
        let text = base64::engine::general_purpose::STANDARD.encode(leaf);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let lines: Vec<_> = lines.collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        )
    }

    /// TLS with it.
    pub fn acceptor(&self) -> io::Result<TlsAcceptor> {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key.into())
            .map_err(io::Error::other)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
