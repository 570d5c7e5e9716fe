//! SPF of a domain that we send for (RFC 7208).

use std::net::IpAddr;

use super::{Asked, Finding, list};
use crate::verify::spf::SpfResult;
use crate::verify::spf::record::{self, Mechanism};

/// Lookups that a receiver does at most (RFC 7208 section 4.6.4).
pub const MOST_LOOKUPS: usize = 10;

/// What is known of the SPF of a domain.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// Our EHLO name.
    pub hostname: String,
    /// Its SPF records.
    pub records: Asked<Vec<u8>>,
    /// Terms that ask the DNS, with those of all that is included; `None`: could not be followed.
    pub lookups: Option<usize>,
    /// What a receiver would find for each address that we send from.
    pub results: Vec<(IpAddr, SpfResult)>,
}

/// Judges syntax, lookups and whether our addresses may send.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let (domain, host) = (facts.domain.as_str(), &facts.hostname);
    let texts = match &facts.records {
        Err(_) => return vec![Finding::unasked("spf", domain, "its TXT records")],
        Ok(texts) => texts,
    };
    let [text] = texts.as_slice() else {
        return vec![number(domain, host, texts)];
    };
    let shown = String::from_utf8_lossy(text).into_owned();
    let Some(record) = record::parse(text) else {
        return vec![Finding::wrong(
            "spf",
            domain,
            format!("the record has a mistake: {shown}"),
            "a record with a mistake is a permanent error, and nobody passes",
            format!(
                "publish {domain} TXT \"v=spf1 a:{host} ~all\", with the other senders you use"
            ),
        )];
    };
    let mut found = Vec::new();
    if let Some(lookups) = facts.lookups
        && lookups > MOST_LOOKUPS
    {
        found.push(Finding::wrong(
            "spf-lookups",
            domain,
            format!("the record causes {lookups} DNS lookups; at most {MOST_LOOKUPS} are done"),
            "beyond that the result is a permanent error, and nobody passes",
            "remove include:, a and mx terms of services that are not used, or put ip4: and ip6: for them",
        ));
    }
    let all = record
        .directives
        .iter()
        .find(|d| d.mechanism == Mechanism::All);
    match all.map(|all| all.qualifier) {
        Some(b'+') => found.push(Finding::wrong(
            "spf-all",
            domain,
            "the record ends with +all, so everybody may send",
            "forgeries pass, and receivers distrust the domain",
            "replace +all by ~all",
        )),
        None if record.redirect.is_none() => found.push(Finding::warning(
            "spf-all",
            domain,
            "the record has no all at its end",
            "a forgery is then neutral, which is as if there were no record",
            "add ~all at its end",
        )),
        _ => {}
    }
    let which = |wanted: SpfResult| -> Vec<IpAddr> {
        let fits = facts.results.iter().filter(|(_, result)| *result == wanted);
        fits.map(|(ip, _)| *ip).collect()
    };
    let unknown = which(SpfResult::TempError);
    let outside: Vec<IpAddr> = facts
        .results
        .iter()
        .filter(|(_, result)| !matches!(result, SpfResult::Pass | SpfResult::TempError))
        .map(|(ip, _)| *ip)
        .collect();
    if !unknown.is_empty() {
        found.push(Finding::unasked("spf", domain, "what its SPF record names"));
    }
    // A permanent error has its reason above.
    if !outside.is_empty() && !found.iter().any(|finding| finding.check == "spf-lookups") {
        found.push(Finding::wrong(
            "spf",
            domain,
            format!("{} may not send by \"{shown}\"", list(&outside)),
            "mail of the domain from this host fails SPF",
            format!("put a:{host} into the record before its all"),
        ));
    }
    if found.is_empty() {
        let lookups = facts.lookups.unwrap_or_default();
        let what = format!("our addresses pass, {lookups} of {MOST_LOOKUPS} lookups");
        found.push(Finding::good("spf", domain, what));
    }
    found
}

fn number(domain: &str, host: &str, texts: &[Vec<u8>]) -> Finding {
    match texts.len() {
        0 => Finding::wrong(
            "spf",
            domain,
            "there is no SPF record",
            "Gmail and Yahoo refuse or junk mail of domains without one (5.7.26)",
            format!("publish {domain} TXT \"v=spf1 a:{host} ~all\""),
        ),
        count => Finding::wrong(
            "spf",
            domain,
            format!("there are {count} SPF records"),
            "more than one is a permanent error, and nobody passes (RFC 7208 section 4.5)",
            format!("merge them into one, with a:{host} before its all"),
        ),
    }
}

/// Judges the record of the EHLO name, which is asked for bounces.
pub fn judge_host(
    hostname: &str,
    records: &Asked<Vec<u8>>,
    results: &[(IpAddr, SpfResult)],
) -> Finding {
    let remedy = format!("publish {hostname} TXT \"v=spf1 a -all\"");
    let why =
        "bounces and notices have no sender, so receivers ask for this one (RFC 7208 section 2.4)";
    match records {
        Err(_) => Finding::unasked("spf-host", hostname, "its TXT records"),
        Ok(records) if records.is_empty() => Finding::warning(
            "spf-host",
            hostname,
            "the EHLO name has no SPF record",
            why,
            remedy,
        ),
        Ok(_) if results.iter().all(|(_, result)| *result == SpfResult::Pass) => {
            Finding::good("spf-host", hostname, "the EHLO name passes SPF")
        }
        Ok(_) => Finding::warning(
            "spf-host",
            hostname,
            "the SPF record of the EHLO name does not let this host send",
            why,
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    fn facts(records: &[&str], lookups: usize, result: SpfResult) -> Facts {
        Facts {
            domain: "example.org".into(),
            hostname: "mx.example.org".into(),
            records: Ok(records
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect()),
            lookups: Some(lookups),
            results: vec![("192.0.2.1".parse().expect("address"), result)],
        }
    }

    #[test]
    fn each_fault_has_its_own_finding() {
        use SpfResult::{Pass, PermError, SoftFail};
        for (records, lookups, result, check, level, part) in [
            (
                &["v=spf1 a:mx.example.org ~all"][..],
                1,
                Pass,
                "spf",
                Level::Good,
                "1 of 10",
            ),
            (
                &[],
                0,
                SpfResult::None,
                "spf",
                Level::Wrong,
                "no SPF record",
            ),
            (
                &["v=spf1 -all", "v=spf1 mx -all"],
                0,
                PermError,
                "spf",
                Level::Wrong,
                "2 SPF records",
            ),
            (
                &["v=spf1 ip4:1.2.3 -all"],
                0,
                PermError,
                "spf",
                Level::Wrong,
                "mistake",
            ),
            (
                &["v=spf1 mx -all"],
                11,
                PermError,
                "spf-lookups",
                Level::Wrong,
                "11 DNS lookups",
            ),
            (&["v=spf1 a +all"], 1, Pass, "spf-all", Level::Wrong, "+all"),
            (&["v=spf1 a"], 1, Pass, "spf-all", Level::Warning, "no all"),
            (
                &["v=spf1 a ~all"],
                1,
                SoftFail,
                "spf",
                Level::Wrong,
                "may not send",
            ),
        ] {
            let found = judge(&facts(records, lookups, result));
            let [finding] = found.as_slice() else {
                panic!("{records:?}: {found:?}");
            };
            assert_eq!(
                (finding.check, finding.level),
                (check, level),
                "{finding:?}"
            );
            assert!(finding.what.contains(part), "{finding:?}");
        }
    }
}
