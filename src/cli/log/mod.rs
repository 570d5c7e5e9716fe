//! `chapar log`: what the daemon told, filtered.

pub mod entry;
pub mod source;

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;

use super::exit::Wrong;
use crate::config::{Config, Span};
use entry::{Entry, Filter};
use source::{Place, Source};

/// Show the log, filtered by address, message and time
///
/// Reads `log.file` of the configuration, or systemd's journal. Filters add up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar log --address me@gmail.com --since 2h\n  \
                  chapar log --id 1kqpdq6e0v5g0 --json\n  chapar log --trouble --follow"
)]
pub(super) struct Args {
    /// Lines with this address, or a part of one such as a domain: of a sender, a recipient, a
    /// user, a client.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Lines about this message (repeat it for more).
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// Not older than a span such as 2h, or not before a time such as 2026-11-25T10:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The other end, in the same form.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Warnings and errors alone.
    #[arg(long)]
    trouble: bool,
    /// Only the last lines; with --follow those before what comes.
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<usize>,
    /// Go on with what comes, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let filter = Filter {
        address: args.address.clone(),
        ids: args.id.clone(),
        since: args.since.as_deref().map(time).transpose()?,
        until: args.until.as_deref().map(time).transpose()?,
        trouble: args.trouble,
    };
    let source = Source::new(&config, &args.place);
    let print = |entry: &Entry| match args.json {
        true => say!("{}", entry.json()),
        false => say!("{}", entry.line()),
    };
    if let Some(most) = args.lines {
        let mut last = VecDeque::new();
        source.read(&filter, false, &mut |entry| {
            last.push_back(entry);
            if last.len() > most {
                last.pop_front();
            }
            true
        })?;
        last.iter().for_each(print);
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let now = crate::time::text(crate::time::now());
        let later = Filter {
            since: filter.since.clone().max(Some(now)),
            ..filter
        };
        return follow(&source, &later, print);
    }
    if args.follow {
        return follow(&source, &filter, print);
    }
    source.read(&filter, false, &mut |entry| {
        print(&entry);
        true
    })?;
    Ok(ExitCode::SUCCESS)
}

fn follow(source: &Source, filter: &Filter, print: impl Fn(&Entry)) -> anyhow::Result<ExitCode> {
    source.read(filter, true, &mut |entry| {
        print(&entry);
        true
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A time, or a span back from now.
pub(super) fn time(text: &str) -> anyhow::Result<String> {
    if let Ok(span) = text.parse::<Span>() {
        let back = u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        return Ok(crate::time::text(crate::time::now().saturating_sub(back)));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(format!("{time:.0}")),
        Err(_) => Err(Wrong(format!(
            "{text:?} is neither a span such as 2h nor a time such as 2026-11-25T10:00:00Z"
        ))
        .into()),
    }
}
