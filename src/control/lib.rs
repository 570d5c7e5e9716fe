//! The control socket: how `mta-queue` and `chapar queue` talk to a running daemon.
//!
//! `data_dir/control.sock`, mode 0600 in a directory of mode 0700: who may open it may do
//! everything. A line is a JSON [`protocol::Request`] of bounded length, answered by lines of
//! [`protocol::Answer`]. Requests go to the queue; nothing here touches the store. A client that
//! says nonsense, says nothing, or does not read its answers is cut off, and only it.
#![forbid(unsafe_code)]

mod anew;
mod answer;
mod export;
mod gist;
mod import;
mod item;
mod list;
mod live;
mod measures;
mod orders;
pub mod protocol;
mod rows;
mod session;
mod steer;
mod submit;
mod summary;

// The rooms that this one enters.
use chapar_base::time;
use chapar_config as config;
use chapar_message as message;
use chapar_queue as queue;
use chapar_signing as signing;
use chapar_smtp as smtp;
use chapar_telemetry as telemetry;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

pub use answer::answer;
pub use import::Given;
pub use orders::catch_up;
pub use session::Session;

use crate::queue::Handle;
use protocol::{Answer, MAX_REQUEST, Refusal, Request};

/// Clients at the same time; the next one waits.
const CLIENTS: usize = 32;
/// How long a client may take for a request, and for reading a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answers that wait for a client.
const WAITING: usize = 64;

/// The path of the socket.
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Owner of the socket; it is removed when the actor ends.
pub struct Control {
    path: PathBuf,
    listener: Option<UnixListener>,
    queue: Handle,
}

/// Opens the socket and starts the actor on the current arbiter.
pub fn start(data_dir: &Path, queue: Handle) -> io::Result<Addr<Control>> {
    let path = socket(data_dir);
    // The store is locked by now: whatever is there was left by a process that ended.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Control {
        path,
        listener: Some(listener),
        queue,
    }
    .start())
}

impl Actor for Control {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let queue = self.queue.clone();
        ctx.spawn(accept(listener, queue).into_actor(self));
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, queue: Handle) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // It is never closed.
        let Ok(permit) = clients.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let queue = queue.clone();
                actix_rt::spawn(async move {
                    if let Err(error) = serve(stream, &queue).await {
                        tracing::debug!(%error, "a control client was cut off");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket can not accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, queue: &Handle) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let mut session = Session::new(queue);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reading).take(MAX_REQUEST as u64);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line));
        if read.await?? == 0 {
            return Ok(());
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) if line.ends_with(b"\n") => request,
            Ok(_) => return refuse(&mut writing, "the request is too long").await,
            Err(error) => return refuse(&mut writing, &error.to_string()).await,
        };
        let request = named(request, uid);
        if let Request::Import {
            envelope,
            size,
            by,
            source,
            again,
        } = &request
        {
            let limit = PATIENCE.max(Duration::from_millis(size / 64));
            let given = Given {
                envelope: *envelope,
                size: *size,
                by,
                source,
                again: *again,
            };
            let taken = session.import(given, &mut reading);
            let taken = tokio::time::timeout(limit, taken).await?;
            if !took(&mut writing, taken.map(Answer::Imported)).await? {
                return Ok(());
            }
            continue;
        }
        if let Request::Submit {
            from,
            to,
            size,
            held,
            by,
        } = &request
        {
            let message = submit::Given {
                from,
                to,
                size: *size,
                held: *held,
                by,
            };
            let taken = submit::submit(message, queue, &mut reading);
            let taken = tokio::time::timeout(PATIENCE, taken).await?;
            if !took(&mut writing, taken.map(Answer::Submitted)).await? {
                return Ok(());
            }
            continue;
        }
        let (out, mut answers) = mpsc::channel(WAITING);
        // Dropping the receiver ends the answer; both stop together.
        let (sent, ()) = tokio::join!(
            send(&mut writing, &mut answers),
            session.answer(request, out)
        );
        sent?;
    }
}

/// The operator's name in the log begins with what the system says, not with what a client says.
fn named(mut request: Request, uid: u32) -> Request {
    match &mut request {
        Request::Steer { by, .. }
        | Request::Suspend { by, .. }
        | Request::Resume { by, .. }
        | Request::Order { by, .. }
        | Request::EndOrder { by, .. }
        | Request::Rebuild { by }
        | Request::Submit { by, .. }
        | Request::HandOver { by, .. }
        | Request::Import { by, .. } => {
            *by = if by.is_empty() {
                format!("uid {uid}")
            } else {
                format!("{by} (uid {uid})")
            };
        }
        Request::List { .. }
        | Request::Show { .. }
        | Request::Cat { .. }
        | Request::Summary { .. }
        | Request::Suspensions {}
        | Request::Orders { .. }
        | Request::Watch { .. }
        | Request::Counts {}
        | Request::Failures {}
        | Request::Wire { .. }
        | Request::Verify {}
        | Request::Ids { .. }
        | Request::Claim { .. }
        | Request::Export { .. } => {}
    }
    request
}

/// Answers whoever gave a message; false if nothing can follow: it may be the rest of it.
async fn took(
    writing: &mut (impl AsyncWriteExt + Unpin),
    taken: Result<Answer, Refusal>,
) -> io::Result<bool> {
    let good = taken.is_ok();
    let (first, last) = match taken {
        Ok(answer) => (Some(answer), Answer::End(1)),
        Err(refusal) => (None, Answer::Error(refusal)),
    };
    let mut lines = Vec::new();
    for answer in first.iter().chain([&last]) {
        serde_json::to_writer(&mut lines, answer)?;
        lines.push(b'\n');
    }
    tokio::time::timeout(PATIENCE, writing.write_all(&lines)).await??;
    Ok(good)
}

/// An operator's name that can not break the log.
fn operator(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

async fn send(
    writing: &mut (impl AsyncWriteExt + Unpin),
    answers: &mut mpsc::Receiver<Answer>,
) -> io::Result<()> {
    let mut lines = Vec::new();
    let mut waiting = Vec::new();
    while answers.recv_many(&mut waiting, WAITING).await > 0 {
        for answer in waiting.drain(..) {
            serde_json::to_writer(&mut lines, &answer)?;
            lines.push(b'\n');
        }
        let written = tokio::time::timeout(PATIENCE, writing.write_all(&lines)).await;
        if let Err(error) = written.map_err(io::Error::from).and_then(|written| written) {
            answers.close();
            return Err(error);
        }
        lines.clear();
    }
    Ok(())
}

async fn refuse(writing: &mut (impl AsyncWriteExt + Unpin), why: &str) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer::Error(Refusal::wrong(why)))?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, writing.write_all(&line)).await?
}
