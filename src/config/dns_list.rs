//! DNS lists of clients (RFC 5782): which name is asked, and what an answer means. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::base::names as address;

/// A list, as the configuration writes it: `zen.spamhaus.org`, or with the answers that count
/// `zen.spamhaus.org=127.0.0.2-11`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListZone {
    name: String,
    /// Which answers count; none: every one that says "listed".
    answers: Option<[Octets; 4]>,
}

/// From and to, both included.
type Octets = (u8, u8);

impl ListZone {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name to ask for (RFC 5782 sections 2.1 and 2.4): the octets of an IPv4 address or the
    /// nibbles of an IPv6 address, the last first.
    pub fn query(&self, client: IpAddr) -> String {
        let mut name = String::new();
        match client.to_canonical() {
            IpAddr::V4(v4) => {
                for octet in v4.octets().iter().rev() {
                    name.push_str(&format!("{octet}."));
                }
            }
            IpAddr::V6(v6) => {
                for octet in v6.octets().iter().rev() {
                    name.push_str(&format!("{:x}.{:x}.", octet & 15, octet >> 4));
                }
            }
        }
        name + &self.name
    }

    /// The answer that says "listed". Whatever is not in 127.0.0.0/8 comes from a zone that is no
    /// list any more (RFC 5782 section 2.1); 127.255.255.0/24 is how lists say that they do not
    /// answer us, and 127.0.0.1 is nobody's.
    pub fn listed(&self, answers: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        let counts = |answer: &&Ipv4Addr| {
            let octets = answer.octets();
            let says = matches!(octets, [127, ..])
                && !matches!(octets, [127, 255, 255, _] | [127, 0, 0, 0 | 1]);
            let wanted = self.answers.as_ref().is_none_or(|ranges| {
                ranges
                    .iter()
                    .zip(octets)
                    .all(|((from, to), octet)| (*from..=*to).contains(&octet))
            });
            says && wanted
        };
        answers.iter().find(counts).copied()
    }

    /// Whether the answers say that the list does not work for us.
    pub fn refuses(answers: &[Ipv4Addr]) -> bool {
        let broken = |answer: &Ipv4Addr| {
            matches!(answer.octets(), [127, 255, 255, _]) || answer.octets().first() != Some(&127)
        };
        answers.iter().any(broken)
    }
}

impl fmt::Display for ListZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, (from, to)) in self.answers.iter().flatten().enumerate() {
            f.write_str(if index == 0 { "=" } else { "." })?;
            match (from, to) {
                (0, 255) => f.write_str("*")?,
                (from, to) if from == to => write!(f, "{from}")?,
                (from, to) => write!(f, "{from}-{to}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for ListZone {
    type Error = String;

    fn try_from(text: String) -> Result<ListZone, String> {
        let bad = || {
            format!(
                "'{text}' is no DNS list; write zen.spamhaus.org, or with the answers that count \
                 zen.spamhaus.org=127.0.0.2-11"
            )
        };
        let (name, answers) = match text.split_once('=') {
            Some((name, answers)) => (name, Some(octets(answers).ok_or_else(bad)?)),
            None => (text.as_str(), None),
        };
        if !address::is_domain(name) || !name.contains('.') {
            return Err(bad());
        }
        Ok(ListZone {
            name: name.to_ascii_lowercase(),
            answers,
        })
    }
}

/// Four octets: each a number, `from-to` or `*`.
fn octets(text: &str) -> Option<[Octets; 4]> {
    let octet = |text: &str| match text.split_once('-') {
        _ if text == "*" => Some((0, 255)),
        Some((from, to)) => Some((from.parse().ok()?, to.parse().ok()?)),
        None => text.parse().ok().map(|octet| (octet, octet)),
    };
    let all: Option<Vec<Octets>> = text.split('.').map(octet).collect();
    let all = all?;
    let well = all.iter().all(|(from, to)| from <= to);
    all.try_into().ok().filter(|_| well)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(text: &str) -> ListZone {
        ListZone::try_from(text.to_owned()).expect(text)
    }

    #[test]
    fn the_names_of_rfc_5782() {
        let list = zone("Bad.example.com");
        for (client, name) in [
            ("192.0.2.99", "99.2.0.192.bad.example.com"),
            ("::ffff:192.0.2.99", "99.2.0.192.bad.example.com"),
            (
                "2001:db8:1:2:3:4:567:89ab",
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bad.example.com",
            ),
        ] {
            assert_eq!(list.query(client.parse().expect(client)), name);
        }
    }

    #[test]
    fn only_an_answer_that_says_so_means_listed() {
        let any = zone("list.example");
        let some = zone("list.example=127.0.*.2-11");
        for (answer, by_any, by_some) in [
            ([127, 0, 0, 2], true, true),
            ([127, 0, 9, 11], true, true),
            ([127, 0, 0, 12], true, false),
            ([127, 1, 0, 2], true, false),
            ([127, 0, 0, 1], false, false),
            ([127, 255, 255, 254], false, false),
            ([192, 0, 2, 1], false, false),
        ] {
            let answer = Ipv4Addr::from(answer);
            assert_eq!(any.listed(&[answer]).is_some(), by_any, "{answer}");
            assert_eq!(some.listed(&[answer]).is_some(), by_some, "{answer}");
        }
        assert_eq!(any.listed(&[]), None);
        assert!(ListZone::refuses(&[Ipv4Addr::new(127, 255, 255, 252)]));
        assert!(ListZone::refuses(&[Ipv4Addr::new(203, 0, 113, 1)]));
        assert!(!ListZone::refuses(&[Ipv4Addr::new(127, 0, 0, 4)]));
    }

    #[test]
    fn what_is_written_is_read_or_refused_with_a_remedy() {
        for text in [
            "zen.spamhaus.org",
            "a.example=127.0.0.2",
            "list.dnswl.org=127.0.*.1-3",
        ] {
            assert_eq!(zone(text).to_string(), text);
        }
        for text in [
            "",
            "localhost",
            "a b.example",
            "a.example=",
            "a.example=127.0.0",
            "a.example=127.0.0.9-2",
            "a.example=127.0.0.256",
            "a.example=127.0.0.2.3",
        ] {
            let error = ListZone::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains("write zen.spamhaus.org"), "{error}");
        }
    }
}
