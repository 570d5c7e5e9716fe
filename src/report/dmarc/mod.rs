//! DMARC aggregate reports (RFC 9990): one [`Tally`] for each judged message whose author's domain
//! wants reports, kept on disk, sent after the end of the UTC day.
//!
//! `days` has the files, `compose` makes the report of a domain, `consent` asks whether a stranger
//! wants it, `reporter` is the actor. Nothing here delays or refuses mail.

pub mod compose;
pub mod consent;
pub mod days;
pub mod reporter;

pub use crate::intake::tally::{Disposition, Published, Reason, Tally, Wish};
