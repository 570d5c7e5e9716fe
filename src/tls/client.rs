//! TLS of our client.
//!
//! Between mail servers TLS is opportunistic (RFC 7435): better than clear text, and never a reason
//! not to deliver. So [`opportunistic`] verifies no certificate: most MX hosts have one that could
//! not be, and an attacker who could present a false one could as well strip STARTTLS. Where the
//! sender wants proof (REQUIRETLS, RFC 8689), [`verified`] asks for it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::dane;
use super::server::versions;
use crate::config::{Config, TlsVersion};

/// Certificates of `tls.ca_file` that can not be used.
#[derive(Debug, thiserror::Error)]
#[error("tls.ca_file {}: {problem}; write a PEM file of certificates", file.display())]
pub struct RootsError {
    file: PathBuf,
    problem: String,
}

/// The certificates that are trusted: the system's, and those of `tls.ca_file`.
fn roots(config: &Config) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    // What the system has and can not be read is trusted by nobody: that is safe.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if config.tls.ca_file.is_empty() {
        return Ok(roots);
    }
    let file = config.dir.join(Path::new(&config.tls.ca_file));
    let broken = |problem: String| RootsError {
        file: file.clone(),
        problem,
    };
    let own = CertificateDer::pem_file_iter(&file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| broken(error.to_string()))?;
    if own.is_empty() {
        return Err(broken("it holds no certificate".to_owned()));
    }
    for certificate in own {
        let added = roots.add(certificate);
        added.map_err(|error| broken(error.to_string()))?;
    }
    Ok(roots)
}

/// A connector that goes on only if the certificate is valid for the host's name and leads to a
/// trusted one; `None` where nothing is trusted, because the system has no certificates.
pub fn verified(config: &Config) -> Result<Option<TlsConnector>, RootsError> {
    let client = trusting(config)?;
    Ok(client.map(|client| TlsConnector::from(Arc::new(client))))
}

/// The same for other protocols.
pub fn trusting(config: &Config) -> Result<Option<ClientConfig>, RootsError> {
    let roots = roots(config)?;
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(config.tls.min_version));
    // The provider is ours and knows all versions.
    let Ok(builder) = builder else {
        return Ok(None);
    };
    Ok(Some(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// What is wrong with a host's certificate or TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The result type of a report (RFC 8460 section 4.3).
    pub kind: &'static str,
    /// For people.
    pub text: String,
}

impl Problem {
    /// Any.
    pub fn new(kind: &'static str, text: impl Into<String>) -> Problem {
        Problem {
            kind,
            text: text.into(),
        }
    }

    /// Why a handshake failed; `None` if it was the network.
    pub fn of(error: &std::io::Error) -> Option<Problem> {
        let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(Problem::of_tls(inner))
    }

    /// Why a certificate or a handshake is refused.
    pub fn of_tls(error: &rustls::Error) -> Problem {
        use CertificateError as Wrong;
        let rustls::Error::InvalidCertificate(wrong) = error else {
            let kind = match error {
                rustls::Error::NoCertificatesPresented => "certificate-not-trusted",
                _ => "validation-failure",
            };
            return Problem::new(kind, error.to_string());
        };
        let kind = match wrong {
            Wrong::Expired
            | Wrong::ExpiredContext { .. }
            | Wrong::NotValidYet
            | Wrong::NotValidYetContext { .. } => "certificate-expired",
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                "certificate-host-mismatch"
            }
            Wrong::Other(OtherError(inner)) => {
                if let Some(mismatch) = inner.downcast_ref::<dane::Mismatch>() {
                    return Problem::new("tlsa-invalid", mismatch.to_string());
                }
                "certificate-not-trusted"
            }
            _ => "certificate-not-trusted",
        };
        Problem::new(kind, error.to_string())
    }
}

/// Judges certificates as [`verified`] does, apart from a handshake.
pub type Judge = Arc<WebPkiServerVerifier>;

/// `None` where nothing is trusted.
pub fn judge(config: &Config) -> Result<Option<Judge>, RootsError> {
    let roots = roots(config)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    // It can be built unless there are no roots.
    Ok(builder.build().ok())
}

/// What is wrong with the chain that a host showed.
pub fn flaw(
    judge: &Judge,
    chain: Option<&[CertificateDer<'_>]>,
    name: &ServerName<'_>,
) -> Option<Problem> {
    let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else {
        return Some(Problem::of_tls(&rustls::Error::NoCertificatesPresented));
    };
    let judged = judge.verify_server_cert(leaf, rest, name, &[], UnixTime::now());
    judged.err().map(|error| Problem::of_tls(&error))
}

/// Whether a handshake failed because of the certificate, not of the network.
pub fn is_untrusted(error: &std::io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}

/// A connector that encrypts and asks for no proof of who is at the other end.
pub fn opportunistic(oldest: TlsVersion) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(oldest))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { schemes }))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connector that goes on only if TLSA records name the certificate; `names` are those of the
/// host.
pub fn dane(
    oldest: TlsVersion,
    records: Vec<crate::dns::TlsaRecord>,
    names: &[&str],
) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let names = names
        .iter()
        .filter_map(|name| ServerName::try_from((*name).to_owned()).ok());
    let verifier = dane::Verifier::new(records, names.collect(), provider.clone());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(oldest))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // Each connection is proven by the records of its time.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name for SNI. An address, or a host name that can not stand in a certificate, is sent as no
/// name at all (RFC 6066 section 3).
pub fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    match ServerName::try_from(host.trim_end_matches('.')) {
        Ok(name) => name.to_owned(),
        Err(_) => ServerName::IpAddress(address.into()),
    }
}

/// Protocol version and cipher for the log, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub fn describe(connection: &rustls::ClientConnection) -> String {
    let version = connection.protocol_version();
    let version = match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or("unknown");
    format!("{version} {cipher}")
}

#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a key that nobody vouches for proves nothing, and checking it would turn
    // away servers with certificates too old to be read.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_only_for_host_names() {
        let address: IpAddr = "192.0.2.1".parse().expect("address");
        let name = |host| server_name(host, address);
        assert!(
            matches!(name("mx.example.com."), ServerName::DnsName(n) if n.as_ref() == "mx.example.com")
        );
        assert!(matches!(name("192.0.2.1"), ServerName::IpAddress(_)));
        assert!(matches!(name("a b"), ServerName::IpAddress(_)));
        assert!(matches!(name(""), ServerName::IpAddress(_)));
    }
}
