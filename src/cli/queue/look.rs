//! `mta-queue list`, `summary`, `show` and `cat`.

use std::io::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ask::{self, Failure};
use super::which::Which;
use super::{lines, show};
use crate::config::Config;
use crate::control::protocol::{Answer, By, Request, Sort};

/// Rows of a table if nothing else is asked for.
const ROWS: usize = 1000;

/// `mta-queue list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// Rows; 0 for all. A table has 1000 if this is not given, --json all
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// What comes first; without it the newest trouble, and in --json without --limit the order of
    /// ids
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<Sort>,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// Only print how many there are
    #[arg(long, conflicts_with_all = ["limit", "sort", "reverse"])]
    count: bool,
}

/// `mta-queue summary`.
#[derive(Debug, clap::Args)]
pub(super) struct Summary {
    #[command(flatten)]
    which: Which,
    /// What has a row
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Domain)]
    by: By,
}

pub(super) fn list(config: &Config, list: &List, json: bool) -> Result<(), Failure> {
    let limit = match (list.count, json, list.limit) {
        (true, ..) => None,
        (false, true, limit) => limit,
        (false, false, limit) => Some(limit.unwrap_or(ROWS)),
    };
    let request = Request::List {
        selector: list.which.selector(),
        limit,
        sort: list.sort,
        reverse: list.reverse,
        count: list.count,
    };
    if list.count {
        let count = ask::ask(config, request, &mut |_| Ok(()))?;
        match json {
            true => say!("{}", serde_json::json!({ "recipients": count })),
            false => say!("{count}"),
        }
        return Ok(());
    }
    if json {
        let (all, printed) = lines(config, request)?;
        if let Some(more) = all.checked_sub(printed).filter(|more| *more > 0) {
            eprintln!("mta-queue: {more} more: filter, or use a higher --limit");
        }
        return Ok(());
    }
    let mut table = show::List::default();
    let count = ask::ask(config, request, &mut |answer| {
        if let Answer::Item(item) = answer {
            table.add(*item);
        }
        Ok(())
    })?;
    table.print(count);
    Ok(())
}

pub(super) fn summary(config: &Config, summary: &Summary, json: bool) -> Result<(), Failure> {
    let request = Request::Summary {
        selector: summary.which.selector(),
        by: summary.by,
    };
    if json {
        return lines(config, request).map(drop);
    }
    let (mut rows, mut holding) = (Vec::new(), Vec::new());
    ask::ask(config, request, &mut |answer| {
        match answer {
            Answer::Row(row) => rows.push(*row),
            Answer::Suspended(one) => holding.push(*one),
            _ => {}
        }
        Ok(())
    })?;
    show::summary(&rows, &holding);
    Ok(())
}

pub(super) fn message(config: &Config, id: String, json: bool) -> Result<(), Failure> {
    let request = Request::Show { id };
    if json {
        return lines(config, request).map(drop);
    }
    let mut items = Vec::new();
    ask::ask(config, request, &mut |answer| {
        if let Answer::Item(item) = answer {
            items.push(*item);
        }
        Ok(())
    })?;
    show::message(&items);
    Ok(())
}

pub(super) fn cat(config: &Config, id: String, json: bool) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut whole = Vec::new();
    ask::ask(config, Request::Cat { id: id.clone() }, &mut |answer| {
        let Answer::Bytes(piece) = answer else {
            return Ok(());
        };
        let bytes = STANDARD.decode(piece).map_err(std::io::Error::other)?;
        if json {
            whole.extend_from_slice(&bytes);
        } else {
            out.write_all(&bytes)?;
        }
        Ok(())
    })?;
    if json {
        let content = String::from_utf8_lossy(&whole);
        let object = serde_json::json!({ "id": id, "size": whole.len(), "content": content });
        writeln!(out, "{object}").map_err(Failure::Output)?;
    }
    out.flush().map_err(Failure::Output)
}
