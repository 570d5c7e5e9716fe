//! The `mta-queue` command.
#![forbid(unsafe_code)]

fn main() {}
