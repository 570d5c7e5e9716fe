//! The queue actor: owner of every message from its acceptance to its end.
//!
//! It decides and remembers; the store's threads write, read and sync. What they finish comes
//! back through the [`Inbox`], so that this actor polls one thing however many messages are on
//! their way. After anything happened, [`Queue::pump`] does what has become possible.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;
use queue_schema::{Message, Millis, QueueId};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use super::budget::Budget;
use super::claim::Claims;
use super::clock::Clock;
use super::commit::Commits;
use super::dispatch::BREATH;
use super::lanes::{Lanes, Way};
use super::ledger::{Taken, Unsettled};
use super::listed::Listed;
use super::messages::{
    Accept, AcceptError, Connect, Fetch, FetchError, Ping, Record, Reload, Stop,
};
use super::order::{self, Order};
use super::remake::{Remade, Unkept};
use super::settle::Settled;
use super::slot::Slot;
use super::steer::Steering;
use super::store::{self, Readers, Store, StoreError};
use super::suspend::{self, Suspension};
use super::ways::{self, Belongs, Naming};
use super::{Feed, IdSource, Leads, blocking, end_process, failures};
use crate::Wake;
use crate::config::Config;
use crate::message::{Body, Content};
use crate::signing::Sign;

/// Messages that may wait for the actor before their senders wait.
const MAILBOX: usize = 4096;
/// New messages that wait in memory, however small they are.
const FRESH: usize = 20_000;
/// Longest sleep: a clock that was set is noticed after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How often is looked for jobs that delivery lost.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Notifications that are written and signed at the same time.
const SETTLING: usize = 16;
/// How long `Stop` waits for notifications that are being signed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Messages that were read; `None` for one that is not there.
pub(super) type Loaded = Vec<(QueueId, Result<Option<Arc<Message>>, StoreError>)>;

/// What tasks bring back to the actor. All of it stays on the actor's thread.
pub(super) enum Event {
    /// A message is durable.
    Accepted(Arc<Message>, Content),
    /// Messages were read, for a delivery or for an operator.
    Loaded(Loaded, Purpose),
    /// The dispatcher took jobs, or did not.
    Sent(Vec<(QueueId, Vec<u32>)>, bool),
    /// Changes are durable, or are not.
    Committed(super::commit::Committed),
    /// A notification is ready, or can not be made.
    Settled(Box<Settled>),
    /// A message of another queue is durable.
    Adopted(Arc<Message>),
    /// How long to wait before the process ends because the store failed.
    Wait(Duration),
    /// When some messages are due by the clock that was set.
    Remade(Remade),
}

/// What a message was read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is due.
    Due,
    /// An operator wants something.
    Steer,
    /// Its bytes are lost, so it is to be ended.
    Lost,
}

/// Events that wait for the actor.
#[derive(Clone, Default)]
pub(super) struct Inbox(Rc<(RefCell<Vec<Event>>, Notify)>);

impl Inbox {
    /// Adds one and wakes the actor.
    pub fn push(&self, event: Event) {
        self.0.0.borrow_mut().push(event);
        self.0.1.notify_one();
    }

    async fn take(&self) -> Vec<Event> {
        self.0.1.notified().await;
        std::mem::take(&mut self.0.0.borrow_mut())
    }
}

/// See the module.
pub struct Queue {
    pub(super) store: Store,
    pub(super) readers: Readers,
    pub(super) config: Arc<Config>,
    pub(super) signer: Recipient<Sign>,
    pub(super) leads: Leads,
    pub(super) ids: IdSource,
    pub(super) dispatcher: Option<Recipient<Wake>>,
    pub(super) budget: Budget,
    pub(super) inbox: Inbox,
    /// What waits on disk, and new messages whose bytes are in memory, as far as the budget went.
    pub(super) lanes: Lanes,
    pub(super) naming: Naming,
    /// The clock jumped and due times are being made again: messages that were placed since.
    pub(super) remaking: Option<HashSet<QueueId>>,
    pub(super) slots: HashMap<QueueId, Slot>,
    /// Messages that were due and are in memory again, and the ways by which they were.
    pub(super) backlog: VecDeque<(QueueId, Way)>,
    /// Slots with recipients that are busy.
    pub(super) active: usize,
    /// Recipients that are with delivery.
    pub(super) handed: usize,
    /// Whose turn it is when both new mail and `backlog` wait.
    pub(super) backlog_next: bool,
    /// The dispatcher has not answered the last batch yet.
    pub(super) sending: bool,
    /// Messages being read because they are due.
    pub(super) loading: usize,
    /// Delivery failed to take jobs: nothing is sent before this.
    pub(super) paused_until: Option<Instant>,
    pub(super) commits: Commits,
    pub(super) settling: usize,
    pub(super) settlers: Arc<Semaphore>,
    pub(super) steering: VecDeque<Steering>,
    pub(super) claims: Claims,
    /// Imports that opening left over, until the actor starts.
    unsettled: Option<(Taken, Vec<Unsettled>)>,
    /// When the last order of an operator was carried out, or a part of it.
    pub(super) steered: Option<Instant>,
    /// When messages were read last because they were due.
    pub(super) loaded_at: Option<Instant>,
    pub(super) feed: Feed,
    pub(super) suspensions: Listed<Suspension>,
    pub(super) orders: Listed<Order>,
    /// Orders were applied since their counts were written down.
    pub(super) orders_counted: bool,
    pub(super) clock: Clock,
    pub(super) unkept: Unkept,
    /// What time that never jumps is counted from.
    pub(super) started: Instant,
    timer: Option<(SpawnHandle, Instant)>,
    /// When the store was seen to have failed.
    pub(super) failed_since: Option<Instant>,
    /// How long the process stays after that.
    pub(super) failed_wait: Duration,
    stopping: Vec<oneshot::Sender<()>>,
    stop: Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    Running,
    Draining(Instant),
    Closing,
    Closed,
}

/// Ends the process if the code it stands in panics: what the actor knew is on disk, and a start
/// finds it again.
pub(super) struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the queue panicked; the process ends to start afresh");
            end_process();
        }
    }
}

impl Queue {
    pub(super) fn new(
        opened: super::Opened,
        config: Arc<Config>,
        signer: Recipient<Sign>,
        leads: Leads,
        feed: Feed,
        taken: Taken,
    ) -> Queue {
        let mut lanes = Lanes::default();
        for (id, name, due) in opened.recovered.ways.entries() {
            let way = lanes.way(name);
            lanes.set(id, way, due);
        }
        let naming = Naming::new(&config);
        Queue {
            readers: opened.store.readers(),
            store: opened.store,
            budget: Budget::new(config.limits.memory_bodies.0),
            config,
            signer,
            leads,
            ids: opened.ids,
            dispatcher: None,
            inbox: Inbox::default(),
            lanes,
            naming,
            remaking: None,
            slots: HashMap::new(),
            backlog: VecDeque::new(),
            active: 0,
            handed: 0,
            backlog_next: false,
            sending: false,
            loading: 0,
            paused_until: None,
            commits: Commits::default(),
            settling: 0,
            settlers: Arc::new(Semaphore::new(SETTLING)),
            steering: VecDeque::new(),
            claims: Claims::default(),
            unsettled: Some((taken, opened.unsettled)),
            steered: None,
            loaded_at: None,
            feed,
            suspensions: Listed::new(suspend::FILE, opened.suspensions),
            orders: Listed::new(order::FILE, opened.orders),
            orders_counted: false,
            clock: opened.recovered.clock,
            unkept: Unkept::default(),
            started: Instant::now(),
            timer: None,
            failed_since: None,
            failed_wait: failures::LONGEST,
            stopping: Vec::new(),
            stop: Stopping::Running,
        }
    }

    /// Whether it is stopping: nothing more is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop != Stopping::Running
    }

    /// Whether nobody has told it to stop.
    pub(super) fn is_running(&self) -> bool {
        self.stop == Stopping::Running
    }

    /// Whether jobs may go out.
    pub(super) fn delivers(&self) -> bool {
        self.stop == Stopping::Running && self.store.failure().is_none()
    }

    /// Does what has become possible, and sets the timer for what will be.
    pub(super) fn pump(&mut self, ctx: &mut Context<Self>) {
        let _fatal = Fatal;
        self.lanes.tidy();
        self.check_clock();
        self.take_lost();
        self.steer_step();
        self.claim_step();
        if self.delivers() && self.dispatcher.is_some() {
            self.load_due(crate::time::now());
            self.wake();
        }
        let at_once = self.stop != Stopping::Running;
        self.commits.submit(&self.store, &self.inbox, at_once);
        self.restart_step();
        self.stop_step(ctx);
        self.set_timer(ctx);
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let mut sleep = LONGEST_SLEEP;
        let can_load = self.dispatcher.is_some() && self.delivers() && self.can_load();
        if self.steered.is_some_and(|at| at.elapsed() < BREATH) {
            sleep = BREATH;
        }
        if let Some(due) = self.lanes.next().filter(|_| can_load) {
            // Rounded up: waking before it is due would do nothing and wake again at once.
            let wait = due.saturating_sub(crate::time::now()).saturating_add(1);
            sleep = sleep.min(Duration::from_millis(wait));
        }
        if let Some(until) = self.paused_until {
            sleep = sleep.min(until.saturating_duration_since(Instant::now()));
        }
        if let Some(wait) = self.commits.due_in() {
            sleep = sleep.min(wait);
        }
        if let Some(since) = self.failed_since {
            let left = self.failed_wait.saturating_sub(since.elapsed());
            sleep = sleep.min(left + Duration::from_millis(1));
        }
        let at = Instant::now() + sleep;
        if let Some((timer, old)) = self.timer {
            // One that comes early does as well: it sets the next.
            if old <= at {
                return;
            }
            ctx.cancel_future(timer);
        }
        let timer = ctx.run_later(sleep, |queue, ctx| {
            queue.timer = None;
            queue.pump(ctx);
        });
        self.timer = Some((timer, at));
    }

    fn stop_step(&mut self, ctx: &mut Context<Self>) {
        match self.stop {
            Stopping::Draining(since) => {
                let busy = self.settling > 0 || !self.commits.is_idle();
                if busy && self.store.failure().is_none() && since.elapsed() < STOP_LIMIT {
                    return;
                }
                self.stop = Stopping::Closing;
                let store = self.store.clone();
                let close = async move {
                    // Only a panic could make it fail, and that ends the process.
                    let _ = blocking(move || store.close()).await;
                };
                ctx.spawn(close.into_actor(self).map(|(), queue, ctx| {
                    queue.stop = Stopping::Closed;
                    queue.stop_step(ctx);
                }));
            }
            Stopping::Closed => {
                for waiter in self.stopping.drain(..) {
                    let _ = waiter.send(());
                }
            }
            Stopping::Running | Stopping::Closing => {}
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Accepted(message, content) => self.accepted(message, content),
            Event::Loaded(messages, purpose) => self.loaded(messages, purpose),
            Event::Sent(jobs, taken) => self.sent(jobs, taken),
            Event::Committed(committed) => self.committed(committed),
            Event::Settled(settled) => self.settled(*settled),
            Event::Remade(remade) => self.remade(remade),
            Event::Adopted(message) => self.adopted(message),
            Event::Wait(wait) => self.failed_wait = wait,
        }
    }

    /// A message that is new in the queue and durable.
    pub(super) fn accepted(&mut self, message: Arc<Message>, content: Content) {
        let id = message.id;
        self.feed.accepted(&message);
        if self.is_ordered(&message, crate::time::now()) {
            return self.ordered_at_once(message);
        }
        let now = crate::time::now();
        let waits = ways::waits(self.naming, &self.clock, &message, |_| false, now);
        // Beyond the budget, and when too much waits already, it is read back when its turn comes.
        let ready = |due: &Option<Millis>| due.is_some_and(|due| due <= now);
        let goes = waits.iter().any(|(_, due)| ready(due)) && self.lanes.fresh() < FRESH;
        let Some(content) = goes.then(|| self.budget.keep(content)).flatten() else {
            // An operator may have been quicker than this event, and places it again.
            if !self.slots.contains_key(&id) {
                self.place(&message);
            }
            return;
        };
        let waits = waits.into_iter().filter(|(_, due)| due.is_some());
        let ways = waits.map(|(name, _)| self.lanes.way(&name));
        let ways: Vec<Way> = ways.collect();
        for way in &ways {
            self.lanes.push(id, *way);
        }
        // An operator may have been quicker than this event: the slot is there already.
        let slot = self.slots.entry(id).or_default();
        slot.content = Some(content);
        slot.fresh = ways;
        slot.message.get_or_insert(message);
    }
}

impl Actor for Queue {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let events = stream::unfold(self.inbox.clone(), |inbox| async move {
            let events = inbox.take().await;
            Some((events, inbox))
        });
        ctx.add_stream(events);
        // No events, but a reason to look.
        let lost = stream::unfold(self.store.lost_news(), |news| async move {
            news.notified().await;
            Some((Vec::new(), news))
        });
        ctx.add_stream(lost);
        if let Some((taken, left)) = self.unsettled.take() {
            self.settle_imports(taken, left, ctx.address());
        }
        ctx.run_interval(SWEEP_EVERY, |queue, ctx| {
            queue.sweep();
            actix_rt::spawn(queue.keep_order_counts());
            queue.pump(ctx);
        });
        self.pump(ctx);
    }
}

impl StreamHandler<Vec<Event>> for Queue {
    fn handle(&mut self, events: Vec<Event>, ctx: &mut Self::Context) {
        let _fatal = Fatal;
        for event in events {
            self.happened(event);
        }
        self.pump(ctx);
    }
}

impl Handler<Accept> for Queue {
    type Result = ResponseFuture<Result<QueueId, AcceptError>>;

    fn handle(&mut self, accept: Accept, _ctx: &mut Self::Context) -> Self::Result {
        if self.stop != Stopping::Running {
            return Box::pin(async { Err(AcceptError::Draining) });
        }
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        let with = self.commits.ride(&self.inbox);
        Box::pin(async move {
            let Accept {
                id,
                arrived,
                origin,
                envelope,
                content,
                held,
            } = accept;
            let mut message = store::new_message(id, arrived, origin, envelope);
            for state in &mut message.states {
                for why in &held {
                    state.hold(why.since(arrived));
                }
            }
            match store.accept_with(message, content.clone(), with).await {
                Ok(message) => {
                    tracing::info!(
                        %id,
                        from = message.envelope.reverse_path,
                        recipients = message.envelope.recipients.len(),
                        size = message.size,
                        "accepted"
                    );
                    inbox.push(Event::Accepted(message, content));
                    Ok(id)
                }
                Err(error) => Err(not_accepted(error, content).await),
            }
        })
    }
}

pub(super) async fn not_accepted(error: StoreError, content: Content) -> AcceptError {
    if error.passes()
        && let Body::Spool(file) = content.body
    {
        // Nothing was written, so nothing refers to it.
        let _ = tokio::fs::remove_file(&*file.path).await;
    }
    match error {
        StoreError::Full => AcceptError::DiskFull,
        StoreError::Closed => AcceptError::Draining,
        other => AcceptError::Store(other.to_string()),
    }
}

impl Handler<Fetch> for Queue {
    type Result = ResponseFuture<Result<Content, FetchError>>;

    fn handle(&mut self, fetch: Fetch, _ctx: &mut Self::Context) -> Self::Result {
        let readers = self.readers.clone();
        Box::pin(async move {
            let Fetch { id, location } = fetch;
            let read = readers.run(move |reader| reader.fetch(id, &location)).await;
            read.unwrap_or_else(|error| {
                Err(FetchError {
                    id,
                    lost: false,
                    reason: error.to_string(),
                })
            })
        })
    }
}

impl Handler<Record> for Queue {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, record: Record, ctx: &mut Self::Context) -> Self::Result {
        let _fatal = Fatal;
        let waits = self.record(&record);
        self.pump(ctx);
        Box::pin(async move {
            let mut durable = true;
            for wait in waits {
                // Without an answer there was nothing to write.
                durable &= !matches!(wait.await, Ok(Err(_)));
            }
            durable
        })
    }
}

impl Handler<Connect> for Queue {
    type Result = ();

    fn handle(&mut self, connect: Connect, ctx: &mut Self::Context) {
        self.dispatcher = Some(connect.0);
        self.paused_until = None;
        self.pump(ctx);
    }
}

impl Handler<Belongs> for Queue {
    type Result = ();

    fn handle(&mut self, Belongs(ways): Belongs, _ctx: &mut Self::Context) {
        for (way, destination) in ways {
            self.lanes.belongs(&way, &destination);
        }
    }
}

impl Handler<Ping> for Queue {
    type Result = bool;

    fn handle(&mut self, _ping: Ping, _ctx: &mut Self::Context) -> bool {
        self.store.failure().is_none()
    }
}

impl Handler<Reload> for Queue {
    type Result = ();

    fn handle(&mut self, reload: Reload, ctx: &mut Self::Context) {
        self.config = reload.config;
        self.naming = Naming::new(&self.config);
        self.clock.set_retry(self.config.retry.clone());
        self.leads = reload.leads;
        self.pump(ctx);
    }
}

impl Handler<Stop> for Queue {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _stop: Stop, ctx: &mut Self::Context) -> Self::Result {
        if self.stop == Stopping::Running {
            self.stop = Stopping::Draining(Instant::now());
            ctx.run_later(STOP_LIMIT, |queue, ctx| queue.pump(ctx));
        }
        let (answer, answered) = oneshot::channel();
        self.stopping.push(answer);
        let kept = self.keep_order_counts();
        self.pump(ctx);
        Box::pin(async move {
            kept.await;
            let _ = answered.await;
        })
    }
}
