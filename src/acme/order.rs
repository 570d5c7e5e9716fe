//! One certificate from the CA: account, order, challenges, chain (RFC 8555 section 7).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::challenge::Challenges;
use super::dns01::{Dns01, Dns01Error};
use crate::config::{AcmeChallenge, Config, files};
use crate::dns::Resolver;
use crate::tls::client::{self, RootsError};

/// How long the CA may take to look at our answers, and then to issue.
const PATIENCE: Duration = Duration::from_secs(120);
/// Mode of the account's key.
const MODE: u32 = 0o600;

/// A chain and its key, both PEM.
pub struct Issued {
    /// `fullchain.pem`.
    pub chain: String,
    /// `privkey.pem`.
    pub key: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The CA, or the way to it.
    #[error("the CA at {directory}: {error}")]
    Ca {
        /// `acme.directory`.
        directory: String,
        /// What it said.
        error: instant_acme::Error,
    },
    /// It does not offer what is configured.
    #[error("the CA offers no {0} challenge for {1}; set acme.challenge to another")]
    NotOffered(&'static str, String),
    /// It looked and did not find our answers.
    #[error("the CA could not verify {names}: {why}; {remedy}")]
    Refused {
        /// The names of the order.
        names: String,
        /// What it said.
        why: String,
        /// What to look at.
        remedy: &'static str,
    },
    /// Roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Nobody is trusted.
    #[error("this system trusts no CA; install ca-certificates")]
    NoRoots,
    /// The account's file.
    #[error("{}: {error}", file.display())]
    Account {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// A file for the server on port 80.
    #[error("{}: {error}; acme.webroot must exist and be writable for the daemon: with systemd, ReadWritePaths= in a drop-in of the unit", file.display())]
    Webroot {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// The answer in the DNS.
    #[error(transparent)]
    Dns(#[from] Dns01Error),
    /// A key or request could not be made.
    #[error("no certificate request can be made: {0}")]
    Request(String),
}

/// Where the account is kept.
pub fn account_file(dir: &Path) -> PathBuf {
    dir.join("secrets/acme.json")
}

/// Asks for a certificate for `names`, the first of which is the host's.
pub async fn order(
    config: &Config,
    names: &[String],
    challenges: &Challenges,
    resolver: &Resolver,
) -> Result<Issued, OrderError> {
    let mut dns = match config.acme.challenge {
        AcmeChallenge::Dns01 => Some(Dns01::new(config, resolver).await?),
        _ => None,
    };
    let result = issue(config, names, challenges, dns.as_mut()).await;
    challenges.clear();
    if let Some(dns) = &mut dns {
        dns.clear().await;
    }
    result
}

async fn issue(
    config: &Config,
    names: &[String],
    challenges: &Challenges,
    dns: Option<&mut Dns01<'_>>,
) -> Result<Issued, OrderError> {
    let ca = |error| OrderError::Ca {
        directory: config.acme.directory.as_str().to_owned(),
        error,
    };
    let account = account(config).await?;
    let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account
        .new_order(&NewOrder::new(&identifiers))
        .await
        .map_err(ca)?;
    let kind = match config.acme.challenge {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Dns01 => ChallengeType::Dns01,
    };
    if let Some(dns) = dns {
        // All at once: a name and its wildcard are answered at the same place.
        let mut wanted = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(ca)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let challenge = authorization.challenge(kind.clone()).ok_or_else(|| {
                OrderError::NotOffered(config.acme.challenge.name(), name.clone())
            })?;
            let text = challenge.key_authorization().dns_value();
            wanted.push((name.trim_start_matches("*.").to_owned(), text));
        }
        dns.answer(&wanted).await?;
    }
    let mut webroot = Webroot::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(ca)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let mut challenge = authorization
            .challenge(kind.clone())
            .ok_or_else(|| OrderError::NotOffered(config.acme.challenge.name(), name.clone()))?;
        let answer = challenge.key_authorization();
        match config.acme.challenge {
            AcmeChallenge::Http01 => {
                challenges.token(&challenge.token, answer.as_str());
                if !config.acme.webroot.is_empty() {
                    webroot.put(config, &challenge.token, answer.as_str())?;
                }
            }
            AcmeChallenge::TlsAlpn01 => challenges
                .certificate(&name, answer.digest().as_ref())
                .map_err(OrderError::Request)?,
            // Answered above.
            AcmeChallenge::Dns01 => {}
        }
        challenge.set_ready().await.map_err(ca)?;
    }
    let policy = RetryPolicy::new().timeout(PATIENCE);
    let refused = |why: String| OrderError::Refused {
        names: names.join(", "),
        why,
        remedy: remedy(config.acme.challenge),
    };
    match order.poll_ready(&policy).await {
        Ok(OrderStatus::Ready) => {}
        Ok(status) => {
            let why = denied(&mut order).await;
            return Err(refused(
                why.unwrap_or_else(|| format!("the order is {status:?}")),
            ));
        }
        Err(instant_acme::Error::Api(problem)) => return Err(refused(problem.to_string())),
        Err(error) => return Err(ca(error)),
    }
    let key = match config.acme.keep_key {
        true => kept_key(config).await,
        false => None,
    };
    let (request, key) = request(names, key).map_err(OrderError::Request)?;
    order.finalize_csr(&request).await.map_err(ca)?;
    let chain = order.poll_certificate(&policy).await.map_err(ca)?;
    Ok(Issued { chain, key })
}

/// What the CA says of the challenge it did not accept.
async fn denied(order: &mut instant_acme::Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let problem = state.challenges.iter().find_map(|each| each.error.as_ref());
        if let Some(problem) = problem {
            return Some(problem.to_string());
        }
    }
    None
}

fn remedy(challenge: AcmeChallenge) -> &'static str {
    match challenge {
        AcmeChallenge::Http01 => {
            "the name must lead to this host (A and AAAA) and port 80 must reach web.http or the \
             server that serves acme.webroot"
        }
        AcmeChallenge::TlsAlpn01 => {
            "the name must lead to this host (A and AAAA) and port 443 must reach web.https"
        }
        AcmeChallenge::Dns01 => {
            "the zone's name servers must be those of dns.provider, and its CAA records must allow \
             this CA"
        }
    }
}

/// The key of the certificate that is in place; `None`: a new one has to be made.
async fn kept_key(config: &Config) -> Option<KeyPair> {
    let file = super::directory(config).join("privkey.pem");
    let pem = match tokio::fs::read_to_string(&file).await {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(target: "certificate", file = %file.display(), %error, "a new key is made");
            return None;
        }
    };
    let key = KeyPair::from_pem(&pem);
    key.inspect_err(
        |error| tracing::warn!(target: "certificate", file = %file.display(), %error, "a new key is made"),
    )
    .ok()
}

fn request(names: &[String], key: Option<KeyPair>) -> Result<(Vec<u8>, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(names).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    let key = match key {
        Some(key) => key,
        None => KeyPair::generate().map_err(text)?,
    };
    let request = params.serialize_request(&key).map_err(text)?;
    Ok((request.der().to_vec(), key.serialize_pem()))
}

/// Files in `acme.webroot`; they are removed when the order has ended, however it did.
#[derive(Default)]
struct Webroot(Vec<PathBuf>);

impl Webroot {
    fn put(&mut self, config: &Config, token: &str, answer: &str) -> Result<(), OrderError> {
        let dir = config
            .dir
            .join(&config.acme.webroot)
            .join(".well-known/acme-challenge");
        let file = dir.join(token);
        // A token is base64url by the RFC; a CA that sends a path gets none.
        let plain = token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let written = if plain && !token.is_empty() {
            self.0.push(file.clone());
            public(&dir, &file, answer)
        } else {
            Err(io::Error::other("the CA's token is not base64url"))
        };
        written.map_err(|error| OrderError::Webroot { file, error })
    }
}

impl Drop for Webroot {
    fn drop(&mut self) {
        for file in &self.0 {
            // One that was not written is not there.
            if let Err(error) = std::fs::remove_file(file)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(target: "certificate", file = %file.display(), %error, "can not be removed");
            }
        }
    }
}

/// Another server must read it, whatever our umask is.
fn public(dir: &Path, file: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    for made in [dir.parent().unwrap_or(dir), dir] {
        if !made.is_dir() {
            std::fs::create_dir_all(made)?;
            open(made, 0o755)?;
        }
    }
    std::fs::write(file, text)?;
    open(file, 0o644)
}

/// The account of `secrets/acme.json`, or a new one.
async fn account(config: &Config) -> Result<Account, OrderError> {
    let ca = |error| OrderError::Ca {
        directory: config.acme.directory.as_str().to_owned(),
        error,
    };
    let file = account_file(&config.dir);
    let broken = |error| OrderError::Account {
        file: file.clone(),
        error,
    };
    let builder = || {
        let tls = client::trusting(config)?.ok_or(OrderError::NoRoots)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok::<_, OrderError>(Account::builder_with_http(Box::new(client)))
    };
    match std::fs::read(&file) {
        Ok(text) => {
            let kept: Kept = serde_json::from_slice(&text).map_err(|error| broken(error.into()))?;
            // Another CA does not know this account.
            if kept.directory == config.acme.directory.as_str() {
                return builder()?
                    .from_credentials(kept.credentials)
                    .await
                    .map_err(ca);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(broken(error)),
    }
    let new = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = builder()?
        .create(&new, config.acme.directory.as_str().to_owned(), None)
        .await
        .map_err(ca)?;
    let kept = Kept {
        directory: config.acme.directory.as_str().to_owned(),
        credentials,
    };
    let text = serde_json::to_vec(&kept).map_err(|error| broken(error.into()))?;
    files::replace(&file, &text, MODE).map_err(broken)?;
    Ok(account)
}

/// `secrets/acme.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    directory: String,
    credentials: AccountCredentials,
}
