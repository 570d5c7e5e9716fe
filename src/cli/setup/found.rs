//! What the DNS and this host say before anything is set up: nothing is changed by looking, and
//! what can not be found out is left out.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};

use super::super::check;
use crate::config::{Config, Dns, Dnssec};
use crate::dns::mx::Lookup;
use crate::dns::{Addresses, Resolver};
use crate::doctor::host::Outbound;
use crate::publish::data;

/// How long all questions together may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// Servers that answer [`SEEN_NAME`] with the address that asks, one of each family.
const SEEN_BY: [&str; 2] = ["208.67.222.222:53", "[2620:119:35::35]:53"];
/// The name that is asked for.
const SEEN_NAME: &str = "myip.opendns.com";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Hosts that take the domain's mail now.
    pub mx: Vec<String>,
    /// Its SPF records: more than one is a mistake that receivers punish.
    pub spf: Vec<String>,
    /// Names of our addresses that lead back to them.
    pub ptr: Vec<(IpAddr, String)>,
    /// The name servers of the domain.
    pub servers: Vec<String>,
    /// All names of our addresses.
    pub reverse: Vec<(IpAddr, String)>,
    /// What became of a try to reach a mail host elsewhere.
    pub outbound: Vec<Outbound>,
}

/// Asks about `domain` and `ips`.
pub(super) fn look(dns: &Dns, domain: &str, ips: &[IpAddr]) -> Found {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (Ok(runtime), Ok(resolver)) = (runtime, Resolver::new(dns)) else {
        return Found::default();
    };
    runtime.block_on(async {
        let ask = async {
            let (mx, spf, servers) = tokio::join!(
                mx(&resolver, domain),
                spf(&resolver, domain),
                servers(&resolver, domain)
            );
            let (mut ptr, mut reverse) = (Vec::new(), Vec::new());
            for ip in ips {
                let (all, good) = names(&resolver, *ip).await;
                reverse.extend(all.into_iter().map(|name| (*ip, name)));
                ptr.extend(good.into_iter().map(|name| (*ip, name)));
            }
            Found {
                mx,
                spf,
                servers,
                ptr,
                reverse,
                outbound: Vec::new(),
            }
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_default()
    })
}

async fn mx(resolver: &Resolver, domain: &str) -> Vec<String> {
    match resolver.mx(&format!("{domain}.")).await.0 {
        Lookup::Records(records) => records.into_iter().map(|record| record.host).collect(),
        _ => Vec::new(),
    }
}

async fn spf(resolver: &Resolver, domain: &str) -> Vec<String> {
    let Ok(found) = resolver
        .hickory()
        .lookup(format!("{domain}."), RecordType::TXT)
        .await
    else {
        return Vec::new();
    };
    let texts = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(text) => {
                let parts = text.txt_data.concat();
                String::from_utf8(parts).ok()
            }
            _ => None,
        });
    let is_spf = |text: &String| text == "v=spf1" || text.starts_with("v=spf1 ");
    texts.filter(is_spf).collect()
}

async fn servers(resolver: &Resolver, domain: &str) -> Vec<String> {
    let hickory = resolver.hickory();
    let Ok(found) = hickory.lookup(format!("{domain}."), RecordType::NS).await else {
        return Vec::new();
    };
    let names = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::NS(name) => Some(data::name(&name.0.to_ascii())),
            _ => None,
        });
    names.collect()
}

/// The names of an address, and those that lead back to it.
async fn names(resolver: &Resolver, ip: IpAddr) -> (Vec<String>, Vec<String>) {
    let Ok(found) = resolver.hickory().reverse_lookup(ip).await else {
        return (Vec::new(), Vec::new());
    };
    let (mut all, mut good) = (Vec::new(), Vec::new());
    for record in found.answers() {
        let RData::PTR(name) = &record.data else {
            continue;
        };
        let name = name.to_string().trim_end_matches('.').to_ascii_lowercase();
        all.push(name.clone());
        let back = resolver.hickory().lookup_ip(format!("{name}.")).await;
        if back.is_ok_and(|back| back.iter().any(|address| address == ip)) {
            good.push(name);
        }
    }
    (all, good)
}

/// Tries the mail host of a domain elsewhere, which shows whether port 25 is open on the way out.
pub(super) fn reach(config: &Config, ips: &[IpAddr], probe: &str) -> Vec<Outbound> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (Ok(runtime), Ok(resolver)) = (runtime, Resolver::new(&config.dns)) else {
        return Vec::new();
    };
    runtime.block_on(check::outbound(config, &resolver, ips, probe))
}

/// The addresses that others see, by the words of a server which answers a name with the address
/// that asks. `None`: the usual ones.
pub(super) fn seen_addresses(server: Option<SocketAddr>) -> Vec<IpAddr> {
    let usual = SEEN_BY.iter().filter_map(|server| server.parse().ok());
    let servers: Vec<SocketAddr> = server.map_or_else(|| usual.collect(), |one| vec![one]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    for server in servers {
        let dns = Dns {
            servers: vec![server],
            dnssec: Dnssec::Off,
            ..Dns::default()
        };
        let Ok(resolver) = Resolver::new(&dns) else {
            continue;
        };
        let answers = runtime.block_on(async {
            // It has addresses of the family that it is asked by.
            match server.is_ipv4() || server.ip().is_loopback() {
                true => resolver.ipv4(SEEN_NAME).await,
                false => resolver.ipv6(SEEN_NAME).await,
            }
        });
        if let Addresses::Found(found) = answers {
            seen.extend(found);
        }
    }
    seen.dedup();
    seen
}

/// Words in the names that hosters give to all their addresses.
const GENERIC: [&str; 10] = [
    "static", "dynamic", "dyn", "dhcp", "pool", "dsl", "cust", "vps", "host", "ip",
];

/// Whether a PTR name was given to this host rather than to every address of its hoster.
pub(super) fn is_own(name: &str, domain: &str) -> bool {
    if name == domain || name.ends_with(&format!(".{domain}")) {
        return true;
    }
    let first = name.split('.').next().unwrap_or_default();
    let digits = first.chars().filter(char::is_ascii_digit).count();
    let word = |label: &str| {
        let letters = label.trim_matches(|c: char| !c.is_ascii_alphabetic());
        label
            .split('-')
            .chain([letters])
            .any(|part| GENERIC.contains(&part))
    };
    digits < 4 && !name.split('.').any(word)
}

/// Addresses of `config` that another program has.
pub(super) fn taken(config: &Config) -> Vec<String> {
    let mail = config.listeners.iter().map(|listen| listen.address.clone());
    let web = config
        .web
        .http
        .iter()
        .chain(&config.web.https)
        .map(ToString::to_string);
    let is_taken = |address: &String| {
        let bound = TcpListener::bind(address.as_str());
        bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    mail.chain(web).filter(is_taken).collect()
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn a_name_that_a_hoster_gave_to_every_address_is_not_ours() {
        for (name, own) in [
            ("smtp.example.org", true),
            ("192-0-2-1.example.org", true),
            ("mail.company.example", true),
            ("mx1.company.example", true),
            ("static.hoster.example", false),
            ("vps-1.hoster.example", false),
            ("192-0-2-1.hoster.example", false),
            ("ip192.hoster.example", false),
            ("1.2.0.192.pool.hoster.example", false),
        ] {
            assert_eq!(is_own(name, "example.org"), own, "{name}");
        }
    }
}
