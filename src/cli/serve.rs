//! `chapar serve`: the daemon, in the foreground.

use std::path::Path;
use std::process::ExitCode;

/// Runs the daemon until a signal ends it; logs to stderr, ready when its listeners accept
///
/// SIGHUP reloads, SIGTERM finishes what is under way, a second SIGTERM ends at once. Under
/// systemd use `systemctl start chapar`.
///
/// Example: chapar serve --config /etc/chapar/chapar.toml
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
pub fn run(config: &Path, _: Args) -> anyhow::Result<ExitCode> {
    Ok(crate::daemon::run(config))
}
