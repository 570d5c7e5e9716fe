//! DKIM: whether what is published is what we sign with (RFC 6376, RFC 8301, RFC 8463).

use super::{Asked, Finding};
use crate::message::tags::{Tags, squeezed};
use crate::signing::keys::Algorithm;

/// Fewest bits of an RSA key that receivers take for strong (RFC 8301 section 3.2).
pub const RSA_GOOD: usize = 2048;

/// One selector of a domain.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// The selector.
    pub selector: String,
    /// Our key, or why it can not be used.
    pub own: Result<Own, String>,
    /// TXT records of `SELECTOR._domainkey.DOMAIN`.
    pub published: Asked<Vec<u8>>,
}

/// What our private key says.
#[derive(Debug, Clone)]
pub struct Own {
    /// What it signs with.
    pub algorithm: Algorithm,
    /// Bits of an RSA key.
    pub bits: usize,
    /// The record that belongs to it.
    pub record: String,
}

/// How a domain gets another key; a selector that was never used is in no cache.
fn new_key(domain: &str) -> String {
    format!(
        "add a new name that ends in rsa, such as \"chapar2-rsa\", to selectors in \
         domains/{domain}/domain.toml; `chapar setup {domain}` makes its RSA key of 2048 bits and prints \
         the record; remove the old name once the record is published"
    )
}

/// Judges the selectors of a domain.
pub fn judge(domain: &str, selectors: &[Facts]) -> Vec<Finding> {
    if selectors.is_empty() {
        return vec![Finding::wrong(
            "dkim",
            domain,
            "the domain has no selector, so its mail is not signed",
            "Gmail and Yahoo want a signature, and forwarded mail passes DMARC only with one",
            new_key(domain),
        )];
    }
    let mut found: Vec<Finding> = selectors.iter().map(selector).collect();
    let rsa = |facts: &Facts| {
        facts
            .own
            .as_ref()
            .is_ok_and(|own| own.algorithm == Algorithm::Rsa)
    };
    if selectors.iter().all(|facts| facts.own.is_ok()) && !selectors.iter().any(rsa) {
        found.push(Finding::warning(
            "dkim-rsa",
            domain,
            "it signs with Ed25519 alone",
            "Gmail and Outlook do not verify it yet and see no signature",
            new_key(domain),
        ));
    }
    found
}

fn selector(facts: &Facts) -> Finding {
    let about = format!("{}._domainkey.{}", facts.selector, facts.domain);
    let own = match &facts.own {
        Ok(own) => own,
        Err(problem) => {
            return Finding::wrong(
                "dkim",
                &about,
                problem.clone(),
                "mail of the domain is not accepted while its key can not be used",
                "do that, then systemctl reload chapar",
            );
        }
    };
    let remedy = format!(
        "publish {about} TXT as `chapar dns {}` prints it",
        facts.domain
    );
    let texts = match &facts.published {
        Err(_) => return Finding::unasked("dkim", &about, "this record"),
        Ok(texts) => texts,
    };
    let [text] = texts.as_slice() else {
        return several(&about, own, texts, remedy);
    };
    let text = String::from_utf8_lossy(text);
    if text.contains('"') {
        return Finding::wrong(
            "dkim-split",
            &about,
            "the record contains quotation marks",
            "the DNS panel took them as part of the key, so no signature verifies",
            format!("{remedy}; if the panel splits long texts itself, paste it without quotes"),
        );
    }
    let published = Tags::parse(text.as_bytes());
    let public =
        |record: &str| Tags::parse(record.as_bytes()).and_then(|tags| tags.get("p").map(squeezed));
    let Some(tags) = published else {
        return Finding::wrong(
            "dkim",
            &about,
            "the record has a mistake",
            "no signature verifies",
            remedy,
        );
    };
    let key = tags.get("p").map(squeezed);
    if key.as_deref() == Some("") {
        return Finding::wrong(
            "dkim",
            &about,
            "the published key is revoked (empty p=)",
            "every signature with it fails",
            new_key(&facts.domain),
        );
    }
    if key != public(&own.record) {
        let cut = key.as_deref().zip(public(&own.record));
        let cut = cut.is_some_and(|(key, own)| own.starts_with(key));
        return Finding::wrong(
            if cut { "dkim-split" } else { "dkim" },
            &about,
            match cut {
                true => "the published key is cut off",
                false => "the published key is not the one we sign with",
            },
            "every signature with it fails",
            remedy,
        );
    }
    let kind = tags.get("k").unwrap_or("rsa");
    if kind != own.algorithm.tag() {
        return Finding::wrong(
            "dkim",
            &about,
            format!(
                "the record says k={kind}, the key is {}",
                own.algorithm.tag()
            ),
            "every signature with it fails",
            remedy,
        );
    }
    if own.algorithm == Algorithm::Rsa && own.bits < RSA_GOOD {
        return Finding::warning(
            "dkim-size",
            &about,
            format!("the RSA key has {} bits", own.bits),
            "receivers take less than 2048 for weak, and some for none",
            new_key(&facts.domain),
        );
    }
    let testing = tags
        .get("t")
        .is_some_and(|flags| flags.split(':').any(|f| f.trim() == "y"));
    if testing {
        return Finding::warning(
            "dkim",
            &about,
            "the record says that the domain tests DKIM (t=y)",
            "receivers then treat a good signature as none",
            remedy,
        );
    }
    let size = match own.algorithm {
        Algorithm::Rsa => format!("RSA {}", own.bits),
        Algorithm::Ed25519 => "Ed25519".to_owned(),
    };
    Finding::good(
        "dkim",
        &about,
        format!("published as we sign with it ({size})"),
    )
}

fn several(about: &str, own: &Own, texts: &[Vec<u8>], remedy: String) -> Finding {
    if texts.is_empty() {
        return Finding::wrong(
            "dkim",
            about,
            "the key is not published",
            "receivers see a signature that fails",
            remedy,
        );
    }
    let flat = |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace()).collect() };
    let wanted = flat(&own.record);
    let parts = texts
        .iter()
        .map(|text| flat(&String::from_utf8_lossy(text)));
    let split = texts.len() > 1 && parts.into_iter().all(|part| wanted.contains(&part));
    if split {
        return Finding::wrong(
            "dkim-split",
            about,
            format!("the key is split over {} records", texts.len()),
            "no signature verifies: it must be one record of several strings",
            remedy,
        );
    }
    Finding::wrong(
        "dkim",
        about,
        format!("there are {} records", texts.len()),
        "a receiver takes any of them, so signatures verify by luck (RFC 6376 section 3.6.2.2)",
        format!("remove them, then {remedy}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    const OWN: &str = "v=DKIM1; k=rsa; p=AAAABBBBCCCCDDDD";

    fn one(published: &[&str], bits: usize) -> Finding {
        let own = Own {
            algorithm: Algorithm::Rsa,
            bits,
            record: OWN.into(),
        };
        selector(&Facts {
            domain: "example.org".into(),
            selector: "s".into(),
            own: Ok(own),
            published: Ok(published
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect()),
        })
    }

    #[test]
    fn each_fault_is_told_apart() {
        for (published, bits, check, level, part) in [
            (&[OWN][..], 2048, "dkim", Level::Good, "RSA 2048"),
            (
                &["v=DKIM1;k=rsa;p=AAAABBBB CCCCDDDD"],
                2048,
                "dkim",
                Level::Good,
                "",
            ),
            (&[], 2048, "dkim", Level::Wrong, "not published"),
            (
                &["v=DKIM1; p=EEEE"],
                2048,
                "dkim",
                Level::Wrong,
                "not the one we sign with",
            ),
            (&["v=DKIM1; p="], 2048, "dkim", Level::Wrong, "revoked"),
            (
                &["v=DKIM1; k=ed25519; p=AAAABBBBCCCCDDDD"],
                2048,
                "dkim",
                Level::Wrong,
                "k=ed25519",
            ),
            (
                &["v=DKIM1; p=AAAABBBB"],
                2048,
                "dkim-split",
                Level::Wrong,
                "cut off",
            ),
            (
                &["v=DKIM1; p=AAAABBBB\" \"CCCCDDDD"],
                2048,
                "dkim-split",
                Level::Wrong,
                "quotation",
            ),
            (
                &["v=DKIM1; k=rsa; p=AAAABBBB", "CCCCDDDD"],
                2048,
                "dkim-split",
                Level::Wrong,
                "2 records",
            ),
            (
                &[OWN, "v=DKIM1; p=EEEE"],
                2048,
                "dkim",
                Level::Wrong,
                "there are 2",
            ),
            (&[OWN], 1024, "dkim-size", Level::Warning, "1024 bits"),
            (
                &["v=DKIM1; t=y; p=AAAABBBBCCCCDDDD"],
                2048,
                "dkim",
                Level::Warning,
                "t=y",
            ),
        ] {
            let finding = one(published, bits);
            assert_eq!(
                (finding.check, finding.level),
                (check, level),
                "{finding:?}"
            );
            assert!(finding.what.contains(part), "{finding:?}");
        }
        assert_eq!(judge("example.org", &[]).len(), 1);
    }
}
