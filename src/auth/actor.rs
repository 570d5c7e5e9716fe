//! The authenticator itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, ResponseFuture};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::bans::{self};
use super::guessers::Guessers;
use super::messages::{
    AuthError, Authenticate, Bans, Failed, FindVerifier, Proved, Reload, Spend, Succeeded,
};
use super::quota::{Allowance, Quota};
use super::regulars::{self, Seen};
use super::{AuthFiles, dovecot, last_use};
use crate::config::Config;
use crate::identity::app::{self, AppPassword};
use crate::identity::password;
use crate::identity::{self, Identity, User, edit};
use crate::smtp::sasl::Proven;
use crate::smtp::scram::{Form, Verifier};
use chapar_base::net::{is_in, is_private};

/// Logins that may wait for the pool; beyond it clients are told to come back.
pub const MAX_WAITING: usize = 256;
/// The same of one client: a guesser must not take the places of all others.
pub const MAX_WAITING_OF_ONE: usize = 16;
/// Clients whose places are remembered before those that wait for nothing are forgotten.
const PLACES: usize = 1024;

/// Bytes of the server's part of a SCRAM nonce.
const NONCE: usize = 18;

/// The actor.
pub struct Authenticator {
    config: Arc<Config>,
    identity: Arc<Identity>,
    files: AuthFiles,
    pool: Arc<rayon::ThreadPool>,
    waiting: Arc<Semaphore>,
    /// The places of each client.
    places: HashMap<IpAddr, Arc<Semaphore>>,
    guessers: Guessers,
    quota: Quota,
    /// Tells equal passwords from others without keeping them.
    fingerprint: hmac::Key,
    /// What the verifiers of our users look like, so that those of nobody look the same.
    forms: Vec<Form>,
    /// How many lists of regulars there were to write.
    lists: u64,
    /// Whether any client had a public address, or it was told that none had.
    seen_public: bool,
}

/// A place among the logins of a client, and among all.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Authenticator {
    /// With the users of `identity`; hashing runs on `pool`.
    pub fn new(
        config: Arc<Config>,
        identity: Arc<Identity>,
        files: AuthFiles,
        pool: Arc<rayon::ThreadPool>,
    ) -> Authenticator {
        let mut guessers = Guessers::default();
        let now = crate::time::now();
        guessers.set_bans(bans::load(&files.data_dir, now));
        guessers.set_regulars(regulars::load(&files.data_dir, now));
        let forms = forms(&identity);
        Authenticator {
            config,
            identity,
            fingerprint: hmac::Key::new(hmac::HMAC_SHA256, &files.secret),
            files,
            pool,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            places: HashMap::new(),
            guessers,
            quota: Quota::default(),
            forms,
            lists: 0,
            seen_public: false,
        }
    }

    /// A place among those who wait, unless there are too many, or too many of this client.
    fn place(&mut self, client: IpAddr) -> Result<Place, AuthError> {
        if self.places.len() >= PLACES {
            self.places.retain(|_, own| Arc::strong_count(own) > 1);
        }
        let own = self.places.entry(super::client(client));
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(MAX_WAITING_OF_ONE)));
        let take = |places: &Arc<Semaphore>| places.clone().try_acquire_owned();
        match (take(own), take(&self.waiting)) {
            (Ok(own), Ok(all)) => Ok((own, all)),
            _ => Err(AuthError::Busy),
        }
    }

    /// The verifier of a user who does not exist.
    fn nobodys_verifier(&self, user: &str) -> Verifier {
        let which = self.fingerprint(user, "form");
        let many = u64::try_from(self.forms.len()).unwrap_or(u64::MAX).max(1);
        let at = usize::try_from(which % many).unwrap_or(0);
        let form = self.forms.get(at).copied().unwrap_or_default();
        Verifier::fake(&self.files.secret, user, form)
    }

    /// Whether `user` is banned there as far as we know. The file may say otherwise by now: who
    /// asks for one that is looks there too.
    fn banned(&mut self, client: IpAddr, user: &str) -> bool {
        self.seen_public |= !is_private(client.to_canonical());
        !is_in(&self.config.limits.never_ban, client)
            && self.guessers.is_banned(client, user, crate::time::now())
    }

    /// Writes who has logged in from where.
    fn save(&mut self, list: Vec<Seen>) {
        self.lists += 1;
        let (files, number) = (self.files.clone(), self.lists);
        self.pool.spawn(move || {
            let mut written = files
                .regulars
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *written > number {
                return;
            }
            *written = number;
            if let Err(error) = regulars::save(&files.data_dir, &list) {
                tracing::warn!(
                    target: "auth",
                    %error,
                    "from where users log in is not on disk and forgotten with the next start"
                );
            }
        });
    }

    /// A ban of an address that stands for many is worth a word, once.
    fn warn_of_private(&mut self, client: IpAddr) {
        if self.seen_public || !is_private(client) {
            return;
        }
        self.seen_public = true;
        tracing::warn!(
            target: "auth",
            %client,
            "all clients so far had private addresses: a proxy, NAT or container gateway hides who \
             they are, and its ban keeps out whoever comes through it; let it pass their addresses \
             on (proxy_networks), or list it in limits.never_ban"
        );
    }

    /// Where Dovecot is asked about `user`: one of its domains whom we do not know.
    fn elsewhere(&self, user: &str) -> Option<(PathBuf, Duration)> {
        let auth = &self.config.auth;
        (self.identity.may_be_dovecots(user) && !auth.dovecot.is_empty())
            .then(|| (PathBuf::from(&auth.dovecot), auth.dovecot_time.0))
    }

    fn fingerprint(&self, user: &str, password: &str) -> u64 {
        let tag = hmac::sign(&self.fingerprint, format!("{user}\0{password}").as_bytes());
        let first = tag.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }
}

/// What the verifiers of users look like: one for each user, so that a form is as rare for those
/// who do not exist as for those who do.
fn forms(identity: &Identity) -> Vec<Form> {
    let users = identity.domains().flat_map(|(_, domain)| domain.users());
    let verifiers = users.filter_map(|(_, user)| user.scram.as_ref());
    verifiers.map(Verifier::form).collect()
}

/// Reads the bans again and says whether `user` from `client` still is among them.
fn still_banned(
    files: &AuthFiles,
    (client, user, regular): (IpAddr, &str, bool),
    actor: &Addr<Authenticator>,
) -> bool {
    let _order = files.bans.lock();
    let bans = bans::load(&files.data_dir, crate::time::now());
    let client = super::client(client);
    let banned = bans.iter().any(|ban| ban.keeps_out(client, user, regular));
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

/// Who it is that Dovecot let in as `named` who came as `user`. It speaks for its own users only:
/// neither for those of our files nor for domains that are not its own.
fn dovecots(identity: &Identity, user: &str, named: &str) -> Option<String> {
    let named = match (named.contains('@'), user.rsplit_once('@')) {
        // Where it takes the domain off a name (auth_username_format), it is that of the login.
        (false, Some((_, domain))) => format!("{named}@{domain}"),
        _ => named.to_owned(),
    };
    let named = identity::canonical(&named);
    if identity.may_be_dovecots(&named) {
        return Some(named);
    }
    tracing::error!(
        target: "auth",
        user,
        named,
        "Dovecot names a user who is not its own: the domain needs dovecot = true in its \
         domain.toml, and the name must be in no users.toml; the login is refused"
    );
    None
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
        // The directory is read-only for the daemon under the unit we ship: said once.
        Err(error) if !files.told.swap(true, Ordering::Relaxed) => tracing::warn!(
            target: "auth",
            user = address,
            %error,
            "the hash of another server, or a user without SCRAM, stays as it is; `chapar check` \
             says which and what to do"
        ),
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
        self.forms = forms(&self.identity);
        self.guessers.forget_wrong();
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
        let Authenticate {
            credentials,
            client,
        } = request;
        let user = identity::canonical(&credentials.user);
        let fingerprint = self.fingerprint(&user, &credentials.password);
        let banned = self.banned(client, &user);
        let regular = self.guessers.is_regular(client, &user, crate::time::now());
        let method = "password";
        if !banned && self.guessers.is_wrong(fingerprint, crate::time::now()) {
            let failed = Failed {
                user,
                client,
                fingerprint,
                method,
            };
            return Box::pin(refused(ctx.address(), failed));
        }
        let permit = match self.place(client) {
            Ok(permit) => permit,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let identity = self.identity.clone();
        let files = self.files.clone();
        let actor = ctx.address();
        let (answer, verdict) = oneshot::channel();
        let address = user.clone();
        let secret = credentials.password.clone();
        let me = actor.clone();
        self.pool.spawn(move || {
            let _permit = permit;
            if banned && still_banned(&files, (client, &address, regular), &me) {
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
        let elsewhere = self.elsewhere(&user);
        let identity = self.identity.clone();
        Box::pin(async move {
            let right = verdict.await.unwrap_or(Err(AuthError::Busy))?;
            let mut who = right.then(|| user.clone());
            if let (false, Some((socket, time))) = (right, elsewhere) {
                let asked = dovecot::authenticate(&socket, time, &user, &secret).await;
                let named = asked.map_err(|error| {
                    tracing::error!(target: "auth", %error, "Dovecot failed");
                    AuthError::Busy
                })?;
                who = named.and_then(|named| dovecots(&identity, &user, &named));
            }
            if let Some(user) = who {
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
        // However it is spelled it has one salt, as users who exist have.
        let user = identity::canonical(&request.user);
        // Made in any case, so that it takes the same time.
        let fake = self.nobodys_verifier(&user);
        let known = self.identity.user(&user);
        let verifier = known.and_then(|known| known.scram.clone()).unwrap_or(fake);
        let mut random = [0; NONCE];
        if SystemRandom::new().fill(&mut random).is_err() {
            return Box::pin(async { Err(AuthError::Busy) });
        }
        let found = (verifier, STANDARD.encode(random));
        let client = request.client;
        if !self.banned(client, &user) {
            return Box::pin(async { Ok(found) });
        }
        let regular = self.guessers.is_regular(client, &user, crate::time::now());
        let permit = match self.place(client) {
            Ok(permit) => permit,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let (answer, verdict) = oneshot::channel();
        let (files, me) = (self.files.clone(), ctx.address());
        self.pool.spawn(move || {
            let _ = answer.send(still_banned(&files, (client, &user, regular), &me));
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
        let user = identity::canonical(&proved.user);
        let client = proved.client;
        let actor = ctx.address();
        let method = "SCRAM";
        // Nobody exists with a fake verifier, so right alone is not enough.
        if proved.proof == Proven::Right && self.identity.user(&user).is_some() {
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
        let fingerprint = match proved.proof {
            // Asking about many is guessing who exists; the same one again says nothing new.
            Proven::Nothing => self.fingerprint(&user, ""),
            // What was tried is not known: each is another guess.
            Proven::Right | Proven::Wrong => fastrand::u64(..),
        };
        let failed = Failed {
            user,
            client,
            fingerprint,
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
        if let Some(list) = self.guessers.succeeded(client, &user, crate::time::now()) {
            self.save(list);
        }
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
        // What another server knows may change there at any time; a proof says no password.
        let ours = method == "password" && self.elsewhere(&user).is_none();
        let limits = &self.config.limits;
        if ours {
            self.guessers.remember_wrong(fingerprint, limits, now);
        }
        let verdict = self
            .guessers
            .failed(client, &user, fingerprint, limits, now);
        // deploy/fail2ban/filter.d/chapar.conf reads this line.
        tracing::warn!(target: "auth", %client, user, method, "login refused");
        let Some(ban) = verdict.ban else {
            return Box::pin(async move { verdict.delay });
        };
        let user = ban.only().unwrap_or("all");
        tracing::warn!(target: "auth", %client, user, guesses = ban.guesses, "client banned");
        self.warn_of_private(client);
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
#[path = "actor_tests.rs"]
mod tests;
