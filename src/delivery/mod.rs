//! Delivery.

mod messages;

pub use messages::{Drain, Wake};
