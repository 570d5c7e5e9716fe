//! Somebody who moves messages to another queue (`export --remove`), through the code that serves
//! such a client: ids first, then one after the other claimed, given out and handed over. It may
//! go away at any moment.

use std::cell::RefCell;
use std::rc::Rc;

use queue_schema::QueueId;
use serde_json::json;
use tokio::sync::mpsc;

use super::operators::request;
use crate::control::Session;
use crate::control::protocol::{Answer, Request};
use crate::queue::Handle;

/// What a mover saw.
#[derive(Debug)]
pub enum Moved {
    /// It was given a message: from now on nobody else may have it.
    Given(QueueId),
    /// It asks for the end of these, or goes: they may be tried again from now on.
    LetGo(Vec<QueueId>),
    /// These are its own now.
    Gone(Vec<QueueId>),
    /// It was told that something can not be done.
    Refused(String),
}

/// What movers saw and was not judged yet.
pub type Moves = Rc<RefCell<Vec<Moved>>>;

/// Lets somebody move what `selector` means, of which at most `most` at the same time. Goes away
/// after `patience` messages, in the middle of things.
pub fn begin(
    selector: serde_json::Value,
    by: String,
    wait: bool,
    (most, patience): (usize, usize),
    queue: &Handle,
    moves: &Moves,
) {
    let (queue, moves) = (queue.clone(), moves.clone());
    actix_rt::spawn(async move {
        let tell = |moved| moves.borrow_mut().push(moved);
        let mut session = Session::new(&queue);
        let mut left = patience;
        let mut ids = Vec::new();
        for answer in ask(
            &mut session,
            request(json!({ "ask": "ids", "selector": selector })),
        )
        .await
        {
            if let Answer::Ids(some) = answer {
                ids.extend(some);
            }
        }
        for some in ids.chunks(most) {
            let mut given = Vec::new();
            for id in some {
                let claim = request(json!({ "ask": "claim", "id": id, "wait": wait }));
                for answer in ask(&mut session, claim).await {
                    match answer {
                        Answer::End(1) => {
                            let id = id.parse().expect("an id");
                            tell(Moved::Given(id));
                            given.push(id);
                        }
                        Answer::Error(refusal) => tell(Moved::Refused(refusal.text)),
                        _ => {}
                    }
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
            }
            tell(Moved::LetGo(given.clone()));
            if left == 0 || given.is_empty() {
                // It goes: what it was given waits here again.
                return;
            }
            let names: Vec<String> = given.iter().map(QueueId::to_string).collect();
            let hand = request(json!({ "ask": "handover", "ids": names, "by": by }));
            for answer in ask(&mut session, hand).await {
                match answer {
                    Answer::Skipped(stays) => {
                        given.retain(|id| id.to_string() != stays.id);
                    }
                    Answer::End(count) => {
                        assert_eq!(count, given.len() as u64, "as many as it says are gone");
                        tell(Moved::Gone(std::mem::take(&mut given)));
                    }
                    Answer::Error(refusal) => tell(Moved::Refused(refusal.text)),
                    _ => {}
                }
            }
        }
    });
}

/// All answers to a request.
async fn ask(session: &mut Session, request: Request) -> Vec<Answer> {
    let (out, mut coming) = mpsc::channel(64);
    let collect = async {
        let mut all = Vec::new();
        while let Some(answer) = coming.recv().await {
            all.push(answer);
        }
        all
    };
    let (all, ()) = tokio::join!(collect, session.answer(request, out));
    all
}
