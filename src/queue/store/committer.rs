//! The committer: one thread that appends to the journal.
//!
//! It takes everything that waits in its channel, writes it in one go, syncs once, makes it known
//! to readers and answers everyone. A lone request waits for no timer; under load one sync serves
//! many: while several transactions are open it waits a moment for them. It is the one place where the order of events is decided.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use queue_schema::{BodyPlace, Kind, Location, Message, QueueId, Spooled, frame, record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::index::Index;
use super::journal::{For, Journal};
use super::look;
use super::request::{
    Action, Applied, Apply, ApplyError, ChangeKind, Relocation, Request, refuse_rest,
};
use super::shared::{Shared, State};
use super::space::Space;
use super::{Options, StoreError, failpoint};
use crate::message::{Body, Content};
use crate::names::names;

/// Bytes of content after which a batch is written although more waits.
const BATCH_BYTES: u64 = 1 << 20;
/// Requests in one batch.
const BATCH_REQUESTS: usize = 1024;
/// Open transactions, besides those that wait to be written, for which it is worth to wait.
const SIBLINGS: usize = 4;
/// How often is looked what has come meanwhile.
const MOMENT: Duration = Duration::from_micros(150);
/// How many such moments at most: about five milliseconds in all, with what a sleep takes besides.
const MOMENTS: usize = 24;
/// How many of them in a row without anything new end the wait: the other clients are slow.
const QUIET: usize = 8;
/// Changes not yet in the index at which the flusher does not wait for more: a changed message in
/// memory is several times as large as in the index.
const FLUSH_AT: usize = 4096;
/// Changes not yet in the index at which the committer waits for the flusher.
const MAX_DIRTY: usize = 400_000;
/// Bytes of memory that they may take, about: the same.
const MAX_WEIGHT: usize = 256 << 20;
/// How long the flusher may take before the index counts as hanging.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);

enum Ack {
    Accept(
        oneshot::Sender<Result<Arc<Message>, StoreError>>,
        Arc<Message>,
    ),
    /// With the actions, which go back if nothing was written.
    Apply(oneshot::Sender<Applied>, Vec<Action>, Vec<Arc<Message>>),
    Relocate(oneshot::Sender<Result<(), StoreError>>),
}

impl Ack {
    fn send(self, result: Result<(), StoreError>) {
        // Whoever asked may be gone; the record is durable all the same.
        match self {
            Ack::Accept(to, message) => drop(to.send(result.map(|()| message))),
            Ack::Apply(to, actions, messages) => {
                let result = result.map(|()| messages);
                drop(to.send(result.map_err(|error| ApplyError { error, actions })))
            }
            Ack::Relocate(to) => drop(to.send(result)),
        }
    }
}

enum Merge {
    Accepted(Arc<Message>),
    Changed(Arc<Message>),
    Done(Arc<Message>),
    Moved(Arc<Message>, Arc<Message>),
}

/// See the module.
pub struct Committer {
    shared: Arc<Shared>,
    index: Index,
    journal: Journal,
    options: Options,
    arrivals: Arrivals,
    space: Space,
    merges: Vec<Merge>,
    acks: Vec<Ack>,
    spooled: bool,
}

impl Committer {
    /// A committer that goes on at the journal's end.
    pub fn new(
        shared: Arc<Shared>,
        index: Index,
        journal: Journal,
        options: Options,
        arrivals: Arrivals,
    ) -> Self {
        Committer {
            arrivals,
            shared,
            index,
            journal,
            space: Space::default(),
            options,
            merges: Vec::new(),
            acks: Vec::new(),
            spooled: false,
        }
    }

    /// Runs until told to stop or until nobody can ask any more.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(BATCH_REQUESTS);
        while requests.blocking_recv_many(&mut waiting, BATCH_REQUESTS) > 0 {
            self.gather(&mut requests, &mut waiting);
            if self.turn(&mut waiting) {
                refuse_rest(&mut requests);
                break;
            }
            self.wait_for_flusher();
        }
        self.journal.close();
    }

    /// Writes what waits, in batches; whether that was to be the end.
    fn turn(&mut self, waiting: &mut Vec<Request>) -> bool {
        let mut stop = false;
        let mut batch = waiting.drain(..).peekable();
        while batch.peek().is_some() && !stop {
            let mut bytes = 0;
            while bytes < BATCH_BYTES
                && let Some(request) = batch.next()
            {
                bytes += request.bytes();
                self.take(request, &mut stop);
            }
            self.commit();
        }
        for request in batch {
            request.refuse(StoreError::Closed);
        }
        stop
    }

    /// What [`Committer::run`] does with what waits now; `None` when nothing does, else whether
    /// that was to be the end. For whoever drives the threads of a store step by step.
    #[cfg(any(test, feature = "simulation"))]
    pub fn step(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<bool> {
        let mut waiting = Vec::new();
        while waiting.len() < BATCH_REQUESTS
            && let Ok(request) = requests.try_recv()
        {
            waiting.push(request);
        }
        if waiting.is_empty() {
            return None;
        }
        let stop = self.turn(&mut waiting);
        if stop {
            refuse_rest(requests);
            self.journal.close();
        }
        Some(stop)
    }

    /// Waits where several more messages are about to come, as long as they do: their syncs are
    /// spared. With as many clients as there are transactions nobody is left to wait for.
    fn gather(&self, requests: &mut mpsc::Receiver<Request>, waiting: &mut Vec<Request>) {
        let is_accept = |request: &&Request| matches!(request, Request::Accept { .. });
        let mut quiet = 0;
        for _ in 0..MOMENTS {
            let accepts = waiting.iter().filter(is_accept).count();
            if accepts == 0 || self.arrivals.count() < accepts + SIBLINGS {
                return;
            }
            std::thread::sleep(MOMENT);
            let before = waiting.len();
            while waiting.len() < BATCH_REQUESTS
                && let Ok(request) = requests.try_recv()
            {
                waiting.push(request);
            }
            quiet = if waiting.len() == before {
                quiet + 1
            } else {
                0
            };
            if quiet == QUIET {
                return;
            }
        }
    }

    fn take(&mut self, mut request: Request, stop: &mut bool) {
        if let Request::Accept { with, .. } = &mut request
            && let Some(apply) = with.take()
        {
            self.take(Request::Apply(apply), stop);
        }
        if matches!(request, Request::Stop) {
            *stop = true;
            return;
        }
        let refusal = if *stop {
            Some(StoreError::Closed)
        } else {
            match &request {
                Request::Apply { .. } => self.shared.journal_failure(),
                _ => self.shared.failure(),
            }
        };
        if let Some(error) = refusal {
            return request.refuse(error);
        }
        let bytes = request.bytes();
        match request {
            Request::Accept {
                message,
                content,
                ack,
                with: _,
            } => {
                let mut message = Arc::new(*message);
                let done = match self.has_room_for_mail(bytes) {
                    true => self.fit(For::Mail, bytes, |committer| {
                        committer.accept(&mut message, &content, false)
                    }),
                    false => Err(StoreError::Full),
                };
                match done {
                    Ok(()) => self.acks.push(Ack::Accept(ack, message)),
                    Err(error) => drop(ack.send(Err(error))),
                }
            }
            Request::Apply(Apply { mut actions, ack }) => {
                let mut accepted = Vec::new();
                let done = self.fit(For::Outcomes, bytes, |committer| {
                    accepted.clear();
                    let mut each = actions.iter_mut();
                    each.try_for_each(|action| committer.action(action, false, &mut accepted))
                });
                match done {
                    Ok(()) => self.acks.push(Ack::Apply(ack, actions, accepted)),
                    Err(error) => drop(ack.send(Err(ApplyError { error, actions }))),
                }
            }
            Request::Relocate { items, ack } => {
                // Changes that are encoded but not merged yet would be missed in the copies.
                self.commit();
                let done = self.fit(For::Mail, bytes, |committer| committer.relocate(&items));
                match done {
                    Ok(()) => self.acks.push(Ack::Relocate(ack)),
                    Err(error) => drop(ack.send(Err(error))),
                }
            }
            Request::Stop => {}
        }
    }

    /// New mail is refused early, so that outcomes find room: below the limits of free space, while
    /// there is no reserve, and while the index can not follow.
    fn has_room_for_mail(&mut self, bytes: u64) -> bool {
        let weight = self.shared.state().weight;
        self.shared.reserve() > 0
            && !self.shared.stalled()
            && weight < MAX_WEIGHT
            && self.space.allows(&self.options, bytes)
    }

    /// Encodes what takes about `bytes`, in a segment that has room for it.
    fn fit(
        &mut self,
        what: For,
        bytes: u64,
        mut encode: impl FnMut(&mut Committer) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.make_room(bytes, what)?;
        let mark = self.mark();
        if let Err(error) = encode(self) {
            self.undo(mark);
            return Err(error);
        }
        let length = (self.journal.buffer().len() - mark.0) as u64;
        if !self.journal.is_over() {
            return Ok(());
        }
        self.undo(mark);
        self.make_room(length, what)?;
        let mark = self.mark();
        encode(self).inspect_err(|_| self.undo(mark))
    }

    fn mark(&mut self) -> (usize, usize) {
        (self.journal.buffer().len(), self.merges.len())
    }

    /// Takes back what a request that can not be encoded had written so far.
    fn undo(&mut self, (buffer, merges): (usize, usize)) {
        self.journal.buffer().truncate(buffer);
        self.merges.truncate(merges);
    }

    /// Begins a new segment if `bytes` more would overfill the present one.
    fn make_room(&mut self, bytes: u64, what: For) -> Result<(), StoreError> {
        if !self.journal.is_full(bytes) {
            return Ok(());
        }
        self.commit();
        if let Some(error) = self.shared.journal_failure() {
            return Err(error);
        }
        self.journal.rotate(&self.shared, bytes, what)
    }

    fn action(
        &mut self,
        action: &mut Action,
        grouped: bool,
        accepted: &mut Vec<Arc<Message>>,
    ) -> Result<(), StoreError> {
        match action {
            Action::Accept(message, content) => {
                let mut message = Arc::new(Message::clone(message));
                self.accept(&mut message, content, grouped)?;
                accepted.push(message);
            }
            Action::Change {
                kind,
                message,
                change,
            } => {
                let record = match kind {
                    ChangeKind::Progress => Kind::Progress,
                    ChangeKind::Control => Kind::Control,
                    ChangeKind::Done => Kind::Done,
                };
                let stamp = self.journal.stamp();
                let out = self.journal.buffer();
                record::encode_change(out, record, message.id, change, grouped, stamp)
                    .map_err(StoreError::encode)?;
                self.merges.push(match kind {
                    ChangeKind::Done => Merge::Done(message.clone()),
                    _ => Merge::Changed(message.clone()),
                });
            }
            Action::Group(actions) if grouped => {
                for action in actions {
                    self.action(action, true, accepted)?;
                }
            }
            Action::Group(actions) => {
                let start = frame::begin(self.journal.buffer());
                for action in actions {
                    self.action(action, true, accepted)?;
                }
                let stamp = self.journal.stamp();
                let out = self.journal.buffer();
                if !frame::finish(out, start, Kind::Group, QueueId(0), false, stamp) {
                    return Err(StoreError::Refused("a group is longer than 4 GiB".into()));
                }
            }
        }
        Ok(())
    }

    fn accept(
        &mut self,
        shared: &mut Arc<Message>,
        content: &Content,
        grouped: bool,
    ) -> Result<(), StoreError> {
        let message = Arc::make_mut(shared);
        message.location.body = match &content.body {
            Body::Memory(_) => BodyPlace::Inline,
            Body::Spool(file) => {
                self.spooled = true;
                let name = file.path.file_name().and_then(|name| name.to_str());
                let name = name.unwrap_or_default().to_owned();
                BodyPlace::Spool(Spooled {
                    name,
                    length: file.len,
                    crc: file.crc,
                })
            }
        };
        let body = match &content.body {
            Body::Memory(bytes) => &bytes[..],
            Body::Spool(_) => &[],
        };
        message.size = content.len();
        (message.message_id, message.subject) = names(&content.head);
        self.append(message, &content.head, body, grouped)?;
        self.merges.push(Merge::Accepted(shared.clone()));
        Ok(())
    }

    fn append(
        &mut self,
        message: &mut Message,
        head: &[u8],
        body: &[u8],
        grouped: bool,
    ) -> Result<(), StoreError> {
        let stamp = self.journal.stamp();
        let offset = self.journal.end();
        let out = self.journal.buffer();
        let start = out.len();
        record::encode_accepted(out, message, head, body, grouped, stamp)
            .map_err(StoreError::encode)?;
        let length = out.len() - start;
        message.location = Location {
            segment: stamp.segment,
            offset,
            length: u32::try_from(length).map_err(StoreError::encode)?,
            head: u32::try_from(head.len()).map_err(StoreError::encode)?,
            body: message.location.body.clone(),
        };
        Ok(())
    }

    fn relocate(&mut self, items: &[Relocation]) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for item in items {
            let present = Shared::present(&self.shared.state(), &self.index, item.id);
            let present = present.map_err(|error| self.shared.not_read(&error))?;
            let Some(old) = present else { continue };
            let place = (old.location.segment, old.location.offset);
            if place != (item.segment, item.offset) || !seen.insert(item.id) {
                continue;
            }
            let mut new = Message::clone(&old);
            self.append(&mut new, &item.head, &item.body, false)?;
            self.merges.push(Merge::Moved(old, Arc::new(new)));
        }
        Ok(())
    }

    /// Writes, syncs, makes known, answers.
    fn commit(&mut self) {
        let mut result = Ok(());
        if !self.journal.buffer().is_empty() {
            failpoint("before-write");
            result = self.write();
            match &result {
                Ok(()) => self.merge(),
                Err(error) => {
                    self.journal.abandon();
                    if !error.passes() {
                        self.shared.fail(error.to_string());
                    }
                }
            }
        }
        self.merges.clear();
        self.spooled = false;
        failpoint("before-ack");
        for ack in self.acks.drain(..) {
            ack.send(result.clone());
        }
        failpoint("after-ack");
    }

    fn write(&mut self) -> Result<(), StoreError> {
        if self.spooled {
            let layout = &self.shared.layout;
            layout.disk.sync_dir(&layout.spool).map_err(|error| {
                StoreError::Unready(format!("the spool directory can not be synced: {error}"))
            })?;
        }
        self.journal.write()
    }

    /// Makes known what was written. A change of a message that is not there changes nothing:
    /// whatever asked for it, neither a segment nor a file may go because of it.
    fn merge(&mut self) {
        let mut recount = false;
        let found = self.look_up(&mut recount);
        let mut state = self.shared.state();
        for merge in std::mem::take(&mut self.merges) {
            let (message, done) = match merge {
                Merge::Accepted(message) => {
                    state.accepted(message);
                    continue;
                }
                Merge::Moved(old, new) => {
                    state.moved(&old, new);
                    continue;
                }
                Merge::Changed(message) => (message, false),
                Merge::Done(message) => (message, true),
            };
            let present = match state.peek(message.id) {
                Some(known) => known,
                None => match found.get(&message.id) {
                    Some(found) => found.clone(),
                    // It left the changes for the index in this very moment. The state is held
                    // while it is read, which happens for a few at a time.
                    None => self.read(&message, &numbers(&state), &mut recount),
                },
            };
            state.recount |= recount;
            match present {
                Some(present) if done => state.done(&present),
                Some(present) => state.changed(located(message, &present)),
                None => {
                    tracing::error!(id = %message.id, "a change to a message that is gone was ignored");
                }
            }
        }
        let (segment, end) = (self.journal.stamp().segment, self.journal.end());
        state.position.segment = segment;
        state.position.offset = end;
        state.position.salt = self.journal.stamp().salt;
        state.segments.entry(segment).or_default().used = end;
        if state.dirty.len() >= FLUSH_AT && !state.flush_now {
            state.flush_now = true;
            self.shared.turn.notify_all();
        }
        drop(state);
        self.shared.set_rest(self.journal.rest());
    }

    /// What the index holds of messages that change now and did not change lately. Asked without
    /// holding the state. The answer stays true meanwhile: nobody else changes messages.
    fn look_up(&self, recount: &mut bool) -> HashMap<QueueId, Option<Arc<Message>>> {
        let (unknown, numbers): (Vec<Arc<Message>>, _) = {
            let state = self.shared.state();
            let changing = self.merges.iter().filter_map(|merge| match merge {
                Merge::Changed(message) | Merge::Done(message) => Some(message),
                Merge::Accepted(_) | Merge::Moved(..) => None,
            });
            let unknown = changing.filter(|message| state.peek(message.id).is_none());
            (unknown.cloned().collect(), numbers(&state))
        };
        let mut found = HashMap::new();
        for message in unknown {
            let present = self.read(&message, &numbers, recount);
            found.insert(message.id, present);
        }
        found
    }

    /// What the index holds of a message. Where it does not say, whoever changes the message has it,
    /// but for its place: it may have moved since. What is counted may then be wrong.
    fn read(
        &self,
        message: &Arc<Message>,
        numbers: &[u64],
        recount: &mut bool,
    ) -> Option<Arc<Message>> {
        match self.index.get(message.id) {
            Ok(present) => present.map(Arc::new),
            Err(error) => {
                self.shared.index_trouble(&error);
                let mut message = Message::clone(message);
                match look::located(&self.shared, numbers, message.id) {
                    Some(place) => message.location = place,
                    None => *recount = true,
                }
                Some(Arc::new(message))
            }
        }
    }

    /// Backpressure: memory for changes is bounded by the speed of the index.
    fn wait_for_flusher(&self) {
        let mut state = self.shared.state();
        let begun = Instant::now();
        while (state.dirty.len() >= MAX_DIRTY || state.weight >= MAX_WEIGHT)
            && self.shared.failure().is_none()
            && !self.shared.stalled()
        {
            state.flush_now = true;
            self.shared.turn.notify_all();
            let step = Duration::from_millis(100);
            state = match self.shared.turn.wait_timeout(state, step) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
            if begun.elapsed() > FLUSH_LIMIT {
                let error = super::index::IndexError::new("does not answer");
                self.shared.fail_index(&error);
            }
        }
    }
}

/// The numbers of all segments.
fn numbers(state: &State) -> Vec<u64> {
    state.segments.keys().copied().collect()
}

/// The message with its true location: whoever worked on it while its bytes were moved does not
/// know the new one.
fn located(message: Arc<Message>, present: &Message) -> Arc<Message> {
    if present.location == message.location {
        return message;
    }
    let mut message = Arc::unwrap_or_clone(message);
    message.location = present.location.clone();
    Arc::new(message)
}
