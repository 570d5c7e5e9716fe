//! Message data between 354 and its end (RFC 5321 sections 4.1.1.4 and 4.5.2).
//!
//! The only end is CR LF `.` CR LF. A bare CR or LF does not end anything: the decoder reads on to
//! the true end and says that one was seen, so that the message is refused whole and not one byte
//! of it is ever taken for a command (CVE-2023-51764 and its kin).

use memchr::memchr2;

/// Takes dots and the end away from a stream of any split.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    bare: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a line.
    Start,
    /// After a dot that started a line.
    Dot,
    /// After a dot and a CR.
    DotCr,
    /// Within a line.
    Text,
    /// After a CR within a line.
    Cr,
    /// After the end.
    End,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            state: State::Start,
            bare: false,
        }
    }
}

impl Decoder {
    /// Decodes from the front of `input` into `out`; gives how many bytes of `input` were used.
    /// All of them, unless the end was found.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut rest = input;
        while let Some((&byte, tail)) = rest.split_first() {
            match (self.state, byte) {
                (State::End, _) => break,
                (State::Start, b'.') => {
                    self.state = State::Dot;
                    rest = tail;
                }
                (State::Dot, b'\r') => {
                    self.state = State::DotCr;
                    rest = tail;
                }
                (State::DotCr, b'\n') => {
                    self.state = State::End;
                    rest = tail;
                }
                (State::DotCr, _) => {
                    // The dot was stuffing and the CR, held back till now, is bare.
                    out.push(b'\r');
                    self.bare = true;
                    self.state = State::Text;
                }
                (State::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    self.state = State::Start;
                    rest = tail;
                }
                (State::Cr, _) => {
                    out.push(b'\r');
                    self.bare = true;
                    self.state = State::Text;
                }
                (State::Start | State::Dot | State::Text, _) => {
                    self.state = State::Text;
                    rest = self.text(rest, out);
                }
            }
        }
        input.len() - rest.len()
    }

    /// Copies up to the next CR or LF, which is the bulk of every message.
    fn text<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let end = memchr2(b'\r', b'\n', input).unwrap_or(input.len());
        let (text, rest) = input.split_at(end);
        out.extend_from_slice(text);
        match rest.split_first() {
            Some((b'\r', tail)) => {
                self.state = State::Cr;
                tail
            }
            Some((_, tail)) => {
                out.push(b'\n');
                self.bare = true;
                tail
            }
            None => rest,
        }
    }

    /// Whether the end was found.
    pub fn ended(&self) -> bool {
        self.state == State::End
    }

    /// Whether a bare CR or LF was seen.
    pub fn saw_bare_line_end(&self) -> bool {
        self.bare
    }
}

/// Watches the line ends of a message that comes in chunks (RFC 3030), in which nothing is stuffed
/// and no dot ends anything. A bare CR or LF would become a line end, or a smuggled command, at the
/// next hop, which gets the message with DATA.
#[derive(Debug, Clone, Default)]
pub struct LineEnds {
    after_cr: bool,
    bare: bool,
    /// Whether the last two bytes were CR LF, or nothing came yet.
    last: Option<bool>,
}

impl LineEnds {
    /// Looks at the next part.
    pub fn watch(&mut self, part: &[u8]) {
        let mut rest = part;
        if self.after_cr {
            match part {
                [] => return,
                [b'\n', tail @ ..] => {
                    rest = tail;
                    self.last = Some(true);
                }
                _ => self.bare = true,
            }
            self.after_cr = false;
        }
        while let Some(at) = memchr2(b'\r', b'\n', rest) {
            match (rest.get(at), rest.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    rest = rest.get(at + 2..).unwrap_or_default();
                    self.last = Some(rest.is_empty());
                    continue;
                }
                (Some(b'\r'), None) => self.after_cr = true,
                _ => self.bare = true,
            }
            rest = rest.get(at + 1..).unwrap_or_default();
            self.last = Some(false);
        }
        if !rest.is_empty() {
            self.last = Some(false);
        }
    }

    /// The message is over: whether a bare CR or LF was seen.
    pub fn saw_bare(&self) -> bool {
        self.bare || self.after_cr
    }

    /// Whether the last line has no end.
    pub fn is_open(&self) -> bool {
        self.last == Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes with a cut after each of `cuts`, and gives the body, whether it ended, whether a
    /// bare line end was seen, and what was left over.
    fn decode(stream: &[u8], cuts: &[usize]) -> (Vec<u8>, bool, bool, Vec<u8>) {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        let mut left = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([stream.len()]) {
            let part = &stream[start..end];
            let used = decoder.decode(part, &mut out);
            left.extend_from_slice(&part[used..]);
            start = end;
        }
        (out, decoder.ended(), decoder.saw_bare_line_end(), left)
    }

    fn at_every_split(stream: &[u8]) -> (Vec<u8>, bool, bool, Vec<u8>) {
        let whole = decode(stream, &[]);
        let all: Vec<usize> = (1..stream.len()).collect();
        assert_eq!(decode(stream, &all), whole);
        for cut in 1..stream.len() {
            assert_eq!(decode(stream, &[cut]), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn dots_are_taken_away_and_nothing_else() {
        for (stream, body) in [
            (&b".\r\n"[..], &b""[..]),
            (b"..a\r\n.\r\n", b".a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"a\r\n...\r\n.\r\n", b"a\r\n..\r\n"),
            (b"a.b\r\n.\r\n", b"a.b\r\n"),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
        ] {
            assert_eq!(
                at_every_split(stream),
                (body.to_vec(), true, false, Vec::new())
            );
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
        for variant in [
            &b"\n.\n"[..],
            b"\n.\r",
            b"\r.\n",
            b"\r.\r",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n.\r\r\n",
            b"\r\r\n.\r\r\n",
        ] {
            let stream = [
                b"Subject: a\r\n\r\nb",
                variant,
                b"MAIL FROM:<x@y>\r\nz\r\n.\r\nQUIT\r\n",
            ]
            .concat();
            let (_, ended, bare, left) = at_every_split(&stream);
            assert!(ended && bare, "{variant:?}");
            assert_eq!(left, b"QUIT\r\n", "{variant:?}");
        }
        for variant in [&b"\r\n\0.\r\n"[..], b"\r\n.\0\r\n"] {
            let stream = [b"Subject: a\r\n\r\nb", variant, b"z\r\n.\r\nQUIT\r\n"].concat();
            let (_, ended, bare, left) = at_every_split(&stream);
            assert!(ended && !bare, "{variant:?}");
            assert_eq!(left, b"QUIT\r\n", "{variant:?}");
        }
    }

    #[test]
    fn data_without_an_end_has_none() {
        let (body, ended, bare, left) = at_every_split(b"Subject: a\r\n\r\nb\r\n.");
        assert_eq!(
            (body.as_slice(), ended, bare, left.len()),
            (&b"Subject: a\r\n\r\nb\r\n"[..], false, false, 0)
        );
    }

    fn line_ends(parts: &[&[u8]]) -> (bool, bool) {
        let mut ends = LineEnds::default();
        parts.iter().for_each(|part| ends.watch(part));
        (ends.saw_bare(), ends.is_open())
    }

    #[test]
    fn bare_line_ends_in_chunks_are_seen_at_every_split() {
        for (message, expected) in [
            (&b""[..], (false, false)),
            (b"a\r\nb\r\n", (false, false)),
            (b"a\r\n.\r\nb\r\n\r\n", (false, false)),
            (b"a\r\nb", (false, true)),
            (b"a\nb\r\n", (true, false)),
            (b"a\rb\r\n", (true, false)),
            (b"a\r\r\nb\r\n", (true, false)),
            (b"a\r", (true, true)),
            (b"\n", (true, true)),
            (b"\r\n", (false, false)),
        ] {
            assert_eq!(line_ends(&[message]), expected, "{message:?}");
            let bytes: Vec<&[u8]> = message.chunks(1).collect();
            assert_eq!(line_ends(&bytes), expected, "{message:?} byte by byte");
            for cut in 0..message.len() {
                let (left, right) = message.split_at(cut);
                assert_eq!(line_ends(&[left, right]), expected, "{message:?} at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn stuffed_lines_come_back(lines in proptest::collection::vec("[ -~]{0,20}", 0..20), cut in 0usize..400) {
            let mut wire = Vec::new();
            let mut body = Vec::new();
            for line in &lines {
                if line.starts_with('.') {
                    wire.push(b'.');
                }
                wire.extend_from_slice(line.as_bytes());
                wire.extend_from_slice(b"\r\n");
                body.extend_from_slice(line.as_bytes());
                body.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b".\r\n");
            let cut = cut.min(wire.len());
            prop_assert_eq!(decode(&wire, &[cut]), (body, true, false, Vec::new()));
        }
    }
}
