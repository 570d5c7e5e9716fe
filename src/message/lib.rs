//! Messages as bytes: header block and body, never parsed into a tree and written back.
//!
//! What this module does not change keeps its bytes (invariant I12). No I/O, no clock.
#![forbid(unsafe_code)]

pub mod arc;
pub mod author;
pub mod canonical;
pub mod collect;
pub mod complete;
mod content;
mod content_type;
pub mod fold;
pub mod headers;
pub mod reencode;
pub mod tags;
pub mod trace;

// The rooms that this one enters.
use chapar_base as base;

pub use content::{Body, Content, SpoolFile};
use queue_schema::Millis;

/// A date and time of RFC 5322 section 3.3, in UTC.
pub fn date(at: Millis) -> String {
    let at = i64::try_from(at)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}
