//! Questions over the network that are not the resolver's: our ports, others' ports, the time, the
//! AD bit. Each has a time limit and reads a bounded answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use hickory_resolver::system_conf;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::config::{Config, TlsMode};
use crate::doctor::host::Seen;
use crate::tls::client;

/// How long one peer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a UDP answer may take, and how often it is asked for.
const UDP_PATIENCE: Duration = Duration::from_secs(2);
const UDP_TRIES: usize = 2;
/// Bytes of one reply line, and lines of a reply.
const LINE: u64 = 2048;
const LINES: usize = 100;
/// Bytes of a page.
const PAGE: u64 = 64 << 10;
/// Seconds from 1900 to 1970.
const NTP_EPOCH: i64 = 2_208_988_800;

/// A reply: its last line's code and all lines.
async fn reply<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    while lines.len() < LINES {
        let mut line = Vec::new();
        let read = stream.take(LINE).read_until(b'\n', &mut line).await;
        if read.map_err(|error| error.to_string())? == 0 {
            return Err("the connection was closed".into());
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let more = text.as_bytes().get(3) == Some(&b'-');
        lines.push(text);
        if !more {
            return Ok(lines);
        }
    }
    Err("the reply has no end".into())
}

/// The greeting of a remote host.
pub async fn greeting(target: SocketAddr, source: Option<IpAddr>) -> Result<String, String> {
    let work = async {
        let socket = match target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.map_err(|error| error.to_string())?;
        if let Some(source) = source {
            let bound = socket.bind(SocketAddr::new(source, 0));
            bound.map_err(|error| format!("no sending from {source}: {error}"))?;
        }
        let stream = socket
            .connect(target)
            .await
            .map_err(|error| error.to_string())?;
        let mut stream = BufReader::new(stream);
        let lines = reply(&mut stream).await?;
        let _ = stream.get_mut().write_all(b"QUIT\r\n").await;
        Ok(lines.first().cloned().unwrap_or_default())
    };
    patient(work).await
}

async fn patient<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let waited = tokio::time::timeout(PATIENCE, work).await;
    waited.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

/// Where a client on this machine reaches a listener; none for a port that the OS chooses.
pub fn reachable(address: &str, usual: u16) -> Option<SocketAddr> {
    if address.starts_with("systemd:") {
        return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), usual));
    }
    let address: SocketAddr = address.parse().ok()?;
    let ip = match address.ip() {
        // A dual-stack socket takes IPv4, and not every machine has ::1.
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    (address.port() != 0).then(|| SocketAddr::new(ip, address.port()))
}

/// What a client sees at one of our listeners.
pub async fn seen(config: &Config, target: SocketAddr, tls: TlsMode) -> Result<Seen, String> {
    patient(async {
        let stream = TcpStream::connect(target)
            .await
            .map_err(|error| error.to_string())?;
        if tls == TlsMode::Implicit {
            let stream = secured(config, stream, target).await?;
            let chain = chain(&stream);
            let mut seen = session(&mut BufReader::new(stream), &config.hostname).await?;
            (seen.tls, seen.chain) = (true, chain);
            return Ok(seen);
        }
        let mut stream = BufReader::new(stream);
        let mut seen = session(&mut stream, &config.hostname).await?;
        if seen.tls {
            write(&mut stream, "STARTTLS\r\n").await?;
            let answer = reply(&mut stream).await?;
            if !answer.first().is_some_and(|line| line.starts_with("220")) {
                return Err(format!("STARTTLS is refused: {}", answer.join(" ")));
            }
            let mut stream = secured(config, stream.into_inner(), target).await?;
            seen.chain = chain(&stream);
            let _ = stream.write_all(b"QUIT\r\n").await;
        } else {
            let _ = write(&mut stream, "QUIT\r\n").await;
        }
        Ok(seen)
    })
    .await
}

/// Logs in with PLAIN; `proof` is its answer in base64. What the server said.
pub async fn login(
    config: &Config,
    target: SocketAddr,
    tls: TlsMode,
    proof: &str,
) -> Result<String, String> {
    patient(async {
        let mut stream = TcpStream::connect(target)
            .await
            .map_err(|error| error.to_string())?;
        if tls == TlsMode::Starttls {
            let mut clear = BufReader::new(stream);
            session(&mut clear, &config.hostname).await?;
            write(&mut clear, "STARTTLS\r\n").await?;
            let answer = reply(&mut clear).await?;
            if !answer.first().is_some_and(|line| line.starts_with("220")) {
                return Err(format!("STARTTLS is refused: {}", answer.join(" ")));
            }
            stream = clear.into_inner();
        }
        let mut stream = BufReader::new(secured(config, stream, target).await?);
        if tls == TlsMode::Implicit {
            reply(&mut stream).await?;
        }
        write(&mut stream, &format!("EHLO {}\r\n", config.hostname)).await?;
        reply(&mut stream).await?;
        write(&mut stream, &format!("AUTH PLAIN {proof}\r\n")).await?;
        let answer = reply(&mut stream).await?.join(" ");
        let _ = write(&mut stream, "QUIT\r\n").await;
        match answer.starts_with("235") {
            true => Ok(answer),
            false => Err(answer),
        }
    })
    .await
}

type Secured = tokio_rustls::client::TlsStream<TcpStream>;

async fn secured(
    config: &Config,
    stream: TcpStream,
    target: SocketAddr,
) -> Result<Secured, String> {
    let connector =
        client::opportunistic(config.tls.min_version).map_err(|error| error.to_string())?;
    let name = client::server_name(&config.hostname, target.ip());
    let stream = connector.connect(name, stream).await;
    stream.map_err(|error| format!("the TLS handshake fails: {error}"))
}

fn chain(stream: &Secured) -> Vec<Vec<u8>> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates
        .iter()
        .map(|certificate| certificate.as_ref().to_vec())
        .collect()
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    text: &str,
) -> Result<(), String> {
    let written = stream.get_mut().write_all(text.as_bytes()).await;
    written.map_err(|error| error.to_string())
}

async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    hostname: &str,
) -> Result<Seen, String> {
    let greeting = reply(stream).await?;
    let greeting = greeting.first().map(String::as_str).unwrap_or_default();
    let Some(text) = greeting.strip_prefix("220") else {
        return Err(format!("it says {greeting}"));
    };
    let name = text
        .trim_start_matches(['-', ' '])
        .split(' ')
        .next()
        .unwrap_or_default();
    write(stream, &format!("EHLO {hostname}\r\n")).await?;
    let offers = reply(stream).await?;
    let starttls = |line: &String| {
        line.get(4..)
            .is_some_and(|word| word.eq_ignore_ascii_case("STARTTLS"))
    };
    Ok(Seen {
        greeting: name.to_owned(),
        tls: offers.iter().any(starttls),
        chain: Vec::new(),
    })
}

/// A page over https, whose certificate must be right for `host`.
pub async fn page(
    config: &Config,
    target: SocketAddr,
    host: &str,
    path: &str,
) -> Result<String, String> {
    patient(async {
        let stream = TcpStream::connect(target)
            .await
            .map_err(|error| error.to_string())?;
        let connector = client::verified(config).map_err(|error| error.to_string())?;
        let connector =
            connector.ok_or("this machine trusts no root; apt install ca-certificates")?;
        let name = client::server_name(host, target.ip());
        let stream = connector.connect(name, stream).await;
        let mut stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream
            .write_all(ask.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        // A peer may end without a goodbye; what came is judged.
        let _ = stream.take(PAGE).read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        match status {
            "200" => Ok(body.to_owned()),
            _ => Err(format!("status {status}")),
        }
    })
    .await
}

/// Seconds that our clock is ahead of a time server's (RFC 5905).
pub async fn clock(server: SocketAddr) -> Result<i64, String> {
    let mut ask = [0u8; 48];
    // Version 4, client.
    ask[0] = 0x23;
    let answer = udp(server, &ask, |answer| answer.len() >= 48).await?;
    let seconds = answer.get(40..44).and_then(|bytes| bytes.try_into().ok());
    let seconds = i64::from(u32::from_be_bytes(seconds.ok_or("a short answer")?));
    if seconds == 0 {
        return Err("it does not know the time".into());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok());
    Ok(now.unwrap_or_default() - (seconds - NTP_EPOCH))
}

async fn udp(
    server: SocketAddr,
    ask: &[u8],
    fits: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let text = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind((any, 0)).await.map_err(text)?;
    socket.connect(server).await.map_err(text)?;
    let mut last = format!("no answer within {} s", UDP_PATIENCE.as_secs());
    for _ in 0..UDP_TRIES {
        socket.send(ask).await.map_err(text)?;
        let mut buffer = vec![0; 4096];
        match tokio::time::timeout(UDP_PATIENCE, socket.recv(&mut buffer)).await {
            Ok(Ok(read)) => {
                buffer.truncate(read);
                if fits(&buffer) {
                    return Ok(buffer);
                }
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
    }
    Err(last)
}

/// The first resolver that is asked.
pub fn resolver(config: &Config) -> Option<SocketAddr> {
    if let Some(first) = config.dns.servers.first() {
        return Some(*first);
    }
    let (system, _) = system_conf::read_system_conf().ok()?;
    let first = system.name_servers.first()?;
    Some(SocketAddr::new(first.ip, 53))
}

/// Whether the resolver says that it has proved (AD, RFC 4035 section 3.2.3) the answer to a
/// question; `None`: no answer. `kind`: the number of the record type.
pub async fn proves(server: SocketAddr, name: &str, kind: u16) -> Option<bool> {
    let id: [u8; 2] = fastrand::u16(..).to_be_bytes();
    // Recursion desired, AD wanted; one question, one OPT record.
    let mut ask = vec![id[0], id[1], 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        ask.push(
            u8::try_from(label.len())
                .ok()
                .filter(|length| *length < 64)?,
        );
        ask.extend_from_slice(label.as_bytes());
    }
    ask.push(0);
    ask.extend_from_slice(&kind.to_be_bytes());
    ask.extend_from_slice(&[0, 1]);
    // OPT: root, type 41, 1232 bytes, DO.
    ask.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    let answer = udp(server, &ask, |answer| answer.starts_with(&id))
        .await
        .ok()?;
    answer.get(3).map(|flags| flags & 0x20 != 0)
}
