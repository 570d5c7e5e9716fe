//! What a message is and where it goes: decisions between the last byte of data and the signer.
//!
//! Receives the envelope and header block of a transaction; gives the header block as it goes on,
//! the envelope with aliases expanded, and whose DKIM key signs. Mail from outside is judged by
//! [`outside`]. Pure, except [`verify`], which asks the DNS, and [`hooks`], which ask other programs.
//! Never changes a byte below the header (I12), never accepts mail for others from
//! strangers (I11).
#![forbid(unsafe_code)]

pub mod hooks;
pub mod onward;
pub mod outside;
pub mod policy;
pub mod reputation;
pub mod results;
mod spoof;
pub mod srs;
pub mod tally;

use std::collections::HashSet;

use queue_schema::{BodyKind, DeliverBy, Envelope, Millis, QueueId, Recipient};

use crate::config::Limits;
use crate::config::routes::Via;
use crate::identity::{Identity, Mode, Resolution};
use crate::message::headers::{self, Field};
use crate::message::{author, complete, trace};
use crate::smtp::address::{Address, Charset};
use crate::smtp::params::{Hold, Rcpt};
use crate::smtp::replies::{self, Reply};
use crate::smtp::server::Transaction;

/// Who the client is, as far as that decides what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'a> {
    /// Logged in.
    User(&'a str),
    /// In `relay_networks`.
    Network,
    /// Anyone else.
    Outside,
}

/// MAIL FROM: a user sends as itself and as what it was given (RFC 6409 section 6.1). The null
/// reverse-path is everybody's.
pub fn sender(
    identity: &Identity,
    client: Client<'_>,
    from: Option<&Address>,
) -> Result<(), Reply> {
    match (client, from) {
        (Client::User(user), Some(from)) => may_send_as(identity, user, from.as_str()),
        _ => Ok(()),
    }
}

fn may_send_as(identity: &Identity, user: &str, address: &str) -> Result<(), Reply> {
    if identity.may_send_as(user, address) {
        return Ok(());
    }
    let given = identity
        .user(user)
        .map(|user| user.send_as.join(", "))
        .unwrap_or_default();
    let also = if given.is_empty() {
        given
    } else {
        format!(", {given}")
    };
    Err(replies::not_yours(&format!("{user}{also}")))
}

/// RCPT TO: where it leads, or why it is refused. An address of ours that SRS made leads back to
/// whom it was made for: `bounce` ([`outside::Outside::bounce`]).
pub fn recipient(
    identity: &Identity,
    client: Client<'_>,
    to: &Address,
    bounce: Option<Result<Vec<String>, Reply>>,
) -> Result<Vec<String>, Reply> {
    if let Some(bounce) = bounce {
        return bounce;
    }
    match identity.resolve(to.as_str()) {
        Resolution::Remote if client == Client::Outside => {
            match identity.domain(to.domain()).map(|domain| domain.mode) {
                Some(Mode::SendOnly) => Err(replies::SEND_ONLY),
                _ => Err(replies::RELAY_DENIED),
            }
        }
        _ => leads(identity, to),
    }
}

/// `RCPT TO:<postmaster>`, and the postmaster at our host name where that is no domain of ours: every
/// host has one (RFC 5321 section 4.5.1). `None`: another address.
pub fn postmaster(
    identity: &Identity,
    hostname: &str,
    to: &Address,
) -> Option<Result<Vec<String>, Reply>> {
    let is_it = to.local().eq_ignore_ascii_case("postmaster")
        && to.domain().eq_ignore_ascii_case(hostname)
        && identity.resolve(to.as_str()) == Resolution::Remote;
    is_it.then(|| match identity.resolve("postmaster") {
        Resolution::Targets(targets) => Ok(targets),
        _ => Err(replies::UNKNOWN_RECIPIENT),
    })
}

/// Where an address leads, ours or not.
fn leads(identity: &Identity, to: &Address) -> Result<Vec<String>, Reply> {
    match identity.resolve(to.as_str()) {
        Resolution::Targets(targets) => Ok(targets),
        Resolution::Unknown => Err(replies::UNKNOWN_RECIPIENT),
        Resolution::Rejected(text) => Err(Reply::new(550, "5.1.1", text)),
        Resolution::Refused(why) => Err(replies::bad_alias(why)),
        Resolution::Remote => Ok(vec![to.to_string()]),
    }
}

/// A header block that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The block with its empty line; our trace and signatures go on top.
    pub head: Vec<u8>,
    /// Whose DKIM key signs.
    pub sign_for: Option<String>,
}

/// The circumstances in which a header block came.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The limits.
    pub limits: &'a Limits,
    /// Our host name.
    pub hostname: &'a str,
    /// The recipients of the transaction.
    pub recipients: &'a [Rcpt],
    /// The reverse-path, to be the author of a user's message that names none; `None`: it is refused.
    pub author: Option<&'a str>,
    /// The message's id.
    pub id: QueueId,
    /// When it came.
    pub at: Millis,
}

/// Checks the header block of users and networks and, for users, completes it. Mail from outside is
/// [`outside`]'s.
pub fn header(
    identity: &Identity,
    client: Client<'_>,
    head: Vec<u8>,
    received: &Received<'_>,
) -> Result<Header, Reply> {
    let mut fields = headers::fields(&head).map_err(|_| replies::BAD_HEADER)?;
    loops(&fields, received)?;
    // RFC 8601 section 5: verdicts in our name are ours alone.
    let before = fields.len();
    fields.retain(|field| !results::is_forged(field, received.hostname));
    let forged = fields.len() != before;
    let mut from = fields.iter().filter(|field| field.is("From"));
    let authors = match (from.next(), from.next(), client) {
        (Some(field), None, Client::Network) => {
            // They answer for what they hand us; what can not be read is not signed.
            author::addresses(field.value).unwrap_or_default()
        }
        (Some(field), None, _) => {
            author::addresses(field.value).map_err(|_| replies::UNREADABLE_AUTHOR)?
        }
        (None, _, Client::Network) => Vec::new(),
        (None, _, Client::User(user)) => {
            let author = received.author.ok_or(replies::BAD_FROM)?;
            // Under the null reverse-path it is the user.
            let author = if author.is_empty() { user } else { author };
            let author = Address::parse_in(author.as_bytes(), Charset::Utf8);
            vec![author.map_err(|_| replies::BAD_FROM)?]
        }
        _ => return Err(replies::BAD_FROM),
    };
    let head = match client {
        Client::User(user) => {
            if authors.is_empty() {
                return Err(replies::BAD_FROM);
            }
            let senders = senders(&fields)?;
            authors
                .iter()
                .chain(&senders)
                .try_for_each(|author| may_send_as(identity, user, author.as_str()))?;
            let named = fields.iter().any(|field| field.is("From"));
            let add = complete::Missing {
                from: authors.first().map(Address::as_str).filter(|_| !named),
                // RFC 5322 section 3.6.2: several authors need one sender.
                sender: (authors.len() > 1 && senders.is_empty()).then_some(user),
            };
            complete::complete(&fields, add, received.id, received.hostname, received.at)
        }
        _ if forged => {
            let kept = fields.iter().map(|field| field.whole);
            kept.chain([&b"\r\n"[..]]).collect::<Vec<_>>().concat()
        }
        _ => head,
    };
    Ok(Header {
        head,
        sign_for: authors.first().map(|author| author.domain().to_owned()),
    })
}

/// The address of Sender, where there is that field; it may be there once.
fn senders(fields: &[Field<'_>]) -> Result<Vec<Address>, Reply> {
    let mut sender = fields.iter().filter(|field| field.is("Sender"));
    match (sender.next(), sender.next()) {
        (None, _) => Ok(Vec::new()),
        (Some(field), None) => {
            let addresses =
                author::addresses(field.value).map_err(|_| replies::UNREADABLE_AUTHOR)?;
            (addresses.len() == 1)
                .then_some(addresses)
                .ok_or(replies::BAD_SENDER_FIELD)
        }
        _ => Err(replies::BAD_SENDER_FIELD),
    }
}

/// Refuses what goes round in circles: too many hops in all, too many through us, one that we wrote
/// for the same recipient, or a mark that it was delivered to it before (RFC 5321 section 6.3).
fn loops(fields: &[Field<'_>], received: &Received<'_>) -> Result<(), Reply> {
    let traces: Vec<&Field<'_>> = fields.iter().filter(|field| field.is("Received")).collect();
    if traces.len() >= received.limits.hops {
        return Err(replies::TOO_MANY_HOPS);
    }
    let mut own = 0;
    for field in traces {
        let Some(recipient) = trace::own(field.value, received.hostname) else {
            continue;
        };
        own += 1;
        let again = recipient.is_some_and(|recipient| {
            received
                .recipients
                .iter()
                .any(|rcpt| rcpt.to.as_str() == recipient)
        });
        if again || own >= received.limits.own_hops {
            return Err(replies::OWN_LOOP);
        }
    }
    for field in fields.iter().filter(|field| field.is("Delivered-To")) {
        let mark = String::from_utf8_lossy(field.value);
        let mark = mark.trim();
        let mut recipients = received.recipients.iter();
        if recipients.any(|rcpt| rcpt.to.as_str().eq_ignore_ascii_case(mark)) {
            return Err(replies::OWN_LOOP);
        }
    }
    Ok(())
}

/// The envelope of a transaction whose recipients lead to `targets`, one list for each, in order.
/// An address that several of them lead to gets the message once; a program for each of them.
pub fn envelope(
    transaction: &Transaction,
    targets: &[Vec<String>],
    head: &[u8],
    eight_bit: bool,
    at: Millis,
) -> Envelope {
    let mail = &transaction.mail;
    let mut seen = HashSet::new();
    let mut recipients = Vec::new();
    for (given, targets) in transaction.recipients.iter().zip(targets) {
        for target in targets {
            // A program is told whom it serves, a template is filled in for each.
            let each = Via::of_address(target)
                .is_some_and(|via| matches!(via, Ok(Via::Pipe(_))) || target.contains('{'));
            if seen.insert((target.as_str(), each.then_some(given.to.as_str()))) {
                let alias_of = (target != given.to.as_str()).then(|| given.to.to_string());
                recipients.push(Recipient {
                    address: target.clone(),
                    alias_of,
                    notify: given.notify.unwrap_or_default(),
                    orcpt: given.orcpt.clone(),
                });
            }
        }
    }
    let from = mail.from.as_ref();
    // An alias may lead from ASCII beyond it.
    let utf8_target = recipients.iter().any(|rcpt| !rcpt.address.is_ascii());
    let beyond_ascii = !head.is_ascii() || from.is_some_and(|from| !from.is_ascii());
    Envelope {
        reverse_path: from.map(Address::to_string).unwrap_or_default(),
        forwarded_as: None,
        recipients,
        body: if eight_bit {
            BodyKind::EightBit
        } else {
            BodyKind::SevenBit
        },
        smtputf8: utf8_target || (mail.smtputf8 && beyond_ascii),
        require_tls: mail.require_tls,
        ret: mail.ret,
        envid: mail.envid.clone(),
        release_at: mail.hold.map(|hold| match hold {
            Hold::For(seconds) => at.saturating_add(seconds.saturating_mul(1000)),
            Hold::Until(until) => until,
        }),
        deliver_by: mail.by.map(|by| DeliverBy {
            at: at.saturating_add_signed(by.seconds.saturating_mul(1000)),
            give_up: by.give_up,
        }),
        priority: mail.priority.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;

// The rooms that this one enters.
use chapar_config as config;
use chapar_confined as confined;
#[cfg(test)]
use chapar_dns as dns;
use chapar_identity as identity;
#[cfg(test)]
use chapar_lab as lab;
use chapar_message as message;
use chapar_queue as queue;
use chapar_signing as signing;
use chapar_smtp as smtp;
use chapar_verify as verify;
