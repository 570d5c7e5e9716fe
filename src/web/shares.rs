//! How many connections each client has, so that one can not have them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of all clients. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of a client; it ends with this.
pub(super) struct Place {
    shares: Shares,
    client: IpAddr,
}

impl Shares {
    /// A place for one more connection of `client`, if it has fewer than `most`.
    pub(super) fn take(&self, client: IpAddr, most: usize) -> Option<Place> {
        let client = group(client);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            shares: self.clone(),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = self.shares.0.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 one: that is what one customer has.
fn group(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_a_client_has_its_share_and_others_theirs() {
        let shares = Shares::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = shares.take(ip("2001:db8::1"), 2);
        let second = shares.take(ip("2001:db8::2"), 2);
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(ip("2001:db8::3"), 2).is_none(), "one /64");
        assert!(shares.take(ip("2001:db8:0:1::1"), 2).is_some());
        drop(first);
        let again = shares.take(ip("2001:db8::3"), 2);
        assert!(again.is_some());
        drop((second, again));
        assert!(shares.0.lock().expect("lock").is_empty());
        let _v4 = shares.take(ip("192.0.2.1"), 1);
        assert!(shares.take(ip("::ffff:192.0.2.1"), 1).is_none());
    }
}
