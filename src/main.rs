//! The `chapar` command.
#![forbid(unsafe_code)]

fn main() {}
