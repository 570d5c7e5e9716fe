//! Which recipients an operator means: the filter language of `mta-queue`. Pure.

use queue_schema::{Message, Millis, QueueId, Recipient, RecipientState, Status};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::order::Whose;
use crate::config::Span;

/// Bytes of a regular expression.
const MAX_REGEX: usize = 1000;

/// Filters that add up; none at all means everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// One message.
    pub id: Option<String>,
    /// The recipient's address, or the alias it came from; `*` stands for anything.
    pub to: Option<String>,
    /// The reverse-path; `<>` for the null one; `*` stands for anything.
    pub from: Option<String>,
    /// The recipient's domain; `*` stands for anything.
    pub domain: Option<String>,
    /// A state word.
    pub state: Option<String>,
    /// Messages that arrived longer ago than this.
    pub older: Option<String>,
    /// A regular expression over the last reply.
    pub reply: Option<String>,
    /// The destination whose suspension kept it from being tried; as it was suspended.
    pub suspended: Option<String>,
    /// Whose mail a standing order means.
    pub whose: Option<Whose>,
}

/// A selector that can not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// State words, as `mta-queue` prints them.
pub const STATES: [&str; 8] = [
    "queued",
    "deferred",
    "suspended",
    "held",
    "delivered",
    "bounced",
    "expired",
    "removed",
];

/// The state word of a recipient.
pub fn state_word(state: &RecipientState, now: Millis) -> &'static str {
    match state.status {
        Status::Waiting if state.is_held(now) => "held",
        Status::Waiting if state.is_suspended(now) => "suspended",
        Status::Waiting if state.last_attempt == 0 => "queued",
        Status::Waiting => "deferred",
        Status::Delivered => "delivered",
        Status::Bounced => "bounced",
        Status::Expired => "expired",
        Status::Removed => "removed",
    }
}

/// A selector that was understood.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// The one message it can match.
    pub id: Option<QueueId>,
    to: Option<String>,
    from: Option<String>,
    domain: Option<String>,
    state: Option<String>,
    before: Option<Millis>,
    reply: Option<Regex>,
    suspended: Option<String>,
    whose: Option<Whose>,
    /// When it was compiled.
    pub now: Millis,
}

impl Selector {
    /// Whether it names everything.
    pub fn is_everything(&self) -> bool {
        *self == Selector::default()
    }

    /// Understands it; `now` is what `older` is counted from.
    pub fn compile(&self, now: Millis) -> Result<Matcher, SelectorError> {
        let wrong = |what: String| SelectorError(what);
        let id = match &self.id {
            Some(id) => Some(
                id.parse::<QueueId>()
                    .map_err(|e| wrong(format!("'{id}': {e}")))?,
            ),
            None => None,
        };
        if let Some(state) = &self.state
            && !STATES.contains(&state.as_str())
        {
            let known = STATES.join(", ");
            return Err(wrong(format!(
                "'{state}' is no state; write one of {known}"
            )));
        }
        let before = match &self.older {
            Some(text) => {
                let span = text.parse::<Span>().map_err(wrong)?;
                Some(now.saturating_sub(crate::time::millis(span.0)))
            }
            None => None,
        };
        let reply = match &self.reply {
            Some(text) if text.len() > MAX_REGEX => {
                return Err(wrong(format!(
                    "a regular expression has at most {MAX_REGEX} bytes"
                )));
            }
            Some(text) => Some(Regex::new(text).map_err(|e| wrong(format!("'{text}': {e}")))?),
            None => None,
        };
        let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_ascii_lowercase());
        let from = lower(&self.from).map(|from| if from == "<>" { String::new() } else { from });
        Ok(Matcher {
            id,
            to: lower(&self.to),
            from,
            domain: lower(&self.domain),
            state: self.state.clone(),
            before,
            reply,
            suspended: self.suspended.clone(),
            whose: self.whose.clone().map(Whose::lower),
            now,
        })
    }
}

impl Matcher {
    /// Positions of the recipients it means; none if it does not mean the message.
    pub fn recipients(&self, message: &Message) -> Vec<u32> {
        if self.id.is_some_and(|id| id != message.id)
            || self.before.is_some_and(|before| message.arrived >= before)
            || self
                .from
                .as_ref()
                .is_some_and(|from| !like(from, &message.envelope.reverse_path))
            || self
                .whose
                .as_ref()
                .is_some_and(|whose| !whose.means(message))
        {
            return Vec::new();
        }
        (0..)
            .zip(message.envelope.recipients.iter().zip(&message.states))
            .filter(|(_, (recipient, state))| self.recipient(recipient, state))
            .map(|(position, _)| position)
            .collect()
    }

    /// Whether it means something that happened to these addresses.
    pub fn happened(&self, id: &str, from: &str, to: &[String], text: &str) -> bool {
        let one = |to: &String| {
            let domain = to
                .rsplit_once('@')
                .map_or(to.as_str(), |(_, domain)| domain);
            self.to.as_ref().is_none_or(|wanted| like(wanted, to))
                && self
                    .domain
                    .as_ref()
                    .is_none_or(|wanted| like(wanted, domain))
        };
        self.id.is_none_or(|wanted| wanted.to_string() == id)
            && self.from.as_ref().is_none_or(|wanted| like(wanted, from))
            && self.reply.as_ref().is_none_or(|regex| regex.is_match(text))
            && (to.is_empty() || to.iter().any(one))
    }

    fn recipient(&self, to: &Recipient, state: &RecipientState) -> bool {
        let domain = to.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let alias = |wanted: &str| {
            to.alias_of
                .as_ref()
                .is_some_and(|alias| like(wanted, alias))
        };
        self.to
            .as_ref()
            .is_none_or(|wanted| like(wanted, &to.address) || alias(wanted))
            && self
                .domain
                .as_ref()
                .is_none_or(|wanted| like(wanted, domain))
            && self
                .whose
                .as_ref()
                .is_none_or(|whose| whose.means_recipient(&to.address))
            && match &self.state {
                Some(word) => word == state_word(state, self.now),
                // One that ended is history, which only its id or its state word asks for.
                None => self.id.is_some() || state.status == Status::Waiting,
            }
            && self.suspended.as_ref().is_none_or(|wanted| {
                let waits = state.suspended.as_ref();
                waits.is_some_and(|waits| waits.destination == *wanted)
            })
            && self.reply.as_ref().is_none_or(|regex| {
                state
                    .last_reply
                    .as_ref()
                    .is_some_and(|said| regex.is_match(&said.to_string()))
            })
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything; case does not matter. Takes time
/// in proportion to the product of the lengths at worst.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else {
        return text.is_empty();
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::own_reply;
    use crate::queue::store::new_message;
    use queue_schema::{Envelope, Origin};

    fn message() -> Message {
        let recipient = |address: &str, alias: Option<&str>| Recipient {
            alias_of: alias.map(str::to_owned),
            ..Recipient::new(address)
        };
        let envelope = Envelope::new(
            "a@example.org",
            vec![
                recipient("Bob@gmail.example", None),
                recipient("c@example.net", Some("info@example.org")),
            ],
        );
        let origin = Origin::Network {
            client: [127, 0, 0, 1].into(),
        };
        let mut message = new_message(QueueId(77), 1_000_000, origin, envelope);
        message.states[1].last_attempt = 1;
        message.states[1].last_reply = Some(own_reply(450, "4.2.2", "mailbox full"));
        message
    }

    fn selected(change: impl FnOnce(&mut Selector)) -> Vec<u32> {
        let mut selector = Selector::default();
        change(&mut selector);
        selector.compile(2_000_000).unwrap().recipients(&message())
    }

    #[test]
    fn filters_add_up() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(selected(|_| {}), [0, 1]);
        assert_eq!(selected(|s| s.to = some("bob@GMAIL.example")), [0]);
        assert_eq!(
            selected(|s| s.to = some("info@example.org")),
            [1],
            "the alias counts"
        );
        assert_eq!(selected(|s| s.domain = some("*.example")), [0]);
        assert_eq!(selected(|s| s.domain = some("example.net")), [1]);
        assert_eq!(selected(|s| s.from = some("a@*")), [0, 1]);
        assert!(selected(|s| s.from = some("<>")).is_empty());
        assert_eq!(selected(|s| s.state = some("queued")), [0]);
        assert_eq!(selected(|s| s.state = some("deferred")), [1]);
        assert_eq!(selected(|s| s.reply = some("^4.*full$")), [1]);
        assert_eq!(selected(|s| s.older = some("999s")), [0, 1]);
        assert!(selected(|s| s.older = some("1000s")).is_empty());
        assert_eq!(selected(|s| s.id = some(&QueueId(77).to_string())), [0, 1]);
        assert!(selected(|s| s.id = some(&QueueId(78).to_string())).is_empty());
        let both = |s: &mut Selector| {
            s.domain = some("example.net");
            s.state = some("queued");
        };
        assert!(selected(both).is_empty());
    }

    #[test]
    fn what_can_not_be_understood_says_what_to_write() {
        let error = |selector: Selector| selector.compile(0).err().unwrap().to_string();
        let some = |text: &str| Some(text.to_owned());
        assert!(
            error(Selector {
                id: some("x"),
                ..Selector::default()
            })
            .contains("13 letters")
        );
        let state = Selector {
            state: some("waiting"),
            ..Selector::default()
        };
        assert!(error(state).contains("queued, deferred, suspended, held"));
        assert!(
            error(Selector {
                older: some("5"),
                ..Selector::default()
            })
            .contains("5m")
        );
        assert!(
            error(Selector {
                reply: some("("),
                ..Selector::default()
            })
            .starts_with("'('")
        );
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, is) in [
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*b", "ab", true),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
        ] {
            assert_eq!(like(pattern, text), is, "{pattern} {text}");
        }
    }
}
