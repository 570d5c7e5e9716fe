//! The signer: the only holder of private DKIM keys.

mod messages;

pub use messages::{Sign, SignError};
