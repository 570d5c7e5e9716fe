//! `mta-queue`, which is also `chapar queue`: see and steer what waits.
//!
//! While the daemon runs it is asked over its control socket; while none runs, the same answers
//! come from the store itself, which is locked for that long.
//!
//! Exit codes follow sysexits: 64 wrong usage, 65 a selector that makes no sense or something
//! damaged, 66 no such message, 69 the queue can not be reached, 74 a file or standard output can
//! not be read or written, 75 not all was moved, 78 a wrong configuration.

mod archive;
pub(super) mod ask;
mod export;
mod files;
mod import;
mod look;
mod orders;
mod postcat;
mod postfix;
mod show;
mod steer;
mod top;
mod watch;
mod which;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use queue_schema::HoldKind;

use super::owner;
use crate::config::Config;
use crate::control::protocol::{Answer, Request};
use crate::queue::Verb;
use ask::Failure;
pub(in crate::cli) use files::with_crlf;
use steer::Steering;
use which::Which;

/// See and steer the queue
///
/// Works while the daemon runs and while it does not. A selector is ids, `all`, or filters: values
/// of one filter are alternatives, different filters add up; `*` in an address or name stands for
/// anything.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mta-queue list --domain gmail.com --state deferred")]
pub struct QueueCommand {
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every recipient that waits, newest trouble first
    #[command(
        after_help = "Examples:\n  mta-queue list --domain gmail.com --state deferred\n  mta-queue list --sort size --limit 20 --not domain=gmail.com\n  mta-queue list --code 4.7.* --count\n  mta-queue list --json all"
    )]
    List(look::List),
    /// Print the story of one message: whence it came, who signed it, every attempt
    #[command(after_help = "Example:\n  mta-queue show 01K2ABCDEFGHJ")]
    Show {
        /// The id, as `list` prints it
        id: String,
    },
    /// Print the bytes of one message as they go out
    #[command(after_help = "Example:\n  mta-queue cat 01K2ABCDEFGHJ | less")]
    Cat {
        /// The id, as `list` prints it
        id: String,
    },
    /// Count what waits by domain, reason, sender, user, next hop or state, and by age
    #[command(
        after_help = "Examples:\n  mta-queue summary\n  mta-queue summary --by reason --domain gmail.com\n  mta-queue summary --reply '^4.*quota'"
    )]
    Summary(look::Summary),
    /// Watch the queue live: rates, destinations, errors; keys filter, hold, replay
    #[command(after_help = "Example:\n  mta-queue top")]
    Top(top::Args),
    /// Print what happens from now on, a line for each event
    #[command(after_help = "Example:\n  mta-queue watch --state bounced --json")]
    Watch {
        #[command(flatten)]
        which: Which,
    },
    /// Make deferred recipients due now
    #[command(
        after_help = "Examples:\n  mta-queue replay all --spread 10m\n  mta-queue replay --next-hop '*.google.com' --rate 10/m --reset-attempts\n  mta-queue replay --domain gmail.com --dry-run"
    )]
    Replay {
        #[command(flatten)]
        steering: Steering,
        /// Spread them over this span by chance, so that no server is overrun
        #[arg(long, value_name = "SPAN")]
        spread: Option<String>,
        /// Make so many due in a time, one after the other, such as 10/m
        #[arg(long, value_name = "RATE", conflicts_with = "spread")]
        rate: Option<String>,
        /// Count their attempts from 0 again: the waits are short again
        #[arg(long)]
        reset_attempts: bool,
    },
    /// End recipients here; nobody is told
    #[command(
        after_help = "Example:\n  mta-queue remove --from news@example.org --state deferred --dry-run"
    )]
    Remove(Steering),
    /// End recipients here and tell the sender
    #[command(
        after_help = "Example:\n  mta-queue bounce --to 'x@example.net' --reason 'this address is served no more'"
    )]
    Bounce {
        #[command(flatten)]
        steering: Steering,
        /// What the sender is told
        #[arg(long)]
        reason: Option<String>,
    },
    /// Send waiting mail to another address
    #[command(
        after_help = "Example:\n  mta-queue redirect --domain example.net --target me@gmail.example"
    )]
    Redirect {
        #[command(flatten)]
        steering: Steering,
        /// Who gets it
        #[arg(long, value_name = "ADDRESS")]
        target: String,
    },
    /// Resolve addresses, routes and reverse-paths of waiting mail again, as if it came now
    #[command(
        after_help = "Example:\n  mta-queue requeue --to info@example.org    # its alias was corrected"
    )]
    Requeue(Steering),
    /// Stop trying messages until they are released; no deadline ends them
    #[command(
        after_help = "Examples:\n  mta-queue hold --domain example.net\n  mta-queue hold --from ann@example.org --reason 'a stolen password' --for 8h"
    )]
    Hold {
        #[command(flatten)]
        steering: Steering,
        /// Why; `list` and `show` print it, senders never see it
        #[arg(long)]
        reason: Option<String>,
        /// For how long, such as 8h; without it until they are released
        #[arg(long = "for", value_name = "SPAN")]
        span: Option<String>,
    },
    /// Try held recipients again. Without --reason, --kind or --by every hold of theirs ends
    #[command(
        after_help = "Examples:\n  mta-queue release --from news@example.org\n  mta-queue release all --kind quarantine\n  mta-queue release all --reason 'a stolen password'"
    )]
    Release {
        #[command(flatten)]
        steering: Steering,
        /// Only holds with this reason; `*` stands for anything
        #[arg(long)]
        reason: Option<String>,
        /// Only holds of this kind
        #[arg(long, value_parser = PossibleValuesParser::new(["operator", "quarantine", "order"])
            .try_map(|text| steer::kind(&text)))]
        kind: Option<HoldKind>,
        /// Only holds by this operator, filter or order; `*` stands for anything
        #[arg(long, value_name = "WHO")]
        by: Option<String>,
    },
    /// Try nothing at a destination for a while; without one, print what is suspended
    #[command(
        after_help = "Examples:\n  mta-queue suspend gmail.com --for 2h --reason 'they asked for it'\n  mta-queue suspend"
    )]
    Suspend(steer::Suspend),
    /// End a suspension; what waited for it is due
    #[command(after_help = "Example:\n  mta-queue resume gmail.com --spread 10m")]
    Resume(steer::Resume),
    /// Hold, discard or bounce the mail of a sender, user, client or domain, also what is to come
    #[command(
        subcommand,
        after_help = "Examples:\n  mta-queue order hold --user ann@example.org --for 8h --reason 'a stolen password'\n  mta-queue order end 3"
    )]
    Order(orders::Command),
    /// Print the orders that stand and how many recipients each was applied to
    #[command(after_help = "Examples:\n  mta-queue orders\n  mta-queue orders --all --json")]
    Orders {
        /// Also the last that have ended
        #[arg(long)]
        all: bool,
    },
    /// Write messages to a directory, each as ID.eml and ID.json, or as one stream
    #[command(
        after_help = "Examples:\n  mta-queue export /var/tmp/queue all --remove\n  mta-queue export - all > queue.tar\n  mta-queue export - --domain example.net | ssh new.example.org mta-queue import -"
    )]
    Export(export::Export),
    /// Take messages from such a directory or stream, or from a Postfix on this machine, each once
    #[command(
        after_help = "Examples:\n  mta-queue import /var/tmp/queue --hold\n  mta-queue import - < queue.tar\n  mta-queue import postfix --dry-run"
    )]
    Import(import::Import),
    /// Compute every checksum of the store again
    #[command(after_help = "Example:\n  mta-queue verify")]
    Verify,
    /// Make the index anew from the journal
    #[command(after_help = "Example:\n  mta-queue rebuild")]
    Rebuild,
}

/// See and steer the queue of chapar.
#[derive(Debug, Parser)]
#[command(
    name = "mta-queue",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  mta-queue list --domain gmail.com --state deferred"
)]
pub(super) struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    queue: QueueCommand,
}

/// The whole of the `mta-queue` program.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli.queue, &cli.config),
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

const USAGE: u8 = super::exit::USAGE;
const IO: u8 = super::exit::IO;

/// Runs one verb on the queue of the configuration `config`.
pub fn run(command: QueueCommand, config: &Path) -> ExitCode {
    match act(command, config) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough: `mta-queue list --json | head`.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("mta-queue: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn act(command: QueueCommand, config: &Path) -> Result<(), Failure> {
    let config = Config::load(config)?;
    // A daemon works on its files itself.
    if !ask::runs(&config)? {
        owner::step_down(&config).map_err(|error| Failure::Other(error.to_string()))?;
    }
    let json = command.json;
    match command.verb {
        Command::List(list) => look::list(&config, &list, json)?,
        Command::Show { id } => look::message(&config, id, json)?,
        Command::Cat { id } => look::cat(&config, id, json)?,
        Command::Summary(summary) => look::summary(&config, &summary, json)?,
        Command::Top(args) => top::run(&config, &args)?,
        Command::Watch { which } => watch::run(&config, which.selector(), json)?,
        Command::Replay {
            steering,
            spread,
            rate,
            reset_attempts,
        } => {
            let manner = steer::Manner {
                spread,
                rate,
                reset_attempts,
                ..steer::Manner::default()
            };
            steer::steer(&config, Verb::Replay, &steering, manner, json)?;
        }
        Command::Bounce { steering, reason } => {
            let manner = steer::Manner {
                reason,
                ..steer::Manner::default()
            };
            steer::steer(&config, Verb::Bounce, &steering, manner, json)?;
        }
        Command::Redirect { steering, target } => {
            let manner = steer::Manner {
                address: Some(target),
                ..steer::Manner::default()
            };
            steer::steer(&config, Verb::Redirect, &steering, manner, json)?;
        }
        Command::Requeue(steering) => plain(&config, Verb::Requeue, &steering, json)?,
        Command::Remove(steering) => plain(&config, Verb::Remove, &steering, json)?,
        Command::Hold {
            steering,
            reason,
            span,
        } => {
            let manner = steer::Manner {
                reason,
                span,
                ..steer::Manner::default()
            };
            steer::steer(&config, Verb::Hold, &steering, manner, json)?;
        }
        Command::Release {
            steering,
            reason,
            kind,
            by,
        } => {
            let manner = steer::Manner {
                reason,
                kind,
                who: by,
                ..steer::Manner::default()
            };
            steer::steer(&config, Verb::Release, &steering, manner, json)?;
        }
        Command::Suspend(suspend) => steer::suspend(&config, suspend, json)?,
        Command::Resume(resume) => steer::resume(&config, resume, json)?,
        Command::Order(command) => orders::act(&config, command, json)?,
        Command::Orders { all } => orders::list(&config, all, json)?,
        Command::Export(export) => export::export(&config, &export, json)?,
        Command::Import(import) => import::import(&config, &import, json)?,
        Command::Verify => verify(&config, json)?,
        Command::Rebuild => match ask::rebuild(&config, steer::operator())? {
            None => {
                say!("The daemon makes the index anew at its next start: systemctl restart chapar")
            }
            Some(count) => say!("The index was made anew; {count} messages wait."),
        },
    }
    Ok(())
}

fn plain(config: &Config, verb: Verb, steering: &Steering, json: bool) -> Result<(), Failure> {
    steer::steer(config, verb, steering, steer::Manner::default(), json)
}

/// Prints the objects of an answer, one a line: the count that ended it, and how many were printed.
fn lines(config: &Config, request: Request) -> Result<(u64, u64), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    let count = ask::ask(config, request, &mut |answer| {
        let text = match &answer {
            Answer::Item(item) => serde_json::to_string(item),
            Answer::Row(row) => serde_json::to_string(row),
            Answer::Suspended(one) => serde_json::to_string(one),
            Answer::Order(one) => serde_json::to_string(one),
            _ => return Ok(()),
        };
        printed += 1;
        writeln!(out, "{}", text?)?;
        Ok(())
    })?;
    out.flush().map_err(Failure::Output)?;
    Ok((count, printed))
}

fn verify(config: &Config, json: bool) -> Result<(), Failure> {
    let mut findings = 0u64;
    let mut unwritten = None;
    let whole = ask::ask(config, Request::Verify {}, &mut |answer| {
        if let Answer::Finding(finding) = answer {
            findings += 1;
            let text = match json {
                true => serde_json::to_string(&finding)?,
                false => format!("{}: {}", finding.place, finding.problem),
            };
            // What is found counts, whether it can be told or not.
            let written = writeln!(std::io::stdout(), "{text}");
            unwritten = unwritten.take().or(written.err());
        }
        Ok(())
    })?;
    if findings == 0 {
        if json {
            say!("{}", serde_json::json!({ "whole": whole, "damaged": 0 }));
        } else {
            say!("All is well: {whole} records and messages are whole.");
        }
        return Ok(());
    }
    if let Some(error) = unwritten.filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        eprintln!("mta-queue: {}", Failure::Output(error));
    }
    Err(Failure::Damaged(format!(
        "{findings} damaged, {whole} whole; the next start puts damaged records into quarantine/ \
         and delivers the rest"
    )))
}
