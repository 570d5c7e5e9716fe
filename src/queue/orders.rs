//! What the queue actor does with standing orders: keeps them, and applies them to what is in
//! memory, which is everything that may be tried next. See [`super::order`].

use std::sync::Arc;

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use queue_schema::{Change, Event, EventKind, Message, Millis, QueueId, RecipientState, Status};

use super::actor::Queue;
use super::dsn::Report;
use super::messages::{EndOrder, Orders, Stand};
use super::order::{self, Does, Order};
use super::{own_reply, settle};
use crate::commit::Waiter;

/// What a sender is told where the operator gave no words for it.
pub(super) const RETURNED: &str = "the operator of the mail server returned it";

impl Handler<Stand> for Queue {
    type Result = ResponseFuture<Result<Order, String>>;

    fn handle(&mut self, Stand(new): Stand, _ctx: &mut Self::Context) -> Self::Result {
        let feed = self.feed.clone();
        let changed = self.change_orders(move |list, now| order::add(list, new, now));
        Box::pin(async move {
            let order = changed.await?;
            let (id, by, whose) = (order.id, &order.by, order.whose.to_string());
            tracing::info!(verb = "order", id, does = ?order.does, by, whose, "steered");
            feed.destination("ordered", &whose, &order.reason, by);
            Ok(order)
        })
    }
}

impl Handler<EndOrder> for Queue {
    type Result = ResponseFuture<Result<Vec<Order>, String>>;

    fn handle(&mut self, EndOrder { id, by }: EndOrder, _ctx: &mut Self::Context) -> Self::Result {
        let feed = self.feed.clone();
        let who = by.clone();
        let changed = self.change_orders(move |list, now| order::end(list, id, &who, now));
        Box::pin(async move {
            let ended = changed.await?;
            for order in &ended {
                tracing::info!(verb = "order end", id = order.id, by, "steered");
                feed.destination("order-ended", &order.whose.to_string(), "", &by);
            }
            Ok(ended)
        })
    }
}

impl Handler<Orders> for Queue {
    type Result = MessageResult<Orders>;

    fn handle(&mut self, _: Orders, _ctx: &mut Self::Context) -> Self::Result {
        MessageResult(self.orders.now.borrow().clone())
    }
}

impl Queue {
    fn change_orders<R: 'static>(
        &self,
        change: impl FnOnce(&mut Vec<Order>, Millis) -> Result<R, String> + 'static,
    ) -> impl Future<Output = Result<R, String>> + 'static {
        let counts = |before: &[Order], new: &mut Vec<Order>| {
            for order in new {
                let known = before.iter().find(|known| known.id == order.id);
                order.recipients = known.map_or(order.recipients, |known| known.recipients);
            }
        };
        let place = (self.store.disk(), self.config.data_dir.as_path());
        self.orders.change(place, change, counts)
    }

    /// Writes down how many recipients orders were applied to, if that changed.
    pub(super) fn keep_order_counts(&mut self) -> LocalBoxFuture<'static, ()> {
        let counted = std::mem::take(&mut self.orders_counted);
        let kept = counted.then(|| self.change_orders(|_, _| Ok(())));
        Box::pin(async move {
            let Some(kept) = kept else { return };
            if let Err(problem) = kept.await {
                tracing::warn!(problem, file = order::FILE, "counts of orders are not kept");
            }
        })
    }

    /// Whether an order wants something done with a message.
    pub(super) fn is_ordered(&self, message: &Message, now: Millis) -> bool {
        let orders = self.orders.now.borrow();
        !orders.is_empty() && !order::wanted(&orders, message, &[], now).is_empty()
    }

    /// A message that came just now and that orders mean: what they want comes first.
    pub(super) fn ordered_at_once(&mut self, message: Arc<Message>) {
        let id = message.id;
        // An operator may have been quicker: the slot is there already, and knows better.
        self.slots
            .entry(id)
            .or_default()
            .message
            .get_or_insert(message);
        self.obey(id, crate::time::now(), || None);
        self.release(id);
    }

    /// Does with a message in memory what standing orders want: how many recipients that
    /// concerned. `durable` gets one waiter for each step.
    pub(super) fn obey(
        &mut self,
        id: QueueId,
        now: Millis,
        mut durable: impl FnMut() -> Option<Waiter>,
    ) -> u64 {
        if self.orders.now.borrow().is_empty() {
            return 0;
        }
        let Some(slot) = self.slots.get(&id).filter(|slot| !slot.ended) else {
            return 0;
        };
        let Some(message) = slot.message.clone() else {
            return 0;
        };
        let wanted: Vec<(Order, Vec<u32>)> = {
            let orders = self.orders.now.borrow();
            let wanted = order::wanted(&orders, &message, &slot.busy(), now);
            let owned = wanted.into_iter();
            owned
                .map(|due| (due.order.clone(), due.recipients))
                .collect()
        };
        let mut touched = 0;
        for (order, recipients) in wanted {
            touched += recipients.len() as u64;
            self.count_order(order.id, recipients.len() as u64);
            tracing::info!(%id, order = order.id, does = ?order.does, "an order was applied");
            match order.does {
                Does::Hold => self.hold_by(id, &order, &recipients, now, durable()),
                Does::Discard => self.discard(id, &order, &recipients, now, durable()),
                Does::Bounce => self.bounce(id, &order, &recipients, now, durable()),
            }
        }
        touched
    }

    fn count_order(&mut self, id: u64, more: u64) {
        let mut orders = self.orders.now.borrow_mut();
        if let Some(order) = orders.iter_mut().find(|order| order.id == id) {
            order.recipients = order.recipients.saturating_add(more);
            self.orders_counted = true;
        }
    }

    fn hold_by(
        &mut self,
        id: QueueId,
        order: &Order,
        recipients: &[u32],
        now: Millis,
        waiter: Option<Waiter>,
    ) {
        let hold = order.hold(now);
        let held = |mut state: RecipientState| {
            state.hold(hold.clone());
            state
        };
        let story = (EventKind::Held, order.reason.as_str());
        self.ordered(id, order, recipients, story, now, held, waiter);
    }

    fn discard(
        &mut self,
        id: QueueId,
        order: &Order,
        recipients: &[u32],
        now: Millis,
        waiter: Option<Waiter>,
    ) {
        let removed = |state: RecipientState| RecipientState {
            status: Status::Removed,
            next_due: 0,
            last_reply: Some(own_reply(550, "5.7.0", "removed from the queue")),
            ..state
        };
        let story = (EventKind::Removed, order.reason.as_str());
        self.ordered(id, order, recipients, story, now, removed, waiter);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "two callers, and every one is needed once"
    )]
    fn ordered(
        &mut self,
        id: QueueId,
        order: &Order,
        recipients: &[u32],
        (kind, text): (EventKind, &str),
        now: Millis,
        new: impl Fn(RecipientState) -> RecipientState,
        waiter: Option<Waiter>,
    ) {
        let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let by = format!("order {}", order.id);
        let event = Event {
            at: now,
            kind,
            recipients: recipients.to_vec(),
            text: text.to_owned(),
            remote: String::new(),
            tls: String::new(),
            by: by.clone(),
        };
        self.feed.event(&message, &event);
        let change = Change {
            recipients: states(&message, recipients)
                .map(|(position, state)| (position, new(state)))
                .collect(),
            by,
            story: vec![event],
            ..Change::default()
        };
        self.change(id, change, Vec::new(), waiter);
    }

    fn bounce(
        &mut self,
        id: QueueId,
        order: &Order,
        recipients: &[u32],
        now: Millis,
        waiter: Option<Waiter>,
    ) {
        let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let text = match order.tells.as_str() {
            "" => RETURNED,
            tells => tells,
        };
        let report = |(recipient, state)| Report {
            recipient,
            state: RecipientState {
                status: Status::Bounced,
                next_due: 0,
                last_reply: Some(own_reply(550, "5.7.0", text)),
                suspended: None,
                ..state
            },
            tls: String::new(),
            at: now,
        };
        let reports: Vec<Report> = states(&message, recipients).map(report).collect();
        let ordered = settle::Order {
            by: format!("order {}", order.id),
            waiter,
            standing: true,
        };
        self.give_back(id, reports, ordered);
    }
}

/// The states of these recipients.
fn states<'a>(
    message: &'a Message,
    recipients: &'a [u32],
) -> impl Iterator<Item = (u32, RecipientState)> + 'a {
    recipients.iter().filter_map(|position| {
        let state = message.states.get(usize::try_from(*position).ok()?)?;
        Some((*position, state.clone()))
    })
}
