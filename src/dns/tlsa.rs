//! TLSA records of a mail host, where they count (RFC 7672 section 2.2).

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::asked::is_secure;
use super::{Resolver, absence, fqdn, host_text};

/// A TLSA record (RFC 6698 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsaRecord {
    /// Certificate usage; DANE for SMTP knows 2 and 3.
    pub usage: u8,
    /// 0: the certificate, 1: its public key.
    pub selector: u8,
    /// 0: itself, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// What is matched.
    pub data: Vec<u8>,
}

impl TlsaRecord {
    /// Whether it can prove anything at all (RFC 7672 section 3.1): usages 0 and 1 and what nobody
    /// knows can not, nor data of a wrong length.
    pub fn is_usable(&self) -> bool {
        let fits = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1) && fits
    }

    /// As a zone file has it.
    pub fn text(&self) -> String {
        let data: String = self.data.iter().map(|byte| format!("{byte:02x}")).collect();
        let (usage, selector, matching) = (self.usage, self.selector, self.matching);
        format!("{usage} {selector} {matching} {data}")
    }
}

/// What TLSA records a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tlsa {
    /// These, proven by DNSSEC, at a base domain: the host's name, or what it is an alias of.
    Found {
        /// The name that certificates are to have, and for SNI.
        base: String,
        /// They.
        records: Vec<TlsaRecord>,
    },
    /// None that count; why.
    None(&'static str),
    /// Could not find out, which is never taken for "none".
    Failed(String),
}

impl Resolver {
    /// The TLSA records of a host's port. Only a host whose addresses are proven is asked for any
    /// (RFC 7672 section 2.2.2): so a zone without DNSSEC whose servers stumble over TLSA questions
    /// costs no mail.
    pub async fn tlsa(&self, host: &str, port: u16) -> Tlsa {
        let Some(name) = fqdn(host).filter(|_| host.parse::<std::net::IpAddr>().is_err()) else {
            return Tlsa::None("it has no name");
        };
        if !self.asked().validates().await {
            return Tlsa::None("answers are not validated");
        }
        let mut expanded = None;
        let mut failure = None;
        let mut insecure = false;
        for kind in [RecordType::A, RecordType::AAAA] {
            match self.asked().lookup(name.clone(), kind).await {
                Ok(found) if is_secure(found.answers(), kind) => {
                    let owner = found.answers().iter().find(|one| one.record_type() == kind);
                    expanded = owner.map(|record| record.name.clone());
                }
                Ok(_) => insecure = true,
                Err(error) if absence(&error).is_some() => {}
                Err(error) => failure = Some(error.to_string()),
            }
            if expanded.is_some() || insecure {
                break;
            }
        }
        let expanded = match (expanded, failure) {
            (Some(expanded), _) => expanded,
            (None, _) if insecure => return Tlsa::None("its addresses are not signed"),
            (None, Some(failure)) => return Tlsa::Failed(failure),
            (None, None) => return Tlsa::None("it has no address that is proven"),
        };
        // An alias has them where it leads to, or at its own name (section 2.2.3).
        let mut bases: Vec<Name> = vec![expanded];
        if !bases.contains(&name) {
            bases.push(name);
        }
        for base in bases {
            let text = host_text(&base).to_ascii_lowercase();
            let Some(question) = fqdn(&format!("_{port}._tcp.{text}")) else {
                continue;
            };
            match self.asked().lookup(question, RecordType::TLSA).await {
                Ok(found) if is_secure(found.answers(), RecordType::TLSA) => {
                    let records = found.answers().iter().filter_map(|one| match &one.data {
                        RData::TLSA(tlsa) => Some(TlsaRecord {
                            usage: tlsa.cert_usage.into(),
                            selector: tlsa.selector.into(),
                            matching: tlsa.matching.into(),
                            data: tlsa.cert_data.clone(),
                        }),
                        _ => None,
                    });
                    return Tlsa::Found {
                        base: text,
                        records: records.collect(),
                    };
                }
                Ok(_) => {}
                Err(error) if absence(&error).is_some() => {}
                Err(error) => return Tlsa::Failed(error.to_string()),
            }
        }
        Tlsa::None("it has no TLSA record that is proven")
    }
}
