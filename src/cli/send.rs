//! `chapar send`: a test message through the queue, followed to its end.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use super::exit::{self, Wrong};
use super::socket::{self, Failure};
use crate::config::{Config, Span};
use crate::control::protocol::{Answer, Request, Submitted};
use crate::identity::{Identity, Resolution, address};
use crate::queue::{Happened, Selector};

/// sysexits.h: it did not end yet.
const EX_TEMPFAIL: u8 = 75;
/// Events that wait to be looked at.
const WAITING: usize = 1024;

/// Send a test message and follow it to its end
///
/// It is signed with the keys of its sender's domain and goes through the queue as any other. Each
/// step is told: where it went, over which TLS, what was answered. The daemon must run.
///
/// Exit codes: 0 delivered, 1 returned or expired, 75 not ended within --wait.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chapar send --to me@gmail.com\n  \
                  chapar send --to me@gmail.com --from info@example.org --wait 10m --json")]
pub(super) struct Args {
    /// Where it goes; aliases of ours are followed.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// The sender, an address of one of our domains; default: the first user.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The subject.
    #[arg(long, value_name = "TEXT", default_value = "A test of chapar")]
    subject: String,
    /// How long to follow it.
    #[arg(long, value_name = "SPAN", default_value = "2m")]
    wait: Span,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// What became of a test message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its id.
    pub(super) id: String,
    /// DKIM keys that signed it.
    pub(super) signed_by: Vec<String>,
    /// The last event of each recipient.
    pub(super) recipients: BTreeMap<String, Happened>,
    /// Whether every recipient has ended.
    pub(super) whole: bool,
}

impl Ended {
    /// Whether all of it was delivered.
    pub(super) fn delivered(&self) -> bool {
        self.whole
            && self
                .recipients
                .values()
                .all(|event| event.event == "delivered")
    }
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let from = match &args.from {
        Some(from) => from.clone(),
        None => first_user(&identity)?,
    };
    let message = Message {
        from: &from,
        to: &args.to,
        subject: &args.subject,
    };
    let ended = message.send(&config, &identity, args.wait.0, &mut |step| {
        tell(&step, args.json);
    })?;
    if ended.delivered() {
        return Ok(ExitCode::SUCCESS);
    }
    if ended.whole {
        return Ok(ExitCode::from(1));
    }
    if !args.json {
        say!(
            "It is not at its end after {}: `chapar trace {}` shows how it goes on.",
            args.wait,
            ended.id
        );
    }
    Ok(ExitCode::from(EX_TEMPFAIL))
}

/// The first user of the first domain that has one.
pub(super) fn first_user(identity: &Identity) -> anyhow::Result<String> {
    let mut users = identity.domains().flat_map(|(name, domain)| {
        domain
            .users()
            .map(move |(user, _)| format!("{user}@{name}"))
    });
    match users.next() {
        Some(user) => Ok(user),
        None => bail!(Wrong(
            "there is no user yet: name a sender with --from, or `chapar user add ADDRESS`".into()
        )),
    }
}

/// What is told on the way.
pub(super) enum Step<'a> {
    /// It is in the queue.
    Queued(&'a Submitted, &'a [String]),
    /// Something happened to it.
    Event(&'a Happened),
}

fn tell(step: &Step<'_>, json: bool) {
    match (step, json) {
        (Step::Queued(taken, to), true) => {
            let line = json!({
                "event": "queued", "id": taken.id, "to": to, "signed_by": taken.signed_by,
            });
            say!("{line}");
        }
        (Step::Event(event), true) => say!("{}", serde_json::to_string(event).unwrap_or_default()),
        (Step::Queued(taken, to), false) => {
            let signed = match taken.signed_by.as_slice() {
                [] => "not signed: its domain has no DKIM key".to_owned(),
                keys => format!("signed by {}", keys.join(", ")),
            };
            say!("queued as {} for {}, {signed}", taken.id, to.join(", "));
        }
        (Step::Event(event), false) => say!("{}", event_line(event)),
    }
}

/// An event of a recipient for people.
pub(super) fn event_line(event: &Happened) -> String {
    let mut line = format!("{} {}", event.event, event.to.join(", "));
    if !event.remote.is_empty() {
        line.push_str(&format!(" by {}", event.remote));
        line.push_str(&match event.tls.as_str() {
            "" => ", in clear".to_owned(),
            tls => format!(", {tls}"),
        });
    }
    if !event.text.is_empty() {
        line.push_str(&format!(": {}", event.text));
    }
    line
}

/// A test message.
pub(super) struct Message<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) subject: &'a str,
}

impl Message<'_> {
    /// Sends it and follows it for at most `wait`.
    pub(super) fn send(
        &self,
        config: &Config,
        identity: &Identity,
        wait: Duration,
        each: &mut dyn FnMut(Step<'_>),
    ) -> anyhow::Result<Ended> {
        let to = self.targets(identity)?;
        // Without one it goes on for ever: `--wait never`.
        let end = Instant::now().checked_add(wait);
        let events = watch(config, self.from)?;
        let text = self.text(config);
        let taken = socket::submit(config, self.from, &to, false, text.as_bytes())?;
        each(Step::Queued(&taken, &to));
        let mut open: VecDeque<String> = to.into();
        let mut recipients = BTreeMap::new();
        while !open.is_empty() {
            let left = end.map_or(Duration::MAX, |end| {
                end.saturating_duration_since(Instant::now())
            });
            let event = match events.recv_timeout(left) {
                Ok(Ok(event)) => event,
                Ok(Err(failure)) => return Err(failure.into()),
                Err(_) => break,
            };
            if event.id != taken.id || event.event == "accepted" {
                continue;
            }
            each(Step::Event(&event));
            let ended = ["delivered", "bounced", "expired", "removed", "returned"]
                .contains(&event.event.as_str());
            if ended {
                open.retain(|address| !event.to.contains(address));
            }
            for address in &event.to {
                recipients.insert(address.clone(), event.clone());
            }
        }
        Ok(Ended {
            id: taken.id,
            signed_by: taken.signed_by,
            recipients,
            whole: open.is_empty(),
        })
    }

    /// Puts it into the queue, where it is held.
    pub(super) fn hold(
        &self,
        config: &Config,
        identity: &Identity,
        to: &[String],
    ) -> anyhow::Result<Submitted> {
        self.check(identity)?;
        let text = self.text(config);
        Ok(socket::submit(
            config,
            self.from,
            to,
            true,
            text.as_bytes(),
        )?)
    }

    fn check(&self, identity: &Identity) -> anyhow::Result<()> {
        for text in [self.from, self.to] {
            address::check(text).map_err(Wrong)?;
        }
        let domain = self.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        if identity.domain(&domain.to_ascii_lowercase()).is_none() {
            let text = format!("{} is no address of ours; --from names one", self.from);
            return Err(Wrong(text).into());
        }
        Ok(())
    }

    fn targets(&self, identity: &Identity) -> anyhow::Result<Vec<String>> {
        self.check(identity)?;
        match identity.resolve(self.to) {
            Resolution::Remote => Ok(vec![self.to.to_owned()]),
            Resolution::Targets(targets) => Ok(targets),
            Resolution::Unknown => Err(exit::NoSuchAddress(self.to.to_owned()).into()),
            Resolution::Rejected(why) | Resolution::Refused(why) => {
                Err(Wrong(format!("{} takes no mail: {why}", self.to)).into())
            }
        }
    }

    fn text(&self, config: &Config) -> String {
        let (from, to, host) = (self.from, self.to, &config.hostname);
        let subject: String = self.subject.chars().filter(|c| !c.is_control()).collect();
        let date = crate::message::date(crate::time::now());
        let unique = format!("{:016x}", fastrand::u64(..));
        format!(
            "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {date}\r\n\
             Message-ID: <{unique}@{host}>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nAuto-Submitted: auto-generated\r\n\r\n\
             This is a test message of the mail server {host}.\r\n\
             Whoever reads it knows that mail from {from} arrives here.\r\n"
        )
    }
}

/// Events of messages from `from`; it has begun when this returns.
fn watch(config: &Config, from: &str) -> anyhow::Result<mpsc::Receiver<Result<Happened, Failure>>> {
    let (out, events) = mpsc::sync_channel(WAITING);
    let (begin, begun) = mpsc::sync_channel(1);
    let config = config.clone();
    let request = Request::Watch {
        selector: Selector {
            from: from.into(),
            ..Selector::default()
        },
    };
    // It ends with this process, or when nobody listens any more.
    std::thread::spawn(move || {
        let ended = socket::ask(&config, &request, &mut |answer| {
            let gone = || Failure::Broken("nobody listens".into());
            match answer {
                Answer::Alive => {
                    let _ = begin.try_send(());
                }
                Answer::Event(event) => out.send(Ok(*event)).map_err(|_| gone())?,
                _ => {}
            }
            Ok(())
        });
        let failure = match ended {
            Ok(_) => Failure::Broken("the daemon ended".into()),
            Err(failure) => failure,
        };
        let _ = out.send(Err(failure));
    });
    match begun.recv() {
        Ok(()) => Ok(events),
        // The thread ended; it has said why.
        Err(_) => match events.recv() {
            Ok(Err(failure)) => Err(failure.into()),
            _ => bail!("the daemon can not be watched"),
        },
    }
}
