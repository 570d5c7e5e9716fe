//! DANE (RFC 6698, RFC 7671, RFC 7672): whether a chain of certificates is one that TLSA records
//! name. Pure, but for the hook that rustls wants.
//!
//! SMTP knows two usages. DANE-EE(3): the record is of the server's own certificate or key; names
//! and dates in it mean nothing. DANE-TA(2): the record is of a CA in the chain that the server
//! shows; the chain must lead to it, be in time, and be for the host's name.

use std::sync::Arc;

use ring::digest::{Algorithm, SHA256, SHA512, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::dns::TlsaRecord as Record;

/// Whether a record is of this certificate.
pub fn matches(record: &Record, certificate: &[u8]) -> bool {
    let key;
    let whole = match record.selector {
        0 => certificate,
        1 => match public_key(certificate) {
            Some(found) => {
                key = found;
                key.as_slice()
            }
            None => return false,
        },
        _ => return false,
    };
    let hashed = |algorithm: &'static Algorithm| digest(algorithm, whole).as_ref() == record.data;
    match record.matching {
        0 => whole == record.data,
        1 => hashed(&SHA256),
        2 => hashed(&SHA512),
        _ => false,
    }
}

/// The records that count: those that can be used, and of several digests of the same thing only
/// the strongest (RFC 7671 section 9). None is left: TLS is demanded, but nobody can be
/// authenticated (RFC 7672 section 2.2).
pub fn usable(records: &[Record]) -> Vec<Record> {
    let usable = || records.iter().filter(|record| record.is_usable());
    let strongest = |record: &Record| {
        usable()
            .filter(|other| (other.usage, other.selector) == (record.usage, record.selector))
            .map(|other| other.matching)
            .max()
            .unwrap_or_default()
    };
    usable()
        .filter(|record| record.matching == 0 || record.matching == strongest(record))
        .cloned()
        .collect()
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// Why a chain is not one that the records name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// No record is of it.
    #[error("no TLSA record is of its certificate")]
    None,
    /// A CA is named, but the chain is not good.
    #[error("a TLSA record names its CA, but the chain does not hold: {0}")]
    Chain(rustls::Error),
}

/// Checks a chain, the leaf first, against records of which none is unusable. `names`: those that a
/// certificate under a named CA may have.
pub fn check(
    records: &[Record],
    chain: &[CertificateDer<'_>],
    names: &[ServerName<'_>],
    now: UnixTime,
    provider: &Arc<CryptoProvider>,
) -> Result<(), Mismatch> {
    let Some((leaf, rest)) = chain.split_first() else {
        return Err(Mismatch::None);
    };
    let own = |record: &&Record| record.usage == 3 && matches(record, leaf);
    if records.iter().any(|record| own(&record)) {
        return Ok(());
    }
    let mut problem = Mismatch::None;
    let named = |record: &&Record| record.usage == 2;
    for record in records.iter().filter(named) {
        // A CA that is in the record whole need not be in the chain.
        let whole = CertificateDer::from(record.data.as_slice());
        let inline = (record.selector == 0 && record.matching == 0).then_some(&whole);
        let matching = rest
            .iter()
            .filter(|certificate| matches(record, certificate));
        for anchor in matching.chain(inline) {
            match under(anchor, leaf, rest, names, now, provider) {
                Ok(()) => return Ok(()),
                Err(error) => problem = Mismatch::Chain(error),
            }
        }
    }
    Err(problem)
}

/// Whether a chain leads to `anchor` and is for one of the names.
fn under(
    anchor: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    names: &[ServerName<'_>],
    now: UnixTime,
    provider: &Arc<CryptoProvider>,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(anchor.clone().into_owned())?;
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = builder
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut last = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
    for name in names {
        match verifier.verify_server_cert(leaf, rest, name, &[], now) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Hands [`check`] to rustls.
#[derive(Debug)]
pub struct Verifier {
    records: Vec<Record>,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// For usable records and the names of the host.
    pub fn new(
        records: Vec<Record>,
        names: Vec<ServerName<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Verifier {
        Verifier {
            records,
            names,
            provider,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![leaf.clone()];
        chain.extend(rest.iter().cloned());
        match check(&self.records, &chain, &self.names, now, &self.provider) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(mismatch) => {
                let other = CertificateError::Other(OtherError(Arc::new(mismatch)));
                Err(rustls::Error::InvalidCertificate(other))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Ca, Identity};
    use std::time::Duration;

    const HOST: &str = "mx.example.com";

    fn record(usage: u8, selector: u8, matching: u8, certificate: &[u8]) -> Record {
        let whole = match selector {
            0 => certificate.to_vec(),
            _ => public_key(certificate).expect("a key"),
        };
        let data = match matching {
            1 => digest(&SHA256, &whole).as_ref().to_vec(),
            2 => digest(&SHA512, &whole).as_ref().to_vec(),
            _ => whole,
        };
        Record {
            usage,
            selector,
            matching,
            data,
        }
    }

    fn checked(records: &[Record], identity: &Identity, names: &[&str]) -> Result<(), Mismatch> {
        let names = names
            .iter()
            .map(|name| ServerName::try_from(*name).expect("a name"));
        let names: Vec<_> = names.collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        check(&usable(records), &identity.chain, &names, now, &provider)
    }

    #[test]
    fn every_usage_selector_and_matching_type() {
        let ca = Ca::new("Lab CA").expect("a CA");
        let good = ca.issue(HOST).expect("a certificate");
        for selector in [0, 1] {
            for matching in [0, 1, 2] {
                let own = record(3, selector, matching, &good.chain[0]);
                let above = record(2, selector, matching, ca.certificate());
                for record in [own, above] {
                    assert_eq!(
                        checked(std::slice::from_ref(&record), &good, &[HOST]),
                        Ok(()),
                        "{record:?}"
                    );
                }
                // The wrong place: the CA is not the leaf, and the leaf is no CA.
                let wrong = [
                    record(3, selector, matching, ca.certificate()),
                    record(2, selector, matching, &good.chain[0]),
                ];
                if (selector, matching) != (0, 0) {
                    assert_eq!(checked(&wrong, &good, &[HOST]), Err(Mismatch::None));
                } else {
                    assert!(checked(&wrong, &good, &[HOST]).is_err());
                }
            }
        }
    }

    #[test]
    fn c086_usage_3_ignores_names_and_dates_and_usage_2_does_not() {
        let ca = Ca::new("Lab CA").expect("a CA");
        let expired = ca.issue_expired("other.example").expect("a certificate");
        let own = record(3, 1, 1, &expired.chain[0]);
        assert_eq!(checked(&[own], &expired, &[HOST]), Ok(()));
        let above = record(2, 1, 1, ca.certificate());
        let bad = |identity: &Identity, names: &[&str]| {
            matches!(
                checked(std::slice::from_ref(&above), identity, names),
                Err(Mismatch::Chain(_))
            )
        };
        let good = ca.issue(HOST).expect("a certificate");
        assert!(!bad(&good, &[HOST]));
        assert!(
            !bad(&good, &["base.example", HOST]),
            "one of the names is enough"
        );
        assert!(bad(&good, &["base.example"]));
        assert!(bad(
            &ca.issue_expired(HOST).expect("a certificate"),
            &[HOST]
        ));
        // A chain that only shows the CA's certificate does not lead to it.
        let mut forged = Identity::self_signed(HOST).expect("a certificate");
        forged.chain.push(ca.certificate().clone());
        assert!(bad(&forged, &[HOST]));
        // Another key, then the old and the new one while it is rolled over.
        let other = record(3, 1, 1, &expired.chain[0]);
        assert_eq!(
            checked(std::slice::from_ref(&other), &good, &[HOST]),
            Err(Mismatch::None)
        );
        let new = record(3, 1, 1, &good.chain[0]);
        assert_eq!(checked(&[other, new], &good, &[HOST]), Ok(()));
    }

    #[test]
    fn a_ca_that_is_in_the_record_whole_need_not_be_in_the_chain() {
        let ca = Ca::new("Lab CA").expect("a CA");
        let mut good = ca.issue(HOST).expect("a certificate");
        good.chain.truncate(1);
        let whole = record(2, 0, 0, ca.certificate());
        assert_eq!(checked(&[whole], &good, &[HOST]), Ok(()));
        let hash = record(2, 0, 1, ca.certificate());
        assert_eq!(checked(&[hash], &good, &[HOST]), Err(Mismatch::None));
    }

    #[test]
    fn what_can_not_be_used_and_the_strongest_digest() {
        let of = |usage, selector, matching, length| Record {
            usage,
            selector,
            matching,
            data: vec![0; length],
        };
        for unusable in [
            of(0, 0, 1, 32),
            of(1, 1, 1, 32),
            of(4, 1, 1, 32),
            of(3, 2, 1, 32),
            of(3, 1, 9, 32),
            of(3, 1, 1, 0),
            of(3, 1, 1, 31),
            of(3, 1, 2, 32),
            of(3, 1, 0, 0),
        ] {
            assert_eq!(usable(std::slice::from_ref(&unusable)), [], "{unusable:?}");
        }
        let all = [
            of(3, 1, 1, 32),
            of(3, 1, 2, 64),
            of(3, 1, 0, 5),
            of(3, 0, 1, 32),
            of(2, 1, 1, 32),
        ];
        let left: Vec<_> = usable(&all)
            .iter()
            .map(|r| (r.usage, r.selector, r.matching))
            .collect();
        assert_eq!(left, [(3, 1, 2), (3, 1, 0), (3, 0, 1), (2, 1, 1)]);
        assert_eq!(of(3, 1, 1, 2).text(), "3 1 1 0000");
    }

    #[test]
    fn certificates_that_are_none_match_nothing() {
        let junk = Identity {
            chain: vec![
                CertificateDer::from(vec![0x30, 0x80]),
                CertificateDer::from(vec![]),
            ],
            key: Vec::new(),
        };
        let records = [
            Record {
                usage: 3,
                selector: 1,
                matching: 1,
                data: vec![0; 32],
            },
            Record {
                usage: 2,
                selector: 1,
                matching: 1,
                data: vec![0; 32],
            },
            Record {
                usage: 2,
                selector: 0,
                matching: 0,
                data: vec![1, 2, 3],
            },
        ];
        assert!(checked(&records, &junk, &[HOST]).is_err());
        let empty = Identity {
            chain: Vec::new(),
            key: Vec::new(),
        };
        assert_eq!(checked(&records, &empty, &[HOST]), Err(Mismatch::None));
    }
}
