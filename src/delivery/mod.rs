//! Delivery to the next hop.
//!
//! The [`Dispatcher`] receives due messages ([`Wake`]), finds out where each recipient goes
//! ([`routes`], then [`mx`]) and gives the parts to one worker actor for each destination. A worker
//! owns the pace ([`pacing`]) and the connections of its destination; a connection runs the
//! transactions ([`crate::smtp::client`]). What a server says is judged by [`verdict`] and reported
//! to the queue with [`crate::queue::Record`]: once for each recipient, whatever happens.
//!
//! What providers ask of our pace is data ([`providers`]); what its rules did is kept by the queue
//! beside the suspensions of operators.
//!
//! Nothing here writes to the store. `verdict`, `mx`, `pacing`, `providers` and `routes` are pure.

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
pub mod providers;
#[cfg(test)]
mod providers_tests;
mod reach;
#[cfg(test)]
mod reach_tests;
mod results;
pub mod routes;
mod ruling;
mod security;
mod session;
mod seven_bit;
mod sources;
mod started;
mod stops;
mod targets;
#[cfg(test)]
mod tests;
mod turn;
pub mod verdict;
mod worker;

use std::time::Duration;

pub use dispatcher::{Dispatcher, DispatcherError};
pub use messages::{Drain, Keeper, Reload, Resume, Suspensions, Wake};
pub use reach::is_local;
pub use routes::{RouteError, check_routes};

/// Connections to all destinations together; each is one file descriptor.
pub const CONNECTIONS: usize = 2000;
/// Recipients in one transaction: every server takes 100 (RFC 5321 section 4.5.3.1.8).
pub const RECIPIENTS: usize = 100;
/// How outcomes call this machine, where the others name a host.
pub const HERE: &str = "local";
/// Messages that wait while the daemon stops are due again after this time.
pub const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// What waiting messages are told when the daemon stops.
fn draining() -> verdict::Verdict {
    let reply = crate::smtp::reply::Reply::new(421, "4.3.2", "the daemon is stopping");
    verdict::Verdict::postponed(DRAIN_WAIT, reply)
}
