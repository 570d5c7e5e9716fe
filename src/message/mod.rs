//! Messages as bytes: header block and body, never parsed into a tree and written back.
//!
//! What this module does not change keeps its bytes (invariant I12). No I/O, no clock.

mod content;

pub use content::{Body, Content, SpoolFile};
