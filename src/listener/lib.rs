//! The listener actor: accepts connections on one address and hands each to a session.
//!
//! Receives [`Reload`] and [`Drain`]; starts sessions, which are tasks spread over the session
//! arbiters, one per core, so that a slow peer never holds another. Limits connections in all and
//! by client. Never reads a byte of mail itself.
#![forbid(unsafe_code)]

mod accept;
pub mod arriving;
mod convert;
mod filter;
mod patience;
mod proxied;
mod receive;
mod reputation;
mod session;
mod socket;
mod transaction;

// The rooms that this one enters.
use chapar_auth as auth;
use chapar_base::time;
use chapar_config as config;
use chapar_dns as dns;
use chapar_identity as identity;
use chapar_intake as intake;
use chapar_message as message;
use chapar_queue as queue;
use chapar_report as report;
use chapar_signing as signing;
use chapar_smtp as smtp;
use chapar_telemetry as telemetry;
use chapar_verify as verify;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, StreamHandler};
use actix::{ArbiterHandle, ResponseFuture};
use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Listen;
use crate::smtp::replies;
use patience::Patience;

pub use session::Shared;
pub use socket::{BACKLOG, BindError, Inherited, bind};

/// How long accepting pauses after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Entries of the table of clients after which those without a connection are swept out.
const SWEEP_AT: usize = 4096;

/// Connections beyond the limits that are told so at the same time; others are just closed.
const MAX_TURNED_AWAY: usize = 100;

/// The actor of one `[[listen]]`.
pub struct Listener {
    listen: Arc<Listen>,
    socket: Option<TcpListener>,
    shared: Arc<Shared>,
    /// The same for sessions that run: each transaction begins with the newest.
    newest: watch::Sender<Arc<Shared>>,
    tls: Option<Arc<ServerConfig>>,
    sessions: Vec<ArbiterHandle>,
    next: usize,
    /// One permit for each connection; all of them back means that all sessions have ended.
    slots: Arc<Semaphore>,
    max: usize,
    /// A clone is held by each session of the client, so that the count is its number of owners.
    clients: HashMap<IpAddr, Arc<()>>,
    /// Connections that are told that there are too many.
    turned_away: JoinSet<()>,
    /// Tells sessions to end at the next command; they hold the receiving side.
    stop: watch::Sender<bool>,
}

/// What new sessions, and new transactions of those that run, use from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Shared>);

/// Accept nothing more, tell sessions to end, answer when all have.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

/// A place for one more connection of a client that came through a proxy; none if it has too many.
#[derive(Message)]
#[rtype(result = "Option<Arc<()>>")]
struct Place(IpAddr);

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
            listen: Arc::new(listen.clone()),
            tls: own_tls(&shared),
            socket: Some(socket),
            newest: watch::channel(shared.clone()).0,
            shared,
            sessions,
            next: 0,
            slots: Arc::new(Semaphore::new(max)),
            max,
            clients: HashMap::new(),
            turned_away: JoinSet::new(),
            stop: watch::channel(false).0,
        }
    }

    /// A place for one more connection of the client at `address`, unless it has too many.
    fn place(&mut self, address: IpAddr) -> Option<Arc<()>> {
        if self.clients.len() >= SWEEP_AT {
            self.clients
                .retain(|_, owners| Arc::strong_count(owners) > 1);
        }
        let client = self.clients.entry(auth::client(address)).or_default();
        let most = self.shared.config.limits.connections_per_client;
        (Arc::strong_count(client) <= most).then(|| client.clone())
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr, listener: Addr<Listener>) {
        // All connections through a proxy have its address: who is behind it is asked later.
        let proxied = chapar_base::net::is_in(&self.shared.config.proxy_networks, peer.ip());
        let client = if proxied {
            Some(Arc::default())
        } else {
            self.place(peer.ip())
        };
        let permit = self.slots.clone().try_acquire_owned().ok();
        let (Some(client), Some(permit)) = (client, permit) else {
            tracing::warn!(target: "listener", listener = self.listen.address, client = %peer.ip(), "too many connections");
            while self.turned_away.try_join_next().is_some() {}
            if self.turned_away.len() < MAX_TURNED_AWAY {
                self.turned_away.spawn_local(turn_away(stream));
            }
            return;
        };
        let place = (client, permit);
        let session = session::Start {
            peer,
            listen: self.listen.clone(),
            listener,
            patience: Patience::new(&self.shared.config.limits, self.slots.clone()),
            shared: self.shared.clone(),
            newest: self.newest.subscribe(),
            tls: self.tls.clone(),
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

/// TLS sessions of a listener that can be resumed.
const MAX_RESUMABLE: usize = 1024;

/// The TLS settings with a session store of the listener's own: what was agreed on with one
/// service must not be resumed at another.
fn own_tls(shared: &Shared) -> Option<Arc<ServerConfig>> {
    let mut config = ServerConfig::clone(shared.tls.as_deref()?);
    config.session_storage = ServerSessionMemoryCache::new(MAX_RESUMABLE);
    Some(Arc::new(config))
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
            address = self.listen.address,
            local = local.unwrap_or_default(),
            service = self.listen.service.name(),
            tls = self.listen.tls.name(),
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
    fn handle(&mut self, accepted: Accepted, ctx: &mut Self::Context) {
        match accepted.0 {
            Ok((stream, peer)) => self.accept(stream, peer, ctx.address()),
            Err(error) => {
                tracing::error!(target: "listener", listener = self.listen.address, %error, "accept failed")
            }
        }
    }
}

impl Handler<Reload> for Listener {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.tls = own_tls(&reload.0);
        self.newest.send_replace(reload.0.clone());
        self.shared = reload.0;
    }
}

impl Handler<Place> for Listener {
    type Result = Option<Arc<()>>;

    fn handle(&mut self, place: Place, _: &mut Self::Context) -> Self::Result {
        self.place(place.0)
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
        let key = |text: &str| auth::client(text.parse().expect("address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
