//! The header fields that tell what was found out: Authentication-Results (RFC 8601) and
//! Received-SPF (RFC 7208 section 9.1). Pure.
//!
//! Every value passes `value` or `comment`: nothing a client, a PTR record or a signature holds
//! can end a field or begin another.

use crate::message::headers::Field;
use crate::smtp::address::is_invisible;
use crate::verify::Verdicts;
use crate::verify::arc::ArcResult;
use crate::verify::dkim::DkimResult;
use crate::verify::iprev::Iprev;
use crate::verify::spf::SpfResult;

/// Longest value that is repeated, in characters.
const LONGEST: usize = 320;

/// The verdicts as they stand in Authentication-Results and ARC-Authentication-Results: after the
/// authserv-id, folded, without a line end. `utf8`: the message is internationalised (RFC 6532), so
/// that what is beyond ASCII may stay; else it is escaped as RFC 6533 section 3 does.
pub fn results(verdicts: &Verdicts, utf8: bool) -> String {
    let value = |text: &str| value(text, utf8);
    let comment = |text: &str| comment(text, utf8);
    let mut parts = Vec::new();
    let name = match &verdicts.iprev {
        Iprev::Pass(name) => format!(" ({})", comment(name)),
        _ => String::new(),
    };
    parts.push(format!(
        "iprev={}{name} policy.iprev={}",
        verdicts.iprev.as_str(),
        value(&verdicts.client.to_string())
    ));
    let identity = match verdicts.from.as_str() {
        "" => format!("smtp.helo={}", value(&verdicts.hello)),
        from => format!("smtp.mailfrom={}", value(from)),
    };
    parts.push(format!("spf={} {identity}", verdicts.spf.result.as_str()));
    if verdicts.dkim.is_empty() {
        parts.push("dkim=none".to_owned());
    }
    for signature in &verdicts.dkim {
        let mut part = format!("dkim={}", signature.result.as_str());
        if signature.result != DkimResult::Pass {
            part.push_str(&format!(" ({})", comment(signature.reason)));
        }
        for (property, text) in [
            ("header.d", signature.domain.as_str()),
            ("header.s", signature.selector.as_str()),
            ("header.a", signature.algorithm),
            ("header.b", signature.mark.as_str()),
        ] {
            if !text.is_empty() {
                part.push_str(&format!(" {property}={}", value(text)));
            }
        }
        parts.push(part);
    }
    let dmarc = &verdicts.dmarc;
    let mut part = format!("dmarc={}", dmarc.result.as_str());
    if dmarc.record.is_some() {
        part.push_str(&format!(" (p={})", dmarc.policy.as_str()));
    }
    if !dmarc.domain.is_empty() {
        part.push_str(&format!(" header.from={}", value(&dmarc.domain)));
    }
    parts.push(part);
    let arc = &verdicts.arc;
    let why = match arc.result {
        ArcResult::Fail | ArcResult::TempError => format!(" ({})", comment(arc.reason)),
        ArcResult::None | ArcResult::Pass => String::new(),
    };
    parts.push(format!("arc={}{why}", arc.result.as_str()));
    // RFC 8904.
    if let Some(listing) = &verdicts.allowed {
        parts.push(format!(
            "dnswl=pass dns.zone={} policy.ip={}",
            value(&listing.zone),
            value(&listing.answer.to_string())
        ));
    }
    parts.join(";\r\n\t")
}

/// The Authentication-Results field.
pub fn field(hostname: &str, verdicts: &Verdicts, utf8: bool) -> String {
    let results = results(verdicts, utf8);
    format!("Authentication-Results: {hostname};\r\n\t{results}\r\n")
}

/// The Received-SPF field.
pub fn received_spf(hostname: &str, verdicts: &Verdicts, utf8: bool) -> String {
    let value = |text: &str| value(text, utf8);
    let result = match verdicts.spf.result {
        SpfResult::None => "None",
        SpfResult::Neutral => "Neutral",
        SpfResult::Pass => "Pass",
        SpfResult::Fail => "Fail",
        SpfResult::SoftFail => "Softfail",
        SpfResult::TempError => "Temperror",
        SpfResult::PermError => "Permerror",
    };
    let identity = match verdicts.from.is_empty() {
        true => "helo",
        false => "mailfrom",
    };
    format!(
        "Received-SPF: {result} receiver={hostname}; client-ip={};\r\n\tenvelope-from={}; helo={}; identity={identity}\r\n",
        value(&verdicts.client.to_string()),
        quoted(&verdicts.from, utf8),
        value(&verdicts.hello),
    )
}

/// Whether a field claims to be our own verdict: an Authentication-Results that names our host
/// (RFC 8601 section 5). It is removed even if a signature covers it.
pub fn is_forged(field: &Field<'_>, hostname: &str) -> bool {
    if !field.is("Authentication-Results") {
        return false;
    }
    let name = first_word(field.value);
    // A final dot names the same host.
    let name = name.strip_suffix(b".").unwrap_or(&name);
    name.eq_ignore_ascii_case(hostname.as_bytes())
}

/// The first word of a structured value, without comments, quotes, or the version that may follow.
fn first_word(value: &[u8]) -> Vec<u8> {
    let mut word = Vec::new();
    let mut depth = 0usize;
    let mut quoted = false;
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if depth > 0 || quoted => {
                let escaped = bytes.next();
                if quoted {
                    word.extend(escaped);
                }
            }
            b'"' if depth == 0 => {
                quoted = !quoted;
                if !quoted {
                    return word;
                }
            }
            _ if quoted => word.push(*byte),
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            b' ' | b'\t' | b'\r' | b'\n' if word.is_empty() => {}
            b' ' | b'\t' | b'\r' | b'\n' | b';' | b'/' => return word,
            _ => word.push(*byte),
        }
    }
    word
}

/// A value as a token, a dot-atom address, or else a quoted string (RFC 8601 section 2.2).
fn value(text: &str, utf8: bool) -> String {
    let plain = !text.is_empty()
        && text.len() <= LONGEST
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.@:[]".contains(&b));
    // A token has no "=", "/", ":" or brackets (RFC 2045); an address and base64 do.
    let token = plain && !text.bytes().any(|b| b"=/:[]?".contains(&b));
    match token {
        true => text.to_owned(),
        false => quoted(text, utf8),
    }
}

fn quoted(text: &str, utf8: bool) -> String {
    let mut out = String::from("\"");
    for c in text.chars().take(LONGEST) {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => beyond(c, utf8, &mut out),
        }
    }
    out.push('"');
    out
}

fn comment(text: &str, utf8: bool) -> String {
    let mut out = String::new();
    for c in text.chars().take(LONGEST) {
        match c {
            '(' | ')' | '\\' => out.push('?'),
            ' '..='~' => out.push(c),
            _ => beyond(c, utf8, &mut out),
        }
    }
    out
}

/// A character beyond ASCII as it is, or by its number: another address must not appear in its
/// place. The backslash of the escape is quoted.
fn beyond(c: char, utf8: bool, out: &mut String) {
    match c {
        _ if is_invisible(c) => out.push('?'),
        _ if utf8 => out.push(c),
        _ => out.push_str(&format!("\\\\x{{{:X}}}", u32::from(c))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c151_fields_in_our_name_are_known_in_every_spelling() {
        let judge = |text: &str| {
            let fields = crate::message::headers::fields(text.as_bytes()).expect("fields");
            fields
                .first()
                .map(|field| is_forged(field, "our.host"))
                .expect("a field")
        };
        for ours in [
            "Authentication-Results: our.host; dkim=pass\r\n",
            "authentication-results:\r\n OUR.HOST/1; spf=pass\r\n",
            "Authentication-Results: our.host 1; none\r\n",
            "Authentication-Results: (c (d) \\) e) \"our.host\"; none\r\n",
            "Authentication-Results: our.host.; none\r\n",
            "Authentication-Results: our.host(x); none\r\n",
            "Authentication-Results: our.host",
        ] {
            assert!(judge(ours), "{ours}");
        }
        for others in [
            "Authentication-Results: other.host; dkim=pass\r\n",
            "Authentication-Results: not-our.host; dkim=pass\r\n",
            "Authentication-Results: x our.host; dkim=pass\r\n",
            "X-Authentication-Results: our.host; dkim=pass\r\n",
            "Authentication-Results:\r\n",
        ] {
            assert!(!judge(others), "{others}");
        }
    }

    #[test]
    fn values_can_not_break_out() {
        let value = |text: &str| value(text, false);
        let comment = |text: &str| comment(text, false);
        assert_eq!(value("a@b.example"), "a@b.example");
        assert_eq!(value("ab/cd+=="), "\"ab/cd+==\"");
        assert_eq!(
            value("x; dmarc=pass\r\nBcc: y"),
            "\"x; dmarc=pass??Bcc: y\""
        );
        assert_eq!(value("a\"b\\c"), "\"a\\\"b\\\\c\"");
        assert_eq!(value(""), "\"\"");
        assert_eq!(comment("host) dmarc=pass ("), "host? dmarc=pass ?");
        assert!(value(&"x".repeat(5000)).len() <= LONGEST + 2);
    }

    #[test]
    fn o10_no_other_address_appears_where_characters_are_beyond_ascii() {
        let address = "j\u{fc}rgen@example.org";
        assert_eq!(value(address, true), "\"j\u{fc}rgen@example.org\"");
        assert_eq!(value(address, false), "\"j\\\\x{FC}rgen@example.org\"");
        assert_eq!(comment("\u{fc}", false), "\\\\x{FC}");
        assert_eq!(value("a\u{202e}b", true), "\"a?b\"");
    }
}
