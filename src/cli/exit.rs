//! Exit codes, after sysexits.h.

use std::process::ExitCode;

use crate::auth::password::PasswordError;
use crate::config::ConfigError;
use crate::identity::IdentityError;
use crate::identity::edit::EditError;
use crate::signing::keys::KeyError;

/// The command line is wrong (EX_USAGE).
pub(super) const USAGE: u8 = 64;
/// What was asked for makes no sense (EX_DATAERR).
pub(super) const DATA: u8 = 65;
/// There is no such address (EX_NOUSER).
pub(super) const NO_USER: u8 = 67;
/// The password is wrong (EX_NOPERM).
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is wrong (EX_CONFIG).
pub(super) const CONFIG: u8 = 78;

/// What was asked for makes no sense, with what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Wrong(pub(super) String);

/// Prints an error and gives its exit code.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("chapar: {error:#}");
    code(error).into()
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        match cause.downcast_ref::<EditError>() {
            Some(EditError::Unusable(_)) => return CONFIG,
            Some(EditError::Request(_)) => return DATA,
            Some(EditError::Io { .. }) => return 1,
            None => {}
        }
        if cause.is::<ConfigError>() || cause.is::<IdentityError>() || cause.is::<KeyError>() {
            return CONFIG;
        }
        if cause.is::<Wrong>() || cause.is::<PasswordError>() {
            return DATA;
        }
    }
    1
}
