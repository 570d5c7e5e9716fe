//! `chapar config`: the keys there are, and whether a file is good.

use std::path::Path;
use std::process::ExitCode;

use super::check;
use crate::config;

/// Show every key with its default, or check the configuration
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar config --defaults | grep retry\n  chapar config --check"
)]
pub(super) struct Args {
    /// Print every key as `section.key = value  # unit: meaning`.
    #[arg(long, required_unless_present = "check")]
    defaults: bool,
    /// The same as a Markdown table, for docs/configuration.md.
    #[arg(long, hide = true, requires = "defaults")]
    markdown: bool,
    /// Check the configuration and everything it names.
    #[arg(long, conflicts_with = "defaults")]
    check: bool,
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    if args.check {
        return Ok(check::configuration(file));
    }
    for row in config::defaults() {
        say!(
            "{}",
            if args.markdown {
                row.markdown()
            } else {
                row.line()
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}
