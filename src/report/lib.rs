//! Reports to other domains: what became of TLS sessions with their hosts (TLS-RPT, RFC 8460).
//!
//! The actor [`Reports`] receives [`Tally`] from connections and counts by day and domain. Counts
//! lie in `tls-rpt/` of `data_dir`, one file a day, written at most [`SAVE`] after they changed. A
//! [`Tick`] every hour sends what earlier days left: to the addresses that `_smtp._tls.DOMAIN`
//! names, by mail through the queue, signed, or by https. A report that can not be sent is tried
//! again for [`KEPT`] days. It sends to the signer and the queue, and is nothing that mail waits
//! for.
//!
//! [`dmarc`] is the same for mail that fails DMARC; [`received`] reads what others report to us.
#![forbid(unsafe_code)]

pub mod dmarc;
mod https;
mod post;
pub mod received;
pub mod tls;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::time;
use chapar_config as config;
use chapar_delivery as delivery;
use chapar_dns as dns;
use chapar_identity as identity;
use chapar_intake as intake;
use chapar_message as message;
use chapar_queue as queue;
use chapar_signing as signing;
use chapar_verify as verify;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use queue_schema::Notify;

use crate::config::Config;
pub use crate::delivery::tally::Tally;
use crate::dns::{Resolver, Text};
use crate::identity::Identity;
use crate::queue::{Accept, IdSource};
use crate::signing::Sign;
use crate::time::Millis;
use tls::{About, Day, Rua};

/// Results that may wait in the mailbox; beyond, they are not counted.
const MAILBOX: usize = 4096;
/// Counts are on disk after this time.
pub const SAVE: Duration = Duration::from_secs(10);
/// How often is looked whether a day is over.
const PERIOD: Duration = Duration::from_secs(3600);
/// Days for which a report is tried.
pub const KEPT: i64 = 3;

/// It is this time: sends the reports of the days that are over; how many were sent.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Tick(pub Millis);

/// Writes the counts now.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Save;

/// From now on these hold.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Config>, pub Arc<Identity>);

/// Whom it speaks to.
#[derive(Clone)]
pub struct Means {
    /// The configuration.
    pub config: Arc<Config>,
    /// Our domains.
    pub identity: Arc<Identity>,
    /// The resolver.
    pub resolver: Resolver,
    /// Signs.
    pub signer: Recipient<Sign>,
    /// Takes mail.
    pub queue: Recipient<Accept>,
    /// Issues ids.
    pub ids: IdSource,
}

/// See the module.
pub struct Reports {
    means: Means,
    dir: PathBuf,
    days: BTreeMap<String, Day>,
    changed: bool,
    sending: bool,
}

impl Reports {
    /// Reads what was counted.
    pub fn new(means: Means) -> Reports {
        let dir = means.config.data_dir.join("tls-rpt");
        Reports {
            days: load(&dir),
            means,
            dir,
            changed: false,
            sending: false,
        }
    }

    fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let (dir, days) = (self.dir.clone(), self.days.clone());
        actix_rt::spawn(async move {
            let saved = tokio::task::spawn_blocking(move || write(&dir, &days)).await;
            if let Ok(Err(error)) = saved {
                tracing::error!(%error, "results of TLS can not be kept in tls-rpt/ of data_dir");
            }
        });
    }
}

/// The day of a time, `YYYY-MM-DD` in UTC.
fn date(at: Millis) -> String {
    time::text(at).chars().take(10).collect()
}

fn load(dir: &Path) -> BTreeMap<String, Day> {
    let mut days = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|_| path.extension().is_some_and(|e| e == "json")) else {
            continue;
        };
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        let day =
            read.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        match day {
            Ok(day) => {
                days.insert(name, day);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "counted results of TLS can not be read and were put aside");
                let _ = std::fs::rename(&path, path.with_extension("damaged"));
            }
        }
    }
    days
}

/// Writes each day whole, and removes the files of days that are done.
fn write(dir: &Path, days: &BTreeMap<String, Day>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (date, day) in days {
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(&serde_json::to_vec(day)?)?;
        new.as_file().sync_all()?;
        new.persist(dir.join(format!("{date}.json")))?;
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        let known = path
            .file_stem()
            .is_some_and(|name| days.contains_key(name.to_string_lossy().as_ref()));
        if !known
            && path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

impl Actor for Reports {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(SAVE, |reports, _| reports.save());
        // Not all the world at midnight (RFC 8460 section 4.1).
        let first = Duration::from_secs(60 + fastrand::u64(..3600));
        context.run_later(first, |_, context| {
            tick(context);
            context.run_interval(PERIOD, |_, context| tick(context));
        });
    }
}

fn tick(context: &mut Context<Reports>) {
    let tick = context.address().send(Tick(time::now()));
    actix_rt::spawn(async move {
        let _ = tick.await;
    });
}

impl Handler<Tally> for Reports {
    type Result = ();

    fn handle(&mut self, tally: Tally, _: &mut Context<Self>) {
        if !self.means.config.tls.reports {
            return;
        }
        let day = self.days.entry(date(time::now())).or_default();
        day.count(&tally.domain, &tally.under, tally.failure);
        self.changed = true;
    }
}

impl Handler<Save> for Reports {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Save, _: &mut Context<Self>) -> Self::Result {
        self.changed = false;
        let (dir, days) = (self.dir.clone(), self.days.clone());
        Box::pin(async move {
            let _ = tokio::task::spawn_blocking(move || write(&dir, &days)).await;
        })
    }
}

impl Handler<Reload> for Reports {
    type Result = ();

    fn handle(&mut self, Reload(config, identity): Reload, _: &mut Context<Self>) {
        self.means.config = config;
        self.means.identity = identity;
    }
}

/// These reports need no further try.
#[derive(Message)]
#[rtype(result = "()")]
struct Done(Vec<(String, String)>);

impl Handler<Done> for Reports {
    type Result = ();

    fn handle(&mut self, Done(done): Done, _: &mut Context<Self>) {
        self.sending = false;
        for (date, domain) in done {
            if let Some(day) = self.days.get_mut(&date) {
                day.forget(&domain);
                self.changed = true;
            }
        }
        let before = self.days.len();
        self.days.retain(|_, day| !day.is_empty());
        self.changed |= before != self.days.len();
        self.save();
    }
}

impl Handler<Tick> for Reports {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, Tick(now): Tick, context: &mut Context<Self>) -> Self::Result {
        if self.sending || !self.means.config.tls.reports {
            return Box::pin(async { 0 });
        }
        let today = date(now);
        let oldest = date(now.saturating_sub(KEPT.unsigned_abs() * 86_400_000));
        let before = self.days.len();
        self.days.retain(|date, _| *date >= oldest);
        self.changed |= before != self.days.len();
        let over = self
            .days
            .range(..today)
            .map(|(date, day)| (date.clone(), day.clone()));
        let over: Vec<_> = over.collect();
        if over.is_empty() {
            return Box::pin(async { 0 });
        }
        self.sending = true;
        let (means, myself) = (self.means.clone(), context.address());
        Box::pin(async move {
            let (mut done, mut sent) = (Vec::new(), 0);
            for (date, day) in over {
                for domain in day.domains() {
                    match send(&means, &day, &date, &domain, now).await {
                        Ok(count) => {
                            sent += count;
                            done.push((date.clone(), domain));
                        }
                        Err(error) => {
                            tracing::warn!(domain, date, error, "a TLS report can not be sent yet")
                        }
                    }
                }
            }
            let _ = myself.send(Done(done)).await;
            sent
        })
    }
}

/// Sends the report of one day to one domain; to how many addresses.
async fn send(
    means: &Means,
    day: &Day,
    date: &str,
    domain: &str,
    now: Millis,
) -> Result<usize, String> {
    let record = means.resolver.txt(&format!("_smtp._tls.{domain}")).await;
    let addresses = match record {
        Text::Found(records) => tls::addresses(&records),
        Text::None => return Ok(0),
        Text::Failed(error) => return Err(error),
    };
    let submitter = post::domain(&means.config, &means.identity);
    let submitter = submitter.unwrap_or_else(|| means.config.hostname.clone());
    let about = About {
        submitter: &submitter,
        hostname: &means.config.hostname,
    };
    let Some(report) = day.report(domain, date, &about) else {
        return Ok(0);
    };
    let zip = tls::zipped(&report).map_err(|error| error.to_string())?;
    let (mut sent, mut failed) = (0, None);
    for rua in addresses {
        let done = match &rua {
            Rua::Mail(to) => mail(means, to, domain, date, &about, &zip, now).await,
            Rua::Https { host, port, path } => {
                https::post(&means.config, &means.resolver, (host, *port, path), &zip).await
            }
        };
        match done {
            Ok(()) => sent += 1,
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        // One address is enough; another try would tell it twice.
        Some(error) if sent == 0 => Err(error),
        _ => {
            tracing::info!(domain, date, sent, "TLS report sent");
            Ok(sent)
        }
    }
}

async fn mail(
    means: &Means,
    to: &str,
    domain: &str,
    date: &str,
    about: &About<'_>,
    zip: &[u8],
    now: Millis,
) -> Result<(), String> {
    let sent = i64::try_from(now / 1000).unwrap_or_default();
    let sent = jiff::Timestamp::from_second(sent).map_err(|error| error.to_string())?;
    let sent = sent.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    let (head, body) = tls::mail(to, domain, date, &sent, about, zip);
    let recipient = queue_schema::Recipient {
        address: to.to_owned(),
        alias_of: None,
        notify: Notify {
            success: false,
            failure: false,
            delay: false,
        },
        orcpt: None,
    };
    let report = post::Report {
        id: means.ids.issue(),
        arrived: time::now(),
        domain: about.submitter.to_owned(),
        recipients: vec![recipient],
        message: (head, body),
    };
    post::post(&means.signer, &means.queue, report).await
}
