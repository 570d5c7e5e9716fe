//! A world on loopback for `chapar demo` and the tests.

mod client;

pub use client::{Answer, Client};
