//! SMTP, the protocol: bytes in, decisions out. No socket, no actor, no clock.
#![forbid(unsafe_code)]

pub mod client;
pub mod command;
pub mod data;
pub mod extension;
pub mod params;
pub mod proxy;
pub mod replies;
pub mod reply;
pub mod sasl;
pub mod scram;
pub mod server;
pub mod stuffing;

pub use chapar_base::address;
