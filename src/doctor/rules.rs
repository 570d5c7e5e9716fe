//! What Gmail and Yahoo want of everybody who sends more than 5,000 messages a day: judged from the
//! other findings.

use super::{Finding, Level};

/// What they ask for, and the checks that answer it.
const RULES: [(&str, &[&str]); 6] = [
    ("a confirmed PTR", &["ptr", "fcrdns"]),
    ("SPF", &["spf", "spf-lookups", "spf-all"]),
    ("DKIM", &["dkim", "dkim-split", "dkim-rsa"]),
    ("DMARC", &["dmarc"]),
    ("an aligned From", &["alignment"]),
    ("no listing", &["dnsbl"]),
];

/// Judges a domain from what was found about it and about the host.
pub fn judge(domain: &str, findings: &[Finding]) -> Finding {
    let fails = |checks: &&[&str]| {
        let about = |finding: &&Finding| checks.contains(&finding.check);
        findings
            .iter()
            .filter(about)
            .any(|finding| finding.level == Level::Wrong)
    };
    let missing: Vec<&str> = RULES
        .iter()
        .filter(|(_, checks)| fails(checks))
        .map(|(rule, _)| *rule)
        .collect();
    if missing.is_empty() {
        let what = "what can be seen from here is met; newsletters also need List-Unsubscribe with \
                    one click (RFC 8058), and complaints below 0.3 %";
        return Finding::good("bulk-rules", domain, what);
    }
    Finding::wrong(
        "bulk-rules",
        domain,
        format!("not met: {}", missing.join(", ")),
        "Gmail and Yahoo slow down, junk or refuse such mail",
        "put right what is told above, then run this again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let bad = [Finding::wrong("dkim-split", "a", "b", "c", "d")];
        assert_eq!(judge("example.org", &bad).what, "not met: DKIM");
        let fine = [Finding::good("dkim", "a", "b")];
        assert_eq!(judge("example.org", &fine).level, Level::Good);
    }
}
