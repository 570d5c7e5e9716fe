//! `mta-queue`, which is also `chapar queue`: see and steer what waits.
//!
//! While the daemon runs it is asked over its control socket; while none runs, the same answers
//! come from the store itself, which is locked for that long.
//!
//! Exit codes follow sysexits: 64 wrong usage, 65 a selector that makes no sense, 66 no such
//! message, 69 the queue can not be reached, 78 a wrong configuration.

pub(super) mod ask;
mod orders;
mod postfix;
mod show;
mod steer;
mod top;
mod transfer;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use queue_schema::HoldKind;

use crate::config::Config;
use crate::control::protocol::{Answer, Request};
use crate::queue::{Selector, Verb};
use ask::Failure;
use steer::Steering;
pub(in crate::cli) use transfer::with_crlf;

/// See and steer the queue
///
/// Works while the daemon runs and while it does not. A selector is an id, `all`, or filters that
/// add up; `*` in an address or domain stands for anything.
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
        after_help = "Examples:\n  mta-queue list --domain gmail.com --state deferred\n  mta-queue list --json all"
    )]
    List {
        #[command(flatten)]
        which: Which,
        /// Rows of the table; 0 prints all. With --json all are printed, in the order of ids
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
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
    /// Count what waits by domain and age, with the commonest reply
    #[command(
        after_help = "Examples:\n  mta-queue summary\n  mta-queue summary --reply '^4.*quota'"
    )]
    Summary {
        #[command(flatten)]
        which: Which,
    },
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
        after_help = "Examples:\n  mta-queue replay all --spread 10m\n  mta-queue replay --domain gmail.com --dry-run"
    )]
    Replay {
        #[command(flatten)]
        steering: Steering,
        /// Spread them over this span by chance, so that no server is overrun
        #[arg(long, value_name = "SPAN")]
        spread: Option<String>,
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
    /// Write messages to a directory, each as ID.eml and ID.json
    #[command(after_help = "Example:\n  mta-queue export /var/tmp/queue all")]
    Export(transfer::Export),
    /// Take messages from such a directory, or from a Postfix on this machine
    #[command(
        after_help = "Examples:\n  mta-queue import /var/tmp/queue --hold\n  mta-queue import postfix --dry-run"
    )]
    Import(transfer::Import),
    /// Compute every checksum of the store again
    #[command(after_help = "Example:\n  mta-queue verify")]
    Verify,
    /// Make the index anew from the journal
    #[command(after_help = "Example:\n  mta-queue rebuild")]
    Rebuild,
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
    /// queued, deferred, suspended, held, delivered, bounced, expired or removed; for `watch` an
    /// event
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
            ..Selector::default()
        }
    }
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
            let selector = which.selector();
            if json {
                let limit = None;
                return lines(&config, Request::List { selector, limit }).map(drop);
            }
            let request = Request::List {
                selector,
                limit: Some(if limit == 0 { usize::MAX } else { limit }),
            };
            let mut table = show::List::default();
            let count = ask::ask(&config, request, &mut |answer| {
                if let Answer::Item(item) = answer {
                    table.add(*item);
                }
                Ok(())
            })?;
            table.print(count);
        }
        Command::Show { id } => {
            let request = Request::Show { id };
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
            let (mut rows, mut holding) = (Vec::new(), Vec::new());
            ask::ask(&config, request, &mut |answer| {
                match answer {
                    Answer::Row(row) => rows.push(*row),
                    Answer::Suspended(one) => holding.push(*one),
                    _ => {}
                }
                Ok(())
            })?;
            show::summary(&rows, &holding);
        }
        Command::Top(args) => top::run(&config, &args)?,
        Command::Watch { which } => watch::run(&config, which.selector(), json)?,
        Command::Replay { steering, spread } => {
            let manner = steer::Manner {
                spread,
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
        Command::Export(export) => transfer::export(&config, &export, json)?,
        Command::Import(import) => transfer::import(&config, &import, json)?,
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

/// Prints the objects of an answer, one a line.
fn lines(config: &Config, request: Request) -> Result<u64, Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let count = ask::ask(config, request, &mut |answer| {
        let text = match &answer {
            Answer::Item(item) => serde_json::to_string(item),
            Answer::Row(row) => serde_json::to_string(row),
            Answer::Suspended(one) => serde_json::to_string(one),
            Answer::Order(one) => serde_json::to_string(one),
            _ => return Ok(()),
        };
        writeln!(out, "{}", text.unwrap_or_default())
    })?;
    out.flush().map_err(Failure::Output)?;
    Ok(count)
}

fn verify(config: &Config, json: bool) -> Result<(), Failure> {
    let mut findings = 0u64;
    let whole = ask::ask(config, Request::Verify {}, &mut |answer| {
        if let Answer::Finding(finding) = answer {
            findings += 1;
            if json {
                say!("{}", serde_json::to_string(&finding).unwrap_or_default());
            } else {
                say!("{}: {}", finding.place, finding.problem);
            }
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
    Err(Failure::Damaged(format!(
        "{findings} damaged, {whole} whole; the next start puts damaged records into quarantine/ \
         and delivers the rest"
    )))
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
