//! Each provider as its API is: RFC 2136 against a real BIND, the others against a local one that
//! checks every byte of what it is asked.

mod bind;
mod fake;
mod rest;
mod route53;

use std::path::Path;

use super::data::{Data, Kind, Record};
use crate::config::Config;

/// A configuration whose secrets lie below `dir`.
fn config(dir: &Path) -> Config {
    let text = "hostname = \"mx.example.org\"\n[dns]\nprovider_time = \"2s\"\n";
    Config::parse(text, "chapar.toml", dir).expect("a configuration")
}

fn record(name: &str, kind: Kind, written: &str) -> Record {
    Record::new(name, Data::parse(kind, written).expect(written))
}
