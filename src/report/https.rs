//! A report by https (RFC 8460 section 3): it goes out whatever is wrong with the certificate, since
//! that may be what it reports.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::base::net::is_public;
use crate::config::Config;
use crate::dns::{Addresses, Resolver};
use chapar_tls::client::{opportunistic, server_name};
use chapar_tls::exchange::drive;

/// How long it may take.
const TIME: Duration = Duration::from_secs(60);

pub(super) async fn post(
    config: &Config,
    resolver: &Resolver,
    (host, port, path): (&str, u16, &str),
    zip: &[u8],
) -> Result<(), String> {
    let work = async {
        let mut all = Vec::new();
        for found in [resolver.ipv4(host).await, resolver.ipv6(host).await] {
            match found {
                Addresses::Found(mut list) => all.append(&mut list),
                Addresses::None => {}
                Addresses::Failed(why) if all.is_empty() => return Err(why),
                Addresses::Failed(_) => {}
            }
        }
        all.retain(|address| config.delivery.private_targets || is_public(*address));
        let address = *all
            .first()
            .ok_or_else(|| format!("{host} has no address on the Internet"))?;
        let text = |error: std::io::Error| error.to_string();
        let http = |error: hyper::Error| error.to_string();
        let stream = TcpStream::connect(SocketAddr::new(address, port))
            .await
            .map_err(text)?;
        let connector = opportunistic(config.tls.min_version).map_err(|error| error.to_string())?;
        let stream = connector.connect(server_name(host, address), stream).await;
        let stream = TokioIo::new(stream.map_err(text)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(http)?;
        let request = Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/tlsrpt+gzip")
            .body(Full::new(Bytes::copy_from_slice(zip)))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let status = sender.send_request(request).await.map_err(http)?.status();
            match status.is_success() {
                true => Ok(()),
                false => Err(format!("https://{host}{path} answers {status}")),
            }
        };
        drive(connection, answer).await
    };
    match tokio::time::timeout(TIME, work).await {
        Ok(done) => done,
        Err(_) => Err(format!(
            "{host} does not answer within {} s",
            TIME.as_secs()
        )),
    }
}
