//! What the authenticator keeps on disk: the bans, and the secret behind fake SCRAM verifiers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ring::rand::{SecureRandom, SystemRandom};

use crate::config::{Config, files};

/// Bytes of the secret.
const SECRET: usize = 32;

/// Where things are, and the secret.
#[derive(Clone)]
pub struct AuthFiles {
    /// `data_dir`.
    pub(super) data_dir: PathBuf,
    /// The configuration directory, with the users in it.
    pub(super) dir: PathBuf,
    /// Makes verifiers for users who do not exist; the same after a restart, or a restart would
    /// tell who does.
    pub(super) secret: [u8; SECRET],
    /// Held by threads of the pool from before they look at the bans on disk until they have told
    /// the actor what they saw, so that it hears of the changes in their order.
    pub(super) bans: Arc<Mutex<()>>,
    /// Which list of regulars was written last, so that an older one never replaces it.
    pub(super) regulars: Arc<Mutex<u64>>,
    /// Whether it was said that verifiers can not be written.
    pub(super) told: Arc<AtomicBool>,
}

impl AuthFiles {
    /// Opens `auth/` in `data_dir`; makes the secret if there is none.
    pub fn open(config: &Config) -> io::Result<AuthFiles> {
        let dir = config.data_dir.join("auth");
        files::create_dir(&dir, 0o700)?;
        let secret = secret(&dir.join("scram.secret"))?;
        Ok(AuthFiles {
            data_dir: config.data_dir.clone(),
            dir: config.dir.clone(),
            secret,
            bans: Arc::default(),
            regulars: Arc::default(),
            told: Arc::default(),
        })
    }
}

fn secret(path: &Path) -> io::Result<[u8; SECRET]> {
    let mut made = [0; SECRET];
    SystemRandom::new()
        .fill(&mut made)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    files::create(path, &made, 0o600)?;
    std::fs::read(path)?.try_into().map_err(|_| {
        let problem = format!("{} has not {SECRET} bytes; remove it", path.display());
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_stays_the_same_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("secret");
        let first = secret(&path).expect("secret");
        assert_eq!(secret(&path).expect("secret"), first);
        let mode = std::fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "short").expect("write");
        assert!(secret(&path).is_err());
    }
}
