//! What Content-Type says of a part: its type, and the boundary of its parts (RFC 2045 section 5.1).
//!
//! Linear and bounded: a stranger writes it. Comments and quotes are read as everywhere in a header;
//! what goes on behind something that is no parameter is left out. Pure.

/// Octets of a field that are read.
const LONGEST: usize = 8 * 1024;

/// A type, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Such as `multipart`.
    pub main: String,
    /// Such as `mixed`.
    pub sub: String,
    /// `boundary=`
    pub boundary: Option<Vec<u8>>,
}

impl Default for Kind {
    /// What a part without the field is (section 5.2).
    fn default() -> Kind {
        Kind {
            main: "text".to_owned(),
            sub: "plain".to_owned(),
            boundary: None,
        }
    }
}

/// Reads the value of a Content-Type field; `None`: it names no type.
pub fn read(value: &[u8]) -> Option<Kind> {
    let mut rest = Words(value.get(..LONGEST.min(value.len()))?);
    let main = rest.token()?;
    if rest.sign()? != b'/' {
        return None;
    }
    let sub = rest.token()?;
    let mut boundary = None;
    while rest.sign() == Some(b';') {
        let Some(name) = rest.token() else { continue };
        // What has no value is no parameter; the next one may be.
        if !rest.takes(b'=') {
            continue;
        }
        let value = rest.quoted().or_else(|| rest.value());
        let Some(value) = value else { break };
        if name.eq_ignore_ascii_case(b"boundary") && boundary.is_none() && !value.is_empty() {
            boundary = Some(value);
        }
    }
    let lower = |text: Vec<u8>| String::from_utf8_lossy(&text).to_ascii_lowercase();
    Some(Kind {
        main: lower(main),
        sub: lower(sub),
        boundary,
    })
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    /// Skips white space and comments.
    fn skip(&mut self) {
        let mut depth = 0usize;
        while let [first, rest @ ..] = self.0 {
            match first {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.0 = rest.get(1..).unwrap_or_default();
                    continue;
                }
                _ if depth > 0 => {}
                _ => return,
            }
            self.0 = rest;
        }
    }

    fn sign(&mut self) -> Option<u8> {
        self.skip();
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Takes this sign if it comes next.
    fn takes(&mut self, sign: u8) -> bool {
        self.skip();
        match self.0.split_first() {
            Some((first, rest)) if *first == sign => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Option<Vec<u8>> {
        self.up_to(|byte| matches!(byte, 0..=32 | 127 | b'(' | b')' | b';' | b'"' | b'=' | b'/'))
    }

    /// A value without quotes; many boundaries hold signs that would need them.
    fn value(&mut self) -> Option<Vec<u8>> {
        self.up_to(|byte| matches!(byte, 0..=32 | 127 | b'(' | b';' | b'"'))
    }

    fn up_to(&mut self, ends: impl Fn(&u8) -> bool) -> Option<Vec<u8>> {
        self.skip();
        let end = self.0.iter().position(ends).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then(|| token.to_vec())
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        self.skip();
        let mut rest = self.0.strip_prefix(b"\"")?;
        let mut text = Vec::new();
        loop {
            match rest {
                [b'"', after @ ..] => {
                    self.0 = after;
                    return Some(text);
                }
                [b'\\', escaped, after @ ..] => {
                    text.push(*escaped);
                    rest = after;
                }
                [b'\r' | b'\n', after @ ..] => rest = after,
                [byte, after @ ..] => {
                    text.push(*byte);
                    rest = after;
                }
                [] => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_types_are_read_whatever_stands_around_them() {
        for (value, main, sub, boundary) in [
            (" text/HTML; charset=x\r\n", "text", "html", None),
            (
                " multipart/mixed;\r\n boundary=\"a \\\"b\"",
                "multipart",
                "mixed",
                Some("a \"b"),
            ),
            (
                "multipart/mixed (c); x; boundary=--=_a/b?:1; y=z",
                "multipart",
                "mixed",
                Some("--=_a/b?:1"),
            ),
            (
                " multipart / signed ; protocol=\"a;b\";BOUNDARY=x",
                "multipart",
                "signed",
                Some("x"),
            ),
            (" text/plain; =", "text", "plain", None),
        ] {
            let read = read(value.as_bytes()).expect(value);
            let boundary = boundary.map(|text| text.as_bytes().to_vec());
            assert_eq!(
                (read.main.as_str(), read.sub.as_str()),
                (main, sub),
                "{value}"
            );
            assert_eq!(read.boundary, boundary, "{value}");
        }
        for none in ["", " text", " /x", "(", "text/", " ; boundary=x"] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
        let long = " multipart/mixed; ".to_owned() + &"=?aaa?q?(".repeat(30_000);
        assert_eq!(
            read(long.as_bytes()).map(|kind| kind.main).as_deref(),
            Some("multipart")
        );
    }
}
