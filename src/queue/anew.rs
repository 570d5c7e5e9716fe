//! Recipients whose place is taken by others: redirected by an operator, or resolved again. Pure.

use queue_schema::{Message, Millis, Recipient, RecipientState, Status};

use super::messages::{Anew, Verb};
use super::own_reply;

/// What becomes of recipients.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// New states.
    pub recipients: Vec<(u32, RecipientState)>,
    /// Who takes their place.
    pub redirected: Vec<(u32, Recipient)>,
    /// Who comes behind all others.
    pub added: Option<(u32, Vec<(Recipient, RecipientState)>)>,
    /// For the story.
    pub text: String,
}

/// Positions that lead to nobody any more and are not being tried.
pub(super) fn lost(anew: Option<&Anew>, busy: &[u32]) -> Vec<u32> {
    let places = anew.into_iter().flat_map(|anew| &anew.places);
    places
        .filter(|(position, targets)| targets.is_empty() && !busy.contains(position))
        .map(|(position, _)| *position)
        .collect()
}

/// Moves recipients that wait and are not being tried: such a one may be delivered where it was
/// to go. An address that has or gets the message already does not get it twice. `shift` is by how
/// much a due time is read differently from how it is written; see [`super::clock`].
pub(super) fn moved(
    message: &Message,
    anew: &Anew,
    verb: Verb,
    busy: &[u32],
    now: Millis,
    shift: impl Fn(&RecipientState) -> i64,
) -> Moved {
    let mut moved = Moved::default();
    let people = message.envelope.recipients.iter().zip(&message.states);
    let stays = |position: u32, targets: &[String]| {
        let at = usize::try_from(position).ok();
        let old = at.and_then(|at| message.envelope.recipients.get(at));
        old.is_some_and(|old| targets == [old.address.as_str()])
    };
    let places = anew.places.iter();
    let leaves: Vec<u32> = places
        .filter(|(position, targets)| !stays(*position, targets))
        .map(|(position, _)| *position)
        .collect();
    let mut taken: Vec<&str> = (0..)
        .zip(people.clone())
        .filter(|(position, (_, state))| {
            let gets = matches!(state.status, Status::Waiting | Status::Delivered);
            gets && (!leaves.contains(position) || busy.contains(position))
        })
        .map(|(_, (to, _))| to.address.as_str())
        .collect();
    let mut added = Vec::new();
    for (position, targets) in &anew.places {
        let at = usize::try_from(*position).ok();
        let Some((old, state)) = at.and_then(|at| people.clone().nth(at)) else {
            continue;
        };
        if state.status != Status::Waiting || busy.contains(position) || targets.is_empty() {
            continue;
        }
        let due_now = |state: RecipientState| RecipientState {
            next_due: now.saturating_sub_signed(shift(&state)),
            suspended: None,
            ..state
        };
        if targets[..] == [old.address.as_str()] {
            if verb == Verb::Requeue {
                moved.recipients.push((*position, due_now(state.clone())));
            }
            continue;
        }
        let fresh = due_now(RecipientState {
            warned: state.warned,
            holds: state.holds.clone(),
            ..RecipientState::new(now)
        });
        let own = old.alias_of.as_ref().unwrap_or(&old.address);
        let mut first = true;
        for target in targets {
            if taken.contains(&target.as_str()) {
                continue;
            }
            taken.push(target);
            let new = Recipient {
                address: target.clone(),
                alias_of: (target != own).then(|| own.clone()),
                ..old.clone()
            };
            if std::mem::take(&mut first) {
                moved.redirected.push((*position, new));
                moved.recipients.push((*position, fresh.clone()));
            } else {
                added.push((new, fresh.clone()));
            }
        }
        if first {
            let text = format!(
                "sent to {}, which gets the message already",
                targets.join(", ")
            );
            let ended = RecipientState {
                status: Status::Removed,
                next_due: 0,
                last_reply: Some(own_reply(250, "2.1.5", &text)),
                ..state.clone()
            };
            moved.recipients.push((*position, ended));
        }
        if moved.text.is_empty() {
            moved.text = format!("to {}", targets.join(", "));
        }
    }
    if !added.is_empty()
        && let Ok(first) = u32::try_from(message.states.len())
    {
        moved.added = Some((first, added));
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_message;
    use queue_schema::{Change, Envelope, Origin, QueueId};

    const NOW: Millis = 5_000;

    fn message() -> Message {
        let mut to = ["a@gmail.example", "b@one.example", "c@one.example"].map(Recipient::new);
        to[0].alias_of = Some("info@example.org".into());
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut message = new_message(
            QueueId(1),
            0,
            origin,
            Envelope::new("x@example.org", to.to_vec()),
        );
        message.states[0].attempts = 3;
        message.states[0].next_due = 90_000;
        message.states[2].status = Status::Delivered;
        message
    }

    fn after(message: &Message, verb: Verb, places: &[(u32, &[&str])], busy: &[u32]) -> Message {
        let places = places.iter().map(|(position, targets)| {
            let targets = targets.iter().map(|target| (*target).to_owned());
            (*position, targets.collect())
        });
        let anew = Anew {
            places: places.collect(),
            ..Anew::default()
        };
        let moved = moved(message, &anew, verb, busy, NOW, |_| 0);
        let change = Change {
            recipients: moved.recipients,
            redirected: moved.redirected,
            added: moved.added,
            ..Change::default()
        };
        let mut message = message.clone();
        change.apply(&mut message);
        message
    }

    fn addresses(message: &Message) -> Vec<&str> {
        let all = message.envelope.recipients.iter();
        all.map(|to| to.address.as_str()).collect()
    }

    #[test]
    fn requeue_follows_aliases_that_changed_and_keeps_what_did_not() {
        let before = message();
        let same = after(&before, Verb::Requeue, &[(0, &["a@gmail.example"])], &[]);
        assert_eq!(addresses(&same), addresses(&before));
        assert_eq!((same.states[0].attempts, same.states[0].next_due), (3, NOW));

        // Two now, one of which has the message already.
        let places: [(u32, &[&str]); 1] = [(0, &["c@one.example", "d@x.example", "e@x.example"])];
        let two = after(&before, Verb::Requeue, &places, &[]);
        assert_eq!(
            addresses(&two),
            [
                "d@x.example",
                "b@one.example",
                "c@one.example",
                "e@x.example"
            ]
        );
        assert_eq!((two.states[0].attempts, two.states[3].next_due), (0, NOW));
        let alias = two.envelope.recipients[3].alias_of.as_deref();
        assert_eq!(alias, Some("info@example.org"));
        // What is being tried stays.
        assert_eq!(after(&before, Verb::Requeue, &places, &[0]), before);
    }

    #[test]
    fn nobody_gets_a_message_twice_by_a_redirection() {
        let before = message();
        let all: [(u32, &[&str]); 2] = [(0, &["b@one.example"]), (1, &["b@one.example"])];
        let one = after(&before, Verb::Redirect, &all, &[]);
        assert_eq!(one.states[0].status, Status::Removed);
        assert_eq!(one.states[1], before.states[1]);
        let taken: [(u32, &[&str]); 1] = [(0, &["c@one.example"])];
        let gone = after(&before, Verb::Redirect, &taken, &[]);
        assert_eq!(gone.states[0].status, Status::Removed);
        assert_eq!(lost(None, &[]), [0u32; 0]);
    }
}
