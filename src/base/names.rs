//! Addresses as the files of an operator write them: a dot-atom, `@`, a host name; and in which
//! form they are compared.
//!
//! Addresses of the protocol are read by [`crate::address`]; what stands in a file is held to the plain
//! form, so that a typing error is an error and not an address that never matches.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::address::is_invisible;

/// Longest local part (RFC 5321 section 4.5.3.1.1), octets.
const LOCAL: usize = 64;
/// Longest domain name (RFC 1035 section 2.3.4 without the root's dot), octets.
const DOMAIN: usize = 253;
/// Longest label of a domain name, octets.
const LABEL: usize = 63;

/// Local part and domain in the form in which our own addresses are compared: [`fold`] and
/// [`to_a_labels`].
pub fn key(address: &str) -> Option<(String, String)> {
    let (local, domain) = address.rsplit_once('@')?;
    let domain = to_a_labels(domain).unwrap_or_else(|| domain.to_lowercase());
    Some((fold(local), domain))
}

/// A local part of ours as it is compared: the rules of UsernameCaseMapped (RFC 8265 section
/// 3.3.2) in their order, which are width (fullwidth forms of ASCII), case, and Unicode's form NFC.
pub fn fold(local: &str) -> String {
    if local.is_ascii() {
        return local.to_ascii_lowercase();
    }
    let narrow = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        other => other,
    };
    let lower = local.chars().map(narrow).collect::<String>().to_lowercase();
    let nfc = ComposingNormalizerBorrowed::new_nfc();
    nfc.normalize(&lower).into_owned()
}

/// A domain in lower case and A-labels (RFC 5890 section 2.3.2.1); `None`: it has none.
pub fn to_a_labels(domain: &str) -> Option<String> {
    match domain.is_ascii() {
        true => Some(domain.to_ascii_lowercase()),
        false => idna::domain_to_ascii_strict(domain).ok(),
    }
}

/// The domain of an address, in lower case and A-labels (RFC 5891 section 5.5); empty if there is
/// none, which no DNS server knows.
pub fn dns_domain(address: &str) -> Cow<'_, str> {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    if let Some(labels) = Some(domain).filter(|d| !d.is_ascii()).and_then(to_a_labels) {
        return Cow::Owned(labels);
    }
    match domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(domain.to_ascii_lowercase()),
        false => Cow::Borrowed(domain),
    }
}

/// What a domain of ours begins with if it stands for every name below another.
pub const WILDCARD: &str = "*.";

/// Whether `name` is a domain name, or `*.` and one.
pub fn is_own_domain(name: &str) -> bool {
    match name.strip_prefix(WILDCARD) {
        Some(below) => below.contains('.') && is_domain(below),
        None => is_domain(name),
    }
}

/// Whether `name` is a domain name in ASCII (RFC 1035 section 2.3.1, digits allowed in front).
pub fn is_domain(name: &str) -> bool {
    name.len() <= DOMAIN
        && name.split('.').all(|label| {
            (1..=LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Whether `local` is a dot-atom (RFC 5321 section 4.1.2), also beyond ASCII (RFC 6531 section 3.3).
pub fn is_local_part(local: &str) -> bool {
    let well = |c: char| match c {
        c if c.is_ascii() => c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c),
        c => !c.is_whitespace() && !is_invisible(c),
    };
    local.len() <= LOCAL
        && local
            .split('.')
            .all(|atom| !atom.is_empty() && atom.chars().all(well))
}

/// Why `name` is no domain name of ours, with what to write instead.
pub fn check_domain(name: &str) -> Result<(), String> {
    if !name.is_ascii() {
        let labels = to_a_labels(name).unwrap_or_else(|| "xn--...".to_owned());
        return Err(format!(
            "'{name}' is not ASCII; write its A-labels, '{labels}'"
        ));
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!(
            "'{name}' is not in lower case; write '{}'",
            name.to_ascii_lowercase()
        ));
    }
    if !is_own_domain(name) {
        return Err(format!(
            "'{name}' is no domain name; write one such as example.org, or *.example.org for all \
             names below it"
        ));
    }
    Ok(())
}

/// Why `address` is no mail address in ASCII, with what to write instead.
pub fn check(address: &str) -> Result<(), String> {
    match address.is_ascii() {
        true => check_any(address),
        false => Err(format!("'{address}' is not ASCII; write user@example.org")),
    }
}

/// Why `address` is no mail address, with what to write instead. Its domain may be in U-labels.
pub fn check_any(address: &str) -> Result<(), String> {
    let well = address.rsplit_once('@').is_some_and(|(local, domain)| {
        is_local_part(local) && to_a_labels(domain).is_some_and(|domain| is_domain(&domain))
    });
    match well {
        true => Ok(()),
        false => Err(format!("'{address}' is no address; write user@example.org")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_pass_and_others_do_not() {
        for good in [
            "a@b",
            "a.b+c@example.org",
            "o'hara@xn--bcher-kva.example",
            "1@1.2.example",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "", "@", "a", "a@", "@b", "a b@c", "a..b@c", ".a@c", "a@-b.c", "a@b..c", "a@b.",
            "a@b_c", "\"a\"@b", "a@[::1]", "a@b,c", "ä@b", "a@ä", "a\r@b", &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn local_parts_of_ours_are_compared_by_width_case_and_nfc() {
        for (written, folded) in [
            ("John.DOE", "john.doe"),
            ("J\u{dc}RGEN", "j\u{fc}rgen"),
            ("ju\u{308}rgen", "j\u{fc}rgen"),
            ("\u{ff2a}ane", "jane"),
            (
                "\u{39d}\u{399}\u{39a}\u{39f}\u{3a3}",
                "\u{3bd}\u{3b9}\u{3ba}\u{3bf}\u{3c2}",
            ),
        ] {
            assert_eq!(fold(written), folded);
            assert_eq!(fold(folded), folded, "once is enough");
        }
        assert_eq!(
            key("J\u{fc}rgen@B\u{fc}cher.example"),
            Some(("j\u{fc}rgen".into(), "xn--bcher-kva.example".into()))
        );
        assert!(check_any("j\u{fc}rgen@b\u{fc}cher.example").is_ok());
        for bad in [
            "a\u{200b}b@c",
            "a\u{a0}b@c",
            "a\u{202e}b@c",
            "a@\u{fc}_b",
            "\u{fc}",
        ] {
            assert!(check_any(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_domain_of_ours_is_written_in_one_way() {
        assert_eq!(check_domain("example.org"), Ok(()));
        assert_eq!(
            check_domain("Example.org"),
            Err("'Example.org' is not in lower case; write 'example.org'".into())
        );
        assert!(check_domain("bücher.example").is_err_and(|e| e.contains("xn--")));
        assert_eq!(check_domain("*.example.org"), Ok(()));
        for bad in [
            "*",
            "*.org",
            "*.*.example.org",
            "a.*.example.org",
            "*example.org",
        ] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
        assert!(check_domain("..").is_err());
        assert!(check_domain("").is_err());
    }
}
