//! What an MTA-STS record and policy say (RFC 8461). Pure: text in, a policy or its mistake out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of a policy (RFC 8461 section 3.3).
pub const MAX_POLICY: usize = 64 * 1024;
/// Patterns of one policy.
pub const MAX_PATTERNS: usize = 200;
/// A policy is remembered no longer than a year (RFC 8461 section 3.2).
pub const LONGEST: Duration = Duration::from_secs(31_557_600);

/// What a domain asks of those that send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only over verified TLS, to the hosts that are named.
    Enforce,
    /// To report what would have failed.
    Testing,
    /// Nothing.
    None,
}

impl Mode {
    /// As a policy writes it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }
}

/// A policy (RFC 8461 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What is asked.
    pub mode: Mode,
    /// Names of mail hosts in lower case, or `*.` and a domain.
    pub mx: Vec<String>,
    /// Seconds that it may be remembered.
    pub max_age: u64,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not text.
    #[error("it is no text")]
    Text,
    /// No `version: STSv1`.
    #[error("it does not say `version: STSv1`")]
    Version,
    /// No mode, or one that nobody knows.
    #[error("it has no mode of enforce, testing or none")]
    Mode,
    /// No `max_age`, or no number.
    #[error("it has no max_age of at most 31557600 seconds")]
    MaxAge,
    /// A pattern that can not be a host's name.
    #[error("`mx: {0}` is no host name")]
    Mx(String),
    /// No pattern.
    #[error("it names no mail host")]
    NoMx,
    /// More than `MAX_PATTERNS`.
    #[error("it names more than {MAX_PATTERNS} mail hosts")]
    TooMany,
}

impl Policy {
    /// Reads a policy as it is served.
    pub fn parse(bytes: &[u8]) -> Result<Policy, PolicyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::Text)?;
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let mut mx = Vec::new();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            match key {
                // Of a field that may stand once the first counts (section 3.2).
                "version" => {
                    version.get_or_insert(value);
                }
                "mode" => {
                    mode.get_or_insert(value);
                }
                "max_age" => {
                    max_age.get_or_insert(value);
                }
                "mx" if mx.len() >= MAX_PATTERNS => return Err(PolicyError::TooMany),
                "mx" => mx.push(pattern(value)?),
                // Extensions are not for us.
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let digits = |text: &&str| (1..=10).contains(&text.len());
        let max_age = max_age
            .filter(digits)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|seconds| *seconds <= LONGEST.as_secs())
            .ok_or(PolicyError::MaxAge)?;
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::NoMx);
        }
        Ok(Policy { mode, mx, max_age })
    }

    /// Whether a host may get the domain's mail (section 4.1): a `*` stands for one label.
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let matches = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && rest.eq_ignore_ascii_case(parent)
            }),
            None => host.eq_ignore_ascii_case(pattern),
        };
        self.mx.iter().any(matches)
    }

    /// Its lines, as reports quote them (RFC 8460 section 4.4).
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            "version: STSv1".to_owned(),
            format!("mode: {}", self.mode.name()),
        ];
        lines.extend(self.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", self.max_age));
        lines
    }
}

fn pattern(value: &str) -> Result<String, PolicyError> {
    let name = value.strip_prefix("*.").unwrap_or(value);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if value.len() > 255 || !name.split('.').all(label) {
        let shown = value.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(PolicyError::Mx(shown));
    }
    Ok(value.trim_end_matches('.').to_ascii_lowercase())
}

/// The id of the one MTA-STS record among the TXT records of `_mta-sts.DOMAIN`; `None`: there is
/// none, or more than one, or it has no sound id, which all mean that nothing new is to be
/// fetched (RFC 8461 section 3.1).
pub fn record_id(records: &[Vec<u8>]) -> Option<String> {
    let mut ours = records
        .iter()
        .filter_map(|record| std::str::from_utf8(record).ok())
        .filter(|record| record.split(';').next().map(str::trim) == Some("v=STSv1"));
    let (record, None) = (ours.next()?, ours.next()) else {
        return None;
    };
    let id = record
        .split(';')
        .filter_map(|field| field.split_once('='))
        .find(|(key, _)| key.trim() == "id")
        .map(|(_, value)| value.trim())?;
    let sound = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    sound.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_policy_as_the_rfc_shows_it() {
        let text = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\n\
                    mx: *.Example.net\r\nmx: backupmx.example.com.\r\nmax_age: 604800\r\n";
        let policy = Policy::parse(text.as_bytes()).expect("a policy");
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, 604_800));
        let patterns = ["mail.example.com", "*.example.net", "backupmx.example.com"];
        assert_eq!(policy.mx, patterns);
        assert_eq!(
            policy.lines().join("\n"),
            "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\n\
             mx: backupmx.example.com\nmax_age: 604800"
        );
    }

    #[test]
    fn lf_no_last_line_end_extensions_and_repeated_fields() {
        let text =
            "max_age:1\nversion:STSv1\nfuture: x\nmode: testing\nmode: enforce\nno field\nmx:a";
        let policy = Policy::parse(text.as_bytes()).expect("a policy");
        assert_eq!((policy.mode, policy.max_age), (Mode::Testing, 1));
        let none = Policy::parse(b"version: STSv1\nmode: none\nmax_age: 0\n").expect("a policy");
        assert_eq!((none.mode, none.mx.len()), (Mode::None, 0));
    }

    #[test]
    fn what_is_no_policy() {
        let good = "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 100\n";
        assert!(Policy::parse(good.as_bytes()).is_ok());
        let with = |from: &str, to: &str| Policy::parse(good.replace(from, to).as_bytes());
        assert_eq!(with("STSv1", "STSv2"), Err(PolicyError::Version));
        assert_eq!(with("version: STSv1\n", ""), Err(PolicyError::Version));
        assert_eq!(with("enforce", "Enforce"), Err(PolicyError::Mode));
        assert_eq!(with("mx: a.example\n", ""), Err(PolicyError::NoMx));
        for age in ["", "-1", "1e3", "31557601", "99999999999", "1 2"] {
            assert_eq!(with("100", age), Err(PolicyError::MaxAge), "{age}");
        }
        for mx in [
            "",
            "*",
            "*.",
            "a..b",
            "a.*.b",
            "**.a",
            "a b",
            "\u{fc}.example",
            "a\u{1}",
        ] {
            let found = with("a.example", mx);
            assert!(matches!(found, Err(PolicyError::Mx(_))), "{mx}: {found:?}");
        }
        let many = good.replace("mx: a.example\n", &"mx: a.example\n".repeat(201));
        assert_eq!(Policy::parse(many.as_bytes()), Err(PolicyError::TooMany));
        assert_eq!(Policy::parse(&[0xff]), Err(PolicyError::Text));
        assert_eq!(Policy::parse(b""), Err(PolicyError::Version));
    }

    #[test]
    fn a_star_is_one_label() {
        let policy = Policy {
            mode: Mode::Enforce,
            mx: vec!["*.example.net".into(), "mail.example.com".into()],
            max_age: 1,
        };
        for yes in [
            "a.example.net",
            "A.EXAMPLE.NET.",
            "mail.example.com",
            "MAIL.example.com",
        ] {
            assert!(policy.allows(yes), "{yes}");
        }
        for no in [
            "example.net",
            ".example.net",
            "a.b.example.net",
            "xmail.example.com",
            "a.mail.example.com",
            "",
        ] {
            assert!(!policy.allows(no), "{no}");
        }
    }

    #[test]
    fn the_id_of_the_one_record() {
        let of = |texts: &[&str]| {
            let records: Vec<_> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
            record_id(&records)
        };
        assert_eq!(
            of(&["v=STSv1; id=20160831085700Z;"]).as_deref(),
            Some("20160831085700Z")
        );
        assert_eq!(of(&["spf", "v=STSv1;id=1"]).as_deref(), Some("1"));
        assert_eq!(of(&["v=STSv1; future=x; id=a ;"]).as_deref(), Some("a"));
        for none in [
            &["v=STSv1; id=1;", "v=STSv1; id=2;"][..],
            &["v=STSv1;"],
            &["v=STSv1; id=;"],
            &["v=STSv1; id=a-b"],
            &["v=STSv10; id=1"],
            &["id=1; v=STSv1"],
            &["v=STSv1; id=123456789012345678901234567890123"],
            &[],
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_served_hurts(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Policy::parse(&bytes);
            let _ = record_id(&[bytes]);
        }

        #[test]
        fn a_policy_written_out_is_the_same(ages in 0u64..=31_557_600, n in 1usize..5) {
            let mx = (0..n).map(|n| format!("*.m{n}.example")).collect();
            let policy = Policy { mode: Mode::Testing, mx, max_age: ages };
            prop_assert_eq!(Policy::parse(policy.lines().join("\r\n").as_bytes()), Ok(policy));
        }
    }
}
