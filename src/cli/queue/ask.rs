//! Asking the queue: the daemon if it runs, else the store itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError};
use crate::control::protocol::{Answer, Exported, Imported, Refusal, RefusalKind, Request};
use crate::control::{Given, Session, answer, socket};
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
    /// Something in the store, or in what is imported, is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Not all was moved; asking again may move the rest.
    #[error("{0}")]
    Stayed(String),
    /// Standard output.
    #[error("standard output can not be written: {0}")]
    Output(io::Error),
    /// The runtime.
    #[error("{0}")]
    Runtime(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::Output(error.into())
    }
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
            Failure::Stayed(_) => super::super::exit::AGAIN,
            Failure::Other(_) => super::IO,
            Failure::Socket(..) | Failure::Broken(_) | Failure::Store(_) => 69,
            Failure::Output(_) | Failure::Runtime(_) => super::IO,
        }
    }
}

/// What is done with each answer.
pub type Each<'a> = &'a mut dyn FnMut(Answer) -> Result<(), Failure>;

/// Asks, and calls `each` with every answer; returns the count that ends them.
pub fn ask(config: &Config, request: Request, each: Each<'_>) -> Result<u64, Failure> {
    match daemon(config)? {
        Some(stream) => over_socket(stream, &request, each),
        None => on_store(config, request, each),
    }
}

/// Asks the daemon one thing.
fn over_socket(stream: UnixStream, request: &Request, each: Each<'_>) -> Result<u64, Failure> {
    let mut stream = BufReader::new(stream);
    say(&mut stream, request, &[])?;
    heard(&mut stream, each)
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

/// Whether a daemon runs.
pub fn runs(config: &Config) -> Result<bool, Failure> {
    Ok(daemon(config)?.is_some())
}

/// Whether there is a queue: looking must not make one.
pub fn is_there(config: &Config) -> Result<bool, Failure> {
    Ok(config.data_dir.join("journal").exists() || daemon(config)?.is_some())
}

/// One client of the queue for several requests: what it claims is its own until it goes.
pub struct Asker<'a>(Asked<'a>);

enum Asked<'a> {
    /// A connection to the daemon; none after one that the daemon ended.
    Daemon(&'a Config, Option<BufReader<UnixStream>>),
    Store(Box<Session>),
}

/// Calls `work` with a client of the daemon if one runs, else of the store itself.
pub fn with_asker<T>(
    config: &Config,
    work: impl AsyncFnOnce(&mut Asker<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let found = match daemon(config)? {
        Some(stream) => Opening::Daemon(stream),
        None => opened(config)?,
    };
    let opened = match found {
        Opening::Daemon(stream) => {
            let stream = Some(BufReader::new(stream));
            let mut asker = Asker(Asked::Daemon(config, stream));
            return System::new().block_on(work(&mut asker));
        }
        Opening::Store(opened) => *opened,
        Opening::Unwritable(error) => return Err(error.into()),
    };
    with_queue(config, opened, async |queue| {
        let mut asker = Asker(Asked::Store(Box::new(Session::new(&queue))));
        work(&mut asker).await
    })
}

impl Asker<'_> {
    /// As [`ask`].
    pub async fn ask(&mut self, request: Request, each: Each<'_>) -> Result<u64, Failure> {
        match &mut self.0 {
            Asked::Daemon(_, None) => Err(Failure::Broken("the connection has ended".into())),
            Asked::Daemon(_, Some(stream)) => {
                say(stream, &request, &[])?;
                heard(stream, each)
            }
            Asked::Store(session) => {
                let (out, answers) = mpsc::channel(64);
                let ((), ended) =
                    tokio::join!(session.answer(request, out), printed(answers, each));
                ended
            }
        }
    }

    /// Puts a message into the queue.
    async fn take(&mut self, taken: Taken, how: &How<'_>) -> Result<Imported, Failure> {
        let Taken { exported, bytes } = taken;
        let runtime = |e: serde_json::Error| Failure::Runtime(e.to_string());
        let envelope = serde_json::to_vec(&exported).map_err(runtime)?;
        let (length, size) = (envelope.len() as u64, bytes.len() as u64);
        match &mut self.0 {
            Asked::Daemon(config, stream) => {
                let request = Request::Import {
                    envelope: length,
                    size,
                    by: how.by.to_owned(),
                    source: how.source.to_owned(),
                    again: how.again,
                };
                let mut connection = match stream.take() {
                    Some(stream) => stream,
                    None => {
                        let new = daemon(config)?;
                        let gone = || Failure::Broken("it is gone".into());
                        BufReader::new(new.ok_or_else(gone)?)
                    }
                };
                say(&mut connection, &request, &[&envelope, &bytes])?;
                let mut imported = None;
                heard(&mut connection, &mut |answer| {
                    if let Answer::Imported(one) = answer {
                        imported = Some(one);
                    }
                    Ok(())
                })?;
                // A daemon that refuses ends the connection: the next message needs another.
                *stream = Some(connection);
                imported.ok_or_else(|| Failure::Broken("it did not say what it took".into()))
            }
            Asked::Store(session) => {
                let given = Given {
                    envelope: length,
                    size,
                    by: how.by,
                    source: how.source,
                    again: how.again,
                };
                let both = [envelope, bytes].concat();
                Ok(session.import(given, &both[..]).await?)
            }
        }
    }
}

/// A message on its way into the queue.
pub struct Taken {
    /// What it was.
    pub exported: Exported,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// How messages are taken.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// The queue they come from: one message of it is taken once.
    pub source: &'a str,
    /// The operator.
    pub by: &'a str,
    /// Also those that were taken before.
    pub again: bool,
}

/// What is done with what became of a message.
pub type Became<'a> = &'a mut dyn FnMut(Result<Imported, Failure>) -> Result<(), Failure>;

/// Puts messages into the queue, and calls `each` with what became of each of them, in order: it
/// says whether one that can not be read, or makes no sense, ends it.
pub fn take(
    config: &Config,
    how: How<'_>,
    messages: &mut dyn Iterator<Item = Result<Taken, Failure>>,
    each: Became<'_>,
) -> Result<(), Failure> {
    with_asker(config, async |asker| {
        for taken in messages {
            let became = match taken {
                Ok(taken) => match asker.take(taken, &how).await {
                    Err(Failure::Refused(refusal)) if refusal.kind == RefusalKind::Wrong => {
                        Err(Failure::Refused(refusal))
                    }
                    Err(failure) => return Err(failure),
                    Ok(imported) => Ok(imported),
                },
                Err(failure) => Err(failure),
            };
            each(became)?;
        }
        Ok(())
    })
}

/// Makes the index anew: at the next start of a daemon that runs (`None`), else at once; how many
/// messages wait then.
pub fn rebuild(config: &Config, by: String) -> Result<Option<u64>, Failure> {
    if let Some(stream) = daemon(config)? {
        over_socket(stream, &Request::Rebuild { by }, &mut |_| Ok(()))?;
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

/// Sends a request and what belongs to it.
fn say(
    stream: &mut BufReader<UnixStream>,
    request: &Request,
    after: &[&[u8]],
) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(request).map_err(|e| Failure::Runtime(e.to_string()))?;
    line.push(b'\n');
    let stream = stream.get_mut();
    let written = stream.write_all(&line);
    written.map_err(|error| Failure::Broken(error.to_string()))?;
    for part in after {
        // A daemon that refuses does not read the rest; why is in its answer.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    Ok(())
}

/// Hears the answers to a request; the count that ends them.
fn heard(stream: &mut BufReader<UnixStream>, each: Each<'_>) -> Result<u64, Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = Read::by_ref(stream).take(MAX_ANSWER);
        let read = limited.read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::Broken(error.to_string()))? == 0 {
            return Err(Failure::Broken("nothing more came".into()));
        }
        let answer = serde_json::from_slice(&line).map_err(|e| Failure::Broken(e.to_string()))?;
        match answer {
            Answer::End(count) => return Ok(count),
            Answer::Error(refusal) => return Err(refusal.into()),
            Answer::Alive => {}
            answer => each(answer)?,
        }
    }
}

/// Passes answers on; the count that ends them.
async fn printed(mut answers: mpsc::Receiver<Answer>, each: Each<'_>) -> Result<u64, Failure> {
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::End(count) => return Ok(count),
            Answer::Error(refusal) => return Err(refusal.into()),
            // Dropping the rest ends the answer.
            answer => each(answer)?,
        }
    }
    Err(Failure::Broken("nothing more came".into()))
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

/// What became of opening the store.
enum Opening {
    Store(Box<queue::Opened>),
    /// It is there, and can not be written.
    Unwritable(queue::store::OpenError),
    /// A daemon that was just starting has it.
    Daemon(UnixStream),
}

/// How long a process that has the store may take until it answers, as a daemon does that starts.
const STARTING: Duration = Duration::from_secs(10);
/// How often is looked whether it does.
const LOOK: Duration = Duration::from_millis(50);

/// Opens the store, or finds the daemon that has it: it takes the store before it can be asked.
fn opened(config: &Config) -> Result<Opening, Failure> {
    let until = Instant::now() + STARTING;
    loop {
        match queue::open(config) {
            Ok(opened) => return Ok(Opening::Store(Box::new(opened))),
            Err(error) if error.may_be_read() => return Ok(Opening::Unwritable(error)),
            Err(error @ queue::store::OpenError::InUse(_)) => {
                if let Some(stream) = daemon(config)? {
                    return Ok(Opening::Daemon(stream));
                }
                if Instant::now() > until {
                    return Err(error.into());
                }
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether this changes nothing.
fn only_reads(request: &Request) -> bool {
    match request {
        Request::Steer { dry_run, .. } => *dry_run,
        Request::List { .. }
        | Request::Show { .. }
        | Request::Cat { .. }
        | Request::Summary { .. }
        | Request::Export { .. }
        | Request::Verify {} => true,
        _ => false,
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
            | Request::Summary { selector, .. }
            | Request::Export { selector }
            | Request::Steer { selector, .. } => selector.id.iter().next().map(str::to_owned),
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
    let opened = match opened(config)? {
        Opening::Store(opened) => *opened,
        Opening::Unwritable(error) if only_reads(&request) => {
            let opened = queue::look(config, &error)?;
            eprintln!("mta-queue: {error}; the queue is read as it is, and nothing is changed");
            opened
        }
        Opening::Unwritable(error) => return Err(error.into()),
        Opening::Daemon(stream) => return over_socket(stream, &request, each),
    };
    for damage in &opened.recovered.damage {
        eprintln!(
            "mta-queue: segment {} is damaged at {}: {}; see quarantine/",
            damage.segment, damage.range.start, damage.reason
        );
    }
    with_queue(config, opened, async |queue| {
        let (out, answers) = mpsc::channel(64);
        let ((), ended) = tokio::join!(answer(request, &queue, out), printed(answers, each));
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
