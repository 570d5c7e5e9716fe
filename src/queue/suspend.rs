//! Destinations that an operator suspended: nothing is tried there until a time.
//!
//! They lie in `data_dir/suspensions.json`, which a person can read, replaced as a whole and
//! synced before an operator is answered. A file that can not be read is put into the quarantine
//! and reported; mail then flows, which is the safe side. A suspension stops no deadline (I5).

use std::time::Duration;

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use super::selector::like;

/// The file they lie in.
pub const FILE: &str = "suspensions.json";

/// Suspensions at the same time.
pub const MOST: usize = 1000;
/// The text by which a suspended recipient is known, also to `resume`.
pub const MARK: &str = "is suspended";

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// A recipient domain or the name of a next hop; `*` stands for anything. In lower case.
    pub destination: String,
    /// Nothing is tried before then; milliseconds since 1970.
    pub until: Millis,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Since when.
    pub since: Millis,
}

impl Suspension {
    /// Whether it means this domain or host now.
    pub fn holds(&self, name: &str, now: Millis) -> bool {
        self.until > now && like(&self.destination, name)
    }

    /// What is said about a recipient that waits for it.
    pub fn text(&self) -> String {
        let reason = match self.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reason),
        };
        format!("{} {MARK} by {}{reason}", self.destination, self.by)
    }

    /// How long one recipient waits: to the end, and a little longer by chance, so that not all
    /// mail comes at once.
    pub fn wait(&self, now: Millis, chance: f64) -> Duration {
        let rest = Duration::from_millis(self.until.saturating_sub(now));
        let spread = (rest / 10).min(Duration::from_secs(600));
        rest + spread.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspension() -> Suspension {
        Suspension {
            destination: "*.example".into(),
            until: 10_000,
            reason: "they are busy".into(),
            by: "root".into(),
            since: 0,
        }
    }

    #[test]
    fn a_suspension_ends_at_its_time_and_means_what_it_names() {
        let one = suspension();
        assert!(one.holds("Mx.EXAMPLE", 9_999));
        assert!(!one.holds("mx.example", 10_000));
        assert!(!one.holds("example.org", 0));
        assert_eq!(one.wait(0, 0.0), Duration::from_secs(10));
        assert_eq!(one.wait(0, 1.0), Duration::from_secs(11));
        assert_eq!(one.wait(20_000, 1.0), Duration::ZERO);
    }
}
