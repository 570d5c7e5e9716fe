//! Replies of an SMTP server (RFC 5321 section 4.2), read from bytes a stranger chose.
//!
//! A [`ReplyReader`] is fed what came in and gives one whole reply at a time, of one line or many.
//! It accepts any byte in the text, a bare LF as line end and a code without text, because servers
//! send them; it gives up on a reply of more than [`MAX_BYTES`] or [`MAX_LINES`]. What leaves it as
//! a [`Reply`] has no control characters and at most [`MAX_TEXT`] bytes, so that no peer can break
//! a line in the queue, the log or a DSN. No I/O, no clock.

use std::fmt;

/// A reply longer than this many bytes is not read to its end.
pub const MAX_BYTES: usize = 64 * 1024;
/// A reply of more lines is not read to its end.
pub const MAX_LINES: usize = 100;
/// Bytes of a reply's text that are kept.
pub const MAX_TEXT: usize = 512;

/// A reply as it is kept: safe to log, store and quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code of its last line, 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 3463) of its last line; empty if there was none.
    pub enhanced: String,
    /// The text of its lines without enhanced codes, joined by a space.
    pub text: String,
    /// Enhanced codes of earlier lines, where they are not that of the last one. They decide nothing
    /// by themselves; rules of providers, which know how those write, look at them.
    pub others: Vec<String>,
}

impl Reply {
    /// A reply of our own making.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Reply {
        let mut clean = String::with_capacity(text.len().min(MAX_TEXT));
        push_clean(&mut clean, text.as_bytes());
        Reply {
            code,
            enhanced: enhanced.to_owned(),
            text: clean,
            others: Vec::new(),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.enhanced.is_empty() {
            write!(f, " {}", self.enhanced)?;
        }
        write!(f, " {}", self.text)
    }
}

/// Bytes that are no reply, or one too long to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line that does not begin with a code of 200 to 599.
    #[error("the server sent something that is no SMTP reply")]
    NoReply,
    /// More than [`MAX_BYTES`] or [`MAX_LINES`].
    #[error("the server sent a reply without end")]
    TooLong,
}

/// One whole reply where it lies in the reader's buffer.
#[derive(Debug, Clone, Copy)]
pub struct RawReply<'a> {
    /// The code of its last line.
    pub code: u16,
    bytes: &'a [u8],
}

impl<'a> RawReply<'a> {
    /// The text of each line, behind code and separator, as it came.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| {
                let line = trim_end(line);
                line.get(4..).unwrap_or_default()
            })
    }

    /// The reply in a form that may be kept.
    pub fn to_reply(&self) -> Reply {
        let mut text = String::new();
        let mut enhanced = "";
        let mut all: Vec<&str> = Vec::new();
        for line in self.lines() {
            let (code, rest) = split_enhanced(line, self.code);
            enhanced = code;
            if !code.is_empty() && !all.contains(&code) {
                all.push(code);
            }
            if !text.is_empty() && !rest.is_empty() && text.len() < MAX_TEXT {
                text.push(' ');
            }
            push_clean(&mut text, rest);
        }
        Reply {
            code: self.code,
            enhanced: enhanced.to_owned(),
            text,
            others: all
                .into_iter()
                .filter(|code| *code != enhanced)
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Cuts a stream of bytes into replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// Where the present reply begins.
    start: usize,
    /// Where its present line begins.
    line: usize,
    /// Up to here no line end was found.
    searched: usize,
    /// Whole lines of it so far.
    lines: usize,
}

impl ReplyReader {
    /// Adds bytes that came in.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.line -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes are here that belong to no reply given so far.
    pub fn has_more(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Forgets everything that came in.
    pub fn clear(&mut self) {
        *self = ReplyReader::default();
    }

    /// The next whole reply, or `None` until more bytes come. After an error the connection is of
    /// no more use.
    pub fn poll(&mut self) -> Result<Option<RawReply<'_>>, ReplyError> {
        loop {
            let unread = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unread) else {
                self.searched = self.buffer.len();
                if self.buffer.len() - self.start > MAX_BYTES {
                    return Err(ReplyError::TooLong);
                }
                return Ok(None);
            };
            let end = self.searched + found + 1;
            let line = trim_end(self.buffer.get(self.line..end).unwrap_or_default());
            let (code, last) = line_code(line).ok_or(ReplyError::NoReply)?;
            self.line = end;
            self.searched = end;
            self.lines += 1;
            if end - self.start > MAX_BYTES || self.lines > MAX_LINES {
                return Err(ReplyError::TooLong);
            }
            if last {
                let bytes = self.buffer.get(self.start..end).unwrap_or_default();
                self.start = end;
                self.lines = 0;
                return Ok(Some(RawReply { code, bytes }));
            }
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The code of a line, and whether it is the last of its reply.
fn line_code(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let mut code = 0;
    for digit in digits {
        code = code * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    let last = match rest.first() {
        Some(b'-') => false,
        Some(b' ' | b'\t') | None => true,
        Some(_) => return None,
    };
    (200..=599).contains(&code).then_some((code, last))
}

/// Splits `5.1.1 text` into `5.1.1` and `text`. A code whose class is not that of the reply is
/// text (RFC 3463 section 2 lets only 2, 4 and 5 be, and they agree with the reply's first digit).
fn split_enhanced(line: &[u8], code: u16) -> (&str, &[u8]) {
    let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let mut parts = word.split(|b| *b == b'.');
    let class = parts.next().unwrap_or_default();
    let number = |part: Option<&[u8]>| {
        part.is_some_and(|p| (1..=3).contains(&p.len()) && p.iter().all(u8::is_ascii_digit))
    };
    let agrees = match class {
        [digit @ (b'2' | b'4' | b'5')] => u16::from(digit - b'0') == code / 100,
        _ => false,
    };
    let good = agrees && number(parts.next()) && number(parts.next()) && parts.next().is_none();
    match std::str::from_utf8(word) {
        Ok(enhanced) if good => (enhanced, rest.strip_prefix(b" ").unwrap_or_default()),
        _ => ("", line),
    }
}

/// Appends `bytes` with control characters as spaces, up to [`MAX_TEXT`] bytes in `text`.
fn push_clean(text: &mut String, bytes: &[u8]) {
    // Four bytes are the longest character, three what one unreadable byte may grow to.
    let bytes = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    for character in String::from_utf8_lossy(bytes).chars() {
        let character = if character.is_control() {
            ' '
        } else {
            character
        };
        if text.len() + character.len_utf8() > MAX_TEXT {
            return;
        }
        text.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let mut reader = ReplyReader::default();
        reader.push(bytes);
        Ok(reader.poll()?.map(|raw| raw.to_reply()))
    }

    #[test]
    fn one_line_and_many() {
        assert_eq!(
            read(b"250 2.1.5 Ok\r\n"),
            Ok(Some(Reply::new(250, "2.1.5", "Ok")))
        );
        assert_eq!(read(b"250\r\n"), Ok(Some(Reply::new(250, "", ""))));
        assert_eq!(read(b"250 Ok\n"), Ok(Some(Reply::new(250, "", "Ok"))));
        assert_eq!(
            read(b"421-4.7.26 Your email is\r\n421-4.7.26 not signed.\r\n421 4.7.26 g1\r\n"),
            Ok(Some(Reply::new(
                421,
                "4.7.26",
                "Your email is not signed. g1"
            )))
        );
        assert_eq!(read(b"250-a\r\n"), Ok(None));
        assert_eq!(read(b""), Ok(None));
    }

    /// CVE-2020-8794: a continuation, then a line that ends at its code.
    #[test]
    fn a_line_that_ends_at_its_code_ends_the_reply() {
        assert_eq!(read(b"553-\r\n553\n"), Ok(Some(Reply::new(553, "", ""))));
    }

    /// An enhanced code counts only in the last line (Postfix 20260708).
    #[test]
    fn the_enhanced_code_is_the_last_lines_own() {
        let reply = read(b"550-5.1.1 no such\r\n550 user\r\n");
        let expected = Reply {
            others: vec!["5.1.1".to_owned()],
            ..Reply::new(550, "", "no such user")
        };
        assert_eq!(reply, Ok(Some(expected)));
        for text in [
            "2.0.0 x",
            "5.0 x",
            "5.1.1.1 x",
            "5.1.1234 x",
            "5..1 x",
            "5.a.1 x",
            "x 5.1.1",
        ] {
            let reply = read(format!("550 {text}\r\n").as_bytes());
            assert_eq!(reply, Ok(Some(Reply::new(550, "", text))), "{text}");
        }
        assert_eq!(
            read(b"550 5.1.1\r\n"),
            Ok(Some(Reply::new(550, "5.1.1", "")))
        );
    }

    /// Those of other lines are kept apart, for rules of providers.
    #[test]
    fn d10_codes_of_earlier_lines_are_kept_where_they_differ() {
        for (text, enhanced, others) in [
            (
                "550-5.7.28 unusual rate\r\n550 see help\r\n",
                "",
                vec!["5.7.28"],
            ),
            (
                "550-5.7.28 a\r\n550-5.7.28 b\r\n550 5.7.1 c\r\n",
                "5.7.1",
                vec!["5.7.28"],
            ),
            (
                "550-5.7.1 a\r\n550-5.7.26 b\r\n550 c\r\n",
                "",
                vec!["5.7.1", "5.7.26"],
            ),
            ("550-5.7.1 a\r\n550 5.7.1 b\r\n", "5.7.1", vec![]),
            ("550-4.7.1 a\r\n550 5.7.1 b\r\n", "5.7.1", vec![]),
        ] {
            let reply = read(text.as_bytes())
                .expect("a reply")
                .expect("a whole one");
            assert_eq!(reply.enhanced, enhanced, "{text}");
            assert_eq!(reply.others, others, "{text}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let bad: [&[u8]; 8] = [
            b"\r\n",
            b"25\r\n",
            b"2x0 a\r\n",
            b"199 a\r\n",
            b"600 a\r\n",
            b"250x\r\n",
            b"\xff\xfe\n",
            b"HTTP/1.1 400 Bad Request\r\n",
        ];
        for bytes in bad {
            assert_eq!(read(bytes), Err(ReplyError::NoReply), "{bytes:?}");
        }
    }

    #[test]
    fn endless_replies_end_at_the_limit() {
        assert_eq!(read(&b"250-x\r\n".repeat(101)), Err(ReplyError::TooLong));
        assert_eq!(read(&b"250-x\r\n".repeat(100)), Ok(None));
        let mut reader = ReplyReader::default();
        reader.push(&vec![b'2'; MAX_BYTES]);
        assert!(matches!(reader.poll(), Ok(None)));
        reader.push(b"2");
        assert_eq!(reader.poll().map(|_| ()), Err(ReplyError::TooLong));
    }

    #[test]
    fn text_is_made_safe_and_short() {
        let reply = read(b"550 a\x00b\x07c\x1b[1m\xff\xc2\x85d\te\r\n");
        assert_eq!(
            reply.map(|r| r.map(|r| r.text)),
            Ok(Some("a b c [1m\u{fffd} d e".to_owned()))
        );
        let long = format!("550 {}\r\n", "\u{e9}".repeat(600));
        let text = read(long.as_bytes())
            .ok()
            .flatten()
            .map(|r| r.text)
            .unwrap_or_default();
        assert_eq!(text, "\u{e9}".repeat(256));
    }

    #[test]
    fn replies_in_one_piece_come_one_by_one() {
        let mut reader = ReplyReader::default();
        reader.push(b"250 a\r\n550 b\r\n35");
        assert_eq!(reader.poll().ok().flatten().map(|r| r.code), Some(250));
        assert_eq!(reader.poll().ok().flatten().map(|r| r.code), Some(550));
        assert!(matches!(reader.poll(), Ok(None)));
        assert!(reader.has_more());
        reader.push(b"4\r\n");
        assert_eq!(reader.poll().ok().flatten().map(|r| r.code), Some(354));
        assert!(!reader.has_more());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_splits_change_nothing(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'2'), Just(b'5'), Just(b'-'), Just(b' '), Just(b'\r'),
                            Just(b'\n'), any::<u8>()], 0..200)
        ) {
            let collect = |chunk: usize| {
                let mut reader = ReplyReader::default();
                let mut out = Vec::new();
                for piece in bytes.chunks(chunk) {
                    reader.push(piece);
                    loop {
                        match reader.poll() {
                            Ok(Some(raw)) => out.push(Ok(raw.to_reply())),
                            Ok(None) => break,
                            Err(error) => { out.push(Err(error)); return out; }
                        }
                    }
                }
                out
            };
            let whole = collect(usize::MAX);
            prop_assert_eq!(&whole, &collect(1));
            for reply in whole.into_iter().flatten() {
                prop_assert!(reply.text.len() <= MAX_TEXT);
                prop_assert!(!reply.text.chars().any(char::is_control));
            }
        }
    }
}
