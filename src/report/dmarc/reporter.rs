//! The actor that keeps tallies and sends reports.
//!
//! Receives [`Tally`]s from sessions and [`Reload`]; sends to the signer and the queue. Never
//! blocks: files are on threads. Tallies are written and synced once a second; a crash costs those
//! of a second. A report is marked as sent once the queue has it; a crash between sends it twice
//! under one report id, which receivers count once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, Message, Recipient,
    WrapFuture as _,
};
use queue_schema::{Millis, QueueId};

use super::Tally;
use super::compose::{self, Submitter};
use super::consent;
use super::days::{self, Days, Rows};
use crate::config::Config;
use crate::dns::Resolver;
use crate::identity::Identity;
use crate::post::{self, Report, post};
use crate::queue::{Accept, IdSource, Leads};
use crate::signing::Signer;
use crate::time::DAY;

/// How often tallies are written.
const WRITE: Duration = Duration::from_secs(1);
/// How often the actor looks for a day that is over.
const LOOK: Duration = Duration::from_secs(60);
/// Wait after a report could not be sent.
const AGAIN: Millis = 60 * 60 * 1000;
/// A day whose reports could not be sent until then is forgotten.
const GIVE_UP: Millis = 3 * DAY;
/// Bytes of tallies that wait for the disk; what comes beyond is not counted.
const MOST_WAITING: usize = 4 * 1024 * 1024;

/// Another configuration.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Config>, pub Arc<Identity>, pub Leads);

/// Write what is not on disk yet; answered when it is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flush;

/// Whom the actor works with.
#[derive(Clone)]
pub struct Others {
    /// Asks whether a stranger wants a report.
    pub resolver: Resolver,
    /// Signs them.
    pub signer: Addr<Signer>,
    /// Takes them.
    pub queue: Recipient<Accept>,
    /// Issues their ids.
    pub ids: IdSource,
}

/// The actor.
pub struct Reporter {
    config: Arc<Config>,
    from: Option<String>,
    leads: Leads,
    others: Others,
    days: Days,
    /// The day of what waits, and its lines.
    day: String,
    waiting: Vec<u8>,
    lost: u64,
    writing: bool,
    sending: bool,
    /// Reports of a day leave so long after its end: not those of all hosts at midnight.
    offset: Millis,
    /// Nothing is sent before.
    next: Millis,
}

impl Reporter {
    /// With what others it needs.
    pub fn new(config: Arc<Config>, identity: &Identity, leads: Leads, others: Others) -> Reporter {
        let spread = crate::time::millis(config.reports.spread.0);
        Reporter {
            from: from(&config, identity),
            days: Days::new(&config.data_dir, config.reports.day.0),
            leads,
            others,
            day: String::new(),
            waiting: Vec::new(),
            lost: 0,
            writing: false,
            sending: false,
            offset: match spread {
                0 => 0,
                spread => fastrand::u64(0..spread),
            },
            next: 0,
            config,
        }
    }

    fn keep(&mut self, tally: &Tally, ctx: &mut Context<Self>) {
        let day = days::name(crate::time::now());
        if day != self.day {
            self.write(ctx);
            // While the disk is busy the line stays with those of the day before.
            if self.waiting.is_empty() {
                self.day = day;
            }
        }
        let Ok(line) = serde_json::to_vec(tally) else {
            return;
        };
        if self.waiting.len() + line.len() > MOST_WAITING {
            self.lost += 1;
            return;
        }
        self.waiting.extend_from_slice(&line);
        self.waiting.push(b'\n');
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            tracing::warn!(target: "report", lost, "messages are missing in DMARC reports: the disk was too slow");
        }
        if self.waiting.is_empty() || self.writing {
            return;
        }
        self.writing = true;
        let written = self.written();
        ctx.spawn(
            written
                .into_actor(self)
                .map(|(), actor, _| actor.writing = false),
        );
    }

    /// What waits, on its way to the disk.
    fn written(&mut self) -> impl Future<Output = ()> + use<> {
        let lines = std::mem::take(&mut self.waiting);
        let (days, day) = (self.days.clone(), self.day.clone());
        async move {
            if lines.is_empty() {
                return;
            }
            match blocking(move || days.append(&day, &lines)).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(target: "report", "reports.day is reached: further mail of today is in no DMARC report");
                }
                Err(error) => {
                    tracing::error!(target: "report", %error, "reports/dmarc in data_dir can not be written; see its owner, mode and free space");
                }
            }
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = crate::time::now();
        if self.sending || now < self.next {
            return;
        }
        self.sending = true;
        let work = Work {
            config: self.config.clone(),
            from: self.from.clone(),
            leads: self.leads.clone(),
            others: self.others.clone(),
            days: self.days.clone(),
            now,
            ended: now.saturating_sub(self.offset),
        };
        ctx.spawn(work.run().into_actor(self).map(move |done, actor, _| {
            actor.sending = false;
            if !done {
                actor.next = now.saturating_add(AGAIN);
            }
        }));
    }
}

/// The author of reports.
fn from(config: &Config, identity: &Identity) -> Option<String> {
    post::domain(config, identity).map(|domain| format!("postmaster@{domain}"))
}

/// One look at the days that are over.
struct Work {
    config: Arc<Config>,
    from: Option<String>,
    leads: Leads,
    others: Others,
    days: Days,
    now: Millis,
    /// Days that ended before this time are sent.
    ended: Millis,
}

impl Work {
    /// False: something is left to be tried again.
    async fn run(self) -> bool {
        let (days, ended) = (self.days.clone(), self.ended);
        let over = match blocking(move || days.over(ended)).await {
            Ok(over) => over,
            Err(error) => {
                tracing::error!(target: "report", %error, "reports/dmarc in data_dir can not be read; see its owner and mode");
                return false;
            }
        };
        let mut done = true;
        for day in over {
            match self.send_day(&day).await {
                Ok(true) => {}
                Ok(false) => done = false,
                Err(error) => {
                    tracing::error!(target: "report", day, %error, "DMARC reports could not be sent; they are tried again");
                    done = false;
                }
            }
        }
        done
    }

    async fn send_day(&self, day: &str) -> io::Result<bool> {
        let begin = days::begin(day).unwrap_or_default();
        let last = self.now >= begin.saturating_add(DAY + GIVE_UP);
        let (days, name) = (self.days.clone(), day.to_owned());
        let most = self.config.reports.rows;
        let domains = match self.config.reports.dmarc && !last {
            true => blocking(move || days.read(&name, most)).await?,
            false => Default::default(),
        };
        let mut done = true;
        for (domain, rows) in domains {
            if self.send(&domain, begin, &rows).await {
                let (days, day) = (self.days.clone(), day.to_owned());
                blocking(move || days.mark(&day, &domain)).await?;
            } else {
                done = false;
            }
        }
        if done {
            let (days, day) = (self.days.clone(), day.to_owned());
            blocking(move || days.remove(&day)).await?;
        }
        Ok(done)
    }

    /// One report. True: it is in the queue, or nobody wants it.
    async fn send(&self, domain: &str, begin: Millis, rows: &Rows) -> bool {
        let Some(from) = &self.from else {
            tracing::warn!(target: "report", domain, "no domain of ours has a DKIM key, so no DMARC report is sent; `chapar domain add` makes one");
            return true;
        };
        let rua = compose::rua(rows);
        let Ok(takers) = consent::takers(&self.others.resolver.hickory(), domain, &rua).await
        else {
            tracing::info!(target: "report", domain, "the DNS does not say who takes reports; later again");
            return false;
        };
        let by = Submitter {
            hostname: &self.config.hostname,
            from,
        };
        let report = compose::report(by, domain, begin, rows);
        let compressed = match compose::compressed(&report) {
            Ok(compressed) => compressed,
            Err(error) => {
                tracing::error!(target: "report", domain, %error, "a DMARC report could not be written");
                return true;
            }
        };
        // In base64.
        let size = compressed.len() as u64 / 3 * 4;
        let fits = takers
            .iter()
            .filter(|taker| taker.limit.is_none_or(|limit| size <= limit));
        let to: Vec<String> = fits.map(|taker| taker.address.clone()).collect();
        if to.is_empty() {
            tracing::info!(target: "report", domain, "nobody takes the DMARC report");
            return true;
        }
        let (id, now) = (self.others.ids.issue(), crate::time::now());
        let message = compose::message(by, &report, &compressed, &to, id, now);
        match self.queue(from, &to, message, id, now).await {
            Ok(()) => {
                tracing::info!(target: "report", domain, to = to.join(" "), rows = rows.len(), "DMARC report sent");
                true
            }
            Err(error) => {
                tracing::warn!(target: "report", domain, error, "a DMARC report waits");
                false
            }
        }
    }

    async fn queue(
        &self,
        from: &str,
        to: &[String],
        message: (String, String),
        id: QueueId,
        now: Millis,
    ) -> Result<(), String> {
        let mut recipients = Vec::new();
        for address in to {
            // It may be one of ours.
            for target in (self.leads)(address) {
                let alias_of = (target != *address).then(|| address.clone());
                recipients.push(queue_schema::Recipient {
                    address: target,
                    alias_of,
                    notify: Default::default(),
                    orcpt: None,
                });
            }
        }
        if recipients.is_empty() {
            return Ok(());
        }
        let domain = from.rsplit_once('@').map(|(_, domain)| domain.to_owned());
        let report = Report {
            id,
            arrived: now,
            domain: domain.unwrap_or_default(),
            recipients,
            message,
        };
        let signer = self.others.signer.clone().recipient();
        post(&signer, &self.others.queue, report).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Actor for Reporter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(WRITE, Self::write);
        self.look(ctx);
        ctx.run_interval(LOOK, Self::look);
    }
}

impl Handler<Tally> for Reporter {
    type Result = ();

    fn handle(&mut self, tally: Tally, ctx: &mut Self::Context) {
        if self.config.reports.dmarc {
            self.keep(&tally, ctx);
        }
    }
}

impl Handler<Reload> for Reporter {
    type Result = ();

    fn handle(&mut self, Reload(config, identity, leads): Reload, _: &mut Self::Context) {
        self.from = from(&config, &identity);
        self.leads = leads;
        self.config = config;
    }
}

impl Handler<Flush> for Reporter {
    type Result = actix::ResponseFuture<()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.written())
    }
}
