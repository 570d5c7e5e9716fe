//! The time that is left for a message, as MAIL FROM tells it (RFC 2852). Pure.

use super::Refusal;

/// The most seconds that nine digits can say (RFC 2852 section 4).
const MOST: i64 = 999_999_999;

/// The minimum, in seconds, that the parameter of a server's DELIVERBY names; 0 if it names none,
/// or none that can be read. Other words may follow it behind a comma.
pub(super) fn minimum(parameter: Option<&[u8]>) -> i64 {
    let text = parameter.and_then(|word| std::str::from_utf8(word).ok());
    let digits = text.and_then(|text| text.split(',').next()).unwrap_or("");
    match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse().map_or(0, |seconds: i64| seconds.min(MOST)),
        false => 0,
    }
}

/// ` BY=...` for a message with `left` seconds, for a server with this minimum.
///
/// A message that is to be returned when its time is over (`R`) may not go to a server that needs
/// more time than is left: it would refuse it. One whose sender is only told (`N`) may go on to any
/// server, late as well: the minimum is for `R` alone (RFC 2852 sections 2 and 4).
pub(super) fn parameter(left: i64, give_up: bool, minimum: i64) -> Result<String, Refusal> {
    if !give_up {
        return Ok(format!(" BY={};N", left.clamp(-MOST, MOST)));
    }
    if left < minimum {
        return Err(Refusal::TooLate { left, minimum });
    }
    // With R there must be time left; that it is over is for the queue to say.
    Ok(format!(" BY={};R", left.clamp(1, MOST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_is_a_number_or_nothing() {
        for (text, seconds) in [
            ("240", 240),
            ("240,X-OTHER", 240),
            ("999999999999", MOST),
            ("0", 0),
            ("", 0),
            (",X", 0),
            ("-5", 0),
            ("+5", 0),
            ("4m", 0),
            ("99999999999999999999", 0),
        ] {
            assert_eq!(minimum(Some(text.as_bytes())), seconds, "{text}");
        }
        assert_eq!(minimum(Some(b"\xff")), 0);
        assert_eq!(minimum(None), 0);
    }

    #[test]
    fn what_is_to_be_returned_goes_only_where_there_is_time_for_it() {
        let said = |left, minimum| parameter(left, true, minimum);
        assert_eq!(said(240, 240), Ok(" BY=240;R".to_owned()));
        assert_eq!(
            said(239, 240),
            Err(Refusal::TooLate {
                left: 239,
                minimum: 240
            })
        );
        assert_eq!(said(600, 0), Ok(" BY=600;R".to_owned()));
        assert_eq!(said(i64::MAX, MOST), Ok(" BY=999999999;R".to_owned()));
        assert_eq!(said(0, 0), Ok(" BY=1;R".to_owned()));
    }

    #[test]
    fn what_is_to_be_told_of_goes_anywhere() {
        let said = |left| parameter(left, false, 240);
        assert_eq!(said(600), Ok(" BY=600;N".to_owned()));
        assert_eq!(said(1), Ok(" BY=1;N".to_owned()));
        assert_eq!(said(-30), Ok(" BY=-30;N".to_owned()));
        assert_eq!(said(i64::MIN), Ok(" BY=-999999999;N".to_owned()));
    }
}
