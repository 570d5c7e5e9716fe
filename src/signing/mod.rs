//! The signer: the only holder of private DKIM keys.

pub mod keys;
mod messages;

pub use messages::{Sign, SignError};
