//! Records to and from the wire format, and one question to one server (RFC 1035 section 4.2.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, MX, SRV, TLSA, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::data::{self, Data, Kind};

/// A whole name.
pub(super) fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn text(name: &Name) -> String {
    data::name(&name.to_ascii())
}

pub(super) fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Cname => RecordType::CNAME,
        Kind::Mx => RecordType::MX,
        Kind::Txt => RecordType::TXT,
        Kind::Srv => RecordType::SRV,
        Kind::Caa => RecordType::CAA,
        Kind::Tlsa => RecordType::TLSA,
    }
}

/// `None` for a name that can not be one.
pub(super) fn rdata(data: &Data) -> Option<RData> {
    Some(match data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Cname(host) => RData::CNAME(CNAME(fqdn(host)?)),
        Data::Mx(preference, host) => RData::MX(MX::new(*preference, fqdn(host)?)),
        Data::Text(text) => {
            let parts: Vec<&[u8]> = match text.is_empty() {
                true => vec![b""],
                false => text.as_bytes().chunks(255).collect(),
            };
            RData::TXT(TXT::from_bytes(parts))
        }
        Data::Srv {
            priority,
            weight,
            port,
            host,
        } => RData::SRV(SRV::new(*priority, *weight, *port, fqdn(host)?)),
        Data::Caa { flags, tag, value } => {
            let mut caa = CAA::new_issue(flags & 128 != 0, None, Vec::new());
            caa.reserved_flags = flags & 127;
            caa.tag = tag.clone();
            caa.value = value.clone().into_bytes();
            RData::CAA(caa)
        }
        Data::Tlsa {
            usage,
            selector,
            matching,
            hex,
        } => RData::TLSA(TLSA::new(
            (*usage).into(),
            (*selector).into(),
            (*matching).into(),
            bytes(hex)?,
        )),
    })
}

/// `None` for a type that mail does not need.
pub(super) fn of_rdata(rdata: &RData) -> Option<Data> {
    Some(match rdata {
        RData::A(a) => Data::Address(IpAddr::V4(Ipv4Addr::from(*a))),
        RData::AAAA(aaaa) => Data::Address(IpAddr::V6(Ipv6Addr::from(*aaaa))),
        RData::CNAME(name) => Data::Cname(text(&name.0)),
        RData::MX(mx) => Data::Mx(mx.preference, text(&mx.exchange)),
        RData::TXT(txt) => Data::Text(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
        RData::SRV(srv) => Data::Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            host: text(&srv.target),
        },
        RData::CAA(caa) => Data::Caa {
            flags: caa.flags(),
            tag: caa.tag.to_ascii_lowercase(),
            value: String::from_utf8_lossy(&caa.value).into_owned(),
        },
        RData::TLSA(tlsa) => Data::Tlsa {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            hex: hex(&tlsa.cert_data),
        },
        _ => return None,
    })
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let pairs = digits?;
    let (pairs, rest) = pairs.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Sends a message by TCP and takes the answer to it.
pub(super) async fn exchange(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len())
        .map_err(|_| io::Error::other("more changes than one message holds"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(request);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The answer as a message, if it is one to this request.
pub(super) fn answer_to(id: u16, answer: &[u8]) -> Result<Message, String> {
    let message = Message::from_vec(answer).map_err(|error| error.to_string())?;
    match message.metadata.id == id {
        true => Ok(message),
        false => Err("the answer is to another question".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_wire() {
        for (kind, written) in [
            (Kind::A, "192.0.2.1"),
            (Kind::Aaaa, "2001:db8::1"),
            (Kind::Cname, "mx.example.org."),
            (Kind::Mx, "10 mx.example.org."),
            (Kind::Txt, "\"\""),
            (Kind::Srv, "0 1 465 mx.example.org."),
            (Kind::Caa, "128 issue \"letsencrypt.org\""),
            (Kind::Tlsa, "3 1 1 0f0e"),
        ] {
            let data = Data::parse(kind, written).expect(written);
            let rdata = rdata(&data).expect("a record");
            assert_eq!(rdata.record_type(), record_type(kind));
            assert_eq!(of_rdata(&rdata), Some(data));
        }
        let long = Data::Text("a".repeat(700));
        assert_eq!(of_rdata(&rdata(&long).expect("a record")), Some(long));
        assert_eq!(bytes("0f0"), None);
        assert_eq!(bytes("xx"), None);
        assert_eq!(bytes("00fF"), Some(vec![0, 255]));
    }
}
