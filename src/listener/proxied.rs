//! Reads the PROXY header of a connection that one of our proxies opened.

use std::net::SocketAddr;
use std::sync::Arc;

use actix::Addr;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::patience::Patience;
use super::{Listener, Place};
use crate::smtp::proxy::{self, Form, Malformed};

/// The client, and its place among its own connections. `None`: no sound header came, or the client
/// has too many connections; the connection is dropped, for a proxy has no use for a reply.
pub async fn client(
    stream: &mut TcpStream,
    proxy: SocketAddr,
    listener: &Addr<Listener>,
    patience: &Patience,
) -> Option<(SocketAddr, Option<Arc<()>>)> {
    let header = patience.wait(patience.busy(), header(stream)).await;
    match header {
        Some(Ok(Some(client))) => {
            let place = listener.send(Place(client.ip())).await.ok().flatten();
            if place.is_none() {
                tracing::warn!(target: "listener", client = %client.ip(), "too many connections");
            }
            Some((client, Some(place?)))
        }
        Some(Ok(None)) => Some((proxy, None)),
        _ => {
            tracing::warn!(target: "listener", proxy = %proxy.ip(), "no sound PROXY header");
            None
        }
    }
}

/// Reads the header and not one byte more: what follows may be a TLS handshake.
async fn header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Malformed> {
    let gone = |_| Malformed;
    let mut start = [0; proxy::PREFIX];
    stream.read_exact(&mut start).await.map_err(gone)?;
    match proxy::form(&start)? {
        Form::V1 => {
            let mut line = start.to_vec();
            while !line.ends_with(b"\n") {
                if line.len() >= proxy::V1_LONGEST {
                    return Err(Malformed);
                }
                line.push(stream.read_u8().await.map_err(gone)?);
            }
            proxy::v1(&line)
        }
        Form::V2 => {
            let mut end = [0; proxy::V2_HEADER - proxy::PREFIX];
            stream.read_exact(&mut end).await.map_err(gone)?;
            let mut header = [0; proxy::V2_HEADER];
            let parts = start.iter().chain(&end);
            header
                .iter_mut()
                .zip(parts)
                .for_each(|(to, from)| *to = *from);
            let mut rest = vec![0; proxy::v2_length(&header)?];
            stream.read_exact(&mut rest).await.map_err(gone)?;
            proxy::v2(&header, &rest)
        }
    }
}
