//! MTA-STS (RFC 8461): whether the policy of a domain allows a host, and demands verified TLS.
//!
//! The actor [`Policies`] answers [`Ask`] with the policy of a domain that holds now. It looks
//! whether the domain's record names a policy it does not know, fetches it, keeps it on disk, and
//! fetches it again when half of its life is over. While the record or the policy can not be had,
//! what is kept stays in force: only its end takes it out of force (sections 3.3 and 5.1). It
//! never decides about mail, and the fetch of one domain holds up no other.

mod fetch;
mod kept;
mod policy;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::sync::Semaphore;

pub use fetch::{FetchError, Fetcher};
pub use kept::{Kept, directory, load_one};
pub use policy::{LONGEST, MAX_POLICY, Mode, Policy, PolicyError, record_id};

use crate::dns::Text;
use crate::time;

/// Questions that may wait in the mailbox.
const MAILBOX: usize = 1024;
/// Policies that are fetched at the same time.
const FETCHES: usize = 100;
/// How often is looked for policies that are to be fetched again.
const REFRESH: Duration = Duration::from_secs(600);
/// A policy that could not be fetched is tried again after this time (RFC 8461 section 3.3).
const PATIENCE: Duration = Duration::from_secs(300);
/// Failures that are remembered.
const FAILURES: usize = 10_000;

/// The policy of a domain that holds now.
#[derive(Message)]
#[rtype(result = "Answer")]
pub struct Ask(pub String);

/// From now on policies are fetched like this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renew(pub Fetcher);

/// Look now for policies that are to be fetched again; how many were.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Refresh;

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The policy that holds.
    pub policy: Option<Arc<Policy>>,
    /// Why a newer one could not be fetched.
    pub problem: Option<FetchError>,
}

/// What looking for a domain's policy gave.
#[derive(Debug, Clone)]
pub struct Found {
    /// What holds now: it was kept, or it is new.
    pub kept: Option<Kept>,
    /// Whether it is new.
    pub new: bool,
    /// Why a newer one could not be fetched.
    pub problem: Option<FetchError>,
    /// The id that the record names; `None`: there is no sound record, or it could not be had.
    pub id: Option<String>,
}

/// Finds the policy of a domain. `kept` is what is known of it; `again`: fetch even if the id is
/// known.
pub async fn find(domain: &str, kept: Option<Kept>, again: bool, fetcher: &Fetcher) -> Found {
    let now = time::now();
    let kept = kept.filter(|kept| kept.holds(now));
    let id = match fetcher.resolver().txt(&format!("_mta-sts.{domain}")).await {
        Text::Found(records) => record_id(&records),
        Text::None | Text::Failed(_) => None,
    };
    let known = id.is_some() && id.as_deref() == kept.as_ref().map(|kept| kept.id.as_str());
    let wanted = match (&id, &kept) {
        (None, None) => None,
        // Whose record is gone is asked again when it is time, but not for every message.
        (None, Some(kept)) => again.then(|| kept.id.clone()),
        (Some(id), _) => (again || !known).then(|| id.clone()),
    };
    let mut found = Found {
        kept,
        new: false,
        problem: None,
        id,
    };
    if let Some(id) = wanted {
        match fetcher.fetch(domain).await {
            Ok(policy) => {
                let now = time::now();
                let used = found.kept.as_ref().map_or(now, |kept| kept.used);
                found.new = true;
                found.kept = Some(Kept {
                    domain: domain.to_owned(),
                    id,
                    policy,
                    fetched: now,
                    used,
                });
            }
            Err(problem) => found.problem = Some(problem),
        }
    }
    found
}

type Search = Shared<LocalBoxFuture<'static, Answer>>;

/// A search is over.
#[derive(Message)]
#[rtype(result = "()")]
struct Searched(String, Found);

/// See the module.
pub struct Policies {
    fetcher: Fetcher,
    dir: PathBuf,
    kept: HashMap<String, Kept>,
    /// Domains whose policy could not be fetched.
    failed: HashMap<String, (FetchError, Instant)>,
    searches: HashMap<String, Search>,
    slots: Arc<Semaphore>,
}

impl Policies {
    /// Reads what is kept in `dir`, see [`directory`].
    pub fn new(fetcher: Fetcher, dir: PathBuf) -> Policies {
        Policies {
            fetcher,
            kept: kept::load(&dir, time::now()),
            dir,
            failed: HashMap::new(),
            searches: HashMap::new(),
            slots: Arc::new(Semaphore::new(FETCHES)),
        }
    }

    /// Joins the search for a domain's policy that is under way, or begins one.
    fn search(&mut self, domain: &str, again: bool, myself: Addr<Policies>) -> Search {
        if let Some(search) = self.searches.get(domain) {
            return search.clone();
        }
        let failed = self.failed.get(domain);
        if let Some((problem, _)) = failed.filter(|(_, at)| at.elapsed() < PATIENCE) {
            let policy = self.holding(domain);
            let problem = Some(problem.clone());
            return async move { Answer { policy, problem } }
                .boxed_local()
                .shared();
        }
        let (fetcher, slots) = (self.fetcher.clone(), Arc::clone(&self.slots));
        let (dir, kept) = (self.dir.clone(), self.kept.get(domain).cloned());
        let owned = domain.to_owned();
        let search = async move {
            // It is closed never.
            let _slot = slots.acquire_owned().await;
            let found = find(&owned, kept, again, &fetcher).await;
            if let (true, Some(kept)) = (found.new, found.kept.clone()) {
                let saved = tokio::task::spawn_blocking(move || kept::save(&dir, &kept)).await;
                if let Ok(Err(error)) = saved {
                    tracing::error!(
                        domain = owned, %error,
                        "an MTA-STS policy can not be kept in mta-sts/ of data_dir; a restart would forget it"
                    );
                }
            }
            let answer = Answer {
                policy: found
                    .kept
                    .as_ref()
                    .map(|kept| Arc::new(kept.policy.clone())),
                problem: found.problem.clone(),
            };
            // Without the actor nobody asks again.
            let _ = myself.send(Searched(owned, found)).await;
            answer
        };
        let search = search.boxed_local().shared();
        self.searches.insert(domain.to_owned(), search.clone());
        search
    }

    fn holding(&self, domain: &str) -> Option<Arc<Policy>> {
        let kept = self.kept.get(domain)?;
        let holds = kept.holds(time::now());
        holds.then(|| Arc::new(kept.policy.clone()))
    }

    /// Makes room for one more.
    fn make_room(&mut self) {
        let now = time::now();
        let dir = &self.dir;
        self.kept.retain(|domain, kept| {
            let holds = kept.holds(now);
            if !holds {
                kept::remove(dir, domain);
            }
            holds
        });
        while self.kept.len() >= kept::MOST {
            let oldest = self.kept.values().min_by_key(|kept| kept.used);
            let Some(domain) = oldest.map(|kept| kept.domain.clone()) else {
                return;
            };
            kept::remove(dir, &domain);
            self.kept.remove(&domain);
        }
    }
}

impl Actor for Policies {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(REFRESH, |_, context| {
            let refresh = context.address().send(Refresh);
            actix_rt::spawn(async move {
                let _ = refresh.await;
            });
        });
    }
}

impl Handler<Ask> for Policies {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, Ask(domain): Ask, context: &mut Context<Self>) -> Self::Result {
        if let Some(kept) = self.kept.get_mut(&domain) {
            kept.used = time::now();
        }
        Box::pin(self.search(&domain, false, context.address()))
    }
}

impl Handler<Searched> for Policies {
    type Result = ();

    fn handle(&mut self, Searched(domain, found): Searched, _: &mut Context<Self>) {
        self.searches.remove(&domain);
        if let Some(problem) = found.problem {
            let kept = found.kept.is_some();
            tracing::warn!(
                domain, error = %problem, kept,
                "the MTA-STS policy of a domain can not be fetched"
            );
            if self.failed.len() >= FAILURES {
                self.failed.retain(|_, (_, at)| at.elapsed() < PATIENCE);
            }
            if self.failed.len() < FAILURES {
                self.failed
                    .insert(domain.clone(), (problem, Instant::now()));
            }
        }
        if let (true, Some(kept)) = (found.new, found.kept) {
            let mode = kept.policy.mode.name();
            tracing::info!(domain, mode, id = kept.id, "MTA-STS policy fetched");
            if !self.kept.contains_key(&domain) {
                self.make_room();
            }
            self.kept.insert(domain, kept);
        }
    }
}

impl Handler<Renew> for Policies {
    type Result = ();

    fn handle(&mut self, Renew(fetcher): Renew, _: &mut Context<Self>) {
        self.fetcher = fetcher;
        self.failed.clear();
    }
}

impl Handler<Refresh> for Policies {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, _: Refresh, context: &mut Context<Self>) -> Self::Result {
        let now = time::now();
        let due = self.kept.values().filter(|kept| kept.is_due(now));
        let due: Vec<String> = due.map(|kept| kept.domain.clone()).collect();
        let searches: Vec<Search> = due
            .iter()
            .map(|domain| self.search(domain, true, context.address()))
            .collect();
        Box::pin(async move {
            let answers = futures_util::future::join_all(searches).await;
            let renewed = |answer: &&Answer| answer.problem.is_none();
            answers.iter().filter(renewed).count()
        })
    }
}
