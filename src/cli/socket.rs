//! Asking a running daemon, and only a running one, over its control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::Config;
use crate::control::protocol::{Answer, Refusal, Request, Submitted};

/// Bytes of one answer.
const MAX_ANSWER: u64 = 1 << 20;
/// How long the daemon may take for a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody listens.
    #[error("the daemon does not run; systemctl start chapar")]
    Stopped,
    /// It can not be asked, or broke off.
    #[error("the daemon can not be asked: {0}; run this as root or as the user of the daemon")]
    Broken(String),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks, and calls `each` with every answer; returns the count that ends them.
pub(super) fn ask(
    config: &Config,
    request: &Request,
    each: &mut dyn FnMut(Answer) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    say(config, request, &[], each)
}

/// Puts a message of ours into the queue.
pub(super) fn submit(
    config: &Config,
    from: &str,
    to: &[String],
    held: bool,
    message: &[u8],
) -> Result<Submitted, Failure> {
    let request = Request::Submit {
        from: from.to_owned(),
        to: to.to_vec(),
        size: message.len() as u64,
        held,
        by: "chapar send".to_owned(),
    };
    let mut taken = None;
    say(config, &request, message, &mut |answer| {
        if let Answer::Submitted(submitted) = answer {
            taken = Some(submitted);
        }
        Ok(())
    })?;
    taken.ok_or_else(|| Failure::Broken("it did not say what it took".into()))
}

fn say(
    config: &Config,
    request: &Request,
    more: &[u8],
    each: &mut dyn FnMut(Answer) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    let path = crate::control::socket(&config.data_dir);
    let mut stream =
        UnixStream::connect(&path).map_err(|error| match gone.contains(&error.kind()) {
            true => Failure::Stopped,
            false => Failure::Broken(format!("{}: {error}", path.display())),
        })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut line =
        serde_json::to_vec(request).map_err(|error| Failure::Broken(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    stream.write_all(more).map_err(broken)?;
    let mut reading = BufReader::new(stream);
    loop {
        line.clear();
        let read = (&mut reading).take(MAX_ANSWER).read_until(b'\n', &mut line);
        if read.map_err(broken)? == 0 {
            return Err(Failure::Broken("it ended before it had answered".into()));
        }
        let answer =
            serde_json::from_slice(&line).map_err(|error| Failure::Broken(error.to_string()))?;
        match answer {
            Answer::End(count) => return Ok(count),
            Answer::Error(refusal) => return Err(refusal.into()),
            answer => each(answer)?,
        }
    }
}
