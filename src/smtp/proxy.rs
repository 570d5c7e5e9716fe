//! The PROXY protocol, version 1 and 2: for whom a proxy of ours opened the connection.
//!
//! Pure: the caller reads [`PREFIX`] bytes, asks [`form`] how the header goes on, reads that, and
//! hands the whole to [`v1`] or [`v2`]. Nothing behind the header is ever touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes that tell the versions apart; no header is shorter.
pub const PREFIX: usize = 12;
/// Bytes of a version 2 header before its addresses.
pub const V2_HEADER: usize = 16;
/// Longest header of version 1, with its CR LF.
pub const V1_LONGEST: usize = 107;
/// Longest rest of a version 2 header: addresses and the extensions behind them.
pub const V2_LONGEST: usize = 2048;

const SIGNATURE: &[u8; PREFIX] = b"\r\n\r\n\0\r\nQUIT\n";

/// How a header goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a line.
    V1,
    /// In binary.
    V2,
}

/// A header that breaks the protocol: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PROXY header is malformed")]
pub struct Malformed;

/// Tells the versions apart by the first [`PREFIX`] bytes.
pub fn form(prefix: &[u8]) -> Result<Form, Malformed> {
    if prefix == SIGNATURE {
        Ok(Form::V2)
    } else if prefix.starts_with(b"PROXY ") {
        Ok(Form::V1)
    } else {
        Err(Malformed)
    }
}

/// Reads a line with its CR LF. `None`: the proxy does not know, or speaks for itself.
pub fn v1(line: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let text = text
        .strip_suffix("\r\n")
        .and_then(|text| text.strip_prefix("PROXY "))
        .ok_or(Malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["UNKNOWN", ..] => Ok(None),
        ["TCP4", from, to, port, _] => {
            let address: Ipv4Addr = from.parse().map_err(|_| Malformed)?;
            let _: Ipv4Addr = to.parse().map_err(|_| Malformed)?;
            socket(address.into(), port)
        }
        ["TCP6", from, to, port, _] => {
            let address: Ipv6Addr = from.parse().map_err(|_| Malformed)?;
            let _: Ipv6Addr = to.parse().map_err(|_| Malformed)?;
            socket(address.into(), port)
        }
        _ => Err(Malformed),
    }
}

fn socket(address: IpAddr, port: &str) -> Result<Option<SocketAddr>, Malformed> {
    let port: u16 = port.parse().map_err(|_| Malformed)?;
    Ok(Some(SocketAddr::new(address, port)))
}

/// How many bytes follow the first [`V2_HEADER`] ones.
pub fn v2_length(header: &[u8; V2_HEADER]) -> Result<usize, Malformed> {
    let [.., high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let sound = header.starts_with(SIGNATURE) && length <= V2_LONGEST;
    sound.then_some(length).ok_or(Malformed)
}

/// Reads a header and what [`v2_length`] said follows it.
pub fn v2(header: &[u8; V2_HEADER], rest: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let [.., command, family, _, _] = *header;
    match (command, family) {
        // LOCAL: the proxy looks whether we are alive.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, ..] = *rest else {
                return Err(Malformed);
            };
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new([a, b, c, d].into(), port)))
        }
        (0x21, 0x21) => {
            let (address, after) = rest.split_first_chunk::<16>().ok_or(Malformed)?;
            let port = after.get(16..18).ok_or(Malformed)?;
            let port = port.try_into().map_err(|_| Malformed)?;
            let port = u16::from_be_bytes(port);
            Ok(Some(SocketAddr::new((*address).into(), port)))
        }
        // UNSPEC, or a family that is no TCP.
        (0x21, _) => Ok(None),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_version_1_name_the_client() {
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n",
                Ok(Some("192.0.2.7:4711")),
            ),
            (
                "PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n",
                Ok(Some("[2001:db8::7]:4711")),
            ),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN a b c d\r\n", Ok(None)),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\n",
                Err(Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 99999 25\r\n",
                Err(Malformed),
            ),
            (
                "PROXY TCP4 2001:db8::7 2001:db8::1 4711 25\r\n",
                Err(Malformed),
            ),
            ("PROXY TCP4 192.0.2.7\r\n", Err(Malformed)),
            ("EHLO a\r\n", Err(Malformed)),
        ] {
            let expected = expected.map(|text| text.map(|text| text.parse().expect("address")));
            assert_eq!(v1(line.as_bytes()), expected, "{line:?}");
        }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
        let mut header = [0; V2_HEADER];
        header[..PREFIX].copy_from_slice(SIGNATURE);
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        header[PREFIX..].copy_from_slice(&[command, family, length[0], length[1]]);
        assert_eq!(form(&header[..PREFIX]), Ok(Form::V2));
        assert_eq!(v2_length(&header), Ok(rest.len()));
        v2(&header, rest)
    }

    #[test]
    fn headers_of_version_2_name_the_client() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 25];
        let client = Ok(Some("192.0.2.7:4711".parse().expect("address")));
        assert_eq!(binary(0x21, 0x11, &v4), client);
        assert_eq!(
            binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()),
            client
        );
        assert_eq!(binary(0x21, 0x11, &v4[..9]), Err(Malformed));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        v6[15] = 7;
        v6[32..34].copy_from_slice(&[0x12, 0x67]);
        let client = Ok(Some("[2001:db8::7]:4711".parse().expect("address")));
        assert_eq!(binary(0x21, 0x21, &v6), client);
        assert_eq!(binary(0x21, 0x21, &v6[..33]), Err(Malformed));
        assert_eq!(binary(0x20, 0x00, &[]), Ok(None));
        assert_eq!(binary(0x21, 0x00, &[]), Ok(None));
        assert_eq!(binary(0x11, 0x11, &v4), Err(Malformed));
        let mut long = [0xff; V2_HEADER];
        long[..PREFIX].copy_from_slice(SIGNATURE);
        assert_eq!(v2_length(&long), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = form(&bytes);
            let _ = v1(&bytes);
            if let Some((header, rest)) = bytes.split_first_chunk::<V2_HEADER>() {
                let _ = v2_length(header);
                let _ = v2(header, rest);
            }
        }
    }
}
