//! Addresses as the files of an operator write them: a dot-atom, `@`, a host name in ASCII.
//!
//! Addresses of the protocol are the `smtp` module's; what stands in a file is held to the plain
//! form, so that a typing error is an error and not an address that never matches.

/// Longest local part (RFC 5321 section 4.5.3.1.1), octets.
const LOCAL: usize = 64;
/// Longest domain name (RFC 1035 section 2.3.4 without the root's dot), octets.
const DOMAIN: usize = 253;
/// Longest label of a domain name, octets.
const LABEL: usize = 63;

/// Local part and domain, both in lower case: how our own addresses are compared.
pub(crate) fn key(address: &str) -> Option<(String, String)> {
    let (local, domain) = address.rsplit_once('@')?;
    Some((local.to_lowercase(), domain.to_ascii_lowercase()))
}

/// Whether `name` is a domain name in ASCII (RFC 1035 section 2.3.1, digits allowed in front).
pub(crate) fn is_domain(name: &str) -> bool {
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

/// Whether `local` is a dot-atom (RFC 5321 section 4.1.2), in ASCII.
pub(crate) fn is_local_part(local: &str) -> bool {
    local.len() <= LOCAL
        && local.split('.').all(|atom| {
            !atom.is_empty()
                && atom
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
        })
}

/// Why `name` is no domain name of ours, with what to write instead.
pub(crate) fn check_domain(name: &str) -> Result<(), String> {
    if !name.is_ascii() {
        return Err(format!(
            "'{name}' is not ASCII; write its A-labels (xn--...)"
        ));
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!(
            "'{name}' is not in lower case; write '{}'",
            name.to_ascii_lowercase()
        ));
    }
    if !is_domain(name) {
        return Err(format!(
            "'{name}' is no domain name; write one such as example.org"
        ));
    }
    Ok(())
}

/// Why `address` is no mail address, with what to write instead.
pub(crate) fn check(address: &str) -> Result<(), String> {
    let well = address
        .rsplit_once('@')
        .is_some_and(|(local, domain)| is_local_part(local) && is_domain(domain));
    if well {
        Ok(())
    } else {
        Err(format!("'{address}' is no address; write user@example.org"))
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
    fn a_domain_of_ours_is_written_in_one_way() {
        assert_eq!(check_domain("example.org"), Ok(()));
        assert_eq!(
            check_domain("Example.org"),
            Err("'Example.org' is not in lower case; write 'example.org'".into())
        );
        assert!(check_domain("bücher.example").is_err_and(|e| e.contains("xn--")));
        assert!(check_domain("..").is_err());
        assert!(check_domain("").is_err());
    }
}
