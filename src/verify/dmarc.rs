//! DMARC: whether the author's domain stands behind a message, and what it wants if not
//! (RFC 9989, whose tree walk takes the place of RFC 7489's list of public suffixes).
//!
//! Where RFC 7489 would judge otherwise: a record at a public suffix without `psd=y` counts here as
//! that of an organizational domain; `pct` is ignored; `t=y` weakens the policy by one step; `np`
//! is for sub-domains that do not exist.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::lookup::{Answer, Lookup, Trouble};

/// Addresses of one `rua` that are kept.
const MOST_ADDRESSES: usize = 10;

/// The result (RFC 8601 section 2.7.4 and RFC 9989 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmarcResult {
    /// The domain has no policy.
    None,
    /// An identity aligns and passed.
    Pass,
    /// None does.
    Fail,
    /// The DNS did not answer.
    TempError,
    /// There is no author to judge.
    PermError,
}

impl DmarcResult {
    /// As Authentication-Results writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            DmarcResult::None => "none",
            DmarcResult::Pass => "pass",
            DmarcResult::Fail => "fail",
            DmarcResult::TempError => "temperror",
            DmarcResult::PermError => "permerror",
        }
    }
}

/// What is to be done with a message that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Nothing.
    None,
    /// Suspect it.
    Quarantine,
    /// Refuse it.
    Reject,
}

impl Policy {
    /// As a record writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Quarantine => "quarantine",
            Policy::Reject => "reject",
        }
    }

    fn parse(text: &str) -> Option<Policy> {
        let all = [Policy::None, Policy::Quarantine, Policy::Reject];
        all.into_iter()
            .find(|policy| text.eq_ignore_ascii_case(policy.as_str()))
    }
}

/// A policy record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `p=`; none if it is missing or malformed.
    pub policy: Option<Policy>,
    /// `sp=`
    pub subdomains: Option<Policy>,
    /// `np=`
    pub missing: Option<Policy>,
    /// `adkim=s`
    pub strict_dkim: bool,
    /// `aspf=s`
    pub strict_spf: bool,
    /// `psd=`: `y`, `n` or `u`.
    pub suffix: char,
    /// `t=y`
    pub testing: bool,
    /// `rua=`: where aggregate reports go.
    pub reports: Vec<ReportUri>,
}

/// One `mailto:` of `rua=`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReportUri {
    /// The address.
    pub address: String,
    /// The largest report it takes, in bytes (RFC 7489 section 6.2; RFC 9989 has no such limit).
    pub limit: Option<u64>,
}

/// Reads a record; `None`: it is no DMARC record. Unknown tags and malformed values are left out
/// (RFC 9989 section 4.7).
pub fn parse(text: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(text).ok()?;
    let mut tags: HashMap<String, &str> = HashMap::new();
    for (index, spec) in text.split(';').enumerate() {
        let (name, value) = match spec.split_once('=') {
            Some((name, value)) => (name.trim().to_ascii_lowercase(), value.trim()),
            None if index == 0 => return None,
            None => continue,
        };
        if index == 0 && (name != "v" || value != "DMARC1") {
            return None;
        }
        tags.entry(name).or_insert(value);
    }
    let policy = |tag: &str| tags.get(tag).and_then(|value| Policy::parse(value));
    let is = |tag: &str, wanted: &str| {
        tags.get(tag)
            .is_some_and(|v| v.eq_ignore_ascii_case(wanted))
    };
    let reports = tags.get("rua").copied().unwrap_or_default().split(',');
    let reports = reports.filter_map(|uri| {
        let uri = uri.trim();
        let address = uri.get(..7).filter(|s| s.eq_ignore_ascii_case("mailto:"));
        let address = address.and_then(|_| uri.get(7..))?;
        let (address, limit) = match address.split_once('!') {
            Some((address, limit)) => (address, size(limit)),
            None => (address, None),
        };
        let address = crate::smtp::address::Address::parse(address.as_bytes()).ok()?;
        Some(ReportUri {
            address: address.to_string(),
            limit,
        })
    });
    Some(Record {
        policy: policy("p"),
        subdomains: policy("sp"),
        missing: policy("np"),
        strict_dkim: is("adkim", "s"),
        strict_spf: is("aspf", "s"),
        suffix: match (is("psd", "y"), is("psd", "n")) {
            (true, _) => 'y',
            (_, true) => 'n',
            _ => 'u',
        },
        testing: is("t", "y"),
        reports: reports.take(MOST_ADDRESSES).collect(),
    })
}

/// A size limit: a number and a unit of 1,024 bytes or its powers; what can not be read limits
/// nothing.
fn size(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether two names have the same organizational domain.
pub async fn same_organization(lookup: &Lookup, one: &str, other: &str) -> Result<bool, Trouble> {
    if one == other {
        return Ok(true);
    }
    let walk = tree_walk(lookup, one).await?;
    let organization = organization(&walk, one);
    aligns(lookup, other, one, organization, false).await
}

/// What authenticated: a domain, or one that could not be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The domain in lower case.
    pub domain: &'a str,
    /// Whether it comes from DKIM, not from SPF.
    pub dkim: bool,
    /// True: it passed. False: the DNS did not answer.
    pub passed: bool,
}

/// The verdict on one author domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The result.
    pub result: DmarcResult,
    /// The author's domain.
    pub domain: String,
    /// What the domain wants done with a message that fails.
    pub policy: Policy,
    /// Where the record stands.
    pub at: String,
    /// The record.
    pub record: Option<Record>,
    /// Whether SPF passed and aligns.
    pub spf_aligned: bool,
    /// Whether a DKIM signature passed and aligns.
    pub dkim_aligned: bool,
}

impl Verdict {
    /// Without a record.
    pub fn new(result: DmarcResult, domain: &str) -> Verdict {
        Verdict {
            result,
            domain: domain.to_owned(),
            policy: Policy::None,
            at: String::new(),
            record: None,
            spf_aligned: false,
            dkim_aligned: false,
        }
    }
}

/// Judges one author domain (lower case A-labels).
pub async fn check(lookup: &Lookup, domain: &str, identities: &[Identity<'_>]) -> Verdict {
    match judge(lookup, domain, identities).await {
        Ok(verdict) => verdict,
        Err(Trouble) => Verdict::new(DmarcResult::TempError, domain),
    }
}

async fn judge(
    lookup: &Lookup,
    domain: &str,
    identities: &[Identity<'_>],
) -> Result<Verdict, Trouble> {
    let walk = tree_walk(lookup, domain).await?;
    let organization = organization(&walk, domain).to_owned();
    let own = walk.iter().find(|(name, _)| *name == domain);
    let above = || walk.iter().find(|(name, _)| *name == organization);
    // RFC 9989 section 4.10.1: the author's own, the organization's, the public suffix's.
    let Some((at, record)) = own.or_else(above).or_else(|| walk.last()) else {
        return Ok(Verdict::new(DmarcResult::None, domain));
    };
    let Some(stated) = stated(lookup, record, domain, own.is_some()).await? else {
        return Ok(Verdict::new(DmarcResult::None, domain));
    };
    let policy = match (record.testing, stated) {
        (true, Policy::Reject) => Policy::Quarantine,
        (true, _) => Policy::None,
        (false, stated) => stated,
    };
    let mut verdict = Verdict {
        policy,
        at: (*at).to_owned(),
        record: Some(record.clone()),
        ..Verdict::new(DmarcResult::Fail, domain)
    };
    let mut trouble = false;
    for identity in identities {
        let strict = match identity.dkim {
            true => record.strict_dkim,
            false => record.strict_spf,
        };
        match aligns(lookup, identity.domain, domain, &organization, strict).await {
            Ok(true) if !identity.passed => trouble = true,
            Ok(true) if identity.dkim => verdict.dkim_aligned = true,
            Ok(true) => verdict.spf_aligned = true,
            Ok(false) => {}
            Err(Trouble) => trouble = true,
        }
    }
    verdict.result = match (verdict.dkim_aligned || verdict.spf_aligned, trouble) {
        (true, _) => DmarcResult::Pass,
        (false, true) => DmarcResult::TempError,
        (false, false) => DmarcResult::Fail,
    };
    Ok(verdict)
}

/// The policy a record states for `domain`; none: the record says nothing (RFC 9989 section
/// 4.10.1).
async fn stated(
    lookup: &Lookup,
    record: &Record,
    domain: &str,
    own: bool,
) -> Result<Option<Policy>, Trouble> {
    let Some(policy) = record.policy else {
        // No valid p=: as p=none if reports are wanted, else as no record.
        return Ok((!record.reports.is_empty()).then_some(Policy::None));
    };
    if own {
        return Ok(Some(policy));
    }
    let below = record.subdomains.unwrap_or(policy);
    match record.missing {
        Some(missing) if missing != below => match lookup.a(domain).await {
            Answer::NoName => Ok(Some(missing)),
            Answer::Trouble => Err(Trouble),
            _ => Ok(Some(below)),
        },
        _ => Ok(Some(below)),
    }
}

async fn aligns(
    lookup: &Lookup,
    identity: &str,
    author: &str,
    organization: &str,
    strict: bool,
) -> Result<bool, Trouble> {
    if identity == author {
        return Ok(true);
    }
    let below = identity
        .strip_suffix(organization)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if strict || !below {
        return Ok(false);
    }
    let walk = tree_walk(lookup, identity).await?;
    Ok(self::organization(&walk, identity) == organization)
}

type Walk<'a> = Vec<(&'a str, Record)>;

/// Every record from `domain` up to its top label, at most eight questions (RFC 9989 section
/// 4.10).
async fn tree_walk<'a>(lookup: &Lookup, domain: &'a str) -> Result<Walk<'a>, Trouble> {
    let mut found = Vec::new();
    let mut name = domain;
    loop {
        let texts = lookup.txt(&format!("_dmarc.{name}")).await.records()?;
        let mut records = texts.iter().filter_map(|text| parse(text));
        // Several records are none.
        if let (Some(record), None) = (records.next(), records.next()) {
            let end = record.suffix != 'u';
            found.push((name, record));
            if end {
                break;
            }
        }
        let labels = name.split('.').count();
        let drop = if labels > 8 { labels - 7 } else { 1 };
        match name.splitn(drop + 1, '.').nth(drop) {
            Some(rest) => name = rest,
            None => break,
        }
    }
    Ok(found)
}

/// The organizational domain of `start` (RFC 9989 section 4.10.2).
fn organization<'a>(walk: &Walk<'a>, start: &'a str) -> &'a str {
    for (name, record) in walk {
        match record.suffix {
            'n' => return name,
            'y' if *name != start => {
                let labels = name.split('.').count() + 1;
                let drop = start.split('.').count().saturating_sub(labels);
                return start.splitn(drop + 1, '.').nth(drop).unwrap_or(start);
            }
            _ => {}
        }
    }
    walk.last().map_or(start, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_leniently() {
        let record = parse(b"v=DMARC1;p=reject; rua=mailto:a@example.org!10m, https://x, MAILTO:b@example.org;; x=y; aspf=s; t=y; psd=n; sp=oops").expect("record");
        assert_eq!(record.policy, Some(Policy::Reject));
        assert_eq!(record.subdomains, None);
        let uri = |address: &str, limit| ReportUri {
            address: address.into(),
            limit,
        };
        assert_eq!(
            record.reports,
            [
                uri("a@example.org", Some(10 << 20)),
                uri("b@example.org", None)
            ]
        );
        assert!(record.strict_spf && !record.strict_dkim && record.testing);
        assert_eq!(record.suffix, 'n');
        for bad in [
            "",
            "v=DMARC2; p=none",
            "p=none; v=DMARC1",
            "v=DMARC1x",
            "v=spf1 -all",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
