//! The authenticator itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::app::{self, AppPassword};
use super::bans::{self, Ban};
use super::guessers::Guessers;
use super::quota::{Allowance, Quota};
use super::{AuthFiles, dovecot, last_use, password};
use crate::config::Config;
use crate::identity::{self, Identity, User, edit};
use crate::smtp::sasl::Credentials;
use crate::smtp::scram::Verifier;

/// Logins that may wait for the pool; beyond it clients are told to come back.
pub const MAX_WAITING: usize = 256;

/// Bytes of the server's part of a SCRAM nonce.
const NONCE: usize = 18;

/// The actor.
pub struct Authenticator {
    config: Arc<Config>,
    identity: Arc<Identity>,
    files: AuthFiles,
    pool: Arc<rayon::ThreadPool>,
    waiting: Arc<Semaphore>,
    guessers: Guessers,
    quota: Quota,
    /// Tells equal passwords from others without keeping them.
    fingerprint: hmac::Key,
}

/// Is this user who it claims to be? The answer is the user's address as we know it.
#[derive(Message)]
#[rtype(result = "Result<String, AuthError>")]
pub struct Authenticate {
    /// What the client sent.
    pub credentials: Credentials,
    /// Who guesses, if it does.
    pub client: IpAddr,
}

/// What SCRAM needs of this user, who need not exist, and a fresh nonce.
#[derive(Message)]
#[rtype(result = "Result<(Verifier, String), AuthError>")]
pub struct FindVerifier {
    /// As the client gave it.
    pub user: String,
    /// Who asks.
    pub client: IpAddr,
}

/// How a SCRAM exchange ended.
#[derive(Message)]
#[rtype(result = "Result<String, AuthError>")]
pub struct Proved {
    /// As the client gave it.
    pub user: String,
    /// Whether it knew the password.
    pub right: bool,
    /// Who guesses, if it does.
    pub client: IpAddr,
}

/// May this user send one more message to so many recipients? It is counted if it may; with 0
/// recipients the answer is only whether another message is allowed.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Spend {
    /// The user.
    pub user: String,
    /// Recipients of the message.
    pub recipients: usize,
}

/// Users or limits may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reload(pub Arc<Config>, pub Arc<Identity>);

/// The bans as they are on disk now.
#[derive(Message)]
#[rtype(result = "()")]
struct Bans(Vec<Ban>);

/// A login failed: how long the reply waits.
#[derive(Message)]
#[rtype(result = "Duration")]
struct Failed {
    user: String,
    client: IpAddr,
    fingerprint: u64,
    method: &'static str,
}

/// A login succeeded.
#[derive(Message)]
#[rtype(result = "()")]
struct Succeeded {
    user: String,
    client: IpAddr,
    method: &'static str,
}

/// Why nobody was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Unknown user or wrong password.
    #[error("user name or password is wrong")]
    Wrong,
    /// The client guessed too often.
    #[error("the client's address is banned for now")]
    Banned,
    /// [`MAX_WAITING`] logins wait already.
    #[error("too many logins are waiting")]
    Busy,
}

impl Authenticator {
    /// With the users of `identity`; hashing runs on `pool`.
    pub fn new(
        config: Arc<Config>,
        identity: Arc<Identity>,
        files: AuthFiles,
        pool: Arc<rayon::ThreadPool>,
    ) -> Authenticator {
        let mut guessers = Guessers::default();
        guessers.set_bans(bans::load(&files.data_dir, crate::time::now()));
        Authenticator {
            config,
            identity,
            fingerprint: hmac::Key::new(hmac::HMAC_SHA256, &files.secret),
            files,
            pool,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            guessers,
            quota: Quota::default(),
        }
    }

    /// A place among those who wait, unless there are too many.
    fn place(&self) -> Result<OwnedSemaphorePermit, AuthError> {
        self.waiting
            .clone()
            .try_acquire_owned()
            .map_err(|_| AuthError::Busy)
    }

    /// Whether the client is banned as far as we know. The file may say otherwise by now: who asks
    /// for one that is looks there too.
    fn banned(&self, client: IpAddr) -> bool {
        self.guessers.is_banned(client, crate::time::now())
    }

    /// Where Dovecot is asked about `user`: one of our domains whom we do not know.
    fn elsewhere(&self, user: &str) -> Option<(PathBuf, Duration)> {
        let auth = &self.config.auth;
        let domain = user.rsplit_once('@').map(|(_, domain)| domain)?;
        let theirs = self.identity.user(user).is_none() && self.identity.domain(domain).is_some();
        (theirs && !auth.dovecot.is_empty())
            .then(|| (PathBuf::from(&auth.dovecot), auth.dovecot_time.0))
    }

    fn fingerprint(&self, user: &str, password: &str) -> u64 {
        let tag = hmac::sign(&self.fingerprint, format!("{user}\0{password}").as_bytes());
        let first = tag.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }
}

/// Reads the bans again and says whether `client` still is among them.
fn still_banned(files: &AuthFiles, client: IpAddr, actor: &Addr<Authenticator>) -> bool {
    let _order = files.bans.lock();
    let bans = bans::load(&files.data_dir, crate::time::now());
    let client = super::client(client);
    let banned = bans.iter().any(|ban| ban.address == client);
    if !banned {
        // Lost when the mailbox is full: then the next one tells.
        let _ = actor.try_send(Bans(bans));
    }
    banned
}

/// The answer to a failed login, after its delay.
async fn refused(actor: Addr<Authenticator>, failed: Failed) -> Result<String, AuthError> {
    if let Ok(delay) = actor.send(failed).await {
        tokio::time::sleep(delay).await;
    }
    Err(AuthError::Wrong)
}

/// Notes that an app password was used.
fn used(files: &AuthFiles, user: &str, app: &AppPassword) {
    tracing::info!(target: "auth", user, label = app.label, "app password used");
    let _order = files.bans.lock();
    if let Err(error) = last_use::note(&files.data_dir, &app.id, crate::time::now()) {
        tracing::warn!(target: "auth", %error, "the use of an app password is not noted");
    }
}

/// Gives a user whose password was just right the verifier it lacks, and a hash of ours where it
/// has one of another server.
fn complete(files: &AuthFiles, address: &str, known: &User, password: &str) {
    let Ok(verifier) = password::scram(password.as_bytes()) else {
        return;
    };
    let set = match password::is_imported(&known.password) {
        true => match password::hash(password.as_bytes()) {
            Ok(hash) => {
                let scram = verifier.to_string();
                let secrets = password::Secrets { hash, scram };
                edit::rehash(&files.dir, address, &known.password, &secrets)
            }
            // Too short for us to make one: it stays as it is.
            Err(_) => return,
        },
        false => edit::set_scram(&files.dir, address, &known.password, &verifier.to_string()),
    };
    match set {
        Ok(()) => tracing::info!(target: "auth", user = address, "verifier written"),
        // The directory may well be read-only for the daemon.
        Err(error) => {
            tracing::debug!(target: "auth", user = address, %error, "verifier not written")
        }
    }
}

impl Actor for Authenticator {
    type Context = Context<Self>;
}

impl Handler<Reload> for Authenticator {
    type Result = ();

    fn handle(&mut self, reload: Reload, _: &mut Self::Context) {
        self.config = reload.0;
        self.identity = reload.1;
    }
}

impl Handler<Bans> for Authenticator {
    type Result = ();

    fn handle(&mut self, bans: Bans, _: &mut Self::Context) {
        self.guessers.set_bans(bans.0);
    }
}

impl Handler<Authenticate> for Authenticator {
    type Result = ResponseFuture<Result<String, AuthError>>;

    fn handle(&mut self, request: Authenticate, ctx: &mut Self::Context) -> Self::Result {
        let permit = match self.place() {
            Ok(permit) => permit,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let Authenticate {
            credentials,
            client,
        } = request;
        let user = credentials.user.to_lowercase();
        let fingerprint = self.fingerprint(&user, &credentials.password);
        let banned = self.banned(client);
        let identity = self.identity.clone();
        let files = self.files.clone();
        let actor = ctx.address();
        let (answer, verdict) = oneshot::channel();
        let address = user.clone();
        let secret = credentials.password.clone();
        let me = actor.clone();
        self.pool.spawn(move || {
            let _permit = permit;
            if banned && still_banned(&files, client, &me) {
                let _ = answer.send(Err(AuthError::Banned));
                return;
            }
            let password = credentials.password.as_str();
            let known = identity.user(&address);
            let app = known.and_then(|known| app::find(password, &known.app_passwords));
            let right = match known {
                Some(_) if app.is_some() => true,
                Some(known) => password::verify(password.as_bytes(), &known.password),
                None => password::verify_nobody(password.as_bytes()),
            };
            // The session may be gone: then nobody needs the answer.
            let _ = answer.send(Ok(right));
            if let Some(app) = app {
                used(&files, &address, app);
                return;
            }
            if let Some(known) = known.filter(|known| right && known.scram.is_none()) {
                complete(&files, &address, known, password);
            }
        });
        let method = "password";
        let elsewhere = self.elsewhere(&user);
        Box::pin(async move {
            let mut right = verdict.await.unwrap_or(Err(AuthError::Busy))?;
            if let (false, Some((socket, time))) = (right, elsewhere) {
                let asked = dovecot::authenticate(&socket, time, &user, &secret).await;
                right = asked.map_err(|error| {
                    tracing::error!(target: "auth", %error, "Dovecot failed");
                    AuthError::Busy
                })?;
            }
            if right {
                let succeeded = Succeeded {
                    user: user.clone(),
                    client,
                    method,
                };
                let _ = actor.send(succeeded).await;
                return Ok(user);
            }
            let failed = Failed {
                user,
                client,
                fingerprint,
                method,
            };
            refused(actor, failed).await
        })
    }
}

impl Handler<FindVerifier> for Authenticator {
    type Result = ResponseFuture<Result<(Verifier, String), AuthError>>;

    fn handle(&mut self, request: FindVerifier, ctx: &mut Self::Context) -> Self::Result {
        let user = request.user.to_lowercase();
        // Made in any case, so that it takes the same time.
        let fake = Verifier::fake(&self.files.secret, &user);
        let known = self.identity.user(&user);
        let verifier = known.and_then(|known| known.scram.clone()).unwrap_or(fake);
        let mut random = [0; NONCE];
        if SystemRandom::new().fill(&mut random).is_err() {
            return Box::pin(async { Err(AuthError::Busy) });
        }
        let found = (verifier, STANDARD.encode(random));
        if !self.banned(request.client) {
            return Box::pin(async { Ok(found) });
        }
        let permit = match self.place() {
            Ok(permit) => permit,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let (answer, verdict) = oneshot::channel();
        let (files, me) = (self.files.clone(), ctx.address());
        self.pool.spawn(move || {
            let _ = answer.send(still_banned(&files, request.client, &me));
            drop(permit);
        });
        Box::pin(async move {
            match verdict.await {
                Ok(false) => Ok(found),
                _ => Err(AuthError::Banned),
            }
        })
    }
}

impl Handler<Proved> for Authenticator {
    type Result = ResponseFuture<Result<String, AuthError>>;

    fn handle(&mut self, proved: Proved, ctx: &mut Self::Context) -> Self::Result {
        let user = proved.user.to_lowercase();
        let client = proved.client;
        let actor = ctx.address();
        let method = "SCRAM";
        // Nobody exists with a fake verifier, so right alone is not enough.
        if proved.right && self.identity.user(&user).is_some() {
            return Box::pin(async move {
                let succeeded = Succeeded {
                    user: user.clone(),
                    client,
                    method,
                };
                let _ = actor.send(succeeded).await;
                Ok(user)
            });
        }
        let failed = Failed {
            user,
            client,
            // What was tried is not known: each is another guess.
            fingerprint: fastrand::u64(..),
            method,
        };
        Box::pin(refused(actor, failed))
    }
}

impl Handler<Spend> for Authenticator {
    type Result = bool;

    fn handle(&mut self, spend: Spend, _: &mut Self::Context) -> bool {
        let user = self.identity.user(&spend.user);
        let allowance = Allowance::of(&self.config.limits, user.map(|user| user.quota));
        let now = crate::time::now();
        let name = identity::canonical(&spend.user);
        self.quota.spend(&name, spend.recipients, allowance, now)
    }
}

impl Handler<Succeeded> for Authenticator {
    type Result = ();

    fn handle(&mut self, login: Succeeded, _: &mut Self::Context) {
        let Succeeded {
            user,
            client,
            method,
        } = login;
        self.guessers.succeeded(&user);
        tracing::info!(target: "auth", %client, user, method, "login");
    }
}

impl Handler<Failed> for Authenticator {
    type Result = ResponseFuture<Duration>;

    fn handle(&mut self, failed: Failed, ctx: &mut Self::Context) -> Self::Result {
        let Failed {
            user,
            client,
            fingerprint,
            method,
        } = failed;
        let client = client.to_canonical();
        let now = crate::time::now();
        let limits = &self.config.limits;
        let verdict = self
            .guessers
            .failed(client, &user, fingerprint, limits, now);
        // deploy/fail2ban/filter.d/chapar.conf reads this line.
        tracing::warn!(target: "auth", %client, user, method, "login refused");
        let Some(ban) = verdict.ban else {
            return Box::pin(async move { verdict.delay });
        };
        tracing::warn!(target: "auth", %client, guesses = ban.guesses, "client banned");
        let (files, me) = (self.files.clone(), ctx.address());
        let (written, on_disk) = oneshot::channel();
        self.pool.spawn(move || {
            let _order = files.bans.lock();
            match bans::add(&files.data_dir, ban, now) {
                Ok(bans) => {
                    let _ = me.try_send(Bans(bans));
                }
                Err(error) => tracing::error!(
                    target: "auth",
                    %error,
                    "the ban is not on disk and ends with the next start"
                ),
            }
            let _ = written.send(());
        });
        Box::pin(async move {
            // Whoever was just banned hears of it only once that is certain.
            let _ = on_disk.await;
            verdict.delay
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path) -> Arc<Config> {
        let text = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n\
                    [limits]\nguesses = 3\nguess_delay = \"1ms\"\n";
        Arc::new(Config::parse(text, "chapar.toml", dir).expect("configuration"))
    }

    /// An authenticator of a directory with one user, whose password is `correct horse`.
    fn started(dir: &std::path::Path) -> Addr<Authenticator> {
        let domain = dir.join("domains/example.org");
        std::fs::create_dir_all(&domain).expect("directory");
        let hash = password::hash(b"correct horse").expect("hash");
        let users = format!("\"me@example.org\" = {{ password = \"{hash}\" }}\n");
        std::fs::write(domain.join("domain.toml"), "mode = \"forward\"\n").expect("domain");
        let path = domain.join("users.toml");
        crate::config::files::create(&path, users.as_bytes(), 0o600).expect("users");
        let identity = Identity::load(dir, "").expect("identity");
        let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
        let pool = Arc::new(builder.build().expect("pool"));
        let config = config(dir);
        let files = AuthFiles::open(&config).expect("files");
        Authenticator::new(config, Arc::new(identity), files, pool).start()
    }

    async fn login(
        auth: &Addr<Authenticator>,
        client: [u8; 4],
        user: &str,
        password: &str,
    ) -> Result<String, AuthError> {
        let credentials = Credentials {
            user: user.into(),
            password: password.into(),
        };
        let request = Authenticate {
            credentials,
            client: client.into(),
        };
        auth.send(request).await.expect("answer")
    }

    #[test]
    fn known_and_unknown_users_get_the_same_answer() {
        let dir = tempfile::tempdir().expect("directory");
        actix::System::new().block_on(async {
            let auth = started(dir.path());
            for (user, password, expected) in [
                (
                    "Me@Example.org",
                    "correct horse",
                    Ok("me@example.org".to_owned()),
                ),
                ("me@example.org", "wrong horse", Err(AuthError::Wrong)),
                ("you@example.org", "correct horse", Err(AuthError::Wrong)),
            ] {
                let outcome = login(&auth, [192, 0, 2, 1], user, password).await;
                assert_eq!(outcome, expected, "{user}");
            }
            let find = |user: &str| FindVerifier {
                user: user.into(),
                client: [192, 0, 2, 1].into(),
            };
            let mut nonces = Vec::new();
            for user in ["me@example.org", "you@example.org"] {
                let (first, nonce) = auth.send(find(user)).await.expect("answer").expect("one");
                let (second, other) = auth.send(find(user)).await.expect("answer").expect("one");
                assert_eq!(first, second, "{user} has the same salt each time");
                nonces.extend([nonce, other]);
            }
            nonces.dedup();
            assert_eq!(nonces.len(), 4);
        });
        // The right password of a user without a verifier has made one.
        let identity = Identity::load(dir.path(), "").expect("identity");
        let user = identity.user("me@example.org").expect("user");
        assert!(user.scram.is_some());
    }

    #[test]
    fn guessers_are_banned_across_restarts_until_an_operator_clears_them() {
        let dir = tempfile::tempdir().expect("directory");
        let guesser = [192, 0, 2, 1];
        actix::System::new().block_on(async {
            let auth = started(dir.path());
            for guess in ["a", "b", "c"] {
                let outcome = login(&auth, guesser, "me@example.org", guess).await;
                assert_eq!(outcome, Err(AuthError::Wrong));
            }
            let right = login(&auth, guesser, "me@example.org", "correct horse").await;
            assert_eq!(right, Err(AuthError::Banned));
            let elsewhere = login(&auth, [192, 0, 2, 2], "me@example.org", "correct horse").await;
            assert_eq!(elsewhere, Ok("me@example.org".into()));
        });
        actix::System::new().block_on(async {
            let auth = started(dir.path());
            let right = login(&auth, guesser, "me@example.org", "correct horse").await;
            assert_eq!(right, Err(AuthError::Banned));
            let data = dir.path().join("data");
            assert_eq!(bans::clear(&data, guesser.into(), 0).ok(), Some(true));
            let right = login(&auth, guesser, "me@example.org", "correct horse").await;
            assert_eq!(right, Ok("me@example.org".into()));
        });
    }
}
