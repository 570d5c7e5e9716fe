//! `chapar serve`: the daemon, in the foreground.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// How the allocator of the C library treats memory that is free, unless the environment says
/// otherwise (mallopt(3)): it gives back what is at the end of its heaps, allocates larger pieces by
/// themselves, and has two heaps instead of eight for each core, among which what is free would be
/// scattered. It reads that only when a program starts.
const MEMORY: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

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
    let missing: Vec<_> = MEMORY
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .collect();
    if !missing.is_empty()
        && let Ok(program) = std::env::current_exe()
    {
        // The same process begins once more, with the same arguments and sockets. Where that is
        // not allowed it goes on with more memory.
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1)).envs(missing);
        let _ = again.exec();
    }
    Ok(crate::daemon::run(config))
}
