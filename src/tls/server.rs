//! The certificate our listeners show, read from `secrets/tls/HOST/` or from where
//! `tls.certificate` and `tls.key` say.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::config::{Config, TlsVersion};

/// A certificate or key that can not be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct CertificateError {
    file: PathBuf,
    problem: String,
}

static ANY: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];

/// The versions `tls.min_version` allows.
pub fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        TlsVersion::V12 => ANY,
        TlsVersion::V13 => NEWEST,
    }
}

/// Where the chain and the key of `config.hostname` lie.
pub fn files(config: &Config) -> (PathBuf, PathBuf) {
    let tls = &config.tls;
    if !tls.certificate.is_empty() {
        return (config.dir.join(&tls.certificate), config.dir.join(&tls.key));
    }
    let dir = config.dir.join("secrets/tls").join(&config.hostname);
    (dir.join("fullchain.pem"), dir.join("privkey.pem"))
}

/// Reads the chain and key of `config.hostname`. Each call makes its own session ticket keys.
pub fn load(config: &Config) -> Result<Arc<ServerConfig>, CertificateError> {
    let (chain_file, key_file) = files(config);
    // Where others keep keys a group often may read them, such as Debian's ssl-cert.
    let others = match config.tls.key.is_empty() {
        true => 0o077,
        false => 0o037,
    };
    let broken = |file: &Path, problem: String| CertificateError {
        file: file.to_owned(),
        problem,
    };
    let chain = CertificateDer::pem_file_iter(&chain_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| broken(&chain_file, remedy(error)))?;
    private(&key_file, others).map_err(|problem| broken(&key_file, problem))?;
    let pem = fs::read(&key_file).map_err(|error| broken(&key_file, error.to_string()))?;
    if let Some(problem) = crate::pem::no_key(&pem) {
        return Err(broken(&key_file, problem));
    }
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|error| broken(&key_file, remedy(error)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(config.tls.min_version))
        .map_err(|error| broken(&chain_file, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map(Arc::new)
        .map_err(|error| {
            broken(
                &chain_file,
                format!("{error}; do chain and key belong together?"),
            )
        })
}

fn remedy(error: rustls::pki_types::pem::Error) -> String {
    format!("{error}; put a PEM file there, `chapar setup DOMAIN` makes a self-signed one")
}

/// A key that others may read is a key that others have (I9).
fn private(file: &Path, others: u32) -> Result<(), String> {
    let open = File::open(file).and_then(|file| file.metadata());
    let mode = open
        .map_err(|error| error.to_string())?
        .permissions()
        .mode();
    if mode & others == 0 {
        return Ok(());
    }
    let name = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    Err(format!(
        "others may read it (mode {:o}); chmod 600 {}",
        mode & 0o777,
        name.display()
    ))
}
