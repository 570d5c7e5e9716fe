//! The SMTP server from outside: the real binary, and a client that says what it likes.

mod addresses;
mod arriving;
mod dialogues;
mod documented;
mod idle;
mod interop;
mod relays;
mod resources;
mod script;
#[allow(dead_code, reason = "shared with the other suites, which use the rest")]
#[path = "../it/world.rs"]
mod world;
