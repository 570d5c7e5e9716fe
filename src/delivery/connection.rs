//! The task behind one connection of a worker: takes a part, sees to it that a host is connected,
//! runs the transaction, reports, and asks for the next.
//!
//! A connection that the peer closed between two messages costs no attempt: the part goes out over
//! a new one. A part whose destination can not be reached goes back to the worker, which knows
//! whether that is news.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Addr, Recipient};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_rustls::TlsConnector;

use super::again::{self, Again, Held};
use super::dispatcher::Dispatcher;
use super::opening::Unreached;
use super::paces::Standing;
use super::pending::Pending;
use super::promise::waives;
use super::reach::{Destination, HostMemory, Lesson, Reach};
use super::session::Session;
use super::seven_bit::SevenBit;
use super::stops::Stops;
use super::tally::Tally;
use super::verdict::{self, Verdict};
use super::worker::{Ended, Grade, Next, Unreachable, Worker};
use crate::config::Config;
use crate::dns::Resolver;
use crate::message::Content;
use crate::queue::{Fetch, Outcome};
use crate::smtp::client::{Answer, Loss, Mail, Refusal, Said, Stage};
use crate::smtp::reply::Reply;
use crate::time;
use crate::tls::client::Judge;
use crate::tls::sts::Policies;
use queue_schema::{BodyKind, Origin};

/// A connection is not used for longer than this, so that none lives forever on one host of many.
const OLDEST: Duration = Duration::from_secs(300);

/// What every connection of every worker needs; none of it changes.
pub(super) struct Common {
    pub(super) config: Arc<Config>,
    pub(super) resolver: Resolver,
    pub(super) reach: Reach,
    pub(super) tls: Option<TlsConnector>,
    /// TLS that asks for proof; `None` where this machine trusts no certificate.
    pub(super) verified: Option<TlsConnector>,
    pub(super) fetch: Recipient<Fetch>,
    /// For hops without 8BITMIME.
    pub(super) seven_bit: SevenBit,
    /// Counts what became of TLS sessions.
    pub(super) tally: Arc<OnceLock<Recipient<Tally>>>,
    /// Judges certificates that nobody demands to be good.
    pub(super) judge: Option<Judge>,
    /// Knows the MTA-STS policies of domains.
    pub(super) policies: Addr<Policies>,
    /// What operators suspended.
    pub(super) stops: Stops,
    /// Connections to all destinations together.
    pub(super) connections: Arc<Semaphore>,
    /// Since when this holds: who delivered what arrived before, and how far, nobody may know.
    pub(super) since: time::Millis,
}

/// One connection, from the worker's order to open it to its end.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) common: Arc<Common>,
    pub(super) destination: Arc<Destination>,
    pub(super) worker: Addr<Worker>,
    pub(super) memory: HostMemory,
    /// Records that the queue has not answered yet, of this worker.
    pub(super) records: Arc<Semaphore>,
    /// Becomes true when no new attempt may begin.
    pub(super) stop: watch::Receiver<bool>,
    /// What holds for the destination.
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) dispatcher: Addr<Dispatcher>,
}

/// Tells the worker that a connection is gone, however it went.
struct Farewell(u64, Addr<Worker>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Sent at most once in the life of a connection, from where nothing can be awaited.
        self.1.do_send(Ended(self.0));
    }
}

/// What became of a part.
enum Sent {
    /// It was reported.
    Reported(Grade),
    /// The connection had ended before the first word about it.
    Untouched,
    /// What is left of it is tried again at once.
    Again(Again, Held),
}

impl Connection {
    /// Works until there is nothing more to do, or the worker says so by its silence.
    pub(super) async fn run(mut self) {
        let _farewell = Farewell(self.id, self.worker.clone());
        let mut place = self.place().await;
        let Ok(_permit) = Arc::clone(&self.common.connections).acquire_owned().await else {
            return;
        };
        let mut session = None;
        let mut grade = None;
        let mut sent = 0;
        // What is left of an attempt, and the sessions it had.
        let mut rest: Vec<(Pending, usize)> = Vec::new();
        loop {
            let (part, mut sessions) = match rest.pop() {
                Some(left) => left,
                None => match self.next(&mut session, grade.take()).await {
                    Some(part) => (part, 0),
                    None => break,
                },
            };
            let Some(mut part) = self.turn(part, &mut session).await else {
                continue;
            };
            sent += 1;
            if self.destination.local.is_some() {
                grade = Some(self.deliver_here(part).await);
                continue;
            }
            let strict = part.message.envelope.require_tls;
            let mut promise = Arc::clone(&part.promise);
            if !strict && promise.may_demand() && self.waives(&mut part).await {
                promise = Arc::new(promise.waived());
            }
            let fits = |open: &Session| {
                (open.is_proven() || !strict)
                    && open.terms.as_ref().is_none_or(|t| t.keep(&promise))
            };
            if strict && !self.destination.proven && !promise.proves_hosts() {
                let permit = self.permit().await;
                let record = part.settle_all(&unproven_hosts(), "", "");
                part.reporter().send(record, permit);
                continue;
            }
            // What was said last about what is tried again, and by whom.
            let mut held: Option<Held> = None;
            let mut tried = Vec::new();
            loop {
                if let Some(unproven) = session.take_if(|open| !fits(open)) {
                    unproven.quit().await;
                }
                let (mut open, kept) = match session.take() {
                    Some(open) => (open, true),
                    None => match self.open(strict, &promise, &tried).await {
                        Ok(open) => (open, false),
                        Err(unreached) if let Some(said) = held.take() => {
                            grade = Some(self.give_up(&mut part, said, unreached).await);
                            break;
                        }
                        Err(unreached) if unreached.own => {
                            let permit = self.permit().await;
                            let Unreached {
                                verdict, remote, ..
                            } = unreached;
                            let record = part.settle_all(&verdict, &remote, "");
                            part.reporter().send(record, permit);
                            break;
                        }
                        Err(Unreached {
                            verdict, remote, ..
                        }) => {
                            for (left, _) in rest.drain(..) {
                                let wait = self.common.config.retry.first.0;
                                let later = Verdict::postponed(wait, verdict.reply.clone());
                                left.reporter().clone().send_one(left, &later, &remote);
                            }
                            // If the worker is gone, dropping the part reports it.
                            let unreachable = Unreachable {
                                id: self.id,
                                part,
                                verdict,
                                remote,
                            };
                            let _ = self.worker.send(unreachable).await;
                            return;
                        }
                    },
                };
                if kept && !open.is_quiet().await {
                    continue;
                }
                // It may have been suspended while the connection was opened.
                self.common.stops.apply(&mut part, &self.destination);
                if part.recipients().is_empty() {
                    match open.is_ready() {
                        true => session = Some(open),
                        false => open.quit().await,
                    }
                    break;
                }
                match self.deliver(&mut open, kept, &mut part, sessions).await {
                    Sent::Untouched => continue,
                    Sent::Reported(reported) => grade = Some(reported),
                    Sent::Again(again, said) => {
                        match again {
                            // What a host said that may take it later, or a better one, counts.
                            Again::Lacking => held = Some(held.take().unwrap_or(said)),
                            _ => held = Some(said),
                        }
                        match again {
                            Again::Here => {
                                let more = sent < self.standing.borrow().messages;
                                sent += 1;
                                match more && open.is_ready() {
                                    true => session = Some(open),
                                    false => open.quit().await,
                                }
                            }
                            Again::Elsewhere => {
                                tried.push(open.address);
                                sessions += 1;
                                // The next message asks another one first.
                                if !open.is_ready() {
                                    self.learn(open.address, Lesson::Unreachable).await;
                                }
                                open.quit().await;
                            }
                            Again::Lacking => {
                                tried.push(open.address);
                                if self.has_untried(&tried).await {
                                    open.quit().await;
                                    continue;
                                }
                                // The session stays good for what it can take.
                                if let Some(said) = held.take() {
                                    let nobody = Unreached::nobody_left();
                                    let given = self.give_up(&mut part, said, nobody).await;
                                    grade = Some(given);
                                }
                                session = self.kept(open, sent).await;
                                break;
                            }
                            Again::Fewer(most) => {
                                let first = part.recipients().iter().take(most);
                                let fewer = part.split(first.copied().collect());
                                sessions += 1;
                                rest.push((std::mem::replace(&mut part, fewer), sessions));
                            }
                        }
                        continue;
                    }
                }
                session = self.kept(open, sent).await;
                break;
            }
            if session.is_none() {
                // Destinations of one provider share its places: to the end of the line.
                sent = 0;
                drop(place.take());
                place = self.place().await;
            }
        }
        if let Some(session) = session {
            session.quit().await;
        }
    }

    /// The session for the next message, if this one may carry one more.
    async fn kept(&self, mut open: Session, sent: usize) -> Option<Session> {
        // Some take so many messages in a connection and no more.
        let more = sent < self.standing.borrow().messages;
        match more && open.age() < OLDEST {
            true if open.is_ready() => return Some(open),
            true => {}
            false => open.quit().await,
        }
        None
    }

    /// The next part, or `None` when this connection is to end.
    async fn next(&self, session: &mut Option<Session>, last: Option<Grade>) -> Option<Pending> {
        let (sender, mut receiver) = oneshot::channel();
        let next = Next {
            id: self.id,
            last,
            open: session.is_some(),
            sender,
        };
        self.worker.send(next).await.ok()?;
        match receiver.try_recv() {
            Ok(part) => return Some(part),
            Err(oneshot::error::TryRecvError::Closed) => return None,
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        // Without a session there is nothing to keep for later; nor may it keep others out.
        let crowded = |places: &Arc<Semaphore>| places.available_permits() == 0;
        let crowded = self.standing.borrow().places.as_ref().is_some_and(crowded);
        if let Some(open) = session
            && !crowded
        {
            tokio::select! {
                biased;
                part = &mut receiver => return part.ok(),
                () = open.broken() => *session = None,
                () = tokio::time::sleep(self.common.config.delivery.keep_idle.0) => {}
            }
        }
        // The worker may have sent a part in this very moment; once closed, it can not any more.
        receiver.close();
        receiver.try_recv().ok()
    }

    /// Sends a part over an open session and reports what became of each recipient. A session that
    /// was kept from before may have ended unnoticed.
    async fn deliver(
        &mut self,
        session: &mut Session,
        kept: bool,
        part: &mut Pending,
        sessions: usize,
    ) -> Sent {
        let message = Arc::clone(&part.message);
        let original = match self.content(part).await {
            Ok(content) => content,
            Err(verdict) => return self.settle(session, part, verdict).await,
        };
        let content = original.clone().under(&message.top);
        let mut eight_bit = message.envelope.body == BodyKind::EightBit;
        let offered = session.client().extensions().eight_bit;
        let (content, _encoded) = match eight_bit && !offered && !message.envelope.smtputf8 {
            true => match self.common.seven_bit.encode(&message, content).await {
                Ok(encoded) => {
                    eight_bit = false;
                    (encoded.content.clone(), Some(encoded))
                }
                Err(verdict) => return self.lacks(session, part, original, verdict).await,
            },
            false => (content, None),
        };
        let mail = Mail {
            reverse_path: message.envelope.mail_from(),
            size: content.len(),
            eight_bit,
            smtputf8: message.envelope.smtputf8,
            require_tls: message.envelope.require_tls,
            ret: message.envelope.ret,
            envid: message.envelope.envid.as_deref(),
            priority: message.envelope.priority,
            deliver_by: message.envelope.deliver_by.map(|by| {
                let left = i128::from(by.at) - i128::from(time::now());
                let seconds = i64::try_from(left / 1000).unwrap_or(i64::MAX);
                (seconds, by.give_up)
            }),
        };
        let recipients = part.recipients().iter().map(|at| part.to(*at));
        if let Err(refusal) = session.client().begin(&mail, recipients) {
            let verdict = verdict::judge_refusal(&refusal);
            return match refusal {
                Refusal::Address => self.settle(session, part, verdict).await,
                _ => self.lacks(session, part, original, verdict).await,
            };
        }
        // A server that answers each recipient by itself (LMTP) may take long over many: what it took
        // is reported as it says so.
        let all = part.recipients().to_vec();
        let (remote, tls) = (session.remote.clone(), session.tls.clone());
        let notifies = session.client().extensions().dsn;
        let mut reported = Vec::new();
        let told = |at: usize, answer: &Answer| {
            let verdict = verdict::judge(answer);
            if verdict.outcome == Outcome::Delivered
                && let Some(recipient) = all.get(at)
            {
                let mut record = part
                    .split(vec![*recipient])
                    .settle_all(&verdict, &remote, &tls);
                record
                    .attempts
                    .iter_mut()
                    .for_each(|attempt| attempt.notifies = notifies);
                part.reporter().send(record, None);
                reported.push(at);
            }
        };
        let finished = session
            .transact(&content, &self.common.config.timeouts, told)
            .await;
        if session.client().is_chunked()
            && (finished.no_chunks || finished.answers.iter().any(was_lost_in_data))
        {
            // Something on the way may not bear what the server offers: the next time with DATA.
            self.learn(session.address, Lesson::NoChunks).await;
            if finished.no_chunks {
                part.content = Some(original);
                return Sent::Untouched;
            }
        }
        if kept && finished.untouched && finished.answers.iter().all(was_closed) {
            part.content = Some(original);
            return Sent::Untouched;
        }
        let mut grade = Grade::Neutral;
        let ours = !matches!(message.origin, Origin::Outside { .. });
        let mut ruled: Vec<Reply> = Vec::new();
        let verdicts: Vec<Verdict> = finished
            .answers
            .iter()
            .map(|answer| {
                let (judged, rule) = self.judge(answer, ours);
                // Said to each recipient of a transaction, it was said once.
                ruled.extend(rule.filter(|reply| !ruled.contains(reply)));
                match judged.outcome {
                    Outcome::Delivered => grade = Grade::Delivered,
                    _ if grade == Grade::Neutral && is_trouble(answer) => grade = Grade::Trouble,
                    _ => {}
                }
                judged
            })
            .collect();
        let again = again::plan(&finished, &verdicts, !ruled.is_empty(), sessions);
        let (mut last, mut held) = (Vec::new(), Vec::new());
        for (at, verdict) in verdicts.into_iter().enumerate() {
            if reported.contains(&at) {
                continue;
            }
            let is_left = again.as_ref().is_some_and(|(_, left)| left.contains(&at));
            let list = if is_left { &mut held } else { &mut last };
            list.push(verdict);
        }
        let left = again.as_ref().map(|(_, left)| {
            let left = left.iter().filter_map(|at| all.get(*at));
            let left = left.copied().collect();
            part.split(left)
        });
        if !part.recipients().is_empty() {
            let permit = self.permit().await;
            let mut record = part.settle(last.into_iter(), &session.remote, &session.tls);
            for attempt in &mut record.attempts {
                attempt.notifies = notifies;
            }
            part.reporter().send(record, permit);
        }
        self.ruled(ruled).await;
        let (Some((again, _)), Some(mut left)) = (again, left) else {
            return Sent::Reported(grade);
        };
        left.content = Some(original);
        *part = left;
        let held = Held {
            verdicts: held,
            remote: session.remote.clone(),
            tls: session.tls.clone(),
        };
        Sent::Again(again, held)
    }

    /// Whether the sender waives what the domain demands of TLS.
    async fn waives(&self, part: &mut Pending) -> bool {
        // What can not be read is told of when it is to be sent.
        part.content = self.content(part).await.ok();
        let content = part.content.as_ref();
        content.is_some_and(|content| waives(&content.head))
    }

    /// The message without what goes on top of it, so that it may be put back into its part.
    pub(super) async fn content(&self, part: &mut Pending) -> Result<Content, Verdict> {
        if let Some(content) = part.content.take() {
            return Ok(content);
        }
        let fetch = Fetch {
            id: part.message.id,
            location: part.message.location.clone(),
        };
        match self.common.fetch.send(fetch).await {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(error)) => {
                tracing::error!(id = %part.message.id, %error, "a message can not be read back");
                Err(match error.lost {
                    true => Verdict::lost(),
                    false => Verdict::deferred(451, "4.3.0", "the message can not be read now"),
                })
            }
            Err(_) => Err(Verdict::deferred(451, "4.3.0", "the queue does not answer")),
        }
    }

    /// This host can not take the message at all: another one may (RFC 6531 section 3.2 knows no more
    /// than the server that is asked).
    async fn lacks(
        &self,
        session: &Session,
        part: &mut Pending,
        original: Content,
        verdict: Verdict,
    ) -> Sent {
        if verdict.outcome != Outcome::Failed {
            return self.settle(session, part, verdict).await;
        }
        part.content = Some(original);
        let held = Held {
            verdicts: vec![verdict; part.recipients().len()],
            remote: session.remote.clone(),
            tls: session.tls.clone(),
        };
        Sent::Again(Again::Lacking, held)
    }

    /// No other host has a session: the part ends with what was said before, unless one of those
    /// may yet take it.
    async fn give_up(&self, part: &mut Pending, said: Held, unreached: Unreached) -> Grade {
        let permit = self.permit().await;
        let lacking = said
            .verdicts
            .iter()
            .all(|one| one.outcome == Outcome::Failed);
        let record = match said.is_final(&unreached) {
            true => part.settle(said.verdicts.into_iter(), &said.remote, &said.tls),
            false => part.settle_all(&unreached.verdict, &unreached.remote, ""),
        };
        part.reporter().send(record, permit);
        // That a host has no such extension is no trouble with it.
        match lacking {
            true => Grade::Neutral,
            false => Grade::Trouble,
        }
    }

    async fn settle(&self, session: &Session, part: &mut Pending, verdict: Verdict) -> Sent {
        let permit = self.permit().await;
        let record = part.settle_all(&verdict, &session.remote, &session.tls);
        part.reporter().send(record, permit);
        Sent::Reported(Grade::Neutral)
    }

    /// Waits until the queue has answered enough of this worker's records.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // It is closed never.
        Arc::clone(&self.records).acquire_owned().await.ok()
    }
}

/// RFC 8689 section 4.2.1 item 2: that a host is who it says proves nothing if anyone could have
/// slipped its name into DNS.
fn unproven_hosts() -> Verdict {
    let text = "the sender requires verified TLS (REQUIRETLS), and the MX records of the domain \
                are proven by neither DNSSEC nor MTA-STS";
    Verdict::failed(550, "5.7.30", text)
}

/// Whether an answer only says that the connection had ended.
fn was_closed(answer: &Answer) -> bool {
    match &answer.said {
        Said::Reply(reply) => reply.code == 421 || answer.stage == Stage::Reset,
        Said::Nothing(loss) => matches!(loss, Loss::Closed | Loss::Network(_)),
    }
}

/// Whether a connection was lost while a message was on its way, or its reply.
fn was_lost_in_data(answer: &Answer) -> bool {
    matches!(answer.stage, Stage::Content | Stage::FinalDot)
        && matches!(answer.said, Said::Nothing(_))
}

/// Whether an answer says that this destination has enough of us for now.
fn is_trouble(answer: &Answer) -> bool {
    match &answer.said {
        Said::Reply(reply) => reply.code == 421,
        Said::Nothing(_) => true,
    }
}
