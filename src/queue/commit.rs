//! Changes on their way to the disk: one batch at a time, gathered while the last one syncs.
//!
//! A batch shares the sync of the next message that is accepted, if one comes within [`GROUP`].
//! What an operator or a notification waits for goes at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use queue_schema::{Change, Message, QueueId, RecipientState, Status};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{Event, Inbox, Queue};
use super::store::{Action, Apply, ApplyError, ChangeKind, Store, StoreError, failpoint};
use crate::message::Content;

/// How long to wait when there is no space even for outcomes.
const FULL_PAUSE: Duration = Duration::from_secs(2);
/// How long outcomes gather that come soon after others. A crash may repeat what gathers, so it
/// is short; it spares most of the syncs that outcomes would need of their own.
const GROUP: Duration = Duration::from_millis(8);
/// Changes that do not gather any longer.
const GROUP_FULL: usize = 32;
/// Bytes of changes in one batch, about: a batch must find room in the smallest of segments.
const BATCH: u64 = 256 << 10;
/// Changes that may be not durable before nothing more is handed out.
const UNDURABLE: usize = 4096;

/// Hears how many recipients a change touched when it is durable, or why it is not.
pub(super) struct Waiter {
    to: oneshot::Sender<Result<u64, StoreError>>,
    /// Recipients that were touched so far.
    pub count: u64,
}

/// The answer that a [`Waiter`] gives.
pub(super) type Waited = oneshot::Receiver<Result<u64, StoreError>>;

impl Waiter {
    /// One that has counted nothing yet.
    pub fn new() -> (Waiter, Waited) {
        let (to, waited) = oneshot::channel();
        (Waiter { to, count: 0 }, waited)
    }

    /// Answers; whoever asked may be gone.
    pub fn answer(self, result: Result<(), StoreError>) {
        let _ = self.to.send(result.map(|()| self.count));
    }

    /// Nothing more was left to be done.
    pub fn nothing(self) {
        self.answer(Ok(()));
    }
}

/// A notice that is ready to be stored.
pub(super) type Notice = (Box<Message>, Content);

/// One change and who wants to hear of it.
pub(super) struct Item {
    id: QueueId,
    action: Action,
    /// The bytes of the notices in `action`, to be delivered at once.
    notices: Vec<Content>,
    waiter: Option<Waiter>,
}

/// An item without its action, which is with the store.
type Answered = (QueueId, Vec<Content>, Option<Waiter>);

/// A batch that the store answered.
pub(super) struct Committed {
    items: Vec<Answered>,
    result: Result<Vec<Arc<Message>>, ApplyError>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Commits {
    items: Vec<Item>,
    under_way: bool,
    /// Somebody waits for one of `items`.
    awaited: bool,
    /// When the last batch went to the store.
    last: Option<Instant>,
    retry_at: Option<Instant>,
    /// Changes in the batch that is under way.
    out: usize,
    /// Bytes that one batch may have while room is scarce; what is larger waits for better times.
    scarce: Option<u64>,
}

impl Commits {
    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.items.is_empty() && !self.under_way
    }

    /// Whether so much is not durable that nothing more may be handed out. While there is no room
    /// for it, nothing is.
    pub fn is_behind(&self) -> bool {
        self.retry_at.is_some() || self.scarce.is_some() || self.undurable() >= UNDURABLE
    }

    /// Changes that are not durable.
    pub fn undurable(&self) -> usize {
        self.items.len() + self.out
    }

    fn push(&mut self, item: Item) {
        self.awaited |= item.waiter.is_some() || !item.notices.is_empty();
        self.items.push(item);
    }

    /// When [`Commits::submit`] has something to do by itself.
    pub fn due_in(&self) -> Option<Duration> {
        if self.under_way || self.items.is_empty() {
            return None;
        }
        let now = Instant::now();
        let grouped = self.last.map(|last| last + GROUP);
        let at = self.retry_at.or(grouped).unwrap_or(now);
        Some(at.saturating_duration_since(now))
    }

    /// Sends what waits to the store, unless it has not answered the last batch. Outcomes that
    /// nobody waits for gather for [`GROUP`] after a batch; a lone one goes `at_once`.
    pub fn submit(&mut self, store: &Store, inbox: &Inbox, at_once: bool) {
        let urgent = at_once || self.awaited || self.items.len() >= GROUP_FULL;
        let gathering = !urgent && self.last.is_some_and(|last| last.elapsed() < GROUP);
        if !self.can_go() || gathering {
            return;
        }
        let Some((actions, items)) = self.take() else {
            return;
        };
        let (store, inbox) = (store.clone(), inbox.clone());
        actix_rt::spawn(async move {
            let result = store.apply(actions).await;
            failpoint("after-record-sync");
            inbox.push(Event::Committed(Committed { items, result }));
        });
    }

    /// What waits, to share the sync of a message that is being accepted.
    pub fn ride(&mut self, inbox: &Inbox) -> Option<Apply> {
        if !self.can_go() {
            return None;
        }
        let (actions, items) = self.take()?;
        let (apply, answer) = Store::prepare(actions);
        let inbox = inbox.clone();
        actix_rt::spawn(async move {
            let result = answer.await;
            failpoint("after-record-sync");
            inbox.push(Event::Committed(Committed { items, result }));
        });
        Some(apply)
    }

    fn can_go(&self) -> bool {
        let early = self.retry_at.is_some_and(|at| at > Instant::now());
        !self.under_way && !self.items.is_empty() && !early
    }

    /// The next batch, in order. What is too large for the room there is stays behind, with all that
    /// follows it for the same message.
    fn take(&mut self) -> Option<(Vec<Action>, Vec<Answered>)> {
        let mut most = self.scarce.unwrap_or(BATCH);
        let mut batch = Vec::new();
        let mut rest = Vec::new();
        let mut behind = HashSet::new();
        let mut taking = true;
        for item in self.items.drain(..) {
            let bytes = item.action.bytes();
            let fits = bytes <= most || (batch.is_empty() && self.scarce.is_none());
            if taking && fits && !behind.contains(&item.id) {
                most = most.saturating_sub(bytes);
                batch.push(item);
                continue;
            }
            // Without want of room the order is kept as it is.
            taking &= self.scarce.is_some();
            behind.insert(item.id);
            rest.push(item);
        }
        self.items = rest;
        if batch.is_empty() {
            // Nothing finds room: all of it is tried again after a while.
            self.scarce = None;
            self.retry_at = Some(Instant::now() + FULL_PAUSE);
            return None;
        }
        self.retry_at = None;
        self.awaited = !self.items.is_empty();
        self.under_way = true;
        self.out = batch.len();
        self.last = Some(Instant::now());
        failpoint("before-record-sync");
        let parts = batch.into_iter();
        Some(
            parts
                .map(|item| (item.action, (item.id, item.notices, item.waiter)))
                .unzip(),
        )
    }

    /// A batch comes back, with what it was: it found no room, or something is in the way that
    /// passes. Half as much is tried at once; what is smallest, after a pause.
    fn again(&mut self, items: Vec<Answered>, actions: Vec<Action>, one: bool) {
        let bytes: u64 = actions.iter().map(Action::bytes).sum();
        let back = items.into_iter().zip(actions);
        let back = back.map(|((id, notices, waiter), action)| Item {
            id,
            action,
            notices,
            waiter,
        });
        self.items.splice(0..0, back);
        self.awaited = true;
        if one {
            self.scarce = Some(bytes / 2);
        } else {
            self.scarce = None;
            self.retry_at = Some(Instant::now() + FULL_PAUSE);
        }
    }
}

impl Queue {
    /// Decides a change of a message in memory: it is so from now on, and durable soon.
    ///
    /// `notices` are stored together with it, all or nothing. If none waits any more the message
    /// ends, once: what comes after an end changes nothing, and neither does a second end of a
    /// recipient.
    pub(super) fn change(
        &mut self,
        id: QueueId,
        mut change: Change,
        notices: Vec<Notice>,
        mut waiter: Option<Waiter>,
    ) {
        if !change.redirected.is_empty()
            && let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone())
        {
            self.displace(&message, &change.redirected);
        }
        let slot = self.slots.get_mut(&id).filter(|slot| !slot.ended);
        let Some((slot, message)) = slot.and_then(|slot| {
            let message = slot.message.take()?;
            Some((slot, message))
        }) else {
            if let Some(waiter) = waiter {
                waiter.nothing();
            }
            return;
        };
        let mut message = message;
        let waits = |position: &u32| {
            let place = usize::try_from(*position).ok();
            let state = place.and_then(|place| message.states.get(place));
            state.is_some_and(|state| state.status == Status::Waiting)
        };
        change.recipients.retain(|(position, _)| waits(position));
        change.redirected.retain(|(position, _)| waits(position));
        if let Some(waiter) = &mut waiter {
            waiter.count += change.recipients.len() as u64;
        }
        change.apply(Arc::make_mut(&mut message));
        let waits = |state: &RecipientState| state.status == Status::Waiting;
        slot.ended = !message.states.iter().any(waits);
        let kind = match (slot.ended, change.by.is_empty()) {
            (true, _) => ChangeKind::Done,
            (false, true) => ChangeKind::Progress,
            (false, false) => ChangeKind::Control,
        };
        slot.uncommitted += 1;
        slot.message = Some(message.clone());
        let action = Action::Change {
            kind,
            message,
            change,
        };
        let contents = notices.iter().map(|(_, content)| content.clone()).collect();
        let accepts = notices
            .into_iter()
            .map(|(message, content)| Action::Accept(message, content));
        let mut group: Vec<Action> = accepts.collect();
        let action = match group.is_empty() {
            true => action,
            false => {
                group.push(action);
                Action::Group(group)
            }
        };
        self.commits.push(Item {
            id,
            action,
            notices: contents,
            waiter,
        });
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        self.commits.under_way = false;
        self.commits.out = 0;
        if committed.result.is_ok() && self.commits.items.is_empty() {
            self.commits.scarce = None;
        }
        let (accepted, failure) = match committed.result {
            Ok(accepted) => (accepted, None),
            Err(refused) if can_be_repeated(&refused, committed.items.len()) => {
                let error = &refused.error;
                tracing::error!(%error, "outcomes could not be made durable yet; tried again");
                let halve = matches!(error, StoreError::Full | StoreError::Refused(_));
                return self.commits.again(committed.items, refused.actions, halve);
            }
            Err(refused) => (Vec::new(), Some(refused.error)),
        };
        let mut accepted = accepted.into_iter();
        for (id, notices, waiter) in committed.items {
            if let Some(waiter) = waiter {
                waiter.answer(failure.clone().map_or(Ok(()), Err));
            }
            if failure.is_some() {
                // The store is read-only: what is in memory stays as it is until the restart that
                // it needs, and is not delivered a second time before that.
                continue;
            }
            for content in notices {
                if let Some(message) = accepted.next() {
                    self.accepted(message, content);
                }
            }
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.uncommitted = slot.uncommitted.saturating_sub(1);
            }
            self.release(id);
        }
        if let Some(error) = failure {
            tracing::error!(%error, "outcomes could not be made durable");
        }
    }
}

/// Whether a batch of so many changes can be given to the store once more. One that can not be
/// written at all must not take the others with it.
fn can_be_repeated(refused: &ApplyError, items: usize) -> bool {
    let alone = matches!(refused.error, StoreError::Refused(_)) && items == 1;
    let again = refused.error.passes() || matches!(refused.error, StoreError::Refused(_));
    again && !alone && !refused.actions.is_empty()
}
