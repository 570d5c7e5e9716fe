//! SPF macros (RFC 7208 section 7). Pure.

use std::net::IpAddr;

use crate::uri::escaped;

/// Longest domain that an expansion gives; longer ones lose labels from the left (section 7.3).
const LONGEST: usize = 253;

/// What macros stand for.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    /// `l@o`: the sender.
    pub local: &'a str,
    /// The domain of the sender.
    pub sender_domain: &'a str,
    /// `d`: the domain whose record is evaluated.
    pub domain: &'a str,
    /// `i`, `v` and `c`: the client.
    pub client: IpAddr,
    /// `p`: the client's validated name.
    pub name: &'a str,
    /// `h`: the name of EHLO.
    pub hello: &'a str,
    /// `r`: who is asking.
    pub receiver: &'a str,
    /// `t`: seconds since 1970.
    pub now: u64,
}

/// One piece of a macro-string.
enum Piece<'a> {
    Text(&'a str),
    Space,
    Encoded,
    Macro {
        letter: char,
        keep: usize,
        reverse: bool,
        delimiters: &'a str,
    },
}

/// Cuts a macro-string; `None` is a syntax error.
fn pieces(mut text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let Some(rest) = text.strip_prefix('%') else {
            let end = text.find('%').unwrap_or(text.len());
            let (literal, rest) = text.split_at(end);
            if !literal.bytes().all(|b| matches!(b, b' '..=b'~')) {
                return None;
            }
            pieces.push(Piece::Text(literal));
            text = rest;
            continue;
        };
        let (piece, rest) = match rest.as_bytes().first()? {
            b'%' => (Piece::Text("%"), rest.get(1..)?),
            b'_' => (Piece::Space, rest.get(1..)?),
            b'-' => (Piece::Encoded, rest.get(1..)?),
            b'{' => {
                let (inner, rest) = rest.get(1..)?.split_once('}')?;
                (expansion(inner)?, rest)
            }
            _ => return None,
        };
        pieces.push(piece);
        text = rest;
    }
    Some(pieces)
}

fn expansion(inner: &str) -> Option<Piece<'_>> {
    let mut chars = inner.chars();
    let letter = chars.next()?;
    if !"slodiphcrtv".contains(letter.to_ascii_lowercase()) {
        return None;
    }
    let rest = chars.as_str();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(digits);
    let keep = match digits {
        "" => usize::MAX,
        // More digits than fit mean all parts.
        _ => digits.parse().unwrap_or(usize::MAX),
    };
    let delimiters = rest.strip_prefix(['r', 'R']);
    let reverse = delimiters.is_some();
    let delimiters = delimiters.unwrap_or(rest);
    if keep == 0 || !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
        return None;
    }
    Some(Piece::Macro {
        letter,
        keep,
        reverse,
        delimiters,
    })
}

/// Whether `text` is a macro-string.
pub fn check(text: &str) -> Option<()> {
    pieces(text).map(|_| ())
}

/// Whether `text` is a domain-spec: a macro-string that ends with a macro or a top label, without
/// the letters that are for explanations (section 7.1).
pub fn check_domain(text: &str) -> Option<()> {
    let pieces = pieces(text)?;
    let spaced = text.contains(' ');
    let explains = pieces
        .iter()
        .any(|piece| matches!(piece, Piece::Macro { letter, .. } if "crtCRT".contains(*letter)));
    if spaced || explains {
        return None;
    }
    match pieces.last()? {
        Piece::Macro { .. } => Some(()),
        Piece::Text("%") | Piece::Space | Piece::Encoded => None,
        Piece::Text(literal) => {
            let literal = literal.strip_suffix('.').unwrap_or(literal);
            let (_, label) = literal.rsplit_once('.')?;
            is_top_label(label).then_some(())
        }
    }
}

fn is_top_label(label: &str) -> bool {
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    outer(label.chars().next())
        && outer(label.chars().last())
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !label.bytes().all(|b| b.is_ascii_digit())
}

/// Expands a checked macro-string.
pub fn expand(text: &str, values: &Values<'_>) -> String {
    let mut out = String::new();
    for piece in pieces(text).unwrap_or_default() {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Space => out.push(' '),
            Piece::Encoded => out.push_str("%20"),
            Piece::Macro {
                letter,
                keep,
                reverse,
                delimiters,
            } => {
                let value = value(letter.to_ascii_lowercase(), values);
                let value = transform(&value, keep, reverse, delimiters);
                match letter.is_ascii_uppercase() {
                    true => out.push_str(&escaped(&value)),
                    false => out.push_str(&value),
                }
            }
        }
    }
    out
}

/// Expands a checked domain-spec; an empty one means the current domain.
pub fn domain(text: &str, values: &Values<'_>) -> String {
    if text.is_empty() {
        return values.domain.to_owned();
    }
    let mut name = expand(text, values);
    while name.len() > LONGEST {
        match name.split_once('.') {
            Some((_, rest)) => name = rest.to_owned(),
            None => break,
        }
    }
    name
}

fn value(letter: char, values: &Values<'_>) -> String {
    match letter {
        's' => format!("{}@{}", values.local, values.sender_domain),
        'l' => values.local.to_owned(),
        'o' => values.sender_domain.to_owned(),
        'd' => values.domain.to_owned(),
        'i' => match values.client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let nibbles = address.octets().into_iter().flat_map(|o| [o >> 4, o & 15]);
                let nibbles: Vec<String> = nibbles.map(|n| format!("{n:X}")).collect();
                nibbles.join(".")
            }
        },
        'p' => values.name.to_owned(),
        'v' => match values.client {
            IpAddr::V4(_) => "in-addr".to_owned(),
            IpAddr::V6(_) => "ip6".to_owned(),
        },
        'h' => values.hello.to_owned(),
        'c' => values.client.to_string(),
        'r' => values.receiver.to_owned(),
        't' => values.now.to_string(),
        _ => String::new(),
    }
}

fn transform(value: &str, keep: usize, reverse: bool, delimiters: &str) -> String {
    let delimiters = if delimiters.is_empty() {
        "."
    } else {
        delimiters
    };
    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
    if reverse {
        parts.reverse();
    }
    let skip = parts.len().saturating_sub(keep);
    parts.get(skip..).unwrap_or_default().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7208 section 7.4.
    #[test]
    fn examples_of_the_rfc() {
        let mut values = Values {
            local: "strong-bad",
            sender_domain: "email.example.com",
            domain: "email.example.com",
            client: [192, 0, 2, 3].into(),
            name: "unknown",
            hello: "mail.example.com",
            receiver: "mx.example.org",
            now: 0,
        };
        for (text, expected) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l-}", "strong.bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            (
                "%{ir}.%{v}._spf.%{d2}",
                "3.2.0.192.in-addr._spf.example.com",
            ),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            ("%{S}%%%_%-", "strong-bad%40email.example.com% %20"),
        ] {
            assert_eq!(expand(text, &values), expected, "{text}");
        }
        values.client = "2001:db8::cb01".parse().expect("address");
        assert_eq!(
            expand("%{ir}.%{v}._spf.%{d2}", &values),
            "1.0.B.C.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6._spf.example.com"
        );
        for bad in ["%", "%{x}", "%{d", "%{d0}", "%{dx}", "%a", "%{l-9999}"] {
            assert_eq!(check(bad), None, "{bad}");
        }
        assert_eq!(
            expand("%{d9999999999999999999999}", &values),
            "email.example.com"
        );
    }
}
