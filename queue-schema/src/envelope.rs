//! What the SMTP client said about a message: its envelope, and how it came to us.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Millis, QueueId};

/// The SMTP envelope (RFC 5321 section 2.3.1) after aliases were expanded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// `local@domain` of MAIL FROM without brackets; empty for the null reverse-path `<>`.
    pub reverse_path: String,
    /// The reverse-path under which it leaves us for others, where that is not its own: SRS of
    /// forwarded mail. Bounces of ours go to `reverse_path` all the same.
    pub forwarded_as: Option<String>,
    /// Who it goes to, in order, without repeats.
    pub recipients: Vec<Recipient>,
    /// What the client declared, or what was found, about bytes over 127.
    pub body: BodyKind,
    /// Whether addresses or headers need SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Whether every hop must use verified TLS (RFC 8689).
    pub require_tls: bool,
    /// How much of the message a DSN returns (RFC 3461 section 4.3).
    pub ret: Option<Ret>,
    /// The sender's own name for this envelope, decoded xtext (RFC 3461 section 4.4).
    pub envid: Option<String>,
    /// It is not sent before then (RFC 4865).
    pub release_at: Option<Millis>,
    /// By when it is to be delivered (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// Its precedence, -9 to 9; most mail has 0 (RFC 6710).
    pub priority: i8,
}

/// The BY parameter of MAIL (RFC 2852 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverBy {
    /// When the time is over.
    pub at: Millis,
    /// What follows then: true, the message is returned; false, its sender is told.
    pub give_up: bool,
}

impl Envelope {
    /// An envelope of addresses alone: 7-bit mail for which the client asked for nothing.
    pub fn new(reverse_path: impl Into<String>, recipients: Vec<Recipient>) -> Envelope {
        Envelope {
            reverse_path: reverse_path.into(),
            forwarded_as: None,
            recipients,
            body: BodyKind::SevenBit,
            smtputf8: false,
            require_tls: false,
            ret: None,
            envid: None,
            release_at: None,
            deliver_by: None,
            priority: 0,
        }
    }

    /// What MAIL FROM says to servers of others.
    pub fn mail_from(&self) -> &str {
        self.forwarded_as.as_deref().unwrap_or(&self.reverse_path)
    }
}

/// One RCPT TO, or one target of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// `local@domain`; the domain in lower case and as A-labels.
    pub address: String,
    /// The address the client gave, where an alias led from it to `address`.
    pub alias_of: Option<String>,
    /// Which DSNs the sender asked for (RFC 3461 section 4.1).
    pub notify: Notify,
    /// The client's ORCPT, decoded, as `type;address` (RFC 3461 section 4.2).
    pub orcpt: Option<String>,
}

impl Recipient {
    /// A recipient of whom nothing but the address is known.
    pub fn new(address: impl Into<String>) -> Recipient {
        Recipient {
            address: address.into(),
            alias_of: None,
            notify: Notify::default(),
            orcpt: None,
        }
    }
}

/// The NOTIFY parameter of RCPT (RFC 3461 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// Tell the sender when it was delivered.
    pub success: bool,
    /// Tell the sender when it failed.
    pub failure: bool,
    /// Tell the sender when it is late.
    pub delay: bool,
}

impl Default for Notify {
    /// What holds when the sender says nothing: failures and delays are told.
    fn default() -> Self {
        Notify {
            success: false,
            failure: true,
            delay: true,
        }
    }
}

/// The RET parameter of MAIL (RFC 3461 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// Return the whole message.
    Full,
    /// Return its header block only.
    Headers,
}

/// The BODY parameter of MAIL (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyKind {
    /// Every byte is below 128.
    SevenBit,
    /// Some bytes are above 127; lines still end with CR LF.
    EightBit,
}

/// Where a message came from, which decides what may be told to whom about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A user logged in with AUTH.
    User {
        /// The user's address.
        user: String,
        /// The client's address.
        client: IpAddr,
    },
    /// A client of `relay_networks`, without AUTH.
    Network {
        /// The client's address.
        client: IpAddr,
    },
    /// Anyone else, for one of our domains.
    Outside {
        /// The client's address.
        client: IpAddr,
        /// Whether SPF passed for the reverse-path or its domain signed the message, so that a
        /// bounce reaches who sent it.
        verified: bool,
    },
    /// We wrote it ourselves: a DSN about another message.
    Dsn {
        /// The message it is about.
        about: QueueId,
        /// When that message arrived.
        since: Millis,
    },
}

impl Origin {
    /// Whether a DSN may go to the reverse-path (invariant I11).
    pub fn deserves_bounce(&self) -> bool {
        match self {
            Origin::User { .. } | Origin::Network { .. } => true,
            Origin::Outside { verified, .. } => *verified,
            Origin::Dsn { .. } => false,
        }
    }
}
