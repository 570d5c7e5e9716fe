//! What holds for a destination until a time: an operator suspended it, or a rule about the replies
//! of its provider stops or slows it, or says what is wrong at our end.
//!
//! They lie in `data_dir/suspensions.json`, which a person can read, replaced as a whole and
//! synced before an operator is answered. A file that can not be read is put into the quarantine
//! and reported; mail then flows, which is the safe side. A suspension stops no deadline (I5).

use std::fmt;
use std::time::Duration;

use queue_schema::Millis;
use serde::{Deserialize, Serialize};

use crate::base::text::like;
pub use crate::config::Rate;

/// The file they lie in.
pub const FILE: &str = "suspensions.json";

/// The end of a suspension that has none: it holds until it is resumed.
pub const UNTIL_RESUMED: Millis = Millis::MAX;
/// Suspensions at the same time.
pub const MOST: usize = 1000;

/// What holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing is tried.
    #[default]
    Stop,
    /// Mail goes on, but more slowly.
    Slow(Slow),
    /// Mail goes on as it can; something of ours is wrong.
    Alarm,
}

/// How much more slowly; what is not said is as usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    /// Connections at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Messages in one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_connection: Option<usize>,
    /// Messages in a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        match self.connections {
            Some(1) => words.push("1 connection".to_owned()),
            Some(most) => words.push(format!("{most} connections")),
            None => {}
        }
        if let Some(most) = self.messages_per_connection {
            words.push(format!("{most} messages each"));
        }
        if let Some(rate) = self.rate {
            words.push(format!("{rate} messages"));
        }
        f.write_str(&words.join(", "))
    }
}

/// One destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspension {
    /// A recipient domain or the name of a next hop; `*` stands for anything. In lower case. For
    /// what a rule did the name of the provider, or of the first host.
    pub destination: String,
    /// Patterns of the hosts a rule means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// What holds.
    #[serde(default)]
    pub effect: Effect,
    /// The rule behind it, as `provider/rule`; empty for what an operator did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Nothing is tried before then; milliseconds since 1970, or [`UNTIL_RESUMED`].
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
        let meant = match self.hosts.is_empty() {
            true => like(&self.destination, name),
            false => self.hosts.iter().any(|host| like(host, name)),
        };
        meant && self.until > now
    }

    /// Whether nothing may be tried at this domain or host now.
    pub fn stops(&self, name: &str, now: Millis) -> bool {
        self.effect == Effect::Stop && self.holds(name, now)
    }

    /// What is said about a recipient that waits for it.
    pub fn text(&self) -> String {
        if self.effect != Effect::Alarm {
            return queue_schema::Suspended::from(self).to_string();
        }
        let reason = match self.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reason),
        };
        let (destination, by) = (&self.destination, &self.by);
        format!("{destination} has an alarm raised by {by}{reason}")
    }

    /// How long one recipient waits: to the end, and a little longer by chance, so that not all
    /// mail comes at once.
    pub fn wait(&self, now: Millis, chance: f64) -> Duration {
        let rest = Duration::from_millis(self.until.saturating_sub(now));
        let spread = (rest / 10).min(Duration::from_secs(600));
        rest + spread.mul_f64(chance.clamp(0.0, 1.0))
    }
}

impl From<&Suspension> for queue_schema::Suspended {
    fn from(one: &Suspension) -> queue_schema::Suspended {
        queue_schema::Suspended {
            destination: one.destination.clone(),
            by: one.by.clone(),
            reason: one.reason.clone(),
            until: one.until,
            slowed_to: match one.effect {
                Effect::Slow(slow) => slow.to_string(),
                Effect::Stop | Effect::Alarm => String::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspension() -> Suspension {
        Suspension {
            destination: "*.example".into(),
            hosts: Vec::new(),
            effect: Effect::Stop,
            rule: String::new(),
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
        assert!(one.stops("mx.example", 0));
    }

    #[test]
    fn what_a_rule_did_means_hosts_and_slows_without_stopping() {
        let one = Suspension {
            destination: "google".into(),
            hosts: vec!["*.google.com".into()],
            effect: Effect::Slow(Slow {
                connections: Some(1),
                messages_per_connection: None,
                rate: Some("10/m".parse().expect("a rate")),
            }),
            rule: "google/unusual-rate".into(),
            by: "rule google/unusual-rate".into(),
            ..suspension()
        };
        assert!(one.holds("aspmx.l.google.com", 0));
        assert!(!one.holds("google", 0));
        assert!(!one.stops("aspmx.l.google.com", 0));
        assert_eq!(
            one.text(),
            "google is slowed to 1 connection, 10/m messages by rule google/unusual-rate: \
             they are busy"
        );
        // As it lies on disk, and as one lies there that an older version wrote.
        let text = serde_json::to_string(&one).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Suspension>(&text).expect("JSON"),
            one
        );
        let old = r#"{"destination":"a","until":1,"reason":"","by":"root","since":0}"#;
        let old: Suspension = serde_json::from_str(old).expect("JSON");
        assert_eq!((old.effect, old.hosts.len()), (Effect::Stop, 0));
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, millis, again) in [
            ("10/m", 6000, "10/m"),
            ("1000/1h", 3600, "1000/h"),
            ("5/10s", 2000, "5/10s"),
            ("1/d", 86_400_000, "1/d"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.interval(), Duration::from_millis(millis), "{text}");
            assert_eq!(rate.to_string(), again);
        }
        for bad in ["", "10", "0/m", "10/0s", "x/m", "10/x", "1/2d", "-1/m"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
