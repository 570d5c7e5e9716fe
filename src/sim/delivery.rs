//! Who the queue talks to in a simulation: a delivery that keeps jobs until the world lets it
//! report on them, and a signer that fails when it is told to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use queue_schema::{Message, Millis, Reply, Status};

use crate::message::Content;
use crate::queue::Wake;
use crate::queue::{Attempt, Job, Outcome};
use crate::signing::{Sign, SignError};

/// A job that delivery has.
pub struct Flight {
    /// The message, as long as somebody holds it.
    pub message: Arc<Message>,
    /// Recipients that were not reported on.
    pub left: Vec<u32>,
    /// Its bytes, if they came with it.
    pub content: Option<Content>,
    /// When it began, in time that never jumps.
    pub since: Millis,
}

/// Jobs that came and were not looked at yet.
pub type Jobs = Rc<RefCell<Vec<Job>>>;

/// Takes jobs.
pub struct Delivery(pub Jobs);

impl Actor for Delivery {
    type Context = Context<Self>;
}

impl Handler<Wake> for Delivery {
    type Result = ();

    fn handle(&mut self, wake: Wake, _: &mut Self::Context) {
        self.0.borrow_mut().extend(wake.0);
    }
}

/// Signs with nothing, or fails.
pub struct Signer(pub Rc<Cell<bool>>);

impl Actor for Signer {
    type Context = Context<Self>;
}

impl Handler<Sign> for Signer {
    type Result = Result<Bytes, SignError>;

    fn handle(&mut self, sign: Sign, _: &mut Self::Context) -> Self::Result {
        match self.0.get() {
            true => Err(SignError {
                domain: sign.domain,
                reason: "the simulation says so".into(),
            }),
            false => Ok(Bytes::new()),
        }
    }
}

/// How a destination answers: chances of 2xx and 5xx, the rest is 4xx, and the chance that it says
/// nothing for long.
#[derive(Debug, Clone, Copy)]
pub struct Temper {
    /// 2xx.
    pub takes: f64,
    /// 5xx.
    pub refuses: f64,
    /// It hangs.
    pub hangs: f64,
}

/// Destinations.
pub const DOMAINS: usize = 6;

/// The name of a destination.
pub fn domain(number: usize) -> String {
    format!("d{number}.example")
}

/// One of them by the address.
pub fn number(address: &str) -> usize {
    let digits = address.rsplit_once("@d").map_or("", |(_, rest)| rest);
    let digit = digits.bytes().next().unwrap_or(b'0');
    usize::from(digit.saturating_sub(b'0')).min(DOMAINS - 1)
}

/// How each destination of a run answers.
pub fn tempers(rng: &mut fastrand::Rng) -> Vec<Temper> {
    let one = |_| match rng.u8(..6) {
        0 => (1.0, 0.0, 0.0),
        1 => (0.0, 0.0, 0.0),
        2 => (0.1, 0.8, 0.0),
        3 => (0.3, 0.1, 0.8),
        4 => (0.2, 0.05, 0.1),
        _ => (0.6, 0.2, 0.05),
    };
    (0..DOMAINS)
        .map(one)
        .map(|(takes, refuses, hangs)| Temper {
            takes,
            refuses,
            hangs,
        })
        .collect()
}

/// What a destination says about a recipient.
pub fn answer(temper: Temper, recipient: u32, at: Millis, rng: &mut fastrand::Rng) -> Attempt {
    let chance = rng.f64();
    let (outcome, code, enhanced) = if chance < temper.takes {
        (Outcome::Delivered, 250, "2.0.0")
    } else if chance < temper.takes + temper.refuses {
        (Outcome::Failed, 550, "5.1.1")
    } else {
        let named = std::time::Duration::from_secs(rng.u64(1..90));
        let outcome = Outcome::Deferred {
            retry_after: rng.bool().then_some(named),
            counts: rng.u8(..4) > 0,
        };
        (outcome, 450, "4.2.0")
    };
    Attempt {
        recipient,
        at,
        outcome,
        reply: Reply {
            code,
            enhanced: enhanced.into(),
            text: "said the simulation".into(),
            remote: "mx.example.net[192.0.2.1]:25".into(),
        },
        tls: String::new(),
        notifies: rng.bool(),
    }
}

/// The state that an outcome leads to before the deadline.
pub fn status(outcome: &Outcome) -> Status {
    match outcome {
        Outcome::Delivered => Status::Delivered,
        Outcome::Failed | Outcome::Lost => Status::Bounced,
        Outcome::Deferred { .. } | Outcome::Suspended { .. } => Status::Waiting,
    }
}
