//! What every room needs, once: addresses and names, cleaned text, networks, files that are
//! replaced whole, the clock.
//!
//! Pure but for [`files`], which writes, and [`time`], which reads the wall clock. It knows nothing
//! of mail beyond its addresses, enters no other room, sends no message and opens no socket.
#![forbid(unsafe_code)]

pub mod address;
pub mod files;
pub mod names;
pub mod net;
pub mod pem;
pub mod text;
pub mod time;
pub mod uri;
