//! Certificates and what is made of them.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod client;
pub mod dane;
pub mod exchange;
pub mod self_signed;
pub mod server;
pub mod sts;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::pem;
use chapar_base::time;
use chapar_config as config;
use chapar_dns as dns;
#[cfg(test)]
use chapar_lab as lab;
