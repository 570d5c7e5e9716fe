//! The actor that keeps the host's certificate valid (RFC 8555).
//!
//! It looks once an hour whether `secrets/tls/HOST/` needs a new certificate, orders it from the
//! CA, and puts chain and key there in one step. The daemon notices the changed files as it
//! notices any other and hands them to the listeners, so that no connection is dropped. It never
//! touches a certificate while it has no better one, and never speaks to a client.
//!
//! Receives [`Reload`]; sends to nobody.
#![forbid(unsafe_code)]

mod challenge;
mod dns01;
mod order;
mod place;
mod plan;

// The rooms that this one enters.
use chapar_config as config;
use chapar_dns as dns;
use chapar_identity as identity;
use chapar_publish as publish;
use chapar_tls as tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::prelude::*;

use crate::config::Config;
use crate::dns::Resolver;
use crate::identity::Identity;
use crate::tls::certificate::{Facts, NoFacts};

pub use challenge::{ALPN, Answers, Challenges};
pub use order::{Issued, OrderError, account_file};
pub use plan::{ALARM, Reason, alarm, renewal};

/// Names of a domain that others fetch from over https.
const WEB_LABELS: [&str; 3] = ["mta-sts", "autoconfig", "autodiscover"];
/// How often is looked.
const PERIOD: Duration = Duration::from_secs(3600);
/// The shortest wait between two looks.
const SHORTEST: Duration = Duration::from_secs(1);

/// What the actor works with.
#[derive(Clone)]
pub struct Given {
    /// The configuration.
    pub config: Arc<Config>,
    /// Our domains: each has a name for its MTA-STS policy.
    pub identity: Arc<Identity>,
}

/// From now on these hold.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Given);

/// See the module.
pub struct Certificates {
    given: Given,
    resolver: Resolver,
    challenges: Arc<Challenges>,
    /// This host's share of the jitter.
    chance: f64,
    failures: u32,
    under_way: bool,
    timer: Option<SpawnHandle>,
}

impl Certificates {
    /// Not yet started.
    pub fn new(given: Given, resolver: Resolver, challenges: Challenges) -> Certificates {
        Certificates {
            given,
            resolver,
            challenges: Arc::new(challenges),
            chance: fastrand::f64(),
            failures: 0,
            under_way: false,
            timer: None,
        }
    }

    fn check(&mut self, ctx: &mut Context<Self>) {
        if !self.given.config.acme.enabled || self.under_way {
            return;
        }
        self.under_way = true;
        let (given, resolver) = (self.given.clone(), self.resolver.clone());
        let (challenges, chance) = (self.challenges.clone(), self.chance);
        let work = async move { keep(&given, &resolver, &challenges, chance).await };
        let done = work.into_actor(self).map(|result, actor, ctx| {
            actor.under_way = false;
            let wait = match result {
                Ok(due) => {
                    actor.failures = 0;
                    let left = due.duration_since(SystemTime::now()).unwrap_or_default();
                    left.clamp(SHORTEST, PERIOD)
                }
                Err(error) => {
                    actor.failures = actor.failures.saturating_add(1);
                    let wait = plan::wait(actor.failures);
                    tracing::error!(
                        target: "certificate",
                        host = actor.given.config.hostname,
                        next_try_minutes = wait.as_secs() / 60,
                        "no new certificate, the old one stays: {error}"
                    );
                    wait
                }
            };
            actor.sleep(wait, ctx);
        });
        ctx.spawn(done);
    }

    fn sleep(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = Some(ctx.run_later(wait, |actor, ctx| actor.check(ctx)));
    }
}

/// The directory of the host's certificate.
pub fn directory(config: &Config) -> PathBuf {
    config.dir.join("secrets/tls").join(&config.hostname)
}

/// Why a certificate could not be renewed.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("the CA's answer is {0}")]
    Facts(NoFacts),
    #[error("{}: {error}", file.display())]
    Write {
        file: PathBuf,
        error: std::io::Error,
    },
}

/// Looks at the certificate and renews it if it is time; when the next one is due.
async fn keep(
    given: &Given,
    resolver: &Resolver,
    challenges: &Challenges,
    chance: f64,
) -> Result<SystemTime, KeepError> {
    let config = &given.config;
    let dir = directory(config);
    let pem = tokio::fs::read(dir.join("fullchain.pem")).await;
    let facts = pem.ok().and_then(|pem| Facts::of_pem(&pem).ok());
    let now = SystemTime::now();
    if let Some(left) = facts.as_ref().and_then(|facts| alarm(facts, now)) {
        tracing::error!(
            target: "certificate",
            host = config.hostname,
            days = left.as_secs() / 86_400,
            "ALARM: the certificate ends soon; mail clients will refuse it"
        );
    }
    let names = names(given, resolver).await;
    let Some(reason) = renewal(facts.as_ref(), &names, now, chance) else {
        return Ok(facts.map_or(now, |facts| plan::due(&facts, chance)));
    };
    tracing::info!(target: "certificate", names = names.join(" "), %reason, "ordering a certificate");
    let issued = order::order(config, &names, challenges, resolver).await?;
    let facts = Facts::of_pem(issued.chain.as_bytes()).map_err(KeepError::Facts)?;
    let place = dir.clone();
    let written = tokio::task::spawn_blocking(move || place::put(&place, &issued)).await;
    let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| KeepError::Write { file: dir, error })?;
    tracing::info!(target: "certificate", names = names.join(" "), "a new certificate is in place");
    Ok(plan::due(&facts, chance))
}

/// What the certificate is for: the host, `acme.names`, and the names of MTA-STS policies that
/// lead to this host. One that does not would fail the whole order; it is taken in when it does.
async fn names(given: &Given, resolver: &Resolver) -> Vec<String> {
    let config = &given.config;
    let mut names = vec![config.hostname.to_ascii_lowercase()];
    names.extend(
        config
            .acme
            .names
            .iter()
            .map(|name| name.as_str().to_owned()),
    );
    if !config.web.https.is_empty() {
        let own = addresses(resolver, &config.hostname).await;
        let domains = given.identity.domains();
        for (domain, _) in domains.filter(|(name, _)| !name.starts_with('*')) {
            for label in WEB_LABELS {
                let name = format!("{label}.{domain}");
                let found = addresses(resolver, &name).await;
                if found.iter().any(|address| own.contains(address)) {
                    names.push(name);
                }
            }
        }
    }
    names.dedup();
    without_covered(names)
}

/// Names that no wildcard among them stands for: a CA refuses both in one order.
fn without_covered(names: Vec<String>) -> Vec<String> {
    let wild: Vec<String> = names
        .iter()
        .filter_map(|name| name.strip_prefix("*.").map(str::to_owned))
        .collect();
    let covered = |name: &String| {
        let above = name.split_once('.').map(|(_, above)| above);
        !name.starts_with("*.") && wild.iter().any(|wild| above == Some(wild))
    };
    names.into_iter().filter(|name| !covered(name)).collect()
}

async fn addresses(resolver: &Resolver, name: &str) -> Vec<std::net::IpAddr> {
    let found = resolver.hickory().lookup_ip(format!("{name}.")).await;
    found.map_or(Vec::new(), |found| found.iter().collect())
}

impl Actor for Certificates {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.check(ctx);
    }
}

impl Handler<Reload> for Certificates {
    type Result = ();

    fn handle(&mut self, reload: Reload, ctx: &mut Self::Context) {
        let changed = reload.0.config.acme != self.given.config.acme
            || reload.0.config.hostname != self.given.config.hostname
            || reload.0.config.dns.provider != self.given.config.dns.provider;
        self.given = reload.0;
        if changed {
            self.failures = 0;
            self.check(ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_covered;

    #[test]
    fn a_wildcard_stands_for_the_names_right_below_it() {
        let names = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            without_covered(names(&[
                "mx.example.org",
                "example.org",
                "*.example.org",
                "mta-sts.example.org",
                "a.b.example.org",
                "mx.example.com",
            ])),
            names(&[
                "example.org",
                "*.example.org",
                "a.b.example.org",
                "mx.example.com"
            ])
        );
    }
}
