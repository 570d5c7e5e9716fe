//! Results of TLS sessions and the report about them (RFC 8460). Pure: counts in, JSON and mail out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use crate::delivery::tally::{Failure, Under};

/// Domains that are counted in one day.
pub const DOMAINS: usize = 20_000;
/// Policies of one domain in one day.
pub const POLICIES: usize = 8;
/// Different failures of one policy in one day.
pub const FAILURES: usize = 100;
/// Addresses of one domain that get its report.
pub const ADDRESSES: usize = 5;

/// Counts under one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    under: Under,
    successes: u64,
    failed: u64,
    failures: Vec<(Failure, u64)>,
}

/// Counts of one day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day(BTreeMap<String, Vec<Counts>>);

impl Day {
    /// Counts a session. What exceeds the bounds is not told apart, or not counted.
    pub fn count(&mut self, domain: &str, under: &Under, failure: Option<Failure>) {
        if !self.0.contains_key(domain) && self.0.len() >= DOMAINS {
            return;
        }
        let policies = self.0.entry(domain.to_owned()).or_default();
        let at = policies.iter().position(|counts| counts.under == *under);
        let at = at.unwrap_or_else(|| {
            if policies.len() < POLICIES {
                policies.push(Counts {
                    under: under.clone(),
                    successes: 0,
                    failed: 0,
                    failures: Vec::new(),
                });
            }
            policies.len().saturating_sub(1)
        });
        let Some(counts) = policies.get_mut(at) else {
            return;
        };
        let Some(failure) = failure else {
            counts.successes += 1;
            return;
        };
        counts.failed += 1;
        let times = counts.failures.iter_mut().find(|(one, _)| *one == failure);
        if let Some((_, times)) = times {
            *times += 1;
        } else if counts.failures.len() < FAILURES {
            counts.failures.push((failure, 1));
        }
    }

    /// Whose sessions were counted.
    pub fn domains(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Forgets a domain.
    pub fn forget(&mut self, domain: &str) {
        self.0.remove(domain);
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The report to a domain as JSON (RFC 8460 section 4.4). `date`: `YYYY-MM-DD` in UTC.
    pub fn report(&self, domain: &str, date: &str, about: &About<'_>) -> Option<Value> {
        let policies = self.0.get(domain)?.iter().map(|counts| {
            let mut policy = json!({
                "policy-type": counts.under.kind,
                "policy-domain": domain,
            });
            if !counts.under.strings.is_empty() {
                policy["policy-string"] = json!(counts.under.strings);
            }
            if !counts.under.mx.is_empty() {
                policy["mx-host"] = json!(counts.under.mx);
            }
            let details = counts.failures.iter().map(|(failure, times)| {
                let mut detail = json!({
                    "result-type": failure.result,
                    "receiving-mx-hostname": failure.host,
                    "failed-session-count": times,
                    "failure-reason-code": failure.reason,
                });
                if !failure.address.is_empty() {
                    detail["receiving-ip"] = json!(failure.address);
                }
                if !failure.local.is_empty() {
                    detail["sending-mta-ip"] = json!(failure.local);
                }
                detail
            });
            let mut whole = json!({
                "policy": policy,
                "summary": {
                    "total-successful-session-count": counts.successes,
                    "total-failure-session-count": counts.failed,
                },
            });
            if !counts.failures.is_empty() {
                whole["failure-details"] = details.collect();
            }
            whole
        });
        Some(json!({
            "organization-name": about.submitter,
            "date-range": {
                "start-datetime": format!("{date}T00:00:00Z"),
                "end-datetime": format!("{date}T23:59:59Z"),
            },
            "contact-info": about.contact(),
            "report-id": about.id(domain, date),
            "policies": policies.collect::<Vec<_>>(),
        }))
    }
}

/// Who reports.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The domain in From, whose key signs.
    pub submitter: &'a str,
    /// Our host name.
    pub hostname: &'a str,
}

impl About<'_> {
    /// Whom a reader can ask.
    pub fn contact(&self) -> String {
        format!("postmaster@{}", self.submitter)
    }

    /// The report's id: the same for a report that is sent again.
    pub fn id(&self, domain: &str, date: &str) -> String {
        format!("{date}.{domain}@{}", self.hostname)
    }
}

/// A report as it travels.
pub fn zipped(report: &Value) -> std::io::Result<Vec<u8>> {
    super::post::gzip(&serde_json::to_vec(report)?)
}

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// What its file is called (RFC 8460 section 5.1): begin and end are seconds since 1970.
fn file_name(submitter: &str, domain: &str, date: &str) -> String {
    let begin = format!("{date}T00:00:00Z").parse::<jiff::Timestamp>();
    let begin = begin.map_or(0, |begin| begin.as_second());
    format!("{submitter}!{domain}!{begin}!{}.json.gz", begin + DAY - 1)
}

/// The mail with a report (RFC 8460 section 5.3): its header and its body. `date` is the day it
/// covers, `sent` the Date field.
pub fn mail(
    to: &str,
    domain: &str,
    date: &str,
    sent: &str,
    about: &About<'_>,
    zip: &[u8],
) -> (String, String) {
    let (submitter, contact, id) = (about.submitter, about.contact(), about.id(domain, date));
    let boundary = format!("=_tlsrpt_{date}");
    let name = file_name(submitter, domain, date);
    let head = format!(
        "From: {contact}\r\nTo: {to}\r\nDate: {sent}\r\nMessage-ID: <{id}>\r\n\
         Subject: Report Domain: {domain}\r\n Submitter: {submitter}\r\n Report-ID: <{id}>\r\n\
         TLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {submitter}\r\n\
         TLS-Required: No\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n boundary=\"{boundary}\"\r\n\r\n"
    );
    let mut body = format!(
        "--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
         This is the report of {date} (UTC) on TLS to the mail hosts of\r\n{domain}, by {submitter} (RFC 8460).\r\n\
         \r\n--{boundary}\r\nContent-Type: application/tlsrpt+gzip\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n filename=\"{name}\"\r\n\r\n"
    );
    let text = base64::engine::general_purpose::STANDARD.encode(zip);
    for line in text.as_bytes().chunks(76) {
        let _ = write!(body, "{}\r\n", String::from_utf8_lossy(line));
    }
    let _ = write!(body, "--{boundary}--\r\n");
    (head, body)
}

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rua {
    /// To a mailbox.
    Mail(String),
    /// To `https://HOST[:PORT]/PATH`.
    Https {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Path and query.
        path: String,
    },
}

/// The addresses in the one TLSRPT record among the TXT records of `_smtp._tls.DOMAIN`; none if
/// there is none, or more than one (RFC 8460 section 3).
pub fn addresses(records: &[Vec<u8>]) -> Vec<Rua> {
    let mut ours = records
        .iter()
        .filter_map(|record| std::str::from_utf8(record).ok())
        .filter(|record| record.split(';').next().map(str::trim) == Some("v=TLSRPTv1"));
    let (Some(record), None) = (ours.next(), ours.next()) else {
        return Vec::new();
    };
    let rua = record
        .split(';')
        .filter_map(|field| field.split_once('='))
        .find(|(key, _)| key.trim() == "rua")
        .map_or("", |(_, value)| value);
    let uris = rua.split(',').map(str::trim).filter_map(uri);
    uris.take(ADDRESSES).collect()
}

fn uri(text: &str) -> Option<Rua> {
    let (scheme, rest) = text.split_once(':')?;
    if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return None;
    }
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split('?').next()?.replace("%40", "@");
        crate::identity::address::check(&address).ok()?;
        return Some(Rua::Mail(address));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.strip_prefix("//")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let path = path.split('#').next().unwrap_or_default();
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 443),
    };
    crate::identity::address::check_domain(&host.to_ascii_lowercase()).ok()?;
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    Some(Rua::Https {
        host: host.to_ascii_lowercase(),
        port,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(host: &str) -> Failure {
        Failure {
            result: "certificate-expired".into(),
            host: host.into(),
            address: "192.0.2.1".into(),
            local: "198.51.100.1".into(),
            reason: "certificate expired".into(),
        }
    }

    fn sts() -> Under {
        Under {
            kind: "sts".into(),
            strings: vec!["version: STSv1".into()],
            mx: vec!["*.example.com".into()],
        }
    }

    #[test]
    fn a_day_becomes_a_report() {
        let mut day = Day::default();
        for _ in 0..3 {
            day.count("example.com", &sts(), None);
        }
        for _ in 0..2 {
            day.count("example.com", &sts(), Some(failure("mx.example.com")));
        }
        let about = About {
            submitter: "example.org",
            hostname: "mx.example.org",
        };
        let report = day
            .report("example.com", "2026-11-25", &about)
            .expect("a report");
        let expected = json!({
            "organization-name": "example.org",
            "date-range": {
                "start-datetime": "2026-11-25T00:00:00Z",
                "end-datetime": "2026-11-25T23:59:59Z",
            },
            "contact-info": "postmaster@example.org",
            "report-id": "2026-11-25.example.com@mx.example.org",
            "policies": [{
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1"],
                    "policy-domain": "example.com",
                    "mx-host": ["*.example.com"],
                },
                "summary": {
                    "total-successful-session-count": 3,
                    "total-failure-session-count": 2,
                },
                "failure-details": [{
                    "result-type": "certificate-expired",
                    "receiving-mx-hostname": "mx.example.com",
                    "receiving-ip": "192.0.2.1",
                    "sending-mta-ip": "198.51.100.1",
                    "failed-session-count": 2,
                    "failure-reason-code": "certificate expired",
                }],
            }],
        });
        assert_eq!(report, expected);
        assert_eq!(day.report("example.net", "2026-11-25", &about), None);
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut day = Day::default();
        for n in 0..FAILURES + 5 {
            day.count("example.com", &sts(), Some(failure(&n.to_string())));
        }
        for n in 0..POLICIES + 5 {
            let under = Under {
                kind: n.to_string(),
                ..sts()
            };
            day.count("example.com", &under, None);
        }
        let policies = &day.0["example.com"];
        assert_eq!(policies.len(), POLICIES);
        assert_eq!(policies[0].failures.len(), FAILURES);
        assert_eq!(policies[0].failed, FAILURES as u64 + 5);
    }

    #[test]
    fn o9_the_file_says_when_it_begins_and_ends() {
        assert_eq!(
            file_name("example.org", "one.example", "2026-12-01"),
            "example.org!one.example!1796083200!1796169599.json.gz"
        );
    }

    #[test]
    fn where_reports_go() {
        let of = |text: &str| addresses(&[text.as_bytes().to_vec()]);
        let mail = |address: &str| Rua::Mail(address.to_owned());
        let https = |host: &str, port, path: &str| Rua::Https {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        assert_eq!(
            of("v=TLSRPTv1; rua=mailto:tls@example.com,https://r.example.com/v1?a=b"),
            [
                mail("tls@example.com"),
                https("r.example.com", 443, "/v1?a=b")
            ]
        );
        assert_eq!(
            of("v=TLSRPTv1;rua=https://R.example.com:8443"),
            [https("r.example.com", 8443, "/")]
        );
        for none in [
            "v=TLSRPTv2; rua=mailto:a@b.example",
            "v=TLSRPTv1;",
            "v=TLSRPTv1; rua=http://r.example.com/",
            "v=TLSRPTv1; rua=mailto:nobody",
            "v=TLSRPTv1; rua=https:///x",
            "v=TLSRPTv1; rua=https://user@host/x",
        ] {
            assert_eq!(of(none), [], "{none}");
        }
        let two = b"v=TLSRPTv1; rua=mailto:a@b.example".to_vec();
        assert_eq!(addresses(&[two.clone(), two]), []);
    }
}
