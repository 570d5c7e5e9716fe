//! Certificates and what is made of them.

pub mod acme;
pub mod certificate;
pub mod client;
pub mod dane;
pub mod exchange;
pub mod self_signed;
pub mod server;
pub mod sts;
