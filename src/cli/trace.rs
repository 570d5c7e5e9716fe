//! `chapar trace`: the story of a message, or what is said on connections.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use hickory_resolver::proto::rr::RData;
use serde_json::json;

use super::exit::Wrong;
use super::log::entry::{Entry, Filter};
use super::log::source::{Place, Source};
use super::socket::{self, Failure};
use crate::config::Config;
use crate::control::protocol::{Answer, Item, RefusalKind, Request, Wire};
use crate::dns::Resolver;
use crate::queue::Selector;

/// Messages of an address that are told of.
const MOST: usize = 100;

/// Tell the whole story of a message, or watch what is said on connections
///
/// The story is put together from the log and the queue, in the order of time. With an address,
/// the stories of its last messages. With --live, the dialogue of every connection with a
/// destination or a client from now on, without passwords and messages.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  chapar trace 1kqpdq6e0v5g0\n  chapar trace me@gmail.com --since 1d\n  \
                  chapar trace --live gmail.com\n  chapar trace --live 192.0.2.7"
)]
pub(super) struct Args {
    /// The id of a message, or an address.
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    about: Option<String>,
    /// Watch the connections with a domain's mail hosts, a host, an address; `all` for all.
    #[arg(long, value_name = "DESTINATION|CLIENT")]
    live: Option<String>,
    /// Of an address: not older than this.
    #[arg(long, value_name = "TIME", default_value = "7d")]
    since: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    if let Some(about) = &args.live {
        return live(&config, about, args.json);
    }
    let about = args.about.clone().unwrap_or_default();
    let mut story = Story::default();
    let since = match about.contains('@') {
        true => Some(super::log::time(&args.since)?),
        false => None,
    };
    let source = Source::new(&config, &args.place);
    let mut ids: BTreeSet<String> = BTreeSet::new();
    if about.contains('@') {
        let filter = Filter {
            address: Some(about.clone()),
            since: since.clone(),
            ..Filter::default()
        };
        story.log(&source, &filter, &mut |entry| {
            ids.extend(entry.id().map(str::to_owned));
        });
        for selector in [
            Selector {
                to: about.clone().into(),
                ..Selector::default()
            },
            Selector {
                from: about.clone().into(),
                ..Selector::default()
            },
        ] {
            story.list(&config, selector, &mut ids);
        }
        while ids.len() > MOST {
            ids.pop_first();
        }
    } else {
        ids.insert(about.clone());
    }
    story.forget_entries();
    if !ids.is_empty() {
        let filter = Filter {
            ids: ids.iter().cloned().collect(),
            since,
            ..Filter::default()
        };
        story.log(&source, &filter, &mut |_| {});
        for id in &ids {
            story.queue(&config, id);
        }
    }
    for remark in &story.remarks {
        eprintln!("chapar: {remark}");
    }
    if story.lines.is_empty() {
        let text = format!(
            "neither the queue nor the log knows {about}; `chapar log` shows what there is"
        );
        return Err(super::exit::Missing(text).into());
    }
    story.print(args.json);
    Ok(ExitCode::SUCCESS)
}

/// Lines from both sources.
#[derive(Default)]
struct Story {
    lines: Vec<Line>,
    remarks: Vec<String>,
    log_failed: bool,
}

struct Line {
    /// RFC 3339.
    at: String,
    id: String,
    source: &'static str,
    text: String,
}

impl Story {
    fn log(&mut self, source: &Source, filter: &Filter, each: &mut dyn FnMut(&Entry)) {
        if self.log_failed {
            return;
        }
        let lines = &mut self.lines;
        let read = source.read(filter, false, &mut |entry| {
            each(&entry);
            lines.push(Line {
                at: entry.time.clone(),
                id: entry.id().unwrap_or_default().to_owned(),
                source: "log",
                // Its time stands in front already.
                text: entry.line().split_off(20).trim_start().to_owned(),
            });
            true
        });
        if let Err(error) = read {
            self.log_failed = true;
            self.remarks.push(format!("without the log: {error:#}"));
        }
    }

    fn forget_entries(&mut self) {
        self.lines.clear();
    }

    fn list(&mut self, config: &Config, selector: Selector, ids: &mut BTreeSet<String>) {
        let request = Request::List {
            selector,
            limit: Some(MOST),
            sort: None,
            reverse: false,
            count: false,
        };
        let asked = socket::ask(config, &request, &mut |answer| {
            if let Answer::Item(item) = answer {
                ids.insert(item.id);
            }
            Ok(())
        });
        self.remark(asked.err());
    }

    fn queue(&mut self, config: &Config, id: &str) {
        let request = Request::Show { id: id.to_owned() };
        let mut items = Vec::new();
        let asked = socket::ask(config, &request, &mut |answer| {
            if let Answer::Item(item) = answer {
                items.push(*item);
            }
            Ok(())
        });
        match asked {
            // It has ended, or never was: the log knows.
            Err(Failure::Refused(refusal)) if refusal.kind != RefusalKind::Unavailable => {}
            Err(failure) => self.remark(Some(failure)),
            Ok(_) => items.iter().for_each(|item| self.item(item)),
        }
    }

    fn item(&mut self, item: &Item) {
        let from = match item.from.as_str() {
            "" => "<>",
            from => from,
        };
        let mut add = |at: &str, text: String| {
            self.lines.push(Line {
                at: at.to_owned(),
                id: item.id.clone(),
                source: "queue",
                text,
            });
        };
        let signed = match item.signed_by.as_deref() {
            Some([]) | None => String::new(),
            Some(keys) => format!(", signed by {}", keys.join(", ")),
        };
        add(
            &item.arrived,
            format!(
                "came from {from} for {} ({}), {} bytes{signed}",
                item.to, item.origin, item.size
            ),
        );
        for event in item.events.iter().flatten() {
            let mut text = format!("{} {}", event.event, item.to);
            if !event.remote.is_empty() {
                text.push_str(&format!(" by {}", event.remote));
            }
            for (before, part) in [
                (", ", &event.tls),
                (": ", &event.text),
                (" by order of ", &event.by),
            ] {
                if !part.is_empty() {
                    text.push_str(&format!("{before}{part}"));
                }
            }
            add(&event.at, text);
        }
        let now = crate::time::text(crate::time::now());
        let next = match &item.next_due {
            Some(due) => format!(", next try {due}"),
            None => String::new(),
        };
        add(
            &now,
            format!(
                "{} is {}, {} tries{next}",
                item.to, item.state, item.attempts
            ),
        );
    }

    fn remark(&mut self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            let text = format!("without the queue: {failure}");
            if !self.remarks.contains(&text) {
                self.remarks.push(text);
            }
        }
    }

    fn print(&mut self, json: bool) {
        self.lines.sort_by(|a, b| key(a).cmp(&key(b)));
        let several = self.lines.iter().any(|line| {
            let first = self.lines.first();
            first.is_some_and(|first| first.id != line.id)
        });
        for line in &self.lines {
            let at = line.at.get(..19).unwrap_or(&line.at);
            if json {
                let object = json!({
                    "at": line.at, "id": line.id, "source": line.source, "text": line.text,
                });
                say!("{object}");
            } else if several {
                say!("{at}Z {:5} {} {}", line.source, line.id, line.text);
            } else {
                say!("{at}Z {:5} {}", line.source, line.text);
            }
        }
    }
}

/// To the second: the two sources write fractions differently, and a stable sort does the rest.
fn key(line: &Line) -> (&str, &str) {
    (line.at.get(..19).unwrap_or(&line.at), &line.id)
}

/// Prints the dialogue of connections until the daemon ends or nobody reads.
fn live(config: &Config, about: &str, json: bool) -> anyhow::Result<ExitCode> {
    let about = needles(config, about)?;
    let request = Request::Wire {
        about: about.clone(),
    };
    let mut told = false;
    socket::ask(config, &request, &mut |answer| {
        match answer {
            Answer::Wire(line) if json => {
                say!("{}", serde_json::to_string(&line).unwrap_or_default());
            }
            Answer::Wire(line) => say!("{}", wire(&line)),
            Answer::Missed(count) => eprintln!("chapar: {count} lines were missed"),
            Answer::Alive if !told => {
                told = true;
                let what = match about.as_slice() {
                    [] => "every connection".to_owned(),
                    some => format!("connections with {}", some.join(", ")),
                };
                eprintln!("chapar: watching {what}; Ctrl-C ends it");
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn wire(line: &Wire) -> String {
    let time = line.at.get(11..19).unwrap_or(&line.at);
    let arrow = if line.ours { '>' } else { '<' };
    format!("{time} {} {arrow} {}", line.peer, line.text)
}

/// What the names of the other sides are searched for: an address, a host, and of a domain its
/// mail hosts.
fn needles(config: &Config, about: &str) -> anyhow::Result<Vec<String>> {
    if about == "all" {
        return Ok(Vec::new());
    }
    if about.parse::<IpAddr>().is_ok() || !about.contains('.') {
        return Ok(vec![about.to_owned()]);
    }
    let about = about.rsplit_once('@').map_or(about, |(_, domain)| domain);
    if !about
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']'))
    {
        return Err(Wrong(format!("{about:?} is no domain, host or address")).into());
    }
    let mut needles = vec![about.to_lowercase()];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let resolver = Resolver::new(&config.dns)?;
    let found = runtime.block_on(resolver.hickory().mx_lookup(format!("{about}.")));
    for record in found.iter().flat_map(|found| found.answers()) {
        if let RData::MX(mx) = &record.data {
            let host = mx.exchange.to_utf8();
            needles.push(host.trim_end_matches('.').to_lowercase());
        }
    }
    needles.dedup();
    Ok(needles)
}
