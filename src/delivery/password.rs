//! The passwords of relays, which lie in files of their own.

use std::path::Path;

use super::reach::Target;
use super::verdict::Verdict;
use crate::config::{Config, files};
use crate::smtp::client::Login;

/// Bytes of such a file.
const MOST: u64 = 64 * 1024;

/// The password of a relay: the first line of a file that nobody else may read. Blocks.
pub fn read(path: &Path) -> Result<String, String> {
    let text = files::secret(path, MOST).map_err(|error| match path.exists() {
        true => error,
        false => format!("{error}; write the password into it, with mode 0600"),
    })?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err("it is empty; write the password into it".to_owned()),
    }
}

/// Who we are to a relay. A password that can not be read is for the operator to correct: the mail
/// waits.
pub(super) async fn login(config: &Config, target: &Target) -> Result<Option<Login>, Verdict> {
    let Some(hop) = &target.hop else {
        return Ok(None);
    };
    let (Some(user), Some(file)) = (&hop.user, hop.password_file()) else {
        return Ok(None);
    };
    let path = config.dir.join(file);
    let read = tokio::task::spawn_blocking({
        let path = path.clone();
        move || read(&path)
    });
    let found = read
        .await
        .unwrap_or_else(|_| Err("it could not be read".to_owned()));
    let password = found.map_err(|problem| {
        let problem = format!("{}: {problem}", path.display());
        tracing::error!(target: "alarm", relay = %hop, problem, "no password for a relay");
        Verdict::deferred(451, "4.3.5", &format!("no password for {hop}; see the log"))
    })?;
    let nonce = std::iter::repeat_with(fastrand::alphanumeric)
        .take(24)
        .collect();
    Ok(Some(Login {
        user: user.clone(),
        password,
        nonce,
    }))
}
