//! `chapar status`: the state of the host on one screen.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::check::{self, Host, OfDomains};
use super::records;
use super::socket::{self, Failure};
use crate::config::Config;
use crate::control::protocol::{Answer, By, Numbers, Request, Row};
use crate::doctor::{Finding, Level, worst};
use crate::identity::Identity;
use crate::queue::{Happened, Selector};

/// Domains of the queue that are shown.
const ROWS: usize = 5;
/// Failures that are shown.
const FAILURES: usize = 5;
/// Columns of a reply.
const REPLY: usize = 100;

/// Show on one screen how the host is: listeners, certificate, queue, last failures, DNS
///
/// Exit codes as those of `check`: 0 all is well, 1 the worst is a !, 2 the worst is a ✗.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar status\n  chapar status --no-dns\n  chapar status --json | jq .queue"
)]
pub(super) struct Args {
    /// Ask no DNS server: faster, and works without a network.
    #[arg(long)]
    no_dns: bool,
    /// An address of this host (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// All of it as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found out.
struct Status {
    daemon: Result<Numbers, Failure>,
    rows: Vec<Row>,
    failures: Vec<Happened>,
    host: Host,
    /// Findings of each domain.
    domains: OfDomains,
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let (daemon, rows, failures) = queue(&config);
    let running = daemon.is_ok();
    let ips = records::addresses(&config, &args.ip);
    let (host, domains) = check::glance(&config, &identity, ips, running, !args.no_dns)?;
    let status = Status {
        daemon,
        rows,
        failures,
        host,
        domains,
    };
    match args.json {
        true => say!("{}", status.json(&config)),
        false => say!("{}", status.screen(&config).trim_end()),
    }
    Ok(status.level().exit_code().into())
}

type Asked = (Result<Numbers, Failure>, Vec<Row>, Vec<Happened>);

fn queue(config: &Config) -> Asked {
    let mut numbers = None;
    let asked = socket::ask(config, &Request::Counts {}, &mut |answer| {
        if let Answer::Counts(found) = answer {
            numbers = Some(*found);
        }
        Ok(())
    });
    let numbers = match (asked, numbers) {
        (Ok(_), Some(numbers)) => numbers,
        (Ok(_), None) => return (Err(Failure::Broken("no numbers".into())), vec![], vec![]),
        (Err(failure), _) => return (Err(failure), vec![], vec![]),
    };
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let summary = Request::Summary {
        selector: Selector::default(),
        by: By::Domain,
    };
    // The queue may be gone by now; what came is shown.
    let _ = socket::ask(config, &summary, &mut |answer| {
        if let Answer::Row(row) = answer {
            rows.push(*row);
        }
        Ok(())
    });
    let _ = socket::ask(config, &Request::Failures {}, &mut |answer| {
        if let Answer::Event(event) = answer {
            failures.push(*event);
        }
        Ok(())
    });
    (Ok(numbers), rows, failures)
}

impl Status {
    fn level(&self) -> Level {
        let daemon = match &self.daemon {
            Ok(numbers) if numbers.writable => Level::Good,
            _ => Level::Wrong,
        };
        let host = self.host.listeners.iter().chain(&self.host.certificate);
        let domains = self
            .domains
            .iter()
            .map(|(_, findings)| worst(findings))
            .max();
        host.map(|finding| finding.level)
            .chain(domains)
            .fold(daemon, Level::max)
    }

    fn screen(&self, config: &Config) -> String {
        let mut out = String::new();
        let state = match &self.daemon {
            Ok(numbers) if numbers.writable => "✓ runs and takes mail".to_owned(),
            Ok(_) => "✗ runs and takes no mail; `chapar log --trouble` shows why".to_owned(),
            Err(failure) => format!("✗ {failure}"),
        };
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(out, "chapar {version} on {}: {state}", config.hostname);
        let _ = writeln!(out, "\nListeners");
        for finding in &self.host.listeners {
            let _ = writeln!(out, "  {}", short(finding));
        }
        let _ = writeln!(out, "\nCertificate");
        match &self.host.certificate {
            Some(finding) => {
                let _ = writeln!(out, "  {}{}", short(finding), self.days());
            }
            None => {
                let _ = writeln!(out, "  none: no listener speaks TLS");
            }
        }
        if let Ok(numbers) = &self.daemon {
            self.queue(numbers, &mut out);
        }
        if !self.domains.is_empty() {
            let _ = writeln!(out, "\nDNS");
        }
        for (domain, findings) in &self.domains {
            self::domain(domain, findings, &mut out);
        }
        out
    }

    fn days(&self) -> String {
        match self.host.left {
            Some(left) => format!(" ({} days left)", left.div_euclid(86_400)),
            None => String::new(),
        }
    }

    fn queue(&self, numbers: &Numbers, out: &mut String) {
        let counts = &numbers.counts;
        let _ = writeln!(
            out,
            "\nQueue\n  {} messages wait; since the start {} accepted, {} delivered, {} deferred, \
             {} returned, {} expired",
            numbers.messages,
            counts.accepted,
            counts.delivered,
            counts.deferred,
            counts.bounced,
            counts.expired
        );
        for row in self.rows.iter().take(ROWS) {
            let held = match row.held {
                0 => String::new(),
                held => format!(", {held} held"),
            };
            let reply = row.reply.as_deref().map_or(String::new(), |reply| {
                format!(": {}", crate::queue::clean(reply, REPLY))
            });
            let _ = writeln!(out, "  {:>6} for {}{held}{reply}", row.total, row.domain);
        }
        if self.rows.len() > ROWS {
            let _ = writeln!(
                out,
                "         and {} more; mta-queue summary",
                self.rows.len() - ROWS
            );
        }
        let _ = writeln!(out, "\nLast failures");
        if self.failures.is_empty() {
            let _ = writeln!(out, "  none since the start");
        }
        for event in self.failures.iter().rev().take(FAILURES) {
            let time = event.at.get(5..16).unwrap_or_default().replace('T', " ");
            let _ = writeln!(
                out,
                "  {time} {} {}: {}",
                event.event,
                event.to.join(", "),
                crate::queue::clean(&event.text, REPLY)
            );
        }
    }

    fn json(&self, config: &Config) -> Value {
        let numbers = self.daemon.as_ref().ok();
        let problem = self.daemon.as_ref().err().map(Failure::to_string);
        let domains: Vec<Value> = self
            .domains
            .iter()
            .map(|(domain, findings)| {
                json!({ "domain": domain, "level": worst(findings), "findings": findings })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "hostname": config.hostname,
            "level": self.level(),
            "running": numbers.is_some(),
            "problem": problem,
            "listeners": self.host.listeners,
            "certificate": self.host.certificate,
            "certificate_seconds_left": self.host.left,
            "queue": numbers,
            "waiting": self.rows,
            "failures": self.failures,
            "domains": domains,
        })
    }
}

/// Sign, what was looked at, what was found; the remedy where there is one.
fn short(finding: &Finding) -> String {
    let mut line = format!(
        "{} {}: {}",
        finding.level.sign(),
        finding.about,
        finding.what
    );
    if !finding.remedy.is_empty() {
        let _ = write!(line, ". {}", finding.remedy);
    }
    line.retain(|c| !c.is_control());
    line
}

fn domain(name: &str, findings: &[Finding], out: &mut String) {
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let (good, better, wrong) = (
        count(Level::Good),
        count(Level::Warning),
        count(Level::Wrong),
    );
    let sign = worst(findings).sign();
    let _ = writeln!(
        out,
        "  {sign} {name}: {good} good, {better} could be better, {wrong} wrong"
    );
    for finding in findings.iter().filter(|one| one.level == Level::Wrong) {
        let _ = writeln!(
            out,
            "    ✗ {} {}: {}",
            finding.check, finding.about, finding.what
        );
    }
    if better + wrong > 0 {
        let _ = writeln!(out, "    chapar check {name} tells what to do");
    }
}
