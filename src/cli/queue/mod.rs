//! `mta-queue`, which is also `chapar queue`: see and steer what waits.
//!
//! While the daemon runs it is asked over its control socket; while none runs, the same answers
//! come from the store itself, which is locked for that long.
//!
//! Exit codes follow sysexits: 64 wrong usage, 65 a selector that makes no sense, 66 no such
//! message, 69 the queue can not be reached, 78 a wrong configuration.

mod ask;
mod show;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::control::protocol::{Answer, Request};
use crate::queue::{Selector, Verb};
use ask::Failure;

/// See and steer the queue
///
/// Works while the daemon runs and while it does not. A selector is an id, `all`, or filters that
/// add up; `*` in an address or domain stands for anything.
///
/// Example: mta-queue list --domain gmail.com --state deferred
#[derive(Debug, Args)]
pub struct QueueCommand {
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every recipient that waits: state, next attempt, last reply
    List {
        #[command(flatten)]
        which: Which,
        /// Rows of the table; 0 prints all
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Print all that is known about one message
    Show {
        /// The id, as `list` prints it
        id: String,
    },
    /// Print the bytes of one message as they go out
    Cat {
        /// The id, as `list` prints it
        id: String,
    },
    /// Count what waits by domain and age, with the commonest reply
    Summary {
        #[command(flatten)]
        which: Which,
    },
    /// Make deferred recipients due now
    Replay(Steering),
    /// End recipients here; nobody is told
    Remove(Steering),
    /// Stop trying messages until they are released; no deadline ends them
    Hold(Steering),
    /// Try held messages again
    Release(Steering),
}

#[derive(Debug, Args)]
struct Steering {
    #[command(flatten)]
    which: Which,
    /// Only print which they are and count them
    #[arg(long)]
    dry_run: bool,
}

/// Which recipients.
#[derive(Debug, Args)]
struct Which {
    /// An id, or `all`
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// The recipient, or the alias it came from
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// The sender; `<>` for notices
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The recipient's domain
    #[arg(long)]
    domain: Option<String>,
    /// queued, deferred, held, delivered, bounced, expired or removed
    #[arg(long)]
    state: Option<String>,
    /// Messages that came longer ago than this, such as 2h
    #[arg(long, value_name = "SPAN")]
    older: Option<String>,
    /// A regular expression over the last reply
    #[arg(long, value_name = "REGEX")]
    reply: Option<String>,
}

impl Which {
    fn selector(&self) -> Selector {
        Selector {
            id: self.id.clone().filter(|id| id != "all"),
            to: self.to.clone(),
            from: self.from.clone(),
            domain: self.domain.clone(),
            state: self.state.clone(),
            older: self.older.clone(),
            reply: self.reply.clone(),
        }
    }
}

/// See and steer the queue of chapar.
#[derive(Debug, Parser)]
#[command(name = "mta-queue", version, arg_required_else_help = true)]
struct Cli {
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
/// EX_IOERR.
const IO: u8 = 74;

/// Runs one verb on the queue of the configuration `config`.
pub fn run(command: QueueCommand, config: &Path) -> ExitCode {
    match act(command, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mta-queue: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn act(command: QueueCommand, config: &Path) -> Result<(), Failure> {
    let config = Config::load(config)?;
    let json = command.json;
    match command.verb {
        Command::List { which, limit } => {
            let request = Request::List {
                selector: which.selector(),
            };
            if json {
                return lines(&config, request).map(drop);
            }
            let mut table = show::List::new(limit);
            ask::ask(&config, request, &mut |answer| {
                if let Answer::Item(item) = answer {
                    table.add(*item);
                }
                Ok(())
            })?;
            table.print();
        }
        Command::Show { id } => {
            let selector = Selector {
                id: Some(id),
                ..Selector::default()
            };
            let request = Request::List { selector };
            if json {
                return lines(&config, request).map(drop);
            }
            let mut items = Vec::new();
            ask::ask(&config, request, &mut |answer| {
                if let Answer::Item(item) = answer {
                    items.push(*item);
                }
                Ok(())
            })?;
            show::message(&items);
        }
        Command::Cat { id } => cat(&config, id, json)?,
        Command::Summary { which } => {
            let request = Request::Summary {
                selector: which.selector(),
            };
            if json {
                return lines(&config, request).map(drop);
            }
            let mut rows = Vec::new();
            ask::ask(&config, request, &mut |answer| {
                if let Answer::Row(row) = answer {
                    rows.push(*row);
                }
                Ok(())
            })?;
            show::summary(&rows);
        }
        Command::Replay(steering) => steer(&config, Verb::Replay, &steering, json)?,
        Command::Remove(steering) => steer(&config, Verb::Remove, &steering, json)?,
        Command::Hold(steering) => steer(&config, Verb::Hold, &steering, json)?,
        Command::Release(steering) => steer(&config, Verb::Release, &steering, json)?,
    }
    Ok(())
}

/// Prints the objects of an answer, one a line.
fn lines(config: &Config, request: Request) -> Result<u64, Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let count = ask::ask(config, request, &mut |answer| {
        let text = match &answer {
            Answer::Item(item) => serde_json::to_string(item),
            Answer::Row(row) => serde_json::to_string(row),
            Answer::Bytes(_) | Answer::End(_) | Answer::Error(_) => return Ok(()),
        };
        writeln!(out, "{}", text.unwrap_or_default())
    })?;
    out.flush().map_err(Failure::Output)?;
    Ok(count)
}

fn steer(config: &Config, verb: Verb, steering: &Steering, json: bool) -> Result<(), Failure> {
    let selector = steering.which.selector();
    if selector.is_everything() && steering.which.id.is_none() {
        return Err(Failure::Usage(
            "say which: an id, `all`, or filters such as --domain example.net".into(),
        ));
    }
    let by = std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .unwrap_or_default();
    let request = Request::Steer {
        verb,
        selector,
        dry_run: steering.dry_run,
        by,
    };
    if json {
        return lines(config, request).map(drop);
    }
    let mut table = show::List::new(if steering.dry_run { 1000 } else { 0 });
    let dry_run = steering.dry_run;
    let touched = ask::ask(config, request, &mut |answer| {
        if let Answer::Item(item) = answer
            && dry_run
        {
            table.add(*item);
        }
        Ok(())
    })?;
    let done = match verb {
        Verb::Replay => "due now",
        Verb::Remove => "removed",
        Verb::Hold => "held",
        Verb::Release => "released",
    };
    let plural = if touched == 1 {
        "recipient"
    } else {
        "recipients"
    };
    if dry_run {
        table.print();
        say!("{touched} {plural} would be {done}");
    } else {
        say!("{touched} {plural} {done}");
    }
    Ok(())
}

fn cat(config: &Config, id: String, json: bool) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut whole = Vec::new();
    ask::ask(config, Request::Cat { id: id.clone() }, &mut |answer| {
        let Answer::Bytes(piece) = answer else {
            return Ok(());
        };
        let bytes = STANDARD.decode(piece).map_err(std::io::Error::other)?;
        if json {
            whole.extend_from_slice(&bytes);
            Ok(())
        } else {
            out.write_all(&bytes)
        }
    })?;
    if json {
        let content = String::from_utf8_lossy(&whole);
        let object = serde_json::json!({ "id": id, "size": whole.len(), "content": content });
        writeln!(out, "{object}").map_err(Failure::Output)?;
    }
    out.flush().map_err(Failure::Output)
}
