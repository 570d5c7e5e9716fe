//! A web server of the lab: a policy host, or who takes reports, over https.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::ca::Identity;

/// What it answers to everything.
#[derive(Debug, Clone)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl Page {
    /// A text.
    pub fn text(body: &str) -> Page {
        Page {
            status: 200,
            headers: vec![("content-type", "text/plain".to_owned())],
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    /// A status without a body.
    pub fn status(status: u16) -> Page {
        Page {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
}

/// A request it got.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD /path`.
    pub line: String,
    /// The Host field.
    pub host: String,
    /// The content type.
    pub kind: String,
    /// The body.
    pub body: Bytes,
}

struct Shared {
    /// `None`: it takes connections and is silent.
    page: Mutex<Option<Page>>,
    identity: Mutex<Identity>,
    asked: watch::Sender<Vec<Asked>>,
}

/// A running one; it ends when dropped.
pub struct Site {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    /// Starts one at this address; port 0 lets the system choose.
    pub async fn start(address: SocketAddr, identity: Identity, page: Page) -> io::Result<Site> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            page: Mutex::new(Some(page)),
            identity: Mutex::new(identity),
            asked: watch::Sender::new(Vec::new()),
        });
        let for_all = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&for_all)));
                }
            }
        });
        Ok(Site {
            address,
            shared,
            accepting: accepting.abort_handle(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers this from now on; `None`: nothing at all.
    pub fn answer(&self, page: Option<Page>) {
        *locked(&self.shared.page) = page;
    }

    /// Shows this certificate from now on.
    pub fn be(&self, identity: Identity) {
        *locked(&self.shared.identity) = identity;
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.borrow().clone()
    }

    /// Waits until it was asked so often.
    pub async fn wait(&self, count: usize) -> Vec<Asked> {
        let mut asked = self.shared.asked.subscribe();
        let enough = asked.wait_for(|asked| asked.len() >= count).await;
        enough.map(|asked| asked.clone()).unwrap_or_default()
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let acceptor = locked(&shared.identity).acceptor();
    let Ok(acceptor) = acceptor else { return };
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (head, body) = request.into_parts();
            let field = |name: &str| {
                let value = head.headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let body = body.collect().await;
            let asked = Asked {
                line: format!("{} {}", head.method, head.uri.path()),
                host: field("host"),
                kind: field("content-type"),
                body: body.map(|body| body.to_bytes()).unwrap_or_default(),
            };
            shared.asked.send_modify(|all| all.push(asked));
            let page = locked(&shared.page).clone();
            let Some(page) = page else {
                return std::future::pending().await;
            };
            let mut response = Response::builder().status(page.status);
            for (name, value) in page.headers {
                response = response.header(name, value);
            }
            let response = response.body(Full::new(page.body));
            Ok::<_, Infallible>(response.unwrap_or_default())
        }
    });
    // Errors are the client going away, which is its right.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
