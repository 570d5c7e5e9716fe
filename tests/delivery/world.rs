//! What the tests share: a dispatcher, a queue that remembers what it is told, and a lab.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, ArbiterHandle, Context, Handler, Recipient as Hearer};
use bytes::Bytes;
use chapar::config::{Config, Span};
use chapar::delivery::{Dispatcher, Drain, Wake};
use chapar::dns::Resolver;
use chapar::lab::{DnsServer, Mx, MxConfig};
use chapar::message::{Body, Content};
use chapar::queue::{Attempt, Fetch, FetchError, Job, Outcome, Record};
use chapar::report::Tally;
use chapar::signing::{Sign, SignError};
use queue_schema::{
    BodyPlace, Envelope, Location, Message, Origin, QueueId, Recipient, RecipientState,
};
use tokio::sync::mpsc;

/// Nothing in these tests takes that long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub dns: DnsServer,
    pub dispatcher: Addr<Dispatcher>,
    records: mpsc::UnboundedReceiver<(Arc<Message>, Attempt)>,
    next_id: u64,
}

/// The offset at which bytes are lost for good; elsewhere they may be read later.
pub const LOST: u64 = 3;

/// Stands where the queue is: hears outcomes and gives back bytes.
struct Ear {
    heard: mpsc::UnboundedSender<(Arc<Message>, Attempt)>,
    contents: HashMap<u64, Content>,
}

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<Record> for Ear {
    type Result = bool;

    fn handle(&mut self, record: Record, _: &mut Context<Self>) -> bool {
        for attempt in record.attempts {
            self.heard
                .send((Arc::clone(&record.message), attempt))
                .expect("a test that listens");
        }
        true
    }
}

impl Handler<Fetch> for Ear {
    type Result = Result<Content, FetchError>;

    fn handle(&mut self, fetch: Fetch, _: &mut Context<Self>) -> Self::Result {
        let missing = || FetchError {
            id: fetch.id,
            lost: fetch.location.offset == LOST,
            reason: "damaged".to_owned(),
        };
        self.contents
            .get(&fetch.location.offset)
            .cloned()
            .ok_or_else(missing)
    }
}

impl Handler<Sign> for Ear {
    type Result = Result<Bytes, SignError>;

    /// There is no key.
    fn handle(&mut self, _: Sign, _: &mut Context<Self>) -> Self::Result {
        Ok(Bytes::new())
    }
}

/// A configuration in which nothing takes long.
pub fn config(dns: &DnsServer, port: u16) -> Config {
    let mut config =
        Config::parse("hostname = \"mx.example.org\"", "test", "/".as_ref()).expect("config");
    config.dns.servers = vec![dns.address()];
    config.delivery.port = port;
    config.delivery.private_targets = true;
    config.timeouts.connect = Span::secs(5);
    config.timeouts.greeting = Span::secs(5);
    config.timeouts.command = Span::secs(5);
    config.timeouts.data = Span::secs(5);
    config.timeouts.final_dot = Span::secs(5);
    config
}

impl World {
    pub async fn new(port: u16, change: impl FnOnce(&mut Config)) -> World {
        let dns = DnsServer::start().await.expect("a DNS server");
        World::with_dns(dns, port, HashMap::new(), change)
    }

    pub fn with_dns(
        dns: DnsServer,
        port: u16,
        contents: HashMap<u64, Content>,
        change: impl FnOnce(&mut Config),
    ) -> World {
        let mut config = config(&dns, port);
        change(&mut config);
        World::start(dns, config, contents, Vec::new(), None)
    }

    pub fn on(arbiters: Vec<ArbiterHandle>, dns: DnsServer, port: u16) -> World {
        let config = config(&dns, port);
        World::start(dns, config, HashMap::new(), arbiters, None)
    }

    /// A world whose TLS sessions are counted.
    pub fn counted(dns: DnsServer, config: Config, reports: Hearer<Tally>) -> World {
        World::start(dns, config, HashMap::new(), Vec::new(), Some(reports))
    }

    fn start(
        dns: DnsServer,
        config: Config,
        contents: HashMap<u64, Content>,
        arbiters: Vec<ArbiterHandle>,
        reports: Option<Hearer<Tally>>,
    ) -> World {
        let resolver = Resolver::new(&config.dns).expect("a resolver");
        let (heard, records) = mpsc::unbounded_channel();
        let ear = Ear { heard, contents }.start();
        let (record, fetch) = (ear.clone().recipient(), ear.clone().recipient());
        let (config, signer) = (Arc::new(config), ear.recipient());
        let dispatcher = Dispatcher::new(config, resolver, record, fetch, signer, arbiters);
        let mut dispatcher = dispatcher.expect("a dispatcher");
        if let Some(reports) = reports {
            dispatcher = dispatcher.reporting(reports);
        }
        let dispatcher = dispatcher.start();
        World {
            dns,
            dispatcher,
            records,
            next_id: 0,
        }
    }

    /// One MX for example.com, and a world that knows it.
    pub async fn with_mx(mx: MxConfig) -> (World, Mx) {
        World::with_mx_and(mx, |_| {}).await
    }

    pub async fn with_mx_and(mx: MxConfig, change: impl FnOnce(&mut Config)) -> (World, Mx) {
        let mx = Mx::start(mx).await.expect("an MX");
        let world = World::new(mx.address().port(), change).await;
        world.dns.mx("example.com", 10, "mx.example.com");
        world.dns.a("mx.example.com", ip(&mx));
        (world, mx)
    }

    pub fn message(&mut self, to: &[&str]) -> Message {
        self.next_id += 1;
        let recipients = to.iter().map(|address| Recipient::new(*address));
        let now = chapar::time::now();
        Message {
            id: QueueId::floor(self.next_id),
            arrived: now,
            origin: Origin::Network {
                client: Ipv4Addr::LOCALHOST.into(),
            },
            envelope: Envelope::new("sender@example.org", recipients.collect()),
            size: 0,
            location: Location {
                segment: 0,
                offset: self.next_id,
                length: 0,
                head: 0,
                body: BodyPlace::Inline,
            },
            states: to.iter().map(|_| RecipientState::new(now)).collect(),
            message_id: String::new(),
            subject: String::new(),
            top: String::new(),
            story: Vec::new(),
        }
    }

    /// A small message for these recipients is due.
    pub async fn send(&mut self, to: &[&str]) {
        let message = self.message(to);
        self.wake(message, Some(small("Hello"))).await;
    }

    pub async fn wake(&mut self, message: Message, content: Option<Content>) {
        let recipients = (0..message.envelope.recipients.len() as u32).collect();
        let job = Job {
            message: Arc::new(message),
            recipients,
            content,
        };
        self.dispatcher
            .send(Wake(vec![job]))
            .await
            .expect("a dispatcher");
    }

    /// The next outcome.
    pub async fn heard(&mut self) -> (Arc<Message>, Attempt) {
        let next = tokio::time::timeout(PATIENCE, self.records.recv());
        next.await.expect("an outcome in time").expect("a queue")
    }

    /// The next `count` outcomes as text, sorted: `to outcome reply`.
    pub async fn outcomes(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            let (message, attempt) = self.heard().await;
            all.push(text(&message, &attempt));
        }
        all.sort();
        all
    }

    pub async fn outcome(&mut self) -> String {
        let (message, attempt) = self.heard().await;
        text(&message, &attempt)
    }

    /// Stops it all, and with that knows that nothing was reported twice.
    pub async fn end(mut self) {
        let drain = tokio::time::timeout(PATIENCE, self.dispatcher.send(Drain));
        drain.await.expect("a drain in time").expect("a dispatcher");
        if let Ok((message, attempt)) = self.records.try_recv() {
            panic!("one outcome too many: {}", text(&message, &attempt));
        }
    }
}

pub fn text(message: &Message, attempt: &Attempt) -> String {
    let to = &message.envelope.recipients[attempt.recipient as usize].address;
    let outcome = match &attempt.outcome {
        Outcome::Suspended { what, .. } => return format!("{to} suspended {what}"),
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::Failed => "failed".to_owned(),
        Outcome::Lost => "lost".to_owned(),
        Outcome::Deferred {
            retry_after: None,
            counts: true,
        } => "deferred".to_owned(),
        Outcome::Deferred {
            retry_after: Some(wait),
            counts: true,
        } => {
            format!("deferred({}s)", wait.as_secs())
        }
        Outcome::Deferred {
            retry_after: Some(_),
            counts: false,
        } => "postponed".to_owned(),
        Outcome::Deferred {
            retry_after: None,
            counts: false,
        } => {
            panic!("postponed for no time")
        }
    };
    format!("{to} {outcome} {}", attempt.reply)
}

pub fn small(body: &str) -> Content {
    Content {
        head: Bytes::from_static(b"From: sender@example.org\r\nSubject: test\r\n\r\n"),
        body: Body::Memory(Bytes::from(format!("{body}\r\n"))),
    }
}

pub fn ip(mx: &Mx) -> Ipv4Addr {
    match mx.address() {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("an IPv4 MX"),
    }
}

/// MX hosts at 127.0.0.2, .3 and so on that share one port.
pub async fn hosts(configs: Vec<MxConfig>) -> Vec<Mx> {
    'again: for _ in 0..50 {
        let mut port = 0;
        let mut hosts = Vec::new();
        for (at, config) in configs.iter().enumerate() {
            let address = (Ipv4Addr::new(127, 0, 0, 2 + at as u8), port).into();
            let config = MxConfig {
                address,
                ..config.clone()
            };
            let Ok(mx) = Mx::start(config).await else {
                continue 'again;
            };
            port = mx.address().port();
            hosts.push(mx);
        }
        return hosts;
    }
    panic!("no port that is free on all of them");
}

/// A port on which nobody listens, on any loopback address.
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr());
    socket.expect("a free port").port()
}
