//! The outbound side against a DNS server and MX hosts on loopback that do as they are told.

mod bind;
mod cases;
mod chunks;
mod contents;
mod dane;
mod faults;
mod finding;
mod look;
mod next_host;
mod promises;
mod providers;
mod recipients;
mod reports;
mod route_tls;
mod routing;
mod sts;
mod transactions;
mod unreadable;
mod ways;
mod world;
