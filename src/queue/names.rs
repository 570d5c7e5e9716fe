//! The Message-ID and the subject by which people know a message, from its header block. Pure.
//!
//! Takes time in proportion to the header block, of which only the first [`LOOKED_AT`] bytes are
//! looked at. Encoded words (RFC 2047) of UTF-8, US-ASCII and Latin-1 are decoded; what cannot be
//! decoded stays as it is written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use queue_schema::{MESSAGE_ID, SUBJECT};

use super::clean;

/// Bytes of a header block that are looked at.
const LOOKED_AT: usize = 64 << 10;
/// Bytes of a field that are read.
const FIELD: usize = 2 << 10;
/// Bytes of an encoded word; RFC 2047 section 2 allows 75, some programs write longer ones.
const WORD: usize = 256;

/// The Message-ID and the subject; empty where the message has none.
pub fn names(head: &[u8]) -> (String, String) {
    let head = head.get(..LOOKED_AT).unwrap_or(head);
    let (mut message_id, mut subject) = (None, None);
    let mut at = 0;
    while let Some(rest) = head.get(at..).filter(|rest| !rest.is_empty()) {
        let line = line(rest);
        if matches!(line, b"\r\n" | b"\n") || (message_id.is_some() && subject.is_some()) {
            break;
        }
        if message_id.is_none()
            && let Some(start) = value(line, b"message-id")
        {
            message_id = Some(unfolded(rest, start));
        } else if subject.is_none()
            && let Some(start) = value(line, b"subject")
        {
            subject = Some(decoded(&unfolded(rest, start)));
        }
        at += line.len();
    }
    let text = |found: Option<Vec<u8>>, longest| {
        let found = found.unwrap_or_default();
        let found = String::from_utf8_lossy(&found);
        clean(found.trim(), longest).trim_end().to_owned()
    };
    (
        text(message_id, MESSAGE_ID),
        clean(subject.unwrap_or_default().trim(), SUBJECT)
            .trim_end()
            .to_owned(),
    )
}

/// The first line with its end.
fn line(bytes: &[u8]) -> &[u8] {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => bytes.get(..=end).unwrap_or(bytes),
        None => bytes,
    }
}

/// Where the value of a field begins, if the line begins a field of this name. RFC 5322 section
/// 4.5 allows blanks before the colon.
fn value(line: &[u8], name: &[u8]) -> Option<usize> {
    if !line.get(..name.len())?.eq_ignore_ascii_case(name) {
        return None;
    }
    let after = line.get(name.len()..)?;
    let blanks = after.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    let colon = blanks.count();
    (after.get(colon) == Some(&b':')).then_some(name.len() + colon + 1)
}

/// The value of the field at the beginning of `bytes`, in one line.
fn unfolded(bytes: &[u8], start: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..) {
        let line = line(rest);
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        if line.is_empty() || (at > 0 && !folded) || out.len() >= FIELD {
            break;
        }
        let from = if at == 0 { start } else { 0 };
        let text = line.get(from..).unwrap_or_default();
        let text = text.trim_ascii_end();
        out.extend_from_slice(text.get(..FIELD).unwrap_or(text));
        at += line.len();
    }
    out
}

/// Words that belong to one character set wait here, because programs cut characters in two.
#[derive(Default)]
struct Decoder {
    out: String,
    bytes: Vec<u8>,
    latin: bool,
}

impl Decoder {
    fn flush(&mut self) {
        if self.latin {
            self.out
                .extend(self.bytes.iter().map(|byte| char::from(*byte)));
        } else {
            self.out.push_str(&String::from_utf8_lossy(&self.bytes));
        }
        self.bytes.clear();
    }

    fn word(&mut self, latin: bool, bytes: &[u8]) {
        if self.latin != latin {
            self.flush();
            self.latin = latin;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn plain(&mut self, bytes: &[u8]) {
        self.flush();
        self.out.push_str(&String::from_utf8_lossy(bytes));
    }
}

fn decoded(text: &[u8]) -> String {
    let mut decoder = Decoder::default();
    let mut rest = text;
    let mut after_word = false;
    while let Some(at) = memchr::memmem::find(rest, b"=?") {
        let (before, from) = rest.split_at(at);
        let Some((latin, bytes, length)) = word(from) else {
            let end = at + 2;
            decoder.plain(rest.get(..end).unwrap_or(rest));
            rest = rest.get(end..).unwrap_or_default();
            after_word = false;
            continue;
        };
        // RFC 2047 section 6.2: blanks between encoded words are not shown.
        if !(after_word && before.trim_ascii().is_empty()) {
            decoder.plain(before);
        }
        decoder.word(latin, &bytes);
        after_word = true;
        rest = from.get(length..).unwrap_or_default();
    }
    decoder.plain(rest);
    decoder.out
}

/// The encoded word at the beginning of `text`: whether it is Latin-1, its bytes, its length.
fn word(text: &[u8]) -> Option<(bool, Vec<u8>, usize)> {
    let text = text.get(..WORD).unwrap_or(text);
    let mut parts = text.get(2..)?.splitn(3, |byte| *byte == b'?');
    let (charset, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let end = memchr::memmem::find(rest, b"?=")?;
    let encoded = rest.get(..end)?;
    // RFC 2231 section 5: a language may follow the character set.
    let charset = charset.split(|byte| *byte == b'*').next()?;
    let charset = charset.to_ascii_lowercase();
    let latin = match &charset[..] {
        b"utf-8" | b"utf8" | b"us-ascii" => false,
        b"iso-8859-1" | b"iso-8859-15" | b"windows-1252" => true,
        _ => return None,
    };
    let bytes = match encoding {
        b"B" | b"b" => {
            let padding = encoded.iter().rev().take_while(|byte| **byte == b'=');
            let kept = encoded.len() - padding.count();
            STANDARD_NO_PAD.decode(encoded.get(..kept)?).ok()?
        }
        b"Q" | b"q" => quoted(encoded)?,
        _ => return None,
    };
    let length = 2 + charset_length(text)? + 1 + encoding.len() + 1 + end + 2;
    Some((latin, bytes, length))
}

fn charset_length(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'?', text.get(2..)?)
}

/// RFC 2047 section 4.2.
fn quoted(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'_' => out.push(b' '),
            b'=' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            byte => out.push(*byte),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn both(head: &str) -> (String, String) {
        names(head.as_bytes())
    }

    #[test]
    fn a_message_is_known_by_its_own_words() {
        let pair = |id: &str, subject: &str| (id.to_owned(), subject.to_owned());
        assert_eq!(
            both(
                "From: a@example.org\r\nsubject : hello\r\n world\r\nMessage-ID:\r\n <1@example.org>\r\n\r\nSubject: no\r\n"
            ),
            pair("<1@example.org>", "hello world")
        );
        assert_eq!(
            both("From: a@example.org\r\n\r\nSubject: no\r\n"),
            pair("", "")
        );
        assert_eq!(
            both("Subject: one\r\nSubject: two\r\nMessage-ID: <1>\r\nMessage-ID: <2>\r\n\r\n"),
            pair("<1>", "one")
        );
        assert_eq!(both("Subjects: x\r\nX-Subject: y\r\n\r\n"), pair("", ""));
        assert_eq!(both("Subject: a\u{1b}[31m\tb\r\n\r\n").1, "a [31m b");
    }

    #[test]
    fn subjects_are_decoded_as_far_as_they_can_be() {
        for (written, read) in [
            ("=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
            ("=?UTF-8?q?Gr=C3=BC=C3=9Fe_an_alle?=", "Grüße an alle"),
            ("=?iso-8859-1?Q?Gr=FC=DFe?= now", "Grüße now"),
            // One character in two words.
            ("=?utf-8?Q?=C3?=\r\n =?utf-8?Q?=BC?=", "ü"),
            ("Re: =?utf-8*en?Q?a?= =?utf-8?Q?b?=", "Re: ab"),
            ("=?koi8-r?B?8A==?=", "=?koi8-r?B?8A==?="),
            (
                "=?utf-8?B?!!?= =?utf-8?Q?=zz?=",
                "=?utf-8?B?!!?= =?utf-8?Q?=zz?=",
            ),
            ("=? =?utf-8", "=? =?utf-8"),
        ] {
            assert_eq!(
                both(&format!("Subject: {written}\r\n\r\n")).1,
                read,
                "{written}"
            );
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_found_in_time_in_proportion() {
        let long = format!(
            "Subject: {}\r\nMessage-ID: <{}>\r\n\r\n",
            "ü".repeat(5000),
            "x".repeat(5000)
        );
        let (id, subject) = both(&long);
        assert_eq!((id.len(), subject.len()), (MESSAGE_ID, SUBJECT));
        let started = Instant::now();
        for piece in [" =?aaa?q?", "=?", "\r\n =?utf-8?B?", "\r\n x", "Subject"] {
            both(&format!("Subject: {}\r\n\r\n", piece.repeat(4 << 20)));
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(head: Vec<u8>, subject: Vec<u8>) {
            names(&head);
            let head = [&b"Subject: =?utf-8?Q?"[..], &subject, b"?=\r\n\r\n"].concat();
            let (_, subject) = names(&head);
            prop_assert!(subject.len() <= SUBJECT);
            prop_assert!(!subject.chars().any(char::is_control));
        }
    }
}
