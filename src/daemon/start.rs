//! The actors of a running daemon, and what each needs of the others.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, ArbiterHandle};
use futures_util::future::join_all;

use super::Loaded;
use super::ways::Ways;
use crate::acme::{self, Certificates, Challenges};
use crate::auth::{self, AuthFiles, Authenticator};
use crate::config::Config;
use crate::control::{self, Control};
use crate::delivery::{self, Dispatcher, DispatcherError};
use crate::dns::{Resolver, ResolverError};
use crate::identity::password::NOBODY;
use crate::identity::{Identity, Resolution};
use crate::intake::outside::Outside;
use crate::intake::reputation::keeper::{self, Keeper};
use crate::intake::srs::returns::Returns;
use crate::listener::arriving::Arriving;
use crate::listener::{self, BindError, Inherited, Listener, Shared};
use crate::queue::{self, Leads};
use crate::report::dmarc::reporter::{self, Others, Reporter};
use crate::report::{self, Reports, received};
use crate::signing::{self, Signer};
use crate::web::{self, Web, WebError};

/// How long the queue may take to answer the watchdog.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the start waits for the DNS to show whether it hands on signatures.
const DNS_TIME: Duration = Duration::from_secs(2);

/// Cores that sessions and workers keep busy by themselves.
const BUSY_CORES: usize = 2;

/// Why the daemon could not start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Signal handlers.
    #[error("signals can not be handled: {0}")]
    Signals(std::io::Error),
    /// Thread pools.
    #[error("threads can not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An address of the web.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The outbound side.
    #[error(transparent)]
    Dispatcher(#[from] DispatcherError),
    /// The store.
    #[error(transparent)]
    Queue(#[from] queue::store::OpenError),
    /// What is remembered of rewritten senders.
    #[error(
        "srs-senders in data_dir can not be used: {0}; see its owner and mode, or move it away: \
         bounces to what it remembers are refused then"
    )]
    Returns(std::io::Error),
    /// What the authenticator keeps on disk.
    #[error("auth/ in data_dir can not be used: {0}")]
    Auth(std::io::Error),
    /// The control socket.
    #[error("the control socket in data_dir can not be made: {0}")]
    Control(std::io::Error),
    /// An actor was gone before it was asked anything.
    #[error("an actor ended at start; the log above says why")]
    Actor(#[from] actix::MailboxError),
}

/// Addresses of the actors that are told of reloads and of the stop.
pub struct Running {
    ways: Ways,
    config: Arc<Config>,
    queue: queue::Handle,
    dispatcher: Addr<Dispatcher>,
    auth: Addr<Authenticator>,
    signer: Addr<Signer>,
    outside: Arc<Outside>,
    greylist: Addr<Keeper>,
    reporter: Addr<Reporter>,
    resolver: Resolver,
    /// What messages hold in memory while they arrive, over reloads.
    arriving: Arriving,
    listeners: Vec<Addr<Listener>>,
    web: Addr<Web>,
    certificates: Addr<Certificates>,
    reports: Addr<Reports>,
    _control: Addr<Control>,
}

/// Threads for sessions and workers, and for hashing: one of each for a core.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where sessions and workers run, one for a core: neither blocks, and more threads than cores only
/// take turns.
fn arbiters() -> Vec<ArbiterHandle> {
    (0..cores()).map(|_| Arbiter::new().handle()).collect()
}

/// Where the queue runs: on a thread of its own if there is a core for it. Otherwise each of its
/// answers would wait for a switch between threads.
fn queue_arbiter() -> ArbiterHandle {
    if cores() > BUSY_CORES {
        Arbiter::new().handle()
    } else {
        Arbiter::current()
    }
}

/// A pool for argon2, or for RSA: each keeps cores busy, and more threads than cores gain nothing.
/// They are two, so that whoever guesses passwords does not delay the signing of mail.
fn pool() -> Result<Arc<rayon::ThreadPool>, rayon::ThreadPoolBuildError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores())
        .thread_name(|number| format!("crypto-{number}"))
        // Whoever waits for the answer sees its channel closed and answers 4xx.
        .panic_handler(|_| tracing::error!(target: "daemon", "a crypto thread panicked"))
        .build()?;
    Ok(Arc::new(pool))
}

/// Starts everything; listeners last, so that the first client finds the whole house.
pub async fn start(loaded: Loaded) -> Result<Running, StartError> {
    let Loaded {
        config,
        identity,
        keys,
        tls,
        outside,
    } = loaded;
    let resolver = Resolver::new(&config.dns)?;
    // Libraries are given what answers now; our own questions find out later as well.
    let _ = tokio::time::timeout(DNS_TIME, resolver.validates()).await;
    let followed = resolver.clone();
    actix_rt::spawn(async move { followed.follow().await });
    let (signing, logins) = (pool()?, pool()?);
    // Sockets first: a port in use is the commonest mistake and costs no recovery to find.
    let mut inherited = Inherited::from_env();
    let sockets = config
        .listeners
        .iter()
        .map(|listen| Ok((listen, listener::bind(listen, &mut inherited)?)))
        .collect::<Result<Vec<_>, BindError>>()?;

    let bound = web::bind(&config)?;

    let signer = Signer::new(keys, signing).start();
    let opened = queue::open(&config)?;
    if let Err(error) = received::store::prepare(&config.data_dir) {
        tracing::warn!(
            target: "daemon",
            %error,
            "reports/received in data_dir cannot be made: reports of others are not kept; see its owner and mode"
        );
    }
    let day = crate::time::now() / crate::time::DAY;
    let returns = Returns::open(&config.data_dir, day).map_err(StartError::Returns)?;
    let outside = Arc::new(outside.remembering(Arc::new(returns)));
    let files = AuthFiles::open(&config).map_err(StartError::Auth)?;
    let auth = Authenticator::new(config.clone(), identity.clone(), files, logins).start();
    let ways = Ways::new(&config, &identity, &outside);
    let leads = ways.leads();
    let mut queue = queue::start(
        opened,
        config.clone(),
        signer.clone().recipient(),
        leads,
        &queue_arbiter(),
    );
    let reports = Reports::new(report::Means {
        config: config.clone(),
        identity: identity.clone(),
        resolver: resolver.clone(),
        signer: signer.clone().recipient(),
        queue: queue.addr.clone().recipient(),
        ids: queue.ids.clone(),
    })
    .start();
    let arbiters = arbiters();
    let dispatcher = Dispatcher::new(
        config.clone(),
        resolver.clone(),
        queue.addr.clone().recipient(),
        queue.addr.clone().recipient(),
        signer.clone().recipient(),
        arbiters.clone(),
    )?
    .reporting(reports.clone().recipient())
    .sealing(signer.clone().recipient())
    .grouping(queue.addr.clone().recipient())
    .start();
    queue
        .addr
        .send(queue::Connect(dispatcher.clone().recipient()))
        .await?;
    queue.onward = Some((ways.onward(), signer.clone().recipient()));
    queue.resume = Some(dispatcher.clone().recipient());
    queue.suspended = Some(dispatcher.clone().recipient());
    let keeper = delivery::Keeper {
        suspend: queue.addr.clone().recipient(),
        suspended: queue.addr.clone().recipient(),
    };
    dispatcher.send(keeper).await?;
    let suspended = queue.addr.send(queue::Suspended).await?;
    dispatcher.send(delivery::Suspensions(suspended)).await?;
    let control = control::start(&config.data_dir, queue.clone()).map_err(StartError::Control)?;
    actix_rt::spawn(control::catch_up(queue.clone()));

    let (challenges, answers) = Challenges::new();
    let site = web::Site {
        config: config.clone(),
        identity: identity.clone(),
        tls: tls.clone(),
    };
    let web = Web::new(site, answers, bound).start();
    let given = acme::Given {
        config: config.clone(),
        identity: identity.clone(),
    };
    let certificates = Certificates::new(given, resolver.clone(), challenges).start();

    let greylist = Keeper::open(&config.greylist, &config.data_dir).start();

    let others = Others {
        resolver: resolver.clone(),
        signer: signer.clone(),
        queue: queue.addr.clone().recipient(),
        ids: queue.ids.clone(),
    };
    let leading = self::leads(identity.clone());
    let reporter = Reporter::new(config.clone(), &identity, leading, others).start();

    let mut running = Running {
        ways,
        web,
        certificates,
        reports,
        config: config.clone(),
        queue,
        dispatcher,
        auth,
        signer,
        outside,
        greylist,
        reporter,
        resolver,
        arriving: Arriving::default(),
        listeners: Vec::new(),
        _control: control,
    };
    let shared = running.shared(identity, tls);
    for (listen, socket) in sockets {
        let listener = Listener::new(listen, socket, shared.clone(), arbiters.clone());
        running.listeners.push(listener.start());
    }
    for listener in &running.listeners {
        // An answer means that it has started: ready is said when all of them accept.
        listener.send(listener::Reload(shared.clone())).await?;
    }
    Ok(running)
}

/// Where a DSN's recipient leads; to nobody if its own aliases are at fault.
fn leads(identity: Arc<Identity>) -> Leads {
    Arc::new(move |address| led(&identity, address))
}

/// The same at once.
pub(super) fn led(identity: &Identity, address: &str) -> Vec<String> {
    match identity.resolve(address) {
        Resolution::Remote => vec![address.to_owned()],
        Resolution::Targets(targets) => targets,
        Resolution::Unknown | Resolution::Rejected(_) | Resolution::Refused(_) => Vec::new(),
    }
}

impl Running {
    fn shared(
        &self,
        identity: Arc<Identity>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Arc<Shared> {
        let scram = identity
            .domains()
            .flat_map(|(_, domain)| domain.users())
            .all(|(_, user)| user.scram.is_some() || user.password == NOBODY);
        Arc::new(Shared {
            scram,
            config: self.config.clone(),
            identity,
            tls,
            auth: self.auth.clone(),
            signer: self.signer.clone(),
            queue: self.queue.addr.clone().recipient(),
            ids: self.queue.ids.clone(),
            outside: self.outside.clone(),
            arrivals: self.queue.arrivals.clone(),
            arriving: self.arriving.clone(),
            reporter: self.reporter.clone(),
            greylist: self.greylist.clone(),
            resolver: self.resolver.clone(),
            spool: self.queue.spool.clone(),
        })
    }

    /// Whether the queue actor answers in time, and can take or deliver mail.
    pub async fn queue_answers(&self) -> bool {
        let ask = self.queue.addr.send(queue::Ping);
        matches!(tokio::time::timeout(ANSWER, ask).await, Ok(Ok(true)))
    }

    /// Gives every actor what was loaded anew. Sockets and directories stay as they were: they
    /// change with a restart only, and the log says so.
    pub async fn reload(&mut self, loaded: Loaded) {
        let Loaded {
            config,
            identity,
            keys,
            tls,
            outside,
        } = loaded;
        if let Err(error) = self.resolver.read_again() {
            tracing::error!(target: "daemon", %error, "the DNS servers of before are asked");
        }
        let returns = self.outside.returns().clone();
        self.outside = Arc::new(outside.remembering(returns));
        if config.listeners != self.config.listeners || config.data_dir != self.config.data_dir {
            tracing::warn!(
                target: "daemon",
                "listeners and data_dir change with `systemctl restart chapar` only"
            );
        }
        if config.web.http != self.config.web.http || config.web.https != self.config.web.https {
            tracing::warn!(
                target: "daemon",
                "web.http and web.https change with `systemctl restart chapar` only"
            );
        }
        self.config = config.clone();
        self.ways.replace(&config, &identity, &self.outside);
        let site = web::Site {
            config: config.clone(),
            identity: identity.clone(),
            tls: tls.clone(),
        };
        let _ = self.web.send(web::Reload(site)).await;
        let given = acme::Given {
            config: config.clone(),
            identity: identity.clone(),
        };
        let _ = self.certificates.send(acme::Reload(given)).await;
        let told = report::Reload(config.clone(), identity.clone());
        let _ = self.reports.send(told).await;
        let shared = self.shared(identity.clone(), tls);
        let leads = leads(identity.clone());
        let leading = leads.clone();
        // An actor that is gone has said why; the others are told all the same.
        let _ = self.auth.send(auth::Reload(config.clone(), identity)).await;
        let _ = self.signer.send(signing::Reload(keys)).await;
        let _ = self.dispatcher.send(delivery::Reload(config.clone())).await;
        let _ = self.queue.addr.send(queue::Reload { config, leads }).await;
        let reload = reporter::Reload(self.config.clone(), shared.identity.clone(), leading);
        let _ = self.reporter.send(reload).await;
        let rules = keeper::Reload(self.config.greylist.clone());
        let _ = self.greylist.send(rules).await;
        for listener in &self.listeners {
            let _ = listener.send(listener::Reload(shared.clone())).await;
        }
    }

    /// Stops in the order of the journey: no new connections, sessions end, attempts end, the
    /// store is closed. What takes longer than `limits.drain` is cut off; nothing accepted is lost
    /// by that.
    pub async fn stop(&self) {
        let patience = self.config.limits.drain.0;
        let sessions = join_all(self.listeners.iter().map(|each| each.send(listener::Drain)));
        if tokio::time::timeout(patience, sessions).await.is_err() {
            tracing::warn!(target: "daemon", "sessions were cut off after limits.drain");
        }
        let _ = self.greylist.send(keeper::Flush).await;
        let _ = self.reporter.send(reporter::Flush).await;
        let attempts = self.dispatcher.send(delivery::Drain);
        if tokio::time::timeout(patience, attempts).await.is_err() {
            tracing::warn!(target: "daemon", "attempts were cut off after limits.drain");
        }
        let _ = self.reports.send(report::Save).await;
        let _ = self.queue.addr.send(queue::Stop).await;
    }
}
