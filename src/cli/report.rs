//! `chapar report`: what others report about our domains.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit::{self, Wrong};
use super::owner;
use crate::config::Config;
use crate::identity::{Identity, edit};
use crate::report::dmarc::days::Days;
use crate::report::received::summary::{Summary, add_up};
use crate::report::received::{self, ReadError, Received, store};

/// Sources of failing mail that are shown.
const SHOWN: usize = 20;

/// Add up the DMARC and TLS reports that others sent about our domains
///
/// They come to an address of ours and are kept once `chapar report collect DOMAIN` has made that
/// address; anybody can write a report, so believe one that stands alone with care.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  chapar report --days 7"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only those about this domain.
    domain: Option<String>,
    /// Only those of the last days.
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Take the reports about a domain to reports@ it, and keep them
    #[command(after_help = "Example:\n  chapar report collect example.org")]
    Collect {
        /// The domain.
        domain: String,
    },
    /// Keep the reports in a message on standard input; what an alias runs
    #[command(after_help = "Example:\n  chapar report add < report.eml")]
    Add,
    /// Add up the reports in files (messages, XML, JSON, gzip, zip) and keep nothing
    #[command(after_help = "Example:\n  chapar report read report.xml.gz")]
    Read {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show how many messages the next DMARC reports of ours will be about, by domain
    #[command(after_help = "Example:\n  chapar report pending")]
    Pending,
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    match args.command {
        None => {
            let now = crate::time::now() / 1000;
            let since = now.saturating_sub(args.days.saturating_mul(24 * 60 * 60));
            let (reports, damaged) = store::load(&config.data_dir, since)
                .context("reports/received in data_dir can not be read; see its owner and mode")?;
            for path in damaged {
                eprintln!(
                    "chapar: {} is damaged and left out; remove it",
                    path.display()
                );
            }
            show(&add_up(&reports, args.domain.as_deref()), args.json)?;
        }
        Some(Command::Collect { domain }) => collect(&config, file, &domain)?,
        Some(Command::Add) => {
            owner::step_down(&config)?;
            return add(&config);
        }
        Some(Command::Read { files, json }) => {
            let mut reports = Vec::new();
            for path in files {
                let name = path.display();
                let file = File::open(&path).with_context(|| format!("{name}"))?;
                match received::read(file) {
                    Ok(found) => reports.extend(found),
                    Err(error) => return Err(Wrong(format!("{name}: {error}")).into()),
                }
            }
            show(&add_up(&reports, None), json)?;
        }
        Some(Command::Pending) => pending(&config)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The local part that [`collect`] makes.
pub(super) const COLLECTOR: &str = "reports";

fn collect(config: &Config, file: &Path, domain: &str) -> anyhow::Result<()> {
    let domain = domain.to_ascii_lowercase();
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let file = std::fs::canonicalize(file).with_context(|| format!("{}", file.display()))?;
    let target = format!(
        "| \"{}\" report add --config \"{}\"",
        program.display(),
        file.display()
    );
    if !edit::add_alias(&config.dir, &domain, COLLECTOR, &[target])? {
        say!("{COLLECTOR}@{domain} keeps reports already.");
        return Ok(());
    }
    say!("{COLLECTOR}@{domain} keeps the reports that come to it; `chapar report` adds them up.");
    say!("Replace the _dmarc and _smtp._tls records by those of `chapar dns {domain}`.");
    super::hint_reload();
    Ok(())
}

/// Exit codes as a program that an alias runs (sysexits.h): what is no report goes back to whoever
/// sent it, what can not be kept now is tried again.
fn add(config: &Config) -> anyhow::Result<ExitCode> {
    // The alias that gives reports to this command may not read the files of the domains.
    let names = Identity::names(&config.dir)?;
    let reports = match received::read(std::io::stdin().lock()) {
        Ok(reports) => reports,
        Err(ReadError::Io(error)) => return Err(error.into()),
        Err(error) => {
            eprintln!("{error}");
            return Ok(exit::DATA.into());
        }
    };
    let ours = |report: &&Received| {
        let mut domains = report.domains().into_iter();
        domains.any(|name| is_ours(&names, &name.to_ascii_lowercase()))
    };
    let mut kept = 0;
    for report in reports.iter().filter(ours) {
        store::add(&config.data_dir, report, config.reports.received.0)
            .context("reports/received in data_dir can not be written")?;
        kept += 1;
    }
    if kept == 0 {
        eprintln!("the report is about none of our domains");
        return Ok(exit::DATA.into());
    }
    say!("kept {kept}");
    Ok(ExitCode::SUCCESS)
}

/// Whether a report about this domain is about one of ours, or a sub-domain of it: policies of DMARC
/// hold for those as well (RFC 7489 section 6.6.3).
fn is_ours(names: &BTreeSet<String>, domain: &str) -> bool {
    let mut above = domain
        .match_indices('.')
        .filter_map(|(dot, _)| domain.get(dot + 1..));
    names.contains(domain)
        || above.any(|name| names.contains(name) || names.contains(&format!("*.{name}")))
}

fn pending(config: &Config) -> anyhow::Result<()> {
    let days = Days::new(&config.data_dir, config.reports.day.0);
    let unreadable = "reports/dmarc in data_dir can not be read; see its owner and mode";
    // Today is over tomorrow.
    for day in days
        .over(crate::time::now() + crate::time::DAY)
        .context(unreadable)?
    {
        for (domain, rows) in days.read(&day, config.reports.rows).context(unreadable)? {
            let count: u64 = rows.values().map(|count| u64::from(*count)).sum();
            say!("{day}  {domain}  {count} messages, {} rows", rows.len());
        }
    }
    Ok(())
}

fn show(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    if summary.reports == 0 {
        say!("No reports; `chapar report collect DOMAIN` begins to keep them.");
        return Ok(());
    }
    for (domain, dmarc) in &summary.dmarc {
        say!(
            "{domain}: {} messages in its name, {} proved, {} failed ({} of them refused or suspected)",
            dmarc.messages,
            dmarc.passed,
            dmarc.messages - dmarc.passed,
            dmarc.punished
        );
        say!("  reported by {}", join(&dmarc.reporters));
        for source in dmarc.failing.iter().take(SHOWN) {
            say!(
                "  {:>7} failed from {}, reverse-path {}, From {}, says {}",
                source.messages,
                source.address,
                source.envelope_from,
                source.header_from,
                source.reporter
            );
        }
        if let Some(more) = dmarc.failing.len().checked_sub(SHOWN + 1) {
            say!("  and {} more sources; --json shows all", more + 1);
        }
    }
    for (domain, tls) in &summary.tls {
        say!(
            "{domain}: {} deliveries over TLS as wanted, {} not",
            tls.succeeded,
            tls.failed
        );
        say!("  reported by {}", join(&tls.reporters));
        for (failure, count) in &tls.failures {
            say!("  {count:>7} {failure}");
        }
    }
    Ok(())
}

fn join(names: &std::collections::BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.join(", ")
}
