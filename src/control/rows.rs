//! Rows of a summary, and the orders of a list.

use serde::{Deserialize, Serialize};

/// Upper ends of the columns of a summary, in minutes; the last column has none.
pub const AGES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// What has a row of its own in a summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The recipient's domain.
    #[default]
    Domain,
    /// What the last attempt brought, without ids.
    Reason,
    /// The reverse-path.
    Sender,
    /// The user who sent it.
    User,
    /// Where it goes next.
    NextHop,
    /// The state word.
    State,
}

impl By {
    /// Whether it is what older versions know.
    pub(super) fn is_domain(&self) -> bool {
        *self == By::Domain
    }
}

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// The newest trouble first: what was tried last, then what came last.
    #[default]
    Tried,
    /// What came last first.
    Arrived,
    /// What is tried next first.
    Due,
    /// What is given up next first.
    Expires,
    /// The most attempts first.
    Attempts,
    /// The largest first.
    Size,
    /// By reverse-path.
    From,
    /// By recipient.
    To,
    /// By the recipient's domain.
    Domain,
    /// By state word.
    State,
    /// By the last reply, without ids.
    Reason,
}

/// One row of a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The recipients' domain; missing where rows are something else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// What rows are.
    #[serde(default)]
    pub by: By,
    /// Which row this is: a domain, a reason, a sender.
    #[serde(default)]
    pub key: String,
    /// Recipients that wait.
    pub total: u64,
    /// The same by age of the message, see [`AGES`].
    pub ages: [u64; 10],
    /// Those never tried.
    pub queued: u64,
    /// Those held.
    pub held: u64,
    /// The commonest last reply, without ids.
    pub reply: Option<String>,
}
