//! A message in chunks (RFC 3030): BDAT in place of DATA, and a reply for each of them.
//!
//! They are sent only after all replies to RCPT were read, so that nobody gets a message whom no
//! recipient was accepted for. A refused chunk ends the message: no more are sent, the replies to
//! those already sent are read.

use super::super::reply::Reply;
use super::{Client, Extensions, Stage, said};

/// Shorter messages go in one or two writes anyway: nothing would be saved.
pub const LEAST: u64 = 64 * 1024;
/// Bytes of a chunk; between two of them a refusal is noticed.
pub const CHUNK: u64 = 1024 * 1024;
/// The last chunk is no longer, so that it can be held back until the message is known to be whole.
pub const LAST: u64 = 64 * 1024;

/// What is known of the chunks of a transaction.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Chunks whose reply was not read yet.
    pub(super) due: usize,
    /// Replies to chunks that were read.
    heard: usize,
    /// The first refusal.
    pub(super) refusal: Option<Reply>,
    /// The server does not know BDAT, although it says so. What it took the chunk for nobody
    /// knows: the connection is of no more use.
    pub(super) unknown: bool,
    /// Not to be used on this connection.
    avoided: bool,
}

impl Chunks {
    /// Whether a message of this size goes in chunks.
    pub(super) fn are_useful(&self, size: u64, offered: &Extensions) -> bool {
        offered.chunking && offered.pipelining && !self.avoided && size >= LEAST
    }

    pub(super) fn begin(&mut self) {
        *self = Chunks {
            avoided: self.avoided,
            ..Chunks::default()
        };
    }

    fn heard(&mut self, code: u16) {
        self.due = self.due.saturating_sub(1);
        // 503 to the first one: of a server that did count the recipients it can not come.
        self.unknown |= self.heard == 0 && matches!(code, 500 | 502 | 503 | 504);
        self.heard += 1;
    }
}

/// The chunk after which so many bytes of a message are left, `left` of them before it: its size,
/// and whether it is the last.
pub fn next(left: u64) -> (u64, bool) {
    match left {
        0..=LAST => (left, true),
        _ => (CHUNK.min(left - LAST), false),
    }
}

impl Client {
    /// Whether the message goes in chunks.
    pub fn is_chunked(&self) -> bool {
        self.transaction.is_chunked()
    }

    /// Never use BDAT on this connection, whatever is offered.
    pub fn avoid_chunks(&mut self) {
        self.chunks.avoided = true;
    }

    /// Writes the command of a chunk, whose bytes follow; false if an earlier one was refused, after
    /// which nothing more is to be sent.
    pub fn begin_chunk(&mut self, size: u64, last: bool) -> bool {
        self.hear_chunks();
        if self.chunks.refusal.is_some() {
            return false;
        }
        self.chunks.due += 1;
        let word = if last { " LAST" } else { "" };
        // Part of the reply to an earlier one may be here already.
        let command = format!("BDAT {size}{word}\r\n");
        self.output.extend_from_slice(command.as_bytes());
        true
    }

    /// Reads the replies to chunks that came while the message is being sent.
    pub(super) fn hear_chunks(&mut self) {
        while self.chunks.due > 0 && self.chunks.refusal.is_none() {
            let Ok(Some(raw)) = self.replies.poll() else {
                return;
            };
            let code = raw.code;
            let refusal = (code >= 300).then(|| raw.to_reply());
            self.chunks.heard(code);
            self.chunks.refusal = refusal;
        }
    }

    /// A reply to a chunk, all of which were sent.
    pub(super) fn hear_chunk(&mut self, reply: Reply) {
        self.chunks.heard(reply.code);
        let refused = reply.code >= 400;
        let answer = said(Stage::FinalDot, reply);
        if refused || self.chunks.due == 0 {
            // Only the first refusal counts: of those who have an answer it changes none.
            self.transaction.answer_rest(&answer);
        }
        if self.chunks.unknown {
            self.finish(Some(answer));
        } else if self.chunks.due == 0 {
            self.finish(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_add_up_and_the_last_is_short() {
        for size in [
            1,
            LAST,
            LAST + 1,
            CHUNK,
            CHUNK + LAST,
            CHUNK + LAST + 1,
            52_428_800,
        ] {
            let (mut left, mut last) = (size, false);
            while !last {
                let (chunk, is_last) = next(left);
                assert!(chunk > 0 && chunk <= if is_last { LAST } else { CHUNK });
                left -= chunk;
                last = is_last;
            }
            assert_eq!(left, 0, "{size}");
        }
    }
}
