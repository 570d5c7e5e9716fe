//! Facts about this machine.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::super::socket;
use super::{Ask, Host, certificate, domain, net};
use crate::auth::bans;
use crate::config::{Config, Service, TlsMode};
use crate::control::protocol::{AGES, Answer, By, Request};
use crate::delivery::mx;
use crate::dns::{Addresses, Resolver};
use crate::doctor::host::{self, Name, Outbound, Port};
use crate::doctor::machine::{self, Daemon, File, OLD};
use crate::doctor::{Finding, address, spf, tlsa};
use crate::identity::{Identity, User, password};
use crate::queue::Selector;
use crate::verify::lookup::{Lookup, Trouble};
use chapar_base::net::{is_in, is_private};

/// Blocklists of addresses that large receivers ask, which may be asked without registration.
const LISTS: [&str; 3] = ["zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com"];
/// Files whose modes are looked at; more are left alone.
const MOST_FILES: usize = 10_000;
/// Type number of SOA and TLSA.
const SOA: u16 = 6;
const TLSA: u16 = 52;

/// Everything that is the machine's and no domain's.
pub(super) async fn examine(ask: &Ask<'_>, probe: &str, time_server: &str) -> Vec<Finding> {
    let config = ask.config;
    let shown_dir = config.data_dir.display().to_string();
    let daemon = daemon(config);
    let running = matches!(daemon, Daemon::Answers { .. });
    let mut findings = machine::daemon(&shown_dir, &daemon);

    let name = name(ask).await;
    findings.extend([host::ehlo(&name), host::ipv6(&name)]);
    for ip in &ask.ips {
        findings.extend(address::judge(&address_facts(ask, *ip).await));
    }
    if ask.ips.is_empty() {
        findings.push(Finding::warning(
            "ptr",
            &config.hostname,
            "no public address of this host was found",
            "PTR, SPF and blocklists were not looked at",
            "say which it is: chapar check --ip ADDRESS, or delivery.source in chapar.toml",
        ));
    }
    if let Some(finding) = spf_of_host(ask).await {
        findings.push(finding);
    }

    let (facts, leaf) = certificate::examine(config);
    let any_tls = config
        .listeners
        .iter()
        .any(|listen| listen.tls != TlsMode::None);
    if any_tls {
        findings.push(host::certificate(&facts));
    }
    let mut chain = Vec::new();
    for port in ports(config).await {
        if let Ok(seen) = &port.seen
            && chain.is_empty()
        {
            chain.clone_from(&seen.chain);
        }
        findings.push(host::port(&port, running, leaf.as_deref()));
    }
    findings.push(host::outbound(
        probe,
        &outbound(config, &ask.resolver, &ask.ips, probe).await,
    ));
    if chain.is_empty() {
        chain.extend(leaf);
    }
    findings.push(tlsa::judge(&dane(ask, chain).await));
    findings.push(dnssec(config).await);
    findings.push(machine::clock(time_server, &clock(ask, time_server).await));
    findings.extend(disk(config));
    let shown = config.dir.display().to_string();
    findings.extend(machine::modes(&shown, &files(config)));
    findings.extend(machine::bans(&private_bans(config)));
    let domains = config.dir.join("domains").display().to_string();
    findings.extend(machine::passwords(&domains, &imported(ask.identity)));
    findings
}

/// The listeners and the certificate alone.
pub(super) async fn glance(ask: &Ask<'_>, running: bool) -> Host {
    let (facts, leaf) = certificate::examine(ask.config);
    let tls = ask
        .config
        .listeners
        .iter()
        .any(|listen| listen.tls != TlsMode::None);
    let ports = ports(ask.config).await;
    let judge = |port: &Port| host::port(port, running, leaf.as_deref());
    Host {
        listeners: ports.iter().map(judge).collect(),
        certificate: tls.then(|| host::certificate(&facts)),
        left: (tls && facts.broken.is_none()).then_some(facts.left),
    }
}

fn daemon(config: &Config) -> Daemon {
    let old_from = AGES
        .iter()
        .position(|minutes| *minutes == OLD)
        .map_or(0, |at| at + 1);
    let (mut total, mut old, mut commonest) = (0, 0, (0, None));
    let request = Request::Summary {
        selector: Selector::default(),
        by: By::Domain,
    };
    let asked = socket::ask(config, &request, &mut |answer| {
        if let Answer::Row(row) = answer {
            total += row.total;
            old += row.ages.iter().skip(old_from).sum::<u64>();
            if row.total > commonest.0 && row.reply.is_some() {
                commonest = (row.total, row.reply);
            }
        }
        Ok(())
    });
    match asked {
        Ok(_) => Daemon::Answers {
            total,
            old,
            reply: commonest.1,
        },
        Err(socket::Failure::Stopped) => Daemon::Stopped,
        Err(error) => Daemon::Silent(error.to_string()),
    }
}

async fn name(ask: &Ask<'_>) -> Name {
    let host = &ask.config.hostname;
    let asked = |addresses: Addresses| match addresses {
        Addresses::Found(found) => Ok(found),
        Addresses::None => Ok(Vec::new()),
        Addresses::Failed(_) => Err(Trouble),
    };
    Name {
        hostname: host.clone(),
        v4: asked(ask.resolver.ipv4(host).await),
        v6: asked(ask.resolver.ipv6(host).await),
        alias: domain::is_alias(ask, host).await,
        own: ask.ips.clone(),
        family: ask.config.delivery.family,
    }
}

async fn address_facts(ask: &Ask<'_>, ip: IpAddr) -> address::Facts {
    let lookup = Lookup::new(ask.hickory());
    let names = lookup.ptr(ip).await.records();
    let mut forward = Vec::new();
    for name in names.iter().flatten().take(10) {
        let addresses = lookup.addresses(name, ip).await.records();
        forward.push((name.clone(), addresses));
    }
    let mut lists = Vec::new();
    for zone in LISTS {
        let answer = lookup
            .a(&format!("{}.{zone}", reversed(ip)))
            .await
            .records();
        let zone = zone.to_owned();
        lists.push(address::Listing { zone, answer });
    }
    address::Facts {
        ip,
        hostname: ask.config.hostname.clone(),
        names,
        forward,
        lists,
    }
}

/// As blocklists are asked (RFC 5782 sections 2.1 and 2.4).
fn reversed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(ip) => {
            let digits = ip.octets();
            let digits = digits.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let digits: Vec<String> = digits.map(|digit| format!("{digit:x}")).collect();
            digits.join(".")
        }
    }
}

async fn spf_of_host(ask: &Ask<'_>) -> Option<Finding> {
    let host = &ask.config.hostname;
    if ask.ips.is_empty() || ask.identity.domains().any(|(name, _)| name == host) {
        return None;
    }
    let (records, results) = domain::spf_of(ask, host, "").await;
    Some(spf::judge_host(host, &records, &results))
}

async fn ports(config: &Config) -> Vec<Port> {
    let mut ports = Vec::new();
    for listen in &config.listeners {
        let usual = match (listen.service, listen.tls) {
            (Service::Mx, _) => 25,
            (Service::Submission, TlsMode::Implicit) => 465,
            (Service::Submission, _) => 587,
        };
        let Some(target) = net::reachable(&listen.address, usual) else {
            continue;
        };
        ports.push(Port {
            address: format!(
                "{} ({}, {})",
                listen.address,
                listen.service.name(),
                listen.tls.name()
            ),
            tls: listen.tls,
            hostname: config.hostname.clone(),
            seen: net::seen(config, target, listen.tls).await,
        });
    }
    ports
}

/// Tries the mail host of a domain elsewhere over each family.
pub(in crate::cli) async fn outbound(
    config: &Config,
    resolver: &Resolver,
    ips: &[IpAddr],
    probe: &str,
) -> Vec<Outbound> {
    let (records, _) = resolver.mx(probe).await;
    let hosts = mx::hosts(probe, records, &config.hostname).unwrap_or_default();
    let Some(host) = hosts.first() else {
        return Vec::new();
    };
    let mut tried = Vec::new();
    let addresses = [
        resolver.ipv4(&host.name).await,
        resolver.ipv6(&host.name).await,
    ];
    for addresses in addresses {
        let Addresses::Found(found) = addresses else {
            continue;
        };
        let Some(ip) = found.first().copied() else {
            continue;
        };
        if ip.is_ipv6() && !tried.is_empty() && !ips.iter().any(IpAddr::is_ipv6) {
            continue;
        }
        let source = config.delivery.source.iter().copied();
        let source = source
            .into_iter()
            .find(|source| source.is_ipv4() == ip.is_ipv4());
        let target = SocketAddr::new(ip, config.delivery.port);
        tried.push(Outbound {
            target: format!("{} [{ip}]:{}", host.name, target.port()),
            greeting: net::greeting(target, source).await,
        });
    }
    tried
}

async fn dane(ask: &Ask<'_>, chain: Vec<Vec<u8>>) -> tlsa::Facts {
    let hostname = ask.config.hostname.clone();
    let name = format!("_25._tcp.{hostname}");
    let records = domain::tlsa(ask, &name).await;
    let any = records.as_ref().is_ok_and(|records| !records.is_empty());
    let signed = match net::resolver(ask.config) {
        Some(server) if any => net::proves(server, &name, TLSA).await,
        _ => None,
    };
    tlsa::Facts {
        hostname,
        records,
        signed,
        chain,
    }
}

async fn dnssec(config: &Config) -> Finding {
    match net::resolver(config) {
        Some(server) => machine::dnssec(&server.to_string(), net::proves(server, "", SOA).await),
        None => machine::dnssec("dns.servers", None),
    }
}

async fn clock(ask: &Ask<'_>, server: &str) -> Result<i64, String> {
    if let Ok(address) = server.parse::<SocketAddr>() {
        return net::clock(address).await;
    }
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse().map_err(|_| format!("{port} is no port"))?,
        ),
        None => (server, 123),
    };
    match ask.resolver.ipv4(host).await {
        Addresses::Found(found) => {
            let ip = found.first().copied().ok_or("it has no address")?;
            net::clock(SocketAddr::new(ip, port)).await
        }
        _ => Err("it has no address".into()),
    }
}

fn disk(config: &Config) -> Option<Finding> {
    let path = config.data_dir.display().to_string();
    // Before the first start the directory is not there yet.
    let there = config.data_dir.ancestors().find(|path| path.exists())?;
    let space = rustix::fs::statvfs(there).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // Some file systems have no inodes to count.
    let inodes = (space.f_files > 0).then_some(space.f_favail);
    Some(machine::disk(
        &path,
        free,
        config.limits.free_space.0,
        inodes,
    ))
}

/// Users whose password has the hash of another server.
fn imported(identity: &Identity) -> Vec<String> {
    let users = identity.domains().flat_map(|(domain, found)| {
        let imported = |user: &&(&str, &User)| password::is_imported(&user.1.password);
        let users: Vec<_> = found.users().collect();
        let names = users.iter().filter(imported);
        let names = names.map(|(local, _)| format!("{local}@{domain}"));
        names.collect::<Vec<_>>()
    });
    users.collect()
}

/// Banned addresses that are private and not in `limits.never_ban`.
fn private_bans(config: &Config) -> Vec<IpAddr> {
    let bans = bans::load(&config.data_dir, crate::time::now());
    let mut found: Vec<IpAddr> = bans.iter().map(|ban| ban.address).collect();
    found.retain(|ip| is_private(*ip) && !is_in(&config.limits.never_ban, *ip));
    found.sort();
    found.dedup();
    found
}

fn files(config: &Config) -> Vec<File> {
    let mut files = Vec::new();
    walk(&config.dir.join("secrets"), &mut files);
    if let Ok(domains) = fs::read_dir(config.dir.join("domains")) {
        for domain in domains.flatten() {
            add(&domain.path().join("users.toml"), 0o600, &mut files);
        }
    }
    add(&config.data_dir, 0o750, &mut files);
    add(&crate::control::socket(&config.data_dir), 0o600, &mut files);
    files
}

fn walk(dir: &Path, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // A chain is public.
        let public = path.file_name().is_some_and(|name| name == "fullchain.pem");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && files.len() < MOST_FILES => walk(&path, files),
            Ok(kind) if kind.is_file() && !public => add(&path, 0o600, files),
            _ => {}
        }
    }
}

fn add(path: &Path, wanted: u32, files: &mut Vec<File>) {
    let found: io::Result<fs::Metadata> = fs::metadata(path);
    if let Ok(found) = found
        && files.len() < MOST_FILES
    {
        files.push(File {
            path: path.display().to_string(),
            mode: found.permissions().mode() & 0o777,
            wanted,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocklists_are_asked_backwards() {
        assert_eq!(reversed([192, 0, 2, 1].into()), "1.2.0.192");
        let six: IpAddr = "2001:db8::1".parse().expect("address");
        assert!(
            reversed(six).starts_with("1.0.0.0.") && reversed(six).ends_with("8.b.d.0.1.0.0.2")
        );
    }
}
