//! Message data as it goes over the wire (RFC 5321 section 4.5.2): dots doubled, the end marked.
//!
//! Content is taken in pieces of any size, so that a body may be a large file. Nothing else of it
//! is changed, but a CR or LF that stands alone leaves as CR LF: a lenient server behind the next
//! hop could take it for a line end and what follows for commands ("SMTP smuggling"). Content that
//! came in through our own server holds none.

/// Doubles leading dots and ends the data.
#[derive(Debug)]
pub struct Stuffer {
    /// The last byte given; an empty message ends as if a line end stood before it.
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    LineEnd,
    Cr,
    Other,
}

impl Default for Stuffer {
    fn default() -> Self {
        Stuffer {
            last: Last::LineEnd,
        }
    }
}

impl Stuffer {
    /// Appends `piece` to `out`, ready for the wire.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(&first) = piece.first() else { return };
        out.reserve(piece.len() + 64);
        match self.last {
            Last::Cr if first != b'\n' => {
                out.push(b'\n');
                if first == b'.' {
                    out.push(b'.');
                }
            }
            Last::LineEnd if first == b'.' => out.push(b'.'),
            _ => {}
        }
        let mut copied = 0;
        let mut previous_cr = self.last == Last::Cr;
        for at in memchr::memchr2_iter(b'\r', b'\n', piece) {
            // `previous_cr` is about the byte right before `at` only.
            if at > 0 {
                previous_cr = piece.get(at - 1) == Some(&b'\r');
            }
            let next = piece.get(at + 1);
            if piece.get(at) == Some(&b'\n') {
                if !previous_cr {
                    out.extend_from_slice(piece.get(copied..at).unwrap_or_default());
                    out.push(b'\r');
                    copied = at;
                }
                if next == Some(&b'.') {
                    out.extend_from_slice(piece.get(copied..=at).unwrap_or_default());
                    out.push(b'.');
                    copied = at + 1;
                }
            } else if next.is_some_and(|byte| *byte != b'\n') {
                out.extend_from_slice(piece.get(copied..=at).unwrap_or_default());
                out.push(b'\n');
                if next == Some(&b'.') {
                    out.push(b'.');
                }
                copied = at + 1;
            }
        }
        out.extend_from_slice(piece.get(copied..).unwrap_or_default());
        self.last = match piece.last() {
            Some(b'\n') => Last::LineEnd,
            Some(b'\r') => Last::Cr,
            _ => Last::Other,
        };
    }

    /// Appends the end of data. A last line without its end gets one.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.last {
            Last::LineEnd => b".\r\n".as_slice(),
            Last::Cr => b"\n.\r\n",
            Last::Other => b"\r\n.\r\n",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(content: &[u8], chunk: usize) -> Vec<u8> {
        let mut stuffer = Stuffer::default();
        let mut out = Vec::new();
        for piece in content.chunks(chunk.max(1)) {
            stuffer.push(piece, &mut out);
        }
        stuffer.finish(&mut out);
        out
    }

    /// What a strict server makes of it: lines end with CR LF only.
    fn unstuffed(wire: &[u8]) -> Option<Vec<u8>> {
        let end = wire.strip_suffix(b".\r\n")?;
        let mut content = Vec::new();
        let mut line_start = true;
        let mut previous = b'\n';
        for byte in end {
            if !(line_start && *byte == b'.') {
                content.push(*byte);
            }
            line_start = previous == b'\r' && *byte == b'\n';
            previous = *byte;
        }
        Some(content)
    }

    #[test]
    fn bodies_that_broke_others() {
        let cases: [(&[u8], &[u8]); 12] = [
            (b"", b".\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"..", b"...\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
            (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
            (b"a.b\r\nc.\r\n", b"a.b\r\nc.\r\n.\r\n"),
            // Smuggling: each of these is data that a lenient server would end at.
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r\n.\r\r\nb\r", b"a\r\n..\r\n\r\nb\r\n.\r\n"),
        ];
        for (content, wire) in cases {
            for chunk in [1, 2, 3, 1000] {
                assert_eq!(
                    stuffed(content, chunk),
                    wire,
                    "{content:?} in pieces of {chunk}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn lines_round_trip_in_any_pieces(
            lines in proptest::collection::vec("[.a\u{e9}]{0,4}", 0..20),
            chunk in 1usize..9,
        ) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let wire = stuffed(content.as_bytes(), chunk);
            prop_assert_eq!(unstuffed(&wire), Some(content.clone().into_bytes()));
            prop_assert!(!wire.strip_suffix(b".\r\n").is_some_and(
                |data| data.windows(5).any(|w| w == b"\r\n.\r\n")));
        }

        #[test]
        fn no_bare_line_end_leaves(
            content in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x')], 0..40),
            chunk in 1usize..9,
        ) {
            let wire = stuffed(&content, chunk);
            prop_assert_eq!(&wire, &stuffed(&content, 1000));
            let pairs = wire.windows(2).filter(|w| w == b"\r\n").count();
            prop_assert_eq!(wire.iter().filter(|b| **b == b'\r').count(), pairs);
            prop_assert_eq!(wire.iter().filter(|b| **b == b'\n').count(), pairs);
            let end = wire.windows(5).position(|w| w == b"\r\n.\r\n");
            prop_assert!(end.is_none_or(|at| at + 5 == wire.len()));
        }
    }
}
