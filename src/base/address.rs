//! Mailboxes and paths of the envelope (RFC 5321 sections 4.1.2 and 4.1.3).
//!
//! Pure: bytes in, an address or a reason out. Nothing in a local part is ever reinterpreted: the
//! domain after the last unquoted `@` alone decides where mail goes, whatever `%`, `!` or `@` the
//! local part holds.

use std::fmt;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// Longest domain in bytes: RFC 5321 section 4.5.3.1.2 says 255, but the DNS has no name of more
/// than 253 (RFC 1035 section 3.1, less its length bytes).
pub const MAX_DOMAIN: usize = 253;
/// Longest address in bytes: a path of 256 less its brackets (RFC 5321 section 4.5.3.1.3).
pub const MAX_ADDRESS: usize = 254;

/// A mailbox `local@domain`.
///
/// The domain is in lower case and as A-labels, whichever form was given (RFC 5890 section 2.3.2.1);
/// the local part keeps its bytes, UTF-8 among them; a quoted local part that needs no quotes has lost them, so that
/// two spellings of one mailbox are equal (RFC 5321 section 4.1.2: "the sending system SHOULD
/// transmit the form that uses the minimum quoting possible").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: String,
    at: usize,
}

/// Why bytes are no address; each names what to correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `<` and `>` around it, or something after the `>`.
    #[error("write the address between < and >")]
    Brackets,
    /// No `@domain`.
    #[error("the address has no domain")]
    NoDomain,
    /// The local part breaks the grammar.
    #[error("the part before the @ is malformed")]
    Local,
    /// The domain breaks the grammar.
    #[error("the domain is malformed")]
    Domain,
    /// Longer than [`MAX_DOMAIN`] or [`MAX_ADDRESS`].
    #[error("the address is too long")]
    TooLong,
    /// Bytes over 127 without SMTPUTF8 (RFC 6531).
    #[error("a non-ASCII address needs the SMTPUTF8 parameter")]
    NotAscii,
    /// Bytes over 127 that are no UTF-8, or characters that can not be seen.
    #[error("the address is no UTF-8 or holds invisible characters")]
    Unreadable,
}

/// Which characters an address may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// RFC 5321.
    Ascii,
    /// RFC 6531: UTF-8 in local parts, U-labels in domains.
    Utf8,
}

impl Address {
    /// Parses `local@domain` in ASCII, without brackets.
    pub fn parse(text: &[u8]) -> Result<Address, AddressError> {
        Address::parse_in(text, Charset::Ascii)
    }

    /// Parses `local@domain` without brackets.
    pub fn parse_in(text: &[u8], charset: Charset) -> Result<Address, AddressError> {
        if !text.is_ascii() {
            if charset == Charset::Ascii {
                return Err(AddressError::NotAscii);
            }
            let text = std::str::from_utf8(text).map_err(|_| AddressError::Unreadable)?;
            if text.chars().any(is_invisible) {
                return Err(AddressError::Unreadable);
            }
        }
        let (local, rest) = local_part(text)?;
        let domain = match rest {
            [b'@', domain @ ..] => domain,
            [] => return Err(AddressError::NoDomain),
            _ => return Err(AddressError::Local),
        };
        // RFC 5321 section 4.5.3.1: a limit of 64 octets for local parts is for those who make them;
        // whoever gets one takes what it can handle, which is a path.
        if local.len() > MAX_ADDRESS || domain.len() > 4 * MAX_DOMAIN {
            return Err(AddressError::TooLong);
        }
        if domain.is_empty() {
            return Err(AddressError::NoDomain);
        }
        let domain = canonical_domain(domain)?;
        let mut text = local;
        let at = text.len();
        text.push('@');
        text.push_str(&domain);
        if text.len() > MAX_ADDRESS {
            return Err(AddressError::TooLong);
        }
        Ok(Address { text, at })
    }

    /// Whether it can go where SMTPUTF8 is not offered.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// The local part, quoted if it must be.
    pub fn local(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    /// The domain in lower case, or an address literal with its brackets.
    pub fn domain(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    /// `local@domain`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// Parses the path of MAIL FROM: `None` is the null reverse-path `<>`. Gives what follows the `>`.
pub fn reverse_path(
    text: &[u8],
    charset: Charset,
) -> Result<(Option<Address>, &[u8]), AddressError> {
    if let [b'<', b'>', rest @ ..] = text {
        return Ok((None, rest));
    }
    let (inner, rest) = bracketed(text)?;
    let address = Address::parse_in(without_route(inner)?, charset)?;
    Ok((Some(address), rest))
}

/// Parses the path of RCPT TO; `<postmaster>` in any case means the postmaster of
/// `own_domain` (RFC 5321 section 4.5.1). Gives what follows the `>`.
pub fn forward_path<'a>(
    text: &'a [u8],
    own_domain: &str,
    charset: Charset,
) -> Result<(Address, &'a [u8]), AddressError> {
    let (inner, rest) = bracketed(text)?;
    if inner.eq_ignore_ascii_case(b"postmaster") {
        let whole = format!("postmaster@{own_domain}");
        return Ok((Address::parse(whole.as_bytes())?, rest));
    }
    Ok((Address::parse_in(without_route(inner)?, charset)?, rest))
}

/// What is between `<` and the matching `>`, and what follows it. A `>` in a quoted string does
/// not end it.
fn bracketed(text: &[u8]) -> Result<(&[u8], &[u8]), AddressError> {
    let inner = text.strip_prefix(b"<").ok_or(AddressError::Brackets)?;
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let (path, rest) = inner.split_at(at);
                let rest = rest.get(1..).unwrap_or_default();
                if !matches!(rest, [] | [b' ', ..]) {
                    return Err(AddressError::Brackets);
                }
                return Ok((path, rest));
            }
            _ => {}
        }
    }
    Err(AddressError::Brackets)
}

/// Drops a source route `@a,@b:`: it must be accepted and ignored (RFC 5321 section 4.1.1.3).
fn without_route(path: &[u8]) -> Result<&[u8], AddressError> {
    if !path.starts_with(b"@") {
        return Ok(path);
    }
    let colon = path
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(AddressError::Local)?;
    let (route, rest) = path.split_at(colon);
    let sound = route
        .split(|byte| *byte == b',')
        .all(|hop| hop.strip_prefix(b"@").is_some_and(valid_domain));
    if !sound {
        return Err(AddressError::Domain);
    }
    Ok(rest.get(1..).unwrap_or_default())
}

/// A Dot-string or Quoted-string at the start of `text`, in its shortest form, and the rest.
fn local_part(text: &[u8]) -> Result<(String, &[u8]), AddressError> {
    if let [b'"', inner @ ..] = text {
        return quoted_local(inner);
    }
    let end = text
        .iter()
        .position(|byte| !(is_atext(*byte) || *byte == b'.'))
        .unwrap_or(text.len());
    let (local, rest) = text.split_at(end);
    if !is_dot_string(local) {
        return Err(AddressError::Local);
    }
    let local = std::str::from_utf8(local).map_err(|_| AddressError::Unreadable)?;
    Ok((local.to_owned(), rest))
}

fn quoted_local(inner: &[u8]) -> Result<(String, &[u8]), AddressError> {
    let mut content = Vec::new();
    let mut bytes = inner.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                let rest = inner.get(at + 1..).unwrap_or_default();
                let content =
                    std::str::from_utf8(&content).map_err(|_| AddressError::Unreadable)?;
                return Ok((requoted(content), rest));
            }
            b'\\' => match bytes.next() {
                Some((_, escaped @ 32..=126)) => content.push(*escaped),
                _ => return Err(AddressError::Local),
            },
            32..=126 | 128.. => content.push(*byte),
            _ => return Err(AddressError::Local),
        }
    }
    Err(AddressError::Local)
}

fn requoted(content: &str) -> String {
    if is_dot_string(content.as_bytes()) {
        return content.to_owned();
    }
    let mut text = String::with_capacity(content.len() + 2);
    text.push('"');
    for character in content.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}

fn is_dot_string(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().all(|byte| is_atext(*byte)))
}

/// RFC 5322 section 3.2.3 and RFC 6531 section 3.3.
fn is_atext(byte: u8) -> bool {
    byte >= 128 || byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Characters no person can see in an address: controls, white space, marks that join, hide or turn
/// text around. RFC 6531 lets them pass; an address that looks like another one is not worth it.
pub fn is_invisible(character: char) -> bool {
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The one form in which domains are compared: lower case, A-labels; an address literal in lower
/// case.
fn canonical_domain(domain: &[u8]) -> Result<String, AddressError> {
    if domain.starts_with(b"[") {
        let literal = std::str::from_utf8(domain)
            .ok()
            .filter(|_| valid_literal(domain));
        return literal
            .map(str::to_ascii_lowercase)
            .ok_or(AddressError::Domain);
    }
    let lower = match std::str::from_utf8(domain) {
        Ok(text) if text.is_ascii() && !has_a_label(text) => text.to_ascii_lowercase(),
        _ => a_labels(domain).ok_or(AddressError::Domain)?,
    };
    match lower.len() {
        0..=MAX_DOMAIN if valid_domain(lower.as_bytes()) => Ok(lower),
        0..=MAX_DOMAIN => Err(AddressError::Domain),
        _ => Err(AddressError::TooLong),
    }
}

/// The A-labels of a domain in UTF-8. Each label must be the U-label itself, upper case aside:
/// characters that mapping turns into others (full-width letters, ideographic full stops) are how
/// one domain is made to pass for another.
fn a_labels(domain: &[u8]) -> Option<String> {
    let uts46 = Uts46::new();
    let given = std::str::from_utf8(domain).ok()?;
    let ascii = uts46
        .to_ascii(
            domain,
            AsciiDenyList::EMPTY,
            Hyphens::Allow,
            DnsLength::Ignore,
        )
        .ok()?;
    let (unicode, valid) = uts46.to_unicode(ascii.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
    let same = given.split('.').count() == unicode.split('.').count()
        && given
            .split('.')
            .zip(unicode.split('.'))
            .all(|(given, label)| given.is_ascii() || given.to_lowercase() == label);
    (valid.is_ok() && same).then(|| ascii.into_owned())
}

/// Whether a label claims to be an A-label, which must then be one.
fn has_a_label(domain: &str) -> bool {
    domain.split('.').any(|label| {
        label
            .get(..4)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"))
    })
}

/// Letters, digits and hyphens in labels of 1 to 63 bytes (RFC 5321 section 4.1.2); `_` is let
/// pass inside a label as hosts that can not change their name use it.
pub fn valid_domain(domain: &[u8]) -> bool {
    !domain.is_empty()
        && domain.len() <= MAX_DOMAIN
        && domain.split(|byte| *byte == b'.').all(|label| {
            matches!(label, [first, .., last] if is_let_dig(*first) && is_let_dig(*last))
                && label.len() <= 63
                && label
                    .iter()
                    .all(|byte| is_let_dig(*byte) || matches!(byte, b'-' | b'_'))
                || matches!(label, [only] if is_let_dig(*only))
        })
}

fn is_let_dig(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
pub fn valid_literal(domain: &[u8]) -> bool {
    literal_address(domain).is_some()
}

/// The address an address literal names.
pub fn literal_address(domain: &[u8]) -> Option<std::net::IpAddr> {
    let inner = domain.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let inner = std::str::from_utf8(inner).ok()?;
    match inner
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("ipv6:"))
    {
        Some(_) => inner
            .get(5..)?
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(Into::into),
        None => inner.parse::<std::net::Ipv4Addr>().ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str) -> Result<String, AddressError> {
        Address::parse(text.as_bytes()).map(|address| address.to_string())
    }

    #[test]
    fn addresses_keep_their_meaning() {
        for (given, kept) in [
            ("User@Example.ORG", "User@example.org"),
            ("\"user\"@example.org", "user@example.org"),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("\"a\\@b\"@example.org", "\"a@b\"@example.org"),
            (
                "\"a@evil.example\"@example.org",
                "\"a@evil.example\"@example.org",
            ),
            ("a%evil.example@example.org", "a%evil.example@example.org"),
            ("info@[192.0.2.1]", "info@[192.0.2.1]"),
            ("info@[IPv6:2001:db8::1]", "info@[ipv6:2001:db8::1]"),
            ("\"info@\"@example.com", "\"info@\"@example.com"),
        ] {
            assert_eq!(reads(given).as_deref(), Ok(kept), "{given}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused_with_the_reason() {
        use AddressError::*;
        let long_local = format!("{}@example.org", "a".repeat(243));
        let long_domain = format!("a@{}example.org", "abcdefgh.".repeat(28));
        for (given, error) in [
            ("", Local),
            ("user", NoDomain),
            ("user@", NoDomain),
            ("@example.org", Local),
            (".user@example.org", Local),
            ("us..er@example.org", Local),
            ("us er@example.org", Local),
            (";sleep 66;", Local),
            ("a@b@c.example", Domain),
            ("a@-b.example", Domain),
            ("a@b..example", Domain),
            ("a@example.org.", Domain),
            ("a@[300.1.1.1]", Domain),
            ("a@[192.0.2.1", Domain),
            ("\"a@example.org", Local),
            ("\"a\"b@example.org", Local),
            ("jürgen@example.org", NotAscii),
            ("a\0b@example.org", Local),
            (long_local.as_str(), TooLong),
            (long_domain.as_str(), TooLong),
        ] {
            assert_eq!(reads(given), Err(error), "{given:?}");
        }
    }

    #[test]
    fn r5_local_parts_are_taken_up_to_the_limit_of_a_path() {
        for length in [65, 200, 242] {
            let text = format!("{}@example.org", "a".repeat(length));
            assert_eq!(reads(&text).as_deref(), Ok(text.as_str()));
        }
    }

    #[test]
    fn both_forms_of_a_domain_are_one_address() {
        let reads = |text: &str| {
            Address::parse_in(text.as_bytes(), Charset::Utf8).map(|address| address.to_string())
        };
        for (given, kept) in [
            ("user@bücher.example", "user@xn--bcher-kva.example"),
            ("user@BÜCHER.example", "user@xn--bcher-kva.example"),
            ("user@XN--bcher-kva.example", "user@xn--bcher-kva.example"),
            ("jürgen@example.org", "jürgen@example.org"),
            ("\"jür gen\"@example.org", "\"jür gen\"@example.org"),
            ("用户@例え.example", "用户@xn--r8jz45g.example"),
        ] {
            assert_eq!(reads(given).as_deref(), Ok(kept), "{given}");
        }
        for (given, error) in [
            ("user@xn--.example", AddressError::Domain),
            ("user@xn--zzzzzzz9999.example", AddressError::Domain),
            ("user\u{2060}@example.org", AddressError::Unreadable),
            ("us\u{202e}er@example.org", AddressError::Unreadable),
            ("user\u{85}@example.org", AddressError::Unreadable),
            ("user@ex ample.org", AddressError::Domain),
            ("user@ｅxample.org", AddressError::Domain),
            ("user@bücher。example", AddressError::Domain),
        ] {
            assert_eq!(reads(given), Err(error), "{given:?}");
        }
        let invalid = Address::parse_in(b"\xff@example.org", Charset::Utf8);
        assert_eq!(invalid, Err(AddressError::Unreadable));
        assert_eq!(Address::parse(b"a@xn--.example"), Err(AddressError::Domain));
    }

    #[test]
    fn paths_end_at_their_bracket() {
        let (address, rest) = reverse_path(b"<a@b.example> SIZE=1", Charset::Ascii).expect("path");
        assert_eq!(
            address.map(|a| a.to_string()).as_deref(),
            Some("a@b.example")
        );
        assert_eq!(rest, b" SIZE=1");
        assert_eq!(
            reverse_path(b"<>", Charset::Ascii).expect("null"),
            (None, &b""[..])
        );
        let (address, _) =
            forward_path(b"<\">\"@b.example>", "x.example", Charset::Ascii).expect("path");
        assert_eq!(address.as_str(), "\">\"@b.example");
        let (address, _) = forward_path(
            b"<@hop.example,@b.example:c@d.example>",
            "x",
            Charset::Ascii,
        )
        .expect("route");
        assert_eq!(address.as_str(), "c@d.example");
        let (address, _) =
            forward_path(b"<PostMaster>", "mx.example.org", Charset::Ascii).expect("postmaster");
        assert_eq!(address.as_str(), "postmaster@mx.example.org");
        for bad in [
            &b"a@b.example"[..],
            b"<a@b.example",
            b"<a@b.example>x",
            b"<a@b.example>>",
            b"<<a@b>",
        ] {
            assert!(
                forward_path(bad, "x.example", Charset::Ascii).is_err(),
                "{bad:?}"
            );
        }
        assert!(forward_path(b"<>", "x.example", Charset::Ascii).is_err());
    }
}
