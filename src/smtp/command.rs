//! One command line of a client, parsed (RFC 5321 section 4.1.1).
//!
//! Pure, and without backtracking: a line is looked at once, left to right, and gives a command or
//! the reply that names what is wrong with it.

use super::address::{self, AddressError, Charset};
use super::params::{self, Mail, Rcpt};
use super::replies::{self, Reply};

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// EHLO or HELO, and the name given.
    Hello {
        /// EHLO, not HELO.
        extended: bool,
        /// What the client calls itself, of what a host name may hold.
        name: String,
        /// Whether it said just that.
        sound: bool,
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
    Rcpt(Rcpt),
    /// DATA.
    Data,
    /// BDAT (RFC 3030): the octets that follow, and whether they end the message.
    Bdat {
        /// How many.
        size: u64,
        /// LAST.
        last: bool,
    },
    /// XCLIENT with its attributes, decoded: what a proxy says about its client.
    Xclient(Vec<(String, String)>),
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

/// Parses `line`, which has no CR LF. `own_domain` is the domain of a bare `<postmaster>`;
/// `charset` is that of the transaction under way.
pub fn parse(line: &[u8], own_domain: &str, charset: Charset) -> Result<Command, Reply> {
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
        b"RCPT" => rcpt(argument, own_domain, charset),
        b"DATA" => bare(argument, Command::Data),
        b"RSET" => bare(argument, Command::Rset),
        b"QUIT" => bare(argument, Command::Quit),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => vrfy(argument),
        b"BDAT" => bdat(argument),
        b"XCLIENT" => xclient(argument),
        b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"BURL" | b"LHLO"
        | b"XFORWARD" | b"PROXY" => Ok(Command::NotOffered),
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

/// The name is not looked up: RFC 5321 section 4.1.4 forbids refusing mail because it can not be
/// verified. One that is no host name, as devices of users have them, is cleaned, since it goes into
/// the trace; whether it passes is for the server to say.
fn hello(argument: &[u8], extended: bool) -> Result<Command, Reply> {
    let plausible = address::valid_domain(argument) || literal_like(argument);
    let name = match std::str::from_utf8(argument) {
        Ok(name) if plausible && name.len() <= address::MAX_DOMAIN => name.to_owned(),
        _ => cleaned(argument),
    };
    match name.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(Command::Hello {
            extended,
            name,
            sound: plausible,
        }),
        false => Err(replies::BAD_HELLO),
    }
}

/// A name of what a host name may hold: hyphens stand for what it may not.
fn cleaned(argument: &[u8]) -> String {
    let text = String::from_utf8_lossy(argument);
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let kept = text.chars().map(|c| if is_kept(c) { c } else { '-' });
    kept.take(address::MAX_DOMAIN).collect()
}

/// An address literal as clients write it: with or without the tag `IPv6:`. It goes into the trace
/// header, so it may hold nothing but what an address is made of.
fn literal_like(argument: &[u8]) -> bool {
    let inner = argument
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"));
    inner.is_some_and(|inner| {
        !inner.is_empty()
            && inner
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'-'))
    })
}

/// Who is there is never told; that the name is no UTF-8 or needs SMTPUTF8 is (RFC 6531 section
/// 3.7.4.2).
fn vrfy(argument: &[u8]) -> Result<Command, Reply> {
    if argument.is_empty() {
        return Err(replies::NO_ARGUMENT);
    }
    let declared = argument
        .rsplit(|byte| *byte == b' ')
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"));
    if !argument.is_ascii() && !declared {
        return Err(replies::bad_recipient(AddressError::NotAscii));
    }
    Ok(Command::Vrfy)
}

/// `BDAT size [LAST]` (RFC 3030 section 2).
fn bdat(argument: &[u8]) -> Result<Command, Reply> {
    let mut words = argument
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let size = words
        .next()
        .filter(|digits| digits.len() <= 20 && digits.iter().all(u8::is_ascii_digit))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        // 20 digits that do not fit are a size all the same: too large.
        .map(|digits| digits.parse().unwrap_or(u64::MAX));
    let last = words.next();
    let sound =
        words.next().is_none() && last.is_none_or(|word| word.eq_ignore_ascii_case(b"LAST"));
    match size {
        Some(size) if sound => Ok(Command::Bdat {
            size,
            last: last.is_some(),
        }),
        _ => Err(replies::BAD_BDAT),
    }
}

/// `NAME=value` words in xtext.
fn xclient(argument: &[u8]) -> Result<Command, Reply> {
    let words = argument
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty());
    let attributes = words
        .map(|word| {
            let at = word.iter().position(|byte| *byte == b'=')?;
            let (name, value) = word.split_at(at);
            let name = std::str::from_utf8(name).ok()?.to_ascii_uppercase();
            Some((name, params::xtext(value.get(1..)?)?))
        })
        .collect::<Option<Vec<_>>>();
    match attributes {
        Some(attributes) if !attributes.is_empty() => Ok(Command::Xclient(attributes)),
        _ => Err(replies::BAD_PARAMETER),
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
    let (from, parameters) =
        address::reverse_path(path, Charset::Utf8).map_err(replies::bad_sender)?;
    let ascii = path.strip_suffix(parameters).is_some_and(<[u8]>::is_ascii);
    let mail = params::mail(from, parameters)?;
    if !ascii && !mail.smtputf8 {
        return Err(replies::bad_sender(AddressError::NotAscii));
    }
    Ok(Command::Mail(mail))
}

fn rcpt(argument: &[u8], own_domain: &str, charset: Charset) -> Result<Command, Reply> {
    let path = after_keyword(argument, b"TO:").ok_or(replies::BAD_RCPT)?;
    let (to, parameters) =
        address::forward_path(path, own_domain, charset).map_err(replies::bad_recipient)?;
    params::rcpt(to, parameters, charset).map(Command::Rcpt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Command, Reply> {
        parse(line.as_bytes(), "mx.example.org", Charset::Ascii)
    }

    fn code(line: &str) -> (u16, &'static str) {
        let reply = read(line).expect_err(line);
        (reply.code, reply.enhanced)
    }

    #[test]
    fn lines_are_commands_or_say_what_is_wrong() {
        let mail = |line: &str| match read(line) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        };
        let full = mail("mail from:<A@Example.org> size=13343");
        assert_eq!(
            full.from.map(|a| a.to_string()).as_deref(),
            Some("A@example.org")
        );
        assert_eq!(full.size, Some(13343));
        assert_eq!(mail("MAIL FROM:<>").from, None);
        assert!(mail("MAIL FROM: <a@b.example> ").from.is_some());
        assert!(mail("MAIL FROM:\t<a@b.example>").from.is_some());
        let utf8 = mail("MAIL FROM:<jürgen@bücher.example> SMTPUTF8");
        assert_eq!(
            utf8.from.map(|a| a.to_string()).as_deref(),
            Some("jürgen@xn--bcher-kva.example")
        );
        for (line, expected) in [
            ("MAIL FROM:<a@b.example> FOO=bar", (555, "5.5.4")),
            ("MAIL FROM:<a@b.example>SIZE=1", (501, "5.5.4")),
            ("MAIL FROM:<;sleep 66;>", (553, "5.1.7")),
            ("MAIL FROM:<jürgen@example.org>", (553, "5.6.7")),
            ("MAIL FROM:<a@bücher.example> SIZE=1", (553, "5.6.7")),
            ("MAIL FROM:a@b.example", (501, "5.5.4")),
            ("MAIL a@b.example", (501, "5.5.4")),
            ("RCPT TO:<\"info@>", (501, "5.5.4")),
            ("RCPT TO:<>", (553, "5.1.3")),
            ("RCPT TO:<jürgen@example.org>", (553, "5.6.7")),
            ("RCPT TO:<a@b.example> FOO", (555, "5.5.4")),
            ("EHLO", (501, "5.5.4")),
            ("EHLO (;)", (501, "5.5.4")),
            ("DATA x", (501, "5.5.4")),
            ("STARTTLS now", (501, "5.5.4")),
            ("VRFY", (501, "5.5.4")),
            ("VRFY jürgen", (553, "5.6.7")),
            ("FROBNICATE", (500, "5.5.2")),
            ("MAIL\u{7} FROM:<a@b.example>", (501, "5.5.2")),
            ("", (500, "5.5.2")),
            ("BDAT", (501, "5.5.4")),
            ("BDAT x", (501, "5.5.4")),
            ("BDAT -1", (501, "5.5.4")),
            ("BDAT +1", (501, "5.5.4")),
            ("BDAT .", (501, "5.5.4")),
            ("BDAT 1 LAST LAST", (501, "5.5.4")),
            ("BDAT 1 FIRST", (501, "5.5.4")),
            ("BDAT 184467440737095516150", (501, "5.5.4")),
            ("XCLIENT", (501, "5.5.4")),
            ("XCLIENT ADDR", (501, "5.5.4")),
            ("XCLIENT ADDR=a+0Ab", (501, "5.5.4")),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
        for name in [
            "[192.0.2.7]",
            "[IPv6:2001:db8::25]",
            "[IPV6:2001:db8::25]",
            "[2001:db8:41:8::]",
            "host_1.example.org",
            "localhost",
        ] {
            assert!(read(&format!("EHLO {name}")).is_ok(), "{name}");
        }
        for (line, size, last) in [
            ("BDAT 0 last", 0, true),
            ("bdat 86", 86, false),
            ("BDAT 18446744073709551615 LAST", u64::MAX, true),
            ("BDAT 99999999999999999999", u64::MAX, false),
        ] {
            assert_eq!(read(line), Ok(Command::Bdat { size, last }), "{line}");
        }
        let attributes = vec![("ADDR".to_owned(), "192.0.2.1".to_owned())];
        assert_eq!(
            read("xclient addr=192.0.2.1"),
            Ok(Command::Xclient(attributes))
        );
    }

    #[test]
    fn r15_names_of_devices_are_taken_and_cleaned() {
        for (given, cleaned, sound) in [
            ("cabinet-.lan", "cabinet-.lan", false),
            ("J\u{fc}rgens PC", "J-rgens-PC", false),
            ("[;(x)]", "---x--", false),
            ("[192.0.2.1", "-192.0.2.1", false),
            ("host.example.org", "host.example.org", true),
        ] {
            let expected = Command::Hello {
                extended: true,
                name: cleaned.to_owned(),
                sound,
            };
            assert_eq!(read(&format!("EHLO {given}")), Ok(expected), "{given}");
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
            if let Err(reply) = parse(&line, "mx.example.org", Charset::Utf8) {
                prop_assert!((500..=555).contains(&reply.code));
            }
        }
    }
}
