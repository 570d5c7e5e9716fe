//! The configuration: typed, checked whole before any of it is used.
//!
//! `chapar.toml` names no secret; those lie beside it in `secrets/`. Unknown keys are errors, so
//! that a misspelt limit is not a limit that silently does not hold. Paths are relative to the
//! directory of the file.

pub mod files;
mod units;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use units::{Network, Size, Span};

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
    /// When to try again and when to give up.
    #[serde(default)]
    pub retry: Retry,
    /// Timeouts of our client.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What one client, message or connection may take.
    #[serde(default)]
    pub limits: Limits,
    /// TLS of both sides.
    #[serde(default)]
    pub tls: Tls,
    /// The directory of the file this was read from; set by the loader.
    #[serde(skip)]
    pub dir: PathBuf,
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

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Resolvers to ask; empty: the system's.
    pub servers: Vec<SocketAddr>,
}

/// `[delivery]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// Port of remote MX hosts.
    pub port: u16,
    /// Addresses to send from, at most one used for each family; empty: the kernel's choice.
    pub source: Vec<IpAddr>,
    /// Which address family to use.
    pub family: Family,
    /// May deliver to loopback and private addresses (labs, tests).
    pub private_targets: bool,
    /// Connections to one destination at the same time.
    pub connections: usize,
    /// Messages for which attempts may be under way at the same time.
    pub active: usize,
    /// How long an idle connection is kept for the next message.
    pub keep_idle: Span,
}

/// Which address family deliveries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv6 only where our own has a matching PTR.
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
    pub to: String,
    /// `smtp://host:port`.
    pub via: String,
}

/// `[retry]`: `delay(n) = min(first * factor^n, longest)`, give or take a tenth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Wait after the first failed attempt.
    pub first: Span,
    /// Each wait is this times the one before.
    pub factor: f64,
    /// No wait is longer.
    pub longest: Span,
    /// After this time the sender is told that it failed.
    pub give_up: Span,
    /// The same for DSNs.
    pub bounce_give_up: Span,
    /// After this time the sender is told, once, that it is late; `never` turns that off.
    pub warn_after: Span,
}

/// `[timeouts]` of our client (RFC 5321 section 4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For the TCP connection.
    pub connect: Span,
    /// For the 220.
    pub greeting: Span,
    /// For the reply to EHLO, MAIL, RCPT, DATA, and for a TLS handshake.
    pub command: Span,
    /// For each block of data to leave.
    pub data: Span,
    /// For the reply to the final dot; shorter makes duplicates.
    pub final_dot: Span,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message.
    pub message: Size,
    /// Bytes of its header block.
    pub header: Size,
    /// A body beyond this goes to disk as it arrives.
    pub memory_body: Size,
    /// Recipients of one message.
    pub recipients: usize,
    /// Bytes of one command line with its CR LF.
    pub command_line: usize,
    /// Received header fields after which a message is taken to loop.
    pub hops: usize,
    /// Connections at the same time, of all clients to one listener.
    pub connections: usize,
    /// Connections at the same time from one IPv4 address or IPv6 /64.
    pub connections_per_client: usize,
    /// Commands of one connection that may be refused before it is closed.
    pub errors: usize,
    /// Commands of one connection that move no mail (NOOP, RSET, VRFY) before it is closed.
    pub idle_commands: usize,
    /// How long a client may take for a command.
    pub command_timeout: Span,
    /// How long a client may pause within message data.
    pub data_timeout: Span,
    /// How long a whole session may last.
    pub session: Span,
    /// How long a TLS handshake may take.
    pub handshake: Span,
    /// Below it new mail gets 452.
    pub free_space: Size,
    /// Bytes of bodies kept in memory for a first attempt.
    pub memory_bodies: Size,
    /// How long a stopping daemon waits for sessions and attempts under way.
    pub drain: Span,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Extra roots (labs); empty: the system's.
    pub ca_file: String,
    /// `1.2` or `1.3`.
    pub min_version: TlsVersion,
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

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            port: 25,
            source: Vec::new(),
            family: Family::Auto,
            private_targets: false,
            connections: 20,
            active: 20_000,
            keep_idle: Span::secs(5),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            first: Span::mins(5),
            factor: 2.0,
            longest: Span::hours(4),
            give_up: Span::days(5),
            bounce_give_up: Span::days(2),
            warn_after: Span::hours(4),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Span::secs(30),
            greeting: Span::mins(5),
            command: Span::mins(5),
            data: Span::mins(3),
            final_dot: Span::mins(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message: Size::mib(50),
            header: Size::kib(256),
            memory_body: Size::kib(256),
            recipients: 1000,
            command_line: 2048,
            hops: 50,
            connections: 1000,
            connections_per_client: 50,
            errors: 20,
            idle_commands: 100,
            command_timeout: Span::mins(5),
            data_timeout: Span::mins(3),
            session: Span::hours(1),
            handshake: Span::secs(60),
            free_space: Size::gib(1),
            memory_bodies: Size::mib(64),
            drain: Span::secs(30),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Tls {
            ca_file: String::new(),
            min_version: TlsVersion::V12,
        }
    }
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
    /// Reads and checks `file`.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
            file: name.clone(),
            line: None,
            problem: format!("{error}; `chapar setup DOMAIN` writes one, --config names another"),
        })?;
        let dir = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        Config::parse(&text, &name, &dir)
    }

    /// Checks `text`, which came from the file `name` in the directory `dir`.
    pub fn parse(text: &str, name: &str, dir: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| ConfigError {
            file: name.to_owned(),
            line: error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1),
            problem: error.message().to_owned(),
        })?;
        config.dir = dir.to_path_buf();
        config.data_dir = dir.join(&config.data_dir);
        Ok(config)
    }
}
