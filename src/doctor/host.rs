//! What others see of this host: its name, IPv6, ports in and out, its certificate.

use std::net::IpAddr;

use super::{Asked, Finding, list};
use crate::config::{Family, TlsMode};

/// Days before the end of a certificate at which it should have been renewed.
pub const LATE: i64 = 14;

/// The EHLO name.
#[derive(Debug, Clone)]
pub struct Name {
    /// It.
    pub hostname: String,
    /// Its IPv4 addresses.
    pub v4: Asked<IpAddr>,
    /// Its IPv6 addresses.
    pub v6: Asked<IpAddr>,
    /// It is an alias (CNAME).
    pub alias: bool,
    /// The addresses of this host.
    pub own: Vec<IpAddr>,
    /// `delivery.family`.
    pub family: Family,
}

/// Judges the EHLO name.
pub fn ehlo(facts: &Name) -> Finding {
    let host = facts.hostname.as_str();
    let reserved = [
        ".local",
        ".localdomain",
        ".lan",
        ".internal",
        ".home.arpa",
        ".invalid",
    ];
    let rename =
        "set hostname in chapar.toml to a name of a domain of yours, such as mx.example.org";
    let why = "servers refuse a client whose EHLO name does not lead anywhere (5.7.506)";
    if !host.contains('.') || reserved.iter().any(|end| host.ends_with(end)) {
        let what = "hostname is no name that others can look up";
        return Finding::wrong("ehlo", host, what, why, rename);
    }
    if facts.alias {
        return Finding::warning(
            "ehlo",
            host,
            "the EHLO name is an alias (CNAME)",
            "RFC 5321 section 2.3.5 wants a name with addresses of its own",
            format!("publish A and AAAA records for {host} instead"),
        );
    }
    match (&facts.v4, &facts.v6) {
        (Ok(v4), Ok(v6)) if v4.is_empty() && v6.is_empty() => {
            let own = match facts.own.as_slice() {
                [] => "the address of this host".to_owned(),
                own => list(own),
            };
            let remedy = format!("publish {host} A with {own}");
            Finding::wrong("ehlo", host, "the EHLO name has no address", why, remedy)
        }
        (Err(_), _) | (_, Err(_)) => Finding::unasked("ehlo", host, "its addresses"),
        (Ok(v4), Ok(v6)) => {
            let what = format!(
                "leads to {}",
                list(&[v4.as_slice(), v6.as_slice()].concat())
            );
            Finding::good("ehlo", host, what)
        }
    }
}

/// Judges whether IPv6 helps or hurts.
pub fn ipv6(facts: &Name) -> Finding {
    let host = facts.hostname.as_str();
    let own: Vec<IpAddr> = facts.own.iter().copied().filter(IpAddr::is_ipv6).collect();
    let published = match &facts.v6 {
        Err(_) => return Finding::unasked("ipv6", host, "its AAAA record"),
        Ok(published) => published,
    };
    match (own.as_slice(), published.as_slice()) {
        ([], []) => Finding::good("ipv6", host, "not used; IPv4 is enough"),
        ([], published) => Finding::warning(
            "ipv6",
            host,
            format!(
                "AAAA leads to {}, which is no address of this host",
                list(published)
            ),
            "others try to reach it there first and wait",
            format!("remove the AAAA record of {host}, or give this host the address"),
        ),
        (own, _) if facts.family == Family::Ipv4 => {
            let what = format!("{} is there and delivery.family = \"ipv4\"", list(own));
            Finding::good("ipv6", host, what)
        }
        (own, published) if !own.iter().any(|ip| published.contains(ip)) => Finding::warning(
            "ipv6",
            host,
            format!(
                "this host has {}, which its AAAA record does not name",
                list(own)
            ),
            "Gmail refuses mail over IPv6 from an address without PTR and AAAA (5.7.25)",
            format!(
                "publish {host} AAAA {}, or set delivery.family = \"ipv4\"",
                own.first().map(IpAddr::to_string).unwrap_or_default()
            ),
        ),
        (own, _) => Finding::good("ipv6", host, format!("AAAA leads to {}", list(own))),
    }
}

/// A listener of ours, as a client meets it.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its address.
    pub address: String,
    /// How TLS begins.
    pub tls: TlsMode,
    /// Our host name.
    pub hostname: String,
    /// What a client sees, or why it sees nothing.
    pub seen: Result<Seen, String>,
}

/// What a client sees.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The name in the greeting.
    pub greeting: String,
    /// STARTTLS was offered, or TLS was there from the first byte.
    pub tls: bool,
    /// The certificates that were shown, the leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// Judges a listener. `running`: whether the daemon runs at all; `file`: the leaf on disk.
pub fn port(facts: &Port, running: bool, file: Option<&[u8]>) -> Finding {
    let about = facts.address.as_str();
    let seen = match &facts.seen {
        Err(_) if !running => {
            return Finding::warning(
                "port-in",
                about,
                "nothing answers, because the daemon does not run",
                "no mail comes in",
                "systemctl start chapar",
            );
        }
        Err(problem) => {
            return Finding::wrong(
                "port-in",
                about,
                format!("no greeting: {problem}"),
                "no mail comes in there",
                "look for what the log says of this listener, and for a firewall: `nft list ruleset`",
            );
        }
        Ok(seen) => seen,
    };
    if !seen.greeting.eq_ignore_ascii_case(&facts.hostname) {
        return Finding::wrong(
            "port-in",
            about,
            format!(
                "the greeting says {}, not {}",
                seen.greeting, facts.hostname
            ),
            "another mail server has the port, or the daemon runs with an old configuration",
            "`ss -ltnp` tells who it is; for the other: systemctl reload chapar",
        );
    }
    if facts.tls != TlsMode::None && !seen.tls {
        return Finding::wrong(
            "port-in",
            about,
            "TLS is not offered",
            "passwords and mail would travel in clear, so logins are refused",
            "put a certificate into secrets/tls, then systemctl reload chapar",
        );
    }
    let shown = seen.chain.first();
    if let (Some(shown), Some(file)) = (shown, file)
        && shown != file
    {
        return Finding::warning(
            "port-in",
            about,
            "it shows another certificate than the one on disk",
            "the new one is not used",
            "systemctl reload chapar",
        );
    }
    let how = if seen.tls { " with TLS" } else { "" };
    Finding::good(
        "port-in",
        about,
        format!("answers as {}{how}", seen.greeting),
    )
}

/// A try to reach others.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// The host that was tried, with its port.
    pub target: String,
    /// Its greeting, or why there was none.
    pub greeting: Result<String, String>,
}

/// Judges the way out. None: there was nobody to try.
pub fn outbound(probe: &str, tried: &[Outbound]) -> Finding {
    let port = "port-out";
    let Some(first) = tried.first() else {
        return Finding::warning(
            port,
            probe,
            format!("no mail host of {probe} was found to try"),
            "whether mail gets out was not seen",
            "look at dns.servers, or try another domain: chapar check --probe DOMAIN",
        );
    };
    let Some(reached) = tried.iter().find(|one| one.greeting.is_ok()) else {
        let problem = first.greeting.as_ref().err().cloned().unwrap_or_default();
        return Finding::wrong(
            port,
            &first.target,
            format!("can not be reached: {problem}"),
            "no mail gets out",
            "many hosters close outbound port 25: ask yours to open it, or send through a relay with [[route]]",
        );
    };
    let greeting = reached.greeting.as_deref().unwrap_or_default();
    match greeting.starts_with("220") {
        true => Finding::good(port, &reached.target, "reached"),
        false => Finding::wrong(
            port,
            &reached.target,
            format!("it answers: {greeting}"),
            "a firewall or a refusal stands between us and others",
            "do what the answer says; if it is not of that host, ask your hoster to open port 25",
        ),
    }
}

/// The certificate on disk.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Our host name.
    pub hostname: String,
    /// It can not be served; why.
    pub broken: Option<String>,
    /// The end of its life, seconds from now.
    pub left: i64,
    /// It is for the host name.
    pub covers: bool,
    /// Its own issuer.
    pub self_signed: bool,
    /// A client that knows the public roots refuses it; why.
    pub untrusted: Option<String>,
}

/// Judges chain, name and end of the certificate.
pub fn certificate(facts: &Certificate) -> Finding {
    let host = facts.hostname.as_str();
    let days = facts.left.div_euclid(86_400);
    let check = "certificate";
    let renew = "run `chapar setup` with --acme, or replace the files in secrets/tls";
    if let Some(problem) = &facts.broken {
        return Finding::wrong(
            check,
            host,
            problem.clone(),
            "TLS is not offered, and nobody can log in",
            renew,
        );
    }
    if facts.left <= 0 {
        return Finding::wrong(
            check,
            host,
            "the certificate has expired",
            "mail programs refuse to log in, and MTA-STS senders to deliver",
            renew,
        );
    }
    if !facts.covers {
        return Finding::wrong(
            check,
            host,
            "the certificate is for other names",
            "mail programs refuse to log in, and MTA-STS senders to deliver",
            renew,
        );
    }
    if facts.self_signed && facts.untrusted.is_some() {
        return Finding::warning(
            check,
            host,
            "the certificate is self-signed",
            "other servers deliver all the same, but Gmail and mail programs refuse to log in",
            renew,
        );
    }
    if let Some(problem) = &facts.untrusted {
        return Finding::wrong(
            check,
            host,
            format!("the chain leads to no trusted root: {problem}"),
            "Gmail and mail programs refuse to log in",
            "put the intermediate certificates behind the first one in fullchain.pem",
        );
    }
    if days < LATE {
        return Finding::warning(
            check,
            host,
            format!("the certificate ends in {days} days"),
            "it should have been renewed by now",
            renew,
        );
    }
    Finding::good(check, host, format!("trusted, {days} days left"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    #[test]
    fn names_and_families() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("address") };
        let name = |host: &str, v4: &[IpAddr], v6: &[IpAddr], own: &[IpAddr]| Name {
            hostname: host.into(),
            v4: Ok(v4.to_vec()),
            v6: Ok(v6.to_vec()),
            alias: false,
            own: own.to_vec(),
            family: Family::Auto,
        };
        let (four, six) = (ip("192.0.2.1"), ip("2001:db8::1"));
        for (facts, first, second) in [
            (
                name("mx.example.org", &[four], &[], &[four]),
                Level::Good,
                Level::Good,
            ),
            (
                name("mail", &[four], &[], &[four]),
                Level::Wrong,
                Level::Good,
            ),
            (
                name("mx.local", &[four], &[], &[four]),
                Level::Wrong,
                Level::Good,
            ),
            (
                name("mx.example.org", &[], &[], &[four]),
                Level::Wrong,
                Level::Good,
            ),
            (
                name("mx.example.org", &[four], &[six], &[four]),
                Level::Good,
                Level::Warning,
            ),
            (
                name("mx.example.org", &[four], &[], &[four, six]),
                Level::Good,
                Level::Warning,
            ),
            (
                name("mx.example.org", &[four], &[six], &[four, six]),
                Level::Good,
                Level::Good,
            ),
        ] {
            assert_eq!(
                (ehlo(&facts).level, ipv6(&facts).level),
                (first, second),
                "{facts:?}"
            );
        }
    }

    #[test]
    fn certificates_end() {
        let good = Certificate {
            hostname: "mx.example.org".into(),
            broken: None,
            left: 60 * 86_400,
            covers: true,
            self_signed: false,
            untrusted: None,
        };
        let level = |change: fn(&mut Certificate)| {
            let mut facts = good.clone();
            change(&mut facts);
            certificate(&facts).level
        };
        assert_eq!(level(|_| {}), Level::Good);
        assert_eq!(level(|c| c.left = -1), Level::Wrong);
        assert_eq!(level(|c| c.left = 86_400), Level::Warning);
        assert_eq!(level(|c| c.covers = false), Level::Wrong);
        assert_eq!(level(|c| c.untrusted = Some("x".into())), Level::Wrong);
        assert_eq!(level(|c| c.broken = Some("x".into())), Level::Wrong);
    }
}
