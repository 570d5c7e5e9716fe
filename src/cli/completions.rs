//! `chapar completions`: made from the same definitions as the help, so that they cannot say
//! anything else.

use std::process::ExitCode;

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
    #[arg(long, value_name = "PROGRAM", default_value = "chapar", value_parser = PROGRAMS)]
    of: String,
}

/// The programs there are.
pub(super) const PROGRAMS: [&str; 2] = ["chapar", "mta-queue"];

pub(super) fn program(name: &str) -> clap::Command {
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
