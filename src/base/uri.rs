//! Percent-encoding (RFC 3986 section 2.1). Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but what is unreserved (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A name or value for a path or query, which it can not break out of.
pub fn escaped(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_unreserved_is_escaped() {
        assert_eq!(escaped("azAZ09-._~"), "azAZ09-._~");
        assert_eq!(escaped("\u{fc}%\r\n\0"), "%C3%BC%25%0D%0A%00");
        assert_eq!(escaped("*.a_b.example.org"), "%2A.a_b.example.org");
        assert_eq!(escaped("a/b?c"), "a%2Fb%3Fc");
    }
}
