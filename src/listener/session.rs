//! A session: one connection from greeting to close.
//!
//! Drives [`crate::smtp::server`] over TCP and TLS, asks [`crate::auth`], [`crate::signing`] and
//! [`crate::queue`], and is the only place where a message becomes `250`: after the queue's `Ok`
//! (I1). Runs as a task on a session arbiter; blocks nothing; a panic ends this connection only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Recipient};
use bytes::{Bytes, BytesMut};
use hickory_resolver::TokioResolver;
use queue_schema::{Envelope, Origin, QueueId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::receive::{self, Ended, Message};
use crate::auth::{AuthError, Authenticate, Authenticator};
use crate::config::{Config, Service, TlsMode};
use crate::identity::Identity;
use crate::intake::outside::{Arrival, Outside};
use crate::intake::{self, Client};
use crate::message::Content;
use crate::message::trace::{self, Trace};
use crate::queue::store::Spool;
use crate::queue::{Accept, AcceptError, IdSource};
use crate::signing::{Seal, Sign, Signer};
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};
use crate::smtp::sasl::Credentials;
use crate::smtp::server::{Options, Server, Step};

/// What the sessions of a listener have in common; a reload replaces it whole for new ones.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Our domains, users and aliases.
    pub identity: Arc<Identity>,
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
    /// For SPF, DKIM, DMARC and ARC.
    pub resolver: TokioResolver,
    /// Where long bodies go as they arrive.
    pub spool: Spool,
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that was accepted.
pub struct Start {
    /// The client.
    pub peer: SocketAddr,
    /// The listener's service.
    pub service: Service,
    /// The listener's TLS mode.
    pub tls: TlsMode,
    /// What it works with, to its end.
    pub shared: Arc<Shared>,
    /// True once the daemon stops.
    pub stop: watch::Receiver<bool>,
}

struct Session {
    peer: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    server: Server,
    input: BytesMut,
    out: Vec<u8>,
    /// Where each accepted recipient of the transaction leads.
    targets: Vec<Vec<String>>,
    trusted: bool,
    tls: Option<String>,
}

/// Why a session ended before QUIT.
enum Gone {
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
    pub async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let limits = &self.shared.config.limits;
        let trusted = intake::is_trusted(&self.shared.config.relay_networks, self.peer.ip());
        let server = Server::new(Options {
            hostname: self.shared.config.hostname.clone(),
            submission: self.service == Service::Submission,
            starttls: self.tls == TlsMode::Starttls && self.shared.tls.is_some(),
            tls: self.tls == TlsMode::Implicit,
            trusted,
            max_message: limits.message.0,
            max_recipients: limits.recipients,
            max_line: limits.command_line,
            max_errors: limits.errors,
            max_idle_commands: limits.idle_commands,
        });
        let longest = limits.session.0;
        let mut session = Session {
            peer: self.peer,
            shared: self.shared.clone(),
            stop: self.stop,
            server,
            input: BytesMut::new(),
            out: Vec::new(),
            targets: Vec::new(),
            trusted,
            tls: None,
        };
        let mut stream: Option<Stream> = Some(Either::Left(stream));
        let ended = tokio::time::timeout(longest, session.serve(&mut stream, self.tls)).await;
        if ended.is_err() {
            session
                .server
                .close(replies::SESSION_TOO_LONG, &mut session.out);
        }
        if let Some(mut stream) = stream {
            let farewell = async {
                session.flush(&mut stream).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), farewell).await;
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
            let step = self.server.next(&mut self.input, &mut self.out);
            let open = stream.as_mut().ok_or(Gone::Peer)?;
            match step {
                Step::Read => {
                    self.flush(open).await?;
                    self.read(open).await?;
                }
                Step::Sender(from) => self.sender(from.as_ref())?,
                Step::Recipient(to) => self.recipient(to),
                Step::Authenticate(credentials) => {
                    self.flush(open).await?;
                    self.authenticate(credentials).await;
                }
                Step::StartTls => {
                    self.flush(open).await?;
                    // Whatever came in clear behind STARTTLS is dropped (CVE-2011-0411).
                    self.input.clear();
                    self.handshake(stream).await?;
                    self.server.tls_started();
                }
                Step::Data => {
                    self.flush(open).await?;
                    self.data(open).await?;
                }
                Step::Close => return Ok(()),
            }
        }
    }

    /// Whether bytes came before our greeting: no SMTP client sends any (RFC 5321 section 3.1).
    fn talks_early(&self, stream: &Option<Stream>) -> bool {
        match stream {
            Some(Either::Left(tcp)) => matches!(tcp.try_read(&mut [0; 1]), Ok(1..)),
            _ => false,
        }
    }

    async fn handshake(&mut self, stream: &mut Option<Stream>) -> Result<(), Gone> {
        let Some(Either::Left(tcp)) = stream.take() else {
            return Err(Gone::Peer);
        };
        let config = self.shared.tls.clone().ok_or(Gone::Peer)?;
        let limit = self.shared.config.limits.handshake.0;
        let handshake = TlsAcceptor::from(config).accept(tcp);
        let tls = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::info!(target: "session", client = %self.peer.ip(), %error, "TLS handshake failed");
                return Err(Gone::Peer);
            }
            Err(_) => return Err(Gone::Peer),
        };
        self.tls = Some(describe(tls.get_ref().1));
        *stream = Some(Either::Right(Box::new(tls)));
        Ok(())
    }

    async fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        if !self.out.is_empty() {
            let limit = self.shared.config.limits.command_timeout.0;
            let write = async {
                stream.write_all(&self.out).await?;
                stream.flush().await
            };
            tokio::time::timeout(limit, write)
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            self.out.clear();
        }
        Ok(())
    }

    /// Waits for bytes, for the daemon's stop, or for the end of patience.
    async fn read(&mut self, stream: &mut Stream) -> Result<(), Gone> {
        if *self.stop.borrow() {
            self.server.close(replies::SHUTTING_DOWN, &mut self.out);
            return Err(Gone::Closing);
        }
        let limit = self.shared.config.limits.command_timeout.0;
        // A buffer that once held much is given back before a long wait.
        if self.input.is_empty() && self.input.capacity() > 64 * 1024 {
            self.input = BytesMut::new();
        }
        self.input.reserve(4096);
        let closing = tokio::select! {
            biased;
            read = receive::read(stream, &mut self.input, limit) => match read {
                Ok(0) => return Err(Gone::Peer),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => replies::IDLE,
                Err(_) => return Err(Gone::Peer),
            },
            _ = self.stop.changed() => replies::SHUTTING_DOWN,
        };
        self.server.close(closing, &mut self.out);
        Err(Gone::Closing)
    }

    async fn authenticate(&mut self, credentials: Credentials) {
        let request = Authenticate {
            credentials,
            client: self.peer.ip(),
        };
        let outcome = match self.shared.auth.send(request).await {
            Ok(Ok(user)) => Ok(user),
            Ok(Err(AuthError::Wrong)) => Err(replies::AUTH_FAILED),
            Ok(Err(AuthError::Busy)) | Err(_) => Err(replies::AUTH_UNAVAILABLE),
        };
        self.server.authenticated(outcome, &mut self.out);
    }

    fn client(&self) -> Client<'_> {
        match self.server.user() {
            Some(user) => Client::User(user),
            None if self.trusted => Client::Network,
            None => Client::Outside,
        }
    }

    /// After the stop no new transaction begins.
    fn sender(&mut self, from: Option<&Address>) -> Result<(), Gone> {
        if *self.stop.borrow() {
            self.server.close(replies::SHUTTING_DOWN, &mut self.out);
            return Err(Gone::Closing);
        }
        self.targets.clear();
        let verdict = intake::sender(&self.shared.identity, self.client(), from);
        if let Err(reply) = &verdict {
            self.log_refusal("MAIL", reply, from.map(Address::as_str).unwrap_or_default());
        }
        self.server.sender(verdict, &mut self.out);
        Ok(())
    }

    fn recipient(&mut self, to: Address) {
        let Shared {
            config, identity, ..
        } = &*self.shared;
        let now = crate::time::now();
        let bounce = self.shared.outside.bounce(config, identity, &to, now);
        let verdict = match intake::recipient(identity, self.client(), &to, bounce) {
            Ok(targets) => {
                self.targets.push(targets);
                Ok(())
            }
            Err(reply) => {
                self.log_refusal("RCPT", &reply, to.as_str());
                Err(reply)
            }
        };
        self.server.recipient(to, verdict, &mut self.out);
    }

    fn log_refusal(&self, command: &str, reply: &Reply, address: &str) {
        let client = self.peer.ip();
        tracing::info!(target: "session", %client, command, address, code = reply.code, text = %reply.text, "refused");
    }

    async fn data(&mut self, stream: &mut Stream) -> Result<(), Gone> {
        let id = self.shared.ids.issue();
        let shared = self.shared.clone();
        let limits = &shared.config.limits;
        let ended = receive::receive(stream, &mut self.input, limits, &shared.spool, id).await;
        let message = match ended {
            Ended::Dot(message) => message,
            Ended::Broken(reply) => {
                if let Some(reply) = reply {
                    self.server.close(reply, &mut self.out);
                }
                return Err(Gone::Closing);
            }
        };
        let reply = match message {
            Ok(message) => match self.accept(id, message).await {
                Ok(id) => Reply::new(250, "2.0.0", format!("Queued as {id}")),
                Err(reply) => reply,
            },
            Err(reply) => reply,
        };
        if reply.is_error() {
            self.log_refusal("DATA", &reply, "");
        }
        self.server.message_done(reply, &mut self.out);
        self.targets.clear();
        Ok(())
    }

    /// The journey from the last byte to durability.
    async fn accept(&mut self, id: QueueId, message: Message) -> Result<QueueId, Reply> {
        let shared = self.shared.clone();
        let at = crate::time::now();
        let (envelope, origin, mut content, signature) = match self.client() {
            Client::Outside => self.outside(message, at).await?,
            _ => self.inside(id, message, at).await?,
        };
        let trace = self.trace(id, at);
        content.head = [trace.as_bytes(), &signature, &content.head]
            .concat()
            .into();
        let accept = Accept {
            id,
            arrived: at,
            origin,
            envelope,
            content,
        };
        match shared.queue.send(accept).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(AcceptError::DiskFull)) => Err(replies::DISK_FULL),
            Ok(Err(AcceptError::Draining)) => Err(replies::SHUTTING_DOWN),
            Ok(Err(AcceptError::Store(_))) | Err(_) => Err(replies::QUEUE_FAILED),
        }
    }

    /// Mail of users and trusted networks: checked, completed, signed.
    async fn inside(
        &self,
        id: QueueId,
        message: Message,
        at: u64,
    ) -> Result<(Envelope, Origin, Content, Bytes), Reply> {
        let config = &self.shared.config;
        let Content { head, body } = message.content;
        let header = intake::header(
            &self.shared.identity,
            self.client(),
            head.into(),
            &config.limits,
            id,
            &config.hostname,
            at,
        )?;
        let transaction = self.server.transaction().ok_or(replies::MAIL_FIRST)?;
        let eight_bit = message.eight_bit || !header.head.is_ascii();
        let envelope = intake::envelope(transaction, &self.targets, eight_bit);
        let content = Content {
            head: header.head.into(),
            body,
        };
        let signature = match header.sign_for {
            Some(domain) => self.sign(domain, &content).await?,
            None => Bytes::new(),
        };
        let client = self.peer.ip().to_canonical();
        let origin = match self.client() {
            Client::User(user) => Origin::User {
                user: user.to_owned(),
                client,
            },
            _ => Origin::Network { client },
        };
        Ok((envelope, origin, content, signature))
    }

    /// Mail of strangers: judged, marked, sealed where it goes on.
    async fn outside(
        &self,
        message: Message,
        at: u64,
    ) -> Result<(Envelope, Origin, Content, Bytes), Reply> {
        let Shared {
            config,
            identity,
            resolver,
            outside,
            ..
        } = &*self.shared;
        let client = self.peer.ip().to_canonical();
        let hello = self.server.hello();
        let arrival = Arrival {
            client,
            hello: hello.map(|hello| hello.name.as_str()).unwrap_or_default(),
            transaction: self.server.transaction().ok_or(replies::MAIL_FIRST)?,
            targets: &self.targets,
            content: message.content,
            eight_bit: message.eight_bit,
            at,
        };
        let passed = outside.receive(config, identity, resolver, arrival).await?;
        let seal = match passed.seal {
            Some(seal) => self.seal(seal).await,
            None => Bytes::new(),
        };
        let origin = Origin::Outside {
            client,
            verified: passed.verified,
        };
        Ok((passed.envelope, origin, passed.content, seal))
    }

    /// A seal helps, but mail without one is better than none.
    async fn seal(&self, seal: Seal) -> Bytes {
        match self.shared.signer.send(seal).await {
            Ok(Ok(set)) => set,
            Ok(Err(error)) => {
                tracing::error!(target: "session", %error, "forwarded without a seal");
                Bytes::new()
            }
            Err(error) => {
                tracing::error!(target: "session", %error, "forwarded without a seal");
                Bytes::new()
            }
        }
    }

    fn trace(&self, id: QueueId, at: u64) -> String {
        let hello = self.server.hello();
        let user = self.server.user().is_some();
        let recipients = self
            .server
            .transaction()
            .map(|open| open.recipients.as_slice());
        trace::received(&Trace {
            hello: hello.map(|hello| hello.name.as_str()).unwrap_or_default(),
            extended: hello.is_some_and(|hello| hello.extended),
            client: (!user).then_some(self.peer.ip().to_canonical()),
            hostname: &self.shared.config.hostname,
            id,
            tls: self.tls.as_deref(),
            authenticated: user,
            recipient: match recipients {
                Some([only]) => Some(only.as_str()),
                _ => None,
            },
            at,
        })
    }

    async fn sign(&self, domain: String, content: &Content) -> Result<Bytes, Reply> {
        let request = Sign {
            domain,
            content: content.clone(),
        };
        match self.shared.signer.send(request).await {
            Ok(Ok(signature)) => Ok(signature),
            Ok(Err(error)) => {
                tracing::error!(target: "session", %error, "message refused");
                Err(replies::SIGNING_FAILED)
            }
            Err(_) => Err(replies::SIGNING_FAILED),
        }
    }
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
