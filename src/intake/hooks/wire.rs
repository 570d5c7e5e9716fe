//! Packets of the milter protocol, version 6: bytes in, bytes out, no I/O.
//!
//! A packet is a length of four bytes, a command and its data. What a milter sends is bounded by
//! [`MAX_PACKET`]; a packet that can not be read is a failure of the milter, never of the message.

use bytes::{Buf as _, BytesMut};

use crate::smtp::replies::Reply;

/// The version we speak.
pub const VERSION: u32 = 6;
/// Bytes of one packet of a milter.
pub const MAX_PACKET: usize = 1024 * 1024;
/// Bytes of body in one packet of ours.
pub const CHUNK: usize = 65_535;

/// Everything a milter may do by the protocol; what it may do here is decided when it does it, as
/// libmilter refuses to work with a server that offers less than it might want.
pub const ACTIONS: u32 = 0x1ff;
/// Steps a milter may leave out, answers it need not give, and SKIP.
pub const STEPS: u32 = 0x000f_ffff & !REJECTED_RECIPIENTS;
const REJECTED_RECIPIENTS: u32 = 0x800;

/// What we tell a milter: the byte of the command, the bit of "do not send it", the bit of "I will
/// not answer".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// As it stands in a packet.
    pub byte: u8,
    /// Set by a milter that does not want it.
    pub unwanted: u32,
    /// Set by a milter that will not answer it.
    pub unanswered: u32,
    /// The first version that has it.
    pub since: u32,
}

const fn command(byte: u8, unwanted: u32, unanswered: u32, since: u32) -> Command {
    Command {
        byte,
        unwanted,
        unanswered,
        since,
    }
}

/// The client.
pub const CONNECT: Command = command(b'C', 0x1, 0x1000, 2);
/// Its EHLO.
pub const HELO: Command = command(b'H', 0x2, 0x2000, 2);
/// MAIL.
pub const MAIL: Command = command(b'M', 0x4, 0x4000, 2);
/// RCPT.
pub const RCPT: Command = command(b'R', 0x8, 0x8000, 2);
/// DATA.
pub const DATA: Command = command(b'T', 0x200, 0x1_0000, 4);
/// A header field.
pub const HEADER: Command = command(b'L', 0x20, 0x80, 2);
/// The end of the header block.
pub const END_OF_HEADERS: Command = command(b'N', 0x40, 0x4_0000, 2);
/// Bytes of the body.
pub const BODY: Command = command(b'B', 0x10, 0x8_0000, 2);
/// The end of the message.
pub const END_OF_BODY: Command = command(b'E', 0, 0, 2);
/// Macros for the command that follows.
pub const MACROS: u8 = b'D';
/// The first packet of both.
pub const NEGOTIATE: u8 = b'O';
/// The last one of ours.
pub const QUIT: u8 = b'Q';

/// What a milter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Go on.
    Continue,
    /// Take the message and ask no more.
    Accept,
    /// Refuse.
    Reject,
    /// Refuse for now.
    Defer,
    /// Take the message and throw it away.
    Discard,
    /// Refuse in these words.
    Reply(Reply),
    /// No more of the body.
    Skip,
    /// Still at work.
    Progress,
    /// Keep it until an operator has looked.
    Quarantine(String),
    /// Change the message.
    Edit(Edit),
    /// Close the client's connection.
    Close,
}

/// A change of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A field below the others.
    Add {
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// A field at this place from the top.
    Insert {
        /// How many fields are above it.
        index: usize,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Another value for the field of this name and number, from 1; an empty one removes it.
    Change {
        /// Which of its name.
        index: usize,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// The next bytes of another body.
    Body(Vec<u8>),
    /// Another envelope; named as in the protocol.
    Envelope(&'static str),
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it sent {0}")]
pub struct Malformed(pub &'static str);

/// Appends a packet.
pub fn packet(out: &mut Vec<u8>, command: u8, data: &[&[u8]]) {
    let length: usize = data.iter().map(|part| part.len()).sum::<usize>() + 1;
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(command);
    for part in data {
        out.extend_from_slice(part);
    }
}

/// Takes a packet from the front of `buffer`; `None`: it is not whole yet.
pub fn take(buffer: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_PACKET {
        return Err(Malformed("a packet of an impossible length"));
    }
    if buffer.len() < length.saturating_add(4) {
        return Ok(None);
    }
    buffer.advance(4);
    let mut data = buffer.split_to(length);
    let command = data.get_u8();
    Ok(Some((command, data)))
}

/// What version and protocol a milter chose: its answer to [`NEGOTIATE`].
pub fn negotiated(data: &[u8]) -> Result<(u32, u32), Malformed> {
    let number = |at: usize| {
        let bytes = data.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    let (Some(version), Some(_), Some(steps)) = (number(0), number(4), number(8)) else {
        return Err(Malformed("a short answer to the negotiation"));
    };
    if !(2..=VERSION).contains(&version) {
        return Err(Malformed("a version we do not speak"));
    }
    Ok((version, steps))
}

/// Reads an answer.
pub fn answer(command: u8, data: &[u8]) -> Result<Said, Malformed> {
    Ok(match command {
        b'c' => Said::Continue,
        b'a' => Said::Accept,
        b'r' => Said::Reject,
        b't' => Said::Defer,
        b'd' => Said::Discard,
        b's' => Said::Skip,
        b'p' => Said::Progress,
        b'4' | b'f' => Said::Close,
        b'y' => Said::Reply(reply(data)?),
        b'q' => Said::Quarantine(text(data)),
        b'h' => {
            let (name, value) = pair(data)?;
            Said::Edit(Edit::Add { name, value })
        }
        b'i' => {
            let (index, (name, value)) = numbered(data)?;
            Said::Edit(Edit::Insert { index, name, value })
        }
        b'm' => {
            let (index, (name, value)) = numbered(data)?;
            Said::Edit(Edit::Change { index, name, value })
        }
        b'b' => Said::Edit(Edit::Body(data.to_vec())),
        b'+' | b'2' => Said::Edit(Edit::Envelope("another recipient")),
        b'-' => Said::Edit(Edit::Envelope("one recipient less")),
        b'e' => Said::Edit(Edit::Envelope("another reverse-path")),
        _ => return Err(Malformed("an answer that does not exist")),
    })
}

/// Up to the first NUL.
fn string(data: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, data).unwrap_or(data.len());
    data.get(..end).unwrap_or_default()
}

fn text(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(string(data));
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(512)
        .collect()
}

/// A code of 4xx or 5xx with a text, of which the first line is kept (it is one reply of ours).
fn reply(data: &[u8]) -> Result<Reply, Malformed> {
    let text = text(data);
    let (code, words) = text.split_at_checked(3).unwrap_or(("", ""));
    match code.parse::<u16>() {
        // 421 would promise that we close; the client may go on with its next message.
        Ok(421) => Ok(Reply::new(451, "", words.trim())),
        Ok(code @ 400..600) => Ok(Reply::new(code, "", words.trim())),
        _ => Err(Malformed("a reply that refuses nothing")),
    }
}

type Pair = (Vec<u8>, Vec<u8>);

fn pair(data: &[u8]) -> Result<Pair, Malformed> {
    let name = string(data);
    let value = string(data.get(name.len() + 1..).unwrap_or_default());
    let well = !name.is_empty() && name.iter().all(|b| matches!(b, 33..=126) && *b != b':');
    if !well {
        return Err(Malformed("a field without a proper name"));
    }
    Ok((name.to_vec(), value.to_vec()))
}

fn numbered(data: &[u8]) -> Result<(usize, Pair), Malformed> {
    let (index, rest) = data
        .split_first_chunk::<4>()
        .ok_or(Malformed("a field without its number"))?;
    let index = usize::try_from(u32::from_be_bytes(*index)).unwrap_or(usize::MAX);
    Ok((index, pair(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_whole_wherever_they_are_split() {
        let mut wire = Vec::new();
        packet(&mut wire, b'h', &[b"X-Spam\0", b"Yes\0"]);
        packet(&mut wire, b'c', &[]);
        for split in 0..wire.len() {
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for part in [wire.get(..split), wire.get(split..)] {
                buffer.extend_from_slice(part.expect("part"));
                while let Some((command, data)) = take(&mut buffer).expect("packet") {
                    found.push(answer(command, &data).expect("answer"));
                }
            }
            let field = Edit::Add {
                name: b"X-Spam".to_vec(),
                value: b"Yes".to_vec(),
            };
            assert_eq!(found, [Said::Edit(field), Said::Continue], "{split}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [&[0, 0, 0, 0, b'c'][..], &[0xff, 0xff, 0xff, 0xff, b'c']] {
            assert!(take(&mut BytesMut::from(bytes)).is_err());
        }
        for (command, data) in [
            (b'y', &b"250 2.0.0 fine\0"[..]),
            (b'y', b"5"),
            (b'y', b"\xff\xff\xff\xff"),
            (b'h', b"\0value\0"),
            (b'h', b"Na:me\0value\0"),
            (b'h', b"Na\nme\0value\0"),
            (b'm', b"\0\0"),
            (b'z', b""),
        ] {
            assert!(answer(command, data).is_err(), "{command} {data:?}");
        }
        assert!(negotiated(&[0; 11]).is_err());
        assert!(negotiated(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn replies_keep_their_words_and_nothing_else() {
        let reply = |text: &[u8]| match answer(b'y', text) {
            Ok(Said::Reply(reply)) => (reply.code, reply.text.into_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(reply(b"554 5.7.1 Spam\0"), (554, "5.7.1 Spam".into()));
        assert_eq!(
            reply(b"421 4.7.0 Go\r\n250 ok\0"),
            (451, "4.7.0 Go  250 ok".into())
        );
    }
}
