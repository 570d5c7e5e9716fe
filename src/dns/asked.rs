//! Questions that are asked once for all who wait, with or without validation (DNSSEC).
//!
//! `dns.dnssec = "auto"` validates as soon as the servers have shown that they hand on what that
//! takes: a signature of the root. Until then it asks again every ten minutes, so that a server that
//! strips signatures costs protection but no mail. Once validation works it is never given up
//! again while the process runs: what can not be proven then has not been answered.
//!
//! A name whose signatures are wrong is remembered for [`BOGUS`]: walking its chain again costs
//! many questions, and the answer would be the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::mended::Mending;
use crate::config::Dnssec;

/// What is said of aliases that lead nowhere.
const ENDLESS_ALIASES: &str = "its aliases (CNAME) lead in a circle or are too many";
/// How long wrong signatures are remembered.
pub const BOGUS: Duration = Duration::from_secs(60);
/// Names with wrong signatures that are remembered.
const MOST_BOGUS: usize = 4096;
/// When the servers are asked again whether they hand on signatures.
const PROBE_AGAIN: Duration = Duration::from_secs(600);
/// How long that may take.
const PROBE_TIME: Duration = Duration::from_secs(5);

type Answer = Result<Lookup, NetError>;
type Key = (Name, RecordType, bool);

/// See the module. Clones are the same one.
#[derive(Clone)]
pub(super) struct Asked(Arc<Inner>);

/// Two resolvers: one that validates and one that does not.
pub(super) struct Pair<T> {
    pub(super) plain: T,
    pub(super) validating: T,
}

impl<T> Pair<T> {
    fn of(&self, validates: bool) -> &T {
        match validates {
            true => &self.validating,
            false => &self.plain,
        }
    }
}

struct Inner {
    usual: Pair<TokioResolver>,
    /// For answers that the usual ones can not read.
    mending: Pair<Resolver<Mending>>,
    mode: Dnssec,
    works: AtomicBool,
    probed: tokio::sync::Mutex<Option<Instant>>,
    shared: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    flights: HashMap<Key, Shared<BoxFuture<'static, Answer>>>,
    bogus: HashMap<(Name, RecordType), Instant>,
}

impl Asked {
    pub(super) fn new(
        usual: Pair<TokioResolver>,
        mending: Pair<Resolver<Mending>>,
        mode: Dnssec,
    ) -> Asked {
        Asked(Arc::new(Inner {
            usual,
            mending,
            mode,
            works: AtomicBool::new(mode == Dnssec::On),
            probed: tokio::sync::Mutex::new(None),
            shared: Mutex::default(),
        }))
    }

    /// The resolver that is used now.
    pub(super) fn inner(&self) -> &TokioResolver {
        self.0.usual.of(self.0.works.load(Ordering::Acquire))
    }

    /// Whether answers are validated, found out if that is not known.
    pub(super) async fn validates(&self) -> bool {
        if self.0.mode == Dnssec::Off || self.0.works.load(Ordering::Acquire) {
            return self.0.mode != Dnssec::Off;
        }
        let mut probed = self.0.probed.lock().await;
        if self.0.works.load(Ordering::Acquire) {
            return true;
        }
        if probed.is_some_and(|at| at.elapsed() < PROBE_AGAIN) {
            return false;
        }
        let first = probed.is_none();
        let ask = &self.0.usual.validating;
        let ask = ask.lookup(Name::root(), RecordType::DNSKEY);
        let answer = tokio::time::timeout(PROBE_TIME, ask).await;
        let works =
            matches!(&answer, Ok(Ok(found)) if is_secure(found.answers(), RecordType::DNSKEY));
        *probed = Some(Instant::now());
        self.0.works.store(works, Ordering::Release);
        match works {
            true => tracing::info!(target: "dns", "answers are validated (DNSSEC)"),
            false if first => tracing::warn!(
                target: "dns",
                "the DNS servers do not hand on signatures, so nothing is validated and DANE protects nothing; \
                 use a resolver on this machine that does, such as unbound (dns.servers)"
            ),
            false => {}
        }
        works
    }

    fn shared(&self) -> MutexGuard<'_, Pending> {
        // Nothing that panics runs while it is locked.
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, or joins those who wait for the same answer.
    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Answer {
        let validates = self.validates().await;
        let key = (name.clone(), kind, validates);
        let flight = {
            let mut shared = self.shared();
            let known = shared.bogus.get(&(name.clone(), kind));
            if validates && known.is_some_and(|until| *until > Instant::now()) {
                return Err(NetError::Dns(DnsError::DnssecBogus));
            }
            match shared.flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (myself, own) = (self.clone(), key.clone());
                    // A task of its own: whoever gives up waiting takes it from nobody.
                    let task = tokio::spawn(async move {
                        let answer = myself.ask(name, kind, validates).await;
                        myself.shared().flights.remove(&own);
                        answer
                    });
                    let flight = task.map(|ended| ended.unwrap_or(Err(NetError::Busy)));
                    let flight = flight.boxed().shared();
                    shared.flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    async fn ask(&self, name: Name, kind: RecordType, validates: bool) -> Answer {
        let resolver = self.0.usual.of(validates);
        let mut answer = resolver.lookup(name.clone(), kind).await;
        if kind == RecordType::MX && matches!(answer, Err(NetError::Proto(_))) {
            let mending = self.0.mending.of(validates);
            let mended = mending.lookup(name.clone(), kind).await;
            // What it can not do better stays as it was said first.
            answer = mended.or(answer);
        }
        if let Some(last) = unsettled(&answer, &name, kind)
            && resolver.lookup(last, RecordType::CNAME).await.is_ok()
        {
            answer = Err(NetError::Message(ENDLESS_ALIASES));
        }
        if matches!(answer, Err(NetError::Dns(DnsError::DnssecBogus))) {
            let now = Instant::now();
            let mut shared = self.shared();
            if shared.bogus.len() >= MOST_BOGUS {
                shared.bogus.retain(|_, until| *until > now);
            }
            if shared.bogus.len() < MOST_BOGUS {
                shared.bogus.insert((name, kind), now + BOGUS);
            }
        }
        answer
    }
}

/// The end of a way over aliases (CNAME) on which nothing was found. If that is an alias too, they
/// lead in a circle, or too far: nobody knows then what there is.
fn unsettled(answer: &Answer, asked: &Name, kind: RecordType) -> Option<Name> {
    let Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) = answer else {
        return None;
    };
    let last = nothing.query.name();
    // Of a name that simply has no such record the server says so, with an SOA.
    let plain = last == asked && nothing.soa.is_some();
    let absent = nothing.response_code == ResponseCode::NoError && kind != RecordType::CNAME;
    (absent && !plain).then(|| last.clone())
}

/// Whether DNSSEC proves the records of this type, and the aliases that led to them.
pub(super) fn is_secure(answers: &[Record], kind: RecordType) -> bool {
    let mut counted = answers
        .iter()
        .filter(|record| {
            let of = record.record_type();
            of == kind || of == RecordType::CNAME
        })
        .peekable();
    counted.peek().is_some() && counted.all(|record| record.proof.is_secure())
}

/// Whether DNSSEC proves that there is nothing.
pub(super) fn is_secure_absence(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(nothing)) = error else {
        return false;
    };
    let proofs = nothing.authorities.as_deref().unwrap_or_default();
    !proofs.is_empty() && proofs.iter().all(|record| record.proof.is_secure())
}
