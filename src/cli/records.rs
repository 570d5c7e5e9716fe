//! The DNS records that a domain needs for its mail, each with why it is needed.

use std::net::{IpAddr, UdpSocket};

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use super::exit::Wrong;
use super::report::COLLECTOR;
use crate::acme;
use crate::config::{Config, Service, TlsMode};
use crate::doctor::tlsa;
use crate::identity::Identity;
use crate::publish::data::{self, Data};
use crate::publish::{self, TTL};
use crate::signing::keys::PrivateKey;
use crate::web;

/// One record, or what must be known to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The owner, without its last dot.
    pub(super) name: String,
    pub(super) data: Value,
    /// Why it is needed.
    pub(super) why: &'static str,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(Data),
    /// A placeholder for an IPv4 address that we can not find out.
    Unknown(&'static str),
}

impl Record {
    fn new(name: &str, data: Data, why: &'static str) -> Record {
        Record {
            name: data::name(name),
            data: Value::Known(data),
            why,
        }
    }

    /// A line of a zone file; a comment if the value is not known.
    pub(super) fn line(&self) -> String {
        let name = &self.name;
        match &self.data {
            Value::Known(data) => format!("{name}. {TTL} IN {} {data}", data.kind().name()),
            Value::Unknown(what) => format!("; {name}. {TTL} IN A ({what}; give it with --ip)"),
        }
    }

    /// The same as an object; nothing if the value is not known.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        let data = self.known()?.data;
        let mut object = json!({
            "name": format!("{}.", self.name), "ttl": TTL, "type": data.kind().name(),
            "data": data.to_string(), "why": self.why,
        });
        if let (Some(text), Some(object)) = (data.text(), object.as_object_mut()) {
            object.insert("text".into(), json!(text));
        }
        Some(object)
    }

    /// What can be published.
    pub(super) fn known(&self) -> Option<publish::data::Record> {
        match &self.data {
            Value::Known(data) => Some(publish::data::Record {
                name: self.name.clone(),
                data: data.clone(),
            }),
            Value::Unknown(_) => None,
        }
    }
}

/// The records of `domain`, which must be ours. `ips`: the addresses of this host.
pub(super) fn of(config: &Config, domain: &str, ips: &[IpAddr]) -> anyhow::Result<Vec<Record>> {
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let found = identity.domain(domain).ok_or_else(|| {
        Wrong(format!(
            "{domain} is not one of our domains; `chapar domain add {domain}` makes it one"
        ))
    })?;
    let host = data::name(&config.hostname);
    let name = domain;
    let mut records = Vec::new();
    let why = "where this host is";
    for ip in ips {
        records.push(Record::new(&host, Data::Address(*ip), why));
    }
    if !ips.iter().any(IpAddr::is_ipv4) {
        records.push(Record {
            name: host.clone(),
            data: Value::Unknown("the public IPv4 address of this host"),
            why,
        });
    }
    let mut add = |name: &str, data, why| records.push(Record::new(name, data, why));
    if found.mode.takes_mail() {
        add(
            name,
            Data::Mx(10, host.clone()),
            "mail to the domain comes here",
        );
    }
    let spf = format!("v=spf1 a:{} ~all", config.hostname);
    add(
        name,
        Data::Text(spf),
        "SPF: this host may send mail of the domain",
    );
    // A bounce has no reverse-path: its HELO name is checked (RFC 7208 section 2.4).
    if host != name {
        add(
            &host,
            Data::Text("v=spf1 a -all".into()),
            "SPF: for bounces from this host",
        );
    }
    let srs = config.forwarding.srs_domain.as_str();
    if !srs.is_empty() && srs != domain {
        // Its bounces must find us, and its SPF record is what receivers of forwarded mail ask for.
        let why = "bounces of forwarded mail come here";
        add(srs, Data::Mx(10, host.clone()), why);
        let spf = format!("v=spf1 a:{} -all", config.hostname);
        let why = "SPF: this host forwards under this domain";
        add(srs, Data::Text(spf), why);
    }
    for selector in &found.selectors {
        let key = PrivateKey::load(&config.dir, domain, selector)
            .with_context(|| format!("no record for selector {selector}"))?;
        let owner = format!("{selector}._domainkey.{name}");
        add(
            &owner,
            Data::Text(key.record()),
            "DKIM: the public key of our signatures",
        );
    }
    // Where `chapar report collect` keeps them.
    let collects = found.mode.takes_mail()
        && found
            .aliases()
            .any(|(name, to)| name == COLLECTOR && to.iter().any(|to| to.contains("report add")));
    let reports = if collects { COLLECTOR } else { "postmaster" };
    // A send-only domain has other senders too, of which we do not know whether they sign.
    let policy = if found.mode.takes_mail() {
        "quarantine"
    } else {
        "none"
    };
    // That of the domain above holds below it, too (RFC 9989 section 4.10).
    if !domain.starts_with('*') {
        let dmarc = format!("v=DMARC1; p={policy}; rua=mailto:{reports}@{domain}");
        add(
            &format!("_dmarc.{name}"),
            Data::Text(dmarc),
            "DMARC: what to do with forgeries",
        );
    }
    if found.mode.takes_mail() && !domain.starts_with('*') {
        let why = "TLS-RPT: others report how their deliveries to this host fared";
        let report = format!("v=TLSRPTv1; rua=mailto:{reports}@{domain}");
        add(&format!("_smtp._tls.{name}"), Data::Text(report), why);
    }
    // Without a listener for https nobody could fetch the policy; below a wildcard it has no name.
    if !domain.starts_with('*')
        && !config.web.https.is_empty()
        && let Some(policy) = web::policy(config, &identity, domain)
    {
        let why = "MTA-STS: where the policy is";
        add(&format!("mta-sts.{name}"), Data::Cname(host.clone()), why);
        let id = format!("v=STSv1; id={}", web::policy_id(&policy));
        let why = "MTA-STS: there is a policy; the id changes with it";
        add(&format!("_mta-sts.{name}"), Data::Text(id), why);
    }
    let whole = !domain.starts_with('*');
    if whole && !config.web.https.is_empty() {
        for (label, why) in [
            ("autoconfig", "Thunderbird sets itself up from there"),
            ("autodiscover", "Outlook sets itself up from there"),
        ] {
            add(&format!("{label}.{name}"), Data::Cname(host.clone()), why);
        }
    }
    if whole
        && config
            .listeners
            .iter()
            .any(|listen| listen.service == Service::Submission && listen.tls == TlsMode::Implicit)
    {
        let why = "mail clients find the submission port (RFC 6186, RFC 8314)";
        let target = Data::Srv {
            priority: 0,
            weight: 1,
            port: 465,
            host: host.clone(),
        };
        add(&format!("_submissions._tcp.{name}"), target, why);
    }
    if config.acme.keep_key
        && found.mode.takes_mail()
        && let Some(hex) = certificate_key(config)
    {
        let tlsa = Data::Tlsa {
            usage: 3,
            selector: 1,
            matching: 1,
            hex,
        };
        let why = "DANE: the key of this host's certificate (counts in signed zones only)";
        add(&format!("_25._tcp.{host}"), tlsa, why);
    }
    // Below the domain's own name it binds nobody else's certificates (RFC 8659 section 3).
    if config.acme.enabled
        && host != *name
        && let Some(ca) = ca(config.acme.directory.as_str())
    {
        let caa = Data::Caa {
            flags: 0,
            tag: "issue".to_owned(),
            value: ca.to_owned(),
        };
        add(
            &host,
            caa,
            "CAA: no other CA may issue a certificate for this host",
        );
    }
    Ok(records)
}

/// The digest of the public key of our certificate.
fn certificate_key(config: &Config) -> Option<String> {
    let pem = std::fs::read(acme::directory(config).join("fullchain.pem")).ok()?;
    let leaf = CertificateDer::from_pem_slice(&pem).ok()?;
    tlsa::public_key_hash(&leaf)
}

/// What CAs that speak ACME are called in CAA records, by the host of their directory.
fn ca(directory: &str) -> Option<&'static str> {
    let host = directory.strip_prefix("https://")?.split('/').next()?;
    let known = [
        ("api.letsencrypt.org", "letsencrypt.org"),
        ("acme.zerossl.com", "sectigo.com"),
        ("api.pki.goog", "pki.goog"),
        ("buypass.com", "buypass.com"),
        ("acme.ssl.com", "ssl.com"),
        ("actalis.com", "actalis.it"),
    ];
    let found = known.iter().find(|(of, _)| host.ends_with(of));
    found.map(|(_, name)| *name)
}

/// A TXT record alone.
pub(super) fn txt(name: &str, text: String) -> Record {
    Record {
        name: data::name(name),
        data: Value::Known(Data::Text(text)),
        why: "DKIM: the public key of our signatures",
    }
}

/// Replaces the SPF record of `domain`.
pub(super) fn set_spf(records: &mut [Record], domain: &str, spf: &str) {
    for record in records {
        if let Value::Known(Data::Text(text)) = &mut record.data
            && record.name == domain
            && text.starts_with("v=spf1 ")
        {
            *text = spf.to_owned();
        }
    }
}

/// The addresses of this host for its A and AAAA records: those given, else those to send from,
/// else the public ones that the kernel would use.
pub(super) fn addresses(config: &Config, given: &[IpAddr]) -> Vec<IpAddr> {
    for known in [given, &config.delivery.source] {
        if !known.is_empty() {
            return known.to_vec();
        }
    }
    public()
}

/// The public addresses that the kernel would use.
pub(super) fn public() -> Vec<IpAddr> {
    // Connecting a UDP socket sends nothing; it makes the kernel choose.
    let probes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let own = probes.into_iter().filter_map(|(own, far)| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    own.filter(is_public).collect()
}

fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_documentation()
                || shared)
        }
        // Global unicast (RFC 4291 section 2.4) without the documentation prefix.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0x0db8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cas_are_known_by_their_directories() {
        assert_eq!(
            ca("https://acme-v02.api.letsencrypt.org/directory"),
            Some("letsencrypt.org")
        );
        assert_eq!(
            ca("https://dv.acme-v02.api.pki.goog/directory"),
            Some("pki.goog")
        );
        assert_eq!(ca("https://ca.example.net/dir"), None);
    }

    #[test]
    fn only_public_addresses_are_guessed() {
        for (ip, public) in [
            ("8.8.8.8", true),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("127.0.0.1", false),
            ("192.0.2.2", false),
            ("169.254.1.1", false),
            ("192.168.1.1", false),
            ("2a01:4f8::1", true),
            ("2001:db8::1", false),
            ("fd00::2", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_public(&ip.parse().expect("address")), public, "{ip}");
        }
    }
}
