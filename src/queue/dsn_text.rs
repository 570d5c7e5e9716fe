//! Words of a notice: in lines that are not too long, in ASCII where it may hold nothing else.

use std::fmt::Write;

use queue_schema::Millis;

use super::clean;

/// Columns of what people read.
const COLUMNS: usize = 72;

/// RFC 5322 section 3.3, in UTC.
pub(super) fn date(at: Millis) -> String {
    let timestamp = i64::try_from(at)
        .ok()
        .and_then(|at| jiff::Timestamp::from_millisecond(at).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    let zoned = timestamp.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&zoned).unwrap_or_default()
}

/// Nothing that could end a line, and no line that is too long (RFC 5322 section 2.1.1).
pub(super) fn line(text: &str) -> String {
    clean(text, 900)
}

/// Words as they are where the notice may hold them, else with an escape for what is beyond ASCII
/// (RFC 6533 section 3): no other address may appear in the place of one.
pub(super) fn printable(text: &str, wide: bool) -> String {
    escaped(text, wide, "")
}

/// An address as a notice can carry it: one of 7 bits writes what lies beyond ASCII as
/// `\x{HEX}` (RFC 6533 section 3, utf-8-addr-xtext).
pub(super) fn fitting(address: &str, wide: bool) -> String {
    escaped(address, wide || address.is_ascii(), "\\+=")
}

/// A text with `\x{HEX}` for what is beyond ASCII and for these besides, unless it is `wide`.
pub(super) fn escaped(text: &str, wide: bool, besides: &str) -> String {
    if wide {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() && !besides.contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    out
}

pub(super) fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

/// Appends `text` in lines of at most [`COLUMNS`], each with `indent`; words longer than a line
/// are cut.
pub(super) fn wrap(out: &mut String, indent: &str, text: &str) {
    let width = COLUMNS - indent.len();
    let mut column = 0;
    for word in text.split_whitespace() {
        let mut rest = word;
        while !rest.is_empty() {
            let mut end = rest.len().min(width);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (piece, after) = rest.split_at(end);
            if column > 0 && column + 1 + piece.len() > width {
                out.push_str("\r\n");
                column = 0;
            }
            if column == 0 {
                out.push_str(indent);
            } else {
                out.push(' ');
                column += 1;
            }
            out.push_str(piece);
            column += piece.len();
            rest = after;
        }
    }
    out.push_str("\r\n");
}
