//! Everything the daemon reads from files, loaded whole or not at all (I8).

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, ConfigError, TlsMode};
use crate::identity::{Identity, IdentityError};
use crate::intake::outside::Outside;
use crate::intake::srs;
use crate::signing::{Keys, KeysError};
use crate::tls::server::{self, CertificateError};

/// A configuration directory in memory.
pub struct Loaded {
    /// `chapar.toml`.
    pub config: Arc<Config>,
    /// `domains/`.
    pub identity: Arc<Identity>,
    /// `secrets/dkim/`.
    pub keys: Keys,
    /// `secrets/srs.key`.
    pub outside: Outside,
    /// `secrets/tls/`; `None` where no listener speaks TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// What can not be used, each with file and remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `chapar.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of a domain.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A DKIM key.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The keys of SRS.
    #[error(transparent)]
    Srs(#[from] srs::KeysError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Reads all that `file` leads to.
pub fn load(file: &Path) -> Result<Loaded, LoadError> {
    let mut config = Config::load(file)?.with_providers()?;
    config.check_to_serve(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    // Mailboxes are ours whatever a route with a wildcard says.
    config.routes.splice(..0, identity.routes());
    let keys = Keys::load(&config.dir, &identity)?;
    let wanted = config
        .listeners
        .iter()
        .any(|listen| listen.tls != TlsMode::None);
    let tls = if wanted {
        Some(server::load(&config)?)
    } else {
        None
    };
    let outside = Outside::new(srs::Keys::load(&config.dir)?, &config.hooks);
    Ok(Loaded {
        config: Arc::new(config),
        identity: Arc::new(identity),
        keys,
        outside,
        tls,
    })
}
