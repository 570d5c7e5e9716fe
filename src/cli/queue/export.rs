//! `mta-queue export`: messages as files or as one stream, copied or moved.
//!
//! A message that is moved is claimed first, so that it is not tried while it is written; it ends
//! here after what was written is safe on disk, and only if it is still as it was written. Whatever
//! fails in between, it waits here as it did before.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::archive::Writer;
use super::ask::{self, Asker, Failure};
use super::files::Directory;
use super::steer;
use super::which::Which;
use crate::config::Config;
use crate::control::protocol::{Answer, Exported, Request, Skipped, Stays};
use crate::queue::Selector;

/// Messages that are written before they are made safe together.
const BATCH: usize = 64;
/// How long all together is waited for what is being delivered.
const PATIENCE: Duration = Duration::from_secs(60);

/// `mta-queue export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The directory; it is made if it is missing. `-`: one tar archive to standard output
    #[arg(value_name = "DIR|-")]
    target: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Remove each message from this queue once it is safe on disk. What is being delivered is
    /// waited for, and stays if that takes long. With `-` standard output must be a file
    #[arg(long)]
    remove: bool,
}

/// Where messages go.
enum Sink {
    Directory(Box<Directory>),
    Archive(Box<Writer>),
}

impl Sink {
    fn begin(&mut self, exported: Exported) -> Result<(), Failure> {
        match self {
            Sink::Directory(directory) => directory.begin(&exported),
            Sink::Archive(archive) => {
                archive.begin(exported);
                Ok(())
            }
        }
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::Directory(directory) => directory.piece(bytes),
            Sink::Archive(archive) => {
                archive.piece(bytes);
                Ok(())
            }
        }
    }

    /// The message is whole; its id.
    fn end(&mut self) -> Result<String, Failure> {
        match self {
            Sink::Directory(directory) => directory.end(),
            Sink::Archive(archive) => archive.end(),
        }
    }

    /// All that is whole is safe.
    fn sync(&mut self) -> Result<(), Failure> {
        match self {
            Sink::Directory(directory) => directory.sync(),
            Sink::Archive(archive) => archive.sync(),
        }
    }

    /// These are as if they had never been written: they stay in the queue.
    fn forget(&mut self, ids: &[String]) {
        match self {
            Sink::Directory(directory) => directory.forget(ids),
            Sink::Archive(archive) => archive.forget(ids),
        }
    }

    /// Messages that can be taken back together: an archive only forgets its end.
    fn batch(&self) -> usize {
        match self {
            Sink::Directory(_) => BATCH,
            Sink::Archive(_) => 1,
        }
    }
}

/// What came of it.
#[derive(Default)]
struct Told {
    written: u64,
    /// They are being delivered.
    busy: Vec<String>,
    /// They were changed while they were written.
    changed: u64,
    unreadable: u64,
}

impl Told {
    fn skipped(&mut self, skipped: Skipped) {
        match skipped.stays {
            Stays::Busy => {
                self.busy.push(skipped.id);
                return;
            }
            Stays::Ended => {}
            Stays::Changed => self.changed += 1,
            Stays::Unreadable => self.unreadable += 1,
        }
        eprintln!("mta-queue: {}: {}", skipped.id, skipped.text);
    }
}

pub(super) fn export(config: &Config, export: &Export, json: bool) -> Result<(), Failure> {
    let selector = export.which.chosen()?;
    let stream = export.target == Path::new("-");
    if stream && json {
        let text = "with - standard output is the archive; leave out --json";
        return Err(Failure::Usage(text.into()));
    }
    let mut sink = match stream {
        true => Sink::Archive(Box::new(Writer::stdout(&config.hostname, export.remove)?)),
        false => Sink::Directory(Box::new(Directory::new(&export.target, json)?)),
    };
    let mut told = Told::default();
    if !export.remove {
        copied(config, selector, &mut sink, &mut told)?;
    } else if ask::is_there(config)? {
        ask::with_asker(config, async |asker| {
            moved(asker, selector, &mut sink, &mut told).await
        })?;
    }
    let place = match sink {
        Sink::Directory(directory) => directory.path().display().to_string(),
        Sink::Archive(archive) => {
            archive.finish()?;
            "standard output".to_owned()
        }
    };
    let removed = if export.remove {
        " and removed from this queue"
    } else {
        ""
    };
    let text = format!("{} messages written to {place}{removed}", told.written);
    match (stream, json) {
        (true, _) => eprintln!("mta-queue: {text}"),
        (false, true) => {}
        (false, false) => say!("{text}"),
    }
    stayed(&told)
}

/// What was left where it is, as a failure.
fn stayed(told: &Told) -> Result<(), Failure> {
    if told.unreadable > 0 {
        return Err(Failure::Damaged(format!(
            "{} messages can not be read and stay; mta-queue verify tells more",
            told.unreadable
        )));
    }
    if !told.busy.is_empty() {
        let some: Vec<&str> = told.busy.iter().take(5).map(String::as_str).collect();
        return Err(Failure::Stayed(format!(
            "{} messages are being delivered and stay ({}); export again for what is left of them",
            told.busy.len(),
            some.join(", ")
        )));
    }
    if told.changed > 0 {
        return Err(Failure::Stayed(format!(
            "{} messages were changed while they were exported and stay; export them again",
            told.changed
        )));
    }
    Ok(())
}

/// What one answer brings to a sink.
fn each(answer: Answer, sink: &mut Sink, told: &mut Told) -> Result<(), Failure> {
    match answer {
        Answer::Message(exported) => sink.begin(*exported),
        Answer::Bytes(piece) => {
            let bytes = STANDARD.decode(piece);
            sink.piece(&bytes.map_err(|e| Failure::Broken(e.to_string()))?)
        }
        Answer::Skipped(skipped) => {
            told.skipped(skipped);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Copies of all that is meant.
fn copied(
    config: &Config,
    selector: Selector,
    sink: &mut Sink,
    told: &mut Told,
) -> Result<(), Failure> {
    let request = Request::Export { selector };
    let mut open = false;
    ask::ask(config, request, &mut |answer| {
        if matches!(answer, Answer::Message(_)) && std::mem::replace(&mut open, true) {
            sink.end()?;
            told.written += 1;
        }
        each(answer, sink, told)
    })?;
    if open {
        sink.end()?;
        told.written += 1;
    }
    sink.sync()
}

/// All that is meant goes from here to there.
async fn moved(
    asker: &mut Asker<'_>,
    selector: Selector,
    sink: &mut Sink,
    told: &mut Told,
) -> Result<(), Failure> {
    let mut ids = Vec::new();
    asker
        .ask(Request::Ids { selector }, &mut |answer| {
            if let Answer::Ids(some) = answer {
                ids.extend(some);
            }
            Ok(())
        })
        .await?;
    let mut until = None;
    for wait in [false, true] {
        for batch in ids.chunks(sink.batch()) {
            let mut claimed = Vec::new();
            let written = claim(asker, batch, until, sink, told, &mut claimed).await;
            let safe = written.and_then(|()| sink.sync());
            if let Err(failure) = safe {
                sink.forget(&claimed);
                return Err(failure);
            }
            if !claimed.is_empty() {
                hand_over(asker, claimed, sink, told).await?;
            }
        }
        if wait || told.busy.is_empty() {
            break;
        }
        let busy = told.busy.len();
        eprintln!("mta-queue: {busy} messages are being delivered; waiting for them");
        ids = std::mem::take(&mut told.busy);
        until = Some(Instant::now() + PATIENCE);
    }
    Ok(())
}

/// Claims messages and writes them.
async fn claim(
    asker: &mut Asker<'_>,
    batch: &[String],
    until: Option<Instant>,
    sink: &mut Sink,
    told: &mut Told,
    claimed: &mut Vec<String>,
) -> Result<(), Failure> {
    for id in batch {
        let request = Request::Claim {
            id: id.clone(),
            wait: until.is_some_and(|until| Instant::now() < until),
        };
        let given = asker
            .ask(request, &mut |answer| each(answer, sink, told))
            .await?;
        if given > 0 {
            claimed.push(sink.end()?);
        }
    }
    Ok(())
}

/// Ends here what is safe there.
async fn hand_over(
    asker: &mut Asker<'_>,
    ids: Vec<String>,
    sink: &mut Sink,
    told: &mut Told,
) -> Result<(), Failure> {
    let names = ids.join(", ");
    let request = Request::HandOver {
        ids,
        by: steer::operator(),
    };
    let mut changed = Vec::new();
    let gone = asker
        .ask(request, &mut |answer| {
            if let Answer::Skipped(skipped) = answer {
                changed.push(skipped.id.clone());
                told.skipped(skipped);
            }
            Ok(())
        })
        .await
        .map_err(|failure| {
            Failure::Broken(format!(
                "{failure}; whether these left the queue is not known, they are written: {names}; \
                 `mta-queue show ID` tells"
            ))
        })?;
    told.written += gone;
    if !changed.is_empty() {
        sink.forget(&changed);
    }
    Ok(())
}
