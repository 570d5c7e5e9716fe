//! Whether the IPv6 address we send from has a name that leads back to it.
//!
//! Asked before IPv6 is preferred: many servers take no mail from an IPv6 address without a PTR
//! record whose name has that address. Keeps answers for a while; sends nothing but DNS questions.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::dns::Resolver;

/// How long it is remembered that a name is right.
const RIGHT: Duration = Duration::from_secs(3600);
/// How long it is remembered that it is wrong: somebody may be about to correct it.
const WRONG: Duration = Duration::from_secs(600);
/// When it is asked again after no answer came; until then it is as it was before.
const AGAIN: Duration = Duration::from_secs(60);

/// What is known of our addresses, which are few.
#[derive(Debug, Default)]
pub(super) struct OwnNames(Mutex<HashMap<IpAddr, (bool, Instant)>>);

impl OwnNames {
    /// Whether `source`, or the address the kernel would choose, has a right name.
    pub(super) async fn are_right(&self, source: Option<IpAddr>, resolver: &Resolver) -> bool {
        let Some(address) = source.or_else(kernel_ipv6) else {
            return false;
        };
        // Those who come while it is being asked wait for the same answer.
        let mut known = self.0.lock().await;
        let now = Instant::now();
        let before = known.get(&address).copied();
        if let Some((right, until)) = before
            && until > now
        {
            return right;
        }
        let confirmed = resolver.confirms(address).await;
        let right = confirmed.unwrap_or_else(|| before.is_some_and(|(right, _)| right));
        let keep = match confirmed {
            Some(true) => RIGHT,
            Some(false) => WRONG,
            None => AGAIN,
        };
        // Addresses that come and go (RFC 8981) do not pile up.
        known.retain(|_, (_, until)| *until > now);
        known.insert(address, (right, now + keep));
        if before.is_none_or(|(before, _)| before != right) {
            match right {
                true => tracing::info!(%address, "IPv6 is tried first: its PTR record is right"),
                false => tracing::warn!(
                    %address,
                    "IPv6 is tried last: this address has no PTR record with a name that leads \
                     back to it; `chapar check` says what to do"
                ),
            }
        }
        right
    }
}

/// Asks the kernel from which address it would send to the IPv6 Internet; nothing is sent.
pub(super) fn kernel_ipv6() -> Option<IpAddr> {
    let socket = UdpSocket::bind("[::]:0").ok()?;
    socket.connect("[2001:500:2f::f]:53").ok()?;
    let address = socket.local_addr().ok()?.ip();
    address.is_ipv6().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dns;
    use crate::lab::DnsServer;

    #[tokio::test]
    async fn a_right_name_is_asked_for_once_and_no_answer_is_no_no() {
        let server = DnsServer::start().await.expect("a DNS server");
        let config = Dns {
            servers: vec![server.address()],
            ..Dns::default()
        };
        let resolver = Resolver::new(&config).expect("a resolver");
        let [ours, other]: [IpAddr; 2] =
            ["2001:db8::25", "2001:db8::26"].map(|text| text.parse().expect("an address"));
        server.ptr(ours, "mx.example.org");
        server.aaaa("mx.example.org", "2001:db8::25".parse().expect("v6"));
        let names = OwnNames::default();
        assert!(names.are_right(Some(ours), &resolver).await);
        let asked = server.queries();
        server.remove("mx.example.org");
        assert!(names.are_right(Some(ours), &resolver).await);
        assert_eq!(server.queries(), asked);
        // Too old, and the server fails: it is as it was.
        let outdate = async |address| {
            let mut known = names.0.lock().await;
            let entry = known.get_mut(&address).expect("known");
            entry.1 = Instant::now();
        };
        server.servfail("mx.example.org");
        outdate(ours).await;
        assert!(names.are_right(Some(ours), &resolver).await);
        // The name leads elsewhere, or there is none.
        server.remove("mx.example.org");
        server.aaaa("mx.example.org", "2001:db8::99".parse().expect("v6"));
        outdate(ours).await;
        assert!(!names.are_right(Some(ours), &resolver).await);
        assert!(!names.are_right(Some(other), &resolver).await);
    }
}
