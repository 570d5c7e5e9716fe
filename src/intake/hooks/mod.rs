//! Programs of others that are asked about a message: milters (rspamd, clamav-milter and others
//! that speak protocol 6) and one script, the post-data hook.
//!
//! Milters hear of a transaction as it happens; the script gets the whole message. Both may
//! refuse, add header fields, or keep the message back; who does not answer in time defers it,
//! unless the configuration says otherwise. Everything waits a bounded time, and what comes back is
//! bounded and cleaned before it gets near a message.

pub mod edits;
pub mod filters;
pub mod milter;
pub mod post_data;
pub mod wire;

use bytes::Bytes;

use crate::message::Content;
use crate::queue::Held;

pub use filters::{Filters, Sender};

/// A message after the hooks.
#[derive(Debug, Clone)]
pub struct Checked {
    /// It, with the header as it is now.
    pub content: Content,
    /// The body that replaces its own.
    pub new_body: Option<Bytes>,
    /// Why it waits for an operator; nothing if it does not.
    pub held: Vec<Held>,
    /// Whether it is thrown away although the client hears 250.
    pub discarded: bool,
}

impl Checked {
    /// A message that no hook has seen.
    pub fn new(content: Content) -> Checked {
        Checked {
            content,
            new_body: None,
            held: Vec::new(),
            discarded: false,
        }
    }
}
