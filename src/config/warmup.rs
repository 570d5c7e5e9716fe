//! `[[warmup]]`: a new address to send from gets a small share of the mail that grows each day.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::time::{DAY, Millis};

/// One `[[warmup]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// The new address; it also stands in `delivery.source` or the `source` of a route.
    pub address: IpAddr,
    /// Its first day.
    pub since: Day,
    /// How many percent of the mail of its family leave from it on the first day.
    #[serde(default = "first_share")]
    pub share: f64,
    /// Each day's share is the one before times this.
    #[serde(default = "growth")]
    pub growth: f64,
}

pub(super) fn first_share() -> f64 {
    1.0
}

pub(super) fn growth() -> f64 {
    1.2
}

impl Warmup {
    /// The part of the mail (0 to 1) that leaves from it at a time; 0 before its first day. Others
    /// cap it: an address that has its equal share is warm.
    pub fn part(&self, at: Millis) -> f64 {
        let Some(age) = at.checked_sub(self.since.0) else {
            return 0.0;
        };
        let days = i32::try_from(age / DAY).unwrap_or(i32::MAX);
        (self.share / 100.0 * self.growth.powi(days)).min(1.0)
    }
}

/// A day in UTC, written `2026-11-25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Day(Millis);

impl TryFrom<String> for Day {
    type Error = NoDay;

    fn try_from(text: String) -> Result<Day, NoDay> {
        let midnight = || {
            let date: jiff::civil::Date = text.parse().ok()?;
            let start = jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0));
            Millis::try_from(start.ok()?.as_millisecond()).ok()
        };
        midnight().map(Day).ok_or(NoDay(text))
    }
}

/// Text that is no day.
#[derive(Debug)]
pub struct NoDay(String);

impl fmt::Display for NoDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is no day; write \"2026-11-25\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_day_by_day() {
        let text = "address = \"192.0.2.8\"\nsince = \"2026-11-25\"\nshare = 2\ngrowth = 1.5";
        let warmup: Warmup = toml::from_str(text).expect("a warmup");
        let first = 1_795_564_800_000;
        assert_eq!(crate::time::text(first), "2026-11-25T00:00:00Z");
        for (at, part) in [
            (0, 0.0),
            (first - 1, 0.0),
            (first, 0.02),
            (first + DAY - 1, 0.02),
            (first + DAY, 0.03),
            (first + 2 * DAY, 0.045),
            (first + 30 * DAY, 1.0),
            (Millis::MAX, 1.0),
        ] {
            assert!((warmup.part(at) - part).abs() < 1e-9, "{at} {part}");
        }
        for bad in ["25.11.2026", "2026-02-30", "", "1960-01-01"] {
            let text = text.replace("2026-11-25", bad);
            let error = toml::from_str::<Warmup>(&text).expect_err(bad);
            assert!(
                error.to_string().contains("write \"2026-11-25\""),
                "{error}"
            );
        }
    }
}
