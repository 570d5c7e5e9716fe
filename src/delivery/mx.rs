//! Which hosts take mail for a domain, and in what order (RFC 5321 section 5.1).
//!
//! Pure: records and randomness in, an order or a verdict out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::verdict::Verdict;
use crate::dns::mx::{Lookup, Record};

/// Addresses of one destination that are tried before an attempt ends.
pub const MAX_ADDRESSES: usize = 10;
/// Hosts of one destination that are looked up; the rest of a longer list is left alone.
pub const MAX_HOSTS: usize = 20;

/// A mail host of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// 0 for the best, the same number for hosts of equal preference.
    pub rank: usize,
    /// Its name in lower case, or an address as text.
    pub name: String,
}

/// The mail hosts of `domain`, best first, equal ones by name: the same for all domains that share
/// them. `own_name` is our own host name; hosts no better than ourselves are left out.
pub fn hosts(domain: &str, lookup: Lookup, own_name: &str) -> Result<Vec<Host>, Verdict> {
    let mut records = match lookup {
        Lookup::Records(records) => records,
        // RFC 5321 section 5.1: the domain itself, as if it were an MX with preference 0.
        Lookup::Nothing => vec![Record {
            preference: 0,
            host: domain.to_owned(),
        }],
        Lookup::NoDomain => {
            return Err(Verdict::failed(
                550,
                "5.1.2",
                &format!("{domain} does not exist in DNS"),
            ));
        }
        Lookup::Failed(reason) => {
            let text = format!("the MX records of {domain} can not be looked up: {reason}");
            return Err(Verdict::deferred(451, "4.4.3", &text));
        }
    };
    for record in &mut records {
        record.host.make_ascii_lowercase();
        record
            .host
            .truncate(record.host.trim_end_matches('.').len());
    }
    // RFC 7505: a null MX stands alone. Beside others it is no host that could be asked.
    let null = records.iter().any(|record| record.host.is_empty());
    records.retain(|record| !record.host.is_empty());
    // RFC 5321 section 5.1: an MX record names a host. What it could mean by an address is guesswork.
    let is_address = |record: &Record| record.host.parse::<IpAddr>().is_ok();
    let address = records.iter().find(|record| is_address(record)).cloned();
    records.retain(|record| !is_address(record));
    if records.is_empty() {
        return Err(match null {
            _ if address.is_some() => names_an_address(domain, address),
            true => Verdict::failed(
                556,
                "5.1.10",
                &format!("{domain} accepts no mail (null MX)"),
            ),
            false => Verdict::failed(550, "5.4.4", &format!("{domain} has no mail host")),
        });
    }
    records.sort_by(|a, b| (a.preference, &a.host).cmp(&(b.preference, &b.host)));
    let mut seen = std::collections::HashSet::new();
    records.retain(|record| seen.insert(record.host.clone()));
    // RFC 5321 section 5.1: if we are one of them, only better ones may be asked; all others
    // might bring it back to us.
    if let Some(own) = records
        .iter()
        .find(|record| record.host.eq_ignore_ascii_case(own_name))
    {
        let limit = own.preference;
        records.retain(|record| record.preference < limit);
        if records.is_empty() {
            return Err(loops_back(domain));
        }
    }
    let mut hosts: Vec<Host> = Vec::new();
    let mut last = None;
    let mut rank = 0;
    for record in records.into_iter().take(MAX_HOSTS) {
        if last.is_some_and(|preference| preference != record.preference) {
            rank += 1;
        }
        last = Some(record.preference);
        hosts.push(Host {
            rank,
            name: record.host,
        });
    }
    Ok(hosts)
}

/// All MX records of a domain hold addresses where names belong.
fn names_an_address(domain: &str, record: Option<Record>) -> Verdict {
    let address = record.map(|record| record.host).unwrap_or_default();
    let text = format!(
        "the MX record of {domain} names an address ({address}) and not a host: \
         its owner has to correct it"
    );
    Verdict::failed(550, "5.4.4", &text)
}

/// The mail hosts of a domain lead to ourselves, which is not a domain of ours.
pub fn loops_back(domain: &str) -> Verdict {
    let text = format!(
        "the mail host of {domain} is this one, which takes no mail for it: \
         add the domain here or correct its MX record"
    );
    Verdict::failed(554, "5.4.6", &text)
}

/// One name for a list of hosts: two domains with the same hosts in the same order have the same
/// destination, whatever numbers their preferences are.
pub fn key(hosts: &[Host], port: u16) -> String {
    let mut key = String::new();
    let mut rank = 0;
    for host in hosts {
        if !key.is_empty() {
            key.push(if host.rank == rank { ',' } else { ' ' });
        }
        rank = host.rank;
        key.push_str(&host.name);
    }
    key.push_str(&format!(":{port}"));
    key
}

/// The order in which to try hosts now: by rank, and at random among equals (RFC 5321 section 5.1).
/// `random(n)` gives a number below `n`.
pub fn shuffled(hosts: &[Host], mut random: impl FnMut(usize) -> usize) -> Vec<Host> {
    let mut order = hosts.to_vec();
    for group in order.chunk_by_mut(|a, b| a.rank == b.rank) {
        for last in (1..group.len()).rev() {
            group.swap(last, random(last + 1).min(last));
        }
    }
    order
}

/// The address inside `user@[192.0.2.1]` or `user@[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
pub fn address_literal(domain: &str) -> Option<Result<IpAddr, Verdict>> {
    let inner = domain.strip_prefix('[')?;
    let address = inner.strip_suffix(']').and_then(|text| {
        let v6 = text
            .get(..5)
            .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        match v6 {
            Some(_) => text.get(5..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    });
    Some(
        address.ok_or_else(|| {
            Verdict::failed(553, "5.1.3", &format!("{domain} is no address literal"))
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Outcome;
    use proptest::prelude::*;

    fn records(list: &[(u16, &str)]) -> Lookup {
        let record = |(preference, host): &(u16, &str)| Record {
            preference: *preference,
            host: (*host).into(),
        };
        Lookup::Records(list.iter().map(record).collect())
    }

    fn names(list: &[(u16, &str)]) -> Vec<(usize, String)> {
        let hosts = hosts("example.com", records(list), "mx.example.org").expect("hosts");
        hosts
            .into_iter()
            .map(|host| (host.rank, host.name))
            .collect()
    }

    fn verdict(lookup: Lookup) -> (u16, String, bool) {
        let verdict = hosts("example.com", lookup, "mx.example.org").expect_err("a verdict");
        let failed = verdict.outcome == Outcome::Failed;
        (verdict.reply.code, verdict.reply.enhanced, failed)
    }

    #[test]
    fn best_first_equal_ranks_shared_no_repeats() {
        assert_eq!(
            names(&[(20, "B."), (10, "a."), (20, "c"), (30, "a"), (30, "d.")]),
            [
                (0, "a".into()),
                (1, "b".into()),
                (1, "c".into()),
                (2, "d".into())
            ]
        );
        let many: Vec<(u16, String)> = (0..1000).map(|n| (n, format!("h{n}"))).collect();
        let many: Vec<(u16, &str)> = many.iter().map(|(n, host)| (*n, host.as_str())).collect();
        assert_eq!(names(&many).len(), MAX_HOSTS);
    }

    #[test]
    fn the_domain_itself_where_there_is_no_mx() {
        let hosts = hosts("example.com", Lookup::Nothing, "mx.example.org").expect("hosts");
        assert_eq!(
            hosts,
            [Host {
                rank: 0,
                name: "example.com".into()
            }]
        );
    }

    #[test]
    fn what_ends_a_recipient_and_what_only_delays_it() {
        assert_eq!(verdict(Lookup::NoDomain), (550, "5.1.2".into(), true));
        assert_eq!(verdict(records(&[(0, ".")])), (556, "5.1.10".into(), true));
        assert_eq!(
            verdict(Lookup::Failed("SERVFAIL".into())),
            (451, "4.4.3".into(), false)
        );
        assert_eq!(names(&[(0, "."), (10, "a")]), [(0, "a".to_owned())]);
        for only in [&[(10, "192.0.2.10.")][..], &[(0, "."), (10, "2001:db8::1")]] {
            assert_eq!(verdict(records(only)), (550, "5.4.4".into(), true));
        }
        assert_eq!(
            names(&[(5, "192.0.2.10."), (10, "a")]),
            [(0, "a".to_owned())]
        );
    }

    #[test]
    fn never_to_ourselves_nor_to_what_may_come_back() {
        assert_eq!(
            verdict(records(&[(10, "MX.example.org.")])),
            (554, "5.4.6".into(), true)
        );
        assert_eq!(
            verdict(records(&[(10, "mx.example.org"), (10, "a"), (20, "b")])),
            (554, "5.4.6".into(), true)
        );
        assert_eq!(
            names(&[(10, "a"), (20, "mx.example.org"), (20, "b")]),
            [(0, "a".to_owned())]
        );
        assert_eq!(
            hosts("mx.example.org", Lookup::Nothing, "mx.example.org").map_err(|v| v.reply.code),
            Err(554)
        );
    }

    #[test]
    fn one_key_for_the_same_hosts_in_the_same_order() {
        let of = |list: &[(u16, &str)]| {
            key(
                &hosts("example.com", records(list), "mx.example.org").expect("hosts"),
                25,
            )
        };
        assert_eq!(of(&[(1, "a"), (5, "c"), (5, "b")]), "a b,c:25");
        assert_eq!(
            of(&[(5, "b"), (5, "c"), (1, "a")]),
            of(&[(10, "a."), (20, "C"), (20, "b")])
        );
        assert_ne!(of(&[(1, "a"), (2, "b")]), of(&[(2, "a"), (1, "b")]));
        assert_ne!(of(&[(1, "a"), (2, "b")]), of(&[(1, "a"), (1, "b")]));
    }

    #[test]
    fn literals() {
        let parse = |text| address_literal(text).map(|found| found.ok());
        assert_eq!(
            parse("[192.0.2.1]"),
            Some(Some("192.0.2.1".parse().expect("v4")))
        );
        assert_eq!(
            parse("[IPv6:2001:db8::1]"),
            Some(Some("2001:db8::1".parse().expect("v6")))
        );
        assert_eq!(parse("[ipv6:::1]"), Some(Some("::1".parse().expect("v6"))));
        assert_eq!(parse("example.com"), None);
        for bad in [
            "[",
            "[]",
            "[1.2.3]",
            "[2001:db8::1]",
            "[IPv6:1.2.3.4]",
            "[192.0.2.1",
            "[\u{e9}\u{e9}\u{e9}]",
        ] {
            assert_eq!(parse(bad), Some(None), "{bad}");
        }
    }

    #[test]
    fn public_addresses() {
        for text in [
            "8.8.8.8",
            "192.0.2.1",
            "2001:db8::1",
            "2606:4700::1111",
            "100.63.0.1",
        ] {
            assert!(
                crate::base::net::is_public(text.parse().expect(text)),
                "{text}"
            );
        }
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "100.64.0.1",
            "198.18.0.1",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(
                !crate::base::net::is_public(text.parse().expect(text)),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn shuffling_keeps_ranks_and_members(ranks in proptest::collection::vec(0usize..4, 0..12),
                                             seed: u64) {
            let mut sorted = ranks.clone();
            sorted.sort();
            let hosts: Vec<Host> = sorted.iter().enumerate()
                .map(|(n, rank)| Host { rank: *rank, name: n.to_string() }).collect();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut order = shuffled(&hosts, |n| rng.usize(..n));
            prop_assert!(order.is_sorted_by_key(|host| host.rank));
            order.sort_by_key(|host| host.name.parse::<usize>().unwrap_or(0));
            prop_assert_eq!(order, hosts);
        }
    }

    #[test]
    fn equals_are_tried_in_every_order() {
        let hosts: Vec<Host> = (0..3)
            .map(|n| Host {
                rank: 0,
                name: n.to_string(),
            })
            .collect();
        let mut rng = fastrand::Rng::with_seed(7);
        let orders: std::collections::HashSet<String> = (0..200)
            .map(|_| {
                shuffled(&hosts, |n| rng.usize(..n))
                    .into_iter()
                    .map(|h| h.name)
                    .collect()
            })
            .collect();
        assert_eq!(orders.len(), 6);
    }
}
