//! Taking a message that an operator sends: signed as a user's would be, then in the queue as any
//! other.

use std::net::Ipv4Addr;

use bytes::Bytes;
use queue_schema::{BodyKind, Envelope, Origin, Recipient};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::protocol::{Refusal, Submitted};
use crate::message::{Body, Content};
use crate::queue::{Accept, Handle, Held};
use crate::signing::Sign;
use crate::smtp::address::{Address, Charset};

/// Bytes of such a message: it stays in memory.
const MAX_MESSAGE: u64 = 256 << 10;
/// Recipients of one.
const MAX_RECIPIENTS: usize = 100;

/// The message as its line describes it.
pub(super) struct Given<'a> {
    /// The reverse-path.
    pub(super) from: &'a str,
    /// Where it goes.
    pub(super) to: &'a [String],
    /// Bytes that follow.
    pub(super) size: u64,
    /// It waits for an operator's release.
    pub(super) held: bool,
    /// The operator.
    pub(super) by: &'a str,
}

/// Reads, signs and makes durable.
pub(super) async fn submit(
    given: Given<'_>,
    queue: &Handle,
    reading: impl AsyncRead + Unpin,
) -> Result<Submitted, Refusal> {
    if given.size > MAX_MESSAGE || given.to.is_empty() || given.to.len() > MAX_RECIPIENTS {
        return Err(Refusal::wrong(format!(
            "such a message has at most {MAX_MESSAGE} bytes and 1 to {MAX_RECIPIENTS} recipients"
        )));
    }
    let address = |text: &str| {
        Address::parse_in(text.as_bytes(), Charset::Utf8)
            .map(drop)
            .map_err(|error| {
                Refusal::wrong(format!("'{}': {error}", crate::queue::clean(text, 320)))
            })
    };
    for text in given.to.iter().map(String::as_str).chain([given.from]) {
        address(text)?;
    }
    let mut bytes = Vec::new();
    let read = reading.take(given.size).read_to_end(&mut bytes).await;
    read.map_err(Refusal::unavailable)?;
    let end = memchr::memmem::find(&bytes, b"\r\n\r\n").map(|at| at + 4);
    let whole = bytes.len() as u64 == given.size;
    let (true, Some(end)) = (whole, end) else {
        return Err(Refusal::wrong("that is no whole message"));
    };
    let mut head = Bytes::from(bytes);
    let body = head.split_off(end);
    let eight_bit = !body.is_ascii();
    let mut content = Content {
        head,
        body: Body::Memory(body),
    };
    let domain = given.from.rsplit_once('@').map_or("", |(_, domain)| domain);
    let sign = Sign {
        domain: domain.to_ascii_lowercase(),
        content: content.clone(),
    };
    let signature = queue
        .signer
        .send(sign)
        .await
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)?;
    content.head = [signature, content.head].concat().into();
    let signed_by = super::answer::signatures(&content.head);
    let utf8 = !content.head.is_ascii()
        || !given.from.is_ascii()
        || given.to.iter().any(|address| !address.is_ascii());
    let held = Held {
        by: super::operator(given.by),
        reason: "submitted to be held".to_owned(),
        ..Held::default()
    };
    let accept = Accept {
        id: queue.ids.issue(),
        arrived: crate::time::now(),
        origin: Origin::User {
            user: given.from.to_owned(),
            client: Ipv4Addr::LOCALHOST.into(),
        },
        envelope: Envelope {
            body: match eight_bit {
                true => BodyKind::EightBit,
                false => BodyKind::SevenBit,
            },
            smtputf8: utf8,
            ..Envelope::new(given.from, given.to.iter().map(Recipient::new).collect())
        },
        content,
        held: given.held.then_some(held).into_iter().collect(),
    };
    let sent = queue.addr.send(accept).await;
    let id = sent
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::unavailable)?;
    tracing::info!(%id, from = given.from, by = super::operator(given.by), "submitted");
    Ok(Submitted {
        id: id.to_string(),
        signed_by,
    })
}
