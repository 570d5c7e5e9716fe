//! The bytes of a message on their way through the house.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// A message: its header block, and what follows.
///
/// Cloning shares the bytes. Lines end with CR LF, dots are not stuffed.
#[derive(Debug, Clone)]
pub struct Content {
    /// The header block with the empty line that ends it, if the message has one.
    pub head: Bytes,
    /// Everything after the empty line.
    pub body: Body,
}

/// What follows the header block.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory: at most `limits.memory_body` bytes.
    Memory(Bytes),
    /// In a file of the spool directory.
    Spool(SpoolFile),
}

/// A body in a file of its own.
#[derive(Debug, Clone)]
pub struct SpoolFile {
    /// Where it is; the name alone is kept in the journal.
    pub path: Arc<PathBuf>,
    /// Its length in bytes.
    pub len: u64,
    /// CRC32C of its bytes.
    pub crc: u32,
}

impl Content {
    /// The same with these header fields above its own.
    pub fn under(mut self, top: &str) -> Content {
        if !top.is_empty() {
            self.head = [top.as_bytes(), &self.head].concat().into();
        }
        self
    }

    /// Length of the whole message in bytes.
    pub fn len(&self) -> u64 {
        let body = match &self.body {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::Spool(file) => file.len,
        };
        self.head.len() as u64 + body
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
