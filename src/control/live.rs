//! Live protocol tracing: lines of connections to a client of the socket, until it goes.

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::answer::ALIVE;
use super::protocol::{Answer, Refusal};
use crate::queue::Handle;
use crate::telemetry::wire::{self, Wire};

pub(super) async fn wire(
    about: &[String],
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let about: Vec<String> = about.iter().map(|part| part.to_lowercase()).collect();
    let mut lines = wire::watch();
    let _ = out.send(Answer::Alive).await;
    loop {
        let answer = match tokio::time::timeout(ALIVE, lines.recv()).await {
            Ok(Ok(line)) if concerns(&line, &about) => Answer::Wire(Box::new(Wire::clone(&line))),
            Ok(Ok(_)) => continue,
            Ok(Err(RecvError::Lagged(missed))) => Answer::Missed(missed),
            Ok(Err(RecvError::Closed)) => return Ok(0),
            Err(_) if !queue.addr.connected() => return Ok(0),
            Err(_) => Answer::Alive,
        };
        if out.send(answer).await.is_err() {
            return Ok(0);
        }
    }
}

fn concerns(line: &Wire, about: &[String]) -> bool {
    let peer = line.peer.to_lowercase();
    about.is_empty() || about.iter().any(|part| peer.contains(part))
}
