//! DANE: whether the TLSA records of our host are those of its certificate (RFC 7672).

use ring::digest::{SHA256, digest};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Asked, Finding};
use crate::dns::TlsaRecord as Record;
use crate::tls::dane;

/// What is known of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Our host name.
    pub hostname: String,
    /// TLSA records of `_25._tcp.HOST`.
    pub records: Asked<Record>,
    /// They came with a proof of DNSSEC; `None`: nobody knows.
    pub signed: Option<bool>,
    /// The chain that port 25 shows, the leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// Judges the records.
pub fn judge(facts: &Facts) -> Finding {
    let name = format!("_25._tcp.{}", facts.hostname);
    let records = match &facts.records {
        Err(_) => return Finding::unasked("dane", &name, "its TLSA records"),
        Ok(records) => records,
    };
    if records.is_empty() {
        return Finding::good("dane", &name, "no TLSA record: DANE is not used");
    }
    let remedy = match facts.chain.first().and_then(|leaf| public_key_hash(leaf)) {
        Some(hash) => format!("publish {name} TLSA 3 1 1 {hash} and remove the others"),
        None => format!("remove {name} TLSA, or let port 25 show its certificate"),
    };
    let usable = records
        .iter()
        .filter(|record| matches!(record.usage, 2 | 3));
    let usable: Vec<&Record> = usable.collect();
    if usable.is_empty() {
        return Finding::wrong(
            "dane",
            &name,
            "the TLSA records have usages other than 2 and 3",
            "SMTP knows these two only (RFC 7672 section 3.1.3), so they protect nothing",
            remedy,
        );
    }
    if !usable.iter().any(|record| matches(record, &facts.chain)) {
        return Finding::wrong(
            "dane",
            &name,
            "no TLSA record is of our certificate",
            "senders that know DANE do not deliver to us",
            remedy,
        );
    }
    if facts.signed == Some(false) {
        return Finding::warning(
            "dane",
            &name,
            "the TLSA records are not signed (DNSSEC)",
            "senders ignore them, so they protect nothing",
            "sign the zone, or remove the records",
        );
    }
    Finding::good("dane", &name, "a TLSA record is of our certificate")
}

fn matches(record: &Record, chain: &[Vec<u8>]) -> bool {
    let among = match record.usage {
        3 => chain.get(..1).unwrap_or_default(),
        _ => chain,
    };
    among
        .iter()
        .any(|certificate| dane::matches(record, certificate))
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// The data of a `3 1 1` record of a certificate, in hexadecimal.
pub fn public_key_hash(certificate: &[u8]) -> Option<String> {
    let key = public_key(certificate)?;
    let hash = digest(&SHA256, &key);
    Some(
        hash.as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use ring::digest::SHA512;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    fn certificate() -> Vec<u8> {
        let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let made = crate::tls::self_signed::generate("mx.example.org", now).expect("certificate");
        let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).expect("PEM");
        der.as_ref().to_vec()
    }

    #[test]
    fn records_match_or_not() {
        let own = certificate();
        let spki = digest(&SHA256, &public_key(&own).expect("key"))
            .as_ref()
            .to_vec();
        let record = |usage, selector, matching, data: &[u8]| Record {
            usage,
            selector,
            matching,
            data: data.to_vec(),
        };
        for (records, signed, level) in [
            (vec![], None, Level::Good),
            (vec![record(3, 1, 1, &spki)], None, Level::Good),
            (vec![record(3, 1, 1, &spki)], Some(false), Level::Warning),
            (vec![record(3, 0, 0, &own)], Some(true), Level::Good),
            (
                vec![record(2, 0, 2, digest(&SHA512, &own).as_ref())],
                None,
                Level::Good,
            ),
            (vec![record(3, 1, 1, &[0; 32])], None, Level::Wrong),
            (vec![record(1, 1, 1, &spki)], None, Level::Wrong),
        ] {
            let finding = judge(&Facts {
                hostname: "mx.example.org".into(),
                records: Ok(records),
                signed,
                chain: vec![own.clone()],
            });
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }
}
