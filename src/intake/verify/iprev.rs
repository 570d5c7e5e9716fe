//! Whether the client's name leads back to it (RFC 8601 section 3).

use std::net::IpAddr;

use super::lookup::{Answer, Lookup};
use crate::identity::address::is_domain;

/// Names of one address that are looked at.
const MOST_NAMES: usize = 5;

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Iprev {
    /// This name leads back.
    Pass(String),
    /// No name does.
    Fail,
    /// There is no name.
    PermError,
    /// The DNS did not answer.
    TempError,
}

impl Iprev {
    /// As Authentication-Results writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Iprev::Pass(_) => "pass",
            Iprev::Fail => "fail",
            Iprev::PermError => "permerror",
            Iprev::TempError => "temperror",
        }
    }
}

/// Asks for the names of `client` and for their addresses.
pub async fn check(lookup: &Lookup, client: IpAddr) -> Iprev {
    let names = match lookup.ptr(client).await {
        Answer::Found(names) => names,
        Answer::Nothing | Answer::NoName => return Iprev::PermError,
        Answer::Trouble => return Iprev::TempError,
    };
    let mut trouble = false;
    // What is no host name goes into no header of ours.
    for name in names.into_iter().filter(|n| is_domain(n)).take(MOST_NAMES) {
        match lookup.addresses(&name, client).await.records() {
            Ok(addresses) if addresses.contains(&client) => return Iprev::Pass(name),
            Ok(_) => {}
            Err(_) => trouble = true,
        }
    }
    match trouble {
        true => Iprev::TempError,
        false => Iprev::Fail,
    }
}
