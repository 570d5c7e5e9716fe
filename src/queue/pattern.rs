//! What the filters of a selector are written in: words that may be one or several, patterns with
//! `*`, numbers with a direction, reply codes. Pure.

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::config::Span;

/// Values of one filter; any of them may match. In JSON `null`, one string, or a list of strings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AnyOf(Vec<String>);

/// Values of one filter.
const MOST_VALUES: usize = 1000;

impl AnyOf {
    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for AnyOf {
    fn from(one: String) -> AnyOf {
        AnyOf(vec![one])
    }
}

impl From<&str> for AnyOf {
    fn from(one: &str) -> AnyOf {
        AnyOf(vec![one.to_owned()])
    }
}

impl From<Vec<String>> for AnyOf {
    fn from(all: Vec<String>) -> AnyOf {
        AnyOf(all)
    }
}

impl Serialize for AnyOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [] => serializer.serialize_none(),
            [one] => serializer.serialize_str(one),
            all => all.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AnyOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnyOf, D::Error> {
        struct Values;

        impl<'de> Visitor<'de> for Values {
            type Value = AnyOf;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("null, a string, or a list of strings")
            }

            fn visit_unit<E>(self) -> Result<AnyOf, E> {
                Ok(AnyOf::default())
            }

            fn visit_str<E>(self, one: &str) -> Result<AnyOf, E> {
                Ok(one.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AnyOf, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = list.next_element()? {
                    if all.len() == MOST_VALUES {
                        let text = format!("a filter has at most {MOST_VALUES} values");
                        return Err(A::Error::custom(text));
                    }
                    all.push(one);
                }
                Ok(AnyOf(all))
            }
        }

        deserializer.deserialize_any(Values)
    }
}

/// A number and its direction: `+3` more than three, `-3` less than three, `3` three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    direction: Option<Direction>,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    More,
    Less,
}

fn directed(text: &str) -> (Option<Direction>, &str) {
    if let Some(rest) = text.strip_prefix('+') {
        (Some(Direction::More), rest)
    } else if let Some(rest) = text.strip_prefix('-') {
        (Some(Direction::Less), rest)
    } else {
        (None, text)
    }
}

impl Bound {
    /// A count such as `+3`.
    pub fn count(text: &str) -> Result<Bound, String> {
        let (direction, rest) = directed(text);
        let number = digits(rest).ok_or_else(|| {
            format!("'{text}' is no count; write +3 for more than 3, -3 for less, or 3")
        })?;
        Ok(Bound { direction, number })
    }

    /// A size such as `+1M`, `-10k` or `512`; units are those of 1024.
    pub fn size(text: &str) -> Result<Bound, String> {
        let bad = || {
            format!("'{text}' is no size; write +1M for more than a MiB, -10k for less than 10 KiB")
        };
        let (direction, rest) = directed(text);
        let split = rest.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = rest.split_at(split.unwrap_or(rest.len()));
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(bad()),
        };
        let number = digits(number).and_then(|number| number.checked_mul(factor));
        let number = number.ok_or_else(bad)?;
        Ok(Bound { direction, number })
    }

    /// Whether a number is meant.
    pub fn holds(self, number: u64) -> bool {
        match self.direction {
            Some(Direction::More) => number > self.number,
            Some(Direction::Less) => number < self.number,
            None => number == self.number,
        }
    }
}

fn digits(text: &str) -> Option<u64> {
    // `parse` would take a sign.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// When something is due: `10m` or `-10m` within ten minutes, `+10m` later than that, `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    later: bool,
    millis: u64,
}

impl Due {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Due, String> {
        if text == "now" {
            return Ok(Due {
                later: false,
                millis: 0,
            });
        }
        let (direction, rest) = directed(text);
        let span = rest.parse::<Span>().map_err(|_| {
            format!("'{text}' is no time; write 10m for within ten minutes, +10m for later, or now")
        })?;
        Ok(Due {
            later: direction == Some(Direction::More),
            millis: crate::time::millis(span.0),
        })
    }

    /// Whether what is due at `at` is meant.
    pub fn holds(self, at: u64, now: u64) -> bool {
        (at > now.saturating_add(self.millis)) == self.later
    }
}

/// A reply code: `450`, `4xx`, or an enhanced one (RFC 3463): `4.2.1`, `4.7.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(String);

impl Code {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Code, String> {
        let bad = || format!("'{text}' is no reply code; write 450, 4xx, 4.2.1 or 4.7.*");
        let lower = text.to_ascii_lowercase();
        let class = lower.starts_with(|c: char| ('2'..='5').contains(&c));
        let part = |part: &str| {
            part == "*" || (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
        };
        let sound = match lower.contains('.') {
            true => lower.split('.').count() == 3 && lower.split('.').all(part),
            false => {
                lower.len() == 3
                    && lower
                        .bytes()
                        .skip(1)
                        .all(|b| b.is_ascii_digit() || b == b'x')
            }
        };
        if class && sound {
            Ok(Code(lower))
        } else {
            Err(bad())
        }
    }

    /// Whether a reply with these codes is meant.
    pub fn holds(&self, code: u16, enhanced: &str) -> bool {
        if self.0.contains('.') {
            let mut parts = enhanced.split('.');
            let all = self.0.split('.').all(|wanted| {
                let part = parts.next();
                part.is_some_and(|part| wanted == "*" || wanted == part)
            });
            return all && parts.next().is_none();
        }
        let code = code.to_string();
        let alike = |(wanted, is): (u8, u8)| wanted == b'x' || wanted == is;
        code.len() == self.0.len() && self.0.bytes().zip(code.bytes()).all(alike)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::like;
    use super::*;

    #[test]
    fn q18_numbers_have_a_direction() {
        let size = |text: &str| Bound::size(text).expect(text);
        assert!(size("+1M").holds((1 << 20) + 1) && !size("+1M").holds(1 << 20));
        assert!(size("-10k").holds(10_239) && !size("-10k").holds(10_240));
        assert!(size("512").holds(512) && !size("512").holds(511));
        assert!(size("1GiB").holds(1 << 30));
        for bad in [
            "",
            "+",
            "M",
            "+-1",
            "1T",
            "1.5M",
            "--1",
            "99999999999999999999",
        ] {
            assert!(Bound::size(bad).is_err_and(|e| e.contains("+1M")), "{bad}");
        }
        assert!(Bound::size("17179869184G").is_err(), "it overflows");
        let count = |text: &str| Bound::count(text).expect(text);
        assert!(count("+3").holds(4) && !count("+3").holds(3));
        assert!(count("-3").holds(0) && !count("-3").holds(3));
        assert!(count("0").holds(0) && !count("0").holds(1));
        assert!(Bound::count("3k").is_err() && Bound::count("++3").is_err());
    }

    #[test]
    fn due_is_within_or_later() {
        let due = |text: &str| Due::parse(text).expect(text);
        assert!(due("10m").holds(600_001, 1) && !due("10m").holds(600_002, 1));
        assert!(due("-10m").holds(0, 1));
        assert!(due("+10m").holds(600_002, 1) && !due("+10m").holds(600_001, 1));
        assert!(due("now").holds(1, 1) && !due("now").holds(2, 1));
        assert!(Due::parse("soon").is_err_and(|e| e.contains("+10m")));
    }

    #[test]
    fn codes_are_those_of_smtp_or_enhanced_ones() {
        let code = |text: &str| Code::parse(text).expect(text);
        assert!(code("450").holds(450, "") && !code("450").holds(451, "4.5.0"));
        assert!(code("4xx").holds(421, "") && !code("4XX").holds(550, ""));
        assert!(code("45x").holds(452, "") && !code("45x").holds(421, ""));
        assert!(code("4.7.*").holds(421, "4.7.28") && !code("4.7.*").holds(421, "4.2.1"));
        assert!(code("4.2.1").holds(450, "4.2.1") && !code("4.2.1").holds(450, "4.2.10"));
        assert!(!code("4.2.1").holds(450, "") && !code("4.2.1").holds(450, "4.2"));
        for bad in [
            "", "4", "45", "4500", "650", "4.2", "4.2.1.0", "x50", "4.x.1", "foo",
        ] {
            assert!(Code::parse(bad).is_err_and(|e| e.contains("4xx")), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_pattern(text in "\\PC{0,24}", other in "\\PC{0,24}", n: u64, m: u64) {
            like(&text.to_lowercase(), &other);
            prop_assert!(like("*", &other));
            prop_assert!(like(&other.replace('*', "").to_lowercase(), &other.replace('*', "")));
            if let Ok(bound) = Bound::size(&text) {
                bound.holds(n);
            }
            if let Ok(due) = Due::parse(&text) {
                due.holds(n, m);
            }
            if let Ok(code) = Code::parse(&text) {
                code.holds(450, &other);
            }
        }

        #[test]
        fn a_bound_splits_all_numbers_in_three(n: u64, at in 0..u64::MAX) {
            let holds = |sign: &str| Bound::count(&format!("{sign}{at}")).expect("a count").holds(n);
            let times = [holds("+"), holds("-"), holds("")];
            prop_assert_eq!(times.iter().filter(|holds| **holds).count(), 1);
        }

        #[test]
        fn one_value_is_written_as_older_versions_write_it(all: Vec<String>) {
            let text = serde_json::to_string(&AnyOf::from(all.clone())).expect("JSON");
            match &all[..] {
                [] => prop_assert_eq!(&text, "null"),
                [one] => prop_assert_eq!(&text, &serde_json::to_string(one).expect("JSON")),
                _ => {}
            }
            prop_assert_eq!(serde_json::from_str::<AnyOf>(&text).expect("AnyOf"), AnyOf(all));
        }
    }
}
