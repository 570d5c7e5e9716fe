//! `chapar completions` and `chapar man`: made from the same definitions as the help, so that
//! they can not say anything else.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar completions bash > /etc/bash_completion.d/chapar\n  \
                  chapar completions bash --of mta-queue > /etc/bash_completion.d/mta-queue\n  \
                  chapar completions zsh --of mta-queue"
)]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
    /// Of which program
    #[arg(long, value_name = "PROGRAM", default_value = "chapar", value_parser = ["chapar", "mta-queue"])]
    of: String,
}

/// Write man pages of chapar and mta-queue, one for each command, to a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chapar man /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// The directory, such as /usr/local/share/man/man1; it is made if it is missing
    dir: PathBuf,
}

fn program(name: &str) -> clap::Command {
    match name {
        "mta-queue" => super::queue::Cli::command(),
        _ => super::Cli::command(),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = Vec::new();
    let mut program = program(&args.of);
    clap_complete::generate(args.shell, &mut program, &args.of, &mut out);
    let text = String::from_utf8_lossy(&out);
    // clap_complete takes the hyphen of a program's name for a step to a subcommand in the labels
    // it jumps to, and not where it comes from: then no option of a verb is completed.
    let text = match args.shell {
        clap_complete::Shell::Bash => text.replace(
            &args.of.replace('-', "__subcmd__"),
            &args.of.replace('-', "__"),
        ),
        _ => text.into_owned(),
    };
    say!("{}", text.trim_end());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: ManArgs) -> anyhow::Result<ExitCode> {
    let dir = args.dir.display().to_string();
    fs::create_dir_all(&args.dir).with_context(|| dir.clone())?;
    for name in ["chapar", "mta-queue"] {
        clap_mangen::generate_to(program(name), &args.dir).with_context(|| dir.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}
