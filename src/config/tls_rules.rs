//! `tls.domains`: what holds for TLS to some domains, whatever these publish themselves.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::base::names as address;

/// What holds for one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsRule {
    /// No TLS at all.
    Never,
    /// TLS where it is offered; what the domain publishes is not asked for.
    May,
    /// TLS, whoever is at the other end.
    Encrypt,
    /// TLS with a certificate that is valid for the MX host.
    Verify,
    /// TLS with a certificate that TLSA records prove (DANE).
    Dane,
}

impl TlsRule {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            TlsRule::Never => "never",
            TlsRule::May => "may",
            TlsRule::Encrypt => "encrypt",
            TlsRule::Verify => "verify",
            TlsRule::Dane => "dane",
        }
    }
}

/// Rules by domain, or by `*.domain` for its sub-domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, TlsRule>")]
pub struct TlsRules(BTreeMap<String, TlsRule>);

impl TlsRules {
    /// The rule of a domain in lower case: its own, or that of the nearest `*.domain` above it.
    pub fn find(&self, domain: &str) -> Option<TlsRule> {
        if self.0.is_empty() {
            return None;
        }
        if let Some(rule) = self.0.get(domain) {
            return Some(*rule);
        }
        let mut rest = domain;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(rule) = self.0.get(&format!("*.{parent}")) {
                return Some(*rule);
            }
            rest = parent;
        }
        None
    }
}

impl TryFrom<BTreeMap<String, TlsRule>> for TlsRules {
    type Error = String;

    fn try_from(rules: BTreeMap<String, TlsRule>) -> Result<TlsRules, String> {
        let mut all = BTreeMap::new();
        for (name, rule) in rules {
            let name = name.to_ascii_lowercase();
            address::check_domain(name.strip_prefix("*.").unwrap_or(&name))?;
            all.insert(name, rule);
        }
        Ok(TlsRules(all))
    }
}

impl fmt::Display for TlsRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.0.iter();
        let rules: Vec<_> = rules
            .map(|(domain, rule)| format!("\"{domain}\" = \"{}\"", rule.name()))
            .collect();
        match rules.is_empty() {
            true => f.write_str("{}"),
            false => write!(f, "{{ {} }}", rules.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rule_is_found() {
        let rules = [
            ("Example.org", TlsRule::Verify),
            ("*.example.org", TlsRule::Encrypt),
            ("*.lab.example.org", TlsRule::Never),
        ];
        let rules = rules.map(|(name, rule)| (name.to_owned(), rule));
        let rules = TlsRules::try_from(BTreeMap::from(rules)).expect("rules");
        for (domain, rule) in [
            ("example.org", Some(TlsRule::Verify)),
            ("a.example.org", Some(TlsRule::Encrypt)),
            ("a.b.example.org", Some(TlsRule::Encrypt)),
            ("a.lab.example.org", Some(TlsRule::Never)),
            ("example.com", None),
            ("xexample.org", None),
        ] {
            assert_eq!(rules.find(domain), rule, "{domain}");
        }
        let wrong = BTreeMap::from([("a b".to_owned(), TlsRule::May)]);
        assert!(TlsRules::try_from(wrong).is_err());
    }
}
