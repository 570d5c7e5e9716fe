//! What the operator should know and setup can not change: where mail goes now, names that a hoster
//! sets, ports that another program has.

use std::net::IpAddr;

use super::found::{self, Found};
use super::spf;
use crate::config::Config;
use crate::control;
use crate::doctor::host::Outbound;
use crate::doctor::hoster::{self, Hoster};
use crate::identity::Mode;
use crate::publish::Provider;

/// What the operator should know of what was found.
pub(super) fn of(
    config: &Config,
    domain: &str,
    mode: Mode,
    found: &Found,
    ips: &[IpAddr],
    published: bool,
) -> Vec<String> {
    let host = &config.hostname;
    let mut remarks = Vec::new();
    let elsewhere: Vec<&str> = found
        .mx
        .iter()
        .map(|mx| mx.trim_end_matches('.'))
        .filter(|mx| !mx.eq_ignore_ascii_case(host))
        .collect();
    if !elsewhere.is_empty() {
        let mx = elsewhere.join(", ");
        remarks.push(match mode {
            Mode::SendOnly => format!(
                "Mail to {domain} goes to {mx} and goes on doing so: {domain} is send-only here."
            ),
            _ => format!(
                "Mail to {domain} goes to {mx} now. With the MX record above it comes here instead; \
                 to only send from here, remove domains/{domain} and run setup without --forward."
            ),
        });
    }
    if let (false, Some(provider)) = (published, Provider::of_servers(&found.servers)) {
        remarks.push(format!(
            "The zone is at {0}: `chapar setup {domain} --dns {0}` publishes these records itself (docs/dns.md).",
            provider.name()
        ));
    }
    match found.spf.as_slice() {
        // Then it was said there.
        _ if published => {}
        [] => {}
        [present] => {
            let merged = match spf::has_addresses(present, ips) {
                true => spf::merge_addresses(present, ips),
                false => spf::merge(present, host),
            };
            if merged != *present {
                remarks.push(format!(
                    "{domain} has the SPF record \"{present}\": replace it by the one above, which \
                     contains it."
                ));
            }
        }
        several => remarks.push(format!(
            "{domain} has {} SPF records, which receivers take for an error: leave the one above alone.",
            several.len()
        )),
    }
    // The record that leads back may be one of those above.
    let wrong: Vec<&IpAddr> = ips
        .iter()
        .filter(|ip| {
            !found
                .reverse
                .iter()
                .any(|(of, name)| of == *ip && name == host)
        })
        .collect();
    let reverse: Vec<&str> = found
        .reverse
        .iter()
        .map(|(_, name)| name.as_str())
        .collect();
    let hoster = hoster::detect(&reverse, &hoster::make());
    for ip in &wrong {
        remarks.push(match found.ptr.iter().find(|(of, _)| of == *ip) {
            Some((_, name)) => format!(
                "The PTR record of {ip} is {name}. and must be {host}.: set it at the hoster, or use \
                 that name: --hostname {name} in a new setup."
            ),
            None => format!("The PTR record of {ip} must be {host}."),
        });
    }
    if ips.is_empty() {
        remarks.push(format!(
            "The PTR record of this host's addresses must be {host}."
        ));
    }
    if ips.is_empty() || !wrong.is_empty() {
        remarks.push(match hoster {
            Some(_) => hoster::ptr_advice(hoster),
            None => format!(
                "The hoster of the address sets it (reverse DNS); `chapar dns {domain} --format table` \
                 says where, hoster by hoster."
            ),
        });
    }
    remarks.extend(way_out(&found.outbound, hoster));
    if !control::socket(&config.data_dir).exists() {
        for address in found::taken(config) {
            remarks.push(format!(
                "{address} is taken by another program (`ss -ltnp` shows which): stop it, or change \
                 the address in chapar.toml."
            ));
        }
    }
    remarks
}

/// What to do if no mail host elsewhere could be reached.
fn way_out(tried: &[Outbound], hoster: Option<&Hoster>) -> Option<String> {
    let first = tried.first()?;
    if tried.iter().any(|one| one.greeting.is_ok()) {
        return None;
    }
    let problem = first.greeting.as_ref().err()?;
    Some(format!(
        "Mail can not leave: {} can not be reached ({problem}). {}.",
        first.target,
        hoster::port_25_advice(hoster)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_port_25_is_told_with_what_the_hoster_wants() {
        let closed = Outbound {
            target: "mx.example.net [192.0.2.9]:25".into(),
            greeting: Err("timed out".into()),
        };
        let open = Outbound {
            greeting: Ok("220 mx.example.net".into()),
            ..closed.clone()
        };
        let amazon = hoster::detect(&["ec2-192-0-2-1.compute-1.amazonaws.com"], "");
        assert_eq!(
            way_out(std::slice::from_ref(&closed), amazon).as_deref(),
            Some(
                "Mail can not leave: mx.example.net [192.0.2.9]:25 can not be reached (timed out). \
                 Amazon Web Services: port 25 is closed at first: ask with the form \
                 \"Request to remove email sending limitations\"."
            )
        );
        assert_eq!(way_out(&[closed, open], amazon), None);
        assert_eq!(way_out(&[], amazon), None);
    }
}
