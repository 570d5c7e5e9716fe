//! Facts about one of our domains.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Ask, net};
use crate::dns::mx::Lookup as MxLookup;
use crate::dns::{Addresses, Resolver, TlsaRecord};
use crate::doctor::{Asked, Finding, Level, address, dkim, dmarc, mx, policy, spf};
use crate::identity::Domain;
use crate::signing::keys::{Algorithm, PrivateKey};
use crate::verify::dmarc as dmarc_record;
use crate::verify::lookup::{Lookup, Trouble};
use crate::verify::spf::record::{self, Mechanism};
use crate::verify::spf::{self as spf_check, Sender, SpfResult};
use crate::web;

/// Blocklists of domains.
const DOMAIN_LISTS: [&str; 1] = ["dbl.spamhaus.org"];
/// Terms that are counted; a record with more is wrong anyway.
const MOST_COUNTED: usize = 30;
/// MX hosts that are looked at.
const MOST_HOSTS: usize = 10;

/// Everything about a domain.
pub(super) async fn examine(ask: &Ask<'_>, name: &str) -> Vec<Finding> {
    let Some(domain) = ask.identity.domain(name) else {
        return Vec::new();
    };
    let mut findings = mx::judge(&mx_facts(ask, name, domain).await);
    let spf = spf_facts(ask, name).await;
    let spf_passes = !ask.ips.is_empty() && spf.results.iter().all(|(_, r)| *r == SpfResult::Pass);
    findings.extend(spf::judge(&spf));
    let keys = dkim::judge(name, &dkim_facts(ask, name, domain).await);
    let dkim_passes = keys
        .iter()
        .any(|key| key.about.contains("._domainkey.") && key.level != Level::Wrong);
    findings.extend(keys);
    findings.extend(dmarc::judge(
        &dmarc_facts(ask, name, dkim_passes, spf_passes).await,
    ));
    if domain.mode.takes_mail() {
        findings.extend(policy::judge(&policy_facts(ask, name).await));
    }
    let lookup = Lookup::new(ask.hickory());
    let mut lists = Vec::new();
    for zone in DOMAIN_LISTS {
        let answer = lookup.a(&format!("{name}.{zone}")).await.records();
        let zone = zone.to_owned();
        lists.push(address::Listing { zone, answer });
    }
    findings.extend(address::blocklists(name, &lists));
    findings
}

async fn mx_facts(ask: &Ask<'_>, name: &str, domain: &Domain) -> mx::Facts {
    let (records, _) = ask.resolver.mx(name).await;
    let mut hosts = Vec::new();
    if let MxLookup::Records(records) = &records {
        let named = records.iter().filter(|record| !record.host.is_empty());
        for record in named.take(MOST_HOSTS) {
            hosts.push(mx::Host {
                name: record.host.to_ascii_lowercase(),
                addresses: addresses(ask, &record.host).await,
                alias: is_alias(ask, &record.host).await,
            });
        }
    }
    mx::Facts {
        domain: name.to_owned(),
        hostname: ask.config.hostname.clone(),
        mode: domain.mode,
        records,
        hosts,
        own: ask.ips.clone(),
    }
}

/// Both families of a host.
async fn addresses(ask: &Ask<'_>, host: &str) -> Asked<IpAddr> {
    let mut all = Vec::new();
    for found in [ask.resolver.ipv4(host).await, ask.resolver.ipv6(host).await] {
        match found {
            Addresses::Found(found) => all.extend(found),
            Addresses::None => {}
            Addresses::Failed(_) => return Err(Trouble),
        }
    }
    Ok(all)
}

async fn raw(ask: &Ask<'_>, name: &str, kind: RecordType) -> Asked<RData> {
    let Ok(mut name) = Name::from_ascii(name) else {
        return Ok(Vec::new());
    };
    name.set_fqdn(true);
    match ask.hickory().lookup(name, kind).await {
        Ok(found) => Ok(found
            .answers()
            .iter()
            .map(|record| record.data.clone())
            .collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(_) => Err(Trouble),
    }
}

/// Whether a name is a CNAME.
pub(super) async fn is_alias(ask: &Ask<'_>, name: &str) -> bool {
    let records = raw(ask, name, RecordType::CNAME).await.unwrap_or_default();
    records.iter().any(|data| matches!(data, RData::CNAME(_)))
}

/// TLSA records of a name.
pub(super) async fn tlsa(ask: &Ask<'_>, name: &str) -> Asked<TlsaRecord> {
    let records = raw(ask, name, RecordType::TLSA).await?;
    let records = records.iter().filter_map(|data| match data {
        RData::TLSA(tlsa) => Some(TlsaRecord {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            data: tlsa.cert_data.clone(),
        }),
        _ => None,
    });
    Ok(records.collect())
}

/// SPF records of a name, and what each of our addresses gets. `local`: the sender's local part;
/// empty: the null sender with this EHLO name.
pub(super) async fn spf_of(
    ask: &Ask<'_>,
    name: &str,
    local: &str,
) -> (Asked<Vec<u8>>, Vec<(IpAddr, SpfResult)>) {
    let lookup = Lookup::new(ask.hickory());
    let records = lookup.txt(name).await.records();
    let records = records.map(|all| {
        all.into_iter()
            .filter(|text| record::is_spf(text))
            .collect()
    });
    let from = match local {
        "" => String::new(),
        local => format!("{local}@{name}"),
    };
    let mut results = Vec::new();
    for ip in &ask.ips {
        let sender = Sender {
            client: *ip,
            hello: match local {
                "" => name,
                _ => &ask.config.hostname,
            },
            from: &from,
            receiver: &ask.config.hostname,
            now: crate::time::now() / 1000,
        };
        let lookup = Lookup::new(ask.hickory());
        results.push((*ip, spf_check::check(&lookup, sender).await.result));
    }
    (records, results)
}

async fn spf_facts(ask: &Ask<'_>, name: &str) -> spf::Facts {
    let (records, results) = spf_of(ask, name, "postmaster").await;
    let lookups = match records.as_deref() {
        Ok([text]) => count(&ask.resolver, text).await,
        _ => None,
    };
    spf::Facts {
        domain: name.to_owned(),
        hostname: ask.config.hostname.clone(),
        records,
        lookups,
        results,
    }
}

/// Terms that ask the DNS in a record and in all that it includes, whatever the sender; `None`: it
/// could not be followed.
pub(in crate::cli) async fn count(resolver: &Resolver, text: &[u8]) -> Option<usize> {
    let lookup = Lookup::new(resolver.hickory());
    let mut texts = vec![text.to_vec()];
    let mut count = 0;
    while let Some(text) = texts.pop() {
        let record = record::parse(&text)?;
        let mut next = Vec::new();
        let mut ends = false;
        for directive in &record.directives {
            match &directive.mechanism {
                Mechanism::Include(spec) => next.push(spec.clone()),
                Mechanism::A(..) | Mechanism::Mx(..) | Mechanism::Ptr(_) | Mechanism::Exists(_) => {
                    count += 1;
                }
                Mechanism::All => ends = true,
                Mechanism::Ip4(..) | Mechanism::Ip6(..) => {}
            }
        }
        next.extend(record.redirect.filter(|_| !ends));
        for target in next {
            count += 1;
            if count > MOST_COUNTED {
                return Some(count);
            }
            let found = lookup.txt(&target).await.records().ok()?;
            texts.extend(found.into_iter().find(|text| record::is_spf(text)));
        }
    }
    Some(count)
}

async fn dkim_facts(ask: &Ask<'_>, name: &str, domain: &Domain) -> Vec<dkim::Facts> {
    let lookup = Lookup::new(ask.hickory());
    let mut all = Vec::new();
    for selector in &domain.selectors {
        let own = PrivateKey::load(&ask.config.dir, name, selector);
        let own = own.map_err(|error| error.to_string()).map(|key| dkim::Own {
            algorithm: key.algorithm(),
            bits: match key.algorithm() {
                Algorithm::Rsa => rsa_bits(key.public()),
                Algorithm::Ed25519 => 256,
            },
            record: key.record(),
        });
        let published = lookup
            .txt(&format!("{selector}._domainkey.{name}"))
            .await
            .records();
        all.push(dkim::Facts {
            domain: name.to_owned(),
            selector: selector.clone(),
            own,
            published,
        });
    }
    all
}

fn rsa_bits(spki: &[u8]) -> usize {
    let parsed = SubjectPublicKeyInfo::from_der(spki).ok();
    parsed
        .and_then(|(_, key)| key.parsed().ok().map(|key| bits(&key)))
        .unwrap_or_default()
}

fn bits(key: &PublicKey<'_>) -> usize {
    match key {
        PublicKey::RSA(key) => key.key_size(),
        _ => 0,
    }
}

async fn tagged(ask: &Ask<'_>, name: &str, version: &str) -> Asked<Vec<u8>> {
    let lookup = Lookup::new(ask.hickory());
    let records = lookup.txt(name).await.records()?;
    let fits = |text: &Vec<u8>| text.starts_with(version.as_bytes());
    Ok(records.into_iter().filter(fits).collect())
}

async fn dmarc_facts(ask: &Ask<'_>, name: &str, dkim: bool, spf: bool) -> dmarc::Facts {
    let records = tagged(ask, &format!("_dmarc.{name}"), "v=DMARC1").await;
    let mut takers = Vec::new();
    if let Ok([text]) = records.as_deref() {
        let reports = dmarc_record::parse(text)
            .map(|record| record.reports)
            .unwrap_or_default();
        for report in reports {
            let Some((_, taker)) = report.address.rsplit_once('@') else {
                continue;
            };
            let taker = taker.to_ascii_lowercase();
            let below = |a: &str, b: &str| a.ends_with(&format!(".{b}"));
            if taker == name || below(&taker, name) || below(name, &taker) {
                continue;
            }
            let word = tagged(ask, &format!("{name}._report._dmarc.{taker}"), "v=DMARC1").await;
            takers.push((taker, word.ok().map(|records| !records.is_empty())));
        }
    }
    dmarc::Facts {
        domain: name.to_owned(),
        records,
        takers,
        dkim,
        spf,
    }
}

async fn policy_facts(ask: &Ask<'_>, name: &str) -> policy::Facts {
    let config = ask.config;
    let records = tagged(ask, &format!("_mta-sts.{name}"), "v=STSv1").await;
    let served = match config.web.https.is_empty() {
        true => None,
        false => web::policy(config, ask.identity, name).map(|policy| web::policy_id(&policy)),
    };
    let policy = match records.as_deref() {
        Ok([_, ..]) => Some(fetch(ask, name).await),
        _ => None,
    };
    policy::Facts {
        domain: name.to_owned(),
        hostname: config.hostname.clone(),
        records,
        policy,
        served,
        reports: tagged(ask, &format!("_smtp._tls.{name}"), "v=TLSRPTv1").await,
    }
}

/// The policy as a sender gets it; where it leads to this host, from our own listener, because many
/// networks do not let a host reach itself by its public address.
async fn fetch(ask: &Ask<'_>, name: &str) -> Result<String, String> {
    let host = format!("mta-sts.{name}");
    let found = addresses(ask, &host)
        .await
        .map_err(|_| format!("the DNS did not answer for {host}"))?;
    let first = found
        .first()
        .copied()
        .ok_or_else(|| format!("{host} has no address"))?;
    let here = found.iter().any(|ip| ask.ips.contains(ip));
    let own = ask.config.web.https.first().filter(|_| here);
    let target = match own.and_then(|own| net::reachable(&own.to_string(), 443)) {
        Some(own) => own,
        None => SocketAddr::new(first, 443),
    };
    net::page(ask.config, target, &host, "/.well-known/mta-sts.txt").await
}
