//! A world on loopback: a DNS server, remote MX hosts that do as they are told, a client that
//! submits.
//!
//! `chapar demo` and the integration tests run the real daemon against it. Nothing here is used
//! when mail is delivered for real.
#![forbid(unsafe_code)]

mod ca;
mod client;
mod dns;
mod mx;
mod named;
mod script;
mod session;
mod site;
mod volume;

// The rooms that this one enters.
use chapar_base as base;
use chapar_smtp as smtp;

pub use ca::{Ca, Identity};
pub use client::{Answer, Client, Resuming, tls};
pub use dns::DnsServer;
pub use mx::{Line, Mx, MxConfig, Received};
pub use named::Named;
pub use script::{Act, Stage};
pub use site::{Asked, Page, Site};
pub use volume::Volume;
