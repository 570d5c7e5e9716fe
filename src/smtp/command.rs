//! One command line of a client, parsed (RFC 5321 section 4.1.1).
//!
//! Pure, and without backtracking: a line is looked at once, left to right, and gives a command or
//! the reply that names what is wrong with it.

use queue_schema::BodyKind;

use super::address::{self, Address};
use super::replies::{self, Reply};

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// EHLO or HELO, and the name given.
    Hello {
        /// EHLO, not HELO.
        extended: bool,
        /// What the client calls itself.
        name: String,
    },
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH with its mechanism in upper case and the initial response (RFC 4954).
    Auth {
        /// `PLAIN`, `LOGIN` or what else was asked for.
        mechanism: String,
        /// Base64 as given; `=` means empty.
        initial: Option<String>,
    },
    /// MAIL FROM.
    Mail(Mail),
    /// RCPT TO.
    Rcpt(Address),
    /// DATA.
    Data,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY.
    Vrfy,
    /// HELP.
    Help,
    /// A known verb that this server does not offer.
    NotOffered,
    /// A verb of another protocol: the connection is closed.
    OtherProtocol,
}

/// MAIL FROM with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// `None` is the null reverse-path.
    pub from: Option<Address>,
    /// SIZE in bytes (RFC 1870).
    pub size: Option<u64>,
    /// BODY (RFC 6152).
    pub body: Option<BodyKind>,
}

/// Parses `line`, which has no CR LF. `own_domain` is the domain of a bare `<postmaster>`.
pub fn parse(line: &[u8], own_domain: &str) -> Result<Command, Reply> {
    if line
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(replies::CONTROL_CHARACTER);
    }
    let end = line
        .iter()
        .position(|byte| !byte.is_ascii_alphabetic())
        .unwrap_or(line.len());
    let (verb, rest) = line.split_at(end);
    let verb = verb.to_ascii_uppercase();
    if !matches!(rest, [] | [b' ' | b'\t', ..]) {
        return Err(replies::UNKNOWN_COMMAND);
    }
    let argument = rest.trim_ascii();
    match verb.as_slice() {
        b"EHLO" => hello(argument, true),
        b"HELO" => hello(argument, false),
        b"STARTTLS" => bare(argument, Command::StartTls),
        b"AUTH" => auth(argument),
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument, own_domain),
        b"DATA" => bare(argument, Command::Data),
        b"RSET" => bare(argument, Command::Rset),
        b"QUIT" => bare(argument, Command::Quit),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" if argument.is_empty() => Err(replies::NO_ARGUMENT),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"BDAT" | b"BURL"
        | b"LHLO" | b"XCLIENT" | b"XFORWARD" => Ok(Command::NotOffered),
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"DELETE" | b"CONNECT" | b"OPTIONS" | b"TRACE"
        | b"PATCH" | b"PRI" => Ok(Command::OtherProtocol),
        _ => Err(replies::UNKNOWN_COMMAND),
    }
}

fn bare(argument: &[u8], command: Command) -> Result<Command, Reply> {
    if argument.is_empty() {
        Ok(command)
    } else {
        Err(replies::NO_ARGUMENT_ALLOWED)
    }
}

/// The name must look like a domain or an address literal, but is not looked up: RFC 5321 section
/// 4.1.4 forbids refusing mail because it can not be verified.
fn hello(argument: &[u8], extended: bool) -> Result<Command, Reply> {
    let plausible = address::valid_domain(argument) || argument.starts_with(b"[");
    let name = std::str::from_utf8(argument).ok().filter(|name| {
        plausible && name.is_ascii() && name.len() <= address::MAX_DOMAIN && !name.contains(' ')
    });
    match name {
        Some(name) => Ok(Command::Hello {
            extended,
            name: name.to_owned(),
        }),
        None => Err(replies::BAD_HELLO),
    }
}

fn auth(argument: &[u8]) -> Result<Command, Reply> {
    let text = std::str::from_utf8(argument).map_err(|_| replies::BAD_AUTH)?;
    let mut words = text.split_ascii_whitespace();
    let mechanism = words.next().ok_or(replies::BAD_AUTH)?.to_ascii_uppercase();
    let initial = words.next().map(str::to_owned);
    match words.next() {
        None => Ok(Command::Auth { mechanism, initial }),
        Some(_) => Err(replies::BAD_AUTH),
    }
}

/// What follows `FROM:` or `TO:`. A space before the path is no SMTP but common: it is let pass.
fn after_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (word, rest) = argument.split_at_checked(keyword.len())?;
    word.eq_ignore_ascii_case(keyword)
        .then(|| rest.trim_ascii_start())
}

fn mail(argument: &[u8]) -> Result<Command, Reply> {
    let path = after_keyword(argument, b"FROM:").ok_or(replies::BAD_MAIL)?;
    let (from, parameters) = address::reverse_path(path).map_err(replies::bad_sender)?;
    let mut mail = Mail {
        from,
        size: None,
        body: None,
    };
    let mut auth = false;
    for (name, value) in params(parameters)? {
        match name.as_str() {
            "SIZE" if mail.size.is_some() => return Err(replies::REPEATED_PARAMETER),
            "SIZE" => mail.size = Some(size(value)?),
            "BODY" if mail.body.is_some() => return Err(replies::REPEATED_PARAMETER),
            "BODY" => mail.body = Some(body(value)?),
            "AUTH" if auth => return Err(replies::REPEATED_PARAMETER),
            // RFC 4954 section 5: checked for its form, never trusted.
            "AUTH" => {
                xtext(value.unwrap_or_default()).ok_or(replies::BAD_PARAMETER)?;
                auth = true;
            }
            _ => return Err(replies::UNKNOWN_PARAMETER),
        }
    }
    Ok(Command::Mail(mail))
}

fn rcpt(argument: &[u8], own_domain: &str) -> Result<Command, Reply> {
    let path = after_keyword(argument, b"TO:").ok_or(replies::BAD_RCPT)?;
    let (to, parameters) =
        address::forward_path(path, own_domain).map_err(replies::bad_recipient)?;
    match params(parameters)?.first() {
        None => Ok(Command::Rcpt(to)),
        Some(_) => Err(replies::UNKNOWN_PARAMETER),
    }
}

type Parameter<'a> = (String, Option<&'a [u8]>);

/// `NAME=value` words (RFC 5321 section 4.1.2, esmtp-param).
fn params(text: &[u8]) -> Result<Vec<Parameter<'_>>, Reply> {
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
                    !value.is_empty() && value.iter().all(|byte| matches!(byte, 33..=60 | 62..=126))
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

/// Up to 20 digits (RFC 1870 section 5).
fn size(value: Option<&[u8]>) -> Result<u64, Reply> {
    let digits = value.filter(|digits| digits.len() <= 20 && digits.iter().all(u8::is_ascii_digit));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    // 20 digits that do not fit are a size all the same: too large.
    text.map(|text| text.parse().unwrap_or(u64::MAX))
        .ok_or(replies::BAD_PARAMETER)
}

fn body(value: Option<&[u8]>) -> Result<BodyKind, Reply> {
    match value {
        Some(kind) if kind.eq_ignore_ascii_case(b"7BIT") => Ok(BodyKind::SevenBit),
        Some(kind) if kind.eq_ignore_ascii_case(b"8BITMIME") => Ok(BodyKind::EightBit),
        _ => Err(replies::BAD_PARAMETER),
    }
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

    fn read(line: &str) -> Result<Command, Reply> {
        parse(line.as_bytes(), "mx.example.org")
    }

    fn code(line: &str) -> (u16, &'static str) {
        let reply = read(line).expect_err(line);
        (reply.code, reply.enhanced)
    }

    #[test]
    fn mail_takes_its_parameters_once_each() {
        let mail = |line: &str| match read(line) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        };
        let full =
            mail("mail from:<A@Example.org> size=13343 body=8bitmime auth=e+3Dmc2@example.org");
        assert_eq!(
            full.from.map(|a| a.to_string()).as_deref(),
            Some("A@example.org")
        );
        assert_eq!(
            (full.size, full.body),
            (Some(13343), Some(BodyKind::EightBit))
        );
        assert_eq!(mail("MAIL FROM:<>").from, None);
        assert!(mail("MAIL FROM: <a@b.example> ").from.is_some());
        assert_eq!(
            mail("MAIL FROM:<a@b.example> SIZE=99999999999999999999").size,
            Some(u64::MAX)
        );
        for (line, expected) in [
            ("MAIL FROM:<a@b.example> FOO=bar", (555, "5.5.4")),
            ("MAIL FROM:<a@b.example> SIZE=-1", (501, "5.5.4")),
            ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", (501, "5.5.4")),
            (
                "MAIL FROM:<a@b.example> BODY=8BITMIME BODY=7BIT",
                (501, "5.5.4"),
            ),
            ("MAIL FROM:<a@b.example> AUTH=x+0Ay", (501, "5.5.4")),
            ("MAIL FROM:<a@b.example> \"", (501, "5.5.4")),
            ("MAIL FROM:<a@b.example> =", (501, "5.5.4")),
            ("MAIL FROM:<;sleep 66;>", (553, "5.1.7")),
            ("MAIL FROM:a@b.example", (501, "5.5.4")),
            ("MAIL a@b.example", (501, "5.5.4")),
            ("RCPT TO:<\"info@>", (501, "5.5.4")),
            ("RCPT TO:<>", (553, "5.1.3")),
            ("RCPT TO:<jürgen@example.org>", (553, "5.6.7")),
            ("RCPT TO:<a@b.example> FOO", (555, "5.5.4")),
            ("EHLO", (501, "5.5.4")),
            ("EHLO a b", (501, "5.5.4")),
            ("DATA x", (501, "5.5.4")),
            ("FROBNICATE", (500, "5.5.2")),
            ("MAIL\u{7} FROM:<a@b.example>", (501, "5.5.2")),
            ("", (500, "5.5.2")),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }

    #[test]
    fn verbs_of_other_protocols_are_told_apart() {
        assert_eq!(read("GET / HTTP/1.1"), Ok(Command::OtherProtocol));
        assert_eq!(read("ETRN #',1);--"), Ok(Command::NotOffered));
        assert_eq!(read("vrfy someone"), Ok(Command::Vrfy));
        assert_eq!(read("NOOP with words"), Ok(Command::Noop));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_a_reply(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Err(reply) = parse(&line, "mx.example.org") {
                prop_assert!((500..=555).contains(&reply.code));
            }
        }

        #[test]
        fn xtext_never_hides_a_control_character(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(decoded) = xtext(&text) {
                prop_assert!(decoded.bytes().all(|byte| (32..=126).contains(&byte)));
            }
        }
    }
}
