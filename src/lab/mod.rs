//! A world on loopback: a DNS server and remote MX hosts that do as they are told.
//!
//! `chapar demo` and the integration tests run the real daemon against it. Nothing here is used
//! when mail is delivered for real.

mod dns;
mod mx;
mod script;

pub use dns::DnsServer;
pub use mx::{Line, Mx, MxConfig, Received};
pub use script::{Act, Stage};
