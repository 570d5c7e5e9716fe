//! What a server says it can do in its reply to EHLO (RFC 5321 section 4.1.1.1).

use super::deliver_by;

/// AUTH mechanisms that are looked at.
const MECHANISMS: usize = 32;

/// The extensions of a server that our client has a use for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// SIZE (RFC 1870): the longest message it takes, 0 if it names no limit.
    pub size: Option<u64>,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// MT-PRIORITY (RFC 6710).
    pub priority: bool,
    /// DELIVERBY (RFC 2852): the seconds that a message which is to be returned when its time is
    /// over must have left, 0 if it names no minimum.
    pub deliver_by: Option<i64>,
    /// AUTH (RFC 4954): the mechanisms, in upper case.
    pub auth: Vec<String>,
}

impl Extensions {
    /// Reads the text of each line of a 250 reply to EHLO; the first one is the server's name.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Extensions {
        let mut found = Extensions::default();
        for line in lines.skip(1) {
            // Old servers write `SIZE=n`; a keyword ends at the first character it can not hold.
            let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | b'='));
            let keyword = words.next().unwrap_or_default();
            if keyword.eq_ignore_ascii_case(b"STARTTLS") {
                found.starttls = true;
            } else if keyword.eq_ignore_ascii_case(b"PIPELINING") {
                found.pipelining = true;
            } else if keyword.eq_ignore_ascii_case(b"8BITMIME") {
                found.eight_bit = true;
            } else if keyword.eq_ignore_ascii_case(b"SMTPUTF8") {
                found.smtputf8 = true;
            } else if keyword.eq_ignore_ascii_case(b"DSN") {
                found.dsn = true;
            } else if keyword.eq_ignore_ascii_case(b"REQUIRETLS") {
                found.require_tls = true;
            } else if keyword.eq_ignore_ascii_case(b"CHUNKING") {
                found.chunking = true;
            } else if keyword.eq_ignore_ascii_case(b"MT-PRIORITY") {
                found.priority = true;
            } else if keyword.eq_ignore_ascii_case(b"DELIVERBY") {
                found.deliver_by = Some(deliver_by::minimum(words.next()));
            } else if keyword.eq_ignore_ascii_case(b"AUTH") {
                // Old servers write `AUTH=` beside it: both lists count.
                let names = words.filter_map(|word| std::str::from_utf8(word).ok());
                let room = MECHANISMS.saturating_sub(found.auth.len());
                found
                    .auth
                    .extend(names.map(str::to_ascii_uppercase).take(room));
            } else if keyword.eq_ignore_ascii_case(b"SIZE") {
                // A limit that can not be read is no limit: the server itself says no in time.
                let limit = words.next().and_then(|word| std::str::from_utf8(word).ok());
                found.size = Some(limit.and_then(|word| word.parse().ok()).unwrap_or(0));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Extensions {
        Extensions::parse(text.lines().map(str::as_bytes))
    }

    #[test]
    fn keywords_in_any_case_and_none_from_the_name() {
        let found = parse(
            "PIPELINING\nstarttls\nSize 1000\n8BitMime\nX-OTHER a b\nSMTPUTF8\ndsn\nRequireTLS\n\
             Chunking\nMT-PRIORITY MIXER\nDELIVERBY 240\nAUTH plain LOGIN\nAUTH=LOGIN",
        );
        assert_eq!(
            found,
            Extensions {
                starttls: true,
                pipelining: false,
                eight_bit: true,
                smtputf8: true,
                dsn: true,
                require_tls: true,
                size: Some(1000),
                chunking: true,
                priority: true,
                deliver_by: Some(240),
                auth: ["PLAIN", "LOGIN", "LOGIN"].map(str::to_owned).to_vec(),
            }
        );
        for (text, size) in [
            ("SIZE", 0),
            ("SIZE=5", 5),
            ("SIZE 99999999999999999999", 0),
            ("SIZE -1", 0),
        ] {
            assert_eq!(parse(&format!("a\n{text}")).size, Some(size), "{text}");
        }
        assert_eq!(parse(""), Extensions::default());
    }
}
