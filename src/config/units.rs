//! Values with a unit: spans of time, sizes, rates.

use std::fmt;
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

/// So many messages in a time, as `10/m`, `1000/h` or `5/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(into = "String")]
pub struct Rate {
    count: u32,
    within: Span,
}

impl Rate {
    /// The time from one message to the next.
    pub fn interval(self) -> Duration {
        self.within.0 / self.count.max(1)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let bad = || format!("'{text}' is no rate; write 10/m, 1000/h or 5/10s");
        let (count, within) = text.split_once('/').ok_or_else(bad)?;
        let within = match within.starts_with(|c: char| c.is_ascii_digit()) {
            true => within.to_owned(),
            false => format!("1{within}"),
        };
        let within: Span = within.parse().map_err(|_| bad())?;
        let count: u32 = count.parse().map_err(|_| bad())?;
        let day = Duration::from_secs(86_400);
        if count == 0 || within.0.is_zero() || within.0 > day {
            return Err(bad());
        }
        Ok(Rate { count, within })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = self.within.to_string();
        let unit = match within.strip_prefix('1') {
            Some(unit) if unit.chars().all(char::is_alphabetic) => unit,
            _ => &within,
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
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
from_text!(Span, Size, Steps, Rate);

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
}
