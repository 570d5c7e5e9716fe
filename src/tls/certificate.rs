//! What a certificate says of itself: names and dates. Pure; verifies nothing.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The first certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// DNS names it is for, in lower case.
    pub names: Vec<String>,
    /// When it begins to be valid.
    pub begins: SystemTime,
    /// When it ends.
    pub ends: SystemTime,
    /// Issued by its own subject.
    pub self_signed: bool,
}

/// Why a chain says nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a certificate in PEM: {0}")]
pub struct NoFacts(String);

impl Facts {
    /// Of the first certificate in `pem`.
    pub fn of_pem(pem: &[u8]) -> Result<Facts, NoFacts> {
        let der =
            CertificateDer::from_pem_slice(pem).map_err(|error| NoFacts(error.to_string()))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| NoFacts(error.to_string()))?;
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|error| NoFacts(error.to_string()))?;
        let names = names.map_or(Vec::new(), |names| {
            let dns = |name: &GeneralName| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            };
            names.value.general_names.iter().filter_map(dns).collect()
        });
        Ok(Facts {
            names,
            begins: time(certificate.validity().not_before.timestamp()),
            ends: time(certificate.validity().not_after.timestamp()),
            self_signed: certificate.issuer() == certificate.subject(),
        })
    }

    /// Whether it is for `name`, also through a wildcard (RFC 6125 section 6.4.3).
    pub fn covers(&self, name: &str) -> bool {
        let rest = name.split_once('.').map(|(_, rest)| rest);
        self.names
            .iter()
            .any(|own| own == name || (rest.is_some() && own.strip_prefix("*.") == rest))
    }
}

/// Seconds since 1970; earlier is 1970.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::self_signed;

    #[test]
    fn a_certificate_tells_its_names_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let made = self_signed::generate("mx.example.org", now).expect("certificate");
        let facts = Facts::of_pem(made.certificate.as_bytes()).expect("facts");
        assert_eq!(facts.names, ["mx.example.org"]);
        assert!(facts.self_signed);
        assert!(facts.begins < now && facts.ends > now + Duration::from_secs(9 * 365 * 86_400));
        assert!(facts.covers("mx.example.org"));
        assert!(!facts.covers("example.org"));
        let wild = Facts {
            names: vec!["*.example.org".into()],
            ..facts
        };
        assert!(wild.covers("mta-sts.example.org"));
        assert!(!wild.covers("a.b.example.org"));
        assert!(!wild.covers("example.org"));
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        assert!(Facts::of_pem(b"hello").is_err());
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Facts::of_pem(empty).is_err());
    }
}
