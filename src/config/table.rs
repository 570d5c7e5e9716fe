//! The configuration as a table: every key, its default, its unit and its meaning.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use super::dns_list::ListZone;
use super::dns_provider::Provider;
use super::{
    AcmeChallenge, CertificateName, Dmarc, DnsProvider, DnsTrouble, Dnssec, DomainName, Failing,
    Family, FieldName, HttpsUrl, LogFormat, MilterChanges, MissingFrom, MtaSts, Network,
    OwnDomains, Rewrite, SeveralAuthors, Size, Spam, Span, SpfFail, Steps, TlsRules, TlsVersion,
    sections, warmup,
};
use crate::smtp::extension::Extension;

/// One key of `chapar.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `section.key`; for `[[listen]]`, `[[route]]` and `[[warmup]]` of each of them.
    pub key: &'static str,
    /// The default as TOML writes it; none: the key must be given.
    pub value: Option<String>,
    /// The unit, or what may stand there.
    pub unit: &'static str,
    /// What it is for.
    pub about: String,
}

impl Row {
    pub(super) fn of(
        key: &'static str,
        value: Option<String>,
        unit: &'static str,
        about: &str,
    ) -> Row {
        Row {
            key,
            value,
            unit,
            about: about.trim().to_owned(),
        }
    }

    /// `section.key = value  # unit: meaning`.
    pub fn line(&self) -> String {
        let (key, unit, about) = (self.key, self.unit, &self.about);
        match &self.value {
            Some(value) => format!("{key} = {value}  # {unit}: {about}"),
            None => format!("{key} = \"\"  # {unit}, must be given: {about}"),
        }
    }

    /// A row of the table in `docs/configuration.md`.
    pub fn markdown(&self) -> String {
        let value = self
            .value
            .as_ref()
            .map_or("(must be given)".into(), |v| format!("`{v}`"));
        let unit = self.unit.replace('|', "\\|");
        format!("| `{}` | {value} | {unit} | {} |", self.key, self.about)
    }
}

/// Every key there is, in the order of the file.
pub fn defaults() -> Vec<Row> {
    let none: Vec<IpAddr> = Vec::new();
    let mut rows = vec![
        Row::of(
            "hostname",
            None,
            "host name",
            "The EHLO name; must match the PTR of the sending address.",
        ),
        Row::of(
            "data_dir",
            Some(quoted(super::default_data_dir().display())),
            "directory",
            "Where the queue lives.",
        ),
        Row::of(
            "postmaster",
            Some(quoted("")),
            "address",
            "Who is told of our own failures, and gets the mail for postmaster@ and abuse@ of our domains that lead it nowhere else.",
        ),
        Row::of(
            "relay_networks",
            Some(none.shown()),
            "networks",
            "Clients that may relay without AUTH.",
        ),
        Row::of(
            "proxy_networks",
            Some(none.shown()),
            "networks",
            "Proxies that begin each connection with a PROXY header (version 1 or 2); nobody else may.",
        ),
        Row::of(
            "xclient_networks",
            Some(none.shown()),
            "networks",
            "Proxies that may say XCLIENT; nobody else may.",
        ),
        Row::of(
            "listen.address",
            None,
            "address:port",
            "Where to listen, or systemd:NAME for an inherited socket.",
        ),
        Row::of(
            "listen.service",
            None,
            "mx | submission",
            "Mail from other servers for our domains, or from our users.",
        ),
        Row::of(
            "listen.tls",
            Some(quoted("starttls")),
            "starttls | implicit | none",
            "How TLS begins; none only on loopback.",
        ),
        Row::of(
            "listen.disable",
            Some(none.shown()),
            "extensions",
            "Extensions that this listener does not offer, beside those of smtp.disable.",
        ),
        Row::of(
            "listen.milters",
            Some(none.shown()),
            "inet:host:port | unix:/path",
            "Milters that are asked about its mail, one after the other.",
        ),
        Row::of(
            "route.to",
            Some(quoted("*")),
            "domain | *.domain | *",
            "Mail to whom takes this route instead of its MX; the first match wins.",
        ),
        Row::of(
            "route.from",
            Some(quoted("*")),
            "domain | *.domain | *",
            "Mail of whom does: the domain of the reverse-path; `*` includes bounces, which have none.",
        ),
        Row::of(
            "route.via",
            None,
            "smtp: | smtps: | lmtp: | maildir: | pipe: | discard: | mx:",
            "Where it goes; a list of hosts is tried in its order. See docs/delivery.md.",
        ),
        Row::of(
            "route.source",
            Some(none.shown()),
            "addresses",
            "Addresses to send from instead of delivery.source; of several of one family each message keeps to one.",
        ),
        Row::of(
            "route.tls",
            Some(quoted("")),
            "never | may | encrypt | verify | dane",
            "What holds for TLS on this way, whatever tls.domains says; empty: as tls.domains says, which counts on routes as well.",
        ),
        Row::of(
            "warmup.address",
            None,
            "address",
            "An address to send from that is new; it also stands in delivery.source or route.source.",
        ),
        Row::of(
            "warmup.since",
            None,
            "YYYY-MM-DD",
            "Its first day, in UTC; before that it gets nothing.",
        ),
        Row::of(
            "warmup.share",
            Some(warmup::first_share().shown()),
            "percent",
            "How much of the mail of its family leaves from it on the first day.",
        ),
        Row::of(
            "warmup.growth",
            Some(warmup::growth().shown()),
            "factor",
            "Each day's share is the one before times this, until it is as large as that of the others.",
        ),
    ];
    rows.extend(sections::rows());
    rows
}

fn quoted(text: impl Display) -> String {
    format!("\"{text}\"")
}

/// A value as `chapar config --defaults` shows it.
pub(super) trait Shown {
    /// Its unit, or what may stand there.
    const UNIT: &'static str;
    /// The value in TOML.
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($type:ty, $unit:literal, $value:ident => $shown:expr;)+) => {$(
        impl Shown for $type {
            const UNIT: &'static str = $unit;
            fn shown(&self) -> String {
                let $value = self;
                $shown
            }
        }
    )+};
}

shown! {
    Span, "time", value => quoted(value);
    Size, "bytes", value => quoted(value);
    Steps, "times", value => quoted(value);
    usize, "count", value => value.to_string();
    u16, "port", value => value.to_string();
    f64, "factor", value => format!("{value:?}");
    bool, "true | false", value => value.to_string();
    String, "file", value => quoted(value);
    DomainName, "domain", value => quoted(value.as_str());
    Family, "auto | ipv4 | ipv6", value => quoted(match value {
        Family::Auto => "auto",
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    });
    Dmarc, "ignore | reject | quarantine", value => quoted(match value {
        Dmarc::Ignore => "ignore",
        Dmarc::Reject => "reject",
        Dmarc::Quarantine => "quarantine",
    });
    SpfFail, "accept | reject", value => quoted(match value {
        SpfFail::Accept => "accept",
        SpfFail::Reject => "reject",
    });
    OwnDomains, "reject | hold | accept", value => quoted(match value {
        OwnDomains::Reject => "reject",
        OwnDomains::Hold => "hold",
        OwnDomains::Accept => "accept",
    });
    SeveralAuthors, "reject | accept", value => quoted(match value {
        SeveralAuthors::Reject => "reject",
        SeveralAuthors::Accept => "accept",
    });
    MissingFrom, "add | reject", value => quoted(match value {
        MissingFrom::Add => "add",
        MissingFrom::Reject => "reject",
    });
    Vec<DomainName>, "domains", value => {
        list(&value.iter().map(DomainName::as_str).collect::<Vec<_>>())
    };
    Dnssec, "auto | on | off", value => quoted(match value {
        Dnssec::Auto => "auto",
        Dnssec::On => "on",
        Dnssec::Off => "off",
    });
    DnsProvider, "rfc2136 | cloudflare | hetzner | digitalocean | desec | route53 | acme-dns", value => {
        quoted(value.0.map_or("", Provider::name))
    };
    DnsTrouble, "defer | accept", value => quoted(match value {
        DnsTrouble::Defer => "defer",
        DnsTrouble::Accept => "accept",
    });
    Failing, "defer | accept", value => quoted(match value {
        Failing::Defer => "defer",
        Failing::Accept => "accept",
    });
    Spam, "refuse | hold | tag", value => quoted(match value {
        Spam::Refuse => "refuse",
        Spam::Hold => "hold",
        Spam::Tag => "tag",
    });
    MilterChanges, "add | headers | all", value => quoted(match value {
        MilterChanges::Add => "add",
        MilterChanges::Headers => "headers",
        MilterChanges::All => "all",
    });
    FieldName, "header field", value => quoted(value.as_str());
    Rewrite, "always | without-dkim | never", value => quoted(match value {
        Rewrite::Always => "always",
        Rewrite::WithoutDkim => "without-dkim",
        Rewrite::Never => "never",
    });
    AcmeChallenge, "http-01 | tls-alpn-01 | dns-01", value => quoted(value.name());
    LogFormat, "auto | human | json", value => quoted(value.name());
    MtaSts, "none | testing | enforce", value => quoted(value.name());
    TlsRules, "{ domain = rule }", value => value.to_string();
    HttpsUrl, "https://...", value => quoted(value.as_str());
    Vec<CertificateName>, "domains", value => {
        list(&value.iter().map(CertificateName::as_str).collect::<Vec<_>>())
    };
    TlsVersion, "1.2 | 1.3", value => quoted(match value {
        TlsVersion::V12 => "1.2",
        TlsVersion::V13 => "1.3",
    });
    Vec<ListZone>, "domains", value => list(value);
    Vec<Extension>, "extensions", value => list(value);
    Vec<IpAddr>, "addresses", value => list(value);
    Vec<Network>, "networks", value => list(value);
    Vec<SocketAddr>, "address:port", value => list(value);
}

fn list<T: Display>(values: &[T]) -> String {
    format!(
        "[{}]",
        values.iter().map(quoted).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::Config;

    const NEEDED: &str = "hostname = \"mx.example.org\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, "chapar.toml", Path::new("")).map_err(|error| error.problem)
    }

    /// The keys that the parser knows in `section`, from its complaint about one that it does not.
    fn known(section: &str) -> BTreeSet<String> {
        let text = match section {
            "" => format!("{NEEDED}no_such_key = 1\n"),
            "listen" | "route" | "warmup" => format!("{NEEDED}[[{section}]]\nno_such_key = 1\n"),
            _ => format!("{NEEDED}[{section}]\nno_such_key = 1\n"),
        };
        let problem = parse(&text).expect_err("an unknown key is an error");
        assert!(problem.contains("unknown field"), "{problem}");
        problem
            .split('`')
            .skip(3)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_table_has_every_key_that_the_parser_knows_and_no_other() {
        let rows = defaults();
        let split = |key: &'static str| key.split_once('.').unwrap_or(("", key));
        let sections: BTreeSet<&str> = rows.iter().map(|row| split(row.key).0).collect();
        for section in &sections {
            let mut listed: BTreeSet<String> = rows
                .iter()
                .map(|row| split(row.key))
                .filter(|(of, _)| of == section)
                .map(|(_, key)| key.to_owned())
                .collect();
            if section.is_empty() {
                listed.extend(
                    sections
                        .iter()
                        .filter(|s| !s.is_empty())
                        .map(|s| (*s).to_owned()),
                );
            }
            // One known key alone is written "expected `key`", several as a list: both in quotes.
            assert_eq!(listed, known(section), "[{section}]");
        }
    }

    #[test]
    fn the_defaults_written_out_are_the_defaults() {
        let mut text = String::new();
        for row in defaults() {
            let lists = ["listen.", "route.", "warmup."];
            let each = lists.iter().any(|list| row.key.starts_with(list));
            if let (Some(value), false) = (&row.value, each) {
                text.push_str(&format!("{} = {value}\n", row.key));
            }
        }
        let implied = parse(NEEDED).expect("a host name is enough");
        assert_eq!(parse(&format!("{NEEDED}{text}")), Ok(implied));
    }

    #[test]
    fn the_documentation_has_this_table() {
        let docs = include_str!("../../docs/configuration.md");
        let documented: Vec<&str> = docs
            .lines()
            .skip_while(|line| *line != "|---|---|---|---|")
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let rows: Vec<String> = defaults().iter().map(Row::markdown).collect();
        assert_eq!(
            documented, rows,
            "replace the table in docs/configuration.md by what `chapar config --defaults --markdown` prints"
        );
    }
}
