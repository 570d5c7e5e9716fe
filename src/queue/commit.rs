//! Changes on their way to the disk: one batch at a time, gathered while the last one syncs.
//!
//! A batch shares the sync of the next message that is accepted, if one comes within [`GROUP`].
//! What an operator or a notification waits for goes at once.

use std::sync::Arc;
use std::time::Duration;

use queue_schema::{Change, Message, QueueId, Status};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{Event, Inbox, Queue};
use super::store::{Action, Apply, ChangeKind, Store, StoreError, failpoint};
use crate::message::Content;

/// How long to wait when there is no space even for outcomes.
const FULL_PAUSE: Duration = Duration::from_secs(2);
/// How long outcomes gather that come soon after others. A crash may repeat what gathers, so it
/// is short; it spares most of the syncs that outcomes would need of their own.
const GROUP: Duration = Duration::from_millis(8);
/// Changes that do not gather any longer.
const GROUP_FULL: usize = 32;

/// Hears when a change is durable, or why it is not.
pub(super) type Waiter = oneshot::Sender<Result<(), StoreError>>;

/// One change and who wants to hear of it.
pub(super) struct Item {
    id: QueueId,
    action: Action,
    /// The bytes of the notification in `action`, to be delivered at once.
    notice: Option<Content>,
    waiter: Option<Waiter>,
}

/// An item without its action, which is with the store.
type Answered = (QueueId, Option<Content>, Option<Waiter>);

/// A batch that the store answered.
pub(super) struct Committed {
    items: Vec<Answered>,
    result: Result<Vec<Arc<Message>>, super::store::ApplyError>,
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
}

impl Commits {
    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.items.is_empty() && !self.under_way
    }

    fn push(&mut self, item: Item) {
        self.awaited |= item.waiter.is_some() || item.notice.is_some();
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
        let (actions, items) = self.take();
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
        let (actions, items) = self.take();
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

    fn take(&mut self) -> (Vec<Action>, Vec<Answered>) {
        self.retry_at = None;
        self.awaited = false;
        self.under_way = true;
        self.last = Some(Instant::now());
        failpoint("before-record-sync");
        let items = self.items.drain(..);
        items
            .map(|item| (item.action, (item.id, item.notice, item.waiter)))
            .unzip()
    }
}

impl Queue {
    /// Decides a change of a message in memory: it is so from now on, and durable soon.
    ///
    /// `notice` is stored together with it, all or nothing. Recipients that change stop being
    /// busy. If none waits any more the message ends.
    pub(super) fn change(
        &mut self,
        id: QueueId,
        change: Change,
        notice: Option<(Box<Message>, Content)>,
        waiter: Option<Waiter>,
    ) {
        let recipients: Vec<u32> = change
            .recipients
            .iter()
            .map(|(position, _)| *position)
            .collect();
        self.unbusy(id, &recipients);
        self.note(id, change, notice, waiter);
    }

    /// The same for a change that leaves its recipients where they are: one that is being tried
    /// goes on being tried.
    pub(super) fn note(
        &mut self,
        id: QueueId,
        change: Change,
        notice: Option<(Box<Message>, Content)>,
        waiter: Option<Waiter>,
    ) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(message) = slot.message.as_mut() else {
            return;
        };
        let ends = (0..).zip(&message.states).all(|(position, state)| {
            let new = change
                .recipients
                .iter()
                .find(|(changed, _)| *changed == position);
            new.map_or(state, |(_, state)| state).status != Status::Waiting
        });
        let kind = if ends {
            slot.ended = true;
            ChangeKind::Done
        } else {
            change.apply(Arc::make_mut(message));
            if change.by.is_empty() {
                ChangeKind::Progress
            } else {
                ChangeKind::Control
            }
        };
        slot.uncommitted += 1;
        let action = Action::Change {
            kind,
            message: message.clone(),
            change,
        };
        let (action, notice) = match notice {
            Some((message, content)) => {
                let accept = Action::Accept(message, content.clone());
                (Action::Group(vec![accept, action]), Some(content))
            }
            None => (action, None),
        };
        self.commits.push(Item {
            id,
            action,
            notice,
            waiter,
        });
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        self.commits.under_way = false;
        let (accepted, failure) = match committed.result {
            Ok(accepted) => (accepted, None),
            Err(refused) if refused.error == StoreError::Full && !refused.actions.is_empty() => {
                tracing::error!("no space is left, not even for outcomes; free some soon");
                let again = committed.items.into_iter().zip(refused.actions);
                let again = again.map(|((id, notice, waiter), action)| Item {
                    id,
                    action,
                    notice,
                    waiter,
                });
                self.commits.items.splice(0..0, again);
                self.commits.awaited = true;
                self.commits.retry_at = Some(Instant::now() + FULL_PAUSE);
                return;
            }
            Err(refused) => (Vec::new(), Some(refused.error)),
        };
        let mut accepted = accepted.into_iter();
        for (id, notice, waiter) in committed.items {
            if let Some(waiter) = waiter {
                let result = failure.clone().map_or(Ok(()), Err);
                let _ = waiter.send(result);
            }
            if failure.is_some() {
                // The store is read-only: what is in memory stays as it is until the restart that
                // it needs, and is not delivered a second time before that.
                continue;
            }
            if let Some(content) = notice
                && let Some(message) = accepted.next()
            {
                self.accepted(message, content);
            }
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.uncommitted -= 1;
            }
            self.release(id);
        }
        if let Some(error) = failure {
            tracing::error!(%error, "outcomes could not be made durable");
        }
    }
}
