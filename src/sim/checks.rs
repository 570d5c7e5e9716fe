//! Comparisons with the store and the actor themselves. They cost time in proportion to what
//! waits, so they are made now and then, after each start, and at the end.

use std::path::Path;

use queue_schema::{Millis, QueueId, Status};

use super::life::{End, Life};
use super::world::ROOT;
use crate::queue::Suspended;
use crate::queue::sim::Look;

/// A message that could not be read is looked at again after this (`dispatch::UNREADABLE`).
const AGAIN: Millis = 61_000;

/// Compares what there is with what there should be.
pub async fn inspect(life: &mut Life<'_>) -> Option<End> {
    // What waits for the threads of the store is on its way and no fault.
    if let Some(end) = life.catch_up().await {
        return Some(end);
    }
    if life.store.failure().is_some() {
        return None;
    }
    usage(life);
    contents(life);
    let suspended = life.queue.addr.send(Suspended).await;
    if let Ok(suspended) = suspended {
        let model = &mut life.world.model;
        let now = crate::time::now();
        let holds = |name: &String| suspended.iter().any(|one| one.destination == *name);
        let mut all = model.suspended.iter();
        let lost = all.find(|(name, until)| **until > now && !holds(name));
        if let Some((name, until)) = lost
            && model.resuming == 0
        {
            let text = format!("I4: {name} was suspended until {until} and is not: {suspended:?}");
            model.breaks(text);
        }
    }
    let Ok(snapshot) = life.queue.addr.send(Look).await else {
        return None;
    };
    let world = &mut *life.world;
    let now = crate::time::now();
    let mut problem = None;
    for (id, known) in &world.model.known {
        if known.spoiled || snapshot.slots.contains(id) {
            continue;
        }
        let states = known.message.states.iter();
        let wanted = states.filter_map(|state| snapshot.next(&known.message, state, now));
        let wanted = wanted.min();
        match (snapshot.due.get(id), wanted) {
            (None, Some(_)) => problem = Some(format!("I5: nothing will wake {id}")),
            (Some(at), Some(due))
                if !snapshot.remaking && known.jumps < 2 && *at > due.max(now + AGAIN) =>
            {
                let late = (at - due.max(now)) / 1000;
                problem = Some(format!("I5: {id} is woken {late} s after it is due"));
            }
            _ => {}
        }
    }
    if let Some(problem) = problem {
        world.model.breaks(problem);
    }
    None
}

/// Bytes and messages that live in each segment, as counted by hand.
fn usage(life: &mut Life<'_>) {
    if life.world.flipped {
        return;
    }
    let model = &mut life.world.model;
    for (number, is) in life.store.usage() {
        let counted = model.usage.get(&number).copied().unwrap_or_default();
        if counted != is {
            model.breaks(format!(
                "segment {number} holds {counted:?} bytes and messages, the store says {is:?}"
            ));
        }
    }
}

/// The store knows what lives, as it is, and nothing else.
fn contents(life: &mut Life<'_>) {
    let disk = life.world.disk.clone();
    let all = disk.quietly(|| life.stepped.all());
    let model = &mut life.world.model;
    let all = match all {
        Ok(all) => all,
        Err(_) if life.world.flipped => return,
        Err(error) => return model.breaks(format!("the store can not be read: {error}")),
    };
    let mut problem = None;
    for message in &all {
        match model.known.get(&message.id) {
            None if model.spoiled.contains(&message.id) => {}
            None => problem = Some(format!("I2: {} is there after its end", message.id)),
            Some(known) if known.spoiled => {}
            Some(known) => {
                let same = known.message.states == message.states
                    && known.message.envelope == message.envelope
                    && known.message.location == message.location;
                if !same {
                    problem = Some(format!("I4: {} is not as the journal says", message.id));
                }
            }
        }
    }
    let there: std::collections::BTreeSet<QueueId> = all.iter().map(|m| m.id).collect();
    let lost = model
        .known
        .iter()
        .find(|(id, known)| !known.spoiled && !there.contains(id));
    if let Some((id, _)) = lost {
        problem = Some(format!("I1: {id} is lost"));
    }
    if let Some(problem) = problem {
        model.breaks(problem);
    }
}

/// After a start: what was acknowledged is there.
pub fn after_start(life: &mut Life<'_>) {
    let model = &mut life.world.model;
    let lost = model
        .sent
        .iter()
        .find(|(id, sent)| sent.acknowledged && !model.spoiled.contains(id))
        .map(|(id, _)| *id);
    if let Some(id) = lost {
        model.breaks(format!("I1: {id} was acknowledged and is lost"));
    }
    // What was sent and did not become durable is its sender's again.
    model.sent.clear();
    // An id that was only ever refused may come again.
    let (known, ended) = (&model.known, &model.ended);
    model
        .spoiled
        .retain(|id| known.contains_key(id) || ended.contains(id));
    if !life.world.flipped && life.store.failure().is_none() {
        usage(life);
        contents(life);
    }
}

/// Nothing ends any more, and something is left.
pub async fn stuck(life: &mut Life<'_>) {
    let snapshot = life.queue.addr.send(Look).await.ok();
    let model = &mut life.world.model;
    let left = model.known.values().find(|known| !known.spoiled);
    let text = left.map(|known| {
        let states: Vec<String> = known
            .message
            .states
            .iter()
            .map(|state| {
                format!(
                    "{:?} tried {} due {}, held {:?}",
                    state.status, state.last_attempt, state.next_due, state.holds
                )
            })
            .collect();
        format!(
            "I5: {} is stuck: arrived {}, {}; it is {}; the actor: {:?}",
            known.message.id,
            known.message.arrived,
            states.join(", "),
            crate::time::now(),
            snapshot
                .as_ref()
                .map(|all| (all.due.get(&known.message.id).copied(), all.clock())),
        )
    });
    if let Some(text) = text {
        model.breaks(text);
    }
}

/// At the end nothing is left on the disk but an empty journal.
pub fn all_ended(life: &mut Life<'_>) {
    if life.world.flipped {
        return;
    }
    let spool = life.world.disk.names(&Path::new(ROOT).join("spool"));
    let stats = life.store.stats();
    let model = &mut life.world.model;
    if stats.messages > 0 {
        model.breaks(format!(
            "everything ended and {} messages are left",
            stats.messages
        ));
    }
    if let Some(waiting) = model.known.values().find(|known| {
        known
            .message
            .states
            .iter()
            .any(|s| s.status == Status::Waiting)
    }) {
        let id = waiting.message.id;
        model.breaks(format!("I5: {id} waits at the end"));
    }
    if let Some(file) = spool.first() {
        model
            .story
            .tell(format!("left in the spool directory: {}", file.display()));
    }
}
