//! Public test suites through our own code, with the DNS answered by a real server on loopback.

mod arc;
mod cases;
mod dkim;
mod spf;
mod yaml;
