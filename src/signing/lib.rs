//! The signer: the only holder of private DKIM keys (RFC 6376, 8301, 8463).
//!
//! Receives [`Sign`], [`Seal`] and [`Reload`]; sends nothing. RSA runs on a pool with one thread a core.
//! Never sees a socket, never signs with `l=`, and never lets a message of a domain with a key
//! leave unsigned: an error is an error.
#![forbid(unsafe_code)]

pub mod arc;
mod dkim;
pub mod keys;
mod messages;

// The rooms that this one enters.
use chapar_base::pem;
use chapar_base::time;
use chapar_identity as identity;
use chapar_message as message;

use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use tokio::sync::oneshot;

pub use dkim::{Keys, KeysError};
pub use messages::{Seal, Sign, SignError};

/// The actor.
pub struct Signer {
    keys: Arc<Keys>,
    pool: Arc<rayon::ThreadPool>,
}

/// Keys may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Keys);

impl Signer {
    /// With these keys; signatures are computed on `pool`.
    pub fn new(keys: Keys, pool: Arc<rayon::ThreadPool>) -> Signer {
        Signer {
            keys: Arc::new(keys),
            pool,
        }
    }
}

impl Actor for Signer {
    type Context = Context<Self>;
}

impl Handler<Reload> for Signer {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.keys = Arc::new(reload.0);
    }
}

impl Handler<Sign> for Signer {
    type Result = ResponseFuture<Result<Bytes, SignError>>;

    fn handle(&mut self, request: Sign, _: &mut Self::Context) -> Self::Result {
        if !self.keys.covers(&request.domain) {
            return Box::pin(async { Ok(Bytes::new()) });
        }
        let domain = request.domain.clone();
        self.compute(domain, move |keys| {
            keys.sign(&request.domain, &request.content)
        })
    }
}

impl Handler<Seal> for Signer {
    type Result = ResponseFuture<Result<Bytes, SignError>>;

    fn handle(&mut self, request: Seal, _: &mut Self::Context) -> Self::Result {
        let domain = request.domain.clone();
        self.compute(domain, move |keys| keys.seal(&request))
    }
}

impl Signer {
    fn compute(
        &self,
        domain: String,
        work: impl FnOnce(&Keys) -> Result<Bytes, SignError> + Send + 'static,
    ) -> ResponseFuture<Result<Bytes, SignError>> {
        let keys = self.keys.clone();
        let (answer, made) = oneshot::channel();
        self.pool.spawn(move || {
            // Whoever asked may be gone: then nobody needs the answer.
            let _ = answer.send(work(&keys));
        });
        Box::pin(async move {
            made.await.unwrap_or_else(|_| {
                Err(SignError {
                    domain,
                    reason: "the signing thread panicked".into(),
                })
            })
        })
    }
}
