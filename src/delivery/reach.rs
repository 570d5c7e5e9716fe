//! From a destination to the addresses to connect to, in the order to try them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::families::addresses;
use super::mx::{self, Host, MAX_ADDRESSES};
use super::own_names::{self, OwnNames};
use super::verdict::Verdict;
use crate::config::providers::{Provider, Providers};
use crate::config::routes::{Hop, Protocol, Via};
use crate::config::{Config, Family};
use crate::dns::Resolver;

/// A host that failed a TLS handshake is spoken to in clear for this long.
pub(super) const NO_TLS_MEMORY: Duration = Duration::from_secs(3600);
/// A host that offers CHUNKING and does not know BDAT gets DATA for this long.
pub(super) const NO_CHUNKS_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// An address that could not be reached is tried after the others for this long.
pub(super) const UNREACHABLE_MEMORY: Duration = Duration::from_secs(300);
/// A host that did not prove what was demanded of it is not asked again for this long.
pub(super) const DISTRUST_MEMORY: Duration = Duration::from_secs(60);
/// Demands that a destination's hosts failed, as far as they are remembered.
const DISTRUSTS: usize = 1000;

/// Where mail for some domains goes: a set of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Destination {
    /// Equal for equal destinations.
    pub(super) key: Arc<str>,
    pub(super) hosts: Vec<Host>,
    pub(super) port: u16,
    /// Named by the configuration, not by DNS: may be anywhere.
    pub(super) routed: bool,
    /// Whether the names of the hosts are beyond doubt: the configuration has them, or DNSSEC or
    /// MTA-STS vouch for the MX records (RFC 8689 section 4.2.1).
    pub(super) proven: bool,
    /// The hops of a route, by the rank of their host.
    pub(super) hops: Vec<Hop>,
    /// A target on this machine, without hosts.
    pub(super) local: Option<Via>,
    /// Addresses to send from instead of `delivery.source`.
    pub(super) source: Vec<IpAddr>,
    /// Who runs the hosts.
    pub(super) provider: Arc<Provider>,
}

impl Destination {
    /// The same with the provider its hosts have.
    pub(super) fn run_by(mut self, providers: &Providers) -> Destination {
        let hosts = self.hosts.iter();
        let names = hosts.map(|host| host.name.trim_end_matches('.'));
        self.provider = Arc::clone(providers.of(names));
        self
    }

    /// What it shares with others that have the same limits: who runs its hosts, or itself.
    pub(super) fn group(&self) -> Arc<str> {
        match self.provider.name.is_empty() || self.routed {
            true => Arc::clone(&self.key),
            false => self.provider.name.as_str().into(),
        }
    }

    /// The hop that a host of a route is.
    fn hop(&self, host: &Host) -> Option<&Hop> {
        self.hops.get(host.rank)
    }

    /// The address to send from, if it names one of this family.
    fn source_of(&self, ipv4: bool) -> Option<IpAddr> {
        let fits = |source: &&IpAddr| source.is_ipv4() == ipv4;
        self.source.iter().find(fits).copied()
    }
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) address: SocketAddr,
    /// The hop of a route that it is.
    pub(super) hop: Option<Hop>,
    /// The address to connect from.
    pub(super) source: Option<IpAddr>,
    /// Its provider takes mail over TLS only.
    pub(super) encrypt: bool,
}

impl Target {
    /// The path of the Unix socket that it is.
    pub(super) fn socket(&self) -> Option<&str> {
        let hop = self.hop.as_ref()?;
        (hop.protocol == Protocol::LmtpSocket).then_some(hop.host.as_str())
    }

    /// `host[address]:port` for people.
    pub(super) fn remote(&self) -> String {
        if let Some(path) = self.socket() {
            return path.to_owned();
        }
        format!(
            "{}[{}]:{}",
            self.host,
            self.address.ip(),
            self.address.port()
        )
    }
}

/// What addresses may be used at all; the same for every destination.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    private: bool,
    /// Our own listeners: a connection to one of them would be a loop.
    own: Vec<SocketAddr>,
    source: Vec<IpAddr>,
    own_names: Arc<OwnNames>,
}

impl Reach {
    /// Reads the configuration. With `family = "auto"`, IPv6 is used if a source address is an
    /// IPv6 one, or if this machine has a global IPv6 address. A source address says nothing about
    /// the other family: hosts that have only that are reached from the address the kernel chooses.
    pub(super) fn new(config: &Config) -> Reach {
        let delivery = &config.delivery;
        let (ipv4, ipv6) = match delivery.family {
            Family::Ipv4 => (true, false),
            Family::Ipv6 => (false, true),
            Family::Auto => {
                let named = delivery.source.iter().any(IpAddr::is_ipv6);
                (true, named || has_global_ipv6())
            }
        };
        let listeners = config.listeners.iter();
        let own = listeners
            .filter_map(|listen| listen.address.parse().ok())
            .collect();
        Reach {
            ipv4,
            ipv6,
            private: delivery.private_targets,
            own,
            source: delivery.source.clone(),
            own_names: Arc::default(),
        }
    }

    /// The address to connect from, if one is configured for this family.
    pub(super) fn source_of(&self, ipv4: bool) -> Option<IpAddr> {
        let fits = |source: &&IpAddr| source.is_ipv4() == ipv4;
        self.source.iter().find(fits).copied()
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || (own.ip().is_unspecified() && is_local(address.ip())))
        })
    }
}

/// Whether the kernel would send from an address that the IPv6 Internet can answer.
fn has_global_ipv6() -> bool {
    own_names::kernel_ipv6().is_some_and(crate::base::net::is_public)
}

/// Whether an address is one of this machine's: only those can be bound.
pub fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// What was learned about addresses of one destination; a connection works with a copy.
#[derive(Debug, Clone, Default)]
pub(super) struct HostMemory {
    no_tls: HashMap<IpAddr, Instant>,
    unreachable: HashMap<IpAddr, Instant>,
    no_chunks: HashMap<IpAddr, Instant>,
    distrusted: Vec<(IpAddr, Arc<Distrust>, Instant)>,
}

/// A host did not do what was demanded of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Distrust {
    /// Equal for equal demands.
    pub(super) demand: String,
    /// What became of the mail.
    pub(super) verdict: Verdict,
    /// Whether it is about that mail only.
    pub(super) own: bool,
}

/// One thing learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lesson {
    NoTls,
    NoChunks,
    Unreachable,
    Reachable,
    Distrusted(Arc<Distrust>),
}

impl HostMemory {
    pub(super) fn learn(&mut self, address: IpAddr, lesson: Lesson, now: Instant) {
        // Hosts change their addresses: what is outdated goes.
        self.no_tls.retain(|_, until| *until > now);
        self.unreachable.retain(|_, until| *until > now);
        self.no_chunks.retain(|_, until| *until > now);
        match lesson {
            Lesson::NoTls => {
                self.no_tls.insert(address, now + NO_TLS_MEMORY);
            }
            Lesson::NoChunks => {
                self.no_chunks.insert(address, now + NO_CHUNKS_MEMORY);
            }
            Lesson::Unreachable => {
                self.unreachable.insert(address, now + UNREACHABLE_MEMORY);
            }
            Lesson::Reachable => {
                self.unreachable.remove(&address);
            }
            Lesson::Distrusted(distrust) => {
                self.distrusted.retain(|(host, known, until)| {
                    *until > now && (*host, &known.demand) != (address, &distrust.demand)
                });
                if self.distrusted.len() < DISTRUSTS {
                    self.distrusted
                        .push((address, distrust, now + DISTRUST_MEMORY));
                }
            }
        }
    }

    /// What became of mail with the same demand a moment ago.
    pub(super) fn distrust(
        &self,
        address: IpAddr,
        demand: &str,
        now: Instant,
    ) -> Option<&Distrust> {
        let mut known = self.distrusted.iter();
        let found = known.find(|(host, distrust, until)| {
            *host == address && distrust.demand == demand && *until > now
        });
        found.map(|(_, distrust, _)| distrust.as_ref())
    }

    /// An operator wants everything to be tried anew.
    pub(super) fn forgive(&mut self) {
        self.distrusted.clear();
    }

    pub(super) fn may_use_tls(&self, address: IpAddr, now: Instant) -> bool {
        self.no_tls.get(&address).is_none_or(|until| *until <= now)
    }

    pub(super) fn may_use_chunks(&self, address: IpAddr, now: Instant) -> bool {
        self.no_chunks
            .get(&address)
            .is_none_or(|until| *until <= now)
    }

    fn was_unreachable(&self, address: IpAddr, now: Instant) -> bool {
        self.unreachable
            .get(&address)
            .is_some_and(|until| *until > now)
    }
}

/// The addresses to try for a destination, best first, at most [`MAX_ADDRESSES`]; or what that
/// there are none means.
pub(super) async fn targets(
    destination: &Destination,
    resolver: &Resolver,
    reach: &Reach,
    memory: &HostMemory,
) -> Result<Vec<Target>, Verdict> {
    let hosts = mx::shuffled(&destination.hosts, |n| fastrand::usize(..n));
    // A source binds its own family only; the other leaves from where the kernel says.
    let source_of = |ipv4| {
        let source = destination.source_of(ipv4);
        source.or_else(|| reach.source_of(ipv4))
    };
    let (own_ipv4, own_ipv6) = (source_of(true), source_of(false));
    // A server that finds no name for an IPv6 address of ours trusts it less than IPv4, or not at
    // all: then IPv6 is for hosts that can not be reached otherwise.
    let ipv6_first = reach.ipv6 && reach.own_names.are_right(own_ipv6, resolver).await;
    let found = join_all(hosts.iter().map(|host| async {
        match destination.hop(host).map(|hop| hop.protocol) {
            // It has a path, no address.
            Some(Protocol::LmtpSocket) => Ok(vec![Ipv4Addr::UNSPECIFIED.into()]),
            _ => addresses(&host.name, resolver, reach, ipv6_first).await,
        }
    }))
    .await;
    let mut none = NoTarget::default();
    // Each with the rank of its host.
    let mut targets: Vec<(usize, Target)> = Vec::new();
    for (host, found) in hosts.iter().zip(found) {
        let hop = destination.hop(host);
        let port = hop.map_or(destination.port, |hop| hop.port);
        let found = found.unwrap_or_else(|reason| {
            // Hosts come best first: the first one that fails counts.
            none.failed.get_or_insert((host.rank, reason));
            Vec::new()
        });
        for address in found {
            let socket = SocketAddr::new(address, port);
            let target = || Target {
                host: host.name.clone(),
                address: socket,
                hop: hop.cloned(),
                source: source_of(address.is_ipv4()),
                encrypt: destination.provider.require_tls && hop.is_none(),
            };
            if hop.is_some_and(|hop| hop.protocol == Protocol::LmtpSocket) {
                targets.push((host.rank, target()));
            } else if !destination.routed
                && (reach.is_own(socket) || address.to_canonical().is_unspecified())
            {
                none.own.get_or_insert(host.rank);
            } else if !destination.routed && !reach.private && !crate::base::net::is_public(address)
            {
                none.private = Some(address);
            } else if (address.is_ipv4() && !reach.ipv4) || (address.is_ipv6() && !reach.ipv6) {
                none.family = true;
            } else {
                targets.push((host.rank, target()));
            }
        }
    }
    // RFC 5321 section 5.1: hosts as good as ourselves or worse might bring it back to us.
    if let Some(own) = none.own {
        targets.retain(|(rank, _)| *rank < own);
    }
    let mut targets: Vec<Target> = targets.into_iter().map(|(_, target)| target).collect();
    if targets.is_empty() {
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        return Err(none.verdict(&names.join(", ")));
    }
    // In a chain of hops the first that answers is meant, however long ago it last did.
    if destination.hops.len() < 2 {
        let now = Instant::now();
        targets.sort_by_key(|target| {
            let late = !ipv6_first && target.address.is_ipv6();
            // Who named an address to send from wants it used where it can be.
            let bound = own_ipv4.is_some() || own_ipv6.is_some();
            let unbound = bound && target.source.is_none();
            let dead = memory.was_unreachable(target.address.ip(), now);
            (dead, unbound, late)
        });
    }
    keep_both_families(&mut targets);
    Ok(targets)
}

/// At most [`MAX_ADDRESSES`], among them one of each family that there is.
fn keep_both_families(targets: &mut Vec<Target>) {
    if targets.len() <= MAX_ADDRESSES {
        return;
    }
    let is_ipv6 = |target: &Target| target.address.is_ipv6();
    let first = targets.first().is_some_and(is_ipv6);
    let other = targets.iter().position(|target| is_ipv6(target) != first);
    match other.filter(|at| *at >= MAX_ADDRESSES) {
        Some(at) => {
            let other = targets.swap_remove(at);
            targets.truncate(MAX_ADDRESSES - 1);
            targets.push(other);
        }
        None => targets.truncate(MAX_ADDRESSES),
    }
}

/// Why a destination has no address that could be used.
#[derive(Default)]
struct NoTarget {
    /// The rank of a host whose addresses could not be looked up, and why.
    failed: Option<(usize, String)>,
    /// The rank of a host that is this one.
    own: Option<usize>,
    family: bool,
    private: Option<IpAddr>,
}

impl NoTarget {
    fn verdict(self, hosts: &str) -> Verdict {
        let own = self.own;
        let before_own = |rank: &usize| own.is_none_or(|own| *rank < own);
        if let Some((_, reason)) = self.failed.filter(|(rank, _)| before_own(rank)) {
            let text = format!("addresses of {hosts} can not be looked up: {reason}");
            return Verdict::deferred(451, "4.4.3", &text);
        }
        if own.is_some() {
            return mx::loops_back(hosts);
        }
        if let Some(address) = self.private {
            let text = format!(
                "{hosts} is at {address}, an address that is not on the Internet; \
                 delivery.private_targets = true allows that"
            );
            let enhanced = if address.is_loopback() {
                "5.4.6"
            } else {
                "5.4.4"
            };
            return Verdict::failed(554, enhanced, &text);
        }
        if self.family {
            let text = format!("{hosts} can only be reached over an IP family we do not send from");
            return Verdict::deferred(451, "4.4.1", &text);
        }
        Verdict::failed(
            550,
            "5.4.4",
            &format!("{hosts} has neither A nor AAAA record"),
        )
    }
}
