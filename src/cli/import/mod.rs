//! `chapar import`: taking over from another mail server.

mod chasquid;
mod mail;
mod textproto;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Take over configuration, domains, users, aliases, keys, certificates and mail of another server
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Take over what chasquid has
    ///
    /// Users log in with their old passwords; addresses lead where they led. Nothing of chasquid's
    /// is changed, and nothing that exists here. Stop chasquid before, so that its queue stands
    /// still. What has no counterpart here is told.
    #[command(after_help = "Examples:\n  chapar import chasquid /etc/chasquid\n  \
        chapar import chasquid ./old --data-dir ./old-data --config ./new/chapar.toml")]
    Chasquid(Args),
}

/// Where it lies.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its configuration directory.
    dir: PathBuf,
    /// Its data directory; default: what its configuration says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The name of this host, where chasquid.conf has none.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Leave its queue alone.
    #[arg(long)]
    no_queue: bool,
}

pub(super) fn run(config: &Path, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Chasquid(args) => chasquid::run(config, &args),
    }
}
