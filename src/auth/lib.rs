//! Who is sending: the actor that verifies passwords, slows guessers down and counts what users
//! send.
//!
//! Receives [`Authenticate`], [`FindVerifier`], [`Proved`], [`Spend`] and [`Reload`]; sends
//! nothing. Hashing takes tens of milliseconds and 19 MiB, so it runs on a pool with one thread a
//! core, as does everything that touches a file, and a bounded number of logins wait for it. Never
//! logs a password, never says whether it was the user or the password that was wrong, and takes
//! the same time for both.
#![forbid(unsafe_code)]

mod actor;
pub mod bans;
pub mod dovecot;
mod guessers;
pub mod last_use;
mod messages;
mod quota;
mod regulars;
mod state;

// The rooms that this one enters.
use chapar_base::time;
use chapar_config as config;
use chapar_identity as identity;
use chapar_smtp as smtp;

pub use actor::Authenticator;
pub use actor::MAX_WAITING;
pub use guessers::{MAX_REMEMBERED, client};
pub use messages::{AuthError, Authenticate, FindVerifier, Proved, Reload, Spend};
pub use state::AuthFiles;
