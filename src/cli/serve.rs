//! `chapar serve`: the daemon, in the foreground.

use std::path::Path;
use std::process::ExitCode;

/// Run the daemon until a signal ends it; it logs to stderr, and is ready when its listeners accept
///
/// SIGHUP reloads, SIGTERM finishes what is under way, a second SIGTERM ends at once. Under
/// systemd use `systemctl start chapar`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chapar serve --config /etc/chapar/chapar.toml")]
pub struct Args {}

/// Runs it.
pub fn run(config: &Path, _: Args) -> anyhow::Result<ExitCode> {
    Ok(crate::daemon::run(config))
}
