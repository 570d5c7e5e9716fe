//! MX of a domain of ours: whether mail to it comes where it should (RFC 5321 section 5.1).

use std::net::IpAddr;

use super::{Asked, Finding, list};
use crate::dns::mx::Lookup;
use crate::identity::Mode;

/// What is known of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain.
    pub domain: String,
    /// Our host name.
    pub hostname: String,
    /// What is done with mail to the domain.
    pub mode: Mode,
    /// Its MX records.
    pub records: Lookup,
    /// Each of its hosts.
    pub hosts: Vec<Host>,
    /// Addresses of this host.
    pub own: Vec<IpAddr>,
}

/// A mail host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Asked<IpAddr>,
    /// The name is an alias (CNAME).
    pub alias: bool,
}

/// Judges the MX records.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let (domain, host) = (facts.domain.as_str(), facts.hostname.as_str());
    let remedy = format!("publish {domain} MX 10 {host}.");
    let records = match &facts.records {
        Lookup::Failed(_) => return vec![Finding::unasked("mx", domain, "its MX records")],
        Lookup::NoDomain => {
            return vec![Finding::wrong(
                "mx",
                domain,
                "the domain does not exist in the DNS",
                "nobody can send to it or answer its mail",
                "register it, or let its registrar point to the right name servers",
            )];
        }
        Lookup::Nothing => &Vec::new(),
        Lookup::Records(records) => records,
    };
    if facts.mode == Mode::SendOnly {
        return vec![send_only(
            facts,
            records.iter().map(|record| record.host.as_str()),
        )];
    }
    if records.is_empty() {
        return vec![Finding::wrong(
            "mx",
            domain,
            "there is no MX record",
            "mail to the domain goes to its web server, or back",
            remedy,
        )];
    }
    if records.iter().any(|record| record.host.is_empty()) {
        return vec![Finding::wrong(
            "mx",
            domain,
            "it says that the domain takes no mail (null MX, RFC 7505)",
            "all mail to it is returned, and some servers refuse mail from it",
            remedy,
        )];
    }
    let ours = |name: &str| name.trim_end_matches('.').eq_ignore_ascii_case(host);
    let mut found = Vec::new();
    if !records.iter().any(|record| ours(&record.host)) {
        let to: Vec<&str> = records.iter().map(|record| record.host.as_str()).collect();
        found.push(Finding::wrong(
            "mx",
            domain,
            format!("mail goes to {}, not to {host}", list(&to)),
            "the aliases here are never asked",
            format!("{remedy} and remove the others, or set mode = \"send-only\" in domains/{domain}/domain.toml"),
        ));
    }
    for entry in &facts.hosts {
        found.extend(mail_host(facts, entry, ours(&entry.name)));
    }
    if found.is_empty() {
        found.push(Finding::good("mx", domain, format!("mail comes to {host}")));
    }
    found
}

fn send_only<'a>(facts: &Facts, mut hosts: impl Iterator<Item = &'a str>) -> Finding {
    let domain = facts.domain.as_str();
    match hosts.any(|name| name.eq_ignore_ascii_case(&facts.hostname)) {
        true => Finding::wrong(
            "mx",
            domain,
            "its mail comes here, but the domain is send-only here",
            "all mail to it is refused",
            format!(
                "set mode = \"forward\" in domains/{domain}/domain.toml, or point the MX to the host that takes it"
            ),
        ),
        false => Finding::good("mx", domain, "send-only: mail to it goes elsewhere"),
    }
}

fn mail_host(facts: &Facts, entry: &Host, ours: bool) -> Option<Finding> {
    let (domain, name) = (facts.domain.as_str(), &entry.name);
    if entry.alias {
        return Some(Finding::warning(
            "mx-alias",
            domain,
            format!("the MX {name} is an alias (CNAME)"),
            "some servers refuse that (RFC 2181 section 10.3)",
            format!("publish A and AAAA records for {name} instead"),
        ));
    }
    let Ok(addresses) = &entry.addresses else {
        return Some(Finding::unasked(
            "mx",
            domain,
            &format!("the addresses of {name}"),
        ));
    };
    if addresses.is_empty() {
        return Some(Finding::wrong(
            "mx-address",
            domain,
            format!("the MX {name} has no address"),
            "mail to the domain waits and comes back",
            match ours {
                true => format!("publish {name} A with the address of this host"),
                false => "remove it, or publish its A record".to_owned(),
            },
        ));
    }
    let here = addresses.iter().any(|address| facts.own.contains(address));
    (ours && !here && !facts.own.is_empty()).then(|| {
        Finding::wrong(
            "mx-address",
            domain,
            format!("{name} leads to {}, this host is {}", list(addresses), list(&facts.own)),
            "mail to the domain goes to another machine",
            format!("publish {name} with the address of this host, or tell `chapar check --ip` what it is"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::dns::mx::Record;

    #[test]
    fn mail_must_come_where_it_is_taken() {
        let ip: IpAddr = "192.0.2.1".parse().expect("address");
        let other: IpAddr = "192.0.2.9".parse().expect("address");
        let records = |hosts: &[&str]| {
            let record = |host: &&str| Record {
                preference: 10,
                host: (*host).to_owned(),
            };
            Lookup::Records(hosts.iter().map(record).collect())
        };
        let host = |addresses: &[IpAddr], alias| Host {
            name: "mx.example.org".into(),
            addresses: Ok(addresses.to_vec()),
            alias,
        };
        let all = |mode, records, hosts| {
            judge(&Facts {
                domain: "example.org".into(),
                hostname: "mx.example.org".into(),
                mode,
                records,
                hosts,
                own: vec![ip],
            })
        };
        let good = records(&["mx.example.org"]);
        for (mode, records, hosts, check, level) in [
            (
                Mode::Forward,
                good.clone(),
                vec![host(&[ip], false)],
                "mx",
                Level::Good,
            ),
            (Mode::Forward, Lookup::Nothing, vec![], "mx", Level::Wrong),
            (Mode::Forward, Lookup::NoDomain, vec![], "mx", Level::Wrong),
            (
                Mode::Forward,
                Lookup::Failed("x".into()),
                vec![],
                "mx",
                Level::Warning,
            ),
            (Mode::Forward, records(&[""]), vec![], "mx", Level::Wrong),
            (
                Mode::Forward,
                records(&["a.example"]),
                vec![],
                "mx",
                Level::Wrong,
            ),
            (
                Mode::Forward,
                good.clone(),
                vec![host(&[ip], true)],
                "mx-alias",
                Level::Warning,
            ),
            (
                Mode::Forward,
                good.clone(),
                vec![host(&[], false)],
                "mx-address",
                Level::Wrong,
            ),
            (
                Mode::Forward,
                good.clone(),
                vec![host(&[other], false)],
                "mx-address",
                Level::Wrong,
            ),
            (Mode::SendOnly, good, vec![], "mx", Level::Wrong),
            (
                Mode::SendOnly,
                records(&["a.example"]),
                vec![],
                "mx",
                Level::Good,
            ),
        ] {
            let found = all(mode, records, hosts);
            let [finding] = found.as_slice() else {
                panic!("{found:?}");
            };
            assert_eq!(
                (finding.check, finding.level),
                (check, level),
                "{finding:?}"
            );
        }
    }
}
