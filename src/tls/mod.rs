//! Certificates and what is made of them.

pub mod client;
pub mod self_signed;
pub mod server;
