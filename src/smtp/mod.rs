//! SMTP, the protocol: bytes in, decisions out. No socket, no actor, no clock.

pub mod address;
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
