//! The journal as it becomes durable: each record is judged by what went before.

use super::*;

impl Model {
    /// Records that became durable together.
    pub fn durable(&mut self, batch: &Batch) {
        let mut notice = None;
        for Entry { record, content } in &batch.entries {
            match record {
                Record::Accepted(message) => {
                    let content = content.as_deref().unwrap_or_default();
                    if let Origin::Dsn { about, .. } = message.origin
                        && batch.group
                    {
                        notice = Some((about, message.id));
                    }
                    self.accepted(message, content);
                }
                Record::Changed(id, change) => self.changed(*id, change, notice, false),
                Record::Done(id, change) => self.changed(*id, change, notice, true),
            }
        }
    }

    fn count(&mut self, message: &Message, live: bool) {
        let usage = self.usage.entry(message.location.segment).or_default();
        let length = u64::from(message.location.length);
        *usage = match live {
            true => (usage.0 + length, usage.1 + 1),
            false => (usage.0.wrapping_sub(length), usage.1.wrapping_sub(1)),
        };
    }

    fn accepted(&mut self, message: &Message, content: &[u8]) {
        let id = message.id;
        if self.ended.contains(&id) {
            // A bit of its end may have been flipped.
            if !self.spoiled.contains(&id) {
                self.breaks(format!("I2: {id} is written again after its end"));
            }
            return;
        }
        self.count(message, true);
        if let Some(known) = self.known.get_mut(&id) {
            let old = std::mem::replace(&mut known.message, message.clone());
            let same = old.states == message.states
                && old.envelope == message.envelope
                && known.sum == sum(content);
            self.count(&old, false);
            self.story.tell(format!(
                "{id} moved to segment {}",
                message.location.segment
            ));
            if !same && !self.spoiled.contains(&id) {
                self.breaks(format!("I3: {id} was moved and is not what it was"));
            }
            return;
        }
        let sum = sum(content);
        match self.sent.remove(&id) {
            Some(sent) if sent.sum != sum => {
                self.breaks(format!("I1: {id} has other bytes in the journal"));
            }
            Some(_) => {}
            None if matches!(message.origin, Origin::Dsn { .. }) => self.notices += 1,
            None => importers::came(self, message, sum),
        }
        self.story.tell(format!(
            "{id} durable: from <{}> to {:?} in segment {}",
            message.envelope.reverse_path,
            message
                .envelope
                .recipients
                .iter()
                .map(|r| &r.address[..])
                .collect::<Vec<_>>(),
            message.location.segment
        ));
        let known = Known {
            parts: message.states.iter().map(|_| Part::default()).collect(),
            message: message.clone(),
            sum,
            // The clock may have been set while it was on its way.
            jumps: u32::from(crate::time::now().abs_diff(message.arrived) > SLACK),
            // Its first copy may have been damaged.
            spoiled: self.spoiled.contains(&id),
        };
        self.known.insert(id, known);
    }

    fn changed(
        &mut self,
        id: QueueId,
        change: &Change,
        notice: Option<(QueueId, QueueId)>,
        done: bool,
    ) {
        let Some(mut known) = self.known.remove(&id) else {
            if !self.spoiled.contains(&id) {
                let what = if done { "end" } else { "change" };
                self.breaks(format!("I2: {id} got one more {what} after its end"));
            }
            return;
        };
        let told = notice.is_some_and(|(about, _)| about == id);
        for (position, state) in &change.recipients {
            let problem = self.turned(&mut known, *position, state, change, told);
            if let Some(problem) = problem
                && !known.spoiled
            {
                self.breaks(format!("{id}/{position}: {problem}"));
            }
        }
        self.steered(&known, change);
        change.apply(&mut known.message);
        let states: Vec<String> = change
            .recipients
            .iter()
            .map(|(position, state)| {
                format!("{position} {:?} due {}", state.status, state.next_due)
            })
            .collect();
        let by = if change.by.is_empty() { "" } else { " by " };
        let count = known.message.states.len();
        known.parts.resize_with(count, Part::default);
        self.story.tell(format!(
            "{id} durable: {}{by}{}{}",
            states.join(", "),
            change.by,
            if told { " with a notice" } else { "" }
        ));
        let waits = known
            .message
            .states
            .iter()
            .any(|s| s.status == Status::Waiting);
        if done == waits && !known.spoiled {
            self.breaks(match done {
                true => format!("I2: {id} ended while a recipient waits"),
                false => format!("I2: the last recipient of {id} ended and the message did not"),
            });
        }
        if !done {
            self.known.insert(id, known);
            return;
        }
        for state in &known.message.states {
            *self.ends.entry(format!("{:?}", state.status)).or_default() += 1;
        }
        self.count(&known.message, false);
        self.ended.insert(id);
    }

    /// What an operator did counts for the answer he gets.
    fn steered(&mut self, known: &Known, change: &Change) {
        if change.by.is_empty() {
            return;
        }
        let count = change.recipients.len();
        let touched = self.touched.entry(change.by.clone()).or_default();
        touched.recipients += count as u64;
        touched.messages.insert(known.message.id);
    }

    /// Judges the new state of a recipient.
    fn turned(
        &mut self,
        known: &mut Known,
        position: u32,
        state: &RecipientState,
        change: &Change,
        told: bool,
    ) -> Option<String> {
        let place = usize::try_from(position).ok()?;
        let old = known.message.states.get(place)?;
        let (before, tried) = (old.status, old.last_attempt != state.last_attempt);
        let recipient = known.message.envelope.recipients.get(place)?.clone();
        let wants = self.told(&known.message, &recipient);
        let (message, jumped) = (&known.message, known.jumps > 0);
        let part = known.parts.get_mut(place)?;
        if before != Status::Waiting {
            return Some(format!(
                "I2: it ended as {before:?} and now as {:?}",
                state.status
            ));
        }
        // A failure that could not be told counts as a deferral.
        let put_off = change.by.is_empty() && part.reported == Some(Status::Bounced);
        if state.status != Status::Waiting || put_off {
            self.not_durable -= usize::from(part.reported.take().is_some());
        }
        let failed = matches!(state.status, Status::Bounced | Status::Expired);
        if failed && wants.failure && !told {
            return Some(format!("I2: {:?} and nobody was told", state.status));
        }
        if state.status == Status::Delivered && !part.taken {
            return Some("I2: it counts as delivered and nobody took it".into());
        }
        if state.status != Status::Waiting {
            return None;
        }
        let late = is_late(message, state, &self.retry);
        if told && change.by.is_empty() {
            part.late += 1;
            part.owed = 0;
            if part.late > 1 {
                return Some("its delay was told twice".into());
            }
        } else if late && tried && wants.delay && part.late == 0 && !jumped {
            part.owed += 1;
            let enough = 1 + known.message.states.len();
            if part.owed as usize > enough && !self.signer_fails {
                return Some(format!(
                    "its delay was not told after {} deferrals",
                    part.owed
                ));
            }
        }
        // What an operator makes due, and what could not be told at its end, is due now or soon.
        let said = state.last_reply.as_ref().map_or("", |reply| &reply.text);
        let untold = said.starts_with("its failure could not be told");
        let deadline = deadline(&known.message, &self.retry).max(crate::time::now());
        if !jumped && !untold && state.holds.is_empty() && state.next_due > deadline {
            return Some(format!(
                "I5: due at {}, its deadline is {deadline}",
                state.next_due
            ));
        }
        None
    }

    /// What the sender of a message is to be told of a recipient.
    fn told(&self, message: &Message, recipient: &Recipient) -> queue_schema::Notify {
        let silent = queue_schema::Notify {
            success: false,
            failure: false,
            delay: false,
        };
        let envelope = &message.envelope;
        if let Origin::Dsn { .. } = message.origin {
            let postmaster = |address: &str| address.eq_ignore_ascii_case(&self.postmaster);
            let already = envelope.recipients.iter().any(|to| {
                postmaster(&to.address) || to.alias_of.as_deref().is_some_and(postmaster)
            });
            return queue_schema::Notify {
                failure: !already,
                ..silent
            };
        }
        let deserves = !envelope.reverse_path.is_empty() && message.origin.deserves_bounce();
        match deserves && !leads(&envelope.reverse_path).is_empty() {
            true => recipient.notify,
            false => silent,
        }
    }

    /// A segment is gone.
    pub fn freed(&mut self, number: u64) {
        let living = |known: &&Known| known.message.location.segment == number && !known.spoiled;
        let lost = self
            .known
            .values()
            .find(living)
            .map(|known| known.message.id);
        self.usage.remove(&number);
        if let Some(id) = lost {
            self.breaks(format!(
                "I3: segment {number} was freed while {id} lives in it"
            ));
        }
    }

    /// Damage met a message: it may be lost.
    pub fn spoil(&mut self, id: QueueId) {
        self.spoiled.insert(id);
        if let Some(known) = self.known.get_mut(&id) {
            known.spoiled = true;
        }
    }
}

fn millis(span: &crate::config::Span) -> u64 {
    crate::time::millis(span.0)
}

/// When the time of a message is over, by the clock it came with.
pub fn deadline(message: &Message, retry: &Retry) -> Millis {
    let released = message
        .envelope
        .release_at
        .unwrap_or(0)
        .max(message.arrived);
    let span = match message.origin {
        Origin::Dsn { .. } => &retry.bounce_give_up,
        _ => &retry.give_up,
    };
    released.saturating_add(millis(span))
}

fn is_late(message: &Message, state: &RecipientState, retry: &Retry) -> bool {
    let released = message
        .envelope
        .release_at
        .unwrap_or(0)
        .max(message.arrived);
    state.last_attempt >= released.saturating_add(millis(&retry.warn_after))
}
