//! MX records that can be used, beside some that can not be read.
//!
//! The resolver reads an answer as a whole or not at all, so one MX record that is too short hides
//! the good ones beside it. RFC 5321 has no rule for that; Postfix passes over what it can not read,
//! and so do we: such an answer is asked for again through a socket that turns records that are no
//! MX records into ones of a type that nobody asks for. That happens before validation, so nothing
//! is gained by it in a signed zone: a set with a record missing is not what was signed. An answer
//! without any MX record that can be read is left as it is, as nobody knows then what there is; and
//! one with an empty record, which the resolver refuses whatever its type is.
//!
//! TLSA records count only where they are signed, and can therefore not be had that way.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use tokio::net::UdpSocket;

/// The type of MX records (RFC 1035 section 3.2.2).
const MX: u16 = 15;
/// A type for private use (RFC 6895 section 3.1): what could not be read gets it.
const UNREADABLE: u16 = 65_280;
/// Bytes of the header of a message (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Labels of the longest name, and the root (RFC 1035 section 3.1).
const MOST_LABELS: usize = 128;

/// Sockets of the system; what comes over UDP is mended. An answer that is too long for UDP stays
/// as it is.
#[derive(Clone, Default)]
pub(super) struct Mending(TokioRuntimeProvider);

type Bound<T> = Pin<Box<dyn Send + Future<Output = Result<T, io::Error>>>>;

impl RuntimeProvider for Mending {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = MendingSocket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Bound<Self::Tcp> {
        self.0.connect_tcp(server, from, timeout)
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Bound<MendingSocket> {
        let socket = self.0.bind_udp(local, server);
        Box::pin(async move { Ok(MendingSocket(socket.await?)) })
    }
}

/// See [`Mending`].
pub(super) struct MendingSocket(UdpSocket);

impl DnsUdpSocket for MendingSocket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let polled = DnsUdpSocket::poll_recv_from(&self.0, cx, buffer);
        if let Poll::Ready(Ok((length, _))) = polled
            && let Some(message) = buffer.get_mut(..length)
        {
            mend(message);
        }
        polled
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.0, cx, bytes, target)
    }
}

/// Gives MX records of the answers that can not be read another type, if there are some that can.
fn mend(message: &mut [u8]) {
    for at in unreadable(message).unwrap_or_default() {
        if let Some(kind) = message.get_mut(at..at + 2) {
            kind.copy_from_slice(&UNREADABLE.to_be_bytes());
        }
    }
}

/// Where the types of those records are; none: it is no message, or has no MX record that can be
/// read.
fn unreadable(message: &[u8]) -> Option<Vec<usize>> {
    let questions = number(message, 4)?;
    let answers = number(message, 6)?;
    let mut at = HEADER;
    for _ in 0..questions {
        at = after_name(message, at)?.checked_add(4)?;
    }
    let (mut good, mut bad) = (0_usize, Vec::new());
    for _ in 0..answers {
        let kind = after_name(message, at)?;
        // Type, class, TTL and length.
        let data = kind.checked_add(10)?;
        let length = number(message, kind.checked_add(8)?)?;
        let end = data.checked_add(length.into())?;
        if number(message, kind)? == MX {
            let record = message.get(..end)?;
            // The preference, then a name that ends where the record does.
            match after_name(record, data.checked_add(2)?) == Some(end) {
                true => good += 1,
                false if length == 0 => return None,
                false => bad.push(kind),
            }
        }
        at = end;
    }
    (good > 0).then_some(bad)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Where a name ends that begins at `at` (RFC 1035 sections 3.1 and 4.1.4). Pointers are not
/// followed: where they lead is for the resolver to judge.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..MOST_LABELS {
        let length = usize::from(*message.get(at)?);
        let next = match length {
            0 => return Some(at + 1),
            1..=63 => at.checked_add(length + 1)?,
            // The second byte of a pointer must be there, too.
            192.. => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        };
        at = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message about example.com with these records, each of a type and its data.
    fn message(records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![7, 7, 0x81, 0x80, 0, 1];
        let count = u16::try_from(records.len()).expect("few");
        message.extend(count.to_be_bytes());
        message.extend([0, 0, 0, 0]);
        message.extend(b"\x07example\x03com\0\0\x0f\0\x01");
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            message.extend(*data);
        }
        message
    }

    const GOOD: (u16, &[u8]) = (MX, b"\0\x0a\x02mx\xc0\x0c");

    #[test]
    fn what_can_not_be_read_is_set_aside_where_something_can() {
        for bad in [
            &b"\0"[..],
            b"\0\x0a",
            b"\0\x0a\x02mx",
            b"\0\x0a\x02mx\xc0",
            b"\0\x0a\x02mx\0\0",
            b"\0\x0a\x80",
        ] {
            let aside = (UNREADABLE, bad);
            let mut mended = message(&[(MX, bad), GOOD, (MX, bad), (1, &[192, 0, 2, 1])]);
            mend(&mut mended);
            assert_eq!(
                mended,
                message(&[aside, GOOD, aside, (1, &[192, 0, 2, 1])]),
                "{bad:?}"
            );
            // With nothing that can be read it stays what it was: an answer that means nothing.
            let alone = message(&[(MX, bad), (MX, bad)]);
            let mut mended = alone.clone();
            mend(&mut mended);
            assert_eq!(mended, alone, "{bad:?}");
        }
        let empty = message(&[GOOD, (MX, b""), (MX, b"\0")]);
        assert_eq!(unreadable(&empty), None);
    }

    #[test]
    fn a_null_mx_and_whole_names_are_records() {
        let sound = message(&[GOOD, (MX, b"\0\0\0"), (MX, b"\0\x05\x01a\x07example\0")]);
        let mut mended = sound.clone();
        mend(&mut mended);
        assert_eq!(mended, sound);
        assert_eq!(unreadable(&sound), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut mended = bytes.clone();
            mend(&mut mended);
            prop_assert_eq!(mended.len(), bytes.len());
        }

        #[test]
        fn a_message_that_is_cut_off_is_borne(at in 0_usize..200, change in 0_usize..200, to: u8) {
            let mut cut = message(&[GOOD, (MX, b"\0"), GOOD]);
            cut.truncate(at);
            if let Some(byte) = cut.get_mut(change) {
                *byte = to;
            }
            let length = cut.len();
            mend(&mut cut);
            prop_assert_eq!(cut.len(), length);
        }
    }
}
