//! One life of the process: it opens the store, starts the actor, and goes on until it is killed
//! or stopped. What happens between is in `acts`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use queue_schema::{Millis, QueueId};

use super::checks;
use super::delivery::{Delivery, Flight, Jobs, Signer};
use super::importers::{self, Imports};
use super::model::leads;
use super::movers::{Moved, Moves};
use super::operators::{self, Answers, Excuses};
use super::world::World;
use crate::message::{Body, Content};
use crate::queue::store::{Stepped, Store};
use crate::queue::{AcceptError, Connect, Handle, Opened, Stop};

/// Steps from one comparison with the store and the actor to the next.
const INSPECT: u64 = 150;
/// How often the threads of the store go on in one step at most.
const TURNS: usize = 200;
/// How long a store that failed is left alone before somebody restarts the process.
const FAILED: Millis = 120_000;

/// How a life ended.
pub enum End {
    /// Killed, perhaps with the power: the chance that what was not synced is lost.
    Killed {
        /// See there.
        power: Option<f64>,
    },
    /// Stopped in order.
    Stopped,
    /// Nothing is left.
    Over,
}

/// What senders heard.
pub type Heard = Rc<RefCell<Vec<(QueueId, Result<QueueId, AcceptError>)>>>;
/// Messages that were read back.
pub type Fetched = Rc<RefCell<Vec<(QueueId, Result<Content, String>)>>>;

/// See the module.
pub struct Life<'a> {
    pub world: &'a mut World,
    pub queue: Handle,
    pub store: Store,
    pub stepped: Stepped,
    pub jobs: Jobs,
    pub flights: Vec<Flight>,
    pub heard: Heard,
    pub fetched: Fetched,
    pub answers: Answers,
    pub moves: Moves,
    pub imports: Imports,
    pub signer: Rc<Cell<bool>>,
    /// It was told to stop.
    pub stopping: bool,
    /// Until when the disk's trouble is still felt, by time that never jumps.
    pub full_until: Millis,
    /// The disk's trouble ended, and the flusher has not looked since.
    pub unseen: bool,
    /// Since when the store takes no mail.
    pub failed_since: Option<Millis>,
    /// The signer failed in this life.
    pub unsigned: bool,
    /// When the process dies, whether the power fails with it.
    pub power: Option<f64>,
}

impl<'a> Life<'a> {
    /// Lives.
    pub async fn live(world: &'a mut World) -> End {
        let killed = End::Killed { power: None };
        let opened = match Life::open(world) {
            Ok(opened) => opened,
            Err(problem) => {
                world
                    .model
                    .story
                    .tell(format!("== it does not start: {problem}"));
                if !world.disk.has_failed() && !world.disk.is_dead() && !world.flipped {
                    world
                        .model
                        .breaks(format!("I6: it does not start: {problem}"));
                }
                world.step += 1;
                // systemd waits longer and longer, and trouble passes.
                world.steady += 30_000;
                if world.rng.bool() {
                    world
                        .disk
                        .set_faults(crate::queue::sim::disk::Faults::default());
                }
                return killed;
            }
        };
        let mut life = Life::begin(world, opened);
        life.look_around();
        let end = life.go_on().await;
        if let Some(panic) = super::panics::take() {
            life.world.model.breaks(format!("it panicked: {panic}"));
        }
        end
    }

    fn open(world: &mut World) -> Result<(Store, Opened, Stepped), String> {
        let (store, recovered, stepped) =
            Store::open_stepped(&world.options).map_err(|error| error.to_string())?;
        if let Some(reason) = &recovered.rebuilt {
            world
                .model
                .story
                .tell(format!("== the index is made anew: {reason}"));
            let excused = world.disk.has_failed() || world.flipped || world.lives > 1;
            if !excused {
                world
                    .model
                    .breaks(format!("the index is made anew: {reason}"));
            }
        }
        let opened = crate::queue::sim::opened(store.clone(), recovered, &stepped, &world.config)
            .map_err(|error| error.to_string())?;
        Ok((store, opened, stepped))
    }

    fn begin(world: &'a mut World, (store, opened, stepped): (Store, Opened, Stepped)) -> Self {
        let signer = Rc::new(Cell::new(false));
        let jobs = Jobs::default();
        let queue = crate::queue::sim::start(
            opened,
            world.config.clone(),
            Signer(signer.clone()).start().recipient(),
            Arc::new(leads),
        );
        queue
            .addr
            .do_send(Connect(Delivery(jobs.clone()).start().recipient()));
        Life {
            world,
            queue,
            store,
            stepped,
            jobs,
            flights: Vec::new(),
            heard: Heard::default(),
            fetched: Fetched::default(),
            answers: Answers::default(),
            moves: Moves::default(),
            imports: Imports::default(),
            signer,
            stopping: false,
            full_until: 0,
            unseen: true,
            failed_since: None,
            unsigned: false,
            power: None,
        }
    }

    /// What recovery made of the journal is what is left of it.
    fn look_around(&mut self) {
        self.world
            .model
            .story
            .tell(format!("== life {} begins", self.world.lives));
        self.read_journal(true);
        checks::after_start(self);
    }

    async fn go_on(&mut self) -> End {
        if self.world.draining
            && let Some(end) = self.set_right().await
        {
            return end;
        }
        loop {
            if self.world.is_broken() {
                return End::Over;
            }
            self.world.step += 1;
            self.world.model.story.step = self.world.step;
            if self.world.step >= self.world.steps {
                if !self.world.draining {
                    return End::Killed { power: None };
                }
                checks::stuck(self).await;
                return End::Over;
            }
            if let Some(end) = self.act().await {
                return end;
            }
            if let Some(end) = self.settle().await {
                return end;
            }
            if self.world.step.is_multiple_of(INSPECT)
                && let Some(end) = checks::inspect(self).await
            {
                return end;
            }
            if self.world.draining && self.flights.is_empty() && !self.world.model.waits() {
                return self.over().await;
            }
        }
    }

    /// The threads of the store go on, all the way or a little, and everybody hears what is new.
    pub async fn settle(&mut self) -> Option<End> {
        if let Some(end) = self.tick(1).await {
            return Some(end);
        }
        let eager = self.world.draining || self.world.rng.f64() < self.world.eager;
        if !eager {
            return None;
        }
        self.catch_up().await
    }

    /// The threads of the store do all that waits.
    pub async fn catch_up(&mut self) -> Option<End> {
        for _ in 0..TURNS {
            let (wrote, read) = (self.commit(), self.stepped.read());
            if self.world.disk.is_dead() {
                return Some(self.killed());
            }
            if !wrote && !read {
                return None;
            }
            if let Some(end) = self.tick(1).await {
                return Some(end);
            }
        }
        self.world
            .model
            .breaks("the threads of the store never come to rest".into());
        None
    }

    /// Lets some time pass in which all that can happen happens.
    pub async fn tick(&mut self, millis: u64) -> Option<End> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if self.world.disk.is_dead() {
            return Some(self.killed());
        }
        if let Some(panic) = super::panics::take() {
            self.world.model.breaks(format!("it panicked: {panic}"));
            return Some(End::Over);
        }
        if self.world.disk.faults() != crate::queue::sim::disk::Faults::default() {
            // What is free is asked once a second.
            self.full_until = self.world.now() + 3_000;
            self.unseen = true;
        }
        self.hear();
        if crate::time::simulated::ended() {
            self.world.model.story.tell("== the process ends by itself");
            if !self.world.disk.has_failed() && !self.world.flipped {
                self.world
                    .model
                    .breaks("the process ends although nothing failed".into());
            }
            return Some(End::Killed { power: None });
        }
        self.restart_if_failed()
    }

    fn killed(&mut self) -> End {
        let power = self.power;
        self.world
            .model
            .story
            .tell(format!("== killed, power {power:?}"));
        End::Killed { power }
    }

    /// A store that failed takes no mail until somebody restarts it; one that was only full has to
    /// get well by itself.
    fn restart_if_failed(&mut self) -> Option<End> {
        let now = self.world.now();
        let Some(failure) = self.store.failure() else {
            self.failed_since = None;
            return None;
        };
        let since = *self.failed_since.get_or_insert(now);
        if since == now {
            self.world
                .model
                .story
                .tell(format!("== the store failed: {failure}"));
            let disk = &self.world.disk;
            if !disk.has_failed_hard() && !self.world.flipped {
                self.world
                    .model
                    .breaks(format!("I7: the store failed: {failure}"));
            }
        }
        (now - since > FAILED).then_some(End::Killed { power: None })
    }

    /// The committer's turn; what it made durable is judged.
    pub fn commit(&mut self) -> bool {
        let wrote = self.stepped.commit();
        self.world.model.turns += u64::from(wrote);
        if wrote && !self.world.disk.is_dead() {
            self.read_journal(false);
        }
        wrote
    }

    /// The flusher's turn.
    pub fn flush(&mut self) {
        self.stepped.flush();
        if self.world.disk.is_dead() {
            return;
        }
        if self.unseen && self.world.disk.faults() == crate::queue::sim::disk::Faults::default() {
            // What was refused before is still on its way to its sender.
            self.unseen = false;
            self.full_until = self.world.now() + 3_000;
        }
        self.read_journal(false);
        for number in self.world.ledger.freed(&self.world.disk) {
            self.world.model.freed(number);
        }
    }

    pub fn read_journal(&mut self, restart: bool) {
        let World {
            ledger,
            disk,
            model,
            flipped,
            ..
        } = &mut *self.world;
        match ledger.read(disk, restart) {
            Ok(batches) => batches.iter().for_each(|batch| model.durable(batch)),
            Err(_) if *flipped => {}
            Err(problem) => model.breaks(format!("the journal can not be read: {problem}")),
        }
    }

    /// What came for delivery, senders and operators.
    fn hear(&mut self) {
        let now = self.world.now();
        // First: whoever is given a message waits until nothing is being done with it, so what
        // delivery got in the same moment came after.
        let moves = std::mem::take(&mut *self.moves.borrow_mut());
        for moved in moves {
            self.moved(moved);
        }
        let jobs = std::mem::take(&mut *self.jobs.borrow_mut());
        for job in jobs {
            let id = job.message.id;
            let model = &mut self.world.model;
            model
                .story
                .tell(format!("{id} handed out: {:?}", job.recipients));
            for position in &job.recipients {
                model.handed(id, *position);
            }
            if let Some(content) = &job.content {
                compare(self.world, id, content);
            }
            self.flights.push(Flight {
                message: job.message,
                left: job.recipients,
                content: job.content,
                since: now,
            });
        }
        let heard = std::mem::take(&mut *self.heard.borrow_mut());
        for (id, heard) in heard {
            match heard {
                Ok(_) => self.world.model.acknowledged(id),
                Err(error) => self.refused(id, &error),
            }
        }
        let fetched = std::mem::take(&mut *self.fetched.borrow_mut());
        for (id, content) in fetched {
            let model = &mut self.world.model;
            match content {
                Ok(content) => compare(self.world, id, &content),
                Err(reason) => {
                    let gone = !model.known.contains_key(&id) || model.spoiled.contains(&id);
                    // Of a damaged index nothing is read until the next start, which makes it anew.
                    let anew = self.store.needs_restart().is_some();
                    if !gone && !anew && !self.world.disk.has_failed() {
                        model.breaks(format!("I3: {id} can not be read back: {reason}"));
                    }
                }
            }
        }
        let imports = std::mem::take(&mut *self.imports.borrow_mut());
        for brought in imports {
            let full = self.unseen || self.world.now() < self.full_until;
            let failed = self.world.disk.has_failed() || self.world.flipped;
            let excused = failed || full || self.stopping;
            importers::judge(&mut self.world.model, &brought, excused);
        }
        let answers = std::mem::take(&mut *self.answers.borrow_mut());
        for answered in answers {
            let excuses = Excuses {
                disk: self.world.disk.has_failed(),
                damage: self.world.flipped,
                signer: self.unsigned,
                stopping: self.stopping,
            };
            operators::judge(&mut self.world.model, &answered, excuses);
        }
    }

    /// What somebody saw who moves messages to another queue.
    fn moved(&mut self, moved: Moved) {
        let model = &mut self.world.model;
        model.story.tell(format!("a mover: {moved:?}"));
        match moved {
            Moved::Given(id) => model.given(id),
            Moved::LetGo(ids) => model.claimed.retain(|id| !ids.contains(id)),
            Moved::Gone(ids) => ids.into_iter().for_each(|id| model.gone(id)),
            Moved::Refused(why) => {
                let failed = self.world.disk.has_failed() || self.world.flipped;
                // Bodies in the spool are read past the simulated disk.
                let spooled = why.contains("No such file");
                if !failed && !self.stopping && !spooled {
                    model.breaks(format!("a message can not be moved: {why}"));
                }
            }
        }
    }

    fn refused(&mut self, id: QueueId, error: &AcceptError) {
        let model = &mut self.world.model;
        model.story.tell(format!("{id} refused: {error}"));
        let excused = match error {
            AcceptError::DiskFull => self.unseen || self.world.now() < self.full_until,
            AcceptError::Draining => self.stopping,
            AcceptError::Store(_) => self.world.disk.has_failed() || self.world.flipped,
        };
        if !excused {
            let text = format!("I7: {id} is refused although nothing fails: {error}");
            self.world.model.breaks(text);
        }
    }

    /// Stops the queue as a service manager does.
    pub async fn stop(&mut self) -> End {
        self.world.model.story.tell("== it is told to stop");
        self.stopping = true;
        let (addr, done) = (self.queue.addr.clone(), Rc::new(Cell::new(false)));
        let told = done.clone();
        actix_rt::spawn(async move {
            let _ = addr.send(Stop).await;
            told.set(true);
        });
        for _ in 0..400 {
            if let Some(end) = self.tick(50).await {
                return end;
            }
            self.commit();
            self.stepped.read();
            if self.world.disk.is_dead() {
                return self.killed();
            }
            if done.get() {
                break;
            }
        }
        let failed = self.world.disk.has_failed() || self.world.flipped;
        if !done.get() && !failed {
            self.world
                .model
                .breaks("it does not stop within 20 s".into());
        }
        self.read_journal(false);
        let left = self.world.model.not_durable;
        if left > 0 && !failed && !self.world.is_broken() {
            let text = format!("I2: it stopped and {left} outcomes are not durable");
            self.world.model.breaks(text);
        }
        self.stepped.flush();
        End::Stopped
    }

    async fn over(&mut self) -> End {
        if let Some(end) = checks::inspect(self).await {
            return end;
        }
        checks::all_ended(self);
        match self.stop().await {
            End::Stopped => End::Over,
            end => end,
        }
    }
}

/// The bytes of a message are those that were accepted.
fn compare(world: &mut World, id: QueueId, content: &Content) {
    let mut bytes = content.head.to_vec();
    if let Body::Memory(body) = &content.body {
        bytes.extend_from_slice(body);
    }
    let wanted = world
        .model
        .known
        .get(&id)
        .filter(|known| !known.spoiled)
        .map(|known| known.sum);
    let is = super::ledger::sum(&bytes);
    if wanted.is_some_and(|wanted| wanted != is) {
        world
            .model
            .breaks(format!("I12: {id} goes out with other bytes"));
    }
}
