//! The configuration: typed, checked whole before any of it is used.
//!
//! `chapar.toml` names no secret; those lie beside it in `secrets/`. Unknown keys are errors, so
//! that a misspelt limit is not a limit that silently does not hold. Paths are relative to the
//! directory of the file.
#![forbid(unsafe_code)]

mod check;
mod choices;
mod dns_list;
mod dns_provider;
pub mod providers;
pub mod routes;
mod sections;
mod table;
mod tls_rules;
mod units;
mod warmup;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::time;
use chapar_smtp as smtp;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::smtp::extension::Extension;
use providers::Providers;

pub use chapar_base::{files, net::Network};
pub use choices::{
    AcmeChallenge, CertificateName, Dmarc, DnsProvider, DnsTrouble, Dnssec, DomainName, Failing,
    FieldName, HttpsUrl, LogFormat, MilterAddress, MilterChanges, MissingFrom, MtaSts, OwnDomains,
    Rewrite, SeveralAuthors, Spam, SpfFail,
};
pub use dns_list::ListZone;
pub use dns_provider::Provider;
pub use sections::{
    Acme, Auth, Delivery, Dns, DnsLists, Forwarding, Greylist, Hooks, Incoming, Limits, Log,
    Milter, Reports, Retry, Smtp, Timeouts, Tls, Web,
};
pub use table::{Row, defaults};
pub use tls_rules::{TlsRule, TlsRules};
pub use units::{Rate, Size, Span, Steps};
pub use warmup::{Day, Warmup};

/// The whole of `chapar.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The EHLO name; must match the PTR of the sending address.
    pub hostname: String,
    /// Where the queue lives.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Who is told of our own failures.
    #[serde(default)]
    pub postmaster: String,
    /// Clients that may relay without AUTH.
    #[serde(default)]
    pub relay_networks: Vec<Network>,
    /// Proxies that send a PROXY header.
    #[serde(default)]
    pub proxy_networks: Vec<Network>,
    /// Proxies that may say XCLIENT.
    #[serde(default)]
    pub xclient_networks: Vec<Network>,
    /// The listeners.
    #[serde(default, rename = "listen")]
    pub listeners: Vec<Listen>,
    /// DNS servers.
    #[serde(default)]
    pub dns: Dns,
    /// The outbound side.
    #[serde(default)]
    pub delivery: Delivery,
    /// Exceptions to the MX lookup; the first match wins.
    #[serde(default, rename = "route")]
    pub routes: Vec<Route>,
    /// Addresses to send from that are new.
    #[serde(default, rename = "warmup")]
    pub warmups: Vec<Warmup>,
    /// When to try again and when to give up.
    #[serde(default)]
    pub retry: Retry,
    /// Timeouts of our client.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What is asked about mail from outside.
    #[serde(default)]
    pub incoming: Incoming,
    /// DNS lists of clients.
    #[serde(default)]
    pub dnslists: DnsLists,
    /// Who is asked to come again.
    #[serde(default)]
    pub greylist: Greylist,
    /// Reports about mail from outside.
    #[serde(default)]
    pub reports: Reports,
    /// Mail from outside to addresses elsewhere.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// The milters of listeners.
    #[serde(default)]
    pub milter: Milter,
    /// Passwords that others know.
    #[serde(default)]
    pub auth: Auth,
    /// Programs of the operator.
    #[serde(default)]
    pub hooks: Hooks,
    /// What one client, message or connection may take.
    #[serde(default)]
    pub limits: Limits,
    /// What our listeners offer.
    #[serde(default)]
    pub smtp: Smtp,
    /// TLS of both sides.
    #[serde(default)]
    pub tls: Tls,
    /// The certificate's CA.
    #[serde(default)]
    pub acme: Acme,
    /// Where the daemon tells what it does.
    #[serde(default)]
    pub log: Log,
    /// What others fetch from us.
    #[serde(default)]
    pub web: Web,
    /// The directory of the file this was read from; set by the loader.
    #[serde(skip)]
    pub dir: PathBuf,
    /// What providers ask of our pace: the embedded rules, and `providers.toml` beside the file.
    #[serde(skip)]
    pub providers: Arc<Providers>,
}

/// One `[[listen]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// `address:port`, or `systemd:NAME` for an inherited socket.
    pub address: String,
    /// Who may come.
    pub service: Service,
    /// How TLS begins.
    #[serde(default)]
    pub tls: TlsMode,
    /// Extensions it does not offer.
    #[serde(default)]
    pub disable: Vec<Extension>,
    /// Milters that are asked about its mail.
    #[serde(default)]
    pub milters: Vec<MilterAddress>,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Mail from other servers for our domains (port 25).
    Mx,
    /// Mail from our users (ports 465 and 587): nothing without AUTH.
    Submission,
}

impl Service {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Service::Mx => "mx",
            Service::Submission => "submission",
        }
    }
}

/// How TLS begins on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// In clear until the client says STARTTLS (RFC 3207).
    #[default]
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
    /// Never; only on loopback.
    None,
}

impl TlsMode {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            TlsMode::Starttls => "starttls",
            TlsMode::Implicit => "implicit",
            TlsMode::None => "none",
        }
    }
}

/// Which address family deliveries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4, and IPv6 if a `delivery.source` or a public address of this host is one. `chapar check`
    /// tells whether its PTR is right.
    #[default]
    Auto,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A domain, `*.domain` for its sub-domains, or `*`.
    #[serde(default = "everything")]
    pub to: String,
    /// The same for the domain of the reverse-path.
    #[serde(default = "everything")]
    pub from: String,
    /// What [`routes::Via`] reads: one, or several hosts in the order to try them.
    #[serde(deserialize_with = "one_or_more")]
    pub via: Vec<String>,
    /// Addresses to send from instead of `delivery.source`.
    #[serde(default)]
    pub source: Vec<std::net::IpAddr>,
    /// What holds for TLS on this way, whatever `tls.domains` says.
    #[serde(default)]
    pub tls: Option<TlsRule>,
}

impl Default for Route {
    fn default() -> Self {
        Route {
            to: everything(),
            from: everything(),
            via: Vec::new(),
            source: Vec::new(),
            tls: None,
        }
    }
}

fn everything() -> String {
    "*".to_owned()
}

/// A string, or a list of strings.
fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Strings;

    impl<'de> serde::de::Visitor<'de> for Strings {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Self::Value, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }

    from.deserialize_any(Strings)
}

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("/var/lib/chapar")
}

/// A configuration that can not be used, and where it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {problem}", line.map(|n| format!(":{n}")).unwrap_or_default())]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line, where one is to blame; from 1.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

impl Config {
    /// Reads and checks `file`; the first problem, if there are several.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        Config::load_all(file).map_err(ConfigError::first)
    }

    /// Reads and checks `file`; every problem.
    pub fn load_all(file: &Path) -> Result<Config, Vec<ConfigError>> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| {
            let remedy = "`chapar setup DOMAIN` writes one, --config names another";
            vec![ConfigError::whole(&name, format!("{error}; {remedy}"))]
        })?;
        let dir = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        Config::parse_all(&text, &name, &dir)
    }

    /// Checks `text`, which came from the file `name` in the directory `dir`; the first problem.
    pub fn parse(text: &str, name: &str, dir: &Path) -> Result<Config, ConfigError> {
        Config::parse_all(text, name, dir).map_err(ConfigError::first)
    }

    /// Checks `text`, which came from the file `name` in the directory `dir`; every problem.
    pub fn parse_all(text: &str, name: &str, dir: &Path) -> Result<Config, Vec<ConfigError>> {
        let mut config: Config = toml::from_str(text).map_err(|error| {
            vec![ConfigError {
                file: name.to_owned(),
                line: error.span().map(|span| line_of(text, &span)),
                problem: error.message().replace('\n', ", "),
            }]
        })?;
        let problems = check::check(&config, text, name);
        if !problems.is_empty() {
            return Err(problems);
        }
        // One form wherever it is compared: directories, EHLO, authserv-id, loops.
        config.hostname = check::without_root(&config.hostname).to_ascii_lowercase();
        config.dir = dir.to_path_buf();
        config.data_dir = dir.join(&config.data_dir);
        if !config.dns.trust_anchor.is_empty() {
            let file = dir.join(&config.dns.trust_anchor);
            config.dns.trust_anchor = file.display().to_string();
        }
        Ok(config)
    }

    /// The same with `providers.toml` beside the file, which only delivery needs.
    pub fn with_providers(mut self) -> Result<Config, ConfigError> {
        self.providers = Arc::new(read_providers(&self.dir.join(providers::FILE))?);
        Ok(self)
    }

    /// What `serve` needs beyond a well-formed file: somebody must be able to connect. `file` is
    /// where the configuration came from.
    pub fn check_to_serve(&self, file: &Path) -> Result<(), ConfigError> {
        if self.listeners.is_empty() {
            let remedy = "write a [[listen]] with address = \"[::]:25\" and service = \"mx\"";
            let problem = format!("no listener is configured; {remedy}");
            return Err(ConfigError::whole(&file.display().to_string(), problem));
        }
        Ok(())
    }
}

impl ConfigError {
    fn whole(file: &str, problem: String) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            line: None,
            problem,
        }
    }

    fn first(problems: Vec<ConfigError>) -> ConfigError {
        let none = || ConfigError::whole("", "refused without a reason".into());
        problems.into_iter().next().unwrap_or_else(none)
    }
}

/// The embedded providers and those of a file, which need not be there.
fn read_providers(file: &Path) -> Result<Providers, ConfigError> {
    let name = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let remedy = "make it readable, or remove it to use the built-in rules";
            return Err(ConfigError::whole(&name, format!("{error}; {remedy}")));
        }
    };
    Providers::read(&text).map_err(|problem| ConfigError {
        line: problem.span.map(|span| line_of(&text, &span)),
        ..ConfigError::whole(&name, problem.text)
    })
}

/// The line on which `span` begins, from 1.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start)
        .map_or(1, |before| before.matches('\n').count() + 1)
}
