//! The passwords of relays, which lie in files of their own.

use std::path::Path;

use crate::config::files;

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
