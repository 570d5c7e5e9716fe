//! Values with a unit: spans of time, sizes, networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};

/// A span of time as people write it: `90s`, `5m`, `4h`, `5d`, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Longer than any message or connection lives.
    pub const NEVER: Span = Span(Duration::MAX);

    /// So many thousandths of a second.
    pub const fn millis(n: u64) -> Span {
        Span(Duration::from_millis(n))
    }

    /// So many seconds.
    pub const fn secs(n: u64) -> Span {
        Span(Duration::from_secs(n))
    }

    /// So many minutes.
    pub const fn mins(n: u64) -> Span {
        Span(Duration::from_secs(n * 60))
    }

    /// So many hours.
    pub const fn hours(n: u64) -> Span {
        Span(Duration::from_secs(n * 3600))
    }

    /// So many days.
    pub const fn days(n: u64) -> Span {
        Span(Duration::from_secs(n * 86_400))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("'{text}' is no span of time; write 500ms, 90s, 5m, 4h, 5d or never");
        if text == "never" {
            return Ok(Span::NEVER);
        }
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| bad())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            "d" => number.checked_mul(86_400_000),
            _ => None,
        };
        millis
            .map(|n| Span(Duration::from_millis(n)))
            .ok_or_else(bad)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Span::NEVER {
            return f.write_str("never");
        }
        let millis = self.0.as_millis();
        for (unit, name) in [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1000, "s"),
        ] {
            if millis >= unit && millis.is_multiple_of(unit) {
                return write!(f, "{}{name}", millis / unit);
            }
        }
        write!(f, "{millis}ms")
    }
}

/// Waits between attempts as a list: `1m, 5m*2, 1h*3, 4h`. The last one holds for ever; an empty
/// list means that the waits are computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps(Vec<(Span, u32)>);

/// Entries of such a list.
const MOST_STEPS: usize = 100;

impl Steps {
    /// No list.
    pub const NONE: Steps = Steps(Vec::new());

    /// The wait after `failed` earlier failures; `None` if there is no list.
    pub fn wait(&self, failed: u32) -> Option<Duration> {
        let mut left = failed;
        for (span, times) in &self.0 {
            if left < *times {
                return Some(span.0);
            }
            left -= times;
        }
        self.0.last().map(|(span, _)| span.0)
    }

    /// The longest wait; `None` if there is no list.
    pub fn longest(&self) -> Option<Duration> {
        self.0.iter().map(|(span, _)| span.0).max()
    }
}

impl FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Steps::NONE);
        }
        let mut steps = Vec::new();
        for part in text.split(',').map(str::trim) {
            let bad =
                || format!("'{part}' is no wait; write a list such as \"1m, 5m*2, 1h*3, 4h\"");
            let (span, times) = part.split_once('*').unwrap_or((part, "1"));
            let span: Span = span.trim().parse().map_err(|_| bad())?;
            let times: u32 = times.trim().parse().map_err(|_| bad())?;
            if times == 0 || span.0.is_zero() || span == Span::NEVER {
                return Err(bad());
            }
            steps.push((span, times));
        }
        if steps.len() > MOST_STEPS {
            return Err(format!("a list of waits has at most {MOST_STEPS} entries"));
        }
        Ok(Steps(steps))
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (span, times)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            match times {
                1 => write!(f, "{span}")?,
                times => write!(f, "{span}*{times}")?,
            }
        }
        Ok(())
    }
}

/// A number of bytes as people write it: `512`, `256KiB`, `50MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// So many times 1024 bytes.
    pub const fn kib(n: u64) -> Size {
        Size(n << 10)
    }

    /// So many times 1024 KiB.
    pub const fn mib(n: u64) -> Size {
        Size(n << 20)
    }

    /// So many times 1024 MiB.
    pub const fn gib(n: u64) -> Size {
        Size(n << 30)
    }

    /// As a length in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("'{text}' is no size; write 512, 256KiB, 50MiB or 1GiB");
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| bad())?;
        let factor = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Size).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

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

macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
from_text!(Span, Size, Steps, Network);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_they_are_written() {
        for text in ["500ms", "90s", "5m", "4h", "5d", "never"] {
            assert_eq!(
                text.parse::<Span>().map(|s| s.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in ["512", "256KiB", "50MiB", "1GiB"] {
            assert_eq!(
                text.parse::<Size>().map(|s| s.to_string()).as_deref(),
                Ok(text)
            );
        }
        for bad in ["", "5", "5 m", "-5m", "5w", "m", "99999999999999999999s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "KiB",
            "-1",
            "5TB",
            "99999999999999999999",
            "18446744073709551615KiB",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_of_waits_is_gone_through_and_its_last_entry_stays() {
        let steps: Steps = "1m, 5m*2,1h * 3, 4h".parse().unwrap();
        let minutes: Vec<u64> = (0..9)
            .map(|failed| steps.wait(failed).unwrap().as_secs() / 60)
            .collect();
        assert_eq!(minutes, [1, 5, 5, 60, 60, 60, 240, 240, 240]);
        assert_eq!(steps.to_string(), "1m, 5m*2, 1h*3, 4h");
        assert_eq!(steps.wait(u32::MAX), Some(Duration::from_secs(4 * 3600)));
        assert_eq!("".parse::<Steps>(), Ok(Steps::NONE));
        assert_eq!(Steps::NONE.wait(0), None);
        for bad in [
            "1m,", "5m*0", "0s", "1m 5m", "5m*x", "never", "*3", "1m,,2m",
        ] {
            assert!(bad.parse::<Steps>().is_err(), "{bad}");
        }
    }

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
