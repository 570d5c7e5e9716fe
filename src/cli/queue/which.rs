//! Which recipients a verb is about: the options of a selector, the same for every verb.

use clap::Args;

use super::ask::Failure;
use crate::queue::Selector;

/// Which recipients.
///
/// Values of one filter are alternatives, different filters add up. In addresses, domains and
/// names `*` stands for anything.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Ids, or `all`
    #[arg(value_name = "ID")]
    pub(super) id: Vec<String>,
    /// The recipient, or the alias it came from
    #[arg(long, value_name = "ADDRESS", help_heading = FILTERS)]
    to: Vec<String>,
    /// The sender; `<>` for notices
    #[arg(long, value_name = "ADDRESS", help_heading = FILTERS)]
    from: Vec<String>,
    /// The recipient's domain
    #[arg(long, value_name = "DOMAIN", help_heading = FILTERS)]
    domain: Vec<String>,
    /// queued, deferred, suspended, held, delivered, bounced, expired or removed; for `watch` an
    /// event
    #[arg(long, value_name = "WORD", help_heading = FILTERS)]
    state: Vec<String>,
    /// Messages that came longer ago than this, such as 2h
    #[arg(long, value_name = "SPAN", help_heading = FILTERS)]
    older: Vec<String>,
    /// Messages that came since then, such as 2h
    #[arg(long, value_name = "SPAN", help_heading = FILTERS)]
    newer: Vec<String>,
    /// A regular expression over the last reply
    #[arg(long, value_name = "REGEX", help_heading = FILTERS)]
    reply: Vec<String>,
    /// The last reply's code: 450, 4xx, 4.2.1 or 4.7.*
    #[arg(long, value_name = "CODE", help_heading = FILTERS)]
    code: Vec<String>,
    /// Bytes of the message: +1M for more than a MiB, -10k for less than 10 KiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = FILTERS)]
    size: Vec<String>,
    /// Attempts that counted: +3 for more than 3, -3 for less, 3
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true, help_heading = FILTERS)]
    attempts: Vec<String>,
    /// The next attempt: 10m for within ten minutes, +10m for later, now
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true, help_heading = FILTERS)]
    due: Vec<String>,
    /// The user who sent it
    #[arg(long, value_name = "USER", help_heading = FILTERS)]
    user: Vec<String>,
    /// The client it came from: an address or a network such as 192.0.2.0/24
    #[arg(long, value_name = "NETWORK", help_heading = FILTERS)]
    client: Vec<String>,
    /// The host of a route, else the host that spoke last, else the domain
    #[arg(long, value_name = "HOST", help_heading = FILTERS)]
    next_hop: Vec<String>,
    /// The Message-ID, with or without its angle brackets
    #[arg(long, value_name = "ID", help_heading = FILTERS)]
    message_id: Vec<String>,
    /// The subject; `*` stands for anything, as in '*invoice*'
    #[arg(long, value_name = "TEXT", help_heading = FILTERS)]
    subject: Vec<String>,
    /// Leave out what this means: a filter and its value, such as domain=gmail.com
    #[arg(long, value_name = "FILTER=VALUE", help_heading = FILTERS)]
    not: Vec<String>,
}

const FILTERS: &str = "Filters (each may be given several times)";

impl Which {
    pub(super) fn selector(&self) -> Selector {
        let all = |values: &Vec<String>| values.clone().into();
        let ids = self.id.iter().filter(|id| *id != "all").cloned();
        Selector {
            id: ids.collect::<Vec<String>>().into(),
            to: all(&self.to),
            from: all(&self.from),
            domain: all(&self.domain),
            state: all(&self.state),
            older: all(&self.older),
            newer: all(&self.newer),
            reply: all(&self.reply),
            code: all(&self.code),
            size: all(&self.size),
            attempts: all(&self.attempts),
            due: all(&self.due),
            user: all(&self.user),
            client: all(&self.client),
            next_hop: all(&self.next_hop),
            message_id: all(&self.message_id),
            subject: all(&self.subject),
            not: all(&self.not),
            ..Selector::default()
        }
    }

    /// The selector of a verb that must not mean everything by mistake.
    pub(super) fn chosen(&self) -> Result<Selector, Failure> {
        let selector = self.selector();
        if selector.is_everything() && self.id.is_empty() {
            return Err(Failure::Usage(
                "say which: an id, `all`, or filters such as --domain example.net".into(),
            ));
        }
        Ok(selector)
    }
}
