//! `chapar dns`: the records of a domain.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use super::exit::Wrong;
use super::panel::Format;
use super::{publish, records};
use crate::config::Config;
use crate::doctor::hoster;
use crate::publish::{Problem, Provider};

/// Print the DNS records of a domain, ready to paste into its zone, or publish them
///
/// With --publish they go to --provider, or to dns.provider: what is missing comes, what is from
/// here and out of date is replaced, and what somebody else made stays and is shown. An SPF record
/// that is there is merged with ours.
///
/// Exit codes: 0 all records are there or printed, 1 something else is in the place of one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
                        chapar dns example.org --ip 192.0.2.1 --ip 2001:db8::1\n  \
                        chapar dns example.org --format cloudflare\n  \
                        chapar dns example.org --publish --provider hetzner --dry-run")]
pub(super) struct Args {
    /// One of our domains.
    domain: String,
    /// How records are printed: lines of a zone file, a table with the reason of each, one JSON
    /// object a line, or as the panel of a provider wants them typed in.
    #[arg(long, value_enum, default_value = "zone", conflicts_with_all = ["json", "publish"])]
    format: Format,
    /// The same as --format json.
    #[arg(long)]
    json: bool,
    /// An address of this host (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    ip: Vec<IpAddr>,
    /// Publish them.
    #[arg(long, conflicts_with = "json")]
    publish: bool,
    /// Where; default: dns.provider. secrets/dns/PROVIDER.toml says how to log in there.
    #[arg(long, value_enum, requires = "publish")]
    provider: Option<Provider>,
    /// Show what would be published and change nothing.
    #[arg(long, requires = "publish")]
    dry_run: bool,
}

pub(super) fn run(config: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(config)?;
    let ips = records::addresses(&config, &args.ip);
    let domain = args.domain.to_ascii_lowercase();
    let records = records::of(&config, &domain, &ips)?;
    if !args.publish {
        let format = if args.json { Format::Json } else { args.format };
        format.print(&domain, &records);
        if format == Format::Table {
            let hoster = hoster::detect(&[], &hoster::make());
            say!(
                "\nThe PTR record of each address must be {}. {}",
                config.hostname,
                hoster::ptr_advice(hoster)
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let provider = args.provider.or(config.dns.provider.0);
    let provider = provider.ok_or_else(|| Wrong(Problem::NoProvider.to_string()))?;
    let outcome = publish::publish(&config, provider, &domain, &records, args.dry_run)?;
    Ok(match outcome.kept {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
