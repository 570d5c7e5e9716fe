//! What a simulation of the queue needs of it and nobody else may have: a disk and an index in
//! memory, an actor on the simulation's own thread, and a look at what the actor knows.
//!
//! Not in the program: only with the feature `simulation`, which the simulator turns on. It lies in
//! `src/sim`; see docs/simulator.md.

pub mod disk;
pub mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor as _, Handler, Message as ActorMessage, Recipient};
use queue_schema::{Message, Millis, QueueId, RecipientState};

use crate::clock::Clock;
use crate::config::Config;
use crate::signing::Sign;
use crate::store::{OpenError, Recovered, Stepped, Store};
use crate::{Handle, Leads, Opened, Queue};

/// What belongs to a store that was opened.
pub fn opened(
    store: Store,
    recovered: Recovered,
    stepped: &Stepped,
    config: &Config,
) -> Result<Opened, OpenError> {
    let there = |id| {
        let read = stepped.load(id);
        read.map(|message| message.is_some())
            .map_err(|error| error.to_string())
    };
    crate::opened(store, recovered, config, there)
}

/// Starts the actor on this thread.
pub fn start(opened: Opened, config: Arc<Config>, signer: Recipient<Sign>, leads: Leads) -> Handle {
    crate::start_with(opened, config, signer, leads, |make| make().start())
}

/// What the actor knows.
pub struct Snapshot {
    /// Messages in its memory.
    pub slots: Vec<QueueId>,
    /// When others are looked at.
    pub due: BTreeMap<QueueId, Millis>,
    /// Due times are being made again.
    pub remaking: bool,
    clock: Clock,
}

impl Snapshot {
    /// When a recipient is due by the clock of the actor, if it waits for a time.
    pub fn next(&self, message: &Message, state: &RecipientState, now: Millis) -> Option<Millis> {
        self.clock.due(message, state, now)
    }

    /// The clock of the actor, to be told.
    pub fn clock(&self) -> impl std::fmt::Debug + '_ {
        &self.clock
    }
}

/// Look at the actor.
#[derive(ActorMessage)]
#[rtype(result = "Snapshot")]
pub struct Look;

impl Handler<Look> for Queue {
    type Result = actix::MessageResult<Look>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        self.check_clock();
        actix::MessageResult(Snapshot {
            slots: self.slots.keys().copied().collect(),
            due: self.lanes.all(),
            remaking: self.remaking.is_some(),
            clock: self.clock.clone(),
        })
    }
}
