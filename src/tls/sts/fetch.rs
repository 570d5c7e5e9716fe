//! Fetches a policy from `https://mta-sts.DOMAIN/.well-known/mta-sts.txt` (RFC 8461 section 3.3).
//!
//! No redirect is followed, nothing beyond [`MAX_POLICY`] bytes is read, all of it together takes at
//! most `tls.mta_sts_time`, the certificate must be valid for the host, and a private address is
//! not gone to unless `delivery.private_targets` allows it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::policy::{MAX_POLICY, Policy, PolicyError};
use crate::base::net::is_public;
use crate::client::{RootsError, is_untrusted, server_name, verified};
use crate::config::Config;
use crate::dns::{Addresses, Resolver};
use crate::exchange::drive;

/// Addresses of the host that are tried.
const ADDRESSES: usize = 4;
/// The path of every policy.
const PATH: &str = "/.well-known/mta-sts.txt";

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The host has no address, or it can not be looked up.
    #[error("mta-sts.{0}: {1}")]
    Address(String, String),
    /// This machine trusts no certificate.
    #[error("this machine trusts no certificate; install ca-certificates")]
    NoRoots,
    /// No connection, or it broke.
    #[error("{0}")]
    Network(String),
    /// The certificate is not valid for the host.
    #[error("its certificate is refused: {0}")]
    Untrusted(String),
    /// Not 200; redirects are not followed.
    #[error("the status is {0}, not 200; redirects are not followed")]
    Status(u16),
    /// Not `text/plain`.
    #[error("the content type is not text/plain")]
    Type,
    /// Too long.
    #[error("it is longer than {MAX_POLICY} bytes")]
    TooLong,
    /// Too slow.
    #[error("it took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What was served is no policy.
    #[error("what is served is no policy: {0}")]
    Policy(#[from] PolicyError),
}

impl FetchError {
    /// The result type of a report (RFC 8460 section 4.3.2.2).
    pub fn result_type(&self) -> &'static str {
        match self {
            FetchError::Untrusted(_) => "sts-webpki-invalid",
            FetchError::Policy(_) | FetchError::TooLong | FetchError::Type => "sts-policy-invalid",
            _ => "sts-policy-fetch-error",
        }
    }
}

/// How policies are fetched.
#[derive(Clone)]
pub struct Fetcher {
    resolver: Resolver,
    connector: Option<TlsConnector>,
    port: u16,
    time: Duration,
    private: bool,
}

impl Fetcher {
    /// Reads roots and limits.
    pub fn new(config: &Config, resolver: Resolver) -> Result<Fetcher, RootsError> {
        Ok(Fetcher {
            resolver,
            connector: verified(config)?,
            port: config.tls.mta_sts_port,
            time: config.tls.mta_sts_time.0,
            private: config.delivery.private_targets,
        })
    }

    /// The resolver it asks.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Fetches the policy of a domain.
    pub async fn fetch(&self, domain: &str) -> Result<Policy, FetchError> {
        let time = self.time.min(Duration::from_secs(86_400));
        match tokio::time::timeout(time, self.policy(domain)).await {
            Ok(policy) => policy,
            Err(_) => Err(FetchError::TimedOut(time)),
        }
    }

    async fn policy(&self, domain: &str) -> Result<Policy, FetchError> {
        let connector = self.connector.as_ref().ok_or(FetchError::NoRoots)?;
        let host = format!("mta-sts.{domain}");
        let mut last = FetchError::Address(domain.to_owned(), "no address".to_owned());
        for address in self.addresses(domain, &host).await? {
            match self.ask(connector, &host, address).await {
                // Another address may answer; what one has served is not asked for again.
                Err(error @ (FetchError::Network(_) | FetchError::Untrusted(_))) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    async fn addresses(&self, domain: &str, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        let failed = |why: &str| FetchError::Address(domain.to_owned(), why.to_owned());
        let (v4, v6) = tokio::join!(self.resolver.ipv4(host), self.resolver.ipv6(host));
        let mut all = Vec::new();
        let mut failure = None;
        for found in [v4, v6] {
            match found {
                Addresses::Found(mut list) => all.append(&mut list),
                Addresses::None => {}
                Addresses::Failed(why) => failure = Some(why),
            }
        }
        match (all.is_empty(), failure) {
            (true, Some(why)) => return Err(failed(&why)),
            (true, None) => return Err(failed("it has no address")),
            _ => {}
        }
        all.retain(|address| self.private || is_public(*address));
        if all.is_empty() {
            return Err(failed("its address is not on the Internet"));
        }
        all.truncate(ADDRESSES);
        Ok(all)
    }

    async fn ask(
        &self,
        connector: &TlsConnector,
        host: &str,
        address: IpAddr,
    ) -> Result<Policy, FetchError> {
        let network = |error: std::io::Error| FetchError::Network(error.to_string());
        let http = |error: hyper::Error| FetchError::Network(error.to_string());
        // So that one address that is silent leaves time for the next.
        let connect = TcpStream::connect(SocketAddr::new(address, self.port));
        let stream = tokio::time::timeout(self.time / 4, connect).await;
        let stream = stream
            .map_err(|_| FetchError::Network(format!("{address} does not answer")))?
            .map_err(network)?;
        let stream = connector.connect(server_name(host, address), stream).await;
        let stream = stream.map_err(|error| match is_untrusted(&error) {
            true => FetchError::Untrusted(error.to_string()),
            false => network(error),
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let request = Request::get(PATH)
            .header(HOST, host)
            .header(USER_AGENT, concat!("chapar/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| FetchError::Network(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(http)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status().as_u16()));
            }
            let kind = response.headers().get(CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case("text/plain") {
                return Err(FetchError::Type);
            }
            let body = Limited::new(response.into_body(), MAX_POLICY)
                .collect()
                .await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => FetchError::TooLong,
                false => FetchError::Network(error.to_string()),
            })?;
            Ok(Policy::parse(&body.to_bytes())?)
        };
        drive(connection, answer).await
    }
}
