//! The next hop of each domain: routes first, then a cache of lookups, then DNS.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};

use super::connection::Common;
use super::lanes::{LONGEST_LOOKUP, Lanes};
use super::mx::{self, Host};
use super::pending::Pending;
use super::promise::Promise;
use super::reach::Destination;
use super::verdict::Verdict;
use crate::config::providers::Providers;
use crate::config::routes::{Hop, RouteError, Routes, Via};
use crate::config::{Config, TlsRule, TlsRules};
use crate::queue::Naming;
use crate::tls::sts::Ask;

/// Next hops that are remembered.
const CACHED: usize = 20_000;
/// A next hop is looked up again after this time even if its record may be kept for longer.
const LONGEST_CACHE: Duration = Duration::from_secs(300);

/// The next hop of a domain, and until when that holds.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) hop: HopOrVerdict,
    /// What its mail demands of connections.
    pub(super) promise: Arc<Promise>,
    pub(super) until: Instant,
    /// It took long to find out: next time nobody waits behind it.
    pub(super) slow: bool,
}

/// Where a domain's mail goes, or why it can go nowhere.
pub(super) type HopOrVerdict = Result<Arc<Destination>, Verdict>;

/// A lookup that all who wait for the same domain share.
pub(super) type Lookup = Shared<LocalBoxFuture<'static, Found>>;

/// What is known of next hops, and what is being found out.
pub(super) struct Hops {
    routes: Routes,
    /// Port of MX hosts.
    port: u16,
    found: HashMap<String, Found>,
    lookups: HashMap<String, Lookup>,
    lanes: Lanes,
    providers: Arc<Providers>,
    /// What holds for TLS to domains with a route.
    rules: TlsRules,
}

impl Hops {
    pub(super) fn new(config: &Config) -> Result<Hops, RouteError> {
        Ok(Hops {
            routes: Routes::new(&config.routes)?,
            port: config.delivery.port,
            found: HashMap::new(),
            lookups: HashMap::new(),
            lanes: Lanes::default(),
            providers: Arc::clone(&config.providers),
            rules: config.tls.domains.clone(),
        })
    }

    /// The destination of a domain whose next hop was looked up and still holds.
    pub(super) fn cached(
        &self,
        domain: &str,
        now: Instant,
    ) -> Option<(&Arc<Destination>, &Arc<Promise>)> {
        let found = self.found.get(domain).filter(|found| found.until > now)?;
        found.hop.as_ref().ok().map(|hop| (hop, &found.promise))
    }

    /// What decides where a recipient's mail goes: its domain in lower case, the sender's where
    /// routes ask for it, or the local target an alias led to.
    pub(super) fn key<'a>(&self, part: &'a Pending, at: u32) -> Cow<'a, str> {
        let naming = Naming {
            by_sender: self.routes.ask_for_sender(),
        };
        match part.recipient(at) {
            Some(recipient) => naming.of(&part.message, recipient),
            None => Cow::Borrowed(""),
        }
    }

    /// The next hop for a key if it can be told without waiting.
    pub(super) fn known(&self, key: &str, now: Instant) -> Option<Found> {
        if let Some(found) = self.found.get(key).filter(|found| found.until > now) {
            return Some(found.clone());
        }
        let until = now + LONGEST_CACHE;
        if let Some(via) = Via::of_address(key) {
            let hop = match via {
                Ok(via) => Ok(Arc::new(destination(&[via], &[]).run_by(&self.providers))),
                Err(problem) => Err(Verdict::deferred(451, "4.3.5", &problem)),
            };
            return Some(Found {
                hop,
                promise: Arc::default(),
                until,
                slow: false,
            });
        }
        let (domain, from) = key.split_once('\n').unwrap_or((key, ""));
        let mut source: &[IpAddr] = &[];
        let mut promise = Arc::default();
        if let Some((_, way)) = self.routes.find(from, domain) {
            if way.vias != [Via::Mx] {
                let destination = destination(&way.vias, &way.source).run_by(&self.providers);
                return Some(Found {
                    hop: Ok(Arc::new(destination)),
                    promise: Arc::new(Promise::of_route(domain, way.tls, &self.rules)),
                    until,
                    slow: false,
                });
            }
            source = &way.source;
            if let Some(rule) = way.tls {
                promise = Arc::new(Promise::of_route(domain, Some(rule), &self.rules));
            }
        }
        let port = self.port;
        let hop = match mx::address_literal(domain)? {
            Err(verdict) => Err(verdict),
            Ok(address) => {
                let hosts = vec![Host {
                    rank: 0,
                    name: address.to_string(),
                }];
                let key = sourced(mx::key(&hosts, port), source);
                let destination = Destination {
                    key,
                    hosts,
                    port,
                    source: source.to_vec(),
                    ..Destination::default()
                };
                Ok(Arc::new(destination.run_by(&self.providers)))
            }
        };
        Some(Found {
            hop,
            promise,
            until,
            slow: false,
        })
    }

    pub(super) fn remember(&mut self, domain: &str, found: &Found, now: Instant) {
        if found.hop.is_err() || found.until <= now {
            return;
        }
        if self.found.len() >= CACHED {
            self.found.retain(|_, found| found.until > now);
            if self.found.len() >= CACHED {
                self.found.clear();
            }
        }
        self.found.insert(domain.to_owned(), found.clone());
    }

    /// Joins the lookup for a key that is under way, or begins one.
    pub(super) fn lookup(&mut self, key: &str, common: &Arc<Common>) -> Lookup {
        if let Some(lookup) = self.lookups.get(key) {
            return lookup.clone();
        }
        let common = Arc::clone(common);
        let lane = self.lanes.of(key, Instant::now());
        let (domain, from) = key.split_once('\n').unwrap_or((key, ""));
        let way = self.routes.find(from, domain);
        let tls = way.and_then(|(_, way)| way.tls);
        let source = way.map(|(_, way)| way.source.clone()).unwrap_or_default();
        let owned = domain.to_owned();
        let lookup = async move {
            let (looked, slow) = lane.run(look_up(&owned, source, &common)).await;
            let (mut found, proven) = looked.unwrap_or_else(|| (unanswered(&owned), false));
            found.slow = slow;
            // A policy may take long to come; the DNS of others does not wait for it.
            promised(found, &owned, tls, proven, &common).await
        };
        let lookup = lookup.boxed_local().shared();
        self.lookups.insert(key.to_owned(), lookup.clone());
        lookup
    }

    /// A lookup is over: the next one of that domain is a new one.
    pub(super) fn looked_up(&mut self, domain: &str, found: &Found, now: Instant) {
        // Others who waited for it have said so, or it was begun with an older configuration.
        if self.lookups.remove(domain).is_none() {
            return;
        }
        self.lanes.learn(domain, found.slow, now);
        self.remember(domain, found, now);
    }
}

/// The destination of a route or of an alias's target.
fn destination(vias: &[Via], source: &[IpAddr]) -> Destination {
    if let [via] = vias
        && via.is_local()
    {
        return Destination {
            key: format!("{via:?}").into(),
            routed: true,
            local: Some(via.clone()),
            ..Destination::default()
        };
    }
    let hop = |via: &Via| match via {
        Via::Hop(hop) => Some(hop.clone()),
        _ => None,
    };
    let hops: Vec<Hop> = vias.iter().filter_map(hop).collect();
    let names: Vec<String> = hops.iter().map(ToString::to_string).collect();
    let host = |(rank, hop): (usize, &Hop)| Host {
        rank,
        name: hop.host.clone(),
    };
    Destination {
        key: sourced(names.join(" "), source),
        hosts: hops.iter().enumerate().map(host).collect(),
        port: hops.first().map_or(0, |hop| hop.port),
        routed: true,
        proven: true,
        hops,
        local: None,
        source: source.to_vec(),
        ..Destination::default()
    }
}

/// A key in which the addresses to send from have their part.
pub(super) fn sourced(key: String, source: &[IpAddr]) -> Arc<str> {
    match source.is_empty() {
        true => key.into(),
        false => format!("{key} from {source:?}").into(),
    }
}

/// What holds for a domain that the DNS says nothing about for too long.
fn unanswered(domain: &str) -> Found {
    let seconds = LONGEST_LOOKUP.as_secs();
    let reason = format!("no answer within {seconds} seconds");
    let hop = mx::hosts(domain, crate::dns::mx::Lookup::Failed(reason), "");
    Found {
        hop: hop.map(|_| Arc::default()),
        promise: Arc::default(),
        until: Instant::now(),
        slow: true,
    }
}

/// The next hop, and whether DNSSEC proves it.
async fn look_up(domain: &str, source: Vec<IpAddr>, common: &Common) -> (Found, bool) {
    let now = Instant::now();
    if domain.is_empty() {
        let verdict = Verdict::failed(553, "5.1.3", "an address without a domain");
        let found = Found {
            hop: Err(verdict),
            promise: Arc::default(),
            until: now,
            slow: false,
        };
        return (found, false);
    }
    let (lookup, until, proven) = common.resolver.mx_proven(domain).await;
    let port = common.config.delivery.port;
    let hop = mx::hosts(domain, lookup, &common.config.hostname).map(|hosts| {
        let key = sourced(mx::key(&hosts, port), &source);
        let destination = Destination {
            key,
            hosts,
            port,
            source,
            ..Destination::default()
        };
        Arc::new(destination.run_by(&common.config.providers))
    });
    let found = Found {
        hop,
        promise: Arc::default(),
        until: until.min(now + LONGEST_CACHE),
        slow: false,
    };
    (found, proven)
}

/// Adds what the domain demands of connections to its hosts.
async fn promised(
    mut found: Found,
    domain: &str,
    tls: Option<TlsRule>,
    dnssec: bool,
    common: &Common,
) -> Found {
    if found.hop.is_err() {
        return found;
    }
    let mut promise = Promise {
        domain: domain.to_owned(),
        rule: tls.or_else(|| common.config.tls.domains.find(domain)),
        of_route: tls.is_some(),
        dnssec,
        ..Promise::default()
    };
    if promise.rule.is_none() && common.config.tls.mta_sts {
        match common.policies.send(Ask(domain.to_owned())).await {
            Ok(answer) => {
                promise.sts = answer.policy;
                promise.problem = answer.problem;
            }
            // Nobody knows whether it may go in clear.
            Err(_) => {
                let text = "the keeper of MTA-STS policies does not answer";
                found.hop = Err(Verdict::deferred(451, "4.7.5", text));
            }
        }
    }
    found.promise = Arc::new(promise);
    found
}
