//! A password from standard input: never an argument, which every process may read.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::identity::password::{self, Secrets};

/// The first line of standard input. A terminal is asked, without echo.
pub(super) fn read() -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line().context("no password on standard input");
    }
    silently("Password: ")?.context("no password typed")
}

/// What is typed at a terminal, which does not show it.
pub(super) fn silently(prompt: &str) -> io::Result<io::Result<Vec<u8>>> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    // Now: what is typed before is not read.
    eprint!("{prompt}");
    let typed = line();
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    Ok(typed)
}

fn line() -> io::Result<Vec<u8>> {
    let mut typed = Vec::new();
    let most = u64::try_from(password::LONGEST)
        .unwrap_or(u64::MAX)
        .saturating_add(3);
    io::stdin()
        .lock()
        .take(most)
        .read_until(b'\n', &mut typed)?;
    while typed
        .last()
        .is_some_and(|last| matches!(last, b'\r' | b'\n'))
    {
        typed.pop();
    }
    Ok(typed)
}

/// What is kept of a password, and the password too if it was made here and must be shown.
pub(super) fn new(from_stdin: bool) -> anyhow::Result<(Secrets, Option<String>)> {
    if from_stdin {
        return Ok((password::secrets(&read()?)?, None));
    }
    let made = password::generate()?;
    Ok((password::secrets(made.as_bytes())?, Some(made)))
}

/// What is kept of a password, and the password itself, whoever made it.
pub(super) fn new_known(from_stdin: bool) -> anyhow::Result<(Secrets, String, bool)> {
    if from_stdin {
        let read = read()?;
        let secrets = password::secrets(&read)?;
        return Ok((secrets, String::from_utf8_lossy(&read).into_owned(), false));
    }
    let made = password::generate()?;
    Ok((password::secrets(made.as_bytes())?, made, true))
}

/// Shows a password that was made here.
pub(super) fn show(address: &str, made: Option<&str>) {
    if let Some(password) = made {
        say!("User:     {address}\nPassword: {password}    (shown only now)");
    }
}
