//! What a domain of ours wants done with mail from outside that fails its checks, as a value.

use crate::config::{Dmarc, DnsTrouble, Incoming, SpfFail};

/// What a domain of ours wants done with mail to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Which failing mail DMARC refuses.
    pub dmarc: Dmarc,
    /// What a fail of SPF alone does.
    pub spf_fail: SpfFail,
    /// What is done while the DNS does not answer.
    pub dns_trouble: DnsTrouble,
}

impl From<&Incoming> for Policy {
    fn from(incoming: &Incoming) -> Policy {
        Policy {
            dmarc: incoming.dmarc,
            spf_fail: incoming.spf_fail,
            dns_trouble: incoming.dns_trouble,
        }
    }
}
