//! The queue: makes mail durable, wakes it when it is due, and remembers what became of it.
//!
//! [`open`] recovers the [`store`]; [`start`] gives it to the actor [`Queue`], which runs on a
//! thread of its own. Sessions send [`Accept`]; workers send [`Fetch`] and [`Record`]; control
//! sends [`Steer`] and looks through a [`View`]. The actor sends [`Wake`] to the
//! dispatcher and [`crate::signing::Sign`] to the signer, for notifications.
//!
//! What always holds: `Ok` to `Accept` only after the sync (I1); a recipient is forgotten only
//! after its end is on disk (I2); each has a deadline (I5); a notification and the end it tells of
//! are stored together. The actor never opens a socket and never blocks: the store's threads do.
//! A panic in it ends the process, which systemd starts again.
#![forbid(unsafe_code)]

mod actor;
mod adopt;
mod anew;
mod budget;
mod claim;
mod clock;
mod commit;
mod dispatch;
mod dsn;
mod dsn_text;
mod facts;
mod failures;
mod feed;
mod filter;
mod ids;
mod kept;
mod lanes;
mod ledger;
mod listed;
mod lost;
mod messages;
mod names;
mod notice;
pub mod order;
mod orders;
mod outcome;
mod pattern;
mod ports;
mod remake;
pub mod schedule;
mod selector;
mod settle;
mod shares;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
mod slot;
mod steer;
pub mod store;
pub mod suspend;
mod view;
mod waiting;
pub mod ways;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::time;
use chapar_config as config;
use chapar_message as message;
use chapar_signing as signing;
use chapar_smtp as smtp;

use std::sync::Arc;

use actix::ArbiterHandle;
use actix::prelude::*;
use queue_schema::{Message, QueueId, Reply};

pub use actor::Queue;
pub use chapar_base::text::{clean, like};
pub use facts::{Facts, Hops};
pub use feed::{Counts, Feed, Happened, word};
pub use filter::client;
pub use filter::domain_of;
pub use ids::IdSource;
pub use ledger::{Ledger, Origin as TakenFrom, Taken};
pub use messages::{
    Accept, AcceptError, Adopt, Anew, Attempt, BY, Claim, Claimed, Connect, EndOrder, Fetch,
    FetchError, HandOver, Held, Job, LOST, Look, Manner, Orders, Outcome, Pace, Ping, REASON,
    Record, Release, Reload, Stand, Steer, Stop, Suspend, Suspended, Unclaim, Unsuspend, Verb,
    kind_word,
};
pub use outcome::clean_reply;
pub use pattern::AnyOf;
pub use ports::{HERE, Resume, Suspensions, Wake};
pub use selector::{Matcher, STATES, Selector, SelectorError, state_word};
pub use store::{Arrival, Arrivals, Spool, SpoolWriter};
pub use view::{Page, View};
pub use ways::{Belongs, Naming};

use crate::config::Config;
use crate::message::Content;
use crate::signing::{Seal, Sign};
use store::{OpenError, Options, Recovered, Store};

/// Where an address leads: itself if its domain is not ours, its targets if it is, nothing if
/// nobody is there. Must not block.
pub type Leads = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// How a message goes on that was for an address of ours, and that an operator sends elsewhere.
#[derive(Debug, Default)]
pub struct Onward {
    /// Its reverse-path, where that is not its own.
    pub forwarded_as: Option<String>,
    /// What the signer is to make, which goes on top.
    pub seal: Option<Seal>,
}

/// How a message with these bytes, which came for an address, goes on to others. Must not block.
pub type Onwards = Arc<dyn Fn(&Message, &Content, &str, &[String]) -> Onward + Send + Sync>;

/// A store that was opened and recovered, not yet given to the actor.
pub struct Opened {
    store: Store,
    ids: IdSource,
    suspensions: Vec<suspend::Suspension>,
    orders: Vec<order::Order>,
    unsettled: Vec<ledger::Unsettled>,
    /// What opening found.
    pub recovered: Recovered,
}

/// What others need of the queue.
#[derive(Clone)]
pub struct Handle {
    /// The actor.
    pub addr: Addr<Queue>,
    /// Issues ids.
    pub ids: IdSource,
    /// Where sessions put large bodies.
    pub spool: Spool,
    /// Where sessions say that a transaction begins.
    pub arrivals: Arrivals,
    /// Reading for operators.
    pub view: View,
    /// Counts and events.
    pub feed: Feed,
    /// Messages of other queues that were taken already.
    pub taken: Taken,
    /// Where addresses lead, for redirections.
    pub leads: Leads,
    /// Signs notices, and messages that an operator sends.
    pub signer: Recipient<Sign>,
    /// How redirected mail goes on, and who seals it; `None` where nothing is delivered.
    pub onward: Option<(Onwards, Recipient<Seal>)>,
    /// Hears of suspensions; `None` where nothing is delivered.
    pub suspended: Option<Recipient<Suspensions>>,
    /// Ends the pauses of destinations when an operator replays; `None` where nothing is delivered.
    pub resume: Option<Recipient<Resume>>,
}

/// Opens the store in `config.data_dir`. Blocks while it recovers.
pub fn open(config: &Config) -> Result<Opened, OpenError> {
    let mut options = Options::new(&config.data_dir);
    options.free_space = config.limits.free_space.0;
    options.free_inodes = config.limits.free_inodes as u64;
    options.naming = Naming::new(config);
    options.retry = config.retry.clone();
    let (store, recovered) = Store::open(&options)?;
    let scanner = store.scanner();
    let there = |id| {
        let readers = scanner.clone();
        // A thread of its own: this one may belong to a runtime, which must not block.
        let load = move || readers.run_blocking(move |reader| reader.load(id));
        let read = std::thread::spawn(load).join();
        let read = read.map_err(|_| "reading it panicked".to_owned())?;
        let read = read.and_then(|read| read);
        read.map(|message| message.is_some())
            .map_err(|error| error.to_string())
    };
    opened(store, recovered, config, there)
}

/// What belongs to a store that was opened; `there` says whether a message is in it.
fn opened(
    store: Store,
    recovered: Recovered,
    config: &Config,
    there: impl FnMut(QueueId) -> Result<bool, String>,
) -> Result<Opened, OpenError> {
    let disk = store.disk();
    if recovered.behind {
        tracing::warn!(
            "the clock is behind what it was when the queue was written to last; set it right. \
             Mail waits from now on for as long as it was to wait"
        );
        let jumps = recovered.clock.jumps();
        if let Err(error) = kept::save(&disk, &config.data_dir, clock::FILE, jumps) {
            tracing::error!(%error, file = clock::FILE, "it can not be written");
        }
    }
    let ids = IdSource::new(recovered.highest.max(recovered.clock.highest()));
    let kept = |name: &'static str| {
        let path = config.data_dir.join(name);
        move |source| OpenError::Io { path, source }
    };
    let unsettled = ledger::settle(&disk, &config.data_dir, there).map_err(kept(ledger::FILE))?;
    let suspensions =
        kept::load(&disk, &config.data_dir, suspend::FILE).map_err(kept(suspend::FILE))?;
    let orders = kept::load(&disk, &config.data_dir, order::FILE).map_err(kept(order::FILE))?;
    Ok(Opened {
        store,
        ids,
        suspensions,
        orders,
        unsettled,
        recovered,
    })
}

/// Opens the store for reading alone, after it could not be opened because of `why`.
pub fn look(config: &Config, why: &OpenError) -> Result<Opened, OpenError> {
    let mut options = Options::new(&config.data_dir);
    options.naming = Naming::new(config);
    options.retry = config.retry.clone();
    let (store, recovered) = Store::look(&options, why)?;
    Ok(Opened {
        store,
        ids: IdSource::new(recovered.highest.max(recovered.clock.highest())),
        suspensions: Vec::new(),
        orders: Vec::new(),
        unsettled: Vec::new(),
        recovered,
    })
}

/// Starts the actor on `arbiter`. Needs a running actix system.
pub fn start(
    opened: Opened,
    config: Arc<Config>,
    signer: Recipient<Sign>,
    leads: Leads,
    arbiter: &ArbiterHandle,
) -> Handle {
    start_with(opened, config, signer, leads, |make| {
        Queue::start_in_arbiter(arbiter, move |_| make())
    })
}

fn start_with(
    opened: Opened,
    config: Arc<Config>,
    signer: Recipient<Sign>,
    leads: Leads,
    run: impl FnOnce(Box<dyn FnOnce() -> Queue + Send>) -> Addr<Queue>,
) -> Handle {
    let (ids, spool) = (opened.ids.clone(), opened.store.spool());
    let arrivals = opened.store.arrivals();
    let view = View::new(opened.store.clone());
    let feed = Feed::default();
    let taken = Taken::new(&opened.store.disk(), &config.data_dir);
    let (events, led) = (feed.clone(), leads.clone());
    let signs = signer.clone();
    let list = taken.clone();
    let make = move || Queue::new(opened, config, signs, led, events, list);
    let addr = run(Box::new(make));
    Handle {
        addr,
        ids,
        spool,
        arrivals,
        view,
        feed,
        taken,
        leads,
        signer,
        onward: None,
        suspended: None,
        resume: None,
    }
}

/// Exit code after a fault (sysexits: internal software error).
const EX_SOFTWARE: i32 = 70;

/// Runs what waits for the disk away from the actor's thread.
pub async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    #[cfg(any(test, feature = "simulation"))]
    if crate::time::simulated::now().is_some() {
        return Ok(run());
    }
    tokio::task::spawn_blocking(run).await
}

/// Ends the process, which is started again: what it knew is on disk.
fn end_process() {
    #[cfg(any(test, feature = "simulation"))]
    if crate::time::simulated::now().is_some() {
        return crate::time::simulated::end();
    }
    std::process::exit(EX_SOFTWARE);
}

/// A reply that no server gave.
pub fn own_reply(code: u16, enhanced: &str, text: &str) -> Reply {
    let reply = Reply {
        code,
        enhanced: enhanced.to_owned(),
        text: text.to_owned(),
        remote: String::new(),
    };
    outcome::clean_reply(&reply)
}
