//! Messages whose bytes are lost: the sender hears of it, and the postmaster, whose disk it was.

use queue_schema::{Origin, QueueId, RecipientState, Status};

use super::actor::Queue;
use super::dsn::Report;
use super::messages::LOST;
use super::own_reply;
use super::settle::{Order, UNTOLD, recipient};

impl Queue {
    /// The bytes of a message are lost: its sender hears of it as far as it is to be told, and the
    /// postmaster, whose disk it was, whatever the envelope says.
    pub(super) fn settle_lost(&mut self, about: QueueId, reports: Vec<Report>) {
        let Some(message) = self.slots.get(&about).and_then(|slot| slot.message.clone()) else {
            return;
        };
        let postmaster = self.config.postmaster.clone();
        let all: Vec<u32> = reports.iter().map(|report| report.recipient).collect();
        let mut tells: Vec<(String, Vec<u32>)> = Vec::new();
        if let Some(told) = self.told(&message) {
            let to = match message.origin {
                Origin::Dsn { .. } => postmaster.clone(),
                _ => message.envelope.reverse_path.clone(),
            };
            let wants = |position: &u32| {
                let notify = recipient(&message, *position).map(|(to, _)| to.notify);
                told.always || notify.is_some_and(|notify| notify.failure)
            };
            let some: Vec<u32> = all.iter().copied().filter(wants).collect();
            if !some.is_empty() {
                tells.push((to, some));
            }
        }
        // A notice to the postmaster that is lost is told to nobody: there would be no end to it.
        let ours = matches!(message.origin, Origin::Dsn { .. });
        let told = tells
            .iter()
            .any(|(to, _)| to.eq_ignore_ascii_case(&postmaster));
        if !postmaster.is_empty() && !told && !ours {
            tells.push((postmaster, all));
        }
        if tells.is_empty() {
            self.decided(about, reports, Vec::new(), Order::default());
            return;
        }
        self.settle_with(about, reports, Order::default(), tells);
    }

    /// Ends the recipients of a message whose bytes are lost; those that delivery has may still be
    /// delivered from memory.
    pub(super) fn lose(&mut self, id: QueueId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let count = slot
            .message
            .as_ref()
            .map_or(0, |message| message.states.len());
        let all: Vec<u32> = (0..).take(count).collect();
        let now = crate::time::now();
        let waiting = slot.waiting(&all).into_iter();
        // Writing the notice reads the bytes as well, and finds them lost once more: who could not
        // be told waits until it is due.
        let waits = |state: &RecipientState| {
            let said = state.last_reply.as_ref();
            let untold = said.is_some_and(|reply| reply.text.starts_with(UNTOLD));
            let due = slot
                .message
                .as_ref()
                .and_then(|message| self.clock.due(message, state, now));
            untold && due.is_none_or(|due| due > now)
        };
        let ends =
            waiting.filter(|(position, state)| !slot.handed.contains(position) && !waits(state));
        let reports: Vec<Report> = ends
            .map(|(recipient, state)| Report {
                recipient,
                state: RecipientState {
                    status: Status::Bounced,
                    next_due: 0,
                    last_reply: Some(own_reply(554, "5.3.0", LOST)),
                    suspended: None,
                    ..state
                },
                tls: String::new(),
                at: now,
            })
            .collect();
        if !reports.is_empty() {
            tracing::error!(%id, "the bytes of a message are lost; its sender and the postmaster are told");
            self.settle_lost(id, reports);
        }
        self.release(id);
    }
}
