//! Whether the client's name leads back to it (RFC 8601 section 3).

use std::net::IpAddr;

use super::lookup::{Answer, Lookup};
use crate::smtp::address::valid_domain;

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
    // What is no host name goes into no header of ours. Underscores are in many that are in use, and
    // the check is about addresses (RFC 8601 section 2.7.3).
    let is_name = |name: &String| is_host(name);
    for name in names.into_iter().filter(is_name).take(MOST_NAMES) {
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

/// Letters, digits, hyphens and underscores in labels.
fn is_host(name: &str) -> bool {
    // An underscore may also begin or end a label here.
    valid_domain(name.replace('_', "x").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o11_a_name_with_an_underscore_is_a_name() {
        for name in ["host_1.example.org", "_a.example.org", "a_.example.org"] {
            assert!(is_host(name), "{name}");
        }
        for name in ["a b.example.org", "a;b.example.org", "", "a..b"] {
            assert!(!is_host(name), "{name}");
        }
    }
}
