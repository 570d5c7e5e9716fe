//! What reports say together. Pure.
//!
//! Reports are the word of whoever sent them; every text passes `plain` before a person sees it.

use std::collections::{BTreeMap, BTreeSet};

use mail_auth::report::DmarcResult;
use mail_auth::report::tlsrpt::PolicyType;
use serde::Serialize;

use super::Received;

/// Longest text of a report that is shown, in characters.
const LONGEST: usize = 100;

/// All of it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Reports that were added up.
    pub reports: usize,
    /// By domain: how mail in its name fared.
    pub dmarc: BTreeMap<String, Dmarc>,
    /// By domain: how deliveries to it fared.
    pub tls: BTreeMap<String, Tls>,
}

/// How mail in the name of a domain fared.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dmarc {
    /// Who reports.
    pub reporters: BTreeSet<String>,
    /// Messages.
    pub messages: u64,
    /// Of which DKIM or SPF passed and aligned.
    pub passed: u64,
    /// Of which were refused or suspected.
    pub punished: u64,
    /// Where the failing ones come from: most first.
    pub failing: Vec<Source>,
    /// The same while it is added up: address, author's domain, reverse-path, reporter.
    #[serde(skip)]
    sources: BTreeMap<[String; 4], u64>,
}

/// A source of failing mail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Source {
    /// Messages.
    pub messages: u64,
    /// The address.
    pub address: String,
    /// The author's domain.
    pub header_from: String,
    /// Whose reverse-path.
    pub envelope_from: String,
    /// Who reports it.
    pub reporter: String,
}

/// How deliveries to a domain fared.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Who reports.
    pub reporters: BTreeSet<String>,
    /// Sessions that were as the policy asks.
    pub succeeded: u64,
    /// Others.
    pub failed: u64,
    /// Policy, what failed and at which host: sessions.
    pub failures: BTreeMap<String, u64>,
}

/// Adds up what is about `only`, if that is given.
pub fn add_up(reports: &[Received], only: Option<&str>) -> Summary {
    let mut summary = Summary::default();
    for report in reports {
        let wanted = |domain: &str| only.is_none_or(|only| only.eq_ignore_ascii_case(domain));
        if !report.domains().into_iter().any(wanted) {
            continue;
        }
        summary.reports += 1;
        let reporter = plain(report.organization());
        match report {
            Received::Dmarc(report) => {
                let name = plain(&report.domain().to_ascii_lowercase());
                let entry = summary.dmarc.entry(name).or_default();
                entry.add(report, &reporter);
            }
            Received::Tls(report) => {
                for policy in &report.policies {
                    if wanted(&policy.policy.policy_domain) {
                        let name = plain(&policy.policy.policy_domain.to_ascii_lowercase());
                        summary.tls.entry(name).or_default().add(policy, &reporter);
                    }
                }
            }
        }
    }
    for entry in summary.dmarc.values_mut() {
        let sources = std::mem::take(&mut entry.sources).into_iter();
        entry.failing = sources
            .map(
                |([address, header_from, envelope_from, reporter], messages)| Source {
                    messages,
                    address,
                    header_from,
                    envelope_from,
                    reporter,
                },
            )
            .collect();
        entry.failing.sort_by(|a, b| b.cmp(a));
    }
    summary
}

impl Dmarc {
    fn add(&mut self, report: &mail_auth::report::Report, reporter: &str) {
        use mail_auth::report::ActionDisposition::{Quarantine, Reject};
        self.reporters.insert(reporter.to_owned());
        for record in report.records() {
            let count = u64::from(record.count());
            self.messages += count;
            let results = [record.dmarc_dkim_result(), record.dmarc_spf_result()];
            if results.contains(&DmarcResult::Pass) {
                self.passed += count;
                continue;
            }
            if matches!(record.action_disposition(), Quarantine | Reject) {
                self.punished += count;
            }
            let address = record.source_ip().map(|ip| ip.to_string());
            let key = [
                address.unwrap_or_default(),
                plain(record.header_from()),
                plain(record.envelope_from()),
                reporter.to_owned(),
            ];
            *self.sources.entry(key).or_default() += count;
        }
    }
}

impl Tls {
    fn add(&mut self, policy: &mail_auth::report::tlsrpt::Policy, reporter: &str) {
        self.reporters.insert(reporter.to_owned());
        self.succeeded += u64::from(policy.summary.total_success);
        self.failed += u64::from(policy.summary.total_failure);
        let kind = match policy.policy.policy_type {
            PolicyType::Tlsa => "DANE",
            PolicyType::Sts => "MTA-STS",
            PolicyType::NoPolicyFound => "no policy",
            PolicyType::Other => "another policy",
        };
        for failure in &policy.failure_details {
            let what = serde_json::to_value(failure.result_type).unwrap_or_default();
            let host = failure
                .receiving_mx_hostname
                .as_deref()
                .unwrap_or("an unnamed host");
            let what = what
                .as_str()
                .unwrap_or("another failure")
                .to_ascii_lowercase();
            let key = format!("{kind}: {what} at {}", plain(host));
            *self.failures.entry(key).or_default() += u64::from(failure.failed_session_count);
        }
    }
}

/// A text of a stranger for a terminal.
fn plain(text: &str) -> String {
    let short = text.chars().take(LONGEST);
    short
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
