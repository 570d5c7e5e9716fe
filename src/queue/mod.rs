//! The queue actor and what it owns.

mod messages;

pub use messages::{Accept, AcceptError, Attempt, Fetch, FetchError, Job, Outcome, Record};
