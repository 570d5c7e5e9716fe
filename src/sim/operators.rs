//! Operators who give any order at any moment, through the code that answers the control socket,
//! and what their answers are held to.

use std::cell::RefCell;
use std::rc::Rc;

use queue_schema::{Millis, QueueId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::delivery::{DOMAINS, domain};
use super::model::Model;
use crate::control::protocol::{Answer, RefusalKind, Request};
use crate::queue::Handle;

/// An order and all that was answered.
pub struct Answered {
    /// The order.
    pub request: Request,
    /// Who gave it.
    pub by: String,
    /// When it was given.
    pub step: u64,
    /// The same by the wall clock.
    pub at: Millis,
    /// In order.
    pub answers: Vec<Answer>,
}

/// Answers that came and were not judged yet.
pub type Answers = Rc<RefCell<Vec<Answered>>>;

/// A request as it comes over the socket.
pub fn request(json: Value) -> Request {
    serde_json::from_value(json).expect("a request of the protocol")
}

/// Any order.
pub fn order(rng: &mut fastrand::Rng, ids: &[QueueId], by: &str) -> Request {
    let dry = rng.u8(..10) == 0;
    request(match rng.u8(..44) {
        0 => json!({ "ask": "list", "selector": {}, "limit": 10 }),
        1 => json!({ "ask": "summary", "selector": {} }),
        2 => json!({ "ask": "show", "id": id(rng, ids) }),
        3 => json!({ "ask": "cat", "id": id(rng, ids) }),
        4 => json!({ "ask": "verify" }),
        5 => json!({ "ask": "export", "selector": {} }),
        6 | 7 => {
            let (destination, span) = (domain(rng.usize(..DOMAINS)), rng.u16(1..400));
            json!({ "ask": "suspend", "destination": destination, "span": format!("{span}s"),
                "reason": "a trial", "dry_run": dry, "by": by })
        }
        8 | 9 => {
            let spread = rng.bool().then_some("30s");
            json!({ "ask": "resume", "destination": "", "spread": spread, "dry_run": dry, "by": by })
        }
        10 | 11 => stand(rng, by, dry),
        12 => json!({ "ask": "endorder", "id": "all", "dry_run": dry, "by": by }),
        13 => json!({ "ask": "orders", "ended": rng.bool() }),
        _ => steer(rng, ids, by, dry),
    })
}

/// An order for the mail there is and the mail to come.
fn stand(rng: &mut fastrand::Rng, by: &str, dry: bool) -> Value {
    let does = ["hold", "hold", "discard", "bounce"][rng.usize(..4)];
    let whose = match rng.u8(..4) {
        0 => json!({ "user": "user@*" }),
        1 => json!({ "client": "192.0.2.2" }),
        2 => json!({ "from": format!("s{}@*", rng.u8(..5)) }),
        _ => json!({ "domain": domain(rng.usize(..DOMAINS)) }),
    };
    let span = format!("{}s", rng.u16(1..300));
    json!({ "ask": "order", "does": does, "whose": whose, "span": span, "reason": "a trial",
        "dry_run": dry, "by": by })
}

fn id(rng: &mut fastrand::Rng, ids: &[QueueId]) -> String {
    let id = ids.get(rng.usize(..ids.len().max(1)));
    id.copied().unwrap_or(QueueId(7)).to_string()
}

fn steer(rng: &mut fastrand::Rng, ids: &[QueueId], by: &str, dry: bool) -> Value {
    let verb = match rng.u8(..13) {
        12 => "requeue",
        0..3 => "replay",
        3 => "remove",
        4 | 5 => "hold",
        6..9 => "release",
        9 | 10 => "bounce",
        _ => "redirect",
    };
    let ends = ["remove", "bounce"].contains(&verb);
    let selector = match rng.u8(..8) {
        0 if !ends => json!({}),
        0..4 => json!({ "id": id(rng, ids) }),
        4 => json!({ "from": "*" }),
        5 => json!({ "state": "deferred" }),
        6 => filter(rng),
        _ => json!({ "domain": domain(rng.usize(..DOMAINS)) }),
    };
    let mut asked = json!({ "ask": "steer", "verb": verb, "selector": selector, "dry_run": dry,
        "by": by });
    if verb == "replay" && rng.bool() {
        asked["spread"] = json!("20s");
    }
    if verb == "replay" && rng.u8(..4) == 0 {
        asked["rate"] = json!("10/m");
        asked["spread"] = Value::Null;
    }
    if verb == "replay" {
        asked["reset_attempts"] = json!(rng.bool());
    }
    if verb == "hold" {
        asked["reason"] = json!(["one", "other"][rng.usize(..2)]);
        if rng.bool() {
            asked["span"] = json!(format!("{}s", rng.u16(1..300)));
        }
    }
    if verb == "release" && rng.bool() {
        match rng.u8(..3) {
            0 => asked["reason"] = json!("one"),
            1 => asked["kind"] = json!(["operator", "quarantine", "order"][rng.usize(..3)]),
            _ => asked["who"] = json!(format!("op{}*", rng.u8(1..10))),
        }
    }
    if verb == "redirect" {
        let address = format!("to{}@{}", rng.u8(..3), domain(rng.usize(..DOMAINS)));
        asked["address"] = json!(address);
    }
    asked
}

/// Filters of all kinds, alternatives and what is not meant.
fn filter(rng: &mut fastrand::Rng) -> Value {
    match rng.u8(..8) {
        0 => json!({ "older": "60s" }),
        1 => json!({ "newer": "60s", "state": ["queued", "deferred"] }),
        2 => json!({ "size": "+500" }),
        3 => json!({ "attempts": "+1" }),
        4 => json!({ "due": "30s" }),
        5 => json!({ "user": "user@*" }),
        6 => json!({ "client": "192.0.2.0/24", "not": "domain=d0.example" }),
        _ => json!({ "code": "450", "to": ["r0@*", "r1@*"] }),
    }
}

/// Gives an order; the answers come to `answers`, unless whoever gave it goes away before.
pub fn give(
    request: Request,
    (by, step): (String, u64),
    queue: &Handle,
    answers: &Answers,
    patience: Option<u64>,
) {
    let (out, mut coming) = mpsc::channel(64);
    let (queue, answers) = (queue.clone(), answers.clone());
    let (asked, at) = (request.clone(), crate::time::now());
    actix_rt::spawn(async move {
        let collect = async move {
            let mut all = Vec::new();
            while let Some(answer) = coming.recv().await {
                all.push(answer);
                if patience.is_some_and(|most| all.len() as u64 > most) {
                    return None;
                }
            }
            Some(all)
        };
        let (all, ()) = tokio::join!(collect, crate::control::answer(asked, &queue, out));
        if let Some(all) = all {
            answers.borrow_mut().push(Answered {
                request,
                by,
                step,
                at,
                answers: all,
            });
        }
    });
}

/// What went wrong in this life of the process, which excuses an answer.
#[derive(Debug, Clone, Copy)]
pub struct Excuses {
    /// The disk failed or was full.
    pub disk: bool,
    /// A bit was flipped.
    pub damage: bool,
    /// The signer failed.
    pub signer: bool,
    /// The queue is stopping.
    pub stopping: bool,
}

/// Judges the answer to an order.
pub fn judge(model: &mut Model, answered: &Answered, excuses: Excuses) {
    let Answered {
        request,
        by,
        answers,
        step,
        at,
    } = answered;
    let name = word(request);
    let last = answers.last();
    model
        .story
        .tell(format!("== {by}, asked at {step}, is answered {last:?}"));
    suspends(model, request, last, *at);
    let excused = excuses.disk || excuses.damage || excuses.stopping;
    match last {
        Some(Answer::End(count)) => {
            if let Request::Steer { dry_run, .. } = request {
                let touched = model
                    .touched
                    .get(by)
                    .map_or(0, |touched| touched.recipients);
                let dry = *dry_run && touched == 0;
                if touched != *count && !dry && !excuses.damage {
                    model.breaks(format!(
                        "{by}: {name} was answered {count} and touched {touched}"
                    ));
                }
            }
            // A group that was cut off at a kill, of which a message was whole, is told truly.
            let torn = |place: &str| {
                let number = place.strip_prefix("segment ").and_then(|place| {
                    let number = place.split(' ').next()?;
                    number.parse::<u64>().ok()
                });
                number.is_some_and(|number| model.torn.contains(&number))
            };
            let finding = answers.iter().find_map(|answer| match answer {
                Answer::Finding(finding) if torn(&finding.place) => None,
                Answer::Finding(finding) => Some(finding.clone()),
                _ => None,
            });
            if let Some(finding) = finding
                && !excused
            {
                model.breaks(format!("{by}: verify finds {finding:?}"));
            }
        }
        Some(Answer::Error(refusal)) if refusal.kind == RefusalKind::Unavailable => {
            let untold = refusal.text.contains("can not be told") && excuses.signer;
            // Bodies in the spool are read past the simulated disk by whoever shows them.
            let spooled = refusal.text.contains("No such file");
            if !excused && !untold && !spooled {
                model.breaks(format!("{by}: {name} was refused: {}", refusal.text));
            }
        }
        Some(Answer::Error(_)) => {}
        other => model.breaks(format!("{by}: {name} ended with {other:?}")),
    }
}

/// An order to suspend or to resume was given: what held for its destination may hold no more.
pub fn begins(model: &mut Model, request: &Request) {
    match request {
        Request::Suspend {
            destination,
            dry_run: false,
            ..
        } => {
            model.suspended.remove(destination);
        }
        Request::Resume { dry_run: false, .. } => {
            model.suspended.clear();
            model.resuming += 1;
        }
        _ => {}
    }
}

/// It was answered.
fn suspends(model: &mut Model, request: &Request, last: Option<&Answer>, at: Millis) {
    match request {
        Request::Suspend {
            destination,
            span: Some(span),
            dry_run: false,
            ..
        } if matches!(last, Some(Answer::End(_))) => {
            let seconds: u64 = span.trim_end_matches('s').parse().unwrap_or_default();
            let until = at.min(crate::time::now()) + seconds * 1000;
            model.suspended.insert(destination.clone(), until);
        }
        Request::Resume { dry_run: false, .. } => {
            model.suspended.clear();
            model.resuming = model.resuming.saturating_sub(1);
        }
        _ => {}
    }
}

/// The order in a few words.
pub fn word(request: &Request) -> String {
    serde_json::to_string(request).unwrap_or_default()
}
