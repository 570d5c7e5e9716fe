//! The command line: one file per command. Talks to files and to the daemon's socket; the only
//! room where errors are for people alone.
//!
//! Exit codes follow sysexits: 64 wrong usage, 65 wrong input, 67 no such address, 69
//! the daemon can not be asked, 77 a refused
//! password, 78 a wrong configuration, 1 anything else.

#[macro_use]
mod print;

mod alias;
mod app_password;
mod auth;
mod backup;
mod certificate;
mod check;
mod completions;
mod config;
mod demo;
mod dkim;
mod dns;
mod domain;
mod exit;
mod guide;
mod import;
mod log;
mod man;
mod owner;
mod panel;
mod password;
mod publish;
pub mod queue;
mod records;
mod report;
mod send;
mod serve;
mod setup;
pub mod site;
mod socket;
mod status;
mod taken;
mod tls;
mod trace;
mod user;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Where the configuration lies unless told otherwise.
pub const CONFIG: &str = "/etc/chapar/chapar.toml";

/// A mail transfer agent for people who send their own mail
#[derive(Debug, Parser)]
#[command(
    name = "chapar",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  chapar setup example.org --forward me@gmail.example --acme"
)]
struct Cli {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = CONFIG,
        default_missing_value = CONFIG,
        num_args = 0..=1
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Setup(setup::Args),
    Demo(demo::Args),
    Check(check::Args),
    Config(config::Args),
    #[command(subcommand, after_help = "Example:\n  chapar dkim rotate example.org")]
    Dkim(dkim::Command),
    Dns(dns::Args),
    Tls(tls::Args),
    Guide(guide::Args),
    Send(send::Args),
    Status(status::Args),
    Log(log::Args),
    Trace(trace::Args),
    #[command(subcommand, after_help = "Example:\n  chapar domain list")]
    Domain(domain::Command),
    #[command(subcommand, after_help = "Example:\n  chapar user add me@example.org")]
    User(user::Command),
    #[command(
        subcommand,
        after_help = "Example:\n  chapar alias add '*@example.org' me@gmail.example"
    )]
    Alias(alias::Command),
    #[command(subcommand, after_help = "Example:\n  chapar auth bans")]
    Auth(auth::Command),
    Report(report::Args),
    Backup(backup::Backup),
    Restore(backup::Restore),
    #[command(
        subcommand,
        after_help = "Example:\n  chapar import chasquid /etc/chasquid"
    )]
    Import(import::Command),
    Queue(queue::QueueCommand),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let named = matches.value_source("config") == Some(ValueSource::CommandLine);
        Ok((Cli::from_arg_matches(&matches)?, named))
    });
    let (cli, named) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                exit::USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let config = cli.config.as_path();
    let result = match cli.command {
        Command::Serve(args) => serve::run(config, args),
        Command::Setup(args) => setup::run(config, args),
        Command::Demo(args) => demo::run(args),
        Command::Check(args) => check::run(config, &args, named),
        Command::Config(args) => config::run(config, args),
        Command::Dkim(command) => dkim::run(config, command),
        Command::Dns(args) => dns::run(config, args),
        Command::Tls(args) => tls::run(config, &args),
        Command::Backup(args) => backup::backup(config, &args),
        Command::Restore(args) => backup::restore(config, &args),
        Command::Import(command) => import::run(config, command),
        Command::Guide(args) => guide::run(config, args),
        Command::Send(args) => send::run(config, args),
        Command::Status(args) => status::run(config, args),
        Command::Log(args) => log::run(config, args),
        Command::Trace(args) => trace::run(config, args),
        Command::Domain(command) => domain::run(config, command),
        Command::User(command) => user::run(config, command),
        Command::Alias(command) => alias::run(config, command),
        Command::Auth(command) => auth::run(config, command),
        Command::Report(args) => report::run(config, args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Queue(command) => return queue::run(command, config),
    };
    result.unwrap_or_else(|error| exit::report(&error))
}

/// The directory of the configuration file.
fn directory(config: &Path) -> &Path {
    match config.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// What to do so that a running daemon sees a change.
fn hint_reload() {
    eprintln!("A running daemon reads this at its next reload: systemctl reload chapar");
}
