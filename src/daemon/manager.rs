//! What the service manager is told (sd_notify(3)).
//!
//! The crate formats it; its sender knows no abstract sockets, which containers' managers use.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// Tells it; under no manager this does nothing. A manager that can not be reached is logged: it
/// will take this daemon for one that does not come up.
pub(super) fn tell(states: &[NotifyState]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let sent = UnixDatagram::unbound().and_then(|own| {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&socket)?,
        };
        own.send_to_addr(text.as_bytes(), &address)
    });
    if let Err(error) = sent {
        let socket = socket.to_string_lossy();
        tracing::warn!(target: "daemon", %error, %socket, "the service manager can not be told");
    }
}
