//! What a well-formed configuration must also be: plausible, bounded, and not an open relay.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use toml::de::{DeTable, DeValue};

use super::routes;
use super::{
    AcmeChallenge, Config, ConfigError, Listen, Route, Size, Span, TlsMode, Warmup, line_of,
};
use crate::base::names as address;

/// Fewest bits of an IPv4 network that may relay: `10.0.0.0/8` is the largest private one.
const LEAST_PREFIX_V4: u8 = 8;
/// The same for IPv6: `fc00::/7`.
const LEAST_PREFIX_V6: u8 = 7;
/// Fewest bytes of a command line (RFC 5321 section 4.5.3.1.4).
const LEAST_COMMAND_LINE: usize = 512;

/// Everything that is wrong with `config`, which was read from `text` of the file `name`.
pub(super) fn check(config: &Config, text: &str, name: &str) -> Vec<ConfigError> {
    let mut checker = Checker {
        text,
        name,
        table: DeTable::parse(text).ok(),
        problems: Vec::new(),
    };
    checker.top(config);
    for (index, listen) in config.listeners.iter().enumerate() {
        let twin = config
            .listeners
            .iter()
            .take(index)
            .any(|other| other.address == listen.address);
        checker.listener(index, listen, twin);
    }
    for (index, route) in config.routes.iter().enumerate() {
        checker.route(index, route);
    }
    for (index, warmup) in config.warmups.iter().enumerate() {
        checker.warmup(index, warmup, config);
    }
    checker.outbound(config);
    checker.certificate(config);
    checker.retry(config);
    checker.limits(config);
    checker.acme(config);
    checker.problems
}

/// `name` without the dot of the DNS root, which no EHLO may have (RFC 5321 section 2.3.5).
pub(super) fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Why `name` is no host name for EHLO.
fn check_hostname(name: &str) -> Result<(), String> {
    let full = without_root(name);
    let last = full.rsplit('.').next().unwrap_or_default();
    let remedy =
        "write the full name that the PTR of the sending address has, such as mx.example.org";
    if address::is_domain(full) && full.contains('.') && !last.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!(
        "hostname = \"{name}\" is no full host name; {remedy}"
    ))
}

struct Checker<'a> {
    text: &'a str,
    name: &'a str,
    table: Option<toml::Spanned<DeTable<'a>>>,
    problems: Vec<ConfigError>,
}

impl Checker<'_> {
    fn top(&mut self, config: &Config) {
        if let Err(problem) = check_hostname(&config.hostname) {
            self.blame("hostname", None, problem);
        }
        if !config.postmaster.is_empty() && address::check(&config.postmaster).is_err() {
            let problem = format!(
                "postmaster = \"{}\" is no address; write user@example.org",
                config.postmaster
            );
            self.blame("postmaster", None, problem);
        }
        for (key, networks) in [
            ("proxy_networks", &config.proxy_networks),
            ("xclient_networks", &config.xclient_networks),
        ] {
            if networks.iter().any(|network| network.prefix() == 0) {
                let problem = format!(
                    "{key}: everybody could pass for anybody; write the addresses of the proxies"
                );
                self.blame(key, None, problem);
            }
        }
        for network in &config.relay_networks {
            let least = if network.is_ipv4() {
                LEAST_PREFIX_V4
            } else {
                LEAST_PREFIX_V6
            };
            if network.prefix() < least {
                let problem = format!(
                    "relay_networks: {network} would make an open relay of this host; \
                     write networks of /{least} or smaller"
                );
                self.blame("relay_networks", None, problem);
            }
        }
    }

    fn listener(&mut self, index: usize, listen: &Listen, twin: bool) {
        let key = "listen.address";
        let written = &listen.address;
        // Port 0 is another one each time.
        if twin && !written.ends_with(":0") {
            let problem = format!("address = \"{written}\" is listened on already; remove one");
            self.blame(key, Some(index), problem);
        }
        let inherited = written.strip_prefix("systemd:");
        let loopback = match (inherited, written.parse::<SocketAddr>()) {
            (Some(""), _) => {
                let remedy = "write the FileDescriptorName= of the socket unit behind it";
                self.blame(
                    key,
                    Some(index),
                    format!("address = \"systemd:\" has no name; {remedy}"),
                );
                return;
            }
            (Some(_), _) => false,
            (None, Ok(address)) => address.ip().is_loopback(),
            (None, Err(_)) => {
                let problem = format!(
                    "address = \"{written}\" is no address and port; write \"[::]:25\" for all \
                     addresses, \"192.0.2.1:25\" for one, or \"systemd:NAME\""
                );
                self.blame(key, Some(index), problem);
                return;
            }
        };
        if listen.tls == TlsMode::None && !loopback {
            let problem = format!(
                "tls = \"none\" on {written}: passwords and mail would travel in clear; write \
                 \"starttls\" or \"implicit\", or listen on 127.0.0.1 or [::1]"
            );
            self.blame("listen.tls", Some(index), problem);
        }
    }

    fn route(&mut self, index: usize, route: &Route) {
        if let Err((key, problem)) = routes::read(route) {
            self.blame(key, Some(index), problem);
        }
        self.sources("route.source", Some(index), &route.source);
    }

    /// Addresses to send from: each once, and such as can be sent from.
    fn sources(&mut self, key: &str, index: Option<usize>, source: &[IpAddr]) {
        let mut seen = HashSet::new();
        if let Some(twice) = source.iter().find(|ip| !seen.insert(*ip)) {
            let problem = format!("{key} has {twice} twice; keep one");
            self.blame(key, index, problem);
        }
        if source
            .iter()
            .any(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            let problem = format!(
                "{key} is not an address of this host; leave it out to let the kernel choose"
            );
            self.blame(key, index, problem);
        }
    }

    fn warmup(&mut self, index: usize, warmup: &Warmup, config: &Config) {
        let address = warmup.address;
        let routed = config.routes.iter().flat_map(|route| &route.source);
        if !config
            .delivery
            .source
            .iter()
            .chain(routed)
            .any(|ip| *ip == address)
        {
            let problem = format!(
                "warmup.address = \"{address}\" is nothing that mail leaves from; add it to \
                 delivery.source or to the source of a route"
            );
            self.blame("warmup.address", Some(index), problem);
        }
        let others = config.warmups.iter().take(index);
        if others.into_iter().any(|other| other.address == address) {
            let problem = format!("warmup.address = \"{address}\" is there twice; keep one");
            self.blame("warmup.address", Some(index), problem);
        }
        let (share, growth) = (warmup.share, warmup.growth);
        if !(share > 0.0 && share <= 100.0) {
            let problem = format!("warmup.share = {share} is no share; write 1 for one percent");
            self.blame("warmup.share", Some(index), problem);
        }
        if !(1.0..=10.0).contains(&growth) {
            let problem = format!("warmup.growth = {growth}; write 1 (none) to 10, such as 1.2");
            self.blame("warmup.growth", Some(index), problem);
        }
    }

    fn outbound(&mut self, config: &Config) {
        if config.dns.servers.iter().any(|server| server.port() == 0) {
            self.blame(
                "dns.servers",
                None,
                "dns.servers: port 0 answers nobody; write 53".into(),
            );
        }
        let delivery = &config.delivery;
        if delivery.port == 0 {
            self.blame(
                "delivery.port",
                None,
                "delivery.port = 0 is no port; write 25".into(),
            );
        }
        self.sources("delivery.source", None, &delivery.source);
        self.at_least("delivery.connections", delivery.connections, 1);
        self.at_least("delivery.active", delivery.active, 1);
        self.bounded("delivery.keep_idle", delivery.keep_idle);
        let timeouts = &config.timeouts;
        for (key, span) in [
            ("timeouts.connect", timeouts.connect),
            ("timeouts.greeting", timeouts.greeting),
            ("timeouts.command", timeouts.command),
            ("timeouts.data", timeouts.data),
            ("timeouts.final_dot", timeouts.final_dot),
            ("timeouts.transaction", timeouts.transaction),
            ("timeouts.pipe", timeouts.pipe),
        ] {
            self.bounded(key, span);
        }
    }

    fn certificate(&mut self, config: &Config) {
        let tls = &config.tls;
        if tls.certificate.is_empty() != tls.key.is_empty() {
            let (there, missing) = match tls.key.is_empty() {
                true => ("tls.certificate", "tls.key"),
                false => ("tls.key", "tls.certificate"),
            };
            let problem = format!("{there} needs the other of the pair; write {missing} too");
            self.blame(there, None, problem);
        }
        if config.acme.enabled && !tls.certificate.is_empty() {
            let problem = "tls.certificate and acme.enabled: the host shows one certificate; \
                           remove one of them";
            self.blame("tls.certificate", None, problem.into());
        }
    }

    fn retry(&mut self, config: &Config) {
        let retry = &config.retry;
        for (key, span) in [
            ("retry.first", retry.first),
            ("retry.longest", retry.longest),
            ("retry.give_up", retry.give_up),
            ("retry.bounce_give_up", retry.bounce_give_up),
        ] {
            self.bounded(key, span);
        }
        if !(1.0..=100.0).contains(&retry.factor) {
            let problem = format!(
                "retry.factor = {} is not between 1 and 100; write 1 for equal waits, 2 to double",
                retry.factor
            );
            self.blame("retry.factor", None, problem);
        }
        if retry.first > retry.longest {
            let problem = format!(
                "retry.first = {} is longer than retry.longest = {}; make one of them fit",
                retry.first, retry.longest
            );
            self.blame("retry.first", None, problem);
        }
        if retry.warn_after == Span(std::time::Duration::ZERO) {
            let problem = "retry.warn_after = 0 would warn of every message; write 4h or never";
            self.blame("retry.warn_after", None, problem.into());
        }
    }

    fn acme(&mut self, config: &Config) {
        let acme = &config.acme;
        let by_dns = acme.challenge == AcmeChallenge::Dns01;
        if acme.enabled && by_dns && config.dns.provider.0.is_none() {
            let problem = "acme.challenge = \"dns-01\" takes a DNS provider; write provider = \"...\" into [dns] \
                           (docs/dns.md), or take http-01 or tls-alpn-01";
            self.blame("acme.challenge", None, problem.into());
        }
        if let (false, Some(name)) = (by_dns, acme.names.iter().find(|name| name.is_wildcard())) {
            let problem = format!(
                "acme.names: CAs give certificates for {} by dns-01 alone (RFC 8555 section 7.1.3); set \
                 acme.challenge = \"dns-01\" and dns.provider, or write whole names",
                name.as_str()
            );
            self.blame("acme.names", None, problem);
        }
        self.bounded("acme.dns_wait", acme.dns_wait);
        self.bounded("dns.provider_time", config.dns.provider_time);
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        for (key, value, least) in [
            ("limits.recipients", limits.recipients, 1),
            (
                "limits.command_line",
                limits.command_line,
                LEAST_COMMAND_LINE,
            ),
            ("limits.hops", limits.hops, 1),
            ("limits.connections", limits.connections, 1),
            (
                "limits.connections_per_client",
                limits.connections_per_client,
                1,
            ),
            ("limits.errors", limits.errors, 1),
            ("limits.idle_commands", limits.idle_commands, 1),
            ("limits.commands", limits.commands, 10),
            ("limits.transactions", limits.transactions, 1),
            ("limits.relay_transactions", limits.relay_transactions, 1),
            ("limits.chunks", limits.chunks, 1),
            ("limits.own_hops", limits.own_hops, 1),
            ("limits.line", limits.line, 78),
            ("limits.guesses", limits.guesses, 1),
        ] {
            self.at_least(key, value, least);
        }
        for (key, span) in [
            ("limits.command_timeout", limits.command_timeout),
            ("limits.data_timeout", limits.data_timeout),
            ("limits.session", limits.session),
            ("limits.handshake", limits.handshake),
            ("limits.busy_timeout", limits.busy_timeout),
            ("limits.ban", limits.ban),
            ("limits.future_release", limits.future_release),
            ("limits.drain", limits.drain),
            ("auth.dovecot_time", config.auth.dovecot_time),
            ("milter.connect", config.milter.connect),
            ("milter.reply", config.milter.reply),
            ("milter.message", config.milter.message),
            ("hooks.post_data_time", config.hooks.post_data_time),
        ] {
            self.bounded(key, span);
        }
        let hooks = config.hooks.post_data_at_once;
        self.at_least("hooks.post_data_at_once", hooks, 1);
        for (key, size) in [
            ("limits.message", limits.message),
            ("limits.header", limits.header),
        ] {
            if size < Size::kib(1) {
                self.blame(
                    key,
                    None,
                    format!("{key} = {size} lets no mail in; write 1KiB or more"),
                );
            }
        }
    }

    fn at_least(&mut self, key: &str, value: usize, least: usize) {
        if value < least {
            self.blame(
                key,
                None,
                format!("{key} = {value} is too few; write {least} or more"),
            );
        }
    }

    /// Every wait ends some day, and none is over before it begins.
    fn bounded(&mut self, key: &str, span: Span) {
        if span == Span::NEVER || span.0.is_zero() {
            let problem = format!("{key} = {span} can not be; write a span such as 30s, 5m or 5d");
            self.blame(key, None, problem);
        }
    }

    /// Notes a problem with `key`, `section.key` or `key`, of the table `index` of an array.
    fn blame(&mut self, key: &str, index: Option<usize>, problem: String) {
        let line = self.line(key, index);
        self.problems.push(ConfigError {
            file: self.name.to_owned(),
            line,
            problem,
        });
    }

    /// The line of a key; where it is not written, that of its section.
    fn line(&self, key: &str, index: Option<usize>) -> Option<usize> {
        let root = self.table.as_ref()?.get_ref();
        let (section, key) = key
            .split_once('.')
            .map_or((key, None), |(s, k)| (s, Some(k)));
        let mut value = root.get(section)?;
        if let (Some(index), DeValue::Array(tables)) = (index, value.get_ref()) {
            value = tables.get(index)?;
        }
        if let (Some(key), DeValue::Table(table)) = (key, value.get_ref()) {
            value = table.get(key).unwrap_or(value);
        }
        Some(line_of(self.text, &value.span()))
    }
}
