//! What a DNS list says of a client (RFC 5782), as a value.

use std::net::{IpAddr, Ipv4Addr};

use crate::smtp::replies::Reply;

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The list.
    pub zone: String,
    /// Its answer.
    pub answer: Ipv4Addr,
    /// Its reason; may be empty.
    pub reason: String,
}

impl Listing {
    /// The refusal: which list, why, and so where to complain.
    pub fn refusal(&self, client: IpAddr) -> Reply {
        let Listing { zone, reason, .. } = self;
        let reason = match reason.is_empty() {
            true => String::new(),
            false => format!(": {reason}"),
        };
        let text = format!("{client} is listed by {zone}{reason}");
        Reply::new(554, "5.7.1", text)
    }
}
