//! Queue ids: 64 bits, never repeated, sorted by time of arrival.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of one message in the queue.
///
/// The upper 54 bits are the microseconds since 1970 at which it was issued, the lower 10 make ids
/// of one microsecond distinct. Written as 13 characters of Crockford's base 32 in lower case, so
/// that text sorts as the number does and no two characters look alike.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId(pub u64);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl QueueId {
    /// Length of the text form in characters.
    pub const TEXT_LEN: usize = 13;

    /// The first id that may be issued at `micros` microseconds since 1970.
    pub fn floor(micros: u64) -> QueueId {
        QueueId(micros << 10)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..Self::TEXT_LEN).rev() {
            let digit = (self.0 >> (5 * place)) & 31;
            let character = ALPHABET.get(digit as usize).copied().unwrap_or(b'0');
            write!(f, "{}", char::from(character))?;
        }
        Ok(())
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no queue id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a queue id is 13 letters and digits, as `mta-queue list` prints it")]
pub struct ParseIdError;

impl FromStr for QueueId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != Self::TEXT_LEN {
            return Err(ParseIdError);
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET
                .iter()
                .position(|known| *known == byte.to_ascii_lowercase())
                .ok_or(ParseIdError)?;
            value = (value << 5) | digit as u128;
        }
        u64::try_from(value).map(QueueId).map_err(|_| ParseIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_sorts_as_numbers_do_and_bad_text_is_refused() {
        assert_eq!(QueueId(0).to_string(), "0000000000000");
        assert_eq!(QueueId(u64::MAX).to_string(), "fzzzzzzzzzzzz");
        for bad in ["", "x", "zzzzzzzzzzzzz", "../../etc/pas", "000000000000u"] {
            assert_eq!(bad.parse::<QueueId>(), Err(ParseIdError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_round_trip(a: u64, b: u64) {
            let (x, y) = (QueueId(a), QueueId(b));
            prop_assert_eq!(x.to_string().parse(), Ok(x));
            prop_assert_eq!(x.cmp(&y), x.to_string().cmp(&y.to_string()));
        }
    }
}
