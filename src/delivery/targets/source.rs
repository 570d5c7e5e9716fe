//! A message as it lies on disk, read in pieces: trace fields, then the message with LF line ends.
//!
//! However large a message is, no more than a few pieces of it are in memory. A body that is not
//! what was accepted (length or CRC) is an error at its end, so nobody may take what was read so
//! far for a message before [`Source::fill`] has said that this was all.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;

use super::{Errand, trace};
use crate::message::{Body, SpoolFile};

/// Bytes of a piece, about; none is longer than twice as much.
pub(super) const PIECE: usize = 64 << 10;

/// See the module.
pub(super) struct Source {
    memory: VecDeque<Bytes>,
    file: Option<Spooled>,
    lines: Lines,
}

struct Spooled {
    from: SpoolFile,
    open: Option<File>,
    block: Vec<u8>,
    length: u64,
    crc: u32,
}

impl Source {
    /// Opens nothing yet.
    pub(super) fn new(errand: &Errand<'_>) -> Source {
        let mut memory = VecDeque::from([trace(errand).into(), errand.content.head.clone()]);
        let file = match &errand.content.body {
            Body::Memory(body) => {
                memory.push_back(body.clone());
                None
            }
            Body::Spool(file) => Some(Spooled {
                from: file.clone(),
                open: None,
                block: Vec::new(),
                length: 0,
                crc: 0,
            }),
        };
        Source {
            memory,
            file,
            lines: Lines::default(),
        }
    }

    /// Puts the next piece in `out`; false when there is no more. Blocks.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        out.clear();
        while out.len() < PIECE {
            if let Some(first) = self.memory.front_mut() {
                let piece = first.split_to(first.len().min(PIECE));
                self.lines.push(&piece, out);
                if first.is_empty() {
                    self.memory.pop_front();
                }
            } else if let Some(file) = &mut self.file {
                match file.read()? {
                    [] => self.file = None,
                    piece => self.lines.push(piece, out),
                }
            } else {
                self.lines.finish(out);
                break;
            }
        }
        Ok(!out.is_empty())
    }
}

impl Spooled {
    /// The next bytes; none at the end, if they were those that were accepted.
    fn read(&mut self) -> io::Result<&[u8]> {
        let file = match &mut self.open {
            Some(file) => file,
            None => {
                self.block.resize(PIECE, 0);
                self.open.insert(File::open(self.from.path.as_path())?)
            }
        };
        let read = loop {
            match file.read(&mut self.block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let piece = self.block.get(..read).unwrap_or_default();
        self.length += piece.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, piece);
        let whole = (self.length, self.crc) == (self.from.len, self.from.crc);
        if self.length > self.from.len || (piece.is_empty() && !whole) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(piece)
    }
}

/// CR LF becomes LF, also where it is at the seam of two pieces.
#[derive(Default)]
struct Lines {
    /// The last piece ended with a CR, which is not written yet.
    cr: bool,
}

impl Lines {
    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        if self.cr && !piece.starts_with(b"\n") {
            out.push(b'\r');
        }
        let rest = piece.strip_suffix(b"\r");
        self.cr = rest.is_some();
        let piece = rest.unwrap_or(piece);
        out.reserve(piece.len());
        let mut start = 0;
        for end in memchr::memmem::find_iter(piece, b"\r\n") {
            out.extend_from_slice(piece.get(start..end).unwrap_or_default());
            start = end + 1;
        }
        out.extend_from_slice(piece.get(start..).unwrap_or_default());
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn line_ends_are_those_of_disk_wherever_pieces_end(
            pieces in proptest::collection::vec("[a\r\n]{0,6}", 0..8)
        ) {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            for piece in &pieces {
                lines.push(piece.as_bytes(), &mut out);
            }
            lines.finish(&mut out);
            let expected = pieces.concat().replace("\r\n", "\n");
            proptest::prop_assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
        }
    }
}
