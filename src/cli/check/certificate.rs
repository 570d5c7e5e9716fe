//! The certificate on disk, as a client would judge it.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConnection, ServerConnection};

use crate::config::Config;
use crate::doctor::host::Certificate;
use crate::tls;
use crate::tls::certificate::Facts;

/// Rounds after which a handshake in memory is given up.
const ROUNDS: usize = 10;

/// What is known of the certificate, and its DER.
pub fn examine(config: &Config) -> (Certificate, Option<Vec<u8>>) {
    let (path, _) = tls::server::files(config);
    let broken = |problem: String| Certificate {
        hostname: config.hostname.clone(),
        broken: Some(problem),
        left: 0,
        covers: false,
        self_signed: false,
        untrusted: None,
    };
    let server = match tls::server::load(config) {
        Ok(server) => server,
        Err(error) => return (broken(error.to_string()), None),
    };
    let pem = fs::read(&path).unwrap_or_default();
    let facts = match Facts::of_pem(&pem) {
        Ok(facts) => facts,
        Err(error) => return (broken(error.to_string()), None),
    };
    let leaf = CertificateDer::from_pem_slice(&pem)
        .ok()
        .map(|der| der.as_ref().to_vec());
    let certificate = Certificate {
        hostname: config.hostname.clone(),
        broken: None,
        left: seconds_until(facts.ends),
        covers: facts.covers(&config.hostname),
        self_signed: facts.self_signed,
        untrusted: handshake(config, server).err(),
    };
    (certificate, leaf)
}

fn seconds_until(time: SystemTime) -> i64 {
    let seconds = |span: std::time::Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::now()) {
        Ok(left) => seconds(left),
        Err(error) => seconds(error.duration()).saturating_neg(),
    }
}

/// A client with the roots of this machine meets a server with this certificate, in memory.
fn handshake(config: &Config, server: Arc<rustls::ServerConfig>) -> Result<(), String> {
    let text = |error: rustls::Error| error.to_string();
    let client = tls::client::trusting(config).map_err(|error| error.to_string())?;
    let client = client.ok_or("this machine trusts no root; apt install ca-certificates")?;
    let name = tls::client::server_name(&config.hostname, [127, 0, 0, 1].into());
    let mut client = ClientConnection::new(Arc::new(client), name).map_err(text)?;
    let mut server = ServerConnection::new(server).map_err(text)?;
    for _ in 0..ROUNDS {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client
                .write_tls(&mut bytes)
                .map_err(|error| error.to_string())?;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server
                .read_tls(&mut rest)
                .map_err(|error| error.to_string())?;
            server.process_new_packets().map_err(text)?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server
                .write_tls(&mut bytes)
                .map_err(|error| error.to_string())?;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client
                .read_tls(&mut rest)
                .map_err(|error| error.to_string())?;
            client.process_new_packets().map_err(text)?;
        }
        if !client.is_handshaking() {
            return Ok(());
        }
    }
    Err("the handshake does not end".into())
}
