//! A message for a next hop that takes no 8-bit content (RFC 6152 section 3): encoded as 7-bit,
//! and signed or sealed again with our key where we had done so.
//!
//! Receives a message and gives another; the stored one stays as it is. The work runs on a thread
//! for blocking work, and all messages that are encoded at the same time have [`BUDGET`] bytes.
//! What can not be encoded without breaking it is a verdict: 5.6.3 for the body, 5.6.7 for a header
//! (RFC 6531 section 3.2).

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Recipient;
use bytes::Bytes;
use queue_schema::{Message, Origin};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::verdict::Verdict;
use crate::message::arc;
use crate::message::headers::{self, Field};
use crate::message::reencode::{self, Rule};
use crate::message::tags::Tags;
use crate::message::{Body, Content, author};
use crate::signing::arc::ChainState;
use crate::signing::{Seal, Sign, SignError};
use crate::smtp::reply::Reply;

/// Bytes of bodies that are encoded and on their way at the same time.
const BUDGET: usize = 256 << 20;
/// One permit of the budget.
const UNIT: usize = 64 << 10;
/// A message waits for its part of the budget for this long, then in the queue for as long again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turns messages into 7-bit ones. Clones share the budget.
#[derive(Clone)]
pub(super) struct SevenBit {
    signer: Recipient<Sign>,
    sealer: Arc<OnceLock<Recipient<Seal>>>,
    budget: Arc<Semaphore>,
}

/// A message of 7-bit lines; its part of the budget is free when this is dropped.
pub(super) struct Encoded {
    pub(super) content: Content,
    _part: OwnedSemaphorePermit,
}

impl SevenBit {
    pub(super) fn new(signer: Recipient<Sign>) -> SevenBit {
        SevenBit {
            signer,
            sealer: Arc::default(),
            budget: Arc::new(Semaphore::new(BUDGET / UNIT)),
        }
    }

    /// Who seals forwarded mail; until this is called nobody does.
    pub(super) fn sealing(&self, sealer: Recipient<Seal>) {
        // It is set once, before anything is delivered.
        let _ = self.sealer.set(sealer);
    }

    /// The message for a hop without 8BITMIME, or what becomes of it there.
    pub(super) async fn encode(
        &self,
        message: &Message,
        content: Content,
    ) -> Result<Encoded, Verdict> {
        // The original, the encoded body, and what is written from it.
        let bytes = usize::try_from(content.len()).unwrap_or(BUDGET);
        let units = (bytes.saturating_mul(4) / UNIT + 1).min(BUDGET / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let part = Arc::clone(&self.budget).acquire_many_owned(units);
        let Ok(Ok(part)) = tokio::time::timeout(PATIENCE, part).await else {
            let text = "other messages are being encoded for hops without 8BITMIME";
            let reply = Reply::new(451, "4.3.2", text);
            return Err(Verdict::postponed(PATIENCE, reply));
        };
        let work = tokio::task::spawn_blocking(move || encoded(&content));
        let done = work.await.unwrap_or(Err(Problem::Unreadable));
        let (content, changed) = done.map_err(Problem::verdict)?;
        let content = match message.origin {
            _ if !changed => content,
            // Whoever signed it, it was not us; we may have sealed it.
            Origin::Outside { .. } => self.seal(content).await?,
            _ => self.sign(content).await?,
        };
        Ok(Encoded {
            content,
            _part: part,
        })
    }

    /// Puts new signatures in the place of those the encoding broke.
    async fn sign(&self, content: Content) -> Result<Content, Verdict> {
        let Some((trace, domain, rest)) = unsigned(&content.head) else {
            return Ok(content);
        };
        let sign = Sign {
            domain: domain.clone(),
            content: Content {
                head: rest.clone(),
                body: content.body.clone(),
            },
        };
        let signatures = made(self.signer.send(sign).await.ok(), &domain)?;
        Ok(topped(content, &trace, &signatures, &rest))
    }

    /// Puts a new set in the place of our ARC set, whose message signature the encoding broke. Of
    /// the sets below only their seals must hold (RFC 8617 section 5.2), and those cover no body.
    async fn seal(&self, content: Content) -> Result<Content, Verdict> {
        let (Some(sealer), Some(found)) = (self.sealer.get(), unsealed(&content.head)) else {
            return Ok(content);
        };
        let (trace, rest, domain) = (found.trace, found.rest, found.domain);
        let seal = Seal {
            domain: domain.clone(),
            content: Content {
                head: rest.clone(),
                body: content.body.clone(),
            },
            replaces: Some(found.sealed),
            state: found.state,
            results: found.results,
            now: crate::time::now() / 1000,
        };
        let set = made(sealer.send(seal).await.ok(), &domain)?;
        Ok(topped(content, &trace, &set, &rest))
    }
}

/// What the signer made for `domain`, or why the message waits.
fn made(answer: Option<Result<Bytes, SignError>>, domain: &str) -> Result<Bytes, Verdict> {
    match answer {
        Some(Ok(made)) => Ok(made),
        Some(Err(error)) => {
            tracing::error!(target: "alarm", %error, "a message can not be signed; it waits");
            let text = format!("it can not be signed for {domain}; see the log");
            Err(Verdict::deferred(451, "4.3.5", &text))
        }
        None => {
            let text = "the signer does not answer";
            Err(Verdict::deferred(451, "4.3.0", text))
        }
    }
}

/// The message with what the signer made; as it is where that is nothing, as for a domain whose
/// key is not ours.
fn topped(content: Content, trace: &[u8], made: &[u8], rest: &[u8]) -> Content {
    match made.is_empty() {
        true => content,
        false => Content {
            head: [trace, made, rest].concat().into(),
            body: content.body,
        },
    }
}

/// Why a message can not be encoded.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Unreadable,
    Header,
    Body,
}

impl Problem {
    fn verdict(self) -> Verdict {
        match self {
            Problem::Unreadable => {
                Verdict::deferred(451, "4.3.0", "the message could not be read back from disk")
            }
            Problem::Header => Verdict::failed(
                554,
                "5.6.7",
                "the message has a header that is not ASCII, and the server takes none; \
                 write its headers in ASCII",
            ),
            Problem::Body => Verdict::failed(
                554,
                "5.6.3",
                "the message has 8-bit content that can not be encoded without breaking it, and \
                 the server has no 8BITMIME; send it without a signature or encryption, or as \
                 base64",
            ),
        }
    }
}

/// The message of 7-bit lines, and whether it is another than it was. Blocks.
fn encoded(content: &Content) -> Result<(Content, bool), Problem> {
    let body = match &content.body {
        Body::Memory(bytes) => bytes.clone(),
        Body::Spool(file) => {
            let unreadable = |error: io::Error| {
                tracing::error!(path = %file.path.display(), %error, "a spooled body can not be read");
                Problem::Unreadable
            };
            let bytes = std::fs::read(file.path.as_path()).map_err(unreadable)?;
            if (bytes.len() as u64, crc32c::crc32c(&bytes)) != (file.len, file.crc) {
                return Err(unreadable(io::ErrorKind::InvalidData.into()));
            }
            bytes.into()
        }
    };
    if !content.head.is_ascii() {
        return Err(Problem::Header);
    }
    let rule = Rule {
        // Long lines go on as they came.
        line: usize::MAX,
        seven_bit: true,
    };
    let (head, encoded) =
        reencode::reencode(&content.head, &body, rule).map_err(|_| Problem::Body)?;
    let changed = head != content.head || encoded != body;
    let content = Content {
        head: head.into(),
        body: Body::Memory(encoded.into()),
    };
    Ok((content, changed))
}

/// Our trace field, the domain to sign for, and everything else without our signatures: those right
/// behind the trace field whose domain is that of From, or one above it.
fn unsigned(head: &Bytes) -> Option<(Vec<u8>, String, Bytes)> {
    let fields = headers::fields(head).ok()?;
    let from = fields.iter().find(|field| field.is("From"))?;
    let authors = author::addresses(from.value).ok()?;
    let domain = authors.first()?.domain();
    let traces = traces(&fields);
    let ours = |field: &&Field<'_>| field.is("DKIM-Signature") && signs(field.value, domain);
    let signed = fields.iter().skip(traces).take_while(ours).count();
    let (trace, rest) = without(head, &fields, traces, signed);
    Some((trace, domain.to_owned(), rest))
}

/// How many fields on top tell how the message came: Received, and Received-SPF above it.
fn traces(fields: &[Field<'_>]) -> usize {
    let is = |at: usize, name: &str| fields.get(at).is_some_and(|field| field.is(name));
    let spf = usize::from(is(0, "Received-SPF"));
    spf + usize::from(is(spf, "Received"))
}

/// The first `traces` fields, and what is left without the `count` behind them.
fn without(head: &Bytes, fields: &[Field<'_>], traces: usize, count: usize) -> (Vec<u8>, Bytes) {
    let whole = |from: usize, count: usize| -> Vec<u8> {
        let fields = fields.iter().skip(from).take(count);
        fields.flat_map(|field| field.whole).copied().collect()
    };
    let mut rest = whole(traces + count, usize::MAX);
    if head.ends_with(b"\r\n\r\n") {
        rest.extend_from_slice(b"\r\n");
    }
    (whole(0, traces), rest.into())
}

/// A message without the ARC set that is right behind its trace field, and what that set said.
struct Unsealed {
    trace: Vec<u8>,
    /// The header block without the trace field, and that without the set.
    sealed: Bytes,
    rest: Bytes,
    domain: String,
    state: ChainState,
    results: String,
}

/// The same for the newest ARC set, where it stands as we put it.
fn unsealed(head: &Bytes) -> Option<Unsealed> {
    let fields = headers::fields(head).ok()?;
    let traces = traces(&fields);
    let set = fields.get(traces..traces + 3)?;
    let [seal, signature, results] = set else {
        return None;
    };
    let named = seal.is("ARC-Seal") && signature.is("ARC-Message-Signature");
    if !named || !results.is("ARC-Authentication-Results") {
        return None;
    }
    let tags = Tags::parse(seal.value)?;
    let state = match tags.get("cv")? {
        "none" => ChainState::None,
        "pass" => ChainState::Pass,
        "fail" => ChainState::Fail,
        _ => return None,
    };
    let text = std::str::from_utf8(results.value).ok()?;
    let (_, found) = text.split_once(';')?;
    // It is the last set, and there is none of its number below.
    let below = arc::chain(fields.get(traces + 3..)?).next_instance()?;
    if tags.get("i")? != below.to_string() {
        return None;
    }
    let (trace, rest) = without(head, &fields, traces, 3);
    Some(Unsealed {
        sealed: head.slice(trace.len()..),
        trace,
        rest,
        domain: tags.get("d")?.to_ascii_lowercase(),
        state,
        results: found.trim().to_owned(),
    })
}

/// Whether a signature is one for this domain, or for one above it.
fn signs(value: &[u8], domain: &str) -> bool {
    let text = String::from_utf8_lossy(value);
    let tag = text.split(';').find_map(|part| {
        let (tag, value) = part.split_once('=')?;
        (tag.trim() == "d").then(|| value.trim().to_ascii_lowercase())
    });
    tag.is_some_and(|signer| {
        let above = domain.strip_suffix(&signer);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(head: &str, body: &[u8]) -> Content {
        Content {
            head: Bytes::copy_from_slice(head.as_bytes()),
            body: Body::Memory(Bytes::copy_from_slice(body)),
        }
    }

    #[test]
    fn our_signatures_and_no_others_make_room() {
        let head = "Received: by us\r\n\
            DKIM-Signature: v=1; a=rsa-sha256;\r\n d=example.org; s=a; b=x\r\n\
            DKIM-Signature: v=1; d=sub.example.org; s=b; b=x\r\n\
            DKIM-Signature: v=1; d=example.com; s=c; b=x\r\n\
            DKIM-Signature: v=1; d=example.org; s=d; b=x\r\n\
            From: a@sub.example.org\r\nSubject: x\r\n\r\n";
        let bytes = Bytes::copy_from_slice(head.as_bytes());
        let (trace, domain, rest) = unsigned(&bytes).expect("a From field");
        assert_eq!(trace, b"Received: by us\r\n");
        assert_eq!(domain, "sub.example.org");
        let rest = String::from_utf8(rest.to_vec()).expect("ASCII");
        let start = head.find("DKIM-Signature: v=1; d=example.com").expect("it");
        assert_eq!(rest, head[start..]);
        for head in ["Subject: x\r\n\r\n", "From: nobody\r\n\r\n", "", "x\r\n"] {
            let bytes = Bytes::copy_from_slice(head.as_bytes());
            assert!(unsigned(&bytes).is_none(), "{head}");
        }
        assert!(!signs(b" d=le.org", "example.org"));
    }

    #[test]
    fn our_set_alone_makes_room() {
        let set = |i: u32, cv: &str| {
            format!(
                "ARC-Seal: a=rsa-sha256;\r\n b=x; cv={cv}; d=Example.org;\r\n i={i}; s=s; t=1\r\n\
                 ARC-Message-Signature: a=rsa-sha256; b=x; d=example.org; i={i}\r\n\
                 ARC-Authentication-Results: i={i}; mx.example.org;\r\n\tspf=pass;\r\n\tarc=none\r\n"
            )
        };
        let rest = format!(
            "Delivered-To: x\r\n{}From: a@b.example\r\n\r\n",
            set(1, "none")
        );
        let head = format!("Received: by us\r\n{}{rest}", set(2, "pass"));
        let found = unsealed(&head.into()).expect("a set");
        assert_eq!(found.trace, b"Received: by us\r\n");
        assert_eq!(found.rest, rest);
        assert_eq!(found.sealed, format!("{}{rest}", set(2, "pass")));
        assert_eq!(
            (&*found.domain, found.state),
            ("example.org", ChainState::Pass)
        );
        assert_eq!(
            found.results,
            "mx.example.org;\r\n\tspf=pass;\r\n\tarc=none"
        );
        for head in [
            // Not on top, not the next one, not whole, of no state, none.
            format!(
                "Received: x\r\nSubject: y\r\n{}From: z\r\n\r\n",
                set(1, "none")
            ),
            format!("{}{}\r\n", set(3, "pass"), set(1, "none")),
            format!("{}{}\r\n", set(1, "none"), set(1, "none")),
            set(1, "none").replace("ARC-Message-Signature", "X"),
            set(1, "perhaps"),
            "From: a@b.example\r\n\r\n".to_owned(),
            String::new(),
        ] {
            assert!(unsealed(&head.clone().into()).is_none(), "{head}");
        }
    }

    #[test]
    fn what_is_encoded_and_what_can_not_be() {
        let head = "From: a@example.org\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\n";
        let (seven, changed) = encoded(&content(head, "gr\u{fc}n\r\n".as_bytes())).expect("7-bit");
        assert!(changed && seven.head.is_ascii());
        let Body::Memory(body) = &seven.body else {
            panic!("in memory")
        };
        assert_eq!(&body[..], b"gr=C3=BCn\r\n");
        let (_, changed) = encoded(&content(head, b"green\r\n")).expect("7-bit");
        assert!(!changed, "declared 8-bit, and it is not");
        let signed = "From: a@example.org\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n";
        let problem = encoded(&content(signed, b"--b\r\n\r\n\xfc\r\n--b--\r\n")).err();
        assert_eq!(problem, Some(Problem::Body));
        let utf8 = "From: a@example.org\r\nSubject: gr\u{fc}n\r\n\r\n";
        let problem = encoded(&content(utf8, b"x")).err();
        assert_eq!(problem, Some(Problem::Header));
    }
}
