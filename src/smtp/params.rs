//! The parameters of MAIL and RCPT (RFC 5321 section 4.1.2, esmtp-param), each as its own
//! RFC writes it, and none of them twice.

use queue_schema::{BodyKind, Millis, Notify, Ret};

use super::address::{Address, Charset};
use super::replies::{self, Reply};

/// Longest ENVID, decoded or not, in bytes (RFC 3461 section 4.4).
pub const MAX_ENVID: usize = 100;
/// Longest ORCPT in bytes (RFC 3461 section 4.2).
pub const MAX_ORCPT: usize = 500;

/// MAIL FROM with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mail {
    /// `None` is the null reverse-path.
    pub from: Option<Address>,
    /// SIZE in bytes (RFC 1870).
    pub size: Option<u64>,
    /// BODY (RFC 6152).
    pub body: Option<BodyKind>,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// RET (RFC 3461 section 4.3).
    pub ret: Option<Ret>,
    /// ENVID, decoded (RFC 3461 section 4.4).
    pub envid: Option<String>,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// BY (RFC 2852).
    pub by: Option<By>,
    /// HOLDFOR or HOLDUNTIL (RFC 4865).
    pub hold: Option<Hold>,
    /// MT-PRIORITY, -9 to 9 (RFC 6710).
    pub priority: Option<i8>,
    /// AUTH was given (RFC 4954 section 5): looked at for its form, never trusted.
    pub auth: bool,
}

/// The BY parameter (RFC 2852 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    /// Seconds from now; not positive when the time is over already.
    pub seconds: i64,
    /// Mode R: return the message then. Mode N: tell the sender.
    pub give_up: bool,
    /// Trace: tell the sender of each hop.
    pub trace: bool,
}

/// When a message is to be sent (RFC 4865 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// HOLDFOR: seconds from now.
    For(u64),
    /// HOLDUNTIL.
    Until(Millis),
}

/// RCPT TO with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rcpt {
    /// The recipient.
    pub to: Address,
    /// NOTIFY (RFC 3461 section 4.1).
    pub notify: Option<Notify>,
    /// ORCPT, decoded, as `type;address` (RFC 3461 section 4.2).
    pub orcpt: Option<String>,
}

impl Rcpt {
    /// A recipient without parameters.
    pub fn new(to: Address) -> Rcpt {
        Rcpt {
            to,
            notify: None,
            orcpt: None,
        }
    }
}

/// Reads the parameters of MAIL, which follow the path.
pub fn mail(from: Option<Address>, text: &[u8]) -> Result<Mail, Reply> {
    let mut mail = Mail {
        from,
        ..Mail::default()
    };
    for (name, value) in split(text)? {
        let value = value.map(ascii).transpose()?;
        let bad = replies::BAD_PARAMETER;
        match (name.as_str(), value) {
            ("SIZE", Some(value)) => once(&mut mail.size, size(value))?,
            ("BODY", Some(value)) => once(&mut mail.body, body(value))?,
            ("RET", Some(value)) => once(&mut mail.ret, ret(value))?,
            ("ENVID", Some(value)) => once(&mut mail.envid, envid(value))?,
            ("BY", Some(value)) => once(&mut mail.by, by(value))?,
            ("HOLDFOR", Some(value)) => {
                once(&mut mail.hold, seconds(value, 9).map(Hold::For))?;
            }
            ("HOLDUNTIL", Some(value)) => once(&mut mail.hold, instant(value).map(Hold::Until))?,
            ("MT-PRIORITY", Some(value)) => once(&mut mail.priority, priority(value))?,
            ("SMTPUTF8", None) => flag(&mut mail.smtputf8)?,
            ("REQUIRETLS", None) => flag(&mut mail.require_tls)?,
            ("AUTH", Some(value)) => {
                xtext(value.as_bytes()).ok_or(bad)?;
                flag(&mut mail.auth)?;
            }
            (
                "SIZE" | "BODY" | "RET" | "ENVID" | "BY" | "HOLDFOR" | "HOLDUNTIL" | "MT-PRIORITY"
                | "SMTPUTF8" | "REQUIRETLS" | "AUTH",
                _,
            ) => return Err(bad),
            _ => return Err(replies::UNKNOWN_PARAMETER),
        }
    }
    Ok(mail)
}

/// Reads the parameters of RCPT, which follow the path.
pub fn rcpt(to: Address, text: &[u8], charset: Charset) -> Result<Rcpt, Reply> {
    let mut rcpt = Rcpt::new(to);
    for (name, value) in split(text)? {
        match (name.as_str(), value) {
            ("NOTIFY", Some(value)) => once(&mut rcpt.notify, notify(ascii(value)?))?,
            ("ORCPT", Some(value)) => once(&mut rcpt.orcpt, orcpt(value, charset))?,
            ("NOTIFY" | "ORCPT", None) => return Err(replies::BAD_PARAMETER),
            _ => return Err(replies::UNKNOWN_PARAMETER),
        }
    }
    Ok(rcpt)
}

fn once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), Reply> {
    if place.is_some() {
        return Err(replies::REPEATED_PARAMETER);
    }
    *place = Some(value.ok_or(replies::BAD_PARAMETER)?);
    Ok(())
}

fn flag(place: &mut bool) -> Result<(), Reply> {
    if std::mem::replace(place, true) {
        return Err(replies::REPEATED_PARAMETER);
    }
    Ok(())
}

fn ascii(value: &[u8]) -> Result<&str, Reply> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.is_ascii())
        .ok_or(replies::BAD_PARAMETER)
}

type Parameter<'a> = (String, Option<&'a [u8]>);

/// `NAME` or `NAME=value` words, names in upper case. Values may hold UTF-8 (RFC 6531 section 3.3);
/// who takes them decides.
fn split(text: &[u8]) -> Result<Vec<Parameter<'_>>, Reply> {
    text.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let (name, value) = match word.iter().position(|byte| *byte == b'=') {
                Some(at) => (word.get(..at).unwrap_or_default(), word.get(at + 1..)),
                None => (word, None),
            };
            let sound = matches!(name, [first, ..] if first.is_ascii_alphanumeric())
                && name
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && value.is_none_or(|value| {
                    !value.is_empty()
                        && value
                            .iter()
                            .all(|byte| matches!(byte, 33..=60 | 62..=126 | 128..))
                });
            if !sound {
                return Err(replies::BAD_PARAMETER);
            }
            let name = name
                .iter()
                .map(|byte| char::from(byte.to_ascii_uppercase()))
                .collect();
            Ok((name, value))
        })
        .collect()
}

/// Up to `most` digits that fit.
fn seconds(value: &str, most: usize) -> Option<u64> {
    let digits = (1..=most).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten()
}

/// Up to 20 digits (RFC 1870 section 5); those that do not fit are a size all the same: too large.
fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Option<BodyKind> {
    if value.eq_ignore_ascii_case("7BIT") {
        Some(BodyKind::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyKind::EightBit)
    } else {
        None
    }
}

fn ret(value: &str) -> Option<Ret> {
    if value.eq_ignore_ascii_case("FULL") {
        Some(Ret::Full)
    } else if value.eq_ignore_ascii_case("HDRS") {
        Some(Ret::Headers)
    } else {
        None
    }
}

fn envid(value: &str) -> Option<String> {
    (value.len() <= MAX_ENVID)
        .then(|| xtext(value.as_bytes()))
        .flatten()
}

/// `by-time ";" by-mode [by-trace]` (RFC 2852 section 4). Mode R with a time that is over can not
/// be kept.
fn by(value: &str) -> Option<By> {
    let (time, mode) = value.split_once(';')?;
    let (negative, digits) = match time.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, time.strip_prefix('+').unwrap_or(time)),
    };
    let seconds = i64::try_from(self::seconds(digits, 9)?).ok()?;
    let seconds = if negative { -seconds } else { seconds };
    let (give_up, trace) = match mode.to_ascii_uppercase().as_str() {
        "R" => (true, false),
        "RT" => (true, true),
        "N" => (false, false),
        "NT" => (false, true),
        _ => return None,
    };
    (!give_up || seconds > 0).then_some(By {
        seconds,
        give_up,
        trace,
    })
}

/// An RFC 3339 date (RFC 4865 section 4).
fn instant(value: &str) -> Option<Millis> {
    let at: jiff::Timestamp = value.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// -9 to 9 (RFC 6710 section 3).
fn priority(value: &str) -> Option<i8> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    (digits.len() == 1)
        .then(|| value.parse::<i8>().ok())
        .flatten()
}

/// `NEVER`, or a list of the others (RFC 3461 section 4.1).
fn notify(value: &str) -> Option<Notify> {
    let mut notify = Notify {
        success: false,
        failure: false,
        delay: false,
    };
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(notify);
    }
    for word in value.split(',') {
        let place = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut notify.success,
            "FAILURE" => &mut notify.failure,
            "DELAY" => &mut notify.delay,
            _ => return None,
        };
        if std::mem::replace(place, true) {
            return None;
        }
    }
    Some(notify)
}

/// `addr-type ";" xtext`; UTF-8 as it is for the type `utf-8` (RFC 6533 section 3).
fn orcpt(value: &[u8], charset: Charset) -> Option<String> {
    let at = value.iter().position(|byte| *byte == b';')?;
    let (kind, address) = value.split_at(at);
    let address = address.get(1..)?;
    let kind = std::str::from_utf8(kind).ok()?;
    let atom = !kind.is_empty()
        && kind
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !atom || address.is_empty() || value.len() > MAX_ORCPT {
        return None;
    }
    let decoded = if address.is_ascii() {
        xtext(address)?
    } else if charset == Charset::Utf8 && kind.eq_ignore_ascii_case("utf-8") {
        let text = std::str::from_utf8(address).ok()?;
        (!text.chars().any(char::is_control)).then(|| text.to_owned())?
    } else {
        return None;
    };
    Some(format!("{};{decoded}", kind.to_ascii_lowercase()))
}

/// Decodes xtext (RFC 3461 section 4). `None` for a malformed escape or one that hides a control
/// character.
pub fn xtext(text: &[u8]) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        match rest {
            [] => return Some(decoded),
            [b'+', high, low, tail @ ..] => {
                let byte = hex(*high)? << 4 | hex(*low)?;
                if !matches!(byte, 32..=126) {
                    return None;
                }
                decoded.push(char::from(byte));
                rest = tail;
            }
            [byte @ (33..=42 | 44..=60 | 62..=126), tail @ ..] => {
                decoded.push(char::from(*byte));
                rest = tail;
            }
            _ => return None,
        }
    }
}

/// Encodes xtext (RFC 3461 section 4): the opposite of [`xtext`].
pub fn encode_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            33..=42 | 44..=60 | 62..=126 => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("+{byte:02X}")),
        }
    }
    encoded
}

/// The value of ORCPT for a decoded `type;address`; `None` for one that can not be written. An
/// address beyond ASCII is written so that every server with DSN can read it (RFC 6533 section 3).
pub fn encode_orcpt(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if kind.is_empty() || !kind.bytes().all(atom) {
        return None;
    }
    if address.is_ascii() {
        return Some(format!("{kind};{}", encode_xtext(address)));
    }
    if !kind.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut encoded = format!("{kind};");
    for character in address.chars() {
        match character {
            '!'..='~' if !matches!(character, '+' | '=' | '\\') => encoded.push(character),
            _ => encoded.push_str(&format!("\\x{{{:X}}}", u32::from(character))),
        }
    }
    Some(encoded)
}

/// RFC 3461 allows upper case only, so that there is one way to write each.
fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Mail, u16> {
        mail(None, text.as_bytes()).map_err(|reply| reply.code)
    }

    fn to(text: &str) -> Result<Rcpt, u16> {
        let address = Address::parse(b"a@b.example").expect("address");
        rcpt(address, text.as_bytes(), Charset::Utf8).map_err(|reply| reply.code)
    }

    #[test]
    fn parameters_of_mail_are_read_once_each() {
        let full = read(
            " size=13343 body=8bitmime auth=e+3Dmc2@example.org SMTPUTF8 RET=hdrs REQUIRETLS \
             ENVID=X400-MTS-Identifier:+20[/C+3DGB/;DC01-98] BY=120;NT HOLDFOR=60 MT-PRIORITY=-9",
        )
        .expect("mail");
        let expected = Mail {
            from: None,
            size: Some(13343),
            body: Some(BodyKind::EightBit),
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("X400-MTS-Identifier: [/C=GB/;DC01-98]".into()),
            require_tls: true,
            by: Some(By {
                seconds: 120,
                give_up: false,
                trace: true,
            }),
            hold: Some(Hold::For(60)),
            priority: Some(-9),
            auth: true,
        };
        assert_eq!(full, expected);
        assert_eq!(
            read("SIZE=99999999999999999999").map(|mail| mail.size),
            Ok(Some(u64::MAX))
        );
        assert_eq!(
            read("HOLDUNTIL=2026-01-01T00:00:00Z").map(|mail| mail.hold),
            Ok(Some(Hold::Until(1_767_225_600_000)))
        );
        assert_eq!(read("AUTH=<>").map(|mail| mail.auth), Ok(true));
        let long = format!("ENVID={}", "a".repeat(101));
        for (text, code) in [
            ("FOO=bar", 555),
            ("SIZE=-1", 501),
            ("SIZE=", 501),
            ("SIZE", 501),
            ("SIZE=1 SIZE=1", 501),
            ("BODY=8BITMIME BODY=7BIT", 501),
            ("BODY=BINARYMIME", 501),
            ("AUTH=x+0Ay", 501),
            ("AUTH=<> AUTH=<>", 501),
            ("\"", 501),
            ("=", 501),
            ("RET=ALL", 501),
            ("RET=FULL RET=FULL", 501),
            ("ENVID=a+00b", 501),
            ("ENVID=a+0ab", 501),
            ("ENVID=ü", 501),
            (long.as_str(), 501),
            ("SMTPUTF8=1", 501),
            ("SMTPUTF8 SMTPUTF8", 501),
            ("REQUIRETLS=yes", 501),
            ("BY=0;R", 501),
            ("BY=-5;R", 501),
            ("BY=1234567890;N", 501),
            ("BY=10;X", 501),
            ("BY=10", 501),
            ("HOLDFOR=1 HOLDUNTIL=2026-01-01T00:00:00Z", 501),
            ("HOLDFOR=1234567890", 501),
            ("HOLDUNTIL=tomorrow", 501),
            ("MT-PRIORITY=10", 501),
            ("MT-PRIORITY=+1", 501),
            ("MT-PRIORITY=--1", 501),
        ] {
            assert_eq!(read(text), Err(code), "{text}");
        }
        assert_eq!(
            read("BY=-5;N").map(|mail| mail.by.map(|by| by.seconds)),
            Ok(Some(-5))
        );
    }

    #[test]
    fn parameters_of_rcpt_are_read_once_each() {
        let full = to("NOTIFY=failure,DELAY ORCPT=rfc822;B+2BTag@example.net").expect("rcpt");
        assert_eq!(full.orcpt.as_deref(), Some("rfc822;B+Tag@example.net"));
        let notify = full.notify.expect("notify");
        assert!(!notify.success && notify.failure && notify.delay);
        let never = to("NOTIFY=NEVER").expect("rcpt").notify.expect("notify");
        assert!(!never.success && !never.failure && !never.delay);
        let utf8 = to("ORCPT=utf-8;jürgen@example.org").expect("rcpt");
        assert_eq!(utf8.orcpt.as_deref(), Some("utf-8;jürgen@example.org"));
        let long = format!("ORCPT=rfc822;{}", "a".repeat(500));
        for (text, code) in [
            ("FOO", 555),
            ("SIZE=1", 555),
            ("NOTIFY", 501),
            ("NOTIFY=", 501),
            ("NOTIFY=NEVER,SUCCESS", 501),
            ("NOTIFY=SUCCESS,SUCCESS", 501),
            ("NOTIFY=SUCCESS NOTIFY=DELAY", 501),
            ("ORCPT=x", 501),
            ("ORCPT=rfc822;", 501),
            ("ORCPT=;a@b", 501),
            ("ORCPT=rf c;a", 501),
            ("ORCPT=rfc822;x+0Ay", 501),
            ("ORCPT=rfc822;a+00b", 501),
            ("ORCPT=rfc822;a+2bb", 501),
            ("ORCPT=rfc822;ü@b", 501),
            (long.as_str(), 501),
        ] {
            assert_eq!(to(text), Err(code), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_parameters_or_a_reply(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = mail(None, &text);
            let address = Address::parse(b"a@b.example").expect("address");
            let _ = rcpt(address, &text, Charset::Utf8);
        }

        #[test]
        fn xtext_encoded_is_read_back(text in "[ -~]{0,50}") {
            let encoded = encode_xtext(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'='));
            prop_assert_eq!(xtext(encoded.as_bytes()), Some(text));
        }

        #[test]
        fn xtext_never_hides_a_control_character(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(decoded) = xtext(&text) {
                prop_assert!(decoded.bytes().all(|byte| (32..=126).contains(&byte)));
            }
        }

        #[test]
        fn xtext_gives_back_what_was_encoded(text in "[ -~]{0,60}") {
            let encoded: String = text
                .bytes()
                .map(|byte| match byte {
                    33..=42 | 44..=60 | 62..=126 => char::from(byte).to_string(),
                    _ => format!("+{byte:02X}"),
                })
                .collect();
            prop_assert_eq!(xtext(encoded.as_bytes()), Some(text));
        }
    }
}
