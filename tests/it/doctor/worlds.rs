//! The broken worlds.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use chapar::lab::DnsServer;

use super::{IP, Lab, NAMES, OTHER};
use crate::world::{DOMAIN, HOST, free_port, write};

/// Every name that some world changes.
pub const OWNERS: [&str; 24] = [
    HOST,
    DOMAIN,
    "real.example.org",
    "home-1.isp.example",
    "other.example.org",
    "_dmarc.example.org",
    "_smtp._tls.example.org",
    "mta-sts.example.org",
    "_mta-sts.example.org",
    "_25._tcp.mx.example.org",
    "rsa1._domainkey.example.org",
    "ed1._domainkey.example.org",
    "gmail.com",
    "gw.gmail.com",
    "closed.example",
    "gw.closed.example",
    "refusing.example",
    "gw.refusing.example",
    "many.example",
    "10.2.0.192.zen.spamhaus.org",
    "10.2.0.192.bl.spamcop.net",
    "example.org.dbl.spamhaus.org",
    "reports.example",
    "example.org._report._dmarc.reports.example",
];

pub const SPF: &str = "v=spf1 a:mx.example.org ~all";

pub fn reverse(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

pub fn install(dir: &Path, chain: &str, key: &str) {
    let tls = dir.join("secrets/tls").join(HOST);
    write(tls.join("fullchain.pem"), chain, 0o644);
    write(tls.join("privkey.pem"), key, 0o600);
}

fn respf(dns: &DnsServer, records: &[&str]) {
    dns.remove(DOMAIN);
    dns.mx(DOMAIN, 10, HOST);
    records.iter().for_each(|record| dns.txt(DOMAIN, record));
}

fn remx(dns: &DnsServer, hosts: &[&str]) {
    dns.remove(DOMAIN);
    dns.txt(DOMAIN, SPF);
    hosts.iter().for_each(|host| dns.mx(DOMAIN, 10, host));
}

fn retxt(dns: &DnsServer, owner: &str, texts: &[&str]) {
    dns.remove(owner);
    texts.iter().for_each(|text| dns.txt(owner, text));
}

/// A world: its name, how it is broken, arguments, what is found beside what is good, and a part of
/// the first finding.
pub type Broken = (
    &'static str,
    fn(&Lab, &DnsServer),
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static str,
);

pub const W: &str = "wrong";
const B: (&str, &str) = ("bulk-rules", W);
const RSA: &str = "rsa1._domainkey.example.org";

pub const WORLDS: &[Broken] = &[
    (
        "no PTR",
        |_, dns| dns.remove(&reverse(IP)),
        &[],
        &[("ptr", W), B],
        "no PTR record",
    ),
    (
        "the PTR of a home connection",
        |_, dns| {
            dns.remove(&reverse(IP));
            dns.ptr(IP.into(), "home-1.isp.example");
            dns.a("home-1.isp.example", IP);
        },
        &[],
        &[("ptr", W), B],
        "PTR is home-1.isp.example, but we say EHLO mx.example.org",
    ),
    (
        "a PTR that nothing confirms",
        |_, dns| {
            dns.ptr(OTHER.into(), HOST);
            retxt(dns, HOST, &["v=spf1 ip4:192.0.2.0/24 -all"]);
            dns.a(HOST, IP);
            respf(dns, &["v=spf1 ip4:192.0.2.0/24 -all"]);
        },
        &["--ip", "192.0.2.11"],
        &[("fcrdns", W), B],
        "leads to 192.0.2.10, not back to it",
    ),
    (
        "an AAAA record of another host",
        |_, dns| dns.aaaa(HOST, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
        &[],
        &[("ipv6", "warning")],
        "2001:db8::9, which is no address of this host",
    ),
    (
        "an EHLO name that is an alias",
        |_, dns| {
            dns.remove(HOST);
            dns.cname(HOST, "real.example.org");
            dns.a("real.example.org", IP);
            dns.txt("real.example.org", "v=spf1 a:mx.example.org -all");
        },
        &[],
        &[("ehlo", "warning"), ("mx-alias", "warning")],
        "alias (CNAME)",
    ),
    (
        "no SPF for the EHLO name",
        |_, dns| {
            dns.remove(HOST);
            dns.a(HOST, IP);
        },
        &[],
        &[("spf-host", "warning")],
        "the EHLO name has no SPF record",
    ),
    (
        "another server on our port",
        |lab, _| {
            let (own, other) = (lab.ports[0], lab.gmail.address().port());
            lab.edit(
                &format!("127.0.0.1:{own}\""),
                &format!("127.0.0.1:{other}\""),
            );
        },
        &[],
        &[("port-in", W)],
        "the greeting says",
    ),
    (
        "a port where nobody answers",
        |lab, _| {
            let own = lab.ports[1];
            lab.edit(
                &format!("127.0.0.1:{own}\""),
                &format!("127.0.0.1:{}\"", free_port()),
            );
        },
        &[],
        &[("port-in", W)],
        "no greeting",
    ),
    (
        "port 25 closed on the way out",
        |_, dns| {
            dns.mx("closed.example", 5, "gw.closed.example");
            dns.a("gw.closed.example", Ipv4Addr::new(127, 0, 0, 9));
        },
        &["--probe", "closed.example"],
        &[("port-out", W)],
        "can not be reached",
    ),
    (
        "no MX",
        |_, dns| remx(dns, &[]),
        &[],
        &[("mx", W)],
        "no MX record",
    ),
    (
        "an MX elsewhere",
        |_, dns| {
            remx(dns, &["other.example.org"]);
            dns.a("other.example.org", Ipv4Addr::new(192, 0, 2, 77));
        },
        &[],
        &[("mx", W)],
        "mail goes to other.example.org, not to mx.example.org",
    ),
    (
        "an MX without address",
        |_, dns| remx(dns, &[HOST, "other.example.org"]),
        &[],
        &[("mx-address", W)],
        "other.example.org has no address",
    ),
    (
        "no SPF",
        |_, dns| respf(dns, &[]),
        &[],
        &[("spf", W), B],
        "no SPF record",
    ),
    (
        "two SPF records",
        |_, dns| respf(dns, &[SPF, SPF]),
        &[],
        &[("spf", W), B],
        "2 SPF records",
    ),
    (
        "a mistake in SPF",
        |_, dns| respf(dns, &["v=spf1 a:mx.example.org ip4:192.0.2 ~all"]),
        &[],
        &[("spf", W), B],
        "has a mistake",
    ),
    (
        "too many lookups for SPF",
        |_, dns| {
            dns.txt(
                "many.example",
                "v=spf1 a a:a.example a:b.example mx mx:a.example a:c.example -all",
            );
            respf(
                dns,
                &["v=spf1 include:many.example mx include:many.example a:mx.example.org ~all"],
            );
        },
        &[],
        &[("spf-lookups", W), B],
        "16 DNS lookups",
    ),
    (
        "SPF without our address",
        |_, dns| respf(dns, &["v=spf1 ip4:198.51.100.1 -all"]),
        &[],
        &[("spf", W), B],
        "192.0.2.10 may not send",
    ),
    (
        "SPF for everybody",
        |_, dns| respf(dns, &["v=spf1 a:mx.example.org +all"]),
        &[],
        &[("spf-all", W), B],
        "+all",
    ),
    (
        "no DKIM record",
        |_, dns| dns.remove(RSA),
        &[],
        &[("dkim", W), B],
        "not published",
    ),
    (
        "another DKIM key",
        |_, dns| retxt(dns, RSA, &["v=DKIM1; k=rsa; p=AAAAIjANBgkq"]),
        &[],
        &[("dkim", W), B],
        "not the one we sign with",
    ),
    (
        "a DKIM key in two records",
        |lab, dns| {
            let key = chapar::signing::keys::PrivateKey::load(lab.copy.path(), DOMAIN, "rsa1");
            let record = key.expect("key").record();
            let (first, second) = record.split_at(250);
            retxt(dns, RSA, &[first, second]);
        },
        &[],
        &[("dkim-split", W), B],
        "split over 2 records",
    ),
    (
        "a short DKIM key",
        |lab, dns| {
            let pem = include_str!("../data/rsa1024.pem");
            write(lab.path("secrets/dkim/example.org/rsa1.pem"), pem, 0o600);
            let key = chapar::signing::keys::PrivateKey::from_pem(pem.as_bytes()).expect("key");
            retxt(dns, RSA, &[&key.record()]);
        },
        &[],
        &[("dkim-size", "warning")],
        "1024 bits",
    ),
    (
        "no DMARC",
        |_, dns| dns.remove("_dmarc.example.org"),
        &[],
        &[("dmarc", W), B],
        "no DMARC record",
    ),
    (
        "DMARC reports to a stranger",
        |_, dns| {
            retxt(
                dns,
                "_dmarc.example.org",
                &["v=DMARC1; p=reject; rua=mailto:a@reports.example"],
            );
        },
        &[],
        &[("dmarc-reports", "warning")],
        "reports.example, which does not say that it takes them",
    ),
    (
        "nothing is aligned",
        |_, dns| {
            respf(dns, &["v=spf1 -all"]);
            dns.remove(RSA);
            dns.remove("ed1._domainkey.example.org");
        },
        &[],
        &[("alignment", W), ("spf", W), ("dkim", W), ("dkim", W), B],
        "",
    ),
    (
        "an MTA-STS id that is old",
        |_, dns| retxt(dns, "_mta-sts.example.org", &["v=STSv1; id=1"]),
        &[],
        &[("mta-sts", "warning")],
        "the record says id=1",
    ),
    (
        "an MTA-STS policy that can not be fetched",
        |_, dns| dns.remove("mta-sts.example.org"),
        &[],
        &[("mta-sts", W)],
        "mta-sts.example.org has no address",
    ),
    (
        "no TLS-RPT",
        |_, dns| dns.remove("_smtp._tls.example.org"),
        &[],
        &[("tls-rpt", "warning")],
        "no TLS-RPT record",
    ),
    (
        "a TLSA record of another certificate",
        |_, dns| {
            dns.remove("_25._tcp.mx.example.org");
            dns.tlsa("_25._tcp.mx.example.org", 3, 1, 1, &[7; 32]);
        },
        &[],
        &[("dane", W)],
        "no TLSA record is of our certificate",
    ),
    (
        "a resolver that does not verify",
        |_, dns| dns.authentic(false),
        &[],
        &[("dnssec", "warning"), ("dane", "warning")],
        "",
    ),
    (
        "an expired certificate",
        |lab, _| {
            let (leaf, key) = lab.ca.sign(&NAMES, -3);
            install(lab.copy.path(), &leaf.pem(), &key.serialize_pem());
        },
        &[],
        &[
            ("certificate", W),
            ("port-in", "warning"),
            ("port-in", "warning"),
            ("port-in", "warning"),
        ],
        "",
    ),
    (
        "a certificate that ends soon",
        |lab, _| {
            let (leaf, key) = lab.ca.sign(&NAMES, 5);
            install(lab.copy.path(), &leaf.pem(), &key.serialize_pem());
        },
        &[],
        &[
            ("certificate", "warning"),
            ("port-in", "warning"),
            ("port-in", "warning"),
            ("port-in", "warning"),
        ],
        "",
    ),
    (
        "a chain without its middle",
        |lab, _| {
            let (leaf, key) = lab.ca.below().sign(&NAMES, 60);
            install(lab.copy.path(), &leaf.pem(), &key.serialize_pem());
        },
        &[],
        &[
            ("certificate", W),
            ("port-in", "warning"),
            ("port-in", "warning"),
            ("port-in", "warning"),
        ],
        "",
    ),
    (
        "a full disk",
        |lab, _| lab.edit("free_space = \"1MiB\"", "free_space = \"900000GiB\""),
        &[],
        &[("disk", W)],
        "limits.free_space wants",
    ),
    (
        "hashes that others may read",
        |lab, _| {
            let users = lab.path("domains/example.org/users.toml");
            let text = fs::read_to_string(&users).expect("users");
            write(users, &text, 0o644);
        },
        &[],
        &[("modes", W)],
        "mode 0644",
    ),
    (
        "on a blocklist",
        |_, dns| dns.a("10.2.0.192.zen.spamhaus.org", Ipv4Addr::new(127, 0, 0, 2)),
        &[],
        &[("dnsbl", W), B],
        "listed by zen.spamhaus.org (127.0.0.2)",
    ),
    (
        "a blocklist that does not answer us",
        |_, dns| {
            dns.a(
                "10.2.0.192.zen.spamhaus.org",
                Ipv4Addr::new(127, 255, 255, 254),
            )
        },
        &[],
        &[("dnsbl", "warning")],
        "no answer from zen.spamhaus.org",
    ),
    (
        "the domain on a blocklist",
        |_, dns| dns.a("example.org.dbl.spamhaus.org", Ipv4Addr::new(127, 0, 1, 2)),
        &[],
        &[("dnsbl", W), B],
        "listed by dbl.spamhaus.org",
    ),
    (
        "name servers that fail",
        |_, dns| {
            dns.remove("_dmarc.example.org");
            dns.servfail("_dmarc.example.org");
        },
        &[],
        &[("dmarc", "warning")],
        "the DNS did not answer",
    ),
];
