//! One SPF record that says what two did: a domain may have one only (RFC 7208 section 4.5). Pure.

use std::net::IpAddr;

/// Lookups that a receiver does at most for one record (RFC 7208 section 4.6.4).
pub(in crate::cli) const MOST_LOOKUPS: usize = 10;

/// Whether a TXT record is one of SPF (RFC 7208 section 4.5).
pub(in crate::cli) fn is_spf(text: &str) -> bool {
    text == "v=spf1" || text.starts_with("v=spf1 ")
}

/// A record that also lets `host` send: the terms of `present` in their order, without repetitions,
/// `a:host` before the `all`, which stays as strict as it was.
pub(in crate::cli) fn merge(present: &str, host: &str) -> String {
    merge_terms(present, &[format!("a:{host}")])
}

/// The same with the addresses of this host, of which a receiver needs not ask.
pub(in crate::cli) fn merge_addresses(present: &str, ips: &[IpAddr]) -> String {
    merge_terms(present, &addresses(ips))
}

/// Whether all addresses of this host may send by a record's own words.
pub(in crate::cli) fn has_addresses(present: &str, ips: &[IpAddr]) -> bool {
    let has = |own: &String| {
        let mut terms = present.split_ascii_whitespace().skip(1);
        terms.any(|term| term.trim_start_matches('+').eq_ignore_ascii_case(own))
    };
    !ips.is_empty() && addresses(ips).iter().all(has)
}

fn addresses(ips: &[IpAddr]) -> Vec<String> {
    let term = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => format!("ip4:{ip}"),
        IpAddr::V6(ip) => format!("ip6:{ip}"),
    };
    ips.iter().map(term).collect()
}

/// Whether `new` has every term of `old`, so that it may take its place.
pub(in crate::cli) fn contains(new: &str, old: &str) -> bool {
    let terms = |text: &str| -> Vec<String> {
        let terms = text.split_ascii_whitespace();
        terms.map(str::to_ascii_lowercase).collect()
    };
    let (new, old) = (terms(new), terms(old));
    old.first().is_some_and(|tag| tag == "v=spf1") && old.iter().all(|term| new.contains(term))
}

fn merge_terms(present: &str, own: &[String]) -> String {
    let mut terms: Vec<&str> = Vec::new();
    let (mut all, mut modifiers) = (None, Vec::new());
    for term in present.split_ascii_whitespace().skip(1) {
        if mechanism(term).eq_ignore_ascii_case("all") {
            all.get_or_insert(term);
        } else if term.contains('=') {
            modifiers.push(term);
        } else if !terms.iter().any(|seen| seen.eq_ignore_ascii_case(term)) {
            terms.push(term);
        }
    }
    for own in own {
        let there = |term: &&str| term.trim_start_matches('+').eq_ignore_ascii_case(own);
        if !terms.iter().any(there) {
            terms.push(own);
        }
    }
    let redirects = modifiers.iter().any(|term| term.starts_with("redirect="));
    let end = match (all, redirects) {
        (Some(all), _) => vec![all],
        // Behind an all nothing would be asked there.
        (None, true) => vec![],
        (None, false) => vec!["~all"],
    };
    [vec!["v=spf1"], terms, end, modifiers].concat().join(" ")
}

/// How many of its own terms ask the DNS; what they lead to asks more.
pub(in crate::cli) fn lookups(record: &str) -> usize {
    let asks = |term: &&str| {
        let name = mechanism(term);
        ["include", "a", "mx", "ptr", "exists"]
            .iter()
            .any(|kind| name.eq_ignore_ascii_case(kind))
            || term.starts_with("redirect=")
    };
    record.split_ascii_whitespace().skip(1).filter(asks).count()
}

fn mechanism(term: &str) -> &str {
    let term = term.trim_start_matches(['+', '-', '~', '?']);
    term.split([':', '/']).next().unwrap_or(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_host_is_added_before_the_end_and_once() {
        for (present, merged) in [
            ("v=spf1 -all", "v=spf1 a:mx.example.org -all"),
            (
                "v=spf1 include:_spf.example.com include:_SPF.example.com mx ~all",
                "v=spf1 include:_spf.example.com mx a:mx.example.org ~all",
            ),
            (
                "v=spf1 +a:mx.example.org ?all",
                "v=spf1 +a:mx.example.org ?all",
            ),
            (
                "v=spf1 a:MX.example.org -all",
                "v=spf1 a:MX.example.org -all",
            ),
            ("v=spf1 mx", "v=spf1 mx a:mx.example.org ~all"),
            (
                "v=spf1 redirect=_spf.example.com",
                "v=spf1 a:mx.example.org redirect=_spf.example.com",
            ),
            (
                "v=spf1 ip4:192.0.2.0/24 -all exp=e.example.com",
                "v=spf1 ip4:192.0.2.0/24 a:mx.example.org -all exp=e.example.com",
            ),
        ] {
            assert_eq!(merge(present, "mx.example.org"), merged);
        }
    }

    #[test]
    fn addresses_ask_nothing_and_come_once() {
        let ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"]
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        let merged = merge_addresses("v=spf1 include:a.example -all", &ips);
        assert_eq!(
            merged,
            "v=spf1 include:a.example ip4:192.0.2.1 ip6:2001:db8::1 -all"
        );
        assert_eq!(merge_addresses(&merged, &ips), merged);
        assert!(has_addresses(&merged, &ips));
        assert!(!has_addresses("v=spf1 ip4:192.0.2.1 -all", &ips));
        assert!(!has_addresses(&merged, &[]));
    }

    #[test]
    fn a_record_takes_the_place_of_one_that_says_no_more() {
        let old = "v=spf1 include:A.example mx mx ~all";
        assert!(contains(&merge(old, "mx.example.org"), old));
        assert!(!contains("v=spf1 a:mx.example.org -all", old));
        assert!(!contains("v=DMARC1; p=none", "v=DMARC1; p=none"));
    }

    #[test]
    fn lookups_are_counted() {
        assert_eq!(lookups("v=spf1 ip4:192.0.2.1 -all"), 0);
        assert_eq!(
            lookups(
                "v=spf1 a mx/24 include:a.example a:b.example ?exists:c.example ptr redirect=d.example"
            ),
            7
        );
    }
}
