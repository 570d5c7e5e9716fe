//! Delivery.

mod messages;
pub mod mx;
pub mod verdict;

pub use messages::{Drain, Wake};
