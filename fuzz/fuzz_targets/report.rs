//! Reports of strangers: whatever is sent is read within its bounds or refused, and adds up.
#![no_main]

use chapar::report::received::{read, summary::add_up};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(reports) = read(data) {
        assert!(!reports.is_empty());
        let _ = add_up(&reports, None);
    }
});
