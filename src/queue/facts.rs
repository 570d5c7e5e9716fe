//! What is known besides a message when it is looked at: the clock, the schedule, where mail goes
//! next. Pure; control asks the queue for it once for each request.

use std::fmt;
use std::sync::Arc;

use queue_schema::{Envelope, Message, Millis, Recipient, RecipientState, Status};

use super::clock::Clock;
use super::filter::domain_of;
use super::schedule;
use crate::config::Retry;

/// The name of the host that routes name for a recipient; none where the MX records decide.
pub type Hops = Arc<dyn Fn(&Envelope, &Recipient) -> Option<String> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct Facts {
    pub(super) clock: Clock,
    pub(super) retry: Retry,
    hops: Hops,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts::new(Clock::default(), Retry::default())
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

impl Facts {
    pub(super) fn new(clock: Clock, retry: Retry) -> Facts {
        Facts {
            clock,
            retry,
            hops: Arc::new(|_, _| None),
        }
    }

    /// The same with routes.
    pub fn with_hops(self, hops: Hops) -> Facts {
        Facts { hops, ..self }
    }

    /// When a recipient is tried next, by the clock as it is now; none if it is held or ended.
    pub fn due(&self, message: &Message, state: &RecipientState, now: Millis) -> Option<Millis> {
        self.clock.due(message, state, now)
    }

    /// When a recipient that waits is given up; none if it has ended, or never is.
    pub fn expires(
        &self,
        message: &Message,
        state: &RecipientState,
        now: Millis,
    ) -> Option<Millis> {
        let deadline = schedule::deadline(&self.retry, message);
        (state.status == Status::Waiting && deadline != Millis::MAX)
            .then(|| deadline.saturating_add_signed(self.clock.deadline_shift(message, now)))
    }

    /// Where a recipient goes next, as far as that is known without asking the DNS: the host of a
    /// route, else the host that spoke last, else its domain.
    pub fn next_hop(&self, message: &Message, to: &Recipient, state: &RecipientState) -> String {
        if let Some(host) = (self.hops)(&message.envelope, to) {
            return host;
        }
        let said = state.last_reply.as_ref().map(|reply| host(&reply.remote));
        match said {
            Some(host) if !host.is_empty() => host.to_ascii_lowercase(),
            _ => domain_of(&to.address).to_owned(),
        }
    }
}

/// The host in `host[address]:port`.
fn host(remote: &str) -> &str {
    remote.split_once('[').map_or_else(
        || remote.rsplit_once(':').map_or(remote, |(host, _)| host),
        |(host, _)| host,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_reply;
    use crate::store::new_message;
    use queue_schema::{Origin, QueueId};

    #[test]
    fn the_next_hop_is_that_of_a_route_or_the_last_host_or_the_domain() {
        let envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut message = new_message(QueueId(1), 1000, origin, envelope);
        let facts = Facts::default();
        let hop = |facts: &Facts, message: &Message| {
            facts.next_hop(message, &message.envelope.recipients[0], &message.states[0])
        };
        assert_eq!(hop(&facts, &message), "example.net");
        let mut reply = own_reply(450, "", "busy");
        assert_eq!(hop(&facts, &message), "example.net", "we said it ourselves");
        for remote in ["MX1.example.net[192.0.2.1]:25", "mx1.example.net:25"] {
            reply.remote = remote.into();
            message.states[0].last_reply = Some(reply.clone());
            assert_eq!(hop(&facts, &message), "mx1.example.net");
        }
        let facts = facts.with_hops(Arc::new(|_, _| Some("relay.example.org".into())));
        assert_eq!(hop(&facts, &message), "relay.example.org");
    }

    #[test]
    fn what_has_ended_or_never_ends_does_not_expire() {
        let envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut message = new_message(QueueId(1), 1000, origin, envelope);
        let mut facts = Facts::default();
        let at = facts.expires(&message, &message.states[0], 2000);
        assert_eq!(at, Some(1000 + 5 * 86_400_000));
        facts.retry.give_up = crate::config::Span::NEVER;
        assert_eq!(facts.expires(&message, &message.states[0], 2000), None);
        facts.retry.give_up = crate::config::Span::days(1);
        message.states[0].status = Status::Bounced;
        assert_eq!(facts.expires(&message, &message.states[0], 2000), None);
        assert_eq!(facts.due(&message, &message.states[0], 2000), None);
    }
}
