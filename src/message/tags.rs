//! Tag lists: `name=value; name=value` (RFC 6376 section 3.2), the form of DKIM and ARC fields, of
//! key records and of DMARC records.

/// Fewest bits of an RSA key of DKIM or ARC that is used (RFC 8301 section 3.2).
pub const RSA_LEAST: usize = 1024;
/// Most tags that one list may have; more is no list.
const MOST: usize = 200;

/// A well-formed list: names are as written, no name twice, values without white space around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Tags<'a> {
    /// Parses a list; `None` for what is none.
    pub fn parse(text: &'a [u8]) -> Option<Tags<'a>> {
        let text = std::str::from_utf8(text).ok()?;
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut specs = text.split(';').peekable();
        while let Some(spec) = specs.next() {
            // One semicolon may end the list.
            if specs.peek().is_none() && trim(spec).is_empty() {
                break;
            }
            let (name, value) = spec.split_once('=')?;
            let (name, value) = (trim(name), trim(value));
            if !is_name(name) || !value.chars().all(is_value_char) || tags.len() >= MOST {
                return None;
            }
            if tags.iter().any(|(known, _)| *known == name) {
                return None;
            }
            tags.push((name, value));
        }
        Some(Tags(tags))
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    /// The first tag.
    pub fn first(&self) -> Option<(&'a str, &'a str)> {
        self.0.first().copied()
    }

    /// Every tag in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().copied()
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// RFC 6376's VALCHAR, folding white space, and the UTF-8 of RFC 8616.
fn is_value_char(c: char) -> bool {
    matches!(c, '!'..='~' | ' ' | '\t' | '\r' | '\n') || !c.is_ascii()
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// A value without any white space, as base64 and lists of names may be folded anywhere.
pub fn squeezed(value: &str) -> String {
    value.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

/// `field`, the value of a DKIM or ARC field, without the value of its `b` tag (RFC 6376 section
/// 3.7): all between the `=` and the next semicolon is gone.
pub fn without_signature(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    for (index, spec) in field.split(|byte| *byte == b';').enumerate() {
        if index > 0 {
            out.push(b';');
        }
        let equals = memchr::memchr(b'=', spec);
        let name = equals.and_then(|at| spec.get(..at)).unwrap_or_default();
        match equals.and_then(|at| spec.get(..=at)) {
            Some(kept) if name.trim_ascii() == b"b" => out.extend_from_slice(kept),
            _ => out.extend_from_slice(spec),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_strictly() {
        let tags = Tags::parse(b" v=1; a = rsa-sha256 ;b=ab\r\n cd; x=;").expect("tags");
        assert_eq!(tags.first(), Some(("v", "1")));
        assert_eq!(tags.get("a"), Some("rsa-sha256"));
        assert_eq!(tags.get("b").map(squeezed).as_deref(), Some("abcd"));
        assert_eq!((tags.get("x"), tags.get("y")), (Some(""), None));
        for bad in [
            "a=1;;b=2", "a=1; a=2", "=1", "1=a", "a b=1", "a", "a=\u{7}", ";",
        ] {
            assert_eq!(Tags::parse(bad.as_bytes()), None, "{bad}");
        }
        let many: String = (0..300).map(|n| format!("t{n}=1;")).collect();
        assert_eq!(Tags::parse(many.as_bytes()), None);
    }

    #[test]
    fn the_signature_alone_is_cut_out() {
        assert_eq!(
            without_signature(b" bh=x; b = a\r\n b; c=y; \r\n b=z"),
            b" bh=x; b =; c=y; \r\n b="
        );
    }
}
