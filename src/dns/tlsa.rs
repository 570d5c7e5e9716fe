//! TLSA records of a mail host, where they count (RFC 7672 section 2.2).

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::asked::is_secure;
use super::{Resolver, absence, fqdn, host_text};
use crate::tls::dane::Record;

/// What TLSA records a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tlsa {
    /// These, proven by DNSSEC, at a base domain: the host's name, or what it is an alias of.
    Found {
        /// The name that certificates are to have, and for SNI.
        base: String,
        /// They.
        records: Vec<Record>,
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
        if !self.asked.validates().await {
            return Tlsa::None("answers are not validated");
        }
        let mut expanded = None;
        let mut failure = None;
        let mut insecure = false;
        for kind in [RecordType::A, RecordType::AAAA] {
            match self.asked.lookup(name.clone(), kind).await {
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
            match self.asked.lookup(question, RecordType::TLSA).await {
                Ok(found) if is_secure(found.answers(), RecordType::TLSA) => {
                    let records = found.answers().iter().filter_map(|one| match &one.data {
                        RData::TLSA(tlsa) => Some(Record {
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
