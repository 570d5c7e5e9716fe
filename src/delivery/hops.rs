//! The next hop of each domain: routes first, then a cache of lookups, then DNS.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::sync::Semaphore;

use super::connection::Common;
use super::mx::{self, Host};
use super::routes::{RouteError, Routes};
use super::targets::Destination;
use super::verdict::Verdict;
use crate::config::Config;

/// Domains that are looked up at the same time.
pub(super) const LOOKUPS: usize = 100;
/// Next hops that are remembered.
const CACHED: usize = 20_000;
/// A next hop is looked up again after this time even if its record may be kept for longer.
const LONGEST_CACHE: Duration = Duration::from_secs(300);

/// The next hop of a domain, and until when that holds.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) hop: HopOrVerdict,
    pub(super) until: Instant,
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
    slots: Arc<Semaphore>,
}

impl Hops {
    pub(super) fn new(config: &Config) -> Result<Hops, RouteError> {
        Ok(Hops {
            routes: Routes::new(&config.routes)?,
            port: config.delivery.port,
            found: HashMap::new(),
            lookups: HashMap::new(),
            slots: Arc::new(Semaphore::new(LOOKUPS)),
        })
    }

    /// The destination of a domain whose next hop was looked up and still holds.
    pub(super) fn cached(&self, domain: &str, now: Instant) -> Option<&Arc<Destination>> {
        let found = self.found.get(domain).filter(|found| found.until > now)?;
        found.hop.as_ref().ok()
    }

    /// The next hop of a domain if it can be told without waiting.
    pub(super) fn known(&self, domain: &str, now: Instant) -> Option<Found> {
        if let Some(found) = self.found.get(domain).filter(|found| found.until > now) {
            return Some(found.clone());
        }
        let until = now + LONGEST_CACHE;
        if let Some(hop) = self.routes.find(domain) {
            let host = Host {
                rank: 0,
                name: hop.host.clone(),
            };
            let key = format!("smtp://{}:{}", hop.host, hop.port);
            let (key, port) = (key.into(), hop.port);
            let destination = Destination {
                key,
                hosts: vec![host],
                port,
                routed: true,
                proven: true,
            };
            return Some(Found {
                hop: Ok(Arc::new(destination)),
                until,
            });
        }
        let port = self.port;
        let hop = match mx::address_literal(domain)? {
            Err(verdict) => Err(verdict),
            Ok(address) => {
                let hosts = vec![Host {
                    rank: 0,
                    name: address.to_string(),
                }];
                let key = mx::key(&hosts, port).into();
                Ok(Arc::new(Destination {
                    key,
                    hosts,
                    port,
                    routed: false,
                    proven: false,
                }))
            }
        };
        Some(Found { hop, until })
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

    /// Joins the lookup of a domain that is under way, or begins one.
    pub(super) fn lookup(&mut self, domain: &str, common: &Arc<Common>) -> Lookup {
        if let Some(lookup) = self.lookups.get(domain) {
            return lookup.clone();
        }
        let common = Arc::clone(common);
        let slots = Arc::clone(&self.slots);
        let owned = domain.to_owned();
        let lookup = async move {
            // It is closed never.
            let _slot = slots.acquire_owned().await;
            look_up(&owned, &common).await
        };
        let lookup = lookup.boxed_local().shared();
        self.lookups.insert(domain.to_owned(), lookup.clone());
        lookup
    }

    /// A lookup is over: the next one of that domain is a new one.
    pub(super) fn looked_up(&mut self, domain: &str, found: &Found, now: Instant) {
        self.lookups.remove(domain);
        self.remember(domain, found, now);
    }
}

/// The domain of an address, in lower case; empty if there is none, which no DNS server knows.
pub(super) fn domain_of(address: &str) -> Cow<'_, str> {
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    match domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(domain.to_ascii_lowercase()),
        false => Cow::Borrowed(domain),
    }
}

async fn look_up(domain: &str, common: &Common) -> Found {
    let now = Instant::now();
    if domain.is_empty() {
        let verdict = Verdict::failed(553, "5.1.3", "an address without a domain");
        return Found {
            hop: Err(verdict),
            until: now,
        };
    }
    let (lookup, until) = common.resolver.mx(domain).await;
    let port = common.config.delivery.port;
    let hop = mx::hosts(domain, lookup, &common.config.hostname).map(|hosts| {
        let key = mx::key(&hosts, port).into();
        Arc::new(Destination {
            key,
            hosts,
            port,
            routed: false,
            proven: false,
        })
    });
    Found {
        hop,
        until: until.min(now + LONGEST_CACHE),
    }
}
