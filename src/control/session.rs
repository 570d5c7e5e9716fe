//! One client of the queue: what it keeps from one request to the next. When it goes, what it has
//! claimed waits again, and the list of messages that were taken leaves memory.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::answer;
use super::export::{self, Claims};
use super::import::{self, Given};
use super::protocol::{Answer, Imported, Refusal, Request};
use crate::queue::{Handle, Ledger};

/// See the module.
pub struct Session {
    queue: Handle,
    claims: Option<Claims>,
    taken: Option<Arc<Mutex<Ledger>>>,
}

impl Session {
    /// A client that has asked nothing yet.
    pub fn new(queue: &Handle) -> Session {
        Session {
            queue: queue.clone(),
            claims: None,
            taken: None,
        }
    }

    /// Answers `request` into `out`; stops when nobody listens any more.
    pub async fn answer(&mut self, request: Request, out: mpsc::Sender<Answer>) {
        let done = match request {
            Request::Ids { selector } => export::ids(&selector, &self.queue, &out).await,
            Request::Claim { id, wait } => {
                let queue = &self.queue;
                let claims = self.claims.get_or_insert_with(|| Claims::new(queue));
                export::claim(&id, wait, claims, queue, &out).await
            }
            Request::HandOver { ids, by } => {
                let queue = &self.queue;
                let claims = self.claims.get_or_insert_with(|| Claims::new(queue));
                export::hand_over(&ids, &by, claims, queue, &out).await
            }
            request => return answer(request, &self.queue, out).await,
        };
        let last = match done {
            Ok(count) => Answer::End(count),
            Err(refusal) => Answer::Error(refusal),
        };
        let _ = out.send(last).await;
    }

    /// Takes a message of another queue, whose description and bytes are in `reading`.
    pub async fn import(
        &mut self,
        given: Given<'_>,
        reading: impl AsyncRead + Unpin,
    ) -> Result<Imported, Refusal> {
        let taken = match &self.taken {
            Some(taken) => taken.clone(),
            None => {
                let list = self.queue.taken.clone();
                let path = list.path().display().to_string();
                let opened = import::blocked(move || list.open()).await;
                let opened = opened.map_err(|refusal| Refusal {
                    text: format!("{path}: {}", refusal.text),
                    ..refusal
                })?;
                self.taken.insert(opened).clone()
            }
        };
        import::import(given, &self.queue, taken, reading).await
    }
}
