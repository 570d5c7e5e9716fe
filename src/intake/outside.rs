//! Mail from outside between its last byte and the queue: judged, marked with our verdicts, and
//! made ready to be forwarded.
//!
//! Receives a message with its envelope and where its recipients lead; gives what goes to the
//! queue, and what the signer is to seal. Bytes below our own fields are never changed (I12), but
//! for forged verdicts in our name, which are taken out.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use chapar_base::net::is_private;
use hickory_resolver::TokioResolver;
use queue_schema::{Envelope, Millis, QueueId};

use super::hooks::post_data::{About, PostData};
use super::hooks::{Checked, Filters};
use super::policy;
use super::reputation::Standing;
use super::srs::returns::Returns;
use super::{Received, results, spoof, srs};
use crate::config::{Config, Dmarc, Hooks, Rewrite, SeveralAuthors, Spam};
use crate::identity::Identity;
use crate::identity::Policy;
use crate::message::headers::{self, Field};
use crate::message::{Body, Content};
use crate::queue::Held;
use crate::signing::Seal;
use crate::signing::arc::ChainState;
use crate::smtp::address::Address;
use crate::smtp::params::Rcpt;
use crate::smtp::replies::{self, Reply};
use crate::smtp::server::Transaction;
use crate::tally::Tally;
use crate::verify::arc::ArcResult;
use crate::verify::dmarc::{self, DmarcResult};
use crate::verify::spf::SpfResult;
use crate::verify::{self, Question, Verdicts};

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
    /// What goes above our trace (RFC 7208 section 9.1).
    pub above: String,
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
    returns: Arc<Returns>,
    /// Asks the post-data hook, also about mail of users.
    pub hook: PostData,
}

impl Outside {
    /// With the keys of SRS.
    pub fn new(srs: srs::Keys, hooks: &Hooks) -> Outside {
        let hook = PostData::new(hooks);
        let returns = Arc::default();
        Outside { srs, returns, hook }
    }

    /// The same, with what is remembered of rewritten reverse-paths.
    pub fn remembering(self, returns: Arc<Returns>) -> Outside {
        Outside { returns, ..self }
    }

    /// What is remembered of rewritten reverse-paths.
    pub fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// Where a rewritten reverse-path leads back to, for mail from `from`. `None`: the address has
    /// not the form of one, or its domain is none of ours.
    pub fn bounce(
        &self,
        config: &Config,
        identity: &Identity,
        from: Option<&Address>,
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
        let day = at / 1000 / DAY;
        let short = |key: &str| self.returns.sender(key);
        let sender = self.srs.reverse(to, day, valid.min(srs::MOST_DAYS), &short);
        Some(match sender {
            // Whoever learns of the address could else send anything to its owner through us.
            Some(_) if config.forwarding.bounces_only && from.is_some() => {
                Err(replies::BOUNCES_ONLY)
            }
            Some(_)
                if !self
                    .returns
                    .count(to.as_str(), day, config.forwarding.bounces) =>
            {
                Err(replies::TOO_MANY_RETURNS)
            }
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
                author: None,
                id: arrival.id,
                at: arrival.at,
            },
        )?;
        let authors = authors(config, &fields)?;
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
        let forwarder = arrival
            .transaction
            .recipients
            .iter()
            .zip(arrival.targets)
            .find(|(_, targets)| targets.iter().any(|target| identity.leaves(target)))
            .map(|(rcpt, _)| &rcpt.to);
        let spoofs = match &verdicts {
            Some(verdicts) => {
                let ours = forwarder.map(|forwarder| envelope_domain(config, forwarder));
                spoof::judge(config, identity, resolver, ours, &authors, verdicts).await?
            }
            None => false,
        };
        let tags_before = tags(config, &fields);
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
        if spoofs {
            let reason = "its author is of a domain of ours, which nothing proves";
            held.push(Held::quarantine("incoming.own_domains", reason));
        }
        let mut suspect = verdicts.as_ref().is_some_and(|verdicts| {
            let ignores = |rcpt: &Rcpt| {
                let domain = identity.domain(rcpt.to.domain());
                let policy = domain.map_or(config.incoming.dmarc, |domain| {
                    domain.policy(&config.incoming).dmarc
                });
                policy == Dmarc::Ignore
            };
            verdicts.dmarc.result == DmarcResult::Fail
                && verdicts.dmarc.policy >= dmarc::Policy::Quarantine
                && !arrival.transaction.recipients.iter().all(ignores)
        });
        let tagged = {
            let fields = headers::fields(&content.head).map_err(|_| replies::BAD_HEADER)?;
            tags(config, &fields) > tags_before
        };
        suspect |= tagged;
        if suspect && forwarder.is_some() && !discarded {
            match config.forwarding.suspect {
                Spam::Refuse => return Err(replies::NOT_FORWARDED),
                Spam::Hold => {
                    let reason = "it may be forged or spam, and would be forwarded";
                    held.push(Held::quarantine("forwarding.suspect", reason));
                }
                Spam::Tag if tagged => {}
                Spam::Tag => {
                    let tag = format!("{}: Yes\r\n", config.milter.spam_header.as_str());
                    content.head = [tag.as_bytes(), &content.head].concat().into();
                }
            }
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
        if let Some(forwarder) = forwarder {
            envelope.forwarded_as = self
                .leaves_as(
                    config,
                    identity,
                    from,
                    forwarder,
                    verdicts.as_ref(),
                    arrival.at,
                )
                .await?;
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
        let utf8 = envelope.smtputf8;
        let above = match &verdicts {
            Some(verdicts) if config.incoming.received_spf => {
                results::received_spf(&config.hostname, verdicts, utf8)
            }
            _ => String::new(),
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
                    results: format!(
                        "{};\r\n\t{}",
                        config.hostname,
                        results::results(verdicts, utf8)
                    ),
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
            above,
            new_body,
            held,
            verified: verdicts.is_some_and(|verdicts| verdicts.is_verified()),
            seal,
        })
    }

    /// The reverse-path under which a message leaves us, where it is not its own; what has to be
    /// remembered of it is on disk.
    async fn leaves_as(
        &self,
        config: &Config,
        identity: &Identity,
        from: Option<&Address>,
        forwarder: &Address,
        verdicts: Option<&Verdicts>,
        at: Millis,
    ) -> Result<Option<String>, Reply> {
        let Some(from) = from else { return Ok(None) };
        let failed = verdicts.is_some_and(|verdicts| {
            matches!(verdicts.spf.result, SpfResult::Fail | SpfResult::SoftFail)
                && !verdicts.is_verified()
        });
        let signed = verdicts.is_some_and(|verdicts| verdicts.dmarc.dkim_aligned);
        if failed && is_rewritten(config, signed) {
            // Who did not send it deserves no bounce (I11), and a stranger no address of ours.
            return Ok(Some(String::new()));
        }
        let rewritten = self.rewritten(config, identity, Some(from), forwarder, signed, at);
        let Some(rewritten) = rewritten else {
            return Ok(None);
        };
        if let Some(key) = rewritten.short {
            let (returns, sender) = (self.returns.clone(), from.to_string());
            let work = move || returns.remember(&key, &sender, at / 1000 / DAY);
            let done = tokio::task::spawn_blocking(work).await;
            let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            done.map_err(|error| {
                tracing::error!(target: "session", %error, "a rewritten sender can not be remembered");
                replies::QUEUE_FAILED
            })?;
        }
        Ok(Some(rewritten.address))
    }

    /// The reverse-path under which a message leaves us, where it is not its own. `signed`: a
    /// signature of its author's domain is right.
    fn rewritten(
        &self,
        config: &Config,
        identity: &Identity,
        from: Option<&Address>,
        forwarder: &Address,
        signed: bool,
        at: Millis,
    ) -> Option<srs::Rewritten> {
        let from = from.filter(|from| identity.domain(from.domain()).is_none())?;
        let ours = envelope_domain(config, forwarder);
        is_rewritten(config, signed).then(|| self.srs.rewrite(from, ours, at / 1000 / DAY))
    }

    /// The same for mail that is sent on later; what has to be remembered is on disk. Blocks for
    /// that, in the rare case. `None` where it can not be remembered.
    pub(super) fn rewritten_now(
        &self,
        config: &Config,
        identity: &Identity,
        from: Option<&Address>,
        forwarder: &Address,
        signed: bool,
        at: Millis,
    ) -> Option<String> {
        let rewritten = self.rewritten(config, identity, from, forwarder, signed, at)?;
        if let Some(key) = &rewritten.short {
            let sender = from?.as_str();
            let done = self.returns.remember(key, sender, at / 1000 / DAY);
            done.inspect_err(|error| {
                tracing::error!(target: "session", %error, "a rewritten sender can not be remembered");
            })
            .ok()?;
        }
        Some(rewritten.address)
    }
}

/// Whether reverse-paths of others become ours. `signed`: a signature of the author's domain is right.
fn is_rewritten(config: &Config, signed: bool) -> bool {
    match config.forwarding.rewrite {
        Rewrite::Always => true,
        Rewrite::WithoutDkim => !signed,
        Rewrite::Never => false,
    }
}

/// The domain of the reverse-path under which mail for `forwarder` leaves.
fn envelope_domain<'a>(config: &'a Config, forwarder: &'a Address) -> &'a str {
    match config.forwarding.srs_domain.as_str() {
        "" => forwarder.domain(),
        domain => domain,
    }
}

/// How many fields say that the message is spam.
fn tags(config: &Config, fields: &[Field<'_>]) -> usize {
    let says = |field: &&Field<'_>| {
        let word = field.value.trim_ascii_start().get(..3);
        field.is(config.milter.spam_header.as_str())
            && word.is_some_and(|word| word.eq_ignore_ascii_case(b"yes"))
    };
    fields.iter().filter(says).count()
}

/// The authors of a message: one From (RFC 5322 section 3.6.2) with one readable author, or as many
/// as may be. Whoever judges a message and whoever shows it must see the same one.
fn authors(config: &Config, fields: &[Field<'_>]) -> Result<Vec<Address>, Reply> {
    if fields.iter().filter(|field| field.is("From")).count() != 1 {
        return Err(replies::NO_AUTHOR);
    }
    let authors = verify::authors(fields).map_err(|_| replies::UNREADABLE_AUTHOR)?;
    match (authors.as_slice(), config.incoming.several_authors) {
        ([], _) => Err(replies::NO_AUTHOR),
        ([_, _, ..], SeveralAuthors::Reject) => Err(replies::SEVERAL_AUTHORS),
        _ => Ok(authors),
    }
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
        let field = results::field(hostname, verdicts, envelope.smtputf8);
        head.extend_from_slice(field.as_bytes());
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

#[cfg(test)]
mod tests;
