//! Addresses of the network: ranges of them, and which the whole Internet can reach. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// An address range such as `192.0.2.0/24` or `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Bits that its members share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether its members are IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `client` is in it. An IPv4-mapped IPv6 client counts as its IPv4 address only when
    /// the listener says so, never by the client's own writing: callers pass canonical addresses.
    pub fn contains(&self, client: IpAddr) -> bool {
        match (self.address, client) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (u64::from(own.to_bits()) >> shift) == (u64::from(other.to_bits()) >> shift)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("'{text}' is no network; write 192.0.2.0/24 or 2001:db8::/32");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if matches!(address, IpAddr::V4(Ipv4Addr { .. })) {
            32
        } else {
            128
        };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return Err(bad());
        }
        Ok(Network { address, prefix })
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Whether `client` is in one of `networks`. A client that came to a dual-stack socket over IPv4
/// counts as its IPv4 address.
pub fn is_in(networks: &[Network], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|network| network.contains(client))
}

/// An address that says nothing about who the client is.
pub fn is_private(client: IpAddr) -> bool {
    match client {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Whether mail may go to this address while `delivery.private_targets` is off: it must be one
/// that the whole Internet could reach (a DNS record must not lead us into our own network).
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                // Carrier-grade NAT (RFC 6598), IETF protocol assignments, benchmarks (RFC 2544).
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                // Site-local, long deprecated (RFC 3879), and IPv4 in disguise (RFC 4291, NAT64).
                || v6.segments()[0] & 0xffc0 == 0xfec0
                || v6.segments()[..6] == [0; 6]
                || v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_members_only() {
        let member = |network: &str, client: &str| {
            let network: Network = network.parse().expect("network");
            network.contains(client.parse().expect("address"))
        };
        assert!(member("127.0.0.0/8", "127.255.1.2"));
        assert!(!member("127.0.0.0/8", "128.0.0.1"));
        assert!(member("0.0.0.0/0", "203.0.113.9"));
        assert!(member("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!member("2001:db8::/32", "2001:db9::1"));
        assert!(member("::/0", "::1"));
        assert!(!member("::/0", "127.0.0.1"));
        assert!(!member("127.0.0.1", "::ffff:127.0.0.1"));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("10.0.0/8".parse::<Network>().is_err());
    }
}
