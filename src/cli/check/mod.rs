//! `chapar check`: the doctor, and whether a daemon would take the configuration.
//!
//! Gathers the facts that [`crate::doctor`] judges: asks the DNS, connects to our own ports and to
//! one mail host elsewhere, reads files. Changes nothing.
//!
//! Exit codes: 0 all is well, 1 something could be better or was not found out, 2 something is
//! wrong, 78 the configuration can not be used.

mod certificate;
mod config;
mod domain;
mod host;
pub(super) mod net;

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use hickory_resolver::TokioResolver;

pub(super) use config::configuration;
pub(super) use domain::count as lookups;
pub(super) use host::outbound;

use super::exit::Wrong;
use super::records;
use crate::config::Config;
use crate::dns::Resolver;
use crate::doctor::{self, Finding, Level, rules};
use crate::identity::Identity;

/// Look for everything that keeps mail from the inbox
///
/// One line for each finding: ✓ good, ! could be better, ✗ wrong; what it is, why it matters, and
/// the remedy. Looks at every domain of ours, or at DOMAIN. With --config and no domain only the
/// configuration is checked, and everything it names.
///
/// Exit codes: 0 all is well, 1 the worst is a !, 2 the worst is a ✗, 78 the configuration can not
/// be used.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar check\n  chapar check example.org --json\n  \
                  chapar check --config ./chapar.toml"
)]
pub(super) struct Args {
    /// Look at this domain of ours only.
    domain: Option<String>,
    /// Look at every domain of ours, also with --config.
    #[arg(long, conflicts_with = "domain")]
    all: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// An address of this host (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// A domain whose mail host is tried, to see whether port 25 is open on the way out.
    #[arg(long, value_name = "DOMAIN", default_value = "gmail.com")]
    probe: String,
    /// A time server to compare the clock with.
    #[arg(long, value_name = "HOST[:PORT]", default_value = "pool.ntp.org")]
    time_server: String,
}

/// What `chapar status` shows of the machine.
pub(super) struct Host {
    /// One for each listener.
    pub(super) listeners: Vec<Finding>,
    /// The certificate, where a listener speaks TLS.
    pub(super) certificate: Option<Finding>,
    /// Seconds that it is still valid.
    pub(super) left: Option<i64>,
}

/// Findings by domain.
pub(super) type OfDomains = Vec<(String, Vec<Finding>)>;

/// The listeners and the certificate, and with `dns` what the DNS says of every domain.
pub(super) fn glance(
    config: &Config,
    identity: &Identity,
    ips: Vec<IpAddr>,
    running: bool,
    dns: bool,
) -> anyhow::Result<(Host, OfDomains)> {
    let ask = Ask {
        config,
        identity,
        resolver: Resolver::new(&config.dns)?,
        ips,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let host = host::glance(&ask, running).await;
        let mut domains = Vec::new();
        for (name, _) in identity.domains().filter(|_| dns) {
            domains.push((name.to_owned(), domain::examine(&ask, name).await));
        }
        Ok((host, domains))
    })
}

/// What everything is asked with.
struct Ask<'a> {
    config: &'a Config,
    identity: &'a Identity,
    resolver: Resolver,
    /// Addresses of this host.
    ips: Vec<IpAddr>,
}

impl Ask<'_> {
    fn hickory(&self) -> TokioResolver {
        self.resolver.hickory()
    }
}

/// `named`: the configuration was named on the command line.
pub(super) fn run(file: &Path, args: &Args, named: bool) -> anyhow::Result<ExitCode> {
    let doctor = args.domain.is_some() || args.all || args.json || !args.ip.is_empty();
    if named && !doctor {
        return Ok(configuration(file));
    }
    let config = Config::load(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let domains: Vec<&str> = match &args.domain {
        None => identity
            .domains()
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with('*'))
            .collect(),
        Some(domain) => {
            let domain = domain.to_ascii_lowercase();
            let found = identity.domains().find(|(name, _)| *name == domain);
            let Some((name, _)) = found else {
                let text = format!(
                    "{domain} is not one of our domains; `chapar domain add {domain}` makes it one"
                );
                return Err(Wrong(text).into());
            };
            vec![name]
        }
    };
    let ask = Ask {
        config: &config,
        identity: &identity,
        resolver: Resolver::new(&config.dns)?,
        ips: records::addresses(&config, &args.ip),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let findings = runtime.block_on(examine(&ask, &domains, args));
    print(&findings, args.json)?;
    Ok(doctor::worst(&findings).exit_code().into())
}

async fn examine(ask: &Ask<'_>, domains: &[&str], args: &Args) -> Vec<Finding> {
    let mut findings = host::examine(ask, &args.probe, &args.time_server).await;
    for domain in domains {
        let found = domain::examine(ask, domain).await;
        let both: Vec<Finding> = findings.iter().chain(&found).cloned().collect();
        findings.extend(found);
        // The findings about other domains are not this one's.
        let of_host = |finding: &&Finding| {
            !domains
                .iter()
                .any(|other| other != domain && is_of(finding, other))
        };
        let own: Vec<Finding> = both.iter().filter(of_host).cloned().collect();
        findings.push(rules::judge(domain, &own));
    }
    findings
}

fn is_of(finding: &Finding, domain: &str) -> bool {
    finding.about == domain || finding.about.ends_with(&format!("._domainkey.{domain}"))
}

fn print(findings: &[Finding], json: bool) -> anyhow::Result<()> {
    for finding in findings {
        match json {
            true => say!("{}", serde_json::to_string(finding)?),
            false => say!("{}", finding.line()),
        }
    }
    if !json {
        let count = |level| {
            findings
                .iter()
                .filter(|finding| finding.level == level)
                .count()
        };
        let (good, better, wrong) = (
            count(Level::Good),
            count(Level::Warning),
            count(Level::Wrong),
        );
        say!("\n{good} good, {better} could be better, {wrong} wrong");
    }
    Ok(())
}
