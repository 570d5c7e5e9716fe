//! Asking the queue: the daemon if it runs, else the store itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError};
use crate::control::protocol::{Answer, Refusal, RefusalKind, Request};
use crate::control::{answer, socket};
use crate::queue::{self, Stop};
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
            Failure::Socket(..) | Failure::Broken(_) | Failure::Store(_) => 69,
            Failure::Output(_) | Failure::Runtime(_) => super::IO,
        }
    }
}

/// What is done with each answer.
pub type Each<'a> = &'a mut dyn FnMut(Answer) -> io::Result<()>;

/// Asks, and calls `each` with every answer; returns the count that ends them.
pub fn ask(config: &Config, request: Request, each: Each<'_>) -> Result<u64, Failure> {
    let path = socket(&config.data_dir);
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    match UnixStream::connect(&path) {
        Ok(stream) => over_socket(stream, &request, each),
        Err(error) if gone.contains(&error.kind()) => on_store(config, request, each),
        Err(error) => Err(Failure::Socket(path, error)),
    }
}

fn over_socket(mut stream: UnixStream, request: &Request, each: Each<'_>) -> Result<u64, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let mut line = serde_json::to_vec(request).map_err(|e| Failure::Runtime(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
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

fn on_store(config: &Config, request: Request, each: Each<'_>) -> Result<u64, Failure> {
    if !config.data_dir.join("journal").exists() {
        // Looking must not make a store, least of all as another user.
        let id = match &request {
            Request::List { selector }
            | Request::Summary { selector }
            | Request::Steer { selector, .. } => selector.id.clone(),
            Request::Cat { id } => Some(id.clone()),
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
    let config = Arc::new(config.clone());
    System::new().block_on(async move {
        let signer = NoSigner.start().recipient();
        let queue = queue::start(opened, config, signer, Arc::new(|_: &str| Vec::new()));
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
        let stopped = queue.addr.send(Stop).await;
        stopped.map_err(|error| Failure::Runtime(error.to_string()))?;
        ended
    })
}
