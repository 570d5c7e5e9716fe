//! Who is sending: the actor that verifies passwords.
//!
//! Receives [`Authenticate`] and [`Reload`]; sends nothing. Hashing takes tens of milliseconds and
//! 19 MiB, so it runs on a pool with one thread a core, and a bounded number of logins wait for
//! it. Never logs a password, never says whether it was the user or the password that was wrong,
//! and takes the same time for both.

pub mod password;

use std::net::IpAddr;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use tokio::sync::{Semaphore, oneshot};

use crate::identity::Identity;
use crate::smtp::sasl::Credentials;

/// Logins that may wait for the pool; beyond it clients are told to come back.
pub const MAX_WAITING: usize = 256;

/// The actor.
pub struct Authenticator {
    identity: Arc<Identity>,
    pool: Arc<rayon::ThreadPool>,
    waiting: Arc<Semaphore>,
}

/// Is this user who it claims to be? The answer is the user's address as we know it.
#[derive(Message)]
#[rtype(result = "Result<String, AuthError>")]
pub struct Authenticate {
    /// What the client sent.
    pub credentials: Credentials,
    /// For the log.
    pub client: IpAddr,
}

/// Users may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Identity>);

/// Why nobody was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Unknown user or wrong password.
    #[error("user name or password is wrong")]
    Wrong,
    /// [`MAX_WAITING`] logins wait already.
    #[error("too many logins are waiting")]
    Busy,
}

impl Authenticator {
    /// With the users of `identity`; hashing runs on `pool`.
    pub fn new(identity: Arc<Identity>, pool: Arc<rayon::ThreadPool>) -> Authenticator {
        Authenticator {
            identity,
            pool,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

impl Actor for Authenticator {
    type Context = Context<Self>;
}

impl Handler<Reload> for Authenticator {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.identity = reload.0;
    }
}

impl Handler<Authenticate> for Authenticator {
    type Result = ResponseFuture<Result<String, AuthError>>;

    fn handle(&mut self, request: Authenticate, _: &mut Self::Context) -> Self::Result {
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
            return Box::pin(async { Err(AuthError::Busy) });
        };
        let identity = self.identity.clone();
        let (answer, verdict) = oneshot::channel();
        let Authenticate {
            credentials,
            client,
        } = request;
        self.pool.spawn(move || {
            let user = credentials.user.to_lowercase();
            let known = identity.user(&user);
            let right = match known {
                Some(known) => password::verify(credentials.password.as_bytes(), &known.password),
                None => password::verify_nobody(credentials.password.as_bytes()),
            };
            if right {
                tracing::info!(target: "auth", %client, user, "login");
            } else {
                tracing::warn!(target: "auth", %client, user, "login refused");
            }
            // The session may be gone: then nobody needs the answer.
            let _ = answer.send(if right {
                Ok(user)
            } else {
                Err(AuthError::Wrong)
            });
            drop(permit);
        });
        Box::pin(async move { verdict.await.unwrap_or(Err(AuthError::Busy)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_users_get_the_same_answer() {
        let dir = tempfile::tempdir().expect("directory");
        let domain = dir.path().join("domains/example.org");
        std::fs::create_dir_all(&domain).expect("directory");
        let hash = password::hash(b"correct horse").expect("hash");
        let users = format!("\"me@example.org\" = {{ password = \"{hash}\" }}\n");
        crate::config::files::create(&domain.join("users.toml"), users.as_bytes(), 0o600)
            .expect("users");
        let identity = Identity::load(dir.path(), "").expect("identity");
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("pool");
        actix::System::new().block_on(async {
            let auth = Authenticator::new(Arc::new(identity), Arc::new(pool)).start();
            for (user, password, expected) in [
                (
                    "Me@Example.org",
                    "correct horse",
                    Ok("me@example.org".to_owned()),
                ),
                ("me@example.org", "wrong horse", Err(AuthError::Wrong)),
                ("you@example.org", "correct horse", Err(AuthError::Wrong)),
            ] {
                let credentials = Credentials {
                    user: user.into(),
                    password: password.into(),
                };
                let request = Authenticate {
                    credentials,
                    client: [192, 0, 2, 1].into(),
                };
                assert_eq!(
                    auth.send(request).await.expect("answer"),
                    expected,
                    "{user}"
                );
            }
        });
    }
}
