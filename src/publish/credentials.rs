//! What it takes to log in at a provider: `secrets/dns/PROVIDER.toml`, which nobody else may read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::ClientConfig;
use serde::de::DeserializeOwned;

use super::{Problem, Provider};
use crate::config::{Config, files};
use crate::tls::client;

/// Bytes of such a file.
const MOST: u64 = 64 * 1024;

/// Where it is.
pub fn file(dir: &Path, provider: Provider) -> PathBuf {
    dir.join("secrets/dns")
        .join(format!("{}.toml", provider.name()))
}

/// What it says.
///
/// # Errors
///
/// It is not there, or others can read it: [`Problem::Credentials`], which tells what belongs there.
pub fn read(dir: &Path, provider: Provider) -> Result<String, Problem> {
    let file = file(dir, provider);
    files::secret(&file, MOST).map_err(|problem| Problem::Credentials {
        file,
        problem,
        wants: provider.wants(),
    })
}

/// The file's text and what else a provider is made of.
pub(super) struct Read {
    pub(super) provider: Provider,
    pub(super) file: PathBuf,
    text: String,
    /// Trusts the system's roots and those of `tls.ca_file`; `None`: nobody.
    pub(super) tls: Option<ClientConfig>,
    /// How long one answer may take.
    pub(super) time: Duration,
}

impl Read {
    pub(super) fn new(config: &Config, provider: Provider) -> Result<Read, Problem> {
        let text = read(&config.dir, provider)?;
        let tls = client::trusting(config).map_err(|error| Problem::Away {
            provider: provider.name(),
            why: error.to_string(),
        })?;
        Ok(Read {
            provider,
            text,
            tls,
            time: config.dns.provider_time.0,
            file: file(&config.dir, provider),
        })
    }

    /// What the file says.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        toml::from_str(&self.text).map_err(|error| {
            // The message of the parser shows the line, which is secret.
            self.wrong(
                error
                    .message()
                    .lines()
                    .next()
                    .unwrap_or("it can not be read"),
            )
        })
    }

    /// Something in the file is not right.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> Problem {
        Problem::Credentials {
            file: self.file.clone(),
            problem: problem.into(),
            wants: self.provider.wants(),
        }
    }
}

/// What most have.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) token: String,
    /// Another place of the API (labs).
    pub(super) url: Option<String>,
}
