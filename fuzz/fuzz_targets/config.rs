//! The configuration: any text is a configuration or says what is wrong.
#![no_main]

use std::path::Path;

use chapar::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, "chapar.toml", Path::new("/etc/chapar")) {
        assert!(!error.problem.is_empty());
    }
});
