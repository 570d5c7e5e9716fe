//! The actor of the web listeners: the few things that others fetch from a mail host.
//!
//! Over http: answers to the questions of the CA. Over https: those of TLS-ALPN-01, MTA-STS
//! policies, and what mail clients set themselves up with. Receives [`Reload`]; sends to nobody. A connection costs a bounded time and memory,
//! and there are at most `web.connections` of them. Never serves a file; reads no body but the few
//! lines that Outlook posts.
#![forbid(unsafe_code)]

mod discover;
mod pages;
mod shares;

// The rooms that this one enters.
use chapar_acme as acme;
use chapar_config as config;
use chapar_identity as identity;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::acme::{ALPN, Answers};
use crate::config::Config;
use crate::identity::Identity;

use shares::Shares;

pub use pages::{Page, policy, policy_id};

/// How long a client may take for its request's header.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's header.
const HEADER: usize = 16 << 10;
/// Bytes of what Outlook posts.
const POSTED: usize = 8 << 10;
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Of all connections one client, an IPv4 address or an IPv6 /64, may have one in so many.
const SHARE: usize = 10;
/// How long accepting pauses after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// An address of `[web]` that can not be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "can not listen on {address} for the web: {error}; another server may have the port: leave `{key}` empty and use acme.webroot, or stop it"
)]
pub struct WebError {
    address: SocketAddr,
    key: &'static str,
    error: io::Error,
}

/// What answers are made from.
#[derive(Clone)]
pub struct Site {
    /// The configuration.
    pub config: Arc<Config>,
    /// Our domains.
    pub identity: Arc<Identity>,
    /// The certificate; `None`: https is not answered.
    pub tls: Option<Arc<ServerConfig>>,
}

/// New connections are answered from this.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Site);

/// Sockets that are bound and not yet served.
pub struct Bound {
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
}

/// Binds the addresses of `config`, which needs a runtime.
pub fn bind(config: &Config) -> Result<Bound, WebError> {
    let all = |addresses: &[SocketAddr], key: &'static str| {
        let bound = addresses.iter().map(|address| {
            let socket = StdListener::bind(address).and_then(|socket| {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)
            });
            socket.map_err(|error| WebError {
                address: *address,
                key,
                error,
            })
        });
        bound.collect::<Result<Vec<_>, _>>()
    };
    Ok(Bound {
        http: all(&config.web.http, "web.http")?,
        https: all(&config.web.https, "web.https")?,
    })
}

/// See the module.
pub struct Web {
    site: watch::Sender<Arc<Current>>,
    answers: Answers,
    bound: Option<Bound>,
}

/// A [`Site`] as connections use it.
struct Current {
    site: Site,
    acceptor: Option<TlsAcceptor>,
}

impl Current {
    fn new(site: Site, answers: &Answers) -> Arc<Current> {
        let acceptor = site.tls.as_ref().map(|tls| {
            let mut tls = ServerConfig::clone(tls);
            tls.cert_resolver = Arc::new(ByAlpn {
                usual: tls.cert_resolver.clone(),
                answers: answers.clone(),
            });
            tls.alpn_protocols = vec![b"http/1.1".to_vec(), ALPN.to_vec()];
            TlsAcceptor::from(Arc::new(tls))
        });
        Arc::new(Current { site, acceptor })
    }
}

impl Web {
    /// Serves `bound` from `site` once it is started.
    pub fn new(site: Site, answers: Answers, bound: Bound) -> Web {
        Web {
            site: watch::channel(Current::new(site, &answers)).0,
            answers,
            bound: Some(bound),
        }
    }
}

impl Actor for Web {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(bound) = self.bound.take() else {
            return;
        };
        let max = self.site.borrow().site.config.web.connections;
        let slots = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        let shares = Shares::default();
        let http = bound.http.into_iter().map(|socket| (socket, false));
        let https = bound.https.into_iter().map(|socket| (socket, true));
        for (socket, secure) in http.chain(https) {
            let address = socket.local_addr().ok();
            tracing::info!(target: "web", address = address.map(tracing::field::display), secure, "listening");
            let accept = accept(
                socket,
                secure,
                self.site.subscribe(),
                self.answers.clone(),
                slots.clone(),
                shares.clone(),
            );
            ctx.spawn(accept.into_actor(self));
        }
    }
}

impl Handler<Reload> for Web {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.site
            .send_replace(Current::new(reload.0, &self.answers));
    }
}

async fn accept(
    socket: TcpListener,
    secure: bool,
    site: watch::Receiver<Arc<Current>>,
    answers: Answers,
    slots: Arc<Semaphore>,
    shares: Shares,
) {
    loop {
        // Beyond the limit clients wait in the kernel's backlog.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = match socket.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::warn!(target: "web", %error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (stream, client) = stream;
        let (current, answers) = (site.borrow().clone(), answers.clone());
        let most = (current.site.config.web.connections / SHARE).max(1);
        // Who has its share is not served, so that others are.
        let Some(place) = shares.take(client, most) else {
            continue;
        };
        actix_rt::spawn(async move {
            let _slot = (slot, place);
            let longest = current.site.config.web.connection.0;
            let serve = connection(stream, secure, current, answers);
            // What a client does wrong is its own trouble.
            let _ = tokio::time::timeout(longest, serve).await;
        });
    }
}

async fn connection(stream: TcpStream, secure: bool, current: Arc<Current>, answers: Answers) {
    if !secure {
        return talk(stream, secure, current, answers).await;
    }
    let Some(acceptor) = current.acceptor.clone() else {
        return;
    };
    // A client that connects and says nothing keeps its place no longer than this.
    let shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = shaken else {
        return;
    };
    // The CA has seen what it came for in the handshake (RFC 8737 section 3).
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        talk(stream, secure, current, answers).await;
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    secure: bool,
    current: Arc<Current>,
    answers: Answers,
) {
    let service = service_fn(|mut request: Request<Incoming>| {
        let (current, answers) = (current.clone(), answers.clone());
        async move {
            let is_posted = secure
                && request.method() == Method::POST
                && discover::is_posted(request.uri().path());
            let posted = match is_posted {
                true => posted(request.body_mut()).await,
                false => String::new(),
            };
            let page = respond(&request, &posted, secure, &current.site, &answers);
            Ok::<_, Infallible>(response(page))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = served.await;
}

/// What a client posts; nothing if it is longer than [`POSTED`].
async fn posted(body: &mut Incoming) -> String {
    let body = Limited::new(body, POSTED).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn respond(
    request: &Request<Incoming>,
    posted: &str,
    secure: bool,
    site: &Site,
    answers: &Answers,
) -> Page {
    let path = request.uri().path();
    // Outlook posts whom it wants to know it for.
    let asks = [Method::GET, Method::HEAD].contains(request.method())
        || (request.method() == Method::POST && discover::is_posted(path));
    if !asks {
        return Page::nothing(405, "Only GET and HEAD are answered.");
    }
    if let Some(token) = pages::token(path) {
        return match answers.token(token) {
            Some(text) => Page {
                status: 200,
                kind: "application/octet-stream",
                text,
            },
            None => Page::nothing(404, "No order waits for this token."),
        };
    }
    if !secure {
        return Page::nothing(404, "There is nothing here over http.");
    }
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let query = request.uri().query().unwrap_or_default();
    discover::page(&site.config, &site.identity, host, path, query, posted)
        .unwrap_or_else(|| pages::secure(&site.config, &site.identity, host, path))
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
    if page.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// The usual certificate, but for the handshakes of TLS-ALPN-01.
#[derive(Debug)]
struct ByAlpn {
    usual: Arc<dyn ResolvesServerCert>,
    answers: Answers,
}

impl ResolvesServerCert for ByAlpn {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Such a client offers this protocol alone (RFC 8737 section 3).
        let asked = hello
            .alpn()
            .is_some_and(|mut names| names.any(|name| name == ALPN));
        if asked {
            return self.answers.certificate(hello.server_name()?);
        }
        self.usual.resolve(hello)
    }
}
