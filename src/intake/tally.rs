//! What DMARC reports tell of one message (RFC 9990): intake sends it to whoever keeps it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::verify::Verdicts;
use crate::verify::dmarc::{DmarcResult, Policy, ReportUri};

/// Longest name that is kept, in characters.
const LONGEST: usize = 255;
/// Signatures of one message that are told of (RFC 9990 section 3.1.1.8 allows up to 100).
const MOST_SIGNATURES: usize = 10;

/// What is kept of one message: no address of a person, no word of its content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tally {
    /// Where the policy record stands.
    pub domain: String,
    /// What it says.
    pub published: Published,
    /// Where reports go.
    pub rua: Vec<ReportUri>,
    /// The client.
    pub client: IpAddr,
    /// The author's domain.
    pub header_from: String,
    /// The domain of the reverse-path; empty for the null one.
    pub envelope_from: String,
    /// What was done.
    pub disposition: Disposition,
    /// Why that is not what the policy says, if so.
    pub reason: Option<Reason>,
    /// Whether a passing signature aligns.
    pub dkim_aligned: bool,
    /// Whether SPF passed and aligns.
    pub spf_aligned: bool,
    /// Domain, selector and result of each signature.
    pub dkim: Vec<(String, String, String)>,
    /// The domain SPF is about, and its result.
    pub spf: (String, String),
}

/// A policy record, as reports repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Published {
    /// `p=`
    pub p: Wish,
    /// `sp=`
    pub sp: Option<Wish>,
    /// `np=`
    pub np: Option<Wish>,
    /// `adkim=s`
    pub strict_dkim: bool,
    /// `aspf=s`
    pub strict_spf: bool,
    /// `t=y`
    pub testing: bool,
}

/// What a domain wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Nothing.
    None,
    /// To be suspected.
    Quarantine,
    /// To be refused.
    Reject,
}

impl From<Policy> for Wish {
    fn from(policy: Policy) -> Wish {
        match policy {
            Policy::None => Wish::None,
            Policy::Quarantine => Wish::Quarantine,
            Policy::Reject => Wish::Reject,
        }
    }
}

/// What was done with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    /// It passed.
    Pass,
    /// It failed, and was taken.
    None,
    /// It was refused.
    Reject,
}

/// Why a failing message was not treated as its domain asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Our configuration says otherwise.
    LocalPolicy,
    /// `t=y`
    PolicyTestMode,
}

impl actix::Message for Tally {
    type Result = ();
}

impl Tally {
    /// Of a message that was judged, if its author's domain wants reports. `refused`: whether it
    /// was refused because of DMARC.
    pub fn of(verdicts: &Verdicts, refused: bool) -> Option<Tally> {
        let dmarc = &verdicts.dmarc;
        let record = dmarc.record.as_ref().filter(|r| !r.reports.is_empty())?;
        let passed = match dmarc.result {
            DmarcResult::Pass => true,
            DmarcResult::Fail => false,
            _ => return None,
        };
        let disposition = match (passed, refused) {
            (true, _) => Disposition::Pass,
            (false, true) => Disposition::Reject,
            (false, false) => Disposition::None,
        };
        let wanted = dmarc.policy != Policy::None;
        let reason = match (disposition, wanted) {
            (Disposition::None, true) => Some(Reason::LocalPolicy),
            (Disposition::None, false) if record.testing => Some(Reason::PolicyTestMode),
            _ => None,
        };
        let signatures = verdicts.dkim.iter().take(MOST_SIGNATURES);
        Some(Tally {
            domain: clean(&dmarc.at),
            published: Published {
                p: record.policy.map_or(Wish::None, Wish::from),
                sp: record.subdomains.map(Wish::from),
                np: record.missing.map(Wish::from),
                strict_dkim: record.strict_dkim,
                strict_spf: record.strict_spf,
                testing: record.testing,
            },
            rua: record.reports.clone(),
            client: verdicts.client,
            header_from: clean(&dmarc.domain),
            envelope_from: match verdicts.from.rsplit_once('@') {
                Some((_, domain)) => clean(domain),
                None => String::new(),
            },
            disposition,
            reason,
            dkim_aligned: dmarc.dkim_aligned,
            spf_aligned: dmarc.spf_aligned,
            dkim: signatures
                .map(|signature| {
                    let result = signature.result.as_str().to_owned();
                    (clean(&signature.domain), clean(&signature.selector), result)
                })
                .collect(),
            spf: (
                clean(&verdicts.spf_domain),
                verdicts.spf.result.as_str().to_owned(),
            ),
        })
    }
}

/// A name from the wire, so short and readable that it may stand in XML and in a log.
fn clean(name: &str) -> String {
    let well = |c: char| match c {
        c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '?',
        c => c,
    };
    name.chars().take(LONGEST).map(well).collect()
}
