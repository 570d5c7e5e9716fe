//! Mail from outside between its last byte and the queue: judged, marked with our verdicts, and
//! made ready to be forwarded.
//!
//! Receives a message with its envelope and where its recipients lead; gives what goes to the
//! queue, and what the signer is to seal. Bytes below our own fields are never changed (I12), but
//! for forged verdicts in our name, which are taken out.

use std::net::IpAddr;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use queue_schema::{Envelope, Millis, QueueId};

use super::hooks::post_data::{About, PostData};
use super::hooks::{Checked, Filters};
use super::policy::{self, Policy};
use super::reputation::Standing;
use super::verify::arc::ArcResult;
use super::verify::{self, Question, Verdicts, author_domains};
use super::{Received, results, srs};
use crate::config::{Config, Hooks, Rewrite, Spam};
use crate::identity::Identity;
use crate::message::headers::{self, Field};
use crate::message::{Body, Content};
use crate::queue::Held;
use crate::report::dmarc::Tally;
use crate::signing::Seal;
use crate::signing::arc::ChainState;
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};
use crate::smtp::server::Transaction;

const DAY: u64 = 24 * 60 * 60;

/// A message that came.
pub struct Arrival<'a> {
    /// The client.
    pub client: IpAddr,
    /// The name of EHLO.
    pub hello: &'a str,
    /// Its envelope.
    pub transaction: &'a Transaction,
    /// Where each recipient leads.
    pub targets: &'a [Vec<String>],
    /// Its bytes.
    pub content: Content,
    /// Takes what the author's domain is to be told of the message, taken or refused.
    pub tally: &'a mut Option<Tally>,
    /// The milters that heard of it so far.
    pub filters: Option<Box<Filters>>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// What lists say of the client, if they were asked.
    pub standing: Option<&'a Standing>,
    /// Whether some are over 127.
    pub eight_bit: bool,
    /// Its id.
    pub id: QueueId,
    /// When it came.
    pub at: Millis,
}

/// A message that may go on.
#[derive(Debug)]
pub struct Passed {
    /// The envelope, its reverse-path rewritten where it leaves us.
    pub envelope: Envelope,
    /// The message with our verdicts on top; trace and seal go above them.
    pub content: Content,
    /// What replaces the body.
    pub new_body: Option<Bytes>,
    /// Why it waits for an operator; nothing if it does not.
    pub held: Vec<Held>,
    /// Whether the reverse-path is not forged.
    pub verified: bool,
    /// What the signer is to do.
    pub seal: Option<Seal>,
}

/// What sessions need to judge mail from outside.
pub struct Outside {
    srs: srs::Keys,
    /// Asks the post-data hook, also about mail of users.
    pub hook: PostData,
}

impl Outside {
    /// With the keys of SRS.
    pub fn new(srs: srs::Keys, hooks: &Hooks) -> Outside {
        let hook = PostData::new(hooks);
        Outside { srs, hook }
    }

    /// Where a rewritten reverse-path leads back to. `None`: the address has not the form of one,
    /// or its domain is none of ours.
    pub fn bounce(
        &self,
        config: &Config,
        identity: &Identity,
        to: &Address,
        at: Millis,
    ) -> Option<Result<Vec<String>, Reply>> {
        let srs_domain = config.forwarding.srs_domain.as_str();
        let ours = match srs_domain {
            "" => identity.domain(to.domain()).is_some(),
            _ => to.domain() == srs_domain,
        };
        if !ours || !srs::is_srs(to.local()) {
            return None;
        }
        let valid = config.forwarding.srs_valid.0.as_secs() / DAY;
        let sender = self
            .srs
            .reverse(to, at / 1000 / DAY, valid.min(srs::MOST_DAYS));
        Some(match sender {
            Some(sender) => super::leads(identity, &sender),
            None => Err(replies::UNKNOWN_RECIPIENT),
        })
    }

    /// Judges a message and makes it ready.
    pub async fn receive(
        &self,
        config: &Config,
        identity: &Identity,
        resolver: &TokioResolver,
        mut arrival: Arrival<'_>,
    ) -> Result<Passed, Reply> {
        let head = arrival.content.head.clone();
        let fields = headers::fields(&head).map_err(|_| replies::BAD_HEADER)?;
        super::loops(
            &fields,
            &Received {
                limits: &config.limits,
                hostname: &config.hostname,
                recipients: &arrival.transaction.recipients,
                id: arrival.id,
                at: arrival.at,
            },
        )?;
        check_author(&fields)?;
        let client = arrival.client.to_canonical();
        let from = arrival.transaction.mail.from.as_ref();
        let judged = config.incoming.judge_private || !is_private(client);
        let verdicts = match judged {
            true => {
                let question = Question {
                    client,
                    hello: arrival.hello,
                    from: from.map(Address::as_str).unwrap_or_default(),
                    receiver: &config.hostname,
                    fields: &fields,
                    body: &arrival.content.body,
                    now: arrival.at / 1000,
                    time: config.incoming.dns_time.0,
                };
                let verdicts = verify::verify(resolver, &question).await;
                let mut verdicts = verdicts.map_err(|error| {
                    tracing::error!(target: "session", %error, "a body could not be read back");
                    replies::QUEUE_FAILED
                })?;
                if let Some(Standing::Allowed(listing)) = arrival.standing {
                    verdicts.allowed = Some(listing.clone());
                }
                Some(verdicts)
            }
            false => None,
        };
        if let Some(verdicts) = &verdicts {
            for rcpt in &arrival.transaction.recipients {
                let domain = identity.domain(rcpt.to.domain());
                let policy = domain.map_or_else(
                    || Policy::from(&config.incoming),
                    |domain| domain.policy(&config.incoming),
                );
                if let Err(reply) = policy::judge(policy, verdicts) {
                    let by_dmarc = reply.enhanced == "5.7.1";
                    *arrival.tally = Tally::of(verdicts, by_dmarc);
                    return Err(reply);
                }
            }
            *arrival.tally = Tally::of(verdicts, false);
        }
        let mut checked = Checked::new(arrival.content.clone());
        if let Some(filters) = arrival.filters.take() {
            checked = filters
                .message(config, &arrival.id.to_string(), checked.content)
                .await?;
        }
        let spf_pass = verdicts
            .as_ref()
            .is_some_and(|verdicts| verdicts.spf.result == verify::spf::SpfResult::Pass);
        let about = About {
            client: client.to_string(),
            hello: arrival.hello.to_owned(),
            tls: arrival.tls,
            spf_pass,
            ..About::of(identity, arrival.transaction)
        };
        self.hook.ask(config, &about, &mut checked).await?;
        let Checked {
            mut content,
            new_body,
            mut held,
            discarded,
        } = checked;
        if let Some(Standing::Blocked(listing)) = arrival.standing {
            match config.dnslists.listed {
                // What is here all the same is for an address that everybody may write to.
                Spam::Refuse => {}
                Spam::Hold => {
                    let reason = format!("the client {client} is listed");
                    held.push(Held::quarantine(&format!("list {}", listing.zone), &reason));
                }
                Spam::Tag => {
                    let tag = format!("{}: Yes\r\n", config.milter.spam_header.as_str());
                    content.head = [tag.as_bytes(), &content.head].concat().into();
                }
            }
            tracing::info!(target: "session", id = %arrival.id, zone = listing.zone, %client, "the client is listed");
        }
        arrival.content = content;
        if let Some(body) = &new_body {
            // The seal is about what goes on; its place is made later.
            arrival.eight_bit = !body.is_ascii();
            arrival.content.body = Body::Memory(body.clone());
        }
        let head = arrival.content.head.clone();
        let fields = headers::fields(&head).map_err(|_| replies::BAD_HEADER)?;
        let mut envelope = super::envelope(
            arrival.transaction,
            arrival.targets,
            &head,
            arrival.eight_bit,
            arrival.at,
        );
        let forwarder = arrival
            .transaction
            .recipients
            .iter()
            .zip(arrival.targets)
            .find(|(_, targets)| targets.iter().any(|target| identity.leaves(target)))
            .map(|(rcpt, _)| &rcpt.to);
        if let Some(forwarder) = forwarder {
            envelope.forwarded_as = self.rewritten(
                config,
                identity,
                from,
                forwarder,
                verdicts
                    .as_ref()
                    .is_some_and(|verdicts| verdicts.dmarc.dkim_aligned),
                arrival.at,
            );
        }
        let head = marked(
            config,
            &fields,
            &arrival,
            verdicts.as_ref(),
            forwarder,
            &envelope,
        );
        let content = Content {
            head,
            body: arrival.content.body.clone(),
        };
        let seal = match (forwarder, &verdicts) {
            (Some(forwarder), Some(verdicts)) if config.forwarding.seal => {
                let state = match verdicts.arc.result {
                    ArcResult::None => Some(ChainState::None),
                    ArcResult::Pass => Some(ChainState::Pass),
                    ArcResult::Fail => Some(ChainState::Fail),
                    // The next hop can still find out; a wrong word of ours would end the chain.
                    ArcResult::TempError => None,
                };
                state.map(|state| Seal {
                    domain: forwarder.domain().to_owned(),
                    content: content.clone(),
                    replaces: None,
                    state,
                    results: format!("{};\r\n\t{}", config.hostname, results::results(verdicts)),
                    now: arrival.at / 1000,
                })
            }
            _ => None,
        };
        if discarded {
            envelope.recipients.clear();
        }
        Ok(Passed {
            envelope,
            content,
            new_body,
            held,
            verified: verdicts.is_some_and(|verdicts| verdicts.is_verified()),
            seal,
        })
    }

    /// The reverse-path under which a message leaves us, where it is not its own. `signed`: a
    /// signature of its author's domain is right.
    pub(super) fn rewritten(
        &self,
        config: &Config,
        identity: &Identity,
        from: Option<&Address>,
        forwarder: &Address,
        signed: bool,
        at: Millis,
    ) -> Option<String> {
        let from = from.filter(|from| identity.domain(from.domain()).is_none())?;
        let wanted = match config.forwarding.rewrite {
            Rewrite::Always => true,
            Rewrite::WithoutDkim => !signed,
            Rewrite::Never => false,
        };
        let ours = match config.forwarding.srs_domain.as_str() {
            "" => forwarder.domain(),
            domain => domain,
        };
        let rewritten = wanted.then(|| self.srs.rewrite(from, ours, at / 1000 / DAY));
        rewritten.filter(|rewritten| rewritten != from.as_str())
    }
}

/// One From with at least one author (RFC 5322 section 3.6.2): whoever judges a message and
/// whoever shows it must see the same one.
fn check_author(fields: &[Field<'_>]) -> Result<(), Reply> {
    let from = fields.iter().filter(|field| field.is("From")).count();
    if from != 1 || author_domains(fields).is_empty() {
        return Err(replies::NO_AUTHOR);
    }
    Ok(())
}

/// The header block with our fields on top and none that claims to be ours.
fn marked(
    config: &Config,
    fields: &[Field<'_>],
    arrival: &Arrival<'_>,
    verdicts: Option<&Verdicts>,
    forwarder: Option<&Address>,
    envelope: &Envelope,
) -> Bytes {
    let hostname = &config.hostname;
    let mut head = Vec::with_capacity(arrival.content.head.len() + 1024);
    if let Some(verdicts) = verdicts {
        head.extend_from_slice(results::field(hostname, verdicts).as_bytes());
        if config.incoming.received_spf {
            head.extend_from_slice(results::received_spf(hostname, verdicts).as_bytes());
        }
    }
    if let (Some(_), [only]) = (forwarder, arrival.transaction.recipients.as_slice()) {
        // With several recipients it would tell one of the others (Bcc).
        head.extend_from_slice(format!("Delivered-To: {}\r\n", only.to).as_bytes());
        if let (true, [target]) = (config.forwarding.trace_headers, &*envelope.recipients) {
            let to = &target.address;
            let trace = format!(
                "X-Forwarded-To: {to}\r\nX-Forwarded-For: {} {to}\r\n",
                only.to
            );
            head.extend_from_slice(trace.as_bytes());
        }
    }
    let mut end = 0;
    for field in fields {
        end += field.whole.len();
        if !results::is_forged(field, hostname) {
            head.extend_from_slice(field.whole);
        }
    }
    let tail = arrival.content.head.get(end..).unwrap_or_default();
    head.extend_from_slice(tail);
    head.into()
}

/// An address that says nothing about who the client is.
pub fn is_private(client: IpAddr) -> bool {
    match client {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
