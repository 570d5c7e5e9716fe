//! Asking the queue: the daemon if it runs, else the store itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError};
use crate::control::protocol::{Answer, Exported, Imported, Refusal, RefusalKind, Request};
use crate::control::{answer, import, socket};
use crate::queue::{self, Handle, Stop, Verb};
use crate::signing::{Sign, SignError};

/// Bytes of one answer; a piece of a message is the longest.
const MAX_ANSWER: u64 = 1 << 20;

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// The queue refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon can not be asked.
    #[error("{path}: {source}; run it as root or as the user of the daemon", path = .0.display(), source = .1)]
    Socket(std::path::PathBuf, io::Error),
    /// The daemon stopped in the middle of an answer.
    #[error("the daemon ended before it had answered: {0}; ask again")]
    Broken(String),
    /// The store can not be opened.
    #[error(transparent)]
    Store(#[from] queue::store::OpenError),
    /// A file or a program of another mail server.
    #[error("{0}")]
    Other(String),
    /// Something in the store is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Standard output.
    #[error("the output can not be written: {0}")]
    Output(io::Error),
    /// The runtime.
    #[error("{0}")]
    Runtime(String),
}

impl Failure {
    /// The exit code, after sysexits.h.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Config(_) => super::super::exit::CONFIG,
            Failure::Usage(_) => super::USAGE,
            Failure::Refused(refusal) => match refusal.kind {
                RefusalKind::Wrong => super::super::exit::DATA,
                RefusalKind::Unknown => 66,
                RefusalKind::Unavailable => 69,
            },
            Failure::Damaged(_) => super::super::exit::DATA,
            Failure::Other(_) => super::IO,
            Failure::Socket(..) | Failure::Broken(_) | Failure::Store(_) => 69,
            Failure::Output(_) | Failure::Runtime(_) => super::IO,
        }
    }
}

/// What is done with each answer.
pub type Each<'a> = &'a mut dyn FnMut(Answer) -> io::Result<()>;

/// Asks, and calls `each` with every answer; returns the count that ends them.
pub fn ask(config: &Config, request: Request, each: Each<'_>) -> Result<u64, Failure> {
    match daemon(config)? {
        Some(stream) => over_socket(stream, &request, &[], each),
        None => on_store(config, request, each),
    }
}

/// The daemon, if one runs.
fn daemon(config: &Config) -> Result<Option<UnixStream>, Failure> {
    let path = socket(&config.data_dir);
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if gone.contains(&error.kind()) => Ok(None),
        Err(error) => Err(Failure::Socket(path, error)),
    }
}

/// A message on its way into the queue.
pub struct Taken {
    /// What it was.
    pub exported: Exported,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Puts messages into the queue, and calls `each` with what became of each of them, in order.
pub fn take(
    config: &Config,
    by: &str,
    messages: &mut dyn Iterator<Item = Result<Taken, Failure>>,
    each: &mut dyn FnMut(Imported) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut count = 0;
    if daemon(config)?.is_some() {
        for taken in messages {
            let Taken { exported, bytes } = taken?;
            let runtime = |e: serde_json::Error| Failure::Runtime(e.to_string());
            let envelope = serde_json::to_vec(&exported).map_err(runtime)?;
            let request = Request::Import {
                envelope: envelope.len() as u64,
                size: bytes.len() as u64,
                by: by.to_owned(),
            };
            let Some(stream) = daemon(config)? else {
                return Err(Failure::Broken("it is gone".into()));
            };
            let mut imported = None;
            over_socket(stream, &request, &[&envelope, &bytes], &mut |answer| {
                if let Answer::Imported(one) = answer {
                    imported = Some(one);
                }
                Ok(())
            })?;
            if let Some(one) = imported {
                count += 1;
                each(one)?;
            }
        }
        return Ok(count);
    }
    let opened = queue::open(config)?;
    with_queue(config, opened, async |queue| {
        for taken in messages {
            let Taken { exported, bytes } = taken?;
            let envelope =
                serde_json::to_vec(&exported).map_err(|e| Failure::Runtime(e.to_string()))?;
            let (length, size) = (envelope.len() as u64, bytes.len() as u64);
            let both = [envelope, bytes].concat();
            count += 1;
            each(import(length, size, by, &queue, &both[..]).await?)?;
        }
        Ok(count)
    })
}

/// Makes the index anew: at the next start of a daemon that runs (`None`), else at once; how many
/// messages wait then.
pub fn rebuild(config: &Config, by: String) -> Result<Option<u64>, Failure> {
    if let Some(stream) = daemon(config)? {
        over_socket(stream, &Request::Rebuild { by }, &[], &mut |_| Ok(()))?;
        return Ok(None);
    }
    if !config.data_dir.join("journal").exists() {
        return Ok(Some(0));
    }
    // Opening it finds the mark, if nobody else has the store.
    let opened = queue::open(config)?;
    let waiting = with_queue(config, opened, async |queue| {
        let marked = queue.view.suspect_index().await;
        marked.map_err(Failure::Other)
    });
    waiting?;
    let opened = queue::open(config)?;
    let count = opened.recovered.waiting.len() as u64;
    let rebuilt = opened.recovered.rebuilt.is_some();
    with_queue(config, opened, async |_| Ok(()))?;
    match rebuilt {
        true => Ok(Some(count)),
        false => Err(Failure::Other("the index was not made anew".into())),
    }
}

fn over_socket(
    mut stream: UnixStream,
    request: &Request,
    after: &[&[u8]],
    each: Each<'_>,
) -> Result<u64, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let mut line = serde_json::to_vec(request).map_err(|e| Failure::Runtime(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    for part in after {
        // A daemon that refuses does not read the rest; why is in its answer.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let mut reading = BufReader::new(stream);
    loop {
        line.clear();
        let read = (&mut reading)
            .take(MAX_ANSWER)
            .read_until(b'\n', &mut line)
            .map_err(broken)?;
        if read == 0 {
            return Err(Failure::Broken("nothing more came".into()));
        }
        let answer = serde_json::from_slice(&line).map_err(|e| Failure::Broken(e.to_string()))?;
        match answer {
            Answer::End(count) => return Ok(count),
            Answer::Error(refusal) => return Err(refusal.into()),
            Answer::Alive => {}
            answer => each(answer).map_err(Failure::Output)?,
        }
    }
}

/// A signer that is never asked: nothing is delivered, so nothing bounces.
struct NoSigner;

impl Actor for NoSigner {
    type Context = Context<Self>;
}

impl Handler<Sign> for NoSigner {
    type Result = Result<Bytes, SignError>;

    fn handle(&mut self, sign: Sign, _ctx: &mut Self::Context) -> Self::Result {
        Err(SignError {
            domain: sign.domain,
            reason: "no daemon runs".into(),
        })
    }
}

/// What only a daemon can do.
fn needs_daemon(request: &Request) -> Option<&'static str> {
    match request {
        Request::Watch { .. } => Some("nothing happens while no daemon runs"),
        Request::Steer {
            verb: Verb::Bounce,
            dry_run: false,
            ..
        } => Some("the sender's notice is signed by the daemon, and none runs"),
        Request::Steer {
            verb: Verb::Redirect | Verb::Requeue,
            dry_run: false,
            ..
        } => Some("where an address leads is known to the daemon, and none runs"),
        _ => None,
    }
}

fn on_store(config: &Config, request: Request, each: Each<'_>) -> Result<u64, Failure> {
    if let Some(why) = needs_daemon(&request) {
        let text = format!("{why}; systemctl start chapar");
        let kind = RefusalKind::Unavailable;
        return Err(Failure::Refused(Refusal { kind, text }));
    }
    if !config.data_dir.join("journal").exists() {
        // Looking must not make a store, least of all as another user.
        let id = match &request {
            Request::List { selector, .. }
            | Request::Summary { selector }
            | Request::Export { selector }
            | Request::Steer { selector, .. } => selector.id.clone(),
            Request::Cat { id } | Request::Show { id } => Some(id.clone()),
            _ => None,
        };
        let data_dir = config.data_dir.display();
        return match id {
            Some(id) => Err(Failure::Refused(Refusal {
                kind: RefusalKind::Unknown,
                text: format!("there is no message {id}: no daemon has run with {data_dir} yet"),
            })),
            None => Ok(0),
        };
    }
    let opened = queue::open(config)?;
    for damage in &opened.recovered.damage {
        eprintln!(
            "mta-queue: segment {} is damaged at {}: {}; see quarantine/",
            damage.segment, damage.range.start, damage.reason
        );
    }
    with_queue(config, opened, async |queue| {
        let (out, mut answers) = mpsc::channel(64);
        let printing = async {
            let mut ended = Err(Failure::Broken("nothing more came".into()));
            while let Some(answer) = answers.recv().await {
                match answer {
                    Answer::End(count) => ended = Ok(count),
                    Answer::Error(refusal) => ended = Err(refusal.into()),
                    answer => {
                        if let Err(error) = each(answer) {
                            ended = Err(Failure::Output(error));
                            break;
                        }
                    }
                }
            }
            drop(answers);
            ended
        };
        let ((), ended) = tokio::join!(answer(request, &queue, out), printing);
        ended
    })
}

/// Runs the queue without anything that delivers, for as long as `work` takes.
fn with_queue<T>(
    config: &Config,
    opened: queue::Opened,
    work: impl AsyncFnOnce(Handle) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let config = Arc::new(config.clone());
    System::new().block_on(async move {
        let signer = NoSigner.start().recipient();
        let queue = queue::start(
            opened,
            config,
            signer,
            Arc::new(|_: &str| Vec::new()),
            &actix::Arbiter::current(),
        );
        let addr = queue.addr.clone();
        let done = work(queue).await;
        let stopped = addr.send(Stop).await;
        stopped.map_err(|error| Failure::Runtime(error.to_string()))?;
        done
    })
}
