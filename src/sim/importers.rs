//! Somebody who brings messages of another queue (`import`), through the code that serves such a
//! client: the same ones again and again, cut off at times, or gone before the answer. Each may be
//! here once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use queue_schema::{Envelope, Message, Origin, QueueId, Recipient, RecipientState};

use super::delivery::{DOMAINS, domain};
use super::ledger::{Sum, sum};
use super::model::Model;
use crate::control::protocol::{Exported, Imported, Refusal};
use crate::control::{Given, Session};
use crate::queue::Handle;

/// Messages of the other queue.
const MESSAGES: usize = 40;

/// A message of another queue.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// As its line describes it.
    description: String,
    bytes: Vec<u8>,
}

/// What an importer was answered.
pub struct Brought {
    sum: Sum,
    answer: Result<Imported, Refusal>,
}

/// Answers that came and were not judged yet.
pub type Imports = Rc<RefCell<Vec<Brought>>>;

/// What is known of messages of another queue, by their bytes: what each is here.
pub type Known = BTreeMap<Sum, Vec<QueueId>>;

impl Foreign {
    fn new(rng: &mut fastrand::Rng, number: usize) -> Foreign {
        let mut bytes = format!("Subject: foreign {number}\r\n\r\n").into_bytes();
        bytes.extend((0..[60, 600, 3000][rng.usize(..3)]).map(|_| rng.alphanumeric() as u8));
        let to = |at: usize| Recipient::new(format!("f{at}@{}", domain(rng.usize(..DOMAINS))));
        let recipients: Vec<Recipient> = (0..1 + number % 2).map(to).collect();
        let envelope = Envelope::new("s0@d0.example".to_owned(), recipients);
        let states = envelope.recipients.iter();
        let now = crate::time::now();
        let states = states.map(|_| RecipientState::new(now)).collect();
        let description = Exported {
            format: 1,
            id: format!("F{number}"),
            size: bytes.len() as u64,
            arrived: now,
            origin: Origin::User {
                user: "user@d0.example".into(),
                client: [192, 0, 2, 2].into(),
            },
            envelope,
            states,
            warned: false,
            held: false,
            story: Vec::new(),
            sha256: None,
        };
        Foreign {
            description: serde_json::to_string(&description).expect("JSON"),
            bytes,
        }
    }

    /// By what it is known.
    pub fn sum(&self) -> Sum {
        sum(&self.bytes)
    }
}

/// Some messages of the other queue, old ones and new ones.
pub fn choose(rng: &mut fastrand::Rng, all: &mut Vec<Foreign>) -> Vec<Foreign> {
    let count = rng.usize(1..4);
    let mut chosen = Vec::new();
    for _ in 0..count {
        if all.is_empty() || (all.len() < MESSAGES && rng.bool()) {
            let new = Foreign::new(rng, all.len());
            all.push(new);
        }
        let at = rng.usize(..all.len());
        chosen.extend(all.get(at).cloned());
    }
    chosen
}

/// Lets somebody bring messages one after the other; the last one may be cut off, and whoever
/// brings them goes away when so many were answered.
pub fn begin(
    messages: Vec<Foreign>,
    by: String,
    (cut, patience): (bool, usize),
    queue: &Handle,
    imports: &Imports,
) {
    let (queue, imports) = (queue.clone(), imports.clone());
    actix_rt::spawn(async move {
        let mut session = Session::new(&queue);
        let last = messages.len() - 1;
        for (at, foreign) in messages.iter().enumerate() {
            let mut bytes = [foreign.description.as_bytes(), &foreign.bytes].concat();
            if cut && at == last {
                bytes.truncate(bytes.len() - 10);
            }
            let given = Given {
                envelope: foreign.description.len() as u64,
                size: foreign.bytes.len() as u64,
                by: &by,
                source: "elsewhere",
                again: false,
            };
            let importing = session.import(given, &bytes[..]);
            if at >= patience {
                // It goes while this one is under way.
                let soon = std::time::Duration::from_millis(1);
                let _ = tokio::time::timeout(soon, importing).await;
                return;
            }
            let answer = importing.await;
            imports.borrow_mut().push(Brought {
                sum: foreign.sum(),
                answer,
            });
        }
    });
}

/// A message became durable that no sender of this queue gave: if it is of another queue, it is
/// the only one of its kind.
pub fn came(model: &mut Model, message: &Message, is: Sum) {
    let Some(here) = model.foreign.get_mut(&is) else {
        return;
    };
    here.push(message.id);
    let all = here.clone();
    if let [.., before, id] = all[..]
        && !model.spoiled.contains(&before)
    {
        model.breaks(format!(
            "I2: {id} was imported, and was here before as {before}"
        ));
    }
}

/// Judges what an importer was answered.
pub fn judge(model: &mut Model, brought: &Brought, excused: bool) {
    let Brought { sum, answer } = brought;
    model
        .story
        .tell(format!("an importer is answered {answer:?}"));
    match answer {
        Ok(imported) => {
            let id: Option<QueueId> = imported.id.parse().ok();
            let here = model.foreign.get(sum);
            let known = id.is_some_and(|id| here.is_some_and(|here| here.contains(&id)));
            let spoiled = id.is_some_and(|id| model.spoiled.contains(&id));
            if !known && !spoiled {
                model.breaks(format!("I1: {imported:?} and it is not durable"));
            }
        }
        Err(refusal) => {
            let cut = refusal.text.contains("ends before it should");
            if !cut && !excused {
                model.breaks(format!("an import was refused: {}", refusal.text));
            }
        }
    }
}
