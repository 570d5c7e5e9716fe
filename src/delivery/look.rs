//! What TLS would be used for a domain, and why: for `chapar tls`.
//!
//! Goes the way that a message goes, with the same code, as far as the first MAIL. Sends no mail,
//! keeps nothing.

use serde::Serialize;

use super::mx;
use super::promise::{Promise, Proof};
use super::reach::{self, Destination, HostMemory, Reach, Target};
use super::security::{self, Means};
use super::session::{Failure, Security, Session};
use super::verdict;
use crate::config::routes::{RouteError, Routes, Via};
use crate::config::{Config, TlsRule};
use crate::dns::Resolver;
use crate::time;
use crate::tls::client::{self, RootsError};
use crate::tls::sts::{self, Fetcher, Mode};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A `[[route]]` that can not be read.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// `tls.ca_file`.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// TLS can not be set up.
    #[error("TLS can not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What was found out about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// The domain.
    pub domain: String,
    /// Where a `[[route]]` leads its mail instead of its MX hosts.
    pub route: Option<String>,
    /// Whether answers of the DNS are validated.
    pub validated: bool,
    /// Whether DNSSEC proves the MX records.
    pub mx_proven: bool,
    /// The rule in `tls.domains`.
    pub rule: Option<&'static str>,
    /// Its MTA-STS policy.
    pub mta_sts: Option<Sts>,
    /// Why there is none, or no newer one.
    pub mta_sts_problem: Option<String>,
    /// Why no host can be tried.
    pub problem: Option<String>,
    /// What was tried, in the order that mail would.
    pub hosts: Vec<Host>,
}

/// An MTA-STS policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sts {
    /// enforce, testing or none.
    pub mode: &'static str,
    /// The id of the record that led to it.
    pub id: String,
    /// The hosts it names.
    pub mx: Vec<String>,
    /// When it ends.
    pub until: String,
}

/// What a host demands and does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// `name[address]:port`.
    pub host: String,
    /// What decides: rule, dane, mta-sts, provider, opportunistic.
    pub policy: &'static str,
    /// In words.
    pub why: String,
    /// Version, cipher and what was proven; `None`: in clear, or no session.
    pub tls: Option<String>,
    /// Why it gets no mail.
    pub problem: Option<String>,
}

impl View {
    /// Whether mail could go to a host now.
    pub fn delivers(&self) -> bool {
        self.route.is_some() || self.hosts.iter().any(|host| host.problem.is_none())
    }
}

/// Looks at a domain in lower case A-labels.
pub async fn look(config: &Config, resolver: &Resolver, domain: &str) -> Result<View, LookError> {
    let routes = Routes::new(&config.routes)?;
    let way = routes.find("", domain).map(|(_, way)| way);
    let route = way.filter(|way| way.vias != [Via::Mx]);
    let (opportunistic, verified) = (
        client::opportunistic(config.tls.min_version)?,
        client::verified(config)?,
    );
    let means = Means {
        config,
        resolver,
        tls: Some(&opportunistic),
        verified: verified.as_ref(),
        judge: None,
    };
    let (lookup, _, proven) = resolver.mx_proven(domain).await;
    let mut promise = Promise {
        domain: domain.to_owned(),
        rule: way
            .and_then(|way| way.tls)
            .or_else(|| config.tls.domains.find(domain)),
        of_route: way.is_some_and(|way| way.tls.is_some()),
        dnssec: proven,
        ..Promise::default()
    };
    let mut view = View {
        domain: domain.to_owned(),
        route: route.map(|way| way.vias.iter().map(shown).collect::<Vec<_>>().join(", ")),
        validated: resolver.validates().await,
        mx_proven: proven,
        rule: promise.rule.map(TlsRule::name),
        mta_sts: None,
        mta_sts_problem: None,
        problem: None,
        hosts: Vec::new(),
    };
    if view.route.is_some() {
        return Ok(view);
    }
    if promise.rule.is_none() && config.tls.mta_sts {
        let fetcher = Fetcher::new(config, resolver.clone())?;
        let kept = sts::load_one(&sts::directory(&config.data_dir), domain);
        let found = sts::find(domain, kept, false, &fetcher).await;
        view.mta_sts_problem = found.problem.map(|problem| problem.to_string());
        if let Some(kept) = found.kept {
            view.mta_sts = Some(Sts {
                mode: kept.policy.mode.name(),
                until: time::text(kept.until()),
                id: kept.id,
                mx: kept.policy.mx.clone(),
            });
            promise.sts = Some(kept.policy.into());
        }
    }
    let hosts = match mx::hosts(domain, lookup, &config.hostname) {
        Ok(hosts) => hosts,
        Err(verdict) => {
            view.problem = Some(verdict.reply.to_string());
            return Ok(view);
        }
    };
    let destination = Destination {
        hosts,
        port: config.delivery.port,
        source: way.map(|way| way.source.clone()).unwrap_or_default(),
        ..Destination::default()
    };
    let destination = destination.run_by(&config.providers);
    let reach = Reach::new(config);
    match reach::targets(&destination, resolver, &reach, &HostMemory::default()).await {
        Err(verdict) => view.problem = Some(verdict.reply.to_string()),
        Ok(targets) => {
            for target in &targets {
                view.hosts.push(try_one(means, target, &promise).await);
            }
        }
    }
    Ok(view)
}

async fn try_one(means: Means<'_>, target: &Target, promise: &Promise) -> Host {
    let mut host = Host {
        host: target.remote(),
        policy: "",
        why: String::new(),
        tls: None,
        problem: None,
    };
    let security = match security::plan(means, target, false, promise, true).await {
        Ok(security) => security,
        Err(verdict) => {
            let enforced = promise.enforced().is_some_and(|p| !p.allows(&target.host));
            (host.policy, host.why) = match (promise.rule, enforced) {
                (Some(rule), _) => ("rule", format!("tls.domains says {}", rule.name())),
                (None, true) => ("mta-sts", "its policy names other hosts".to_owned()),
                (None, false) => ("dane", "its TLSA records must be known".to_owned()),
            };
            host.problem = Some(verdict.reply.to_string());
            return host;
        }
    };
    (host.policy, host.why) = reason(promise, &security);
    let mut opened = Session::open(target, means.config, &security, None).await;
    if let Err(unopened) = &opened
        && unopened.failure == Failure::Handshake
        && security.is_optional()
    {
        host.why.push_str("; the TLS handshake fails, so in clear");
        opened = Session::open(target, means.config, &Security::clear(), None).await;
    }
    match opened {
        Ok(session) => {
            host.tls = Some(session.tls.clone()).filter(|tls| !tls.is_empty());
            session.quit().await;
        }
        Err(unopened) => {
            host.problem = Some(match unopened.failure {
                Failure::Untrusted(problem) => problem.text,
                Failure::Handshake => {
                    let verdict = verdict::judge(&unopened.answer);
                    format!("the TLS handshake fails: {}", verdict.reply.text)
                }
                Failure::Other => verdict::judge(&unopened.answer).reply.to_string(),
            });
        }
    }
    host
}

fn shown(via: &Via) -> String {
    match via {
        Via::Hop(hop) => hop.to_string(),
        other => format!("{other:?}"),
    }
}

/// What decides, and in words.
fn reason(promise: &Promise, security: &Security) -> (&'static str, String) {
    if let Some(rule) = promise.rule {
        return ("rule", format!("tls.domains says {}", rule.name()));
    }
    match security.need {
        Proof::Dane => {
            let text = "TLSA records name its certificate, proven by DNSSEC";
            ("dane", text.to_owned())
        }
        Proof::Unverified if security.tlsa.is_empty() => {
            ("provider", security::BY_PROVIDER.to_owned())
        }
        Proof::Unverified => {
            let text = "it has TLSA records, none of which can be used: TLS without proof";
            ("dane", text.to_owned())
        }
        Proof::Sts | Proof::Pkix => {
            let text = "the MTA-STS policy demands a certificate valid for it";
            ("mta-sts", text.to_owned())
        }
        Proof::Clear => {
            let testing = promise
                .sts
                .as_ref()
                .is_some_and(|p| p.mode == Mode::Testing);
            let text = match testing {
                true => "the MTA-STS policy is only being tested: TLS where it is offered",
                false => "nothing demands TLS: it is used where it is offered",
            };
            ("opportunistic", text.to_owned())
        }
    }
}
