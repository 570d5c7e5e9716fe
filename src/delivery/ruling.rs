//! The dispatcher's part in the pace of providers: it hears which replies fell under a rule, has
//! what follows kept by the queue, and tells the workers of it.

use std::sync::Arc;
use std::time::Instant;

use actix::{AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture};
use futures_util::future::join_all;

use super::dispatcher::Dispatcher;
use super::messages::Keeper;
use super::paces::{self, Turn};
use super::reach::Destination;
use super::worker::Paced;
use crate::queue::suspend::{Effect, Rate, Suspension};
use crate::queue::{Suspend, Suspended, Suspensions};
use crate::smtp::reply::Reply;

/// A destination gave a reply that a rule of its provider means.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ruled {
    pub(super) destination: Arc<Destination>,
    pub(super) reply: Reply,
}

/// A connection asks when its next message may go.
#[derive(Message)]
#[rtype(result = "Turn")]
pub(super) struct AskTurn {
    pub(super) destination: Arc<Destination>,
    pub(super) rate: Rate,
}

impl Dispatcher {
    /// Tells every worker for which something else holds than it knows; done when they know.
    fn tell_workers(&mut self, context: &mut Context<Self>) -> impl Future<Output = ()> + use<> {
        let now = crate::time::now();
        let next = self.paces.expire(now);
        let mut told = Vec::new();
        for started in self.workers.values_mut() {
            let standing = self.paces.standing(&started.destination, now);
            if standing.is_like(&started.standing) {
                continue;
            }
            started.standing = standing.clone();
            told.push(started.address.send(Paced(standing)));
        }
        if let Some(old) = self.expiry.take() {
            context.cancel_future(old);
        }
        self.expiry = next.map(|next| {
            context.run_later(next, |dispatcher, context| {
                actix_rt::spawn(dispatcher.tell_workers(context));
            })
        });
        async move {
            // A worker that is gone needs no telling.
            let _ = join_all(told).await;
        }
    }
}

/// The log, where alarms are looked for.
fn log(new: &Suspension) {
    let (destination, rule, reason) = (&new.destination, &new.rule, &new.reason);
    match new.effect {
        Effect::Alarm => tracing::error!(
            target: "alarm", destination, rule, reason,
            "a destination refuses mail for a fault at this end"
        ),
        Effect::Stop => tracing::warn!(destination, rule, reason, "a rule pauses a destination"),
        Effect::Slow(slow) => {
            tracing::warn!(destination, rule, to = %slow, reason, "a rule slows a destination");
        }
    }
}

impl Handler<Ruled> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, ruled: Ruled, context: &mut Context<Self>) -> Self::Result {
        let now = (crate::time::now(), Instant::now());
        let new = self
            .paces
            .ruled(&ruled.destination, &ruled.reply, now, fastrand::f64());
        if new.is_empty() {
            return Box::pin(std::future::ready(()));
        }
        new.iter().for_each(log);
        let told = self.tell_workers(context);
        let Some(keeper) = &self.keeper else {
            return Box::pin(told);
        };
        let (suspend, suspended) = (keeper.suspend.clone(), keeper.suspended.clone());
        let myself = context.address();
        actix_rt::spawn(async move {
            for one in new {
                match suspend.send(Suspend(one)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(problem)) => {
                        tracing::error!(problem, "what a rule did is not kept over a restart");
                        return;
                    }
                    // The daemon stops.
                    Err(_) => return,
                }
            }
            // Operators may have changed it meanwhile.
            if let Ok(list) = suspended.send(Suspended).await {
                let _ = myself.send(Suspensions(list)).await;
            }
        });
        Box::pin(told)
    }
}

impl Handler<AskTurn> for Dispatcher {
    type Result = MessageResult<AskTurn>;

    fn handle(&mut self, ask: AskTurn, _: &mut Context<Self>) -> Self::Result {
        let scope = paces::scope(&ask.destination);
        MessageResult(self.paces.turn(&scope, ask.rate, Instant::now()))
    }
}

impl Handler<Suspensions> for Dispatcher {
    type Result = ResponseFuture<()>;

    fn handle(
        &mut self,
        Suspensions(list): Suspensions,
        context: &mut Context<Self>,
    ) -> Self::Result {
        self.stops().replace(&list);
        self.paces.replace(list);
        let shed = self.shed();
        let told = self.tell_workers(context);
        Box::pin(async move {
            told.await;
            // A worker that is gone has nothing that waits.
            let _ = join_all(shed).await;
        })
    }
}

impl Handler<Keeper> for Dispatcher {
    type Result = ();

    fn handle(&mut self, keeper: Keeper, _: &mut Context<Self>) {
        self.keeper = Some(keeper);
    }
}
