//! A session: one connection from greeting to close.
//!
//! Drives [`crate::smtp::server`] over TCP and TLS and asks [`crate::auth`]; what is asked and done
//! in a transaction is in [`super::transaction`]. Runs as a task on a session arbiter; blocks nothing; a panic ends this
//! connection only. Between commands it keeps no buffer, so that an idle client costs little.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Recipient};
use bytes::BytesMut;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::arriving::Arriving;
use super::patience::Patience;
use super::receive::{self, Broken, Receiver};
use super::{Listener, proxied};
use crate::auth::{AuthError, Authenticate, Authenticator, FindVerifier, Proved};
use crate::config::{Config, Listen, Service, TlsMode};
use crate::dns::Resolver;
use crate::identity::{self, Identity};
use crate::intake::hooks::Filters;
use crate::intake::outside::Outside;
use crate::intake::reputation::Standing;
use crate::intake::reputation::keeper::Keeper;
use crate::queue::store::Spool;
use crate::queue::{Accept, Arrival, Arrivals, IdSource};
use crate::report::dmarc::reporter::Reporter;
use crate::signing::Signer;
use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::replies::{self, Reply};
use crate::smtp::sasl::Proven;
use crate::smtp::server::{Bounds, Options, Server, Step, Xclient};
use crate::telemetry::wire::{Peer, Tap};

/// What the sessions of a listener have in common; a reload replaces it whole, for a session that
/// runs with its next transaction.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Our domains, users and aliases.
    pub identity: Arc<Identity>,
    /// Whether every user can log in with SCRAM. A client chooses the strongest way to log in that
    /// it is offered, and few try another after a refusal.
    pub scram: bool,
    /// Certificate and TLS settings; `None`: no certificate, so no TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Verifies passwords.
    pub auth: Addr<Authenticator>,
    /// Signs.
    pub signer: Addr<Signer>,
    /// Makes messages durable.
    pub queue: Recipient<Accept>,
    /// Issues queue ids.
    pub ids: IdSource,
    /// Judges mail from outside.
    pub outside: Arc<Outside>,
    /// Hears how mail from outside fared.
    pub reporter: Addr<Reporter>,
    /// Keeps the greylist.
    pub greylist: Addr<Keeper>,
    /// For SPF, DKIM, DMARC and ARC.
    pub resolver: Resolver,
    /// Where long bodies go as they arrive.
    pub spool: Spool,
    /// Where the queue hears of transactions.
    pub arrivals: Arrivals,
    /// What messages hold in memory while they arrive.
    pub arriving: Arriving,
}

pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Room made in the input buffer for each read between commands, in bytes.
const ROOM: usize = 2048;

/// How long the last words may take to leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection that was accepted.
pub struct Start {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// Its listener's configuration.
    pub listen: Arc<Listen>,
    /// Its listener.
    pub listener: Addr<Listener>,
    /// How long it waits.
    pub patience: Patience,
    /// What it works with.
    pub shared: Arc<Shared>,
    /// What its next transaction works with.
    pub newest: watch::Receiver<Arc<Shared>>,
    /// TLS as its listener speaks it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// True once the daemon stops.
    pub stop: watch::Receiver<bool>,
}

pub(super) struct Session {
    /// The client: the socket's other end, or who a proxy says it is.
    pub(super) peer: SocketAddr,
    pub(super) shared: Arc<Shared>,
    pub(super) newest: watch::Receiver<Arc<Shared>>,
    pub(super) server: Server,
    /// Where each accepted recipient of the transaction leads.
    pub(super) targets: Vec<Vec<String>>,
    /// TLS version and cipher suite.
    pub(super) tls: Option<String>,
    tls_config: Option<Arc<rustls::ServerConfig>>,
    pub(super) patience: Patience,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) input: BytesMut,
    pub(super) out: Vec<u8>,
    /// A message that comes in chunks.
    pub(super) receiver: Option<Box<Receiver>>,
    /// As long as a transaction is open.
    arrival: Option<Arrival>,
    /// What lists say of the client, once that was asked.
    pub(super) standing: Option<(IpAddr, Standing)>,
    /// Who sends the open transaction, as the greylist sees it.
    pub(super) who: Option<String>,
    /// Milters that are asked about its mail.
    pub(super) listen: Arc<Listen>,
    /// Those of the open transaction.
    pub(super) filters: Option<Box<Filters>>,
    /// Where an operator may watch.
    tap: Tap,
}

/// Why a session ended before QUIT.
pub(super) enum Gone {
    /// The peer went, or the connection broke.
    Peer,
    /// We closed it; what is to be said is in `out`.
    Closing,
}

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Gone::Peer
    }
}

impl Start {
    /// Serves the connection to its end.
    pub async fn run(mut self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let config = self.shared.config.clone();
        // Held to the end: the client's place among its own connections.
        let mut _place = None;
        if chapar_base::net::is_in(&config.proxy_networks, self.peer.ip()) {
            let Some((peer, place)) =
                proxied::client(&mut stream, self.peer, &self.listener, &self.patience).await
            else {
                return;
            };
            self.peer = peer;
            _place = place;
        }
        let longest = config.limits.session.0;
        let tls = self.listen.tls;
        let mut session = self.session();
        let mut stream: Option<Stream> = Some(Either::Left(stream));
        let served = Box::pin(session.serve(&mut stream, tls));
        if tokio::time::timeout(longest, served).await.is_err() {
            session
                .server
                .close(replies::SESSION_TOO_LONG, &mut session.out);
        }
        session.left_open();
        if let Some(mut stream) = stream {
            let farewell = async {
                session.flush(&mut stream).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }

    fn session(self) -> Session {
        let config = &self.shared.config;
        let limits = &config.limits;
        let trusted = chapar_base::net::is_in(&config.relay_networks, self.peer.ip());
        let scram = (!self.shared.scram).then_some(&Extension::Scram);
        let disabled = config.smtp.disable.iter().chain(&self.listen.disable);
        let disabled = disabled.chain(scram);
        let server = Server::new(Options {
            hostname: config.hostname.clone(),
            submission: self.listen.service == Service::Submission,
            starttls: self.listen.tls == TlsMode::Starttls && self.tls.is_some(),
            trusted,
            strict_hello: config.smtp.strict_hello,
            xclient: chapar_base::net::is_in(&config.xclient_networks, self.peer.ip()),
            extensions: Extensions::without(disabled),
            limits: Bounds {
                message: limits.message.0,
                recipients: limits.recipients,
                line: limits.command_line,
                errors: limits.errors,
                idle_commands: limits.idle_commands,
                commands: limits.commands,
                transactions: match trusted {
                    true => limits.relay_transactions,
                    false => limits.transactions,
                },
                chunks: limits.chunks,
                auth_attempts: limits.auth_attempts,
                future_release: limits.future_release.0.as_secs(),
            },
        });
        Session {
            peer: self.peer,
            shared: self.shared,
            newest: self.newest,
            server,
            targets: Vec::new(),
            tls: None,
            tls_config: self.tls,
            patience: self.patience,
            stop: self.stop,
            input: BytesMut::new(),
            out: Vec::new(),
            receiver: None,
            arrival: None,
            listen: self.listen,
            filters: None,
            tap: Tap::new(Peer::Client),
            standing: None,
            who: None,
        }
    }
}

impl Session {
    async fn serve(&mut self, stream: &mut Option<Stream>, tls: TlsMode) -> Result<(), Gone> {
        if tls == TlsMode::Implicit {
            self.handshake(stream).await?;
        } else if self.talks_early(stream) {
            self.server
                .close(replies::UNAUTHORISED_PIPELINING, &mut self.out);
            return Err(Gone::Closing);
        }
        self.server.greeting(&mut self.out);
        loop {
            self.server.at(crate::time::now());
            let errors = self.server.errors();
            let step = self.server.next(&mut self.input, &mut self.out);
            let open = stream.as_mut().ok_or(Gone::Peer)?;
            match step {
                Step::Read => {
                    self.slow_down(errors).await;
                    self.flush(open).await?;
                    self.read(open).await?;
                }
                Step::Sender(from) => self.sender(from.as_ref()).await?,
                Step::Recipient(rcpt) => self.recipient(rcpt).await,
                Step::Authenticate(credentials) => {
                    self.flush(open).await?;
                    let request = Authenticate {
                        credentials,
                        client: self.peer.ip(),
                    };
                    let outcome = self.shared.auth.send(request).await;
                    let outcome = outcome.unwrap_or(Err(AuthError::Busy)).map_err(refusal);
                    // One name from here on: quotas, logs and limits go by it.
                    let outcome = outcome.map(|user| identity::canonical(&user));
                    self.server.authenticated(outcome, &mut self.out);
                }
                Step::Verifier(user) => {
                    let client = self.peer.ip();
                    let found = self.shared.auth.send(FindVerifier { user, client }).await;
                    let found = found.unwrap_or(Err(AuthError::Busy)).map_err(refusal);
                    self.server.verifier(found, &mut self.out);
                }
                Step::Proved { user, proof } => {
                    let request = Proved {
                        user,
                        proof,
                        client: self.peer.ip(),
                    };
                    let outcome = self.shared.auth.send(request).await;
                    let outcome = outcome.unwrap_or(Err(AuthError::Busy)).map_err(refusal);
                    // One name from here on: quotas, logs and limits go by it.
                    let outcome = outcome.map(|user| identity::canonical(&user));
                    self.server.authenticated(outcome, &mut self.out);
                }
                Step::StartTls => {
                    self.flush(open).await?;
                    // Whatever came in clear behind STARTTLS is dropped (CVE-2011-0411).
                    self.input.clear();
                    self.handshake(stream).await?;
                }
                Step::Data => {
                    self.flush(open).await?;
                    self.data(open).await?;
                }
                Step::Chunk { size, last } => self.chunk(open, size, last).await?,
                Step::Discard(size) => {
                    let dropped =
                        receive::discard(open, &mut self.input, size, &self.patience).await;
                    self.came(dropped)?;
                    self.server.discarded(&mut self.out);
                }
                Step::Xclient(client) => self.xclient(client),
                Step::Close => {
                    self.slow_down(errors).await;
                    return Ok(());
                }
            }
            if self.server.transaction().is_none() {
                self.receiver = None;
                self.arrival = None;
                self.filters = None;
            } else if self.arrival.is_none() {
                self.arrival = Some(self.shared.arrivals.begin());
            }
        }
    }

    /// A client that goes with a user's salt and without a proof has asked like any other. Lost
    /// when the mailbox is full: nobody waits for the answer.
    fn left_open(&self) {
        if let Some(user) = self.server.left_open() {
            let _ = self.shared.auth.try_send(Proved {
                user: user.to_owned(),
                proof: Proven::Nothing,
                client: self.peer.ip(),
            });
        }
    }

    /// Makes a client that is often refused wait for it.
    async fn slow_down(&self, before: usize) {
        let limits = &self.shared.config.limits;
        let dear = self
            .server
            .errors()
            .saturating_sub(before.max(limits.soft_errors));
        if dear > 0 && !limits.error_delay.0.is_zero() {
            let times = u32::try_from(dear).unwrap_or(u32::MAX);
            tokio::time::sleep(limits.error_delay.0.saturating_mul(times)).await;
        }
    }

    /// Whether bytes came before our greeting: no SMTP client sends any (RFC 5321 section 3.1).
    fn talks_early(&self, stream: &Option<Stream>) -> bool {
        match stream {
            // Asks the socket itself: tokio does not know yet whether there is something to read.
            Some(Either::Left(tcp)) => {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                matches!(recv(tcp, &mut [0; 1][..], flags), Ok((1.., _)))
            }
            _ => false,
        }
    }

    async fn handshake(&mut self, stream: &mut Option<Stream>) -> Result<(), Gone> {
        let Some(Either::Left(tcp)) = stream.take() else {
            return Err(Gone::Peer);
        };
        let config = self.tls_config.clone().ok_or(Gone::Peer)?;
        let limit = self.shared.config.limits.handshake.0;
        let handshake = Box::pin(TlsAcceptor::from(config).accept(tcp));
        let tls = match self.patience.wait(limit, handshake).await {
            Some(Ok(tls)) => tls,
            Some(Err(error)) => {
                tracing::info!(target: "session", client = %self.peer.ip(), %error, "TLS handshake failed");
                return Err(Gone::Peer);
            }
            None => return Err(Gone::Peer),
        };
        let connection = tls.get_ref().1;
        let described = describe(connection);
        self.tap.noted(|| self.peer.to_string(), &described);
        self.tls = Some(described);
        self.server.tls_started(exporter(connection));
        *stream = Some(Either::Right(Box::new(tls)));
        Ok(())
    }

    async fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        if !self.out.is_empty() {
            self.tap.said(|| self.peer.to_string(), &self.out);
            let limit = self.patience.command;
            let write = async {
                stream.write_all(&self.out).await?;
                stream.flush().await
            };
            self.patience
                .wait(limit, write)
                .await
                .ok_or(io::ErrorKind::TimedOut)??;
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Waits for bytes, for the daemon's stop, or for the end of patience.
    async fn read(&mut self, stream: &mut Stream) -> Result<(), Gone> {
        if *self.stop.borrow() {
            self.server.close(replies::SHUTTING_DOWN, &mut self.out);
            return Err(Gone::Closing);
        }
        // A buffer that once held much is given back before a long wait.
        if self.input.is_empty() && self.input.capacity() > ROOM {
            self.input = BytesMut::new();
        }
        self.input.reserve(ROOM);
        let patience = self.patience.clone();
        let before = self.input.len();
        let closing = tokio::select! {
            biased;
            read = patience.wait(patience.command, stream.read_buf(&mut self.input)) => match read {
                Some(Ok(0)) | Some(Err(_)) => return Err(Gone::Peer),
                Some(Ok(_)) => {
                    let came = self.input.get(before..).unwrap_or_default();
                    self.tap.heard(|| self.peer.to_string(), came);
                    return Ok(());
                }
                None => replies::IDLE,
            },
            _ = self.stop.changed() => replies::SHUTTING_DOWN,
        };
        self.server.close(closing, &mut self.out);
        Err(Gone::Closing)
    }

    /// A proxy says who its client is.
    fn xclient(&mut self, client: Xclient) {
        if let Some(address) = client.address {
            self.peer.set_ip(address);
        }
        if let Some(port) = client.port {
            self.peer.set_port(port);
        }
        let shared = &self.shared;
        let trusted = chapar_base::net::is_in(&shared.config.relay_networks, self.peer.ip());
        let user = client
            .login
            .filter(|user| shared.identity.user(user).is_some());
        tracing::info!(target: "session", client = %self.peer.ip(), user, "client named by XCLIENT");
        self.server.client_changed(trusted, user, &mut self.out);
    }

    /// What did not come whole closes the connection.
    pub(super) fn came(&mut self, outcome: Result<(), Broken>) -> Result<(), Gone> {
        let Err(Broken(reply)) = outcome else {
            return Ok(());
        };
        if let Some(reply) = reply {
            self.server.close(reply, &mut self.out);
        }
        Err(Gone::Closing)
    }
}

fn refusal(error: AuthError) -> Reply {
    match error {
        AuthError::Wrong => replies::AUTH_FAILED,
        AuthError::Banned => replies::BANNED,
        AuthError::Busy => replies::AUTH_UNAVAILABLE,
    }
}

/// The value of `tls-exporter` (RFC 9266 section 2). TLS 1.2 gives a safe one only with an
/// extension that rustls does not tell of, so there is none.
fn exporter(connection: &rustls::ServerConnection) -> Option<[u8; 32]> {
    if connection.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return None;
    }
    connection
        .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
        .ok()
}

/// TLS version and cipher suite for the trace, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
fn describe(connection: &rustls::ServerConnection) -> String {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let suite = connection
        .negotiated_cipher_suite()
        .map(|suite| suite.suite());
    let suite = suite.and_then(|suite| suite.as_str().map(str::to_owned));
    format!("{version} {}", suite.unwrap_or_default())
}
