//! A remote MX that takes mail, or does whatever else its script says.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::ca::Identity;
use super::script::{Act, Script, Stage};
use super::session::serve;

/// How a lab MX is made; what it does can be changed later with [`Mx::on`].
#[derive(Debug, Clone)]
pub struct MxConfig {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Its name in greeting, EHLO reply and certificate.
    pub hostname: String,
    /// Offers STARTTLS with a self-signed certificate, or that of `identity`.
    pub starttls: bool,
    /// The certificate it shows.
    pub identity: Option<Identity>,
    /// Offers PIPELINING.
    pub pipelining: bool,
    /// Answers 451 to the first try of each recipient.
    pub greylist: bool,
    /// Offers SIZE with this limit; it is not enforced.
    pub size: Option<u64>,
    /// Offers 8BITMIME.
    pub eight_bit: bool,
    /// Offers SMTPUTF8.
    pub smtputf8: bool,
    /// Offers DSN.
    pub dsn: bool,
    /// Offers REQUIRETLS once TLS is in use.
    pub require_tls: bool,
    /// Speaks LMTP: LHLO, and at the end of data a reply for each recipient, in the order they
    /// were accepted; [`Stage::Dot`] is asked once for each, with the recipient as its line.
    pub lmtp: bool,
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// AUTH mechanisms it offers once TLS is in use; it knows `user` with the password `pencil`.
    pub auth: Vec<String>,
    /// Further lines of its EHLO reply.
    pub extensions: Vec<String>,
    /// Keeps the messages it takes and the commands it sees; without, only the number of messages.
    pub keep: bool,
}

impl Default for MxConfig {
    fn default() -> Self {
        MxConfig {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            hostname: "mx.lab.example".to_owned(),
            starttls: false,
            identity: None,
            pipelining: true,
            greylist: false,
            size: Some(0),
            eight_bit: true,
            smtputf8: false,
            dsn: false,
            require_tls: false,
            lmtp: false,
            implicit_tls: false,
            auth: Vec::new(),
            extensions: Vec::new(),
            keep: true,
        }
    }
}

/// One message a lab MX took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Which of its connections, from 1.
    pub connection: u64,
    /// The client's address.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The client's name in EHLO or HELO.
    pub hello: String,
    /// The reverse-path without brackets.
    pub reverse_path: String,
    /// The parameters of MAIL FROM as they came.
    pub parameters: String,
    /// The recipients that were accepted, without brackets.
    pub recipients: Vec<String>,
    /// The message with CR LF, dots un-stuffed.
    pub data: Vec<u8>,
}

/// One command a lab MX was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which of its connections, from 1.
    pub connection: u64,
    /// The command without its line end.
    pub line: String,
}

/// A running lab MX. Clones are the same one; it runs until the last is dropped.
#[derive(Clone)]
pub struct Mx {
    address: SocketAddr,
    shared: Arc<Shared>,
    listeners: Arc<Mutex<Vec<Abort>>>,
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Shared {
    pub(super) config: MxConfig,
    pub(super) acceptor: TlsAcceptor,
    certificate: String,
    pub(super) script: Script,
    seen: Mutex<Seen>,
    /// Counts what was seen, to await it.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) received: Vec<Received>,
    pub(super) taken: usize,
    pub(super) log: Vec<Line>,
    connections: u64,
    open: u64,
    most_open: u64,
    pub(super) greylisted: HashSet<String>,
}

impl Mx {
    /// Starts one.
    pub async fn start(config: MxConfig) -> io::Result<Mx> {
        let identity = match config.identity.clone() {
            Some(identity) => identity,
            None => Identity::self_signed(&config.hostname).map_err(io::Error::other)?,
        };
        let (acceptor, certificate) = (identity.acceptor()?, identity.pem());
        let listener = TcpListener::bind(config.address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            acceptor,
            certificate,
            script: Script::default(),
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        let mx = Mx {
            address,
            shared,
            listeners: Arc::default(),
        };
        mx.listen(listener);
        Ok(mx)
    }

    /// Listens at one more address.
    pub async fn also_at(&self, address: SocketAddr) -> io::Result<()> {
        self.listen(TcpListener::bind(address).await?);
        Ok(())
    }

    fn listen(&self, listener: TcpListener) {
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.push(Abort(accepting.abort_handle()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate as PEM, which is its own root.
    pub fn certificate(&self) -> &str {
        &self.shared.certificate
    }

    /// From now on asks `rule` what to do at this stage; it is given the client's line. It may be
    /// called while connections are open.
    pub fn on(&self, stage: Stage, rule: impl FnMut(&str) -> Act + Send + 'static) {
        self.shared.script.set(stage, Box::new(rule));
    }

    /// Does the usual again at every stage.
    pub fn behave(&self) {
        self.shared.script.clear();
    }

    /// The messages taken so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.seen().received.clone()
    }

    /// How many messages were taken so far, whether kept or not.
    pub fn taken(&self) -> usize {
        self.shared.seen().taken
    }

    /// The commands seen so far.
    pub fn log(&self) -> Vec<Line> {
        self.shared.seen().log.clone()
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> u64 {
        self.shared.seen().connections
    }

    /// How many connections were open at the same time at most.
    pub fn most_open(&self) -> u64 {
        self.shared.seen().most_open
    }

    /// Waits until at least `count` messages were taken.
    pub async fn wait(&self, count: usize) -> Vec<Received> {
        self.until(|mx| mx.taken() >= count).await;
        self.received()
    }

    /// Waits until no connection is open.
    pub async fn wait_closed(&self) {
        self.until(|mx| mx.shared.seen().open == 0).await;
    }

    /// Waits until `condition` holds; it is asked after each command and message.
    pub async fn until(&self, mut condition: impl FnMut(&Mx) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        while !condition(self) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.seen());
        self.changes.send_modify(|count| *count += 1);
        result
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            continue;
        };
        let number = shared.note(|seen| {
            seen.connections += 1;
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
            seen.connections
        });
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Errors are the client going away, which is its right.
            let _ = serve(stream, (number, client.ip()), &shared).await;
            shared.note(|seen| seen.open -= 1);
        });
    }
}
