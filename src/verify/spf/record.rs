//! SPF records as they are written (RFC 7208 sections 4.6, 5, 6 and 12). Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::macros;

/// A record without a syntax error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its directives in order.
    pub directives: Vec<Directive>,
    /// `redirect=`: a domain-spec.
    pub redirect: Option<String>,
    /// `exp=`: a domain-spec.
    pub explanation: Option<String>,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// What a match means: `+`, `-`, `~` or `?`.
    pub qualifier: u8,
    /// What matches.
    pub mechanism: Mechanism,
}

/// What a directive looks at. Domain-specs are empty where the record names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    /// `all`
    All,
    /// `include:`
    Include(String),
    /// `a`
    A(String, Prefix),
    /// `mx`
    Mx(String, Prefix),
    /// `ptr`
    Ptr(String),
    /// `ip4:`
    Ip4(Ipv4Addr, u8),
    /// `ip6:`
    Ip6(Ipv6Addr, u8),
    /// `exists:`
    Exists(String),
}

/// Prefix lengths for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Bits of an IPv4 address, at most 32.
    pub v4: u8,
    /// Bits of an IPv6 address, at most 128.
    pub v6: u8,
}

/// Whether a TXT record is an SPF record (section 4.5).
pub fn is_spf(text: &[u8]) -> bool {
    let (version, rest) = text.split_at_checked(6).unwrap_or((text, b""));
    version.eq_ignore_ascii_case(b"v=spf1") && matches!(rest, [] | [b' ', ..])
}

/// Parses an SPF record; `None` is a permanent error.
pub fn parse(text: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.is_ascii())?;
    let mut record = Record {
        directives: Vec::new(),
        redirect: None,
        explanation: None,
    };
    for term in text.get(6..)?.split(' ').filter(|term| !term.is_empty()) {
        match modifier(term) {
            Some((name, value)) => {
                let once = match name {
                    _ if name.eq_ignore_ascii_case("redirect") => &mut record.redirect,
                    _ if name.eq_ignore_ascii_case("exp") => &mut record.explanation,
                    _ => {
                        macros::check(value)?;
                        continue;
                    }
                };
                macros::check_domain(value)?;
                if once.replace(value.to_owned()).is_some() {
                    return None;
                }
            }
            None => record.directives.push(directive(term)?),
        }
    }
    Some(record)
}

/// `name=value`, where the name is one: a mechanism's `:` or `/` comes before any `=`.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let well = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    well.then_some((name, value))
}

fn directive(term: &str) -> Option<Directive> {
    let (qualifier, rest) = match term.as_bytes().first() {
        Some(q @ (b'+' | b'-' | b'~' | b'?')) => (*q, term.get(1..)?),
        _ => (b'+', term),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, argument) = rest.split_at(end);
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if argument.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(domain(argument)?),
        "exists" => Mechanism::Exists(domain(argument)?),
        "a" => {
            let (domain, prefix) = host(argument)?;
            Mechanism::A(domain, prefix)
        }
        "mx" => {
            let (domain, prefix) = host(argument)?;
            Mechanism::Mx(domain, prefix)
        }
        "ptr" if argument.is_empty() => Mechanism::Ptr(String::new()),
        "ptr" => Mechanism::Ptr(domain(argument)?),
        "ip4" => {
            let (address, bits) = network(argument, 32)?;
            Mechanism::Ip4(address.parse().ok()?, bits)
        }
        "ip6" => {
            let (address, bits) = network(argument, 128)?;
            Mechanism::Ip6(address.parse().ok()?, bits)
        }
        _ => return None,
    };
    Some(Directive {
        qualifier,
        mechanism,
    })
}

/// `:domain-spec`, which must be there.
fn domain(argument: &str) -> Option<String> {
    let spec = argument.strip_prefix(':')?;
    macros::check_domain(spec)?;
    Some(spec.to_owned())
}

/// `[:domain-spec][/n][//n]`. A slash may stand within a domain-spec, too: what follows a prefix's
/// is digits alone.
fn host(argument: &str) -> Option<(String, Prefix)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (rest, v6) = match argument.rsplit_once("//") {
        Some((rest, bits)) if digits(bits) => (rest, self::bits(bits, 128)?),
        _ => (argument, 128),
    };
    let (rest, v4) = match rest.rsplit_once('/') {
        Some((before, bits)) if digits(bits) => (before, self::bits(bits, 32)?),
        _ => (rest, 32),
    };
    let spec = match rest {
        "" => String::new(),
        _ => domain(rest)?,
    };
    Some((spec, Prefix { v4, v6 }))
}

/// `:address[/n]`.
fn network(argument: &str, most: u8) -> Option<(&str, u8)> {
    let argument = argument.strip_prefix(':')?;
    match argument.split_once('/') {
        Some((address, bits)) => Some((address, self::bits(bits, most)?)),
        None => Some((argument, most)),
    }
}

/// A prefix length: digits without a leading zero.
fn bits(text: &str, most: u8) -> Option<u8> {
    let plain = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let bits = text.parse().ok().filter(|bits| *bits <= most)?;
    (plain && digits).then_some(bits)
}
