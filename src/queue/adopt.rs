//! Taking over a message of another queue: its attempts and due times go on, as far as they make
//! sense here.

use actix::prelude::*;
use queue_schema::QueueId;

use super::actor::{Event, Queue, not_accepted};
use super::messages::{AcceptError, Adopt};
use super::schedule;

impl Handler<Adopt> for Queue {
    type Result = ResponseFuture<Result<QueueId, AcceptError>>;

    fn handle(&mut self, adopt: Adopt, _ctx: &mut Self::Context) -> Self::Result {
        if self.is_stopping() {
            return Box::pin(async { Err(AcceptError::Draining) });
        }
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        let now = crate::time::now();
        let retry = self.config.retry.clone();
        let most = self.config.limits.future_release;
        Box::pin(async move {
            let Adopt {
                mut message,
                content,
            } = adopt;
            schedule::adopt(&retry, most.0, &mut message, now);
            let id = message.id;
            match store.accept(*message, content.clone()).await {
                Ok(message) => {
                    let from = &message.envelope.reverse_path;
                    tracing::info!(%id, from, size = message.size, "imported");
                    inbox.push(Event::Adopted(message));
                    Ok(id)
                }
                Err(error) => Err(not_accepted(error, content).await),
            }
        })
    }
}
