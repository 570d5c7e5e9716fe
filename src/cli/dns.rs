//! `chapar dns`: the records of a domain.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use super::records;
use crate::config::Config;

/// Print the DNS records of a domain, ready to paste into its zone
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chapar dns example.org --ip 192.0.2.1 --ip 2001:db8::1")]
pub(super) struct Args {
    /// One of our domains.
    domain: String,
    /// One JSON object a line instead of zone-file lines.
    #[arg(long)]
    json: bool,
    /// An address of this host (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    ip: Vec<IpAddr>,
}

pub(super) fn run(config: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(config)?;
    let ips = records::addresses(&config, &args.ip);
    records::print(
        &records::of(&config, &args.domain.to_ascii_lowercase(), &ips)?,
        args.json,
    );
    Ok(ExitCode::SUCCESS)
}
