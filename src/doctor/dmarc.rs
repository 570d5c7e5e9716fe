//! DMARC of a domain that we send for, and whether our mail is aligned (RFC 9989).

use super::{Asked, Finding};
use crate::verify::dmarc::{self, Policy};

/// What is known of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// TXT records of `_dmarc.DOMAIN` that begin with `v=DMARC1`.
    pub records: Asked<Vec<u8>>,
    /// Domains elsewhere that reports go to, and whether they take them; `None`: nobody knows.
    pub takers: Vec<(String, Option<bool>)>,
    /// A signature with `d=` this domain verifies.
    pub dkim: bool,
    /// This host passes SPF for this domain.
    pub spf: bool,
}

/// Judges record and alignment.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![record(facts)];
    for (taker, takes) in &facts.takers {
        if *takes == Some(false) {
            let domain = &facts.domain;
            found.push(Finding::warning(
                "dmarc-reports",
                domain,
                format!("reports go to {taker}, which does not say that it takes them"),
                "receivers then send none (RFC 9990 section 4)",
                format!("publish {domain}._report._dmarc.{taker} TXT \"v=DMARC1\", or send reports to an address of {domain}"),
            ));
        }
    }
    found.push(alignment(facts));
    found
}

fn record(facts: &Facts) -> Finding {
    let domain = facts.domain.as_str();
    let example =
        format!("publish _dmarc.{domain} TXT \"v=DMARC1; p=none; rua=mailto:postmaster@{domain}\"");
    let texts = match &facts.records {
        Err(_) => return Finding::unasked("dmarc", domain, "its DMARC record"),
        Ok(texts) => texts,
    };
    let text = match texts.as_slice() {
        [] => {
            return Finding::wrong(
                "dmarc",
                domain,
                "there is no DMARC record",
                "Gmail, Yahoo and Outlook want one of everybody who sends in bulk (5.7.40, 5.7.515)",
                example,
            );
        }
        [text] => text,
        texts => {
            return Finding::wrong(
                "dmarc",
                domain,
                format!("there are {} DMARC records", texts.len()),
                "with more than one, receivers use none",
                "remove all but one",
            );
        }
    };
    let parsed = dmarc::parse(text).and_then(|record| Some((record.policy?, record)));
    let Some((policy, record)) = parsed else {
        return Finding::wrong(
            "dmarc",
            domain,
            format!(
                "the record has a mistake: {}",
                String::from_utf8_lossy(text)
            ),
            "receivers act as if there were none",
            example,
        );
    };
    if policy == Policy::None && record.reports.is_empty() {
        return Finding::warning(
            "dmarc",
            domain,
            "the policy is none and nobody gets reports",
            "forgeries go unhindered and unseen",
            format!(
                "add rua=mailto:postmaster@{domain}, and p=quarantine once the reports are clean"
            ),
        );
    }
    Finding::good(
        "dmarc",
        domain,
        format!("the policy is {}", policy.as_str()),
    )
}

fn alignment(facts: &Facts) -> Finding {
    let domain = facts.domain.as_str();
    let what = match (facts.dkim, facts.spf) {
        (true, true) => "DKIM and SPF both pass for the domain in From",
        (true, false) => "DKIM passes for the domain in From",
        (false, true) => {
            return Finding::warning(
                "alignment",
                domain,
                "only SPF passes for the domain in From",
                "SPF breaks when mail is forwarded, and DMARC fails there",
                "publish the DKIM keys as told above",
            );
        }
        (false, false) => {
            return Finding::wrong(
                "alignment",
                domain,
                "neither DKIM nor SPF passes for the domain in From",
                "DMARC fails for every message of the domain",
                "publish the DKIM keys and the SPF record as told above",
            );
        }
    };
    Finding::good("alignment", domain, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    #[test]
    fn records_and_alignment() {
        for (records, dkim, spf, levels) in [
            (
                &["v=DMARC1; p=reject"][..],
                true,
                true,
                [Level::Good, Level::Good],
            ),
            (&[], false, false, [Level::Wrong, Level::Wrong]),
            (
                &["v=DMARC1; p=none"],
                false,
                true,
                [Level::Warning, Level::Warning],
            ),
            (
                &["v=DMARC1; p=none; rua=mailto:a@example.org"],
                true,
                false,
                [Level::Good, Level::Good],
            ),
            (
                &["v=DMARC1; p=reject", "v=DMARC1; p=none"],
                true,
                true,
                [Level::Wrong, Level::Good],
            ),
            (&["v=DMARC1"], true, true, [Level::Wrong, Level::Good]),
        ] {
            let found = judge(&Facts {
                domain: "example.org".into(),
                records: Ok(records
                    .iter()
                    .map(|text| text.as_bytes().to_vec())
                    .collect()),
                takers: Vec::new(),
                dkim,
                spf,
            });
            let found: Vec<Level> = found.iter().map(|finding| finding.level).collect();
            assert_eq!(found, levels, "{records:?}");
        }
    }
}
