//! One SPF record that says what two did: a domain may have one only (RFC 7208 section 4.5). Pure.

/// Lookups that a receiver does at most for one record (RFC 7208 section 4.6.4).
pub(super) const MOST_LOOKUPS: usize = 10;

/// A record that also lets `host` send: the terms of `present` in their order, without repetitions,
/// `a:host` before the `all`, which stays as strict as it was.
pub(super) fn merge(present: &str, host: &str) -> String {
    let own = format!("a:{host}");
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
    let there = |term: &&str| term.trim_start_matches('+').eq_ignore_ascii_case(&own);
    if !terms.iter().any(there) {
        terms.push(&own);
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
pub(super) fn lookups(record: &str) -> usize {
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
