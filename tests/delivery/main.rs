//! The outbound side against a DNS server and MX hosts on loopback that do as they are told.

mod bind;
mod dane;
mod faults;
mod promises;
mod providers;
mod routing;
mod sts;
mod transactions;
mod ways;
mod world;
