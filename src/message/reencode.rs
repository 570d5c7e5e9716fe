//! Turns a message into one of 7-bit lines that no hop has to break (RFC 2045 section 6, RFC 6152
//! section 3).
//!
//! Parts that hold bytes over 127, or lines that are too long, are encoded as quoted-printable if
//! they are text and as base64 if not; everything else keeps its bytes. Runs before the signature is
//! made, never after. What can not be changed without breaking it (a signed part, a part that is
//! encoded already and still too long) is an error. Pure; memory is that of the message, nesting
//! and number of parts are bounded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_builder::encoders::QuotedPrintableEncoder;

use super::content_type::{self, Kind};
use super::headers::{self, Field};

/// Multiparts and messages within each other.
pub const MAX_DEPTH: usize = 20;
/// Parts of one message.
pub const MAX_PARTS: usize = 1000;
/// Bytes of one line of base64 (RFC 2045 section 6.8).
const BASE64_LINE: usize = 76;

/// A message that can not be turned into one of short 7-bit lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message can not be encoded without breaking it")]
pub struct Unencodable;

/// What must not be in the result.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Bytes of the longest line without its line end.
    pub line: usize,
    /// Whether bytes over 127 must go.
    pub seven_bit: bool,
}

impl Rule {
    fn allows(self, bytes: &[u8]) -> bool {
        (!self.seven_bit || bytes.is_ascii())
            && bytes
                .split(|byte| *byte == b'\n')
                .all(|line| line.strip_suffix(b"\r").unwrap_or(line).len() <= self.line)
    }
}

/// The header block, with its empty line, and the body as they should leave.
pub fn reencode(head: &[u8], body: &[u8], rule: Rule) -> Result<(Vec<u8>, Vec<u8>), Unencodable> {
    let mut left = MAX_PARTS;
    entity(head, body, rule, true, MAX_DEPTH, &mut left)
}

fn entity(
    head: &[u8],
    body: &[u8],
    rule: Rule,
    top: bool,
    depth: usize,
    left: &mut usize,
) -> Result<(Vec<u8>, Vec<u8>), Unencodable> {
    *left = left.checked_sub(1).ok_or(Unencodable)?;
    let depth = depth.checked_sub(1).ok_or(Unencodable)?;
    let fields = headers::fields(head).map_err(|_| Unencodable)?;
    let long_field = |field: &Field<'_>| {
        !Rule {
            seven_bit: false,
            ..rule
        }
        .allows(field.whole)
    };
    // Folding a field could change what it means; nobody who writes such a field is right.
    let broken = fields.iter().any(long_field);
    // The header of the message may hold UTF-8 (RFC 6532); that of a part is part of its body.
    if broken || (!top && !rule.allows(head)) {
        return Err(Unencodable);
    }
    if rule.allows(body) {
        return Ok((head.to_vec(), body.to_vec()));
    }
    let kind = ContentType::of(&fields);
    let encoding = encoding(&fields);
    let plain = matches!(encoding.as_str(), "" | "7bit" | "8bit" | "binary");
    match (kind.main.as_str(), kind.sub.as_str()) {
        // What is encoded already is wrapped again: white space means nothing in base64, a soft line
        // break nothing in quoted-printable (RFC 2045 sections 6.7 and 6.8).
        ("multipart" | "message", _) if !plain => Err(Unencodable),
        _ if encoding == "base64" && body.is_ascii() => Ok((head.to_vec(), wrapped_base64(body))),
        _ if encoding == "quoted-printable" && body.is_ascii() => {
            Ok((head.to_vec(), wrapped_printable(body)))
        }
        _ if !plain => Err(Unencodable),
        ("multipart", "signed" | "encrypted") => Err(Unencodable),
        ("multipart", _) => {
            let boundary = kind.boundary.ok_or(Unencodable)?;
            let body = multipart(body, &boundary, rule, depth, left)?;
            Ok((with_encoding(&fields, None, top, &[]), body))
        }
        // These may be encoded as a whole (RFC 6532 section 3.7, RFC 6533 section 6).
        ("message", "global" | "global-headers" | "global-delivery-status") => Ok((
            with_encoding(&fields, Some("base64"), top, &[]),
            base64(body),
        )),
        ("message", "rfc822") => {
            let (inner_head, inner_body) = split(body);
            let (mut inner, rest) = entity(inner_head, inner_body, rule, false, depth, left)?;
            inner.extend_from_slice(&rest);
            Ok((with_encoding(&fields, None, top, &[]), inner))
        }
        ("message", _) => Err(Unencodable),
        ("text", _) => {
            let encoded = QuotedPrintableEncoder::new()
                .preserve_line_breaks()
                .encode(body)
                .map_err(|_| Unencodable)?;
            let encoded = if body.ends_with(b"\r\n") && !encoded.ends_with(b"\r\n") {
                [&encoded[..], b"\r\n"].concat()
            } else {
                encoded
            };
            let missing = kind.missing_for(body);
            let head = with_encoding(&fields, Some("quoted-printable"), top, missing);
            Ok((head, encoded))
        }
        _ => Ok((
            with_encoding(&fields, Some("base64"), top, &[]),
            base64(body),
        )),
    }
}

fn base64(body: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(body);
    let mut out = Vec::with_capacity(text.len() + text.len() / 38 + 2);
    for line in text.as_bytes().chunks(BASE64_LINE) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Base64 in lines of the usual length.
fn wrapped_base64(body: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let mut out = Vec::with_capacity(text.len() + text.len() / 38 + 2);
    for line in text.chunks(BASE64_LINE) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Quoted-printable text whose lines are as long as RFC 2045 section 6.7 allows; no `=XX` is torn.
fn wrapped_printable(body: &[u8]) -> Vec<u8> {
    const LONGEST: usize = 76;
    let mut out = Vec::with_capacity(body.len() + body.len() / 30);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\r\n").unwrap_or(line);
        let mut rest = bare;
        while rest.len() > LONGEST {
            let room = LONGEST - 1;
            let window = rest.get(..room).unwrap_or(rest);
            let torn = window.iter().rev().take(2).position(|byte| *byte == b'=');
            let at = room - torn.map_or(0, |back| back + 1);
            let (front, back) = rest.split_at(at);
            out.extend_from_slice(front);
            out.extend_from_slice(b"=\r\n");
            rest = back;
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(line.get(bare.len()..).unwrap_or_default());
    }
    out
}

/// Header block with its empty line, and what follows it.
fn split(entity: &[u8]) -> (&[u8], &[u8]) {
    match headers::empty_line(entity, 0) {
        Some(line) => entity.split_at(line.end),
        None => (entity, &[]),
    }
}

/// A multipart body, each of its parts as it should leave (RFC 2046 section 5.1.1).
fn multipart(
    body: &[u8],
    boundary: &[u8],
    rule: Rule,
    depth: usize,
    left: &mut usize,
) -> Result<Vec<u8>, Unencodable> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 4);
    // The preamble, then each part, then the epilogue.
    let mut start = 0;
    let mut in_part = false;
    let mut at = 0;
    while at < body.len() {
        let rest = body.get(at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = rest.get(..end).unwrap_or_default();
        if let Some(last) = delimiter(line, boundary) {
            let chunk = body.get(start..at).unwrap_or_default();
            flush(chunk, in_part, rule, depth, left, &mut out)?;
            out.extend_from_slice(line);
            start = at + end;
            in_part = !last;
        }
        at += end;
    }
    let chunk = body.get(start..).unwrap_or_default();
    flush(chunk, in_part, rule, depth, left, &mut out)?;
    Ok(out)
}

/// One part, with the line end that belongs to the delimiter behind it, or what is around parts.
fn flush(
    chunk: &[u8],
    in_part: bool,
    rule: Rule,
    depth: usize,
    left: &mut usize,
    out: &mut Vec<u8>,
) -> Result<(), Unencodable> {
    if !in_part {
        if !rule.allows(chunk) {
            return Err(Unencodable);
        }
        out.extend_from_slice(chunk);
        return Ok(());
    }
    let (part, end) = match chunk.strip_suffix(b"\r\n") {
        Some(part) => (part, &b"\r\n"[..]),
        None => (chunk, &b""[..]),
    };
    let (head, body) = split(part);
    let (head, body) = entity(head, body, rule, false, depth, left)?;
    out.extend_from_slice(&head);
    out.extend_from_slice(&body);
    // Base64 ends with a line end of its own already.
    if !(end.is_empty() || body.ends_with(b"\r\n") && !part.ends_with(b"\r\n")) {
        out.extend_from_slice(end);
    }
    Ok(())
}

/// Whether a line is a delimiter of `boundary`, and the last one.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let blank = |text: &[u8]| text.trim_ascii().is_empty();
    match rest.strip_prefix(b"--") {
        Some(after) if blank(after) => Some(true),
        _ if blank(rest) => Some(false),
        _ => None,
    }
}

/// Content-Transfer-Encoding in lower case; empty if there is none.
fn encoding(fields: &[Field<'_>]) -> String {
    let field = fields
        .iter()
        .find(|field| field.is("Content-Transfer-Encoding"));
    let value = field.map(|field| field.value).unwrap_or_default();
    String::from_utf8_lossy(value).trim().to_ascii_lowercase()
}

/// The header block with this encoding, or none, instead of the one it had.
fn with_encoding(
    fields: &[Field<'_>],
    encoding: Option<&str>,
    top: bool,
    missing: &[u8],
) -> Vec<u8> {
    let mut head = Vec::new();
    for field in fields {
        if !field.is("Content-Transfer-Encoding") {
            head.extend_from_slice(field.whole);
        }
    }
    if !head.is_empty() && !head.ends_with(b"\r\n") {
        head.extend_from_slice(b"\r\n");
    }
    if top && !fields.iter().any(|field| field.is("MIME-Version")) {
        head.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }
    head.extend_from_slice(missing);
    if let Some(encoding) = encoding {
        head.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// What Content-Type says.
struct ContentType {
    main: String,
    sub: String,
    boundary: Option<Vec<u8>>,
    given: bool,
}

impl ContentType {
    fn of(fields: &[Field<'_>]) -> ContentType {
        let field = fields.iter().find(|field| field.is("Content-Type"));
        let kind = match field {
            None => Kind::default(),
            Some(field) => content_type::read(field.value).unwrap_or_default(),
        };
        ContentType {
            main: kind.main,
            sub: kind.sub,
            boundary: kind.boundary,
            given: field.is_some(),
        }
    }

    /// The field that text without one needs: what it is written in has to be said now.
    fn missing_for(&self, body: &[u8]) -> &'static [u8] {
        match (self.given || body.is_ascii(), std::str::from_utf8(body)) {
            (true, _) => b"",
            (false, Ok(_)) => b"Content-Type: text/plain; charset=utf-8\r\n",
            (false, Err(_)) => b"Content-Type: text/plain; charset=unknown-8bit\r\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEVEN: Rule = Rule {
        line: 998,
        seven_bit: true,
    };
    const SHORT: Rule = Rule {
        line: 998,
        seven_bit: false,
    };

    fn run(message: &[u8], rule: Rule) -> Result<String, Unencodable> {
        let (head, body) = split(message);
        let (head, body) = reencode(head, body, rule)?;
        Ok(String::from_utf8([head, body].concat()).expect("ASCII"))
    }

    #[test]
    fn text_becomes_quoted_printable_and_says_what_it_is() {
        let message = "From: a@b.example\r\n\r\nGrüße\r\n";
        assert_eq!(
            run(message.as_bytes(), SEVEN).as_deref(),
            Ok("From: a@b.example\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\n\
                 Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n")
        );
        let message = "MIME-Version: 1.0\r\nContent-Type: text/html; charset=latin1\r\n\
                       Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}n";
        let out = run(message.as_bytes(), SEVEN).expect("encoded");
        assert!(out.starts_with(
            "MIME-Version: 1.0\r\nContent-Type: text/html; charset=latin1\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BCn"
        ));
    }

    #[test]
    fn what_is_fine_keeps_its_bytes() {
        let message = b"From: a@b.example\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\na\r\n--x--\r\n";
        assert_eq!(run(message, SEVEN).expect("kept").as_bytes(), message);
    }

    #[test]
    fn long_lines_are_encoded_and_short_8_bit_ones_kept() {
        let long = "x".repeat(1500);
        let message = format!("From: a@b.example\r\n\r\n{long}\r\n");
        let out = run(message.as_bytes(), SHORT).expect("encoded");
        assert!(out.contains("quoted-printable") && out.lines().all(|line| line.len() <= 76));
        assert_eq!(
            out.matches('x').count() - out.matches("example").count(),
            1500
        );
        let (head, body) = reencode(b"A: b\r\n\r\n", "ü\r\n".as_bytes(), SHORT).expect("kept");
        assert_eq!(
            (&head[..], &body[..]),
            (&b"A: b\r\n\r\n"[..], "ü\r\n".as_bytes())
        );
    }

    #[test]
    fn o4_headers_beyond_ascii_that_a_notice_returns_are_encoded() {
        for kind in ["global-headers", "global-delivery-status", "global"] {
            let message = format!("Content-Type: message/{kind}\r\n\r\nSubject: \u{fc}\r\n");
            let out = run(message.as_bytes(), SEVEN).expect("encoded");
            assert!(
                out.ends_with("Transfer-Encoding: base64\r\n\r\nU3ViamVjdDogw7wNCg==\r\n"),
                "{out}"
            );
        }
    }

    #[test]
    fn r7_what_is_encoded_in_one_line_is_wrapped_again() {
        let bytes: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
        let one = STANDARD.encode(&bytes);
        let head = "Content-Type: image/png\r\nContent-Transfer-Encoding: BASE64\r\n\r\n";
        let out = run(format!("{head}{one}\r\n").as_bytes(), SHORT).expect("wrapped");
        let body = out.strip_prefix(head).expect("the same header");
        assert!(body.lines().all(|line| line.len() <= 76), "{body}");
        assert_eq!(
            STANDARD.decode(body.replace("\r\n", "")).as_ref(),
            Ok(&bytes)
        );
        let head = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n";
        for shift in 0..3 {
            let text = "x".repeat(shift) + &"=C3=BC".repeat(400);
            let out = run(format!("{head}{text}\r\nnext\r\n").as_bytes(), SHORT).expect("wrapped");
            let body = out.strip_prefix(head).expect("the same header");
            assert!(body.lines().all(|line| line.len() <= 76), "{body}");
            assert_eq!(body.replace("=\r\n", ""), format!("{text}\r\nnext\r\n"));
            let torn = body.lines().any(|line| {
                let line = line.strip_suffix('=').unwrap_or(line);
                line.ends_with('=')
                    || line
                        .get(line.len().saturating_sub(2)..)
                        .is_some_and(|end| end.starts_with('='))
            });
            assert!(!torn, "{body}");
        }
    }

    #[test]
    fn only_the_parts_that_need_it_are_touched() {
        let message = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b 1\"\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n--b 1\r\n\r\nplain\r\n--b 1\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n--b 1\r\n\
            Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n\u{80}\u{81}\r\n\
            --b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\nä\r\n--b 1--\r\nepilogue\r\n";
        let expected = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b 1\"\r\n\
            \r\npreamble\r\n--b 1\r\n\r\nplain\r\n--b 1\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n--b 1\r\n\
            Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nwoDCgQ==\r\n\
            --b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A4\r\n--b 1--\r\nepilogue\r\n";
        assert_eq!(run(message.as_bytes(), SEVEN).as_deref(), Ok(expected));
    }

    #[test]
    fn what_would_break_is_an_error() {
        let long = "y".repeat(999);
        for message in [
            "Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\nä\r\n--x--\r\n"
                .to_owned(),
            "Content-Type: multipart/mixed\r\n\r\nä\r\n".to_owned(),
            "Content-Type: message/partial\r\n\r\nä\r\n".to_owned(),
            "Content-Type: multipart/mixed; boundary=x\r\n\r\nä\r\n--x\r\n\r\na\r\n--x--\r\n"
                .to_owned(),
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nSubject: ä\r\n\r\na\r\n--x--\r\n"
                .to_owned(),
            format!("Subject: {long}\r\n\r\na\r\n"),
        ] {
            assert_eq!(
                run(message.as_bytes(), SEVEN),
                Err(Unencodable),
                "{message}"
            );
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut message = "ä\r\n".to_owned();
        for _ in 0..100 {
            message = format!("Content-Type: message/rfc822\r\n\r\n{message}");
        }
        assert_eq!(run(message.as_bytes(), SEVEN), Err(Unencodable));
        let parts = "--x\r\n\r\nä\r\n".repeat(MAX_PARTS + 1);
        let message = format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{parts}--x--\r\n");
        assert_eq!(run(message.as_bytes(), SEVEN), Err(Unencodable));
    }

    proptest! {
        #[test]
        fn the_result_keeps_the_rule_and_the_text(lines in proptest::collection::vec("\\PC{0,80}", 0..20)) {
            let body = lines.join("\r\n") + "\r\n";
            let (head, out) = reencode(b"A: b\r\n\r\n", body.as_bytes(), SEVEN).expect("encoded");
            prop_assert!(SEVEN.allows(&out));
            let message = [head, out].concat();
            let parsed = mail_parser::MessageParser::new().parse(&message).expect("a message");
            let text = parsed.body_text(0).expect("text");
            let plain = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
            prop_assert_eq!(plain(&text), plain(&body));
        }

        #[test]
        fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (head, body) = split(&bytes);
            if let Ok((_, out)) = reencode(head, body, SEVEN) {
                prop_assert!(SEVEN.allows(&out));
            }
        }
    }
}
