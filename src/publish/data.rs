//! Records as data: the kinds that mail needs, and how a zone file writes them (RFC 1035 section 5,
//! RFC 2782, RFC 6698, RFC 8659). Pure.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Longest character-string of a TXT record (RFC 1035 section 3.3), octets.
const STRING: usize = 255;

/// A type of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name for the same.
    Cname,
    /// Who takes the domain's mail.
    Mx,
    /// Text.
    Txt,
    /// Host and port of a service.
    Srv,
    /// Which CA may issue certificates.
    Caa,
    /// Which certificate a service has.
    Tlsa,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::A,
        Kind::Aaaa,
        Kind::Cname,
        Kind::Mx,
        Kind::Txt,
        Kind::Srv,
        Kind::Caa,
        Kind::Tlsa,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Cname => "CNAME",
            Kind::Mx => "MX",
            Kind::Txt => "TXT",
            Kind::Srv => "SRV",
            Kind::Caa => "CAA",
            Kind::Tlsa => "TLSA",
        }
    }

    /// The one that is written so.
    pub fn of(name: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// What a record says. Names are lower case and without their last dot, texts without quotes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// The name that is meant.
    Cname(String),
    /// Preference and host; an empty host takes no mail (RFC 7505).
    Mx(u16, String),
    /// All strings put together.
    Text(String),
    /// A service.
    Srv {
        /// Lower ones are asked first.
        priority: u16,
        /// The share among equals.
        weight: u16,
        /// Where it listens.
        port: u16,
        /// Its host; empty: there is no such service.
        host: String,
    },
    /// Who may issue.
    Caa {
        /// 128: who does not understand the tag may not issue.
        flags: u8,
        /// `issue`, `issuewild`, `iodef`.
        tag: String,
        /// The CA.
        value: String,
    },
    /// The certificate of a service.
    Tlsa {
        /// Whose certificate.
        usage: u8,
        /// Which part of it.
        selector: u8,
        /// How it is hashed.
        matching: u8,
        /// Lower-case hexadecimal.
        hex: String,
    },
}

impl Data {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Data::Address(IpAddr::V4(_)) => Kind::A,
            Data::Address(IpAddr::V6(_)) => Kind::Aaaa,
            Data::Cname(_) => Kind::Cname,
            Data::Mx(..) => Kind::Mx,
            Data::Text(_) => Kind::Txt,
            Data::Srv { .. } => Kind::Srv,
            Data::Caa { .. } => Kind::Caa,
            Data::Tlsa { .. } => Kind::Tlsa,
        }
    }

    /// The text of a TXT record.
    pub fn text(&self) -> Option<&str> {
        match self {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Reads what a zone file, or an API that speaks like one, says of a record of this type.
    pub fn parse(kind: Kind, written: &str) -> Option<Data> {
        let written = written.trim();
        let mut words = written.split_ascii_whitespace();
        let mut word = || words.next();
        let data = match kind {
            Kind::A => Data::Address(IpAddr::V4(written.parse::<Ipv4Addr>().ok()?)),
            Kind::Aaaa => Data::Address(IpAddr::V6(written.parse::<Ipv6Addr>().ok()?)),
            Kind::Cname => Data::Cname(name(written)),
            Kind::Mx => Data::Mx(word()?.parse().ok()?, name(word()?)),
            Kind::Txt => Data::Text(unquoted(written)?),
            Kind::Srv => Data::Srv {
                priority: word()?.parse().ok()?,
                weight: word()?.parse().ok()?,
                port: word()?.parse().ok()?,
                host: name(word()?),
            },
            Kind::Caa => {
                let mut parts = written.splitn(3, |c: char| c.is_ascii_whitespace());
                Data::Caa {
                    flags: parts.next()?.parse().ok()?,
                    tag: parts.next()?.to_ascii_lowercase(),
                    value: unquoted(parts.next()?.trim())?,
                }
            }
            Kind::Tlsa => Data::Tlsa {
                usage: word()?.parse().ok()?,
                selector: word()?.parse().ok()?,
                matching: word()?.parse().ok()?,
                hex: words.collect::<String>().to_ascii_lowercase(),
            },
        };
        Some(data)
    }
}

impl fmt::Display for Data {
    /// As a zone file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Address(ip) => write!(f, "{ip}"),
            Data::Cname(host) => write!(f, "{host}."),
            Data::Mx(preference, host) => write!(f, "{preference} {host}."),
            Data::Text(text) => f.write_str(&quoted(text)),
            Data::Srv {
                priority,
                weight,
                port,
                host,
            } => write!(f, "{priority} {weight} {port} {host}."),
            Data::Caa { flags, tag, value } => write!(f, "{flags} {tag} {}", quoted(value)),
            Data::Tlsa {
                usage,
                selector,
                matching,
                hex,
            } => write!(f, "{usage} {selector} {matching} {hex}"),
        }
    }
}

/// A name and what a record there says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The owner, lower case and without its last dot.
    pub name: String,
    /// What it says.
    pub data: Data,
}

impl Record {
    /// One.
    pub fn new(owner: &str, data: Data) -> Record {
        Record {
            name: name(owner),
            data,
        }
    }
}

impl fmt::Display for Record {
    /// Without a TTL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}. {} {}",
            self.name,
            self.data.kind().name(),
            self.data
        )
    }
}

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (&self.name, self.data.kind(), self.data.to_string()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Record, D::Error> {
        let (owner, kind, written) = <(String, Kind, String)>::deserialize(from)?;
        let data = Data::parse(kind, &written);
        let data = data.ok_or_else(|| {
            serde::de::Error::custom(format!("{written} is no {} record", kind.name()))
        })?;
        Ok(Record::new(&owner, data))
    }
}

/// A name as records are compared here.
pub fn name(text: &str) -> String {
    text.trim_end_matches('.').to_ascii_lowercase()
}

/// `text` as character-strings of at most 255 octets, each in quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.as_bytes();
    loop {
        let (part, after) = rest.split_at(rest.len().min(STRING));
        if !out.is_empty() {
            out.push(' ');
        }
        out.push('"');
        for byte in part {
            match byte {
                b'"' | b'\\' => {
                    out.push('\\');
                    out.push(char::from(*byte));
                }
                b' '..=b'~' => out.push(char::from(*byte)),
                other => {
                    let _ = write!(out, "\\{other:03}");
                }
            }
        }
        out.push('"');
        rest = after;
        if rest.is_empty() {
            return out;
        }
    }
}

/// The text of character-strings, put together; a text that begins with no quote is taken as it is.
pub fn unquoted(written: &str) -> Option<String> {
    if !written.starts_with('"') {
        return Some(written.to_owned());
    }
    let mut bytes = Vec::new();
    let mut inside = false;
    let mut rest = written.bytes();
    while let Some(byte) = rest.next() {
        match (byte, inside) {
            (b'"', _) => inside = !inside,
            (b'\\', true) => match rest.next()? {
                first @ b'0'..=b'9' => {
                    let digits = [first, rest.next()?, rest.next()?];
                    bytes.push(std::str::from_utf8(&digits).ok()?.parse().ok()?);
                }
                other => bytes.push(other),
            },
            (other, true) => bytes.push(other),
            (other, false) if other.is_ascii_whitespace() => {}
            (_, false) => return None,
        }
    }
    match inside {
        true => None,
        false => Some(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (kind, written) in [
            (Kind::A, "192.0.2.1"),
            (Kind::Aaaa, "2001:db8::1"),
            (Kind::Cname, "mx.example.org."),
            (Kind::Mx, "10 mx.example.org."),
            (Kind::Mx, "0 ."),
            (Kind::Txt, "\"v=spf1 a:mx.example.org ~all\""),
            (Kind::Txt, "\"a\\\"b\\\\c\\195\\188\""),
            (Kind::Txt, "\"\""),
            (Kind::Srv, "0 1 465 mx.example.org."),
            (Kind::Caa, "0 issue \"letsencrypt.org\""),
            (Kind::Tlsa, "3 1 1 0f0e"),
        ] {
            let data = Data::parse(kind, written).expect(written);
            assert_eq!(data.kind(), kind);
            assert_eq!(data.to_string(), written);
        }
        let text = Data::parse(Kind::Txt, "\"a\" \"b\\\"\"  \"c\"");
        assert_eq!(text, Some(Data::Text("ab\"c".into())));
        let plain = Data::parse(Kind::Txt, "v=spf1 -all");
        assert_eq!(plain, Some(Data::Text("v=spf1 -all".into())));
        let upper = Data::parse(Kind::Mx, "10 MX.Example.org");
        assert_eq!(upper, Some(Data::Mx(10, "mx.example.org".into())));
    }

    #[test]
    fn what_is_broken_is_nothing() {
        for (kind, written) in [
            (Kind::A, "2001:db8::1"),
            (Kind::Aaaa, "x"),
            (Kind::Mx, "ten mx.example.org."),
            (Kind::Mx, "10"),
            (Kind::Txt, "\"open"),
            (Kind::Txt, "\"a\" b"),
            (Kind::Txt, "\"\\9\""),
            (Kind::Txt, "\"\\999\""),
            (Kind::Srv, "0 1 465"),
            (Kind::Caa, "0 issue"),
            (Kind::Tlsa, "3 1"),
        ] {
            assert_eq!(Data::parse(kind, written), None, "{written}");
        }
    }

    #[test]
    fn long_texts_are_split_at_255_octets() {
        let part = "a".repeat(255);
        assert_eq!(quoted(&part), format!("\"{part}\""));
        assert_eq!(
            quoted(&"a".repeat(600)),
            format!("\"{part}\" \"{part}\" \"{}\"", "a".repeat(90))
        );
        assert_eq!(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
    }
}
