//! The queue actor and what it owns.

mod messages;
pub mod schedule;
pub mod store;

pub use messages::{Accept, AcceptError, Attempt, Fetch, FetchError, Job, Outcome, Record};
