//! A submission client for the demo and the tests: speaks plainly, hides nothing, trusts any
//! certificate.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// One connection to a server.
pub struct Client {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    input: Vec<u8>,
}

/// A reply as it came: its code and all its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Three digits.
    pub code: u16,
    /// The bytes of all lines with their CR LF.
    pub text: String,
}

impl Client {
    /// Connects in clear; the greeting is still to be read.
    pub async fn connect(server: SocketAddr) -> io::Result<Client> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        Ok(Client {
            stream: Either::Left(tcp),
            input: Vec::new(),
        })
    }

    /// Connects in clear from an address of this machine.
    pub async fn connect_from(from: IpAddr, server: SocketAddr) -> io::Result<Client> {
        let socket = match from {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind((from, 0).into())?;
        let tcp = socket.connect(server).await?;
        tcp.set_nodelay(true)?;
        Ok(Client {
            stream: Either::Left(tcp),
            input: Vec::new(),
        })
    }

    /// Connects with TLS from the first byte; the greeting is still to be read.
    pub async fn connect_tls(server: SocketAddr, host: &str) -> io::Result<Client> {
        Client::connect(server).await?.into_tls(host).await
    }

    /// Starts TLS on a connection in clear: after the server's 220 to STARTTLS.
    pub async fn into_tls(self, host: &str) -> io::Result<Client> {
        let Either::Left(tcp) = self.stream else {
            return Err(io::Error::other("TLS is already active"));
        };
        Ok(Client {
            stream: Either::Right(Box::new(tls(tcp, host).await?)),
            input: Vec::new(),
        })
    }

    /// The server's own certificate, DER; `None` in clear.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let Either::Right(tls) = &self.stream else {
            return None;
        };
        let chain = tls.get_ref().1.peer_certificates()?;
        chain.first().map(|certificate| certificate.to_vec())
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Ends TLS with close_notify, then sends `clear` on the bare connection.
    pub async fn end_tls(&mut self, clear: &[u8]) -> io::Result<()> {
        let Either::Right(tls) = &mut self.stream else {
            return Err(io::Error::other("TLS is not active"));
        };
        tls.get_mut().1.send_close_notify();
        tls.flush().await?;
        let tcp = tls.get_mut().0;
        tcp.write_all(clear).await?;
        tcp.flush().await
    }

    /// Reads one whole reply.
    pub async fn reply(&mut self) -> io::Result<Answer> {
        let mut text = String::new();
        loop {
            let line = self.line().await?;
            text.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|code| code.parse().ok());
                let code = code.ok_or_else(|| io::Error::other(format!("no reply: {line:?}")))?;
                return Ok(Answer { code, text });
            }
        }
    }

    /// Reads until the server closes; gives what came.
    pub async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.input);
        let _ = self.stream.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            let mut block = [0; 4096];
            match self.stream.read(&mut block).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self
                    .input
                    .extend_from_slice(block.get(..read).unwrap_or_default()),
            }
        }
    }

    /// Sends one command line and reads its reply.
    pub async fn command(&mut self, line: &str) -> io::Result<Answer> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// The same, and any other reply than `code` is an error.
    pub async fn expect(&mut self, line: &str, code: u16) -> io::Result<Answer> {
        let answer = self.command(line).await?;
        wanted(answer, code, line)
    }

    /// AUTH PLAIN.
    pub async fn auth_plain(&mut self, user: &str, password: &str) -> io::Result<Answer> {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// A whole submission to the implicit TLS port: greeting, EHLO, AUTH, one message, QUIT. Gives
    /// the reply to the final dot.
    pub async fn submit(
        server: SocketAddr,
        host: &str,
        login: (&str, &str),
        from: &str,
        to: &[&str],
        message: &[u8],
    ) -> io::Result<Answer> {
        let mut client = Client::connect_tls(server, host).await?;
        wanted(client.reply().await?, 220, "greeting")?;
        client.expect("EHLO client.example.org", 250).await?;
        wanted(client.auth_plain(login.0, login.1).await?, 235, "AUTH")?;
        let answer = client.send(from, to, message).await?;
        client.expect("QUIT", 221).await?;
        Ok(answer)
    }

    /// One transaction; every recipient must be accepted. Gives the reply to the final dot.
    pub async fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> io::Result<Answer> {
        self.expect(&format!("MAIL FROM:<{from}>"), 250).await?;
        for to in to {
            self.expect(&format!("RCPT TO:<{to}>"), 250).await?;
        }
        self.expect("DATA", 354).await?;
        let mut data = Vec::with_capacity(message.len() + 64);
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                data.push(b'.');
            }
            data.extend_from_slice(line);
        }
        data.extend_from_slice(b".\r\n");
        self.write(&data).await?;
        self.reply().await
    }
}

/// A client that remembers TLS sessions and tells whether a server took one up again.
pub struct Resuming {
    connector: TlsConnector,
}

impl Resuming {
    /// Remembers nothing yet.
    pub fn new() -> io::Result<Resuming> {
        let connector = TlsConnector::from(Arc::new(trusting()?));
        Ok(Resuming { connector })
    }

    /// Connects, says EHLO and QUIT; whether the TLS session was one from before.
    pub async fn resumes(
        &self,
        server: SocketAddr,
        host: &str,
        starttls: bool,
    ) -> io::Result<bool> {
        let mut client = Client::connect(server).await?;
        if starttls {
            wanted(client.reply().await?, 220, "greeting")?;
            client.expect("EHLO client.example.org", 250).await?;
            client.expect("STARTTLS", 220).await?;
        }
        let Either::Left(tcp) = client.stream else {
            return Err(io::Error::other("TLS is already active"));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = Box::new(self.connector.connect(name, tcp).await?);
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut client = Client {
            stream: Either::Right(tls),
            input: Vec::new(),
        };
        if !starttls {
            wanted(client.reply().await?, 220, "greeting")?;
        }
        client.expect("EHLO client.example.org", 250).await?;
        client.expect("QUIT", 221).await?;
        client.rest().await;
        Ok(resumed)
    }
}

/// A handshake that trusts whoever answers.
pub async fn tls(tcp: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(trusting()?))
        .connect(name, tcp)
        .await
}

fn wanted(answer: Answer, code: u16, what: &str) -> io::Result<Answer> {
    if answer.code == code {
        return Ok(answer);
    }
    Err(io::Error::other(format!(
        "{what}: expected {code}, got {}",
        answer.text.trim_end()
    )))
}

fn trusting() -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAny))
        .with_no_client_auth();
    Ok(config)
}

/// The lab's certificates are made a moment before; nobody else's server is ever asked.
#[derive(Debug)]
struct TrustAny;

impl ServerCertVerifier for TrustAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
