//! Addresses: what is understood is understood the same way again.
#![no_main]

use chapar::smtp::address::{Address, Charset, forward_path, reverse_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for charset in [Charset::Ascii, Charset::Utf8] {
        if let Ok(address) = Address::parse_in(data, charset) {
            let again = Address::parse_in(address.as_str().as_bytes(), charset);
            assert_eq!(again.as_ref(), Ok(&address));
            assert!(address.domain().is_ascii() && !address.domain().contains(['/', '\\', '\0']));
            assert!(!address.as_str().chars().any(char::is_control));
        }
        let _ = reverse_path(data, charset);
        let _ = forward_path(data, "mx.example.org", charset);
    }
});
