//! Delivery to the next hop.
//!
//! The [`Dispatcher`] receives due messages ([`Wake`]), finds out where each recipient goes
//! ([`crate::config::routes`], then [`mx`]) and gives the parts to one worker actor for each destination. A worker
//! owns the pace ([`pacing`]) and the connections of its destination; a connection runs the
//! transactions ([`crate::smtp::client`]). What a server says is judged by [`verdict`] and reported
//! to the queue with [`crate::queue::Record`]: once for each recipient, whatever happens.
//!
//! What providers ask of our pace is data ([`crate::config::providers`]); what its rules did is kept
//! by the queue beside the suspensions of operators.
//!
//! Nothing here writes to the store. `verdict`, `mx` and `pacing` are pure.
#![forbid(unsafe_code)]

mod again;
mod batches;
mod connection;
mod counts;
mod dispatcher;
mod families;
mod here;
mod hops;
mod lanes;
pub mod look;
mod messages;
pub mod mx;
mod opening;
mod outgoing;
mod own_names;
mod paces;
#[cfg(test)]
mod paces_tests;
pub mod pacing;
pub mod password;
mod pending;
mod promise;
#[cfg(test)]
mod providers_tests;
mod reach;
#[cfg(test)]
mod reach_tests;
mod results;
mod ruling;
mod security;
mod session;
mod seven_bit;
mod sources;
mod started;
mod stops;
pub mod tally;
mod targets;
#[cfg(test)]
mod tests;
mod turn;
pub mod verdict;
mod worker;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::time;
use chapar_config as config;
use chapar_confined as confined;
use chapar_dns as dns;
#[cfg(test)]
use chapar_lab as lab;
use chapar_message as message;
use chapar_queue as queue;
use chapar_signing as signing;
use chapar_smtp as smtp;
use chapar_telemetry as telemetry;
use chapar_tls as tls;

use std::time::Duration;

pub use crate::config::routes::{RouteError, check_routes};
pub use crate::queue::HERE;
pub use crate::queue::{Resume, Suspensions, Wake};
pub use dispatcher::{Dispatcher, DispatcherError};
pub use messages::{Drain, Keeper, Reload};
pub use reach::is_local;

/// Connections to all destinations together; each is one file descriptor.
pub const CONNECTIONS: usize = 2000;
/// Recipients in one transaction: every server takes 100 (RFC 5321 section 4.5.3.1.8).
pub const RECIPIENTS: usize = 100;
/// Messages that wait while the daemon stops are due again after this time.
pub const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// What waiting messages are told when the daemon stops.
fn draining() -> verdict::Verdict {
    let reply = crate::smtp::reply::Reply::new(421, "4.3.2", "the daemon is stopping");
    verdict::Verdict::postponed(DRAIN_WAIT, reply)
}
