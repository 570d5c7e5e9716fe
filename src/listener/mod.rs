//! The listener actor: accepts connections on one address and hands each to a session.
//!
//! Receives [`Reload`] and [`Drain`]; starts sessions, which are tasks spread over the session
//! arbiters, one per core, so that a slow peer never holds another. Limits connections in all and
//! by client. Never reads a byte of mail itself.

mod receive;
mod session;
mod socket;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, StreamHandler};
use actix::{ArbiterHandle, ResponseFuture};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::config::{Listen, Service, TlsMode};
use crate::smtp::replies;

pub use session::Shared;
pub use socket::{BACKLOG, BindError, Inherited, bind};

/// How long accepting pauses after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Entries of the table of clients after which those without a connection are swept out.
const SWEEP_AT: usize = 4096;

/// The actor of one `[[listen]]`.
pub struct Listener {
    name: String,
    service: Service,
    tls: TlsMode,
    socket: Option<TcpListener>,
    shared: Arc<Shared>,
    sessions: Vec<ArbiterHandle>,
    next: usize,
    /// One permit for each connection; all of them back means that all sessions have ended.
    slots: Arc<Semaphore>,
    max: usize,
    /// A clone is held by each session of the client, so that the count is its number of owners.
    clients: HashMap<IpAddr, Arc<()>>,
    /// Tells sessions to end at the next command; they hold the receiving side.
    stop: watch::Sender<bool>,
}

/// What new sessions use from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Shared>);

/// Accept nothing more, tell sessions to end, answer when all have.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

struct Accepted(io::Result<(TcpStream, SocketAddr)>);

impl Listener {
    /// For a bound socket; sessions run on `sessions`, which must not be empty.
    pub fn new(
        listen: &Listen,
        socket: TcpListener,
        shared: Arc<Shared>,
        sessions: Vec<ArbiterHandle>,
    ) -> Listener {
        let max = shared.config.limits.connections.min(Semaphore::MAX_PERMITS);
        Listener {
            name: listen.address.clone(),
            service: listen.service,
            tls: listen.tls,
            socket: Some(socket),
            shared,
            sessions,
            next: 0,
            slots: Arc::new(Semaphore::new(max)),
            max,
            clients: HashMap::new(),
            stop: watch::channel(false).0,
        }
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        let limits = &self.shared.config.limits;
        let key = client_key(peer.ip());
        if self.clients.len() >= SWEEP_AT {
            self.clients
                .retain(|_, owners| Arc::strong_count(owners) > 1);
        }
        let client = self.clients.entry(key).or_default();
        let too_many = Arc::strong_count(client) > limits.connections_per_client;
        let permit = self
            .slots
            .clone()
            .try_acquire_owned()
            .ok()
            .filter(|_| !too_many);
        let Some(permit) = permit else {
            tracing::warn!(target: "listener", listener = self.name, client = %peer.ip(), "too many connections");
            actix_rt::spawn(turn_away(stream));
            return;
        };
        let place = (client.clone(), permit);
        let session = session::Start {
            peer,
            service: self.service,
            tls: self.tls,
            shared: self.shared.clone(),
            stop: self.stop.subscribe(),
        };
        // A socket belongs to the runtime that registered it, so it moves as a plain one.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(target: "listener", %error, "connection lost");
                return;
            }
        };
        self.next = self.next.wrapping_add(1);
        let Some(arbiter) = self.sessions.get(self.next % self.sessions.len().max(1)) else {
            return;
        };
        arbiter.spawn(async move {
            let _place = place;
            match TcpStream::from_std(stream) {
                Ok(stream) => session.run(stream).await,
                Err(error) => tracing::warn!(target: "listener", %error, "connection lost"),
            }
        });
    }
}

/// Sessions of one client are those of its IPv4 address or IPv6 /64, which one host may own whole.
fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

async fn turn_away(mut stream: TcpStream) {
    let mut reply = Vec::new();
    replies::TOO_MANY_CONNECTIONS.write(&mut reply);
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&reply)).await;
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let local = socket.local_addr().map(|local| local.to_string());
        tracing::info!(
            target: "listener",
            address = self.name,
            local = local.unwrap_or_default(),
            service = self.service.name(),
            tls = self.tls.name(),
            "listening"
        );
        ctx.add_stream(futures_util::stream::unfold(socket, |socket| async move {
            let accepted = socket.accept().await;
            if accepted.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Some((Accepted(accepted), socket))
        }));
    }
}

impl StreamHandler<Accepted> for Listener {
    fn handle(&mut self, accepted: Accepted, _: &mut Self::Context) {
        match accepted.0 {
            Ok((stream, peer)) => self.accept(stream, peer),
            Err(error) => {
                tracing::error!(target: "listener", listener = self.name, %error, "accept failed")
            }
        }
    }
}

impl Handler<Reload> for Listener {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.shared = reload.0;
    }
}

impl Handler<Drain> for Listener {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        self.stop.send_replace(true);
        let slots = self.slots.clone();
        let all = u32::try_from(self.max).unwrap_or(u32::MAX);
        // Ends the accept stream, and with it the listening socket.
        ctx.stop();
        Box::pin(async move {
            let _ = slots.acquire_many(all).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_client() {
        let key = |text: &str| client_key(text.parse().expect("address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
