//! SPF: whether the client may send for a domain (RFC 7208).
//!
//! Evaluated here and not by a library, because the one at hand counts void lookups, repeated
//! records and names of PTR otherwise than section 4.6.4 and 5.5 say; `docs/corpora.md` has the
//! comparison.

pub mod macros;
pub mod record;

use std::net::IpAddr;
use std::pin::Pin;

use super::lookup::{Answer, Lookup};
use macros::Values;
use record::{Mechanism, Prefix, Record};

/// Terms that ask the DNS, over all records together (section 4.6.4).
const MOST_TERMS: usize = 10;
/// Lookups that find nothing (section 4.6.4).
const MOST_VOID: usize = 2;
/// MX hosts of one term, names of one PTR lookup (section 4.6.4).
const MOST_HOSTS: usize = 10;

/// The result of a check (section 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// No record, or no domain to look for one.
    None,
    /// The record says neither yes nor no.
    Neutral,
    /// The client may.
    Pass,
    /// The client may not.
    Fail,
    /// The client probably may not.
    SoftFail,
    /// The DNS could not be asked.
    TempError,
    /// The record is broken.
    PermError,
}

impl SpfResult {
    /// As Authentication-Results writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            SpfResult::None => "none",
            SpfResult::Neutral => "neutral",
            SpfResult::Pass => "pass",
            SpfResult::Fail => "fail",
            SpfResult::SoftFail => "softfail",
            SpfResult::TempError => "temperror",
            SpfResult::PermError => "permerror",
        }
    }
}

/// Who sends what from where.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The name of EHLO.
    pub hello: &'a str,
    /// The reverse-path; empty for the null one, for which the name of EHLO stands (section 2.4).
    pub from: &'a str,
    /// Our host name.
    pub receiver: &'a str,
    /// Seconds since 1970.
    pub now: u64,
}

impl<'a> Sender<'a> {
    /// The domain that is checked.
    pub fn domain(&self) -> &'a str {
        match self.from.rsplit_once('@') {
            Some((_, domain)) => domain,
            None if self.from.is_empty() => self.hello,
            None => self.from,
        }
    }

    fn local(&self) -> &'a str {
        match self.from.rsplit_once('@') {
            Some((local, _)) if !local.is_empty() => local,
            _ => "postmaster",
        }
    }
}

/// Result and, on a fail, what the domain says about it (never to be trusted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: SpfResult,
    /// The explanation of `exp=`.
    pub explanation: Option<String>,
}

/// Checks a sender.
pub async fn check(lookup: &Lookup, mut sender: Sender<'_>) -> Outcome {
    // An IPv4 address in IPv6 is an IPv4 address (section 5).
    sender.client = sender.client.to_canonical();
    let mut check = Check {
        lookup,
        sender,
        terms: 0,
        void: 0,
        name: None,
        explanation: None,
    };
    let domain = sender.domain();
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if !is_domain(domain) {
        return Outcome {
            result: SpfResult::None,
            explanation: None,
        };
    }
    let result = check
        .host(domain.to_owned(), true)
        .await
        .unwrap_or_else(|stop| stop);
    Outcome {
        result,
        explanation: check.explanation,
    }
}

/// A domain name of several labels (section 4.3).
fn is_domain(name: &str) -> bool {
    name.len() <= 253
        && name.contains('.')
        && !name.starts_with('[')
        && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

struct Check<'a> {
    lookup: &'a Lookup,
    sender: Sender<'a>,
    terms: usize,
    void: usize,
    /// The client's validated name, once somebody asked.
    name: Option<String>,
    explanation: Option<String>,
}

/// `Err` ends the whole evaluation.
type Step<T> = Result<T, SpfResult>;

impl Check<'_> {
    /// Evaluates the record of `domain`. `outer`: a fail of it is the sender's, so that its
    /// explanation is wanted.
    fn host(
        &mut self,
        domain: String,
        outer: bool,
    ) -> Pin<Box<dyn Future<Output = Step<SpfResult>> + Send + '_>> {
        Box::pin(async move {
            let Some(record) = self.record(&domain).await? else {
                return Ok(SpfResult::None);
            };
            for directive in &record.directives {
                if self.matches(&directive.mechanism, &domain).await? {
                    let result = match directive.qualifier {
                        b'-' => SpfResult::Fail,
                        b'~' => SpfResult::SoftFail,
                        b'?' => SpfResult::Neutral,
                        _ => SpfResult::Pass,
                    };
                    if let (true, SpfResult::Fail, Some(spec)) =
                        (outer, result, &record.explanation)
                    {
                        self.explanation = self.explain(spec, &domain).await;
                    }
                    return Ok(result);
                }
            }
            let Some(spec) = &record.redirect else {
                return Ok(SpfResult::Neutral);
            };
            self.count_term()?;
            let target = self.target(spec, &domain).await;
            match self.host(target, outer).await? {
                SpfResult::None => Err(SpfResult::PermError),
                result => Ok(result),
            }
        })
    }

    async fn record(&self, domain: &str) -> Step<Option<Record>> {
        let records = self.lookup.txt(domain).await.records();
        let records = records.map_err(|_| SpfResult::TempError)?;
        let mut records = records.iter().filter(|text| record::is_spf(text));
        match (records.next(), records.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => record::parse(text).map(Some).ok_or(SpfResult::PermError),
            (Some(_), Some(_)) => Err(SpfResult::PermError),
        }
    }

    fn count_term(&mut self) -> Step<()> {
        self.terms += 1;
        match self.terms > MOST_TERMS {
            true => Err(SpfResult::PermError),
            false => Ok(()),
        }
    }

    /// The records of a lookup that counts as void if it finds none.
    fn counted<T>(&mut self, answer: Answer<T>) -> Step<Vec<T>> {
        self.void += usize::from(answer.is_void());
        if self.void > MOST_VOID {
            return Err(SpfResult::PermError);
        }
        answer.records().map_err(|_| SpfResult::TempError)
    }

    async fn target(&mut self, spec: &str, domain: &str) -> String {
        let asks_name = spec.to_ascii_lowercase().contains("%{p");
        if asks_name && self.name.is_none() {
            self.name = Some(self.validated_name(domain).await);
        }
        macros::domain(spec, &self.values(domain))
    }

    fn values<'a>(&'a self, domain: &'a str) -> Values<'a> {
        Values {
            local: self.sender.local(),
            sender_domain: self.sender.domain(),
            domain,
            client: self.sender.client,
            name: self.name.as_deref().unwrap_or("unknown"),
            hello: self.sender.hello,
            receiver: self.sender.receiver,
            now: self.sender.now,
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Step<bool> {
        let client = self.sender.client;
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, bits) => Ok(within(client, (*network).into(), *bits)),
            Mechanism::Ip6(network, bits) => Ok(within(client, (*network).into(), *bits)),
            Mechanism::Include(spec) => {
                self.count_term()?;
                let target = self.target(spec, domain).await;
                match self.host(target, false).await? {
                    SpfResult::Pass => Ok(true),
                    SpfResult::None => Err(SpfResult::PermError),
                    _ => Ok(false),
                }
            }
            Mechanism::A(spec, prefix) => {
                self.count_term()?;
                let target = self.target(spec, domain).await;
                let answer = self.lookup.addresses(&target, client).await;
                let addresses = self.counted(answer)?;
                Ok(any_within(client, &addresses, *prefix))
            }
            Mechanism::Mx(spec, prefix) => {
                self.count_term()?;
                let target = self.target(spec, domain).await;
                let answer = self.lookup.mx(&target).await;
                let hosts = self.counted(answer)?;
                if hosts.len() > MOST_HOSTS {
                    return Err(SpfResult::PermError);
                }
                for host in hosts {
                    // Hosts without an address of this family are no void lookups of the term.
                    let answer = self.lookup.addresses(&host, client).await;
                    let addresses = answer.records().map_err(|_| SpfResult::TempError)?;
                    if any_within(client, &addresses, *prefix) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(spec) => {
                self.count_term()?;
                let target = self.target(spec, domain).await;
                let names = self.validated_names().await;
                Ok(names.iter().any(|name| is_below(name, &target)))
            }
            Mechanism::Exists(spec) => {
                self.count_term()?;
                let target = self.target(spec, domain).await;
                let answer = self.lookup.a(&target).await;
                Ok(!self.counted(answer)?.is_empty())
            }
        }
    }

    /// The client's names that lead back to it (section 5.5); trouble is the same as none.
    async fn validated_names(&self) -> Vec<String> {
        let client = self.sender.client;
        let names = self.lookup.ptr(client).await.records().unwrap_or_default();
        let mut validated = Vec::new();
        for name in names.into_iter().take(MOST_HOSTS) {
            let addresses = self.lookup.addresses(&name, client).await.records();
            if addresses.is_ok_and(|addresses| addresses.contains(&client)) {
                validated.push(name);
            }
        }
        validated
    }

    /// The name for `%{p}`: the domain itself, else one below it, else any (section 7.3).
    async fn validated_name(&self, domain: &str) -> String {
        let names = self.validated_names().await;
        let exact = names.iter().find(|name| name.eq_ignore_ascii_case(domain));
        let below = names.iter().find(|name| is_below(name, domain));
        let name = exact.or(below).or_else(|| names.first());
        name.map_or_else(|| "unknown".to_owned(), Clone::clone)
    }

    /// What the domain says about a fail; anything wrong means nothing (section 6.2).
    async fn explain(&mut self, spec: &str, domain: &str) -> Option<String> {
        let target = self.target(spec, domain).await;
        let records = self.lookup.txt(&target).await.records().ok()?;
        let [text] = records.as_slice() else {
            return None;
        };
        let text = std::str::from_utf8(text).ok().filter(|t| t.is_ascii())?;
        macros::check(text)?;
        if text.to_ascii_lowercase().contains("%{p") && self.name.is_none() {
            self.name = Some(self.validated_name(domain).await);
        }
        Some(macros::expand(text, &self.values(domain)))
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    let domain = domain.strip_suffix('.').unwrap_or(&domain);
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn any_within(client: IpAddr, networks: &[IpAddr], prefix: Prefix) -> bool {
    networks.iter().any(|network| match network {
        IpAddr::V4(_) => within(client, *network, prefix.v4),
        IpAddr::V6(_) => within(client, *network, prefix.v6),
    })
}

/// Whether an address lies in a network of the same family.
fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let shift = 32u32.saturating_sub(u32::from(bits));
            let difference = address.to_bits() ^ network.to_bits();
            difference.checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let shift = 128u32.saturating_sub(u32::from(bits));
            let difference = address.to_bits() ^ network.to_bits();
            difference.checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}
