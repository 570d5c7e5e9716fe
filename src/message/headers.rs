//! The fields of a header block, as slices of its bytes (RFC 5322 section 2.2).
//!
//! One splitter for everything that looks at headers: what is verified, signed and stored is cut
//! at the same places.

use std::ops::Range;

/// One header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name without the colon, and without blanks before it.
    pub name: &'a [u8],
    /// Everything after the colon, with folds and the last CR LF.
    pub value: &'a [u8],
    /// The whole field with its last CR LF.
    pub whole: &'a [u8],
}

impl Field<'_> {
    /// Whether this is the field `name`.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Fields that decide who wrote a message, who vouches for it, where it goes and how it is read.
const JUDGED: [&str; 16] = [
    "From",
    "Sender",
    "Resent-From",
    "Resent-Sender",
    "Bcc",
    "Received",
    "Delivered-To",
    "DKIM-Signature",
    "Authentication-Results",
    "ARC-Seal",
    "ARC-Message-Signature",
    "ARC-Authentication-Results",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "TLS-Required",
];

/// Blanks at the end of a name.
fn trim_blanks(mut name: &[u8]) -> &[u8] {
    while let [front @ .., b' ' | b'\t'] = name {
        name = front;
    }
    name
}

/// A line that is neither a field nor a continuation of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of the header has no name or no colon")]
pub struct MalformedHeader;

/// Splits a header block, with or without the empty line that ends it.
pub fn fields(head: &[u8]) -> Result<Vec<Field<'_>>, MalformedHeader> {
    let mut fields = Vec::new();
    let mut rest = head;
    while !matches!(rest, [] | [b'\r', b'\n']) {
        let end = field_end(rest);
        let (whole, tail) = rest.split_at(end);
        let colon = memchr::memchr(b':', whole).ok_or(MalformedHeader)?;
        let (written, value) = whole.split_at(colon);
        let name = trim_blanks(written);
        if name.is_empty() || !name.iter().all(|byte| matches!(byte, 33..=126)) {
            return Err(MalformedHeader);
        }
        // RFC 5322 section 4.5 lets white space stand before the colon. In what is judged, names of
        // two readings ("From : ") are how a signature and a reader are made to disagree.
        let is_judged = |judged: &&str| name.eq_ignore_ascii_case(judged.as_bytes());
        if name.len() != written.len() && JUDGED.iter().any(is_judged) {
            return Err(MalformedHeader);
        }
        fields.push(Field {
            name,
            value: value.get(1..).unwrap_or_default(),
            whole,
        });
        rest = tail;
    }
    Ok(fields)
}

/// Where the field at the front of `text` ends: after the first CR LF that no white space follows.
fn field_end(text: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = text
        .get(from..)
        .and_then(|rest| memchr::memchr(b'\n', rest))
    {
        let next = from + at + 1;
        match text.get(next) {
            Some(b' ' | b'\t') => from = next,
            _ => return next,
        }
    }
    text.len()
}

/// Where the header block ends in `text`: the range of the empty line, once it is there. Looks
/// from `from` on, which must not be beyond the last line start that was searched before.
pub fn empty_line(text: &[u8], from: usize) -> Option<Range<usize>> {
    if text.starts_with(b"\r\n") {
        return Some(0..2);
    }
    let from = from.saturating_sub(3);
    let at = memchr::memmem::find(text.get(from..)?, b"\r\n\r\n")? + from;
    Some(at + 2..at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_at_unfolded_line_ends() {
        let head = b"From: a\r\nSubject: b\r\n c\r\n\td\r\nX-Empty:\r\n\r\n";
        let fields = fields(head).expect("fields");
        let names: Vec<_> = fields.iter().map(|f| f.name).collect();
        assert_eq!(names, [&b"From"[..], b"Subject", b"X-Empty"]);
        assert_eq!(
            fields.get(1).map(|f| f.value),
            Some(&b" b\r\n c\r\n\td\r\n"[..])
        );
        assert_eq!(
            fields.iter().map(|f| f.whole.len()).sum::<usize>() + 2,
            head.len()
        );
    }

    #[test]
    fn r12_blanks_before_the_colon_pass_where_nothing_is_judged() {
        let fields = fields(b"Subject : x\r\nX-Y \t:z\r\n\r\n").expect("fields");
        let read: Vec<_> = fields.iter().map(|f| (f.name, f.value)).collect();
        assert_eq!(
            read,
            [(&b"Subject"[..], &b" x\r\n"[..]), (b"X-Y", b"z\r\n")]
        );
        for judged in JUDGED {
            let field = format!("{judged} : x\r\n");
            assert_eq!(
                super::fields(field.as_bytes()),
                Err(MalformedHeader),
                "{judged}"
            );
        }
    }

    #[test]
    fn lines_that_are_no_fields_are_refused() {
        for bad in [
            &b"hello\r\n"[..],
            b" folded\r\n",
            b"From : a\r\n",
            b": x\r\n",
            b"Fr\xc3\xb6m: x\r\n",
        ] {
            assert_eq!(fields(bad), Err(MalformedHeader), "{bad:?}");
        }
        assert_eq!(fields(b"\r\n"), Ok(vec![]));
        assert_eq!(fields(b""), Ok(vec![]));
    }

    #[test]
    fn the_empty_line_is_found_whenever_it_comes() {
        assert_eq!(empty_line(b"\r\nbody", 0), Some(0..2));
        assert_eq!(empty_line(b"A: b\r\n\r\nbody", 0), Some(6..8));
        assert_eq!(empty_line(b"A: b\r\n\r\n", 7), Some(6..8));
        assert_eq!(empty_line(b"A: b\r\n", 0), None);
    }
}
