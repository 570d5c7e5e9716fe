//! An address that mail leaves from: its name, the way back, blocklists.

use std::net::{IpAddr, Ipv4Addr};

use super::{Asked, Finding, hoster, list};

/// What is known of an address.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The address.
    pub ip: IpAddr,
    /// Our EHLO name.
    pub hostname: String,
    /// The names of its PTR records.
    pub names: Asked<String>,
    /// Addresses of each of these names, in the family of the address.
    pub forward: Vec<(String, Asked<IpAddr>)>,
    /// What blocklists answered.
    pub lists: Vec<Listing>,
}

/// The answer of one blocklist (RFC 5782).
#[derive(Debug, Clone)]
pub struct Listing {
    /// The list's zone.
    pub zone: String,
    /// Its answer: none means not listed.
    pub answer: Asked<Ipv4Addr>,
}

/// Judges PTR, forward-confirmed reverse DNS and blocklists.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![ptr(facts)];
    found.extend(confirmed(facts));
    found.extend(blocklists(&facts.ip.to_string(), &facts.lists));
    found
}

fn ptr(facts: &Facts) -> Finding {
    let (ip, hostname) = (facts.ip.to_string(), &facts.hostname);
    let mut remedy = format!("where {ip} is rented, set its reverse DNS (PTR) to {hostname}");
    let names: Vec<&str> = facts.names.iter().flatten().map(String::as_str).collect();
    if let Some(hoster) = hoster::detect(&names, "") {
        remedy = format!("{remedy}. {}", hoster::ptr_advice(Some(hoster)));
    }
    let why = "Gmail and others refuse mail from such an address (5.7.25)";
    match &facts.names {
        Err(_) => Finding::unasked("ptr", &ip, "its PTR record"),
        Ok(names) if names.is_empty() => {
            Finding::wrong("ptr", &ip, "there is no PTR record", why, remedy)
        }
        Ok(names) if names.iter().any(|name| name.eq_ignore_ascii_case(hostname)) => {
            Finding::good("ptr", &ip, format!("PTR is {hostname}"))
        }
        Ok(names) => Finding::wrong(
            "ptr",
            &ip,
            format!("PTR is {}, but we say EHLO {hostname}", list(names)),
            "a name that differs looks like a home connection or a hijacked host",
            remedy,
        ),
    }
}

fn confirmed(facts: &Facts) -> Option<Finding> {
    let ip = facts.ip.to_string();
    if facts.forward.is_empty() {
        return None;
    }
    let leads_back = |(_, addresses): &&(String, Asked<IpAddr>)| {
        let addresses = addresses.as_deref().unwrap_or_default();
        addresses.contains(&facts.ip)
    };
    if let Some((name, _)) = facts.forward.iter().find(leads_back) {
        let what = format!("{name} leads back to it (FCrDNS)");
        return Some(Finding::good("fcrdns", &ip, what));
    }
    let (name, addresses) = facts.forward.first()?;
    let kind = if facts.ip.is_ipv4() { "A" } else { "AAAA" };
    Some(match addresses {
        Err(_) => Finding::unasked("fcrdns", &ip, &format!("the {kind} record of {name}")),
        Ok(addresses) => Finding::wrong(
            "fcrdns",
            &ip,
            match addresses.is_empty() {
                true => format!("its name {name} has no {kind} record"),
                false => format!(
                    "its name {name} leads to {}, not back to it",
                    list(addresses)
                ),
            },
            "a PTR that is not confirmed counts as none (5.7.25)",
            format!("publish {name} {kind} {ip}"),
        ),
    })
}

/// Judges the answers of blocklists about `about`.
pub fn blocklists(about: &str, lists: &[Listing]) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut clean, mut silent) = (Vec::new(), Vec::new());
    for listing in lists {
        let zone = listing.zone.as_str();
        let Ok(codes) = &listing.answer else {
            silent.push(zone);
            continue;
        };
        if codes.is_empty() {
            clean.push(zone);
        } else if codes
            .iter()
            .any(|code| code.octets().starts_with(&[127, 255, 255]))
        {
            // Spamhaus answers so to resolvers that it does not serve.
            silent.push(zone);
        } else if codes.iter().all(|code| code.octets().first() != Some(&127)) {
            // An answer outside 127.0.0.0/8 is of a domain that changed hands (RFC 5782 section 2.1).
            silent.push(zone);
        } else {
            found.push(Finding::wrong(
                "dnsbl",
                about,
                format!("listed by {zone} ({})", list(codes)),
                "servers that ask this list refuse our mail",
                format!("find and end what it was listed for, then ask for removal at the site of {zone}"),
            ));
        }
    }
    if !silent.is_empty() {
        found.push(Finding::warning(
            "dnsbl",
            about,
            format!("no answer from {}", silent.join(", ")),
            "these lists do not serve public resolvers, so a listing would go unseen",
            "set dns.servers to a resolver of your own",
        ));
    }
    if found.is_empty() && !clean.is_empty() {
        let what = format!("on none of {}", clean.join(", "));
        found.push(Finding::good("dnsbl", about, what));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::verify::lookup::Trouble;

    fn facts(names: Asked<String>, forward: Vec<(String, Asked<IpAddr>)>) -> Facts {
        Facts {
            ip: "192.0.2.1".parse().expect("address"),
            hostname: "mx.example.org".into(),
            names,
            forward,
            lists: Vec::new(),
        }
    }

    #[test]
    fn names_and_the_way_back() {
        let ip: IpAddr = "192.0.2.1".parse().expect("address");
        let other: IpAddr = "192.0.2.9".parse().expect("address");
        let levels = |facts: &Facts| -> Vec<(&str, Level)> {
            judge(facts).iter().map(|f| (f.check, f.level)).collect()
        };
        let name = || "mx.example.org".to_owned();
        let good = facts(Ok(vec![name()]), vec![(name(), Ok(vec![ip]))]);
        assert_eq!(
            levels(&good),
            [("ptr", Level::Good), ("fcrdns", Level::Good)]
        );
        assert_eq!(levels(&facts(Ok(vec![]), vec![])), [("ptr", Level::Wrong)]);
        assert_eq!(
            levels(&facts(Err(Trouble), vec![])),
            [("ptr", Level::Warning)]
        );
        let away = facts(Ok(vec![name()]), vec![(name(), Ok(vec![other]))]);
        assert_eq!(
            levels(&away),
            [("ptr", Level::Good), ("fcrdns", Level::Wrong)]
        );
    }

    #[test]
    fn an_answer_is_a_listing_only_where_the_list_says_so() {
        let lists = |code: &str| {
            let answer = Ok(vec![code.parse().expect("address")]);
            let zone = "zen.example".to_owned();
            let found = blocklists("192.0.2.1", &[Listing { zone, answer }]);
            found.first().map(|finding| finding.level)
        };
        assert_eq!(lists("127.0.0.2"), Some(Level::Wrong));
        assert_eq!(lists("127.255.255.254"), Some(Level::Warning));
        assert_eq!(lists("192.0.2.7"), Some(Level::Warning));
    }
}
