//! Exit codes, after sysexits.h.

use std::process::ExitCode;

use super::socket::Failure;
use crate::config::ConfigError;
use crate::control::protocol::RefusalKind;
use crate::identity::IdentityError;
use crate::identity::edit::EditError;
use crate::identity::password::PasswordError;
use crate::signing::keys::KeyError;

/// The command line is wrong (EX_USAGE).
pub(super) const USAGE: u8 = 64;
/// What was asked for makes no sense (EX_DATAERR).
pub(super) const DATA: u8 = 65;
/// There is no such message (EX_NOINPUT).
pub(super) const MISSING: u8 = 66;
/// There is no such address (EX_NOUSER).
pub(super) const NO_USER: u8 = 67;
/// The daemon can not be asked (EX_UNAVAILABLE).
pub(super) const UNAVAILABLE: u8 = 69;
/// A file, or standard output, can not be read or written (EX_IOERR).
pub(super) const IO: u8 = 74;
/// Not all could be done now; the same again may do the rest (EX_TEMPFAIL).
pub(super) const AGAIN: u8 = 75;
/// The password is wrong (EX_NOPERM).
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is wrong (EX_CONFIG).
pub(super) const CONFIG: u8 = 78;

/// What each code means to whoever called, in the order of codes.
pub(super) const MEANINGS: &[(u8, &str)] = &[
    (0, "It is done."),
    (
        1,
        "It could not be done; for check and status: something deserves a look.",
    ),
    (2, "For check and status: something is wrong."),
    (USAGE, "The command line is wrong."),
    (
        DATA,
        "What was asked for makes no sense, or what was read is damaged.",
    ),
    (MISSING, "There is no such message, user, alias or file."),
    (NO_USER, "There is no such address."),
    (
        UNAVAILABLE,
        "The daemon or the queue cannot be reached, or refuses for now.",
    ),
    (IO, "A file, or standard output, cannot be read or written."),
    (
        AGAIN,
        "Not all could be done now; the same command again may do the rest.",
    ),
    (NO_PERMISSION, "The password is wrong."),
    (CONFIG, "The configuration is wrong."),
];

/// What was asked for makes no sense, with what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Wrong(pub(super) String);

/// Mail to it is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} is of our domain and leads nowhere; `chapar alias resolve {0}` shows why")]
pub(super) struct NoSuchAddress(pub(super) String);

/// There is no such thing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Missing(pub(super) String);

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
        if cause.is::<Missing>() {
            return MISSING;
        }
        if cause.is::<NoSuchAddress>() {
            return NO_USER;
        }
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return match failure {
                Failure::Refused(refusal) if refusal.kind == RefusalKind::Wrong => DATA,
                _ => UNAVAILABLE,
            };
        }
        if cause.is::<Wrong>() || cause.is::<PasswordError>() {
            return DATA;
        }
    }
    1
}
