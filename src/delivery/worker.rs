//! The actor of one destination: its waiting parts, its connections, its pace.
//!
//! It receives parts from the dispatcher ([`Deliver`]) and hands them one by one to connection
//! tasks that ask for them ([`Next`]); it opens connections while parts wait and the pace allows,
//! and pauses the destination when no host can be reached. It never touches a socket or a message,
//! and never waits: all it does is decide.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message,
    ResponseFuture, WrapFuture,
};
use tokio::sync::{Semaphore, oneshot, watch};

use super::connection::{Common, Connection};
use super::dispatcher::{Dispatcher, WorkerIdle};
use super::messages::Drain;
use super::paces::{SHORT_WAIT, Standing};
use super::pacing::Pacing;
use super::pending::{Pending, Reporter};
use super::reach::{Destination, HostMemory, Lesson};
use super::verdict::Verdict;
use crate::queue::{Outcome, Resume};
use crate::smtp::reply::Reply;

/// Messages in a worker's mailbox.
pub(super) const MAILBOX: usize = 256;
/// Records of one worker that the queue has not answered.
const RECORDS: usize = 32;
/// A worker without work ends after this time.
const IDLE: Duration = Duration::from_secs(60);
/// A part for which there is no room waits for about this long.
const NO_ROOM: Duration = Duration::from_secs(60);
/// A part that is not sent soon because its destination is slowed waits at most this long.
const LONGEST_SHED: Duration = Duration::from_secs(4 * 3600);

/// Parts to be sent to this destination.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Deliver(pub(super) Vec<Pending>);

/// A connection asks for work. If the sender is dropped, it is to end.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Next {
    pub(super) id: u64,
    /// How the last part went.
    pub(super) last: Option<Grade>,
    /// Whether it has an open session.
    pub(super) open: bool,
    pub(super) sender: oneshot::Sender<Pending>,
}

/// How a transaction went, for the pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// Something was taken.
    Delivered,
    /// Nothing was, which says nothing about the destination.
    Neutral,
    /// The connection was cut off, or told to go away.
    Trouble,
}

/// A connection has a session.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Connected(pub(super) u64);

/// A connection could not get a session; it ends. The part it had is given back.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Unreachable {
    pub(super) id: u64,
    pub(super) part: Pending,
    pub(super) verdict: Verdict,
    /// The host whose reply that is; empty where none spoke.
    pub(super) remote: String,
}

/// Something about a host that the next connection should know.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Learned {
    pub(super) address: IpAddr,
    pub(super) lesson: Lesson,
}

/// Something else holds for this destination from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Paced(pub(super) Standing);

/// Something was suspended: what waits for it goes back.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Shed;

/// A connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ended(pub(super) u64);

/// How far a connection is.
enum Place {
    /// Not asked for work yet.
    Starting,
    /// Has a part; the flag says whether it had a session.
    Busy(bool),
    /// Has a session and waits for work.
    Idle(oneshot::Sender<Pending>),
}

/// See the module.
pub(super) struct Worker {
    /// Which of the dispatcher's workers it is.
    number: u64,
    common: Arc<Common>,
    destination: Arc<Destination>,
    dispatcher: Addr<Dispatcher>,
    reporter: Reporter,
    waiting: VecDeque<Pending>,
    /// Parts that may wait here.
    room: usize,
    connections: HashMap<u64, Place>,
    last_id: u64,
    pacing: Pacing,
    /// What holds for this destination; connections see it.
    standing: watch::Sender<Standing>,
    /// Connections up to this one were opened when something else held.
    outdated: u64,
    /// Why the destination pauses, as it is told to parts that come meanwhile.
    pause_reply: Option<Reply>,
    memory: HostMemory,
    records: Arc<Semaphore>,
    /// Becomes true when no new attempt may begin.
    stop: watch::Sender<bool>,
    /// The number of connections, for a drain to wait on.
    open: watch::Sender<usize>,
    /// How many [`Deliver`] came, so that ending can not cross with one.
    delivers: u64,
    idle_since: Instant,
}

impl Worker {
    pub(super) fn new(
        number: u64,
        common: Arc<Common>,
        destination: Arc<Destination>,
        dispatcher: Addr<Dispatcher>,
        reporter: Reporter,
        standing: Standing,
    ) -> Worker {
        let config = &common.config;
        let pacing = Pacing::new(config.delivery.connections, config.retry.first.0);
        Worker {
            number,
            // Half of all, so that a destination that hangs leaves room for the others.
            room: (config.delivery.active / 2).max(1),
            common,
            destination,
            dispatcher,
            reporter,
            waiting: VecDeque::new(),
            connections: HashMap::new(),
            last_id: 0,
            pacing,
            standing: watch::Sender::new(standing),
            outdated: 0,
            pause_reply: None,
            memory: HostMemory::default(),
            records: Arc::new(Semaphore::new(RECORDS)),
            stop: watch::Sender::new(false),
            open: watch::Sender::new(0),
            delivers: 0,
            idle_since: Instant::now(),
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Connections there may be.
    fn window(&self) -> usize {
        self.pacing.window().min(self.standing.borrow().connections)
    }

    /// Sends back what can not go soon, because the destination is suspended or slowed.
    fn shed(&mut self) {
        for mut part in std::mem::take(&mut self.waiting) {
            self.common.stops.apply(&mut part, &self.destination);
            if !part.recipients().is_empty() {
                self.waiting.push_back(part);
            }
        }
        let standing = self.standing.borrow().clone();
        if let Some(suspension) = &standing.stop {
            let waiting = std::mem::take(&mut self.waiting);
            return self.reporter.send_suspended(waiting.into(), suspension);
        }
        let room = standing.room();
        let Some(rate) = standing.rate.filter(|_| self.waiting.len() > room) else {
            return;
        };
        let over = self.waiting.split_off(room);
        let all = u32::try_from(over.len()).unwrap_or(u32::MAX);
        let longest = rate.interval().saturating_mul(all).min(LONGEST_SHED);
        let slowed = standing.slowed.clone();
        self.reporter.send_each(over.into(), move || {
            let wait = SHORT_WAIT + longest.mul_f64(fastrand::f64());
            Verdict::suspended(&slowed, wait)
        });
    }

    /// What parts are told while the destination pauses.
    fn pause(&self, now: Instant) -> Option<Verdict> {
        let rest = self.pacing.paused(now)?;
        let reply = self.pause_reply.clone();
        let reply = reply.unwrap_or_else(|| Reply::new(451, "4.4.1", "the destination pauses"));
        Some(Verdict::postponed(rest, reply))
    }

    /// Gives waiting parts to idle connections, then opens more if that is not enough.
    fn hand_out(&mut self, context: &mut Context<Self>) {
        self.shed();
        if !self.waiting.is_empty() {
            let idle = self.connections.iter_mut();
            for (_, place) in idle.filter(|(_, place)| matches!(place, Place::Idle(_))) {
                let Some(part) = self.waiting.pop_front() else {
                    break;
                };
                if let Place::Idle(sender) = std::mem::replace(place, Place::Busy(true)) {
                    // It ended in this very moment: someone else gets the part.
                    if let Err(part) = sender.send(part) {
                        self.waiting.push_front(part);
                    }
                }
            }
        }
        let starting = self
            .connections
            .values()
            .filter(|place| matches!(place, Place::Starting))
            .count();
        let wanted = self.waiting.len().saturating_sub(starting);
        let allowed = self.window().saturating_sub(self.connections.len());
        for _ in 0..wanted.min(allowed) {
            self.open_one(context);
        }
    }

    /// All that there are end after what they are doing.
    fn end_connections(&mut self) {
        self.outdated = self.last_id;
        for place in self.connections.values_mut() {
            if matches!(place, Place::Idle(_)) {
                // Dropping the sender ends the connection.
                *place = Place::Busy(true);
            }
        }
    }

    fn open_one(&mut self, context: &mut Context<Self>) {
        self.last_id += 1;
        self.connections.insert(self.last_id, Place::Starting);
        self.open.send_replace(self.connections.len());
        let connection = Connection {
            id: self.last_id,
            common: Arc::clone(&self.common),
            destination: Arc::clone(&self.destination),
            worker: context.address(),
            memory: self.memory.clone(),
            records: Arc::clone(&self.records),
            stop: self.stop.subscribe(),
            standing: self.standing.subscribe(),
            dispatcher: self.dispatcher.clone(),
        };
        actix_rt::spawn(connection.run());
    }

    fn check_idle(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if !self.connections.is_empty() || !self.waiting.is_empty() {
            self.idle_since = now;
        }
        let idle = now.duration_since(self.idle_since) >= IDLE;
        if !idle || !self.pacing.is_forgettable(now) {
            return;
        }
        let question = WorkerIdle {
            key: Arc::clone(&self.destination.key),
            number: self.number,
            delivers: self.delivers,
        };
        let answer = self.dispatcher.send(question).into_actor(self);
        let end = answer.map(|answer, _, context: &mut Context<Self>| {
            // No dispatcher is left only when the process ends.
            if answer.unwrap_or(true) {
                context.stop();
            }
        });
        context.spawn(end);
    }
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(IDLE / 4, Worker::check_idle);
    }
}

impl Handler<Deliver> for Worker {
    type Result = ();

    fn handle(&mut self, Deliver(mut parts): Deliver, context: &mut Context<Self>) {
        self.delivers += 1;
        if self.is_stopping() {
            return self.reporter.send_all(parts, &super::draining());
        }
        if let Some(verdict) = self.pause(Instant::now()) {
            return self.reporter.send_all(parts, &verdict);
        }
        let room = self.room.saturating_sub(self.waiting.len());
        if parts.len() > room {
            let over = parts.split_off(room);
            let text = "enough messages wait for this destination already";
            let verdict = Verdict::postponed(NO_ROOM, Reply::new(451, "4.3.2", text));
            self.reporter.send_all(over, &verdict);
        }
        self.waiting.extend(parts);
        self.hand_out(context);
    }
}

impl Handler<Paced> for Worker {
    type Result = ();

    fn handle(&mut self, Paced(standing): Paced, context: &mut Context<Self>) {
        if standing.epoch <= self.standing.borrow().epoch {
            return;
        }
        self.standing.send_replace(standing);
        // So that no more are left than are allowed now.
        self.end_connections();
        self.hand_out(context);
    }
}

impl Handler<Next> for Worker {
    type Result = ();

    fn handle(&mut self, next: Next, context: &mut Context<Self>) {
        let now = Instant::now();
        match next.last {
            Some(Grade::Delivered) => self.pacing.delivered(now),
            Some(Grade::Trouble) => self.pacing.troubled(self.connections.len(), now),
            Some(Grade::Neutral) | None => {}
        }
        let too_many = self.connections.len() > self.window() || next.id <= self.outdated;
        if self.is_stopping() || too_many {
            // Dropping the sender ends the connection; its `Ended` follows.
            return;
        }
        let place = match self.waiting.pop_front() {
            Some(part) => match next.sender.send(part) {
                Ok(()) => Place::Busy(next.open),
                Err(part) => {
                    self.waiting.push_front(part);
                    return;
                }
            },
            None if next.open => Place::Idle(next.sender),
            None => return,
        };
        self.connections.insert(next.id, place);
        self.hand_out(context);
    }
}

impl Handler<Connected> for Worker {
    type Result = ();

    fn handle(&mut self, Connected(id): Connected, _: &mut Context<Self>) {
        if let Some(place @ Place::Busy(false)) = self.connections.get_mut(&id) {
            *place = Place::Busy(true);
        }
    }
}

impl Handler<Unreachable> for Worker {
    type Result = ();

    fn handle(&mut self, unreachable: Unreachable, context: &mut Context<Self>) {
        let Unreachable {
            id,
            part,
            verdict,
            remote,
        } = unreachable;
        self.connections.remove(&id);
        self.open.send_replace(self.connections.len());
        let now = Instant::now();
        let served = |place: &Place| matches!(place, Place::Busy(true) | Place::Idle(_));
        match verdict.outcome {
            // Every host says that it will never be. The words are about this message; the others
            // hear their own, one after the other.
            Outcome::Failed => {
                if !remote.is_empty() {
                    self.pacing.troubled(1, now);
                }
                self.reporter.send_one(part, &verdict, &remote);
            }
            _ if self.is_stopping() => self.reporter.send_one(part, &super::draining(), ""),
            // Others get through: one connection more is too many, the message was not tried.
            _ if self.connections.values().any(served) => {
                self.pacing.troubled(self.connections.len() + 1, now);
                self.waiting.push_front(part);
            }
            _ => {
                let known = self.pause(now);
                self.pause_reply = Some(verdict.reply.clone());
                self.pacing.unreachable(now);
                // The first message tells of an attempt; all the others wait with it.
                self.reporter
                    .send_one(part, &known.unwrap_or(verdict), &remote);
                if let Some(verdict) = self.pause(now) {
                    let waiting = std::mem::take(&mut self.waiting);
                    self.reporter.send_all(waiting.into(), &verdict);
                }
            }
        }
        self.hand_out(context);
    }
}

impl Handler<Learned> for Worker {
    type Result = ();

    fn handle(&mut self, learned: Learned, _: &mut Context<Self>) {
        self.memory
            .learn(learned.address, learned.lesson, Instant::now());
    }
}

impl Handler<Ended> for Worker {
    type Result = ();

    fn handle(&mut self, Ended(id): Ended, context: &mut Context<Self>) {
        self.connections.remove(&id);
        self.open.send_replace(self.connections.len());
        self.hand_out(context);
    }
}

impl Handler<Resume> for Worker {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Context<Self>) {
        self.pacing.resume();
        self.memory.forgive();
        // Each has a memory of its own.
        self.end_connections();
    }
}

impl Handler<Shed> for Worker {
    type Result = ();

    fn handle(&mut self, _: Shed, context: &mut Context<Self>) {
        self.hand_out(context);
    }
}

impl Handler<Drain> for Worker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stop.send_replace(true);
        let waiting = std::mem::take(&mut self.waiting);
        self.reporter.send_all(waiting.into(), &super::draining());
        for place in self.connections.values_mut() {
            if matches!(place, Place::Idle(_)) {
                // Dropping the sender ends the connection.
                *place = Place::Busy(true);
            }
        }
        let mut open = self.open.subscribe();
        Box::pin(async move {
            // An error means that the worker is gone, and its connections with it.
            let _ = open.wait_for(|open| *open == 0).await;
        })
    }
}

/// Lets a test see what a panic costs.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Die;

#[cfg(test)]
impl Handler<Die> for Worker {
    type Result = ();

    fn handle(&mut self, _: Die, _: &mut Context<Self>) {
        panic!("this worker was told to panic by a test");
    }
}
