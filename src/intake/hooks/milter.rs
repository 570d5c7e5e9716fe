//! One connection to one milter.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::wire::{self, Command, Malformed, Said};
use crate::config::MilterAddress;

/// Room made in the buffer for each read, in bytes.
const ROOM: usize = 4096;

/// Why a milter gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection, or it broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// [`crate::config::Milter`]'s times.
    #[error("it did not answer in time")]
    Slow,
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// What it sent makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It did what it may not.
    #[error("it asks for {0}, which milter.changes does not allow")]
    Forbidden(&'static str),
    /// What it adds is too much.
    #[error("what it changes is over the limits of a message")]
    TooMuch,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// A milter that was negotiated with.
pub struct Milter {
    /// As the configuration writes it.
    pub address: MilterAddress,
    stream: Box<dyn Stream>,
    input: BytesMut,
    out: Vec<u8>,
    version: u32,
    steps: u32,
    /// How long one answer may take.
    patience: Duration,
    /// When all answers together must be there.
    until: Instant,
}

impl Milter {
    /// Connects and negotiates.
    pub async fn open(
        address: &MilterAddress,
        connect: Duration,
        patience: Duration,
    ) -> Result<Milter, Failure> {
        let connected = async {
            let stream: Box<dyn Stream> = match address {
                MilterAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
                MilterAddress::Inet(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    let _ = stream.set_nodelay(true);
                    Box::new(stream)
                }
            };
            Ok::<_, io::Error>(stream)
        };
        let until = Instant::now() + connect;
        let stream = timeout_at(until, connected)
            .await
            .map_err(|_| Failure::Slow)??;
        let mut milter = Milter {
            address: address.clone(),
            stream,
            input: BytesMut::new(),
            out: Vec::new(),
            version: wire::VERSION,
            steps: 0,
            patience,
            until: Instant::now() + patience,
        };
        let numbers = [wire::VERSION, wire::ACTIONS, wire::STEPS].map(u32::to_be_bytes);
        wire::packet(&mut milter.out, wire::NEGOTIATE, &[numbers.as_flattened()]);
        milter.flush().await?;
        let (command, data) = milter.read().await?;
        if command != wire::NEGOTIATE {
            return Err(Malformed("something else than its answer to the negotiation").into());
        }
        (milter.version, milter.steps) = wire::negotiated(&data)?;
        Ok(milter)
    }

    /// From now on everything must be said within `time`.
    pub fn limit(&mut self, time: Duration) {
        self.until = Instant::now() + time;
    }

    /// Whether this milter wants to hear of `command`.
    pub fn wants(&self, command: Command) -> bool {
        self.version >= command.since && self.steps & command.unwanted == 0
    }

    /// Says `command`; the macros go before it. Gives the answer, where there is to be one.
    pub async fn say(
        &mut self,
        command: Command,
        macros: &[(&str, &str)],
        data: &[&[u8]],
    ) -> Result<Said, Failure> {
        if !self.wants(command) {
            return Ok(Said::Continue);
        }
        if !macros.is_empty() {
            let mut list = vec![command.byte];
            for (name, value) in macros {
                for text in [name, value] {
                    list.extend(text.bytes().filter(|byte| *byte != 0));
                    list.push(0);
                }
            }
            wire::packet(&mut self.out, wire::MACROS, &[&list]);
        }
        wire::packet(&mut self.out, command.byte, data);
        if self.steps & command.unanswered != 0 {
            if self.out.len() > wire::CHUNK {
                self.flush().await?;
            }
            return Ok(Said::Continue);
        }
        self.flush().await?;
        self.hear().await
    }

    /// The next answer that is one.
    pub async fn hear(&mut self) -> Result<Said, Failure> {
        loop {
            let (command, data) = self.read().await?;
            match wire::answer(command, &data)? {
                Said::Progress => {}
                said => return Ok(said),
            }
        }
    }

    /// Says good-bye, without waiting for anything.
    pub async fn quit(mut self) {
        self.out.clear();
        wire::packet(&mut self.out, wire::QUIT, &[]);
        let _ = self.flush().await;
    }

    fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.patience)
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let deadline = self.deadline();
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        timeout_at(deadline, write)
            .await
            .map_err(|_| Failure::Slow)??;
        self.out.clear();
        Ok(())
    }

    async fn read(&mut self) -> Result<(u8, BytesMut), Failure> {
        let deadline = self.deadline();
        loop {
            if let Some(packet) = wire::take(&mut self.input)? {
                return Ok(packet);
            }
            self.input.reserve(ROOM);
            let read = self.stream.read_buf(&mut self.input);
            match timeout_at(deadline, read).await {
                Err(_) => return Err(Failure::Slow),
                Ok(Ok(0)) => return Err(Failure::Closed),
                Ok(read) => read?,
            };
        }
    }
}
