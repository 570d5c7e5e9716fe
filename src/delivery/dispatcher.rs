//! The actor that decides where due messages go.
//!
//! It receives [`Wake`] from the queue, splits each job by next hop and gives the parts to the
//! worker of that destination, which it starts when there is none. Domains it does not know yet
//! are looked up by tasks, each domain once and in lanes ([`super::lanes`]), so that a slow DNS
//! server holds up nobody else: not other messages, and not the other domains of the same message,
//! whose recipients leave as soon as their own next hop is known. It reports what can not be routed, and keeps nothing but addresses
//! of workers and a cache of next hops.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix::dev::SendError;
use actix::{
    Actor, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture, SpawnHandle,
};
use actix_rt::ArbiterHandle;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};

use super::CONNECTIONS;
use super::batches::{self, Batches, Group};
use super::connection::Common;
use super::counts;
use super::hops::{Found, Hops};
use super::messages::{Drain, Keeper, Reload};
use super::paces::Paces;
use super::pending::{Pending, Reporter};
use super::reach::{Destination, Reach};
use super::seven_bit::SevenBit;
use super::sources::Sources;
use super::started::{Domains, Started};
use super::stops::Stops;
use super::tally::Tally;
use super::worker::{self, Deliver, Shed, Worker};
use crate::config::Config;
use crate::config::routes::RouteError;
use crate::dns::Resolver;
use crate::queue::{Belongs, Fetch, Record, Resume, Wake};
use crate::signing::{Seal, Sign};
use crate::tls;
use crate::tls::sts::{self, Fetcher, Policies};

/// Domains of one message whose lookups end within this time of each other may share a transaction.
const TOGETHER: Duration = Duration::from_millis(100);
/// Wakes and answers that may wait in the mailbox.
const MAILBOX: usize = 256;

/// Why the outbound side can not start.
#[derive(Debug, thiserror::Error)]
pub enum DispatcherError {
    /// A `[[route]]` that can not be read.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// TLS can not be set up.
    #[error("TLS for deliveries can not be set up: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// `tls.ca_file` can not be used.
    #[error(transparent)]
    Roots(#[from] tls::client::RootsError),
}

/// A worker stopped having work: may it end? Only if no [`Deliver`] is on its way to it.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct WorkerIdle {
    pub(super) key: Arc<str>,
    /// Which worker asks: another one may have its key by now.
    pub(super) number: u64,
    /// How many it was sent, as far as it knows.
    pub(super) delivers: u64,
}

/// The next hops of a job's domains were found out.
#[derive(Message)]
#[rtype(result = "()")]
struct Resolved {
    part: Pending,
    hops: Vec<(String, Found)>,
}

/// See the module.
pub struct Dispatcher {
    common: Arc<Common>,
    hops: Hops,
    sources: Sources,
    reporter: Reporter,
    arbiters: Vec<ArbiterHandle>,
    next_arbiter: usize,
    pub(super) workers: HashMap<Arc<str>, Started>,
    last_worker: u64,
    /// Workers that finish what they have with an older configuration.
    retired: Vec<Addr<Worker>>,
    /// What holds for next hops.
    pub(super) paces: Paces,
    /// Who keeps what rules did.
    pub(super) keeper: Option<Keeper>,
    /// When the next of what holds is over.
    pub(super) expiry: Option<SpawnHandle>,
    /// Becomes true when no new attempt may begin.
    stop: watch::Sender<bool>,
    /// Who hears which destination a way leads to, and what is to be told.
    groups: Option<Recipient<Belongs>>,
    belong: Vec<(String, Arc<str>)>,
}

impl Dispatcher {
    /// Prepares the outbound side. Workers are spread over `arbiters`; without any they run where
    /// the dispatcher does. Outcomes go to `record`, bytes that are not in memory come from `fetch`,
    /// what had to be encoded is signed again by `signer`.
    pub fn new(
        config: Arc<Config>,
        resolver: Resolver,
        record: Recipient<Record>,
        fetch: Recipient<Fetch>,
        signer: Recipient<Sign>,
        arbiters: Vec<ArbiterHandle>,
    ) -> Result<Dispatcher, DispatcherError> {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let fetcher = Fetcher::new(&config, resolver.clone())?;
        let policies = Policies::new(fetcher, sts::directory(&config.data_dir)).start();
        let content = (fetch, SevenBit::new(signer));
        let tally = Arc::default();
        let mut paces = Paces::default();
        let now = (crate::time::now(), Instant::now());
        paces.recount(counts::take(&config.data_dir), now);
        let shared = (connections, Stops::default());
        let common = common(&config, resolver, content, shared, policies, tally)?;
        Ok(Dispatcher {
            common,
            hops: Hops::new(&config)?,
            sources: Sources::new(&config),
            reporter: Reporter::new(record, config.retry.first.0),
            arbiters,
            next_arbiter: 0,
            workers: HashMap::new(),
            last_worker: 0,
            retired: Vec::new(),
            paces,
            keeper: None,
            expiry: None,
            stop: watch::Sender::new(false),
            groups: None,
            belong: Vec::new(),
        })
    }

    /// Who keeps mail in order by destination hears which one each domain leads to.
    pub fn grouping(mut self, groups: Recipient<Belongs>) -> Dispatcher {
        self.groups = Some(groups);
        self
    }

    /// Notes which destination a way leads to.
    fn note(&mut self, way: &str, found: &Found) {
        if let Ok(destination) = &found.hop {
            self.belong.push((way.to_owned(), destination.group()));
        }
    }

    /// Tells what was noted. A queue that is too busy to hear it hears it when it is looked up
    /// again; until then the way is a destination of its own there.
    fn tell(&mut self) {
        let noted = std::mem::take(&mut self.belong);
        if !noted.is_empty()
            && let Some(groups) = &self.groups
        {
            let _ = groups.try_send(Belongs(noted));
        }
    }

    /// Results of TLS sessions are counted there.
    pub fn reporting(self, tally: Recipient<Tally>) -> Dispatcher {
        // It is set once, before anything is delivered.
        let _ = self.common.tally.set(tally);
        self
    }

    /// Forwarded mail that had to be encoded is sealed again by `sealer`.
    pub fn sealing(self, sealer: Recipient<Seal>) -> Dispatcher {
        self.common.seven_bit.sealing(sealer);
        self
    }

    #[cfg(test)]
    pub(super) fn workers(&self) -> impl Iterator<Item = &Addr<Worker>> {
        self.workers.values().map(|started| &started.address)
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Groups the recipients of a part by destination, or finds out where they go first.
    fn take(&mut self, mut part: Pending, batches: &mut Batches, context: &mut Context<Self>) {
        let now = Instant::now();
        // Most messages: one recipient, at a domain that is known.
        if let [only] = part.recipients() {
            let domain = self.hops.key(&part, *only);
            if let Some((destination, promise)) = self.hops.cached(&domain, now) {
                let destination = Arc::clone(destination);
                let promise = Arc::clone(promise);
                drop(domain);
                part.promise = promise;
                return batches.add(self.sources.settle(destination, &part.message, now), part);
            }
        }
        let mut hops: Vec<(String, Found)> = Vec::new();
        let mut unknown: Vec<(String, Vec<u32>)> = Vec::new();
        let mut ready = Vec::new();
        for at in part.recipients() {
            let domain = self.hops.key(&part, *at);
            if hops.iter().any(|(known, _)| *known == domain) {
                ready.push(*at);
            } else if let Some((_, same)) = unknown.iter_mut().find(|(own, _)| *own == domain) {
                same.push(*at);
            } else if let Some(found) = self.hops.known(&domain, now) {
                self.hops.remember(&domain, &found, now);
                self.note(&domain, &found);
                hops.push((domain.into_owned(), found));
                ready.push(*at);
            } else {
                unknown.push((domain.into_owned(), vec![*at]));
            }
        }
        if unknown.is_empty() {
            return self.place(part, &hops, batches);
        }
        if !ready.is_empty() {
            let ready = part.split(ready);
            self.place(ready, &hops, batches);
        }
        let lookups = unknown.into_iter().map(|(domain, recipients)| {
            let lookup = self.hops.lookup(&domain, &self.common);
            async move { (domain, recipients, lookup.await) }
        });
        let lookups: FuturesUnordered<_> = lookups.collect();
        let mut stop = self.stop.subscribe();
        let myself = context.address();
        actix_rt::spawn(async move {
            let mut lookups = lookups;
            loop {
                let found = tokio::select! {
                    found = together(&mut lookups) => found,
                    _ = stop.wait_for(|stop| *stop) => {
                        let reporter = part.reporter().clone();
                        return reporter.send_all(vec![part], &super::draining());
                    }
                };
                let (recipients, hops): (Vec<_>, _) = found
                    .into_iter()
                    .map(|(domain, recipients, found)| (recipients, (domain, found)))
                    .unzip();
                let last = lookups.is_empty();
                let ready = match last {
                    true => None,
                    false => Some(part.split(recipients.concat())),
                };
                // Without a dispatcher, dropping a part reports it.
                let Some(ready) = ready else {
                    let _ = myself.send(Resolved { part, hops }).await;
                    return;
                };
                let _ = myself.send(Resolved { part: ready, hops }).await;
            }
        });
    }

    /// Splits a part whose next hops are known into the batches of their destinations.
    fn place(&mut self, mut part: Pending, hops: &[(String, Found)], batches: &mut Batches) {
        let mut groups: Vec<Group> = Vec::new();
        for at in part.recipients() {
            batches::group(&mut groups, *at, self.hops.key(&part, *at), hops);
        }
        let last = groups.len().saturating_sub(1);
        for (at, group) in groups.into_iter().enumerate() {
            let Group {
                hop,
                promise,
                recipients,
                ..
            } = group;
            // The last group needs no part of its own.
            let group = match at == last {
                true => None,
                false => Some(part.split(recipients)),
            };
            let (mut group, rest) = match group {
                Some(group) => (group, Some(part)),
                None => (part, None),
            };
            match hop {
                Ok(destination) => {
                    group.promise = promise;
                    let now = Instant::now();
                    let destination = self.sources.settle(destination, &group.message, now);
                    batches.add(destination, group);
                }
                Err(verdict) => self.reporter.send_one(group, &verdict, ""),
            }
            match rest {
                Some(rest) => part = rest,
                None => return,
            }
        }
    }

    /// What operators suspended, as connections see it.
    pub(super) fn stops(&self) -> &Stops {
        &self.common.stops
    }

    /// Has every worker send back what may not begin; done when they have.
    pub(super) fn shed(
        &self,
    ) -> Vec<impl Future<Output = Result<(), actix::MailboxError>> + use<>> {
        let workers = self.workers.values().map(|started| &started.address);
        let workers = workers.chain(&self.retired);
        workers.map(|worker| worker.send(Shed)).collect()
    }

    /// Sends back what goes to a suspended next hop.
    fn without_suspended(&self, batches: Batches) -> Batches {
        if self.paces.is_empty() {
            return batches;
        }
        let now = crate::time::now();
        let mut free = Vec::new();
        for (destination, parts) in batches.0 {
            match self.paces.stopped(&destination, now) {
                None => free.push((destination, parts)),
                Some(suspension) => self.reporter.send_suspended(parts, suspension),
            }
        }
        Batches(free)
    }

    fn send(&mut self, batches: Batches, context: &mut Context<Self>) {
        for (destination, parts) in self.without_suspended(batches).0 {
            let mut deliver = Deliver(parts);
            // A worker that died of a panic gets a successor; twice in a row, what it was to be
            // sent waits, which dropping it says.
            for _ in 0..2 {
                let started = self.worker(&destination, context);
                started.delivers += 1;
                deliver.0.iter().for_each(|part| started.domains.add(part));
                match started.address.try_send(deliver) {
                    Ok(()) => break,
                    Err(SendError::Full(returned)) => {
                        // Other destinations must not wait for this one, so this waits apart.
                        let address = started.address.clone();
                        actix_rt::spawn(async move {
                            // An error drops the parts, which reports them.
                            let _ = address.send(returned).await;
                        });
                        break;
                    }
                    Err(SendError::Closed(returned)) => {
                        tracing::error!(
                            destination = %destination.key,
                            "the worker of a destination had died; another is started"
                        );
                        self.workers.remove(&destination.key);
                        deliver = returned;
                    }
                }
            }
        }
    }

    fn worker(
        &mut self,
        destination: &Arc<Destination>,
        context: &mut Context<Self>,
    ) -> &mut Started {
        let arbiters = &self.arbiters;
        let (next, last_worker) = (&mut self.next_arbiter, &mut self.last_worker);
        let (common, reporter) = (&self.common, &self.reporter);
        let paces = &mut self.paces;
        self.workers
            .entry(Arc::clone(&destination.key))
            .or_insert_with(|| {
                let standing = paces.standing(destination, crate::time::now());
                let told = standing.clone();
                let new = (Arc::clone(common), Arc::clone(destination));
                let (dispatcher, reporter) = (context.address(), reporter.clone());
                *last_worker += 1;
                let number = *last_worker;
                let start = move |context: &mut Context<Worker>| {
                    context.set_mailbox_capacity(worker::MAILBOX);
                    Worker::new(number, new.0, new.1, dispatcher, reporter, told)
                };
                *next = next.wrapping_add(1);
                let address = match arbiters.get(*next % arbiters.len().max(1)) {
                    Some(arbiter) => Worker::start_in_arbiter(arbiter, start),
                    None => Worker::create(start),
                };
                Started {
                    number,
                    address,
                    delivers: 0,
                    destination: Arc::clone(destination),
                    standing,
                    domains: Domains::default(),
                }
            })
    }
}

/// The next lookup that ends, and those that end soon after it.
async fn together<T>(lookups: &mut FuturesUnordered<impl Future<Output = T>>) -> Vec<T> {
    let mut found: Vec<T> = lookups.next().await.into_iter().collect();
    let others = async {
        while let Some(next) = lookups.next().await {
            found.push(next);
        }
    };
    // Who is not there by then is not waited for.
    let _ = tokio::time::timeout(TOGETHER, others).await;
    found
}

fn common(
    config: &Arc<Config>,
    resolver: Resolver,
    (fetch, seven_bit): (Recipient<Fetch>, SevenBit),
    (connections, stops): (Arc<Semaphore>, Stops),
    policies: Addr<Policies>,
    tally: Arc<OnceLock<Recipient<Tally>>>,
) -> Result<Arc<Common>, DispatcherError> {
    Ok(Arc::new(Common {
        reach: Reach::new(config),
        tls: Some(tls::client::opportunistic(config.tls.min_version)?),
        verified: tls::client::verified(config)?,
        config: Arc::clone(config),
        resolver,
        fetch,
        seven_bit,
        connections,
        stops,
        policies,
        tally,
        judge: tls::client::judge(config)?,
        since: crate::time::now(),
    }))
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Wake> for Dispatcher {
    type Result = ();

    fn handle(&mut self, Wake(jobs): Wake, context: &mut Context<Self>) {
        let parts = jobs
            .into_iter()
            .map(|job| Pending::new(job, &self.reporter));
        let parts: Vec<Pending> = parts.filter(|part| !part.recipients().is_empty()).collect();
        if self.is_stopping() {
            return self.reporter.send_all(parts, &super::draining());
        }
        let mut batches = Batches::default();
        for part in parts {
            self.take(part, &mut batches, context);
        }
        self.tell();
        self.send(batches, context);
    }
}

impl Handler<Resolved> for Dispatcher {
    type Result = ();

    fn handle(&mut self, resolved: Resolved, context: &mut Context<Self>) {
        let now = Instant::now();
        for (domain, found) in &resolved.hops {
            self.hops.looked_up(domain, found, now);
            self.note(domain, found);
        }
        self.tell();
        if self.is_stopping() {
            return self
                .reporter
                .send_all(vec![resolved.part], &super::draining());
        }
        let mut batches = Batches::default();
        self.place(resolved.part, &resolved.hops, &mut batches);
        self.send(batches, context);
    }
}

impl Handler<WorkerIdle> for Dispatcher {
    type Result = bool;

    fn handle(&mut self, idle: WorkerIdle, _: &mut Context<Self>) -> bool {
        match self.workers.get(&idle.key) {
            Some(started) if started.number == idle.number => {
                let crossed = started.delivers != idle.delivers;
                if !crossed && let Some(gone) = self.workers.remove(&idle.key) {
                    self.paces.forget(&gone.destination);
                }
                !crossed
            }
            // Retired by a new configuration: nothing is sent to it any more.
            _ => true,
        }
    }
}

impl Handler<Reload> for Dispatcher {
    type Result = Result<(), DispatcherError>;

    fn handle(&mut self, Reload(config): Reload, _: &mut Context<Self>) -> Self::Result {
        let hops = Hops::new(&config)?;
        let old = &self.common;
        let (resolver, fetch) = (old.resolver.clone(), old.fetch.clone());
        let fetcher = Fetcher::new(&config, resolver.clone())?;
        let policies = old.policies.clone();
        let connections = Arc::clone(&old.connections);
        let stops = old.stops.clone();
        let content = (fetch, old.seven_bit.clone());
        let tally = Arc::clone(&old.tally);
        self.common = common(
            &config,
            resolver,
            content,
            (connections, stops),
            policies.clone(),
            tally,
        )?;
        actix_rt::spawn(async move {
            // It is gone only when the process ends.
            let _ = policies.send(sts::Renew(fetcher)).await;
        });
        self.hops = hops;
        self.sources = Sources::new(&config);
        self.retired.retain(Addr::connected);
        self.retired
            .extend(self.workers.drain().map(|(_, started)| started.address));
        // Limits of providers may be others.
        self.paces.renew();
        Ok(())
    }
}

impl Handler<Resume> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, resume: Resume, _: &mut Context<Self>) -> Self::Result {
        let workers = self.workers.values();
        let told: Vec<_> = workers
            .filter(|started| started.is_meant(&resume))
            .map(|started| started.address.send(Resume::default()))
            .collect();
        Box::pin(async move {
            // A worker that is gone pauses no more.
            let _ = join_all(told).await;
        })
    }
}

impl Handler<Drain> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stop.send_replace(true);
        let workers = self.workers.values().map(|one| one.address.clone());
        let workers: Vec<_> = workers.chain(self.retired.drain(..)).collect();
        let reporter = self.reporter.clone();
        let counted = self.paces.counts((crate::time::now(), Instant::now()));
        let data_dir = self.common.config.data_dir.clone();
        let keep = tokio::task::spawn_blocking(move || counts::keep(&data_dir, &counted));
        Box::pin(async move {
            if let Ok(Err(error)) = keep.await {
                tracing::warn!(%error, "replies that rules count can not be kept in data_dir");
            }
            // A worker that is gone has nothing under way.
            join_all(workers.iter().map(|worker| worker.send(Drain))).await;
            reporter.settled().await;
        })
    }
}
