//! A connection to one host: the socket, TLS, and [`Client`] driven over them.
//!
//! It opens connections and runs transactions; it decides nothing. Every read and write has the
//! time limit that the configuration gives it, and so has a whole transaction.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outgoing;
use super::promise::{Proof, Terms};
use super::reach::Target;
use crate::config::routes::Protocol;
use crate::config::{Config, Span, Timeouts};
use crate::message::Content;
use crate::smtp::client::{Answer, Client, Finished, Login, Loss, Said, Stage, Step, Wait};
use crate::smtp::reply::MAX_BYTES;
use crate::telemetry::wire::{Peer, Tap};
use crate::tls::client::{Judge, Problem, describe, flaw, is_untrusted, server_name};

/// After a write failed, the reason the server may have given is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Saying goodbye takes no longer.
const GOODBYE: Duration = Duration::from_secs(2);
/// Message data is written in blocks of about this many bytes.
pub(super) const BLOCK: usize = 32 * 1024;
/// Room for output that a connection keeps between messages.
const KEPT: usize = 8 * 1024;
/// Replies are read in pieces of at most this many bytes.
const INPUT: usize = 4096;

/// A plain or encrypted stream.
enum Stream {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The address that it goes out from.
    fn local(&self) -> Option<IpAddr> {
        let local = match self {
            Stream::Plain(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.get_ref().0.local_addr(),
            Stream::Unix(_) => return None,
        };
        local.ok().map(|address| address.ip())
    }
}

/// A connection whose greeting, EHLO and STARTTLS are done.
pub(super) struct Session {
    stream: Stream,
    client: Client,
    input: Box<[u8]>,
    /// `host[address]:port` of the other side.
    pub(super) remote: String,
    /// Its address.
    pub(super) address: IpAddr,
    /// Ours.
    pub(super) local: Option<IpAddr>,
    /// TLS version, cipher and what was proven, or empty.
    pub(super) tls: String,
    /// What TLS proved about the host.
    pub(super) proof: Proof,
    /// What is wrong with the certificate, where that has no consequence.
    pub(super) flaw: Option<Problem>,
    /// Under which promise it was opened.
    pub(super) terms: Option<Terms>,
    opened: Instant,
    /// When the present transaction is given up.
    until: Instant,
    /// Where an operator may watch.
    tap: Tap,
    /// Which reply is awaited, and until when.
    waiting_for: Option<(u64, Wait)>,
    deadline: Instant,
}

/// How a connection is to be protected.
#[derive(Clone)]
pub(super) struct Security {
    /// TLS where it is offered; `None`: not at all.
    pub(super) connector: Option<TlsConnector>,
    /// What must be proven, or there is no session; [`Proof::Clear`]: nothing.
    pub(super) need: Proof,
    /// The host must promise to ask the next one for as much (RFC 8689 section 4.2.1).
    pub(super) strict: bool,
    /// The name for SNI, where it is not that of the host.
    pub(super) name: Option<String>,
    /// TLSA records under which it is opened, for reports.
    pub(super) tlsa: Vec<String>,
    /// Judges the certificate without any consequence, for reports.
    pub(super) judge: Option<Judge>,
    /// Who demands it, for people.
    pub(super) why: String,
}

impl Security {
    /// Nothing is secured.
    pub(super) fn clear() -> Security {
        Security {
            connector: None,
            need: Proof::Clear,
            strict: false,
            name: None,
            tlsa: Vec::new(),
            judge: None,
            why: String::new(),
        }
    }

    /// Whether what goes wrong with TLS is no reason not to send.
    pub(super) fn is_optional(&self) -> bool {
        self.need == Proof::Clear
    }

    /// What a handshake under it proves.
    fn proof(&self) -> Proof {
        self.need.max(Proof::Unverified)
    }
}

/// Why a connection could not be opened.
pub(super) struct Unopened {
    pub(super) answer: Answer,
    pub(super) failure: Failure,
    /// The address that was tried from, once there was a connection.
    pub(super) local: Option<IpAddr>,
}

/// What that failure says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing.
    Other,
    /// The TLS handshake failed: without TLS it may work.
    Handshake,
    /// The host can not prove who it is.
    Untrusted(Problem),
}

impl Unopened {
    fn new(stage: Stage, loss: Loss) -> Unopened {
        let answer = Answer {
            stage,
            said: Said::Nothing(loss),
        };
        Unopened {
            answer,
            failure: Failure::Other,
            local: None,
        }
    }
}

impl Session {
    /// Connects to a target and goes as far as the first MAIL.
    pub(super) async fn open(
        target: &Target,
        config: &Config,
        security: &Security,
        login: Option<Login>,
    ) -> Result<Session, Unopened> {
        let limit = limit(config.timeouts.connect);
        let stream = match timeout(limit, connect(target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Unopened::new(Stage::Connect, network(&error))),
            Err(_) => return Err(Unopened::new(Stage::Connect, Loss::TimedOut)),
        };
        let local = stream.local();
        let now = Instant::now();
        let mut client = Client::new(&config.hostname, security.connector.is_some());
        match target.hop.as_ref().map(|hop| hop.protocol) {
            Some(Protocol::Lmtp | Protocol::LmtpSocket) => client = client.lmtp(),
            Some(Protocol::Smtps) => client = client.implicit_tls(),
            Some(Protocol::Smtp) => {}
            None => client = client.never_to_ourselves(),
        }
        if let Some(login) = login {
            client = client.log_in(login);
        }
        let mut session = Session {
            stream,
            client,
            input: vec![0; INPUT].into_boxed_slice(),
            remote: target.remote(),
            address: target.address.ip(),
            local,
            tls: String::new(),
            proof: Proof::Clear,
            flaw: None,
            terms: None,
            opened: now,
            until: now + self::limit(config.timeouts.transaction),
            tap: Tap::new(Peer::Server),
            waiting_for: None,
            deadline: now,
        };
        loop {
            match session.client.step() {
                Step::Read(wait) => session.exchange(wait, &config.timeouts).await,
                Step::Handshake => {
                    session = session.handshake(target, config, security).await?;
                }
                Step::Ready if session.proof < security.need => {
                    return Err(session.unproven().await);
                }
                Step::Ready if security.strict && !session.is_proven() => {
                    return Err(session.unproven().await);
                }
                Step::Ready => return Ok(session),
                Step::Closed(answer) => {
                    return Err(Unopened {
                        answer,
                        failure: Failure::Other,
                        local,
                    });
                }
                // Neither comes before a transaction.
                Step::SendData | Step::Finished(_) => session.client.lost(Loss::OutOfStep),
            }
        }
    }

    async fn handshake(
        mut self,
        target: &Target,
        config: &Config,
        security: &Security,
    ) -> Result<Session, Unopened> {
        let local = self.local;
        let failed = |loss| Unopened {
            failure: Failure::Handshake,
            local,
            ..Unopened::new(Stage::StartTls, loss)
        };
        let (Some(connector), Stream::Plain(stream)) = (&security.connector, self.stream) else {
            return Err(Unopened::new(Stage::StartTls, Loss::OutOfStep));
        };
        let name = security.name.as_deref().unwrap_or(&target.host);
        let name = server_name(name, target.address.ip());
        let connecting = connector.connect(name.clone(), stream);
        let stream = match timeout(limit(config.timeouts.command), connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let mut unopened = failed(network(&error));
                if let Some(problem) = Problem::of(&error).filter(|_| is_untrusted(&error)) {
                    unopened.failure = Failure::Untrusted(problem);
                }
                return Err(unopened);
            }
            Err(_) => return Err(failed(Loss::TimedOut)),
        };
        self.proof = security.proof();
        if let Some(judge) = &security.judge {
            self.flaw = flaw(judge, stream.get_ref().1.peer_certificates(), &name);
        }
        self.tls = format!("{} {}", describe(stream.get_ref().1), self.proof.name());
        self.tap.noted(|| self.remote.clone(), &self.tls);
        self.stream = Stream::Tls(Box::new(stream));
        self.client.secured();
        Ok(self)
    }

    /// Whether it may carry mail that is to travel over verified TLS only (RFC 8689 section 4.2.1).
    pub(super) fn is_proven(&self) -> bool {
        self.proof.is_verified() && self.client.extensions().require_tls
    }

    /// Leaves a host that was to prove who it is and has not.
    async fn unproven(self) -> Unopened {
        let extensions = self.client.extensions();
        let (failure, what) = match (self.proof > Proof::Clear, extensions.starttls) {
            // It has TLS and does not want to use it now, which may change.
            (false, true) => (Failure::Other, "the server refused STARTTLS"),
            (false, false) => {
                let what = "the server offers no STARTTLS";
                let problem = Problem::new("starttls-not-supported", what);
                (Failure::Untrusted(problem), what)
            }
            (true, _) => {
                let what = "the server does not offer REQUIRETLS";
                let problem = Problem::new("validation-failure", what);
                (Failure::Untrusted(problem), what)
            }
        };
        let local = self.local;
        self.quit().await;
        Unopened {
            failure,
            local,
            ..Unopened::new(Stage::StartTls, Loss::Network(what.to_owned()))
        }
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// How long it has been open.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Runs the transaction that was begun, to its end. Whether another may follow is what
    /// [`Session::is_ready`] says then. What is said of single recipients before that is `told`.
    pub(super) async fn transact(
        &mut self,
        content: &Content,
        timeouts: &Timeouts,
        mut told: impl FnMut(usize, &Answer),
    ) -> Finished {
        self.until = Instant::now() + limit(timeouts.transaction);
        loop {
            let step = self.client.step();
            for (at, answer) in self.client.take_untold() {
                told(at, &answer);
            }
            match step {
                Step::Read(wait) => self.exchange(wait, timeouts).await,
                Step::SendData => match outgoing::send(self, content, timeouts).await {
                    Ok(()) => self.client.data_sent(),
                    Err(loss) => self.last_words(loss).await,
                },
                Step::Finished(finished) => return finished,
                // None of these comes before `Finished`; recipients without an answer are deferred.
                Step::Ready | Step::Closed(_) | Step::Handshake => {
                    return Finished {
                        answers: Vec::new(),
                        untouched: false,
                        no_chunks: false,
                        accepted: 0,
                    };
                }
            }
        }
    }

    /// Whether a transaction may begin.
    pub(super) fn is_ready(&mut self) -> bool {
        matches!(self.client.step(), Step::Ready)
    }

    /// Whether the peer has neither closed nor said anything since the last transaction. Costs no
    /// system call while nothing came.
    pub(super) async fn is_quiet(&mut self) -> bool {
        match self.came().await {
            None => true,
            Some(read) => {
                self.take(read);
                self.is_ready()
            }
        }
    }

    /// Takes what the server has said by now, without waiting for more.
    pub(super) async fn take_what_came(&mut self) {
        // That it is closed the next write will tell, after what it said was read.
        if let Some(read @ Ok(1..)) = self.came().await {
            self.take(read);
        }
    }

    async fn came(&mut self) -> Option<io::Result<usize>> {
        poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut self.input);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => Poll::Ready(None),
                Poll::Ready(read) => Poll::Ready(Some(read.map(|()| buffer.filled().len()))),
            }
        })
        .await
    }

    /// Resolves once the peer closes or speaks; may be dropped at any time.
    pub(super) async fn broken(&mut self) {
        while self.is_ready() {
            let read = self.stream.read(&mut self.input).await;
            self.take(read);
        }
    }

    /// Says goodbye and closes.
    pub(super) async fn quit(mut self) {
        self.client.quit();
        let goodbye = async {
            let output = std::mem::take(self.client.output());
            self.stream.write_all(&output).await?;
            self.stream.shutdown().await
        };
        // It was the peer's to keep the connection open until now; whatever happens, it is over.
        let _ = timeout(GOODBYE, goodbye).await;
    }

    fn take(&mut self, read: io::Result<usize>) {
        match read {
            Ok(0) => self.client.lost(Loss::Closed),
            Ok(length) => {
                let came = self.input.get(..length).unwrap_or_default();
                self.tap.heard(|| self.remote.clone(), came);
                self.client.receive(came);
            }
            // A peer that ends TLS without its close_notify has closed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.client.lost(Loss::Closed);
            }
            Err(error) => self.client.lost(network(&error)),
        }
    }

    /// Writes what is to be written, then reads once. A reply must be whole when its time is over,
    /// however many pieces it comes in.
    async fn exchange(&mut self, wait: Wait, timeouts: &Timeouts) {
        let span = match wait {
            Wait::Greeting => timeouts.greeting,
            Wait::Command => timeouts.command,
            Wait::FinalDot => timeouts.final_dot,
        };
        let expected = (self.client.heard(), wait);
        if self.waiting_for != Some(expected) || !self.client.output().is_empty() {
            self.waiting_for = Some(expected);
            self.deadline = (Instant::now() + limit(span)).min(self.until);
        }
        if !self.client.output().is_empty() {
            match timeout_at(self.deadline, self.write_output()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return self.last_words(network(&error)).await,
                Err(_) => return self.client.lost(Loss::TimedOut),
            }
        }
        match timeout_at(self.deadline, self.stream.read(&mut self.input)).await {
            Ok(read) => self.take(read),
            Err(_) => self.client.lost(Loss::TimedOut),
        }
    }

    async fn write_output(&mut self) -> io::Result<()> {
        self.tap.said(|| self.remote.clone(), self.client.output());
        self.stream.write_all(self.client.output()).await?;
        self.client.output().clear();
        self.client.output().shrink_to(KEPT);
        self.stream.flush().await
    }

    pub(super) async fn send_block(&mut self, timeouts: &Timeouts) -> Result<(), Loss> {
        let deadline = (Instant::now() + limit(timeouts.data)).min(self.until);
        match timeout_at(deadline, self.write_output()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(network(&error)),
            Err(_) => Err(Loss::TimedOut),
        }
    }

    /// Nothing more can be written. What the server said before it closed may tell why.
    async fn last_words(&mut self, loss: Loss) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut most = MAX_BYTES;
        while let Ok(Ok(length @ 1..)) =
            timeout_at(deadline, self.stream.read(&mut self.input)).await
        {
            self.client
                .receive(self.input.get(..length).unwrap_or_default());
            most = most.saturating_sub(length);
            if most == 0 {
                break;
            }
        }
        self.client.lost(loss);
        self.client.output().clear();
    }
}

async fn connect(target: &Target) -> io::Result<Stream> {
    if let Some(path) = target.socket() {
        return UnixStream::connect(path).await.map(Stream::Unix);
    }
    let address = target.address;
    let stream = match target.source {
        None => TcpStream::connect(address).await?,
        Some(source) => {
            let socket = match source.is_ipv4() {
                true => TcpSocket::new_v4()?,
                false => TcpSocket::new_v6()?,
            };
            socket.bind((source, 0).into()).map_err(|error| {
                let text = format!(
                    "{source} can not be sent from ({error}); add it to an interface, or take it \
                     out of delivery.source or route.source"
                );
                io::Error::new(error.kind(), text)
            })?;
            socket.connect(address).await?
        }
    };
    stream.set_nodelay(true)?;
    Ok(Stream::Plain(stream))
}

/// A timeout in a form that can be added to any time; `never` is a year.
fn limit(span: Span) -> Duration {
    span.0.min(Duration::from_secs(365 * 86_400))
}

fn network(error: &io::Error) -> Loss {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => Loss::Closed,
        io::ErrorKind::TimedOut => Loss::TimedOut,
        _ => Loss::Network(error.to_string()),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
