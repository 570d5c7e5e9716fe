//! A connection's part in the pace of its provider: a place among the connections, a turn for each
//! message, and a word to the dispatcher about replies that a rule means.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::paces::Turn;
use super::pending::Pending;
use super::ruling::{AskTurn, Ruled};
use super::session::Session;
use super::verdict::{self, Verdict};
use crate::smtp::client::{Answer, Said};
use crate::smtp::reply::Reply;

/// A session is not kept open while its message waits for longer.
const KEEP_OPEN: Duration = Duration::from_secs(5);

impl Connection {
    /// Waits for a place among the connections to the provider, where it counts them.
    pub(super) async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            let places = self.standing.borrow_and_update().places.clone()?;
            let mut stop = self.stop.clone();
            tokio::select! {
                biased;
                place = places.acquire_owned() => return place.ok(),
                // Other limits hold now; or, when the worker is gone, it matters no more.
                changed = self.standing.changed() => if changed.is_err() { return None },
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    /// Waits until a message may go, where messages have a rate; or sends it back if that is long.
    pub(super) async fn turn(
        &mut self,
        part: Pending,
        session: &mut Option<Session>,
    ) -> Option<Pending> {
        let mut part = self.in_turn(part, session).await?;
        self.common.stops.apply(&mut part, &self.destination);
        (!part.recipients().is_empty()).then_some(part)
    }

    async fn in_turn(&self, part: Pending, session: &mut Option<Session>) -> Option<Pending> {
        let (rate, slowed) = {
            let standing = self.standing.borrow();
            let Some(rate) = standing.rate else {
                return Some(part);
            };
            (rate, standing.slowed.clone())
        };
        let ask = AskTurn {
            destination: self.destination.clone(),
            rate,
        };
        let wait = match self.dispatcher.send(ask).await {
            Ok(Turn::After(wait)) => wait,
            Ok(Turn::Later(wait)) => {
                let verdict = Verdict::suspended(&slowed, wait);
                part.reporter().clone().send_one(part, &verdict, "");
                return None;
            }
            // The process ends; dropping the part reports it.
            Err(_) => return None,
        };
        if wait > KEEP_OPEN
            && let Some(session) = session.take()
        {
            session.quit().await;
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {
                part.reporter().clone().send_one(part, &super::draining(), "");
                None
            }
            () = tokio::time::sleep(wait) => Some(part),
        }
    }

    /// What an answer means here, and the reply if a rule of the provider means it. Mail that is
    /// not `ours` may fail for what its author's domain did wrong.
    pub(super) fn judge(&self, answer: &Answer, ours: bool) -> (Verdict, Option<Reply>) {
        let judged = verdict::judge(answer);
        let Said::Reply(reply) = &answer.said else {
            return (judged, None);
        };
        if reply.code < 400 {
            return (judged, None);
        }
        let provider = &self.destination.provider;
        let counted = provider.counting(reply).next().is_some();
        let Some(rule) = provider.rule(reply) else {
            return (judged, counted.then(|| reply.clone()));
        };
        let told = counted || rule.concerns_destination();
        (
            verdict::follow(judged, rule, ours),
            told.then(|| reply.clone()),
        )
    }

    /// Tells the dispatcher of replies that a rule means.
    pub(super) async fn ruled(&self, replies: impl IntoIterator<Item = Reply>) {
        for reply in replies {
            let ruled = Ruled {
                destination: self.destination.clone(),
                reply,
            };
            // Awaited, so that the next message of this connection finds it holding.
            let _ = self.dispatcher.send(ruled).await;
        }
    }
}
