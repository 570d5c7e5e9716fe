//! When a certificate is renewed, and when that is urgent. Pure.

use std::time::{Duration, SystemTime};

use crate::tls::certificate::Facts;

/// Days before the end from which a certificate that was not renewed is an alarm.
pub const ALARM: Duration = Duration::from_secs(14 * 86_400);
/// The first wait after a failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(5 * 60);
/// No wait after a failure is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(12 * 3600);
/// Part of its life, in percent, before two thirds of it at which a renewal may come, so that
/// hosts which began on one day do not all come back on one.
const JITTER: f64 = 0.05;

/// Why a certificate is to be had now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is none, or none that can be read.
    Missing,
    /// It is the self-signed one of `chapar setup`.
    SelfSigned,
    /// It is not for this name.
    Name(String),
    /// Two thirds of its life are over.
    Age,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Missing => f.write_str("there is none"),
            Reason::SelfSigned => f.write_str("it is self-signed"),
            Reason::Name(name) => write!(f, "it is not for {name}"),
            Reason::Age => f.write_str("two thirds of its life are over"),
        }
    }
}

/// Whether the certificate with `facts` is to be replaced at `now`; `names` is what it must be
/// for; `chance`, from 0 to 1, is this host's share of the jitter.
pub fn renewal(
    facts: Option<&Facts>,
    names: &[String],
    now: SystemTime,
    chance: f64,
) -> Option<Reason> {
    let Some(facts) = facts else {
        return Some(Reason::Missing);
    };
    if facts.self_signed {
        return Some(Reason::SelfSigned);
    }
    if let Some(name) = names.iter().find(|name| !facts.covers(name)) {
        return Some(Reason::Name(name.clone()));
    }
    (now >= due(facts, chance)).then_some(Reason::Age)
}

/// When the certificate with `facts` is old enough to be renewed.
pub fn due(facts: &Facts, chance: f64) -> SystemTime {
    let life = facts.ends.duration_since(facts.begins).unwrap_or_default();
    facts.begins + life.mul_f64(2.0 / 3.0 - JITTER * chance.clamp(0.0, 1.0))
}

/// Time left, if it is so little that somebody must know.
pub fn alarm(facts: &Facts, now: SystemTime) -> Option<Duration> {
    let left = facts.ends.duration_since(now).unwrap_or_default();
    (left < ALARM).then_some(left)
}

/// How long to wait after `failures` of them in a row, at least one.
pub fn wait(failures: u32) -> Duration {
    let factor = 1u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn facts() -> Facts {
        let begins = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        Facts {
            names: vec!["mx.example.org".into(), "*.example.net".into()],
            begins,
            ends: begins + 90 * DAY,
            self_signed: false,
        }
    }

    #[test]
    fn a_good_certificate_is_renewed_after_two_thirds_of_its_life() {
        let facts = facts();
        let names = [
            "mx.example.org".to_owned(),
            "mta-sts.example.net".to_owned(),
        ];
        let at =
            |days: u32, chance| renewal(Some(&facts), &names, facts.begins + days * DAY, chance);
        assert_eq!(at(59, 0.0), None);
        assert_eq!(at(60, 0.0), Some(Reason::Age));
        assert_eq!(at(55, 1.0), None);
        assert_eq!(at(56, 1.0), Some(Reason::Age));
        assert_eq!(at(200, 0.5), Some(Reason::Age));
    }

    #[test]
    fn others_are_replaced_at_once() {
        let now = facts().begins + DAY;
        let names = ["mx.example.org".to_owned(), "mx.example.com".to_owned()];
        assert_eq!(renewal(None, &names, now, 0.0), Some(Reason::Missing));
        let made = Facts {
            self_signed: true,
            ..facts()
        };
        assert_eq!(
            renewal(Some(&made), &names, now, 0.0),
            Some(Reason::SelfSigned)
        );
        let missing = Some(Reason::Name("mx.example.com".into()));
        assert_eq!(renewal(Some(&facts()), &names, now, 0.0), missing);
    }

    #[test]
    fn waits_double_up_to_half_a_day_and_fourteen_days_are_an_alarm() {
        let minutes: Vec<_> = [1, 2, 3, 8, 9, 40, u32::MAX]
            .map(|n| wait(n).as_secs() / 60)
            .to_vec();
        assert_eq!(minutes, [5, 10, 20, 640, 720, 720, 720]);
        let facts = facts();
        assert_eq!(alarm(&facts, facts.ends - 15 * DAY), None);
        assert_eq!(alarm(&facts, facts.ends - 13 * DAY), Some(13 * DAY));
        assert_eq!(alarm(&facts, facts.ends + DAY), Some(Duration::ZERO));
    }
}
