//! The DNS records that a domain needs for its mail, as zone-file lines.

use std::fmt::Write as _;
use std::net::{IpAddr, UdpSocket};

use anyhow::Context as _;
use serde_json::json;

use super::exit::Wrong;
use super::report::COLLECTOR;
use crate::config::{Config, Service, TlsMode};
use crate::identity::Identity;
use crate::signing::keys::PrivateKey;
use crate::web;

/// Time to live of what is pasted, seconds: short enough to correct a mistake.
const TTL: u32 = 3600;
/// Longest character-string of a TXT record (RFC 1035 section 3.3), octets.
const STRING: usize = 255;

/// One record, or what must be known to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The owner, with its last dot.
    name: String,
    kind: &'static str,
    data: Data,
    /// Why it is needed.
    why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Plain(String),
    Text(String),
    /// A placeholder for what we can not find out.
    Unknown(&'static str),
}

impl Record {
    /// A line of a zone file; a comment if the value is not known.
    pub(super) fn line(&self) -> String {
        let (name, kind) = (&self.name, self.kind);
        match &self.data {
            Data::Plain(data) => format!("{name} {TTL} IN {kind} {data}"),
            Data::Text(text) => format!("{name} {TTL} IN {kind} {}", quoted(text)),
            Data::Unknown(what) => format!("; {name} {TTL} IN {kind} ({what}; give it with --ip)"),
        }
    }

    /// The same as an object; nothing if the value is not known.
    fn json(&self) -> Option<serde_json::Value> {
        let (data, text) = match &self.data {
            Data::Plain(data) => (data.clone(), None),
            Data::Text(text) => (quoted(text), Some(text)),
            Data::Unknown(_) => return None,
        };
        let mut object = json!({
            "name": self.name, "ttl": TTL, "type": self.kind, "data": data, "why": self.why,
        });
        if let (Some(text), Some(object)) = (text, object.as_object_mut()) {
            object.insert("text".into(), json!(text));
        }
        Some(object)
    }
}

/// `text` as character-strings of at most 255 octets. Our texts are printable ASCII.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for part in text.as_bytes().chunks(STRING) {
        if !out.is_empty() {
            out.push(' ');
        }
        let part = String::from_utf8_lossy(part)
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        let _ = write!(out, "\"{part}\"");
    }
    out
}

/// The records of `domain`, which must be ours. `ips`: the addresses of this host.
pub(super) fn of(config: &Config, domain: &str, ips: &[IpAddr]) -> anyhow::Result<Vec<Record>> {
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let found = identity.domain(domain).ok_or_else(|| {
        Wrong(format!(
            "{domain} is not one of our domains; `chapar domain add {domain}` makes it one"
        ))
    })?;
    let host = format!("{}.", config.hostname);
    let name = format!("{domain}.");
    let mut records = Vec::new();
    let mut add = |name: &str, kind, data, why| {
        records.push(Record {
            name: name.to_owned(),
            kind,
            data,
            why,
        });
    };
    let why = "where this host is";
    for ip in ips {
        let kind = if ip.is_ipv4() { "A" } else { "AAAA" };
        add(&host, kind, Data::Plain(ip.to_string()), why);
    }
    if !ips.iter().any(IpAddr::is_ipv4) {
        add(
            &host,
            "A",
            Data::Unknown("the public IPv4 address of this host"),
            why,
        );
    }
    if found.mode.takes_mail() {
        add(
            &name,
            "MX",
            Data::Plain(format!("10 {host}")),
            "mail to the domain comes here",
        );
    }
    let spf = format!("v=spf1 a:{} ~all", config.hostname);
    add(
        &name,
        "TXT",
        Data::Text(spf),
        "SPF: this host may send mail of the domain",
    );
    // A bounce has no reverse-path: its HELO name is checked (RFC 7208 section 2.4).
    if host != name {
        add(
            &host,
            "TXT",
            Data::Text("v=spf1 a -all".into()),
            "SPF: for bounces from this host",
        );
    }
    let srs = config.forwarding.srs_domain.as_str();
    if !srs.is_empty() && srs != domain {
        // Its bounces must find us, and its SPF record is what receivers of forwarded mail ask for.
        let srs = format!("{srs}.");
        let why = "bounces of forwarded mail come here";
        add(&srs, "MX", Data::Plain(format!("10 {host}")), why);
        let spf = format!("v=spf1 a:{} -all", config.hostname);
        let why = "SPF: this host forwards under this domain";
        add(&srs, "TXT", Data::Text(spf), why);
    }
    for selector in &found.selectors {
        let key = PrivateKey::load(&config.dir, domain, selector)
            .with_context(|| format!("no record for selector {selector}"))?;
        let owner = format!("{selector}._domainkey.{name}");
        add(
            &owner,
            "TXT",
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
            "TXT",
            Data::Text(dmarc),
            "DMARC: what to do with forgeries",
        );
    }
    if found.mode.takes_mail() && !domain.starts_with('*') {
        let why = "TLS-RPT: others report how their deliveries to this host fared";
        let report = format!("v=TLSRPTv1; rua=mailto:{reports}@{domain}");
        add(
            &format!("_smtp._tls.{name}"),
            "TXT",
            Data::Text(report),
            why,
        );
    }
    // Without a listener for https nobody could fetch the policy; below a wildcard it has no name.
    if !domain.starts_with('*')
        && !config.web.https.is_empty()
        && let Some(policy) = web::policy(config, &identity, domain)
    {
        let why = "MTA-STS: where the policy is";
        add(
            &format!("mta-sts.{name}"),
            "CNAME",
            Data::Plain(host.clone()),
            why,
        );
        let id = format!("v=STSv1; id={}", web::policy_id(&policy));
        let why = "MTA-STS: there is a policy; the id changes with it";
        add(&format!("_mta-sts.{name}"), "TXT", Data::Text(id), why);
    }
    let whole = !domain.starts_with('*');
    if whole && !config.web.https.is_empty() {
        for (label, why) in [
            ("autoconfig", "Thunderbird sets itself up from there"),
            ("autodiscover", "Outlook sets itself up from there"),
        ] {
            let target = Data::Plain(host.clone());
            add(&format!("{label}.{name}"), "CNAME", target, why);
        }
    }
    if whole
        && config
            .listeners
            .iter()
            .any(|listen| listen.service == Service::Submission && listen.tls == TlsMode::Implicit)
    {
        let why = "mail clients find the submission port (RFC 6186, RFC 8314)";
        let target = Data::Plain(format!("0 1 465 {host}"));
        add(&format!("_submissions._tcp.{name}"), "SRV", target, why);
    }
    Ok(records)
}

/// A TXT record alone.
pub(super) fn txt(name: &str, text: String) -> Record {
    Record {
        name: name.to_owned(),
        kind: "TXT",
        data: Data::Text(text),
        why: "DKIM: the public key of our signatures",
    }
}

/// Replaces the SPF record of `domain`.
pub(super) fn set_spf(records: &mut [Record], domain: &str, spf: &str) {
    let name = format!("{domain}.");
    for record in records {
        if let Data::Text(text) = &mut record.data
            && record.name == name
            && text.starts_with("v=spf1 ")
        {
            *text = spf.to_owned();
        }
    }
}

/// Prints records as zone-file lines, or one JSON object a line.
pub(super) fn print(records: &[Record], json: bool) {
    for record in records {
        if json {
            if let Some(object) = record.json() {
                say!("{object}");
            }
        } else {
            say!("{}", record.line());
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
    fn long_texts_are_split_at_255_octets() {
        let record = |text: String| Record {
            name: "k._domainkey.example.org.".into(),
            kind: "TXT",
            data: Data::Text(text),
            why: "",
        };
        let short = record("a".repeat(255));
        assert_eq!(
            short.line(),
            format!(
                "k._domainkey.example.org. 3600 IN TXT \"{}\"",
                "a".repeat(255)
            )
        );
        let long = record("a".repeat(600));
        let part = "a".repeat(255);
        let expected = format!(
            "k._domainkey.example.org. 3600 IN TXT \"{part}\" \"{part}\" \"{}\"",
            "a".repeat(90)
        );
        assert_eq!(long.line(), expected);
        assert_eq!(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
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
