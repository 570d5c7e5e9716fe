//! How a connection gets its session: the hosts of the destination one after the other, each under
//! what the message and its domain demand.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Common, Connection};
use super::password::login;
use super::promise::{Promise, Terms};
use super::reach::{self, Distrust, Lesson, Target};
use super::results::Results;
use super::security;
use super::session::{Failure, Security, Session, Unopened};
use super::verdict::Verdict;
use super::worker::{Connected, Learned};
use crate::queue::Outcome;
use crate::smtp::client::{Answer, Loss, Said};
use crate::tls::client::Problem;

/// Why there is no session.
pub(super) struct Unreached {
    pub(super) verdict: Verdict,
    /// The host whose reply that is; empty where none spoke.
    pub(super) remote: String,
    /// Whether it is about what this message or its domain demands: others may get through.
    pub(super) own: bool,
    /// The host is this one: the others, which are no better, would bring it back.
    loops: bool,
    /// Every host there is had its chance before.
    pub(super) nobody_left: bool,
}

impl From<Verdict> for Unreached {
    fn from(verdict: Verdict) -> Self {
        Unreached {
            verdict,
            remote: String::new(),
            own: false,
            loops: false,
            nobody_left: false,
        }
    }
}

impl Unreached {
    /// There is nobody to ask who was not asked before.
    pub(super) fn nobody_left() -> Unreached {
        Unreached {
            nobody_left: true,
            ..Verdict::deferred(451, "4.4.1", "no address could be tried").into()
        }
    }
}

impl Connection {
    /// Opens a session with the first host that takes one and keeps the promise; a `strict` one is
    /// over TLS with proof.
    pub(super) async fn open(
        &mut self,
        strict: bool,
        promise: &Promise,
        tried: &[IpAddr],
    ) -> Result<Session, Unreached> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(super::draining().into()),
            opened = self.open_any(strict, promise, tried) => opened,
        }
    }

    /// `tried`: hosts that had their chance.
    async fn open_any(
        &mut self,
        strict: bool,
        promise: &Promise,
        tried: &[IpAddr],
    ) -> Result<Session, Unreached> {
        let common = Arc::clone(&self.common);
        let mut last: Option<Unreached> = None;
        for target in self.untried(tried).await? {
            let opened = self.open_one(&common, &target, strict, promise).await;
            let unreached = match opened {
                Ok(session) => {
                    self.learn(target.address.ip(), Lesson::Reachable).await;
                    let _ = self.worker.send(Connected(self.id)).await;
                    return Ok(session);
                }
                Err(unreached) => unreached,
            };
            tracing::debug!(
                host = target.remote(), reply = %unreached.verdict.reply, "no session"
            );
            // Only if every host says 5xx is it for good: one that may yet take it decides. And
            // only if no host could be reached at all is it the destination's trouble.
            let failed = unreached.verdict.outcome == Outcome::Failed;
            let keep = |before: &Unreached| {
                (failed && before.verdict.outcome != Outcome::Failed)
                    || (before.own && !unreached.own)
            };
            let loops = unreached.loops;
            if !last.as_ref().is_some_and(keep) {
                last = Some(unreached);
            }
            if loops {
                break;
            }
        }
        Err(last.unwrap_or_else(Unreached::nobody_left))
    }

    /// The addresses that had no chance yet, best first.
    async fn untried(&self, tried: &[IpAddr]) -> Result<Vec<Target>, Verdict> {
        let common = &self.common;
        let found = reach::targets(
            &self.destination,
            &common.resolver,
            &common.reach,
            &self.memory,
        );
        let mut targets = found.await?;
        targets.retain(|target| !tried.contains(&target.address.ip()));
        Ok(targets)
    }

    /// Whether another host may be asked, or that can not be found out now.
    pub(super) async fn has_untried(&self, tried: &[IpAddr]) -> bool {
        !self
            .untried(tried)
            .await
            .is_ok_and(|targets| targets.is_empty())
    }

    /// Opens a session with one host.
    async fn open_one(
        &mut self,
        common: &Common,
        target: &Target,
        strict: bool,
        promise: &Promise,
    ) -> Result<Session, Unreached> {
        let address = target.address.ip();
        let may_use_tls = self.memory.may_use_tls(address, Instant::now());
        let own = |verdict: Verdict| Unreached {
            own: true,
            ..Unreached::from(verdict)
        };
        let plan = security::plan(common.into(), target, strict, promise, may_use_tls).await;
        let results = Results {
            common,
            target,
            promise,
        };
        let security = plan.map_err(|verdict| {
            results.refused(&verdict);
            own(verdict)
        })?;
        let demand = security::demand(&security);
        let known = |demand: &String| self.memory.distrust(address, demand, Instant::now());
        if let Some(distrust) = demand.as_ref().and_then(known) {
            return Err(Unreached {
                own: distrust.own,
                ..Unreached::from(distrust.verdict.clone())
            });
        }
        let login = login(&common.config, target).await?;
        let mut opened = Session::open(target, &common.config, &security, login).await;
        let mut broken = None;
        // Clear text is what opportunistic TLS falls back to (RFC 7435 section 4).
        if let Err(Unopened {
            failure: Failure::Handshake,
            answer,
            ..
        }) = &opened
            && security.is_optional()
        {
            tracing::warn!(
                host = %target.remote(),
                error = %answer_text(answer),
                "TLS handshake failed; this host is spoken to in clear for a while"
            );
            broken = Some(answer_text(answer));
            self.learn(address, Lesson::NoTls).await;
            opened = Session::open(target, &common.config, &Security::clear(), None).await;
        }
        let Unopened {
            answer, failure, ..
        } = match opened {
            Ok(mut session) => {
                // In clear because of an earlier failure: that one was counted.
                if may_use_tls || !security.is_optional() {
                    results.opened(&security, &session, broken);
                }
                if !self.memory.may_use_chunks(address, Instant::now()) {
                    session.client().avoid_chunks();
                }
                session.terms = Some(Terms {
                    host: target.host.clone(),
                    rule: promise.rule,
                    dane: promise.dnssec,
                    proof: session.proof,
                });
                return Ok(session);
            }
            Err(unopened) => {
                results.unopened(&security, &unopened, &answer_text(&unopened.answer));
                unopened
            }
        };
        let mut remote = target.remote();
        let ruled = target.hop.is_none() || promise.rule.is_some();
        let demanded = ruled && !security.is_optional();
        let mut verdict = match &failure {
            Failure::Untrusted(Problem { text: reason, .. }) if strict => {
                let text = format!("{remote}: the sender requires verified TLS: {reason}");
                Verdict::failed(550, "5.7.30", &text)
            }
            Failure::Untrusted(Problem { text: reason, .. }) if demanded => {
                let who = &security.why;
                let text = format!("{remote}: no verified TLS: {reason}; {who}");
                Verdict::deferred(451, "4.7.5", &text)
            }
            Failure::Untrusted(Problem { text: reason, .. }) => {
                let text = format!("{remote}: TLS could not be verified: {reason}");
                Verdict::deferred(451, "4.7.5", &text)
            }
            Failure::Handshake if demanded => {
                let who = &security.why;
                let reason = answer_text(&answer);
                let text = format!("{remote}: the TLS handshake failed: {reason}; {who}");
                Verdict::deferred(451, "4.7.5", &text)
            }
            Failure::Handshake | Failure::Other => {
                let (verdict, ruled) = self.judge(&answer, true);
                self.ruled(ruled).await;
                verdict
            }
        };
        if verdict.outcome != Outcome::Failed && failure == Failure::Other {
            self.learn(address, Lesson::Unreachable).await;
        }
        let about_tls = failure != Failure::Other;
        if about_tls && (demanded || strict || failure != Failure::Handshake) {
            remote.clear();
        } else if matches!(answer.said, Said::Nothing(_)) {
            verdict.reply.text = format!("{remote}: {}", verdict.reply.text);
            remote.clear();
        }
        let own = about_tls && demanded;
        if let Some(demand) = demand.filter(|_| about_tls) {
            let distrust = Distrust {
                demand,
                own,
                verdict: verdict.clone(),
            };
            self.learn(address, Lesson::Distrusted(Arc::new(distrust)))
                .await;
        }
        Err(Unreached {
            verdict,
            remote,
            own,
            loops: answer.said == Said::Nothing(Loss::Ourselves),
            nobody_left: false,
        })
    }

    /// Something about a host, for this connection and those that come after it.
    pub(super) async fn learn(&mut self, address: IpAddr, lesson: Lesson) {
        self.memory.learn(address, lesson.clone(), Instant::now());
        let _ = self.worker.send(Learned { address, lesson }).await;
    }
}

fn answer_text(answer: &Answer) -> String {
    match &answer.said {
        Said::Reply(reply) => reply.to_string(),
        Said::Nothing(loss) => loss.to_string(),
    }
}
