//! The bytes of a message on their way to the server: with dots doubled after DATA, or as they are
//! in chunks (RFC 3030) where the server offers that.
//!
//! Receives content that has no lone CR or LF: our own server takes none. A body that lies on disk
//! is never sent to its end unless its checksum is right.

use std::io;

use tokio::io::AsyncReadExt as _;

use super::session::{BLOCK, Session};
use crate::config::Timeouts;
use crate::message::{Body, Content};
use crate::smtp::client::{Loss, chunks};
use crate::smtp::stuffing::Stuffer;

/// Bytes that are stuffed at a time, so that little more than a block waits to be written.
const PIECE: usize = BLOCK / 4;

/// How the message is written.
enum Form {
    Stuffed(Stuffer),
    Chunked {
        /// Bytes of the message that belong to no chunk yet.
        left: u64,
        /// Bytes of the present chunk that were not given yet.
        room: u64,
        last: bool,
    },
}

/// Why it was not sent to its end.
enum Stop {
    Lost(Loss),
    /// A chunk was refused.
    Refused,
}

impl From<Loss> for Stop {
    fn from(loss: Loss) -> Stop {
        Stop::Lost(loss)
    }
}

/// Sends the message to its end, in blocks. A refusal half way is no error: it is heard.
pub(super) async fn send(
    session: &mut Session,
    content: &Content,
    timeouts: &Timeouts,
) -> Result<(), Loss> {
    let form = match session.client().is_chunked() {
        false => Form::Stuffed(Stuffer::default()),
        true => Form::Chunked {
            left: content.len(),
            room: 0,
            last: false,
        },
    };
    let size = usize::try_from(content.len()).unwrap_or(usize::MAX);
    session.client().output().reserve(size.min(BLOCK) + PIECE);
    let sent = Outgoing {
        session,
        timeouts,
        form,
    };
    match sent.all(content).await {
        Ok(()) | Err(Stop::Refused) => Ok(()),
        Err(Stop::Lost(loss)) => Err(loss),
    }
}

struct Outgoing<'a> {
    session: &'a mut Session,
    timeouts: &'a Timeouts,
    form: Form,
}

impl Outgoing<'_> {
    async fn all(mut self, content: &Content) -> Result<(), Stop> {
        self.bytes(&content.head).await?;
        match &content.body {
            Body::Memory(bytes) => self.bytes(bytes).await?,
            Body::Spool(file) => {
                let unreadable = |error: io::Error| {
                    tracing::error!(path = %file.path.display(), %error, "a spooled body can not be read");
                    Loss::Network("the message could not be read back from disk".to_owned())
                };
                let body = tokio::fs::File::open(file.path.as_path()).await;
                let mut body = body.map_err(unreadable)?.take(file.len);
                let mut block = vec![0; BLOCK];
                let (mut length, mut crc) = (0, 0);
                loop {
                    let read = body.read(&mut block).await.map_err(unreadable)?;
                    let piece = block.get(..read).unwrap_or_default();
                    if piece.is_empty() {
                        break;
                    }
                    length += piece.len() as u64;
                    crc = crc32c::crc32c_append(crc, piece);
                    self.bytes(piece).await?;
                }
                // Without its end the server forgets it: better that than half a message.
                if (length, crc) != (file.len, file.crc) {
                    return Err(unreadable(io::ErrorKind::InvalidData.into()).into());
                }
            }
        }
        let output = self.session.client().output();
        if let Form::Stuffed(stuffer) = self.form {
            stuffer.finish(output);
        }
        self.session.send_block(self.timeouts).await?;
        Ok(())
    }

    async fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        for piece in bytes.chunks(PIECE) {
            // The last chunk is held back until it is known that the message is whole.
            let held = matches!(self.form, Form::Chunked { last: true, .. });
            if self.session.client().output().len() >= BLOCK && !held {
                self.session.send_block(self.timeouts).await?;
            }
            if let Form::Stuffed(stuffer) = &mut self.form {
                stuffer.push(piece, self.session.client().output());
                continue;
            }
            let mut rest = piece;
            while !rest.is_empty() {
                let most = self.room().await?;
                let (now, later) = rest.split_at_checked(most).unwrap_or((rest, &[]));
                self.session.client().output().extend_from_slice(now);
                if let Form::Chunked { room, .. } = &mut self.form {
                    *room -= now.len() as u64;
                }
                rest = later;
            }
        }
        Ok(())
    }

    /// How many bytes the present chunk takes yet, more than none: the next one is begun for that.
    async fn room(&mut self) -> Result<usize, Stop> {
        let Form::Chunked { left, room, last } = &mut self.form else {
            return Ok(usize::MAX);
        };
        if *room == 0 {
            if *left == 0 {
                let text = "the message is longer than it was".to_owned();
                return Err(Loss::Network(text).into());
            }
            (*room, *last) = chunks::next(*left);
            *left -= *room;
            let (size, is_last) = (*room, *last);
            // What came before must be on its way before its reply can be.
            self.session.send_block(self.timeouts).await?;
            self.session.take_what_came().await;
            if !self.session.client().begin_chunk(size, is_last) {
                return Err(Stop::Refused);
            }
        }
        match &self.form {
            Form::Chunked { room, .. } => Ok(usize::try_from(*room).unwrap_or(usize::MAX)),
            Form::Stuffed(_) => Ok(usize::MAX),
        }
    }
}
