//! The passwords of relays, which lie in files of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The password of a relay: the first line of a file that nobody else may read. Blocks.
pub fn read(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{error}; write the password into it, with mode 0600"))?;
    let mode = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "others can read it (mode {:o}); chmod 600 it",
            mode & 0o777
        ));
    }
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err("it is empty; write the password into it".to_owned()),
    }
}
