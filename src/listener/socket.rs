//! Listening sockets: bound by us, or inherited from systemd by name.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::Listen;

/// Connections the kernel holds for us until we accept them.
pub const BACKLOG: u32 = 1024;

/// A `[[listen]]` that can not be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not `address:port`.
    #[error("listen address '{0}' is no address:port such as [::]:25, nor systemd:NAME")]
    Address(String),
    /// The system refused.
    #[error("can not listen on {address}: {error}{}", remedy(.error))]
    Bind {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// No socket of this name came from systemd.
    #[error(
        "no inherited socket is named '{0}'; a .socket unit passes one with FileDescriptorName="
    )]
    NotInherited(String),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there, `ss -ltnp` shows which",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit gives"
        }
        _ => "",
    }
}

/// The sockets systemd passed (sd_listen_fds(3)), each taken once by its name.
pub struct Inherited {
    names: Vec<String>,
    sockets: ListenFd,
}

impl Inherited {
    /// Those of this process. Reads the environment: once, at start.
    pub fn from_env() -> Inherited {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let sockets = ListenFd::from_env();
        Inherited {
            names: names.split(':').map(str::to_owned).collect(),
            sockets,
        }
    }

    fn take(&mut self, name: &str) -> Option<io::Result<StdListener>> {
        let at = self.names.iter().position(|known| known == name)?;
        // A name stands for one socket each time it is listed.
        if let Some(known) = self.names.get_mut(at) {
            known.clear();
        }
        self.sockets.take_tcp_listener(at).transpose()
    }
}

/// The socket of `listen`. Must run within a tokio runtime.
pub fn bind(listen: &Listen, inherited: &mut Inherited) -> Result<TcpListener, BindError> {
    let address = listen.address.as_str();
    let failed = |error| BindError::Bind {
        address: address.to_owned(),
        error,
    };
    if let Some(name) = address.strip_prefix("systemd:") {
        let socket = inherited
            .take(name)
            .ok_or_else(|| BindError::NotInherited(name.to_owned()))?;
        let socket = socket.map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        return TcpListener::from_std(socket).map_err(failed);
    }
    let parsed: SocketAddr = address
        .parse()
        .map_err(|_| BindError::Address(address.to_owned()))?;
    let socket = if parsed.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let listen = |socket: TcpSocket| {
        socket.set_reuseaddr(true)?;
        socket.bind(parsed)?;
        socket.listen(BACKLOG)
    };
    socket.and_then(listen).map_err(failed)
}
