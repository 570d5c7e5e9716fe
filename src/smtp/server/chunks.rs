//! BDAT (RFC 3030): the message in chunks whose length is told.
//!
//! The octets of a chunk follow its command whatever we think of it, so those of a refused chunk
//! are read and dropped, up to a limit, and only then the refusal is said. A number in a command
//! reserves nothing.

use super::{Server, Step};
use crate::extension::Extension;
use crate::replies::{self, Reply};

/// Octets of refused chunks that one connection may make us read.
const MAX_DISCARDED: u64 = 16 * 1024 * 1024;

/// What came of a message so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunks {
    /// How many chunks.
    pub count: usize,
    /// Their octets.
    pub octets: u64,
}

impl Server {
    pub(super) fn bdat(&mut self, size: u64, last: bool, out: &mut Vec<u8>) -> Option<Step> {
        if !self.has(Extension::Chunking) {
            // What follows is message text, not commands.
            return self.closed(replies::NOT_OFFERED, out);
        }
        let limits = &self.options.limits;
        let refusal = match &mut self.transaction {
            None => replies::MAIL_FIRST,
            Some(open) if open.recipients.is_empty() => replies::NO_RECIPIENTS,
            Some(open) => {
                let chunks = open.chunks.get_or_insert_default();
                chunks.count += 1;
                chunks.octets = chunks.octets.saturating_add(size);
                if chunks.octets > limits.message {
                    replies::MESSAGE_TOO_BIG
                } else if chunks.count > limits.chunks {
                    replies::TOO_MANY_CHUNKS
                } else {
                    return Some(Step::Chunk { size, last });
                }
            }
        };
        self.transaction = None;
        self.counts.discarded = self.counts.discarded.saturating_add(size);
        if self.counts.discarded > MAX_DISCARDED {
            return self.closed(refusal, out);
        }
        self.refusal = Some(refusal);
        Some(Step::Discard(size))
    }

    /// A chunk that is not the last has come, or could not be taken.
    pub fn chunk_done(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        match verdict {
            Ok(()) => self.say(&replies::CHUNK_OK, out),
            Err(reply) => self.message_done(reply, out),
        }
    }

    /// The octets of a refused chunk have come.
    pub fn discarded(&mut self, out: &mut Vec<u8>) {
        if let Some(reply) = self.refusal.take() {
            self.refuse(reply, out);
        }
    }
}
