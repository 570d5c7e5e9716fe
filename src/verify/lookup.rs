//! Questions to the DNS for one message, with a budget.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

/// Questions that one message may cause; beyond it answers are [`Answer::Trouble`].
pub const MOST_QUESTIONS: usize = 200;

/// What a question brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// At least one record.
    Found(Vec<T>),
    /// The name has no such record.
    Nothing,
    /// There is no such name.
    NoName,
    /// Could not find out: not the same as nothing.
    Trouble,
}

impl<T> Answer<T> {
    /// Whether the DNS said that there is nothing (a void lookup, RFC 7208 section 4.6.4).
    pub fn is_void(&self) -> bool {
        matches!(self, Answer::Nothing | Answer::NoName)
    }

    /// The records; none if there is nothing, an error if nobody knows.
    pub fn records(self) -> Result<Vec<T>, Trouble> {
        match self {
            Answer::Found(records) => Ok(records),
            Answer::Nothing | Answer::NoName => Ok(Vec::new()),
            Answer::Trouble => Err(Trouble),
        }
    }
}

/// The DNS could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the DNS did not answer")]
pub struct Trouble;

/// Asks for one message.
pub struct Lookup {
    resolver: TokioResolver,
    asked: AtomicUsize,
}

impl Lookup {
    /// With a budget of [`MOST_QUESTIONS`].
    pub fn new(resolver: TokioResolver) -> Lookup {
        Lookup {
            resolver,
            asked: AtomicUsize::new(0),
        }
    }

    /// TXT records, the strings of each joined (RFC 7208 section 3.3).
    pub async fn txt(&self, name: &str) -> Answer<Vec<u8>> {
        self.ask(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        })
        .await
    }

    /// A records.
    pub async fn a(&self, name: &str) -> Answer<Ipv4Addr> {
        self.ask(name, RecordType::A, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .await
    }

    /// AAAA records.
    pub async fn aaaa(&self, name: &str) -> Answer<Ipv6Addr> {
        self.ask(name, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(aaaa.0),
            _ => None,
        })
        .await
    }

    /// The addresses of a name in the family of `like`.
    pub async fn addresses(&self, name: &str, like: IpAddr) -> Answer<IpAddr> {
        match like {
            IpAddr::V4(_) => self.a(name).await.map(IpAddr::V4),
            IpAddr::V6(_) => self.aaaa(name).await.map(IpAddr::V6),
        }
    }

    /// The hosts of MX records, by preference.
    pub async fn mx(&self, name: &str) -> Answer<String> {
        let answer = self
            .ask(name, RecordType::MX, |data| match data {
                RData::MX(mx) => Some((mx.preference, text(&mx.exchange))),
                _ => None,
            })
            .await;
        match answer {
            Answer::Found(mut hosts) => {
                hosts.sort_by_key(|(preference, _)| *preference);
                Answer::Found(hosts.into_iter().map(|(_, host)| host).collect())
            }
            other => other.map(|(_, host)| host),
        }
    }

    /// The names of an address.
    pub async fn ptr(&self, address: IpAddr) -> Answer<String> {
        let name = Name::from(address).to_ascii();
        self.ask(&name, RecordType::PTR, |data| match data {
            RData::PTR(ptr) => Some(text(&ptr.0)),
            _ => None,
        })
        .await
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T> {
        let labels = name.strip_suffix('.').unwrap_or(name).split('.');
        // What can not be a name does not exist; it is not worth a question.
        let Ok(mut name) = Name::from_labels(labels.map(str::as_bytes)) else {
            return Answer::NoName;
        };
        name.set_fqdn(true);
        if self.asked.fetch_add(1, Ordering::Relaxed) >= MOST_QUESTIONS {
            return Answer::Trouble;
        }
        match self.resolver.lookup(name, kind).await {
            Ok(found) => {
                let records = found.answers().iter();
                let records: Vec<T> = records.filter_map(|r| pick(&r.data)).collect();
                match records.is_empty() {
                    true => Answer::Nothing,
                    false => Answer::Found(records),
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => match nothing.response_code {
                ResponseCode::NXDomain => Answer::NoName,
                ResponseCode::NoError => Answer::Nothing,
                _ => Answer::Trouble,
            },
            Err(_) => Answer::Trouble,
        }
    }
}

impl<T> Answer<T> {
    fn map<U>(self, change: impl Fn(T) -> U) -> Answer<U> {
        match self {
            Answer::Found(records) => Answer::Found(records.into_iter().map(change).collect()),
            Answer::Nothing => Answer::Nothing,
            Answer::NoName => Answer::NoName,
            Answer::Trouble => Answer::Trouble,
        }
    }
}

/// A name in lower case without its final dot, its labels as they are.
fn text(name: &Name) -> String {
    let labels = name.iter().map(String::from_utf8_lossy);
    let labels: Vec<_> = labels.collect();
    labels.join(".").to_ascii_lowercase()
}
