//! What a domain tells senders about TLS: MTA-STS (RFC 8461) and TLS-RPT (RFC 8460).

use super::{Asked, Finding};
use crate::message::tags::Tags;

/// What is known of a domain that takes mail here.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// Our host name.
    pub hostname: String,
    /// TXT records of `_mta-sts.DOMAIN` that begin with `v=STSv1`.
    pub records: Asked<Vec<u8>>,
    /// The policy as it was fetched; `None`: there is no record, so nobody asks.
    pub policy: Option<Result<String, String>>,
    /// The id of the policy that we serve; `None`: we serve none.
    pub served: Option<String>,
    /// TXT records of `_smtp._tls.DOMAIN` that begin with `v=TLSRPTv1`.
    pub reports: Asked<Vec<u8>>,
}

/// Judges both.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    vec![mta_sts(facts), tls_rpt(facts)]
}

fn mta_sts(facts: &Facts) -> Finding {
    let (domain, host) = (facts.domain.as_str(), &facts.hostname);
    let texts = match &facts.records {
        Err(_) => return Finding::unasked("mta-sts", domain, "its MTA-STS record"),
        Ok(texts) => texts,
    };
    let publish = format!("publish the _mta-sts record as `chapar dns {domain}` prints it");
    let text = match (texts.as_slice(), &facts.served) {
        ([], None) => {
            return Finding::good(
                "mta-sts",
                domain,
                "no policy: senders use TLS where they can",
            );
        }
        ([], Some(_)) => {
            return Finding::warning(
                "mta-sts",
                domain,
                "we serve a policy, but there is no record for it",
                "senders do not know of it, so an attacker can turn TLS off",
                publish,
            );
        }
        ([text], _) => text,
        (texts, _) => {
            return Finding::wrong(
                "mta-sts",
                domain,
                format!("there are {} MTA-STS records", texts.len()),
                "senders then use none (RFC 8461 section 3.1)",
                "remove all but one",
            );
        }
    };
    let id = Tags::parse(text).and_then(|tags| tags.get("id"));
    let Some(id) = id.filter(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()))
    else {
        return Finding::wrong(
            "mta-sts",
            domain,
            "the record has no sound id",
            "senders do not use the policy",
            publish,
        );
    };
    let policy = match &facts.policy {
        Some(Ok(policy)) => policy,
        Some(Err(problem)) => {
            return Finding::wrong(
                "mta-sts",
                domain,
                format!("the policy can not be fetched: {problem}"),
                "senders that have an enforced policy keep it, the others send without",
                format!(
                    "let https://mta-sts.{domain}/.well-known/mta-sts.txt be served, with web.https and a certificate for that name; or remove the record"
                ),
            );
        }
        None => return Finding::unasked("mta-sts", domain, "its policy"),
    };
    match covers(policy, host) {
        Err(problem) => Finding::wrong(
            "mta-sts",
            domain,
            problem,
            "senders that obey the policy can not deliver to us",
            format!("let the policy have mx: {host}"),
        ),
        Ok(mode) => match &facts.served {
            Some(served) if served != id => Finding::warning(
                "mta-sts",
                domain,
                format!("the record says id={id}, the policy we serve has id {served}"),
                "senders do not see that the policy changed",
                publish,
            ),
            _ => Finding::good(
                "mta-sts",
                domain,
                format!("the policy is {mode} and names {host}"),
            ),
        },
    }
}

/// The mode of a policy that names `host`, or what is wrong with it.
fn covers(policy: &str, host: &str) -> Result<String, String> {
    let pairs: Vec<(&str, &str)> = policy
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let get = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    if get("version") != Some("STSv1") {
        return Err("what is served is no policy: version: STSv1 is missing".into());
    }
    let mode = get("mode").unwrap_or_default();
    if !["enforce", "testing", "none"].contains(&mode) {
        return Err(format!(
            "the policy has the mode '{mode}'; enforce, testing and none exist"
        ));
    }
    let rest = host.split_once('.').map(|(_, rest)| rest);
    let names = |pattern: &str| {
        pattern.eq_ignore_ascii_case(host) || (rest.is_some() && pattern.strip_prefix("*.") == rest)
    };
    let mut hosts = pairs
        .iter()
        .filter(|(key, _)| *key == "mx")
        .map(|(_, value)| *value);
    match mode == "none" || hosts.any(names) {
        true => Ok(mode.to_owned()),
        false => Err(format!("the policy does not name {host}")),
    }
}

fn tls_rpt(facts: &Facts) -> Finding {
    let domain = facts.domain.as_str();
    let publish =
        format!("publish _smtp._tls.{domain} TXT \"v=TLSRPTv1; rua=mailto:postmaster@{domain}\"");
    let texts = match &facts.reports {
        Err(_) => return Finding::unasked("tls-rpt", domain, "its TLS-RPT record"),
        Ok(texts) => texts,
    };
    let text = match texts.as_slice() {
        [] => {
            return Finding::warning(
                "tls-rpt",
                domain,
                "there is no TLS-RPT record",
                "nobody tells us when deliveries to us fail because of TLS",
                publish,
            );
        }
        [text] => text,
        _ => {
            return Finding::wrong(
                "tls-rpt",
                domain,
                format!("there are {} TLS-RPT records", texts.len()),
                "senders then use none (RFC 8460 section 3)",
                "remove all but one",
            );
        }
    };
    let tags = Tags::parse(text);
    let to = tags
        .as_ref()
        .and_then(|tags| tags.get("rua"))
        .unwrap_or_default();
    let sound = |uri: &str| {
        let uri = uri.trim();
        let mail = uri
            .strip_prefix("mailto:")
            .is_some_and(|address| address.contains('@'));
        mail || uri.starts_with("https://")
    };
    match !to.is_empty() && to.split(',').all(sound) {
        true => Finding::good("tls-rpt", domain, format!("reports go to {to}")),
        false => Finding::wrong(
            "tls-rpt",
            domain,
            "the record names no address that reports could go to",
            "no report is sent",
            publish,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    fn facts(records: &[&str], policy: &str, served: Option<&str>) -> Facts {
        Facts {
            domain: "example.org".into(),
            hostname: "mx.example.org".into(),
            records: Ok(records
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect()),
            policy: Some(Ok(policy.into())),
            served: served.map(str::to_owned),
            reports: Ok(Vec::new()),
        }
    }

    #[test]
    fn a_policy_must_be_found_and_name_this_host() {
        let good = "version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmax_age: 604800\r\n";
        let wild = good.replace("mx: mx.", "mx: *.");
        let other = good.replace("mx: mx.", "mx: other.");
        let record = &["v=STSv1; id=1"][..];
        for (records, policy, served, level) in [
            (record, good, Some("1"), Level::Good),
            (record, wild.as_str(), None, Level::Good),
            (record, other.as_str(), None, Level::Wrong),
            (record, "hello", None, Level::Wrong),
            (record, good, Some("2"), Level::Warning),
            (&["v=STSv1"], good, None, Level::Wrong),
            (&[], good, Some("1"), Level::Warning),
            (&[], good, None, Level::Good),
        ] {
            let finding = mta_sts(&facts(records, policy, served));
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn reports_need_an_address() {
        for (records, level) in [
            (&["v=TLSRPTv1; rua=mailto:a@example.org"][..], Level::Good),
            (&["v=TLSRPTv1; rua=a@example.org"], Level::Wrong),
            (&[], Level::Warning),
        ] {
            let mut facts = facts(&[], "", None);
            facts.reports = Ok(records
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect());
            assert_eq!(tls_rpt(&facts).level, level, "{records:?}");
        }
    }
}
