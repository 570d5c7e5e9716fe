//! Certificates and what is made of them.

pub mod self_signed;
pub mod server;
