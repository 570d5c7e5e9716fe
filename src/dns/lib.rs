//! One caching resolver for the whole house.
//!
//! Everything that asks DNS asks through a clone of one [`Resolver`]; clones share its cache, which
//! respects TTLs, remembers what does not exist, and is bounded. What it gives are plain answers:
//! records, nothing, no such domain, or "could not find out", which is never taken for "no".
//! Lookups are of whole names: no search list is applied, and `/etc/hosts` is not read, because
//! where mail goes must not depend on the machine it leaves from.
//!
//! Where no servers are named the system's list is followed: [`Resolver::follow`] reads it again
//! whenever it has changed.
#![forbid(unsafe_code)]

mod asked;
#[cfg(test)]
mod cache_tests;
mod confirm;
mod mended;
pub mod mx;
mod tlsa;

// The rooms that this one enters.
use chapar_config as config;
#[cfg(test)]
use chapar_lab as lab;

use std::fs::Metadata;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

use crate::config::Dns;
use asked::{Asked, Pair, is_secure, is_secure_absence};
use mended::Mending;

pub use tlsa::{Tlsa, TlsaRecord};

/// How long one DNS server may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// How often a question is asked before it counts as unanswered.
pub const ATTEMPTS: usize = 2;
/// That something does not exist is remembered no longer (RFC 2308 section 5 advises 1 to 3 hours):
/// a domain that was set up a moment too late gets its mail soon.
pub const LONGEST_ABSENCE: Duration = Duration::from_secs(3600);
/// Answers kept in memory.
pub const CACHE_ANSWERS: u64 = 8192;
/// Where the system's servers are named.
const SYSTEM: &str = "/etc/resolv.conf";
/// How often is looked whether it has changed.
const LOOK: Duration = Duration::from_secs(5);

/// The resolver can not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// No `dns.servers`, and the system's list could not be read.
    #[error("no DNS servers: {0}; name some with dns.servers = [\"127.0.0.1:53\"]")]
    System(NetError),
    /// `dns.trust_anchor` can not be read.
    #[error("dns.trust_anchor {0}: {1}; write DNSKEY records into it, one a line")]
    Anchor(String, String),
    /// The resolver refused to start.
    #[error("the DNS resolver can not start: {0}")]
    Start(NetError),
}

/// What a lookup of addresses told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// These, in the order the server gave them.
    Found(Vec<IpAddr>),
    /// The name has none, or does not exist.
    None,
    /// Could not find out.
    Failed(String),
}

/// What a lookup of TXT records told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// These, the strings of each put together.
    Found(Vec<Vec<u8>>),
    /// The name has none, or does not exist.
    None,
    /// Could not find out.
    Failed(String),
}

/// A handle to the shared resolver.
#[derive(Clone)]
pub struct Resolver {
    /// Whom we ask, which is replaced as a whole: whoever asks just now still hears the answer.
    /// And the list of the system that this was made of.
    asked: Arc<RwLock<(Asked, Vec<u8>)>>,
    settings: Arc<Settings>,
}

/// What a resolver is made of.
struct Settings {
    config: Dns,
    timeout: Duration,
    cached: u64,
    /// The system's list of servers, and the port that all of them listen on.
    system: PathBuf,
    port: u16,
}

impl Resolver {
    /// Sets up the resolver for these servers, or the system's.
    pub fn new(config: &Dns) -> Result<Resolver, ResolverError> {
        Resolver::build(config, TIMEOUT, CACHE_ANSWERS)
    }

    fn build(config: &Dns, timeout: Duration, cached: u64) -> Result<Resolver, ResolverError> {
        Resolver::with(Settings {
            config: config.clone(),
            timeout,
            cached,
            system: SYSTEM.into(),
            port: 53,
        })
    }

    fn with(settings: Settings) -> Result<Resolver, ResolverError> {
        Ok(Resolver {
            asked: Arc::new(RwLock::new(settings.ask(settings.list()?)?)),
            settings: Arc::new(settings),
        })
    }

    fn asked(&self) -> Asked {
        let asked = self.asked.read().unwrap_or_else(PoisonError::into_inner);
        asked.0.clone()
    }

    /// Reads the system's list of servers again, if that is where they are from. If it is another
    /// one, what was cached is forgotten: servers that were wrong may have said anything.
    pub fn read_again(&self) -> Result<(), ResolverError> {
        let list = self.settings.list()?;
        let known = self.asked.read().unwrap_or_else(PoisonError::into_inner);
        if known.1 == list {
            return Ok(());
        }
        drop(known);
        let asked = self.settings.ask(list)?;
        *self.asked.write().unwrap_or_else(PoisonError::into_inner) = asked;
        tracing::info!(target: "dns", file = %self.settings.system.display(), "DNS servers read again");
        Ok(())
    }

    /// Follows the system's list of servers for as long as this is polled. While it can not be read
    /// the servers of before are asked.
    pub async fn follow(&self) {
        if !self.settings.config.servers.is_empty() {
            return;
        }
        let seen = || {
            let of = |meta: Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
            std::fs::metadata(&self.settings.system).map(of).ok()
        };
        let mut last = seen();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = seen();
            if now.is_none() || now == last {
                continue;
            }
            last = now;
            if let Err(error) = self.read_again() {
                tracing::error!(target: "dns", %error, "the DNS servers of before are asked");
            }
        }
    }
}

impl Settings {
    /// The system's list of servers; empty where it is not asked for.
    fn list(&self) -> Result<Vec<u8>, ResolverError> {
        match self.config.servers.is_empty() {
            true => {
                std::fs::read(&self.system).map_err(|error| ResolverError::System(error.into()))
            }
            false => Ok(Vec::new()),
        }
    }

    fn ask(&self, list: Vec<u8>) -> Result<(Asked, Vec<u8>), ResolverError> {
        let Settings {
            config,
            timeout,
            cached,
            port,
            ..
        } = self;
        let (timeout, cached) = (*timeout, *cached);
        let (servers, mut options) = match config.servers.is_empty() {
            true => {
                let (system, options) =
                    system_conf::parse_resolv_conf(&list).map_err(ResolverError::System)?;
                let mut servers = system.name_servers;
                for connection in servers.iter_mut().flat_map(|one| &mut one.connections) {
                    connection.port = *port;
                }
                (ResolverConfig::from_parts(None, vec![], servers), options)
            }
            false => {
                let servers = config.servers.iter().map(|server| {
                    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                    let connections = connections.map(|mut connection| {
                        connection.port = server.port();
                        connection
                    });
                    NameServerConfig::new(server.ip(), true, connections.to_vec())
                });
                let servers = servers.collect();
                (
                    ResolverConfig::from_parts(None, vec![], servers),
                    ResolverOpts::default(),
                )
            }
        };
        options.timeout = timeout;
        // The resolver counts repetitions.
        options.attempts = ATTEMPTS - 1;
        options.cache_size = cached;
        options.negative_max_ttl = Some(LONGEST_ABSENCE);
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = true;
        options.try_tcp_on_error = true;
        let anchors = anchors(&config.trust_anchor)?;
        let usual = pair::<TokioRuntimeProvider>(&servers, &options, &anchors)?;
        // Asked so seldom that what it found is not worth keeping.
        options.cache_size = 0;
        let mending = pair::<Mending>(&servers, &options, &anchors)?;
        Ok((Asked::new(usual, mending, config.dnssec), list))
    }
}

impl Resolver {
    /// The resolver itself, for libraries that want one, as it is now: it validates if that is known
    /// to work, see [`Resolver::validates`].
    pub fn hickory(&self) -> TokioResolver {
        self.asked().inner().clone()
    }

    /// Whether answers are validated (DNSSEC); finds out what `dns.dnssec = "auto"` means here.
    pub async fn validates(&self) -> bool {
        self.asked().validates().await
    }

    /// The MX records of a domain, and until when they hold.
    pub async fn mx(&self, domain: &str) -> (mx::Lookup, Instant) {
        let (lookup, until, _) = self.mx_proven(domain).await;
        (lookup, until)
    }

    /// The same, and whether DNSSEC proves it: the records, or that there are none.
    pub async fn mx_proven(&self, domain: &str) -> (mx::Lookup, Instant, bool) {
        let now = Instant::now();
        let Some(name) = fqdn(domain) else {
            return (mx::Lookup::NoDomain, now, false);
        };
        match self.asked().lookup(name, RecordType::MX).await {
            Ok(found) => {
                let proven = is_secure(found.answers(), RecordType::MX);
                let records = found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::MX(data) => Some(mx::Record {
                            preference: data.preference,
                            host: host_text(&data.exchange),
                        }),
                        _ => None,
                    });
                let records: Vec<_> = records.collect();
                let lookup = match records.is_empty() {
                    true => mx::Lookup::Nothing,
                    false => mx::Lookup::Records(records),
                };
                (lookup, found.valid_until(), proven)
            }
            Err(error) => {
                let proven = is_secure_absence(&error);
                let lookup = match absence(&error) {
                    Some(ResponseCode::NXDomain) => mx::Lookup::NoDomain,
                    Some(_) => mx::Lookup::Nothing,
                    None => mx::Lookup::Failed(error.to_string()),
                };
                (lookup, now, proven)
            }
        }
    }

    /// The TXT records of a name.
    pub async fn txt(&self, name: &str) -> Text {
        let Some(name) = fqdn(name) else {
            return Text::None;
        };
        match self.asked().lookup(name, RecordType::TXT).await {
            Ok(found) => {
                let texts = found
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::TXT(txt) => Some(txt.txt_data.concat()),
                        _ => None,
                    });
                let texts: Vec<_> = texts.collect();
                match texts.is_empty() {
                    true => Text::None,
                    false => Text::Found(texts),
                }
            }
            Err(error) => match absence(&error) {
                Some(_) => Text::None,
                None => Text::Failed(error.to_string()),
            },
        }
    }

    /// The IPv4 addresses of a host.
    pub async fn ipv4(&self, host: &str) -> Addresses {
        self.addresses(host, RecordType::A).await
    }

    /// The IPv6 addresses of a host.
    pub async fn ipv6(&self, host: &str) -> Addresses {
        self.addresses(host, RecordType::AAAA).await
    }

    async fn addresses(&self, host: &str, kind: RecordType) -> Addresses {
        let Some(name) = fqdn(host) else {
            return Addresses::None;
        };
        match self.asked().lookup(name, kind).await {
            Ok(found) => {
                let addresses = found
                    .answers()
                    .iter()
                    .filter_map(|record| match record.data {
                        RData::A(a) => Some(IpAddr::V4(Ipv4Addr::from(a))),
                        RData::AAAA(aaaa) => Some(IpAddr::V6(Ipv6Addr::from(aaaa))),
                        _ => None,
                    });
                let addresses: Vec<_> = addresses.collect();
                match addresses.is_empty() {
                    true => Addresses::None,
                    false => Addresses::Found(addresses),
                }
            }
            Err(error) => match absence(&error) {
                Some(_) => Addresses::None,
                None => Addresses::Failed(error.to_string()),
            },
        }
    }
}

/// Two resolvers with the same settings, one of which validates.
fn pair<P: RuntimeProvider + Default>(
    servers: &ResolverConfig,
    options: &ResolverOpts,
    anchors: &Arc<TrustAnchors>,
) -> Result<Pair<hickory_resolver::Resolver<P>>, ResolverError> {
    let build = |validate: bool| {
        let builder =
            hickory_resolver::Resolver::builder_with_config(servers.clone(), P::default());
        let mut builder = builder.with_options(options.clone());
        if validate {
            builder = builder.with_trust_anchor(Arc::clone(anchors));
        }
        builder.build().map_err(ResolverError::Start)
    };
    Ok(Pair {
        plain: build(false)?,
        validating: build(true)?,
    })
}

/// Whom validation trusts: the root's keys, or those of a file.
fn anchors(file: &str) -> Result<Arc<TrustAnchors>, ResolverError> {
    if file.is_empty() {
        return Ok(Arc::new(TrustAnchors::default()));
    }
    let wrong = |problem: String| ResolverError::Anchor(file.to_owned(), problem);
    let anchors = TrustAnchors::from_file(Path::new(file));
    let anchors = anchors.map_err(|error| wrong(error.to_string()))?;
    match anchors.is_empty() {
        true => Err(wrong("it holds no DNSKEY record of the root".to_owned())),
        false => Ok(Arc::new(anchors)),
    }
}

/// The response code where the error is a server's word that there is nothing. Anything else
/// (SERVFAIL, REFUSED, a timeout, a bad signature) means that we do not know.
fn absence(error: &NetError) -> Option<ResponseCode> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => match nothing.response_code {
            code @ (ResponseCode::NXDomain | ResponseCode::NoError) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

/// A whole name, so that no search list is applied; `None` for what can not be one.
fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// A host name as text without the final dot; the root is empty.
fn host_text(name: &Name) -> String {
    let text = name.to_ascii();
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::DnsServer;

    #[tokio::test]
    async fn r9_the_systems_servers_are_read_again_when_they_change() {
        let server = DnsServer::start().await.expect("a DNS server");
        server.a("mx.example.org", [192, 0, 2, 7].into());
        let dir = tempfile::tempdir().expect("directory");
        let system = dir.path().join("resolv.conf");
        std::fs::write(&system, "nameserver 127.0.0.77\n").expect("write");
        let resolver = Resolver::with(Settings {
            config: Dns::default(),
            timeout: Duration::from_millis(200),
            cached: 100,
            system: system.clone(),
            port: server.address().port(),
        });
        let resolver = resolver.expect("a resolver");
        let asks = resolver.clone();
        let nobody = asks.ipv4("mx.example.org").await;
        assert!(matches!(nobody, Addresses::Failed(_)), "{nobody:?}");

        // A list that names nobody changes nothing, and neither does one that is gone.
        std::fs::remove_file(&system).expect("remove");
        assert!(resolver.read_again().is_err());

        let follow = resolver.clone();
        tokio::spawn(async move { follow.follow().await });
        tokio::task::yield_now().await;
        std::fs::write(&system, "# mended\nnameserver 127.0.0.1\n").expect("write");
        let found = Addresses::Found(vec![[192, 0, 2, 7].into()]);
        let soon = Instant::now() + 3 * LOOK;
        while asks.ipv4("mx.example.org").await != found {
            assert!(Instant::now() < soon, "the list is not read again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn lab() -> (DnsServer, Resolver) {
        let server = DnsServer::start().await.expect("a DNS server");
        let config = Dns {
            servers: vec![server.address()],
            ..Dns::default()
        };
        let resolver = Resolver::new(&config).expect("a resolver");
        (server, resolver)
    }

    #[tokio::test]
    async fn mx_answers_and_every_kind_of_none() {
        let (server, resolver) = lab().await;
        server.mx("example.com", 10, "MX1.example.com");
        server.mx("example.com", 20, "192.0.2.1");
        server.null_mx("null.example");
        server.a("only-a.example", Ipv4Addr::new(192, 0, 2, 7));
        server.servfail("broken.example");
        server.cname("alias.example", "example.com");
        let record = |preference, host: &str| mx::Record {
            preference,
            host: host.to_owned(),
        };
        let both =
            mx::Lookup::Records(vec![record(10, "mx1.example.com"), record(20, "192.0.2.1")]);
        let lower = |lookup| match lookup {
            mx::Lookup::Records(mut records) => {
                records
                    .iter_mut()
                    .for_each(|record| record.host.make_ascii_lowercase());
                mx::Lookup::Records(records)
            }
            other => other,
        };
        assert_eq!(lower(resolver.mx("example.com").await.0), both);
        assert_eq!(lower(resolver.mx("alias.example").await.0), both);
        let null = mx::Lookup::Records(vec![record(0, "")]);
        assert_eq!(resolver.mx("null.example").await.0, null);
        assert_eq!(resolver.mx("only-a.example").await.0, mx::Lookup::Nothing);
        assert_eq!(resolver.mx("nowhere.example").await.0, mx::Lookup::NoDomain);
        assert!(matches!(
            resolver.mx("broken.example").await.0,
            mx::Lookup::Failed(_)
        ));
        let long = "x".repeat(64);
        assert_eq!(resolver.mx(&long).await.0, mx::Lookup::NoDomain);
    }

    #[tokio::test]
    async fn addresses_and_a_server_that_is_gone() {
        let (server, resolver) = lab().await;
        server.a("a.example", Ipv4Addr::new(192, 0, 2, 7));
        server.aaaa("a.example", Ipv6Addr::LOCALHOST);
        server.servfail("broken.example");
        let found = |address: &str| Addresses::Found(vec![address.parse().expect("address")]);
        assert_eq!(resolver.ipv4("a.example").await, found("192.0.2.7"));
        assert_eq!(resolver.ipv6("a.example").await, found("::1"));
        assert_eq!(resolver.ipv4("nowhere.example").await, Addresses::None);
        assert!(matches!(
            resolver.ipv4("broken.example").await,
            Addresses::Failed(_)
        ));
        // The record goes away: seen at once, because its TTL was 0.
        server.remove("a.example");
        assert_eq!(resolver.ipv4("a.example").await, Addresses::None);
        let refused = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr());
        let config = Dns {
            servers: vec![refused.expect("a free port")],
            ..Dns::default()
        };
        let resolver =
            Resolver::build(&config, Duration::from_millis(100), 100).expect("a resolver");
        assert!(matches!(
            resolver.ipv4("a.example").await,
            Addresses::Failed(_)
        ));
    }
}
