//! Publishes the records of a domain at `dns.provider`, and tells what became of each.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::check;
use super::records::{self, Value};
use super::setup::spf;
use crate::config::{Config, files};
use crate::dns::Resolver;
use crate::publish::data::{self, Data, Record};
use crate::publish::ledger::Ledger;
use crate::publish::plan::{self, Does, Step};
use crate::publish::{Edit, Provider, Publisher, TTL, Visibility, credentials_file};

/// Mode of credentials.
const MODE: u32 = 0o600;
/// Mode of their directory.
const DIR_MODE: u32 = 0o700;

/// What became of the records.
pub(super) struct Outcome {
    /// Records that are not there because somebody else's are.
    pub(super) kept: usize,
    /// Those that changed.
    pub(super) changed: Vec<Record>,
}

/// A runtime for one task.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Puts credentials where they belong. False: there are some, which were kept.
pub(super) fn take_credentials(dir: &Path, provider: Provider, text: &str) -> anyhow::Result<bool> {
    let to = credentials_file(dir, provider);
    files::create_dir(to.parent().unwrap_or(dir), DIR_MODE)?;
    files::create(&to, text.as_bytes(), MODE)
        .with_context(|| format!("{} can not be written", to.display()))
}

/// Publishes `wanted`, the records of `domain`, and prints a line for each; with `rehearses` it
/// only prints.
pub(super) fn publish(
    config: &Config,
    provider: Provider,
    domain: &str,
    wanted: &[records::Record],
    rehearses: bool,
) -> anyhow::Result<Outcome> {
    let mut publisher = Publisher::of(config, provider)?;
    let mut ledger = Ledger::published(&config.dir)?;
    let runtime = runtime()?;
    let mut known: Vec<Record> = Vec::new();
    for record in wanted {
        match (record.known(), &record.data) {
            (Some(known_record), _) => known.push(known_record),
            (None, Value::Unknown(what)) => say!(
                "- {}. A: {what} is not known; give it with --ip",
                record.name
            ),
            (None, _) => {}
        }
    }
    let mut names: Vec<String> = known.iter().map(|record| record.name.clone()).collect();
    names.dedup();
    let present = runtime.block_on(publisher.records(&names))?;
    merge_spf(config, domain, &mut known, &present, &runtime);
    let contained = |new: &str, old: &str| spf::contains(new, old);
    let steps = plan::plan(&known, &present, |record| ledger.has(record), contained);
    let edits: Vec<Edit> = steps.iter().flat_map(Step::edits).collect();
    let come: Vec<Record> = edits
        .iter()
        .filter_map(|edit| Some(Record::new(&edit.name, edit.add.clone()?)))
        .collect();
    let go: Vec<Record> = edits
        .iter()
        .filter_map(|edit| Some(Record::new(&edit.name, edit.remove.clone()?)))
        .collect();
    if !rehearses && !edits.is_empty() {
        // Noted first: a record of which nobody knew would be somebody else's.
        ledger.change(&come, &[])?;
        runtime.block_on(publisher.apply(&edits))?;
        ledger.change(&[], &go)?;
    }
    let mut kept = 0;
    for step in &steps {
        kept += usize::from(tell(step, provider));
    }
    let same = steps
        .iter()
        .filter(|step| step.does == Does::Nothing)
        .count();
    if same > 0 {
        say!("= {same} records are there already");
    }
    Ok(Outcome {
        kept,
        changed: come,
    })
}

/// A domain has one SPF record: ours says also what the one there says.
fn merge_spf(
    config: &Config,
    domain: &str,
    known: &mut [Record],
    present: &[Record],
    runtime: &tokio::runtime::Runtime,
) {
    let spf_of = |record: &Record| {
        let text = record.data.text().filter(|text| spf::is_spf(text));
        text.filter(|_| record.name == domain).map(str::to_owned)
    };
    let there: Vec<String> = present.iter().filter_map(spf_of).collect();
    let ips: Vec<IpAddr> = known
        .iter()
        .filter(|record| record.name == config.hostname)
        .filter_map(|record| match record.data {
            Data::Address(ip) => Some(ip),
            _ => None,
        })
        .collect();
    let ([there], Some(own)) = (
        there.as_slice(),
        known.iter_mut().find(|record| spf_of(record).is_some()),
    ) else {
        return;
    };
    own.data = Data::Text(runtime.block_on(merged_spf(config, there, &ips)));
}

/// The SPF record that is there and ours in one, of which receivers ask no more than they may:
/// otherwise they take it for an error, and all mail of the domain suffers. An address asks nothing.
pub(super) async fn merged_spf(config: &Config, there: &str, ips: &[IpAddr]) -> String {
    let merged = match spf::has_addresses(there, ips) {
        true => spf::merge_addresses(there, ips),
        false => spf::merge(there, &config.hostname),
    };
    let Ok(resolver) = Resolver::new(&config.dns) else {
        return merged;
    };
    let count = async |text: &str| {
        let all = check::lookups(&resolver, text.as_bytes()).await;
        all.unwrap_or_else(|| spf::lookups(text))
    };
    if count(&merged).await <= spf::MOST_LOOKUPS {
        return merged;
    }
    let short = match ips.is_empty() {
        true => merged,
        false => spf::merge_addresses(there, ips),
    };
    let asks = count(&short).await;
    if asks > spf::MOST_LOOKUPS {
        say!(
            "! the SPF record makes receivers ask the DNS {asks} times and they may {} (RFC 7208 section 4.6.4):\n    \
             they take it for an error; remove senders that you no longer use",
            spf::MOST_LOOKUPS
        );
    }
    short
}

/// Prints what is done about one record; whether somebody else's is in its place.
fn tell(step: &Step, provider: Provider) -> bool {
    let record = &step.record;
    let all = |data: &[Data]| {
        let all: Vec<String> = data
            .iter()
            .map(|data| format!("{} {data}", data.kind().name()))
            .collect();
        all.join(", ")
    };
    match &step.does {
        Does::Nothing => false,
        Does::Add => {
            say!("+ {record}");
            false
        }
        Does::Replace(old) => {
            say!("~ {record}\n    in place of {}", all(old));
            false
        }
        Does::Keep(others) => {
            say!(
                "! {record}\n    is not published: {} is there and not from here",
                all(others)
            );
            let theirs = |tag: &str| {
                let starts = |text: &str| text.starts_with(tag);
                record.data.text().is_some_and(starts)
                    && others
                        .iter()
                        .filter_map(Data::text)
                        .filter(|text| starts(text))
                        .count()
                        == 1
            };
            if theirs("v=DMARC1") {
                say!("    it stays; that is well if you want what it says");
                return false;
            }
            say!(
                "    it stays; remove it at {} and run this again if ours shall be there",
                provider.name()
            );
            true
        }
    }
}

/// Waits until the zone's own servers show what was published; why they do not.
pub(super) fn visible(
    config: &Config,
    provider: Provider,
    published: &[Record],
    wait: Duration,
) -> anyhow::Result<()> {
    let Some(first) = published.first() else {
        return Ok(());
    };
    let runtime = runtime()?;
    let resolver = Resolver::new(&config.dns)?;
    let mut publisher = Publisher::of(config, provider)?;
    runtime.block_on(async {
        let zone = publisher.zone_of(&first.name).await?;
        let mine = |record: &&Record| record.name.ends_with(&zone);
        let mine: Vec<Record> = published.iter().filter(mine).cloned().collect();
        let looks = Visibility {
            resolver: &resolver,
            port: config.acme.dns_port,
            wait,
        };
        looks.wait(&zone, &mine).await?;
        Ok(())
    })
}

/// Publishes TXT records beside what is there.
pub(super) fn add(config: &Config, provider: Provider, records: &[Record]) -> anyhow::Result<()> {
    let mut publisher = Publisher::of(config, provider)?;
    Ledger::published(&config.dir)?.change(records, &[])?;
    let edits: Vec<Edit> = records
        .iter()
        .map(|record| Edit::add(record, TTL))
        .collect();
    Ok(runtime()?.block_on(publisher.apply(&edits))?)
}

/// Removes the TXT records of a name whose text is ours, however it is written there.
pub(super) fn remove(
    config: &Config,
    provider: Provider,
    name: &str,
    is_ours: impl Fn(&str) -> bool,
) -> anyhow::Result<usize> {
    let mut publisher = Publisher::of(config, provider)?;
    let runtime = runtime()?;
    let here = runtime.block_on(publisher.records(&[data::name(name)]))?;
    let ours = |record: &Record| record.data.text().is_some_and(&is_ours);
    let ours: Vec<Record> = here.into_iter().filter(ours).collect();
    let edits: Vec<Edit> = ours.iter().map(Edit::remove).collect();
    runtime.block_on(publisher.apply(&edits))?;
    Ledger::published(&config.dir)?.change(&[], &ours)?;
    Ok(ours.len())
}
