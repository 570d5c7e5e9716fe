//! `chapar user`: who may log in.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{app_password, exit, password};
use crate::config::Config;
use crate::identity::password as hashing;
use crate::identity::{Identity, edit};

/// Add, remove, list and verify users
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a user
    ///
    /// Without --password-stdin a password is made and shown once.
    #[command(after_help = "Examples:\n  chapar user add me@example.org\n  \
        pass show mail | chapar user add me@example.org --password-stdin --send-as '*@example.org'")]
    Add {
        /// The user's address; its domain must be ours.
        address: String,
        /// Read the password from standard input (its first line; a terminal asks).
        #[arg(long)]
        password_stdin: bool,
        /// It gets mail and can not log in: no password is made.
        #[arg(long, conflicts_with_all = ["password_stdin", "send_as"])]
        receive_only: bool,
        /// Another address to send as, or *@DOMAIN (repeat it for more).
        #[arg(long, value_name = "ADDRESS")]
        send_as: Vec<String>,
    },
    /// Remove a user
    #[command(after_help = "Example:\n  chapar user remove me@example.org")]
    Remove {
        /// The user's address.
        address: String,
    },
    /// List users
    #[command(after_help = "Example:\n  chapar user list example.org")]
    List {
        /// Only those of this domain.
        domain: Option<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Say whether a password is the user's; exit code 77 if not
    #[command(
        after_help = "Example:\n  pass show mail | chapar user verify me@example.org --password-stdin"
    )]
    Verify {
        /// The user's address.
        address: String,
        /// Read the password from standard input; that is also what happens without this.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Passwords of single programs or devices, which can be taken back alone
    #[command(
        subcommand,
        after_help = "Example:\n  chapar user app-password add me@example.org phone"
    )]
    AppPassword(app_password::Command),
    /// Give a user another password
    ///
    /// Without --password-stdin one is made and shown once.
    #[command(after_help = "Example:\n  chapar user passwd me@example.org")]
    Passwd {
        /// The user's address.
        address: String,
        /// Read the password from standard input (its first line; a terminal asks).
        #[arg(long)]
        password_stdin: bool,
    },
}

pub(super) fn run(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let dir = config.dir.as_path();
    match command {
        Command::Add {
            address,
            password_stdin,
            receive_only,
            send_as,
        } => {
            if receive_only {
                edit::add_receiver(dir, &address)?;
                super::hint_reload();
                return Ok(ExitCode::SUCCESS);
            }
            let (secrets, made) = password::new(password_stdin)?;
            edit::add_user(dir, &address, &secrets, &send_as)?;
            password::show(&address.to_lowercase(), made.as_deref());
            super::hint_reload();
        }
        Command::Passwd {
            address,
            password_stdin,
        } => {
            let (secrets, made) = password::new(password_stdin)?;
            edit::set_password(dir, &address, &secrets)?;
            password::show(&address.to_lowercase(), made.as_deref());
            super::hint_reload();
        }
        Command::AppPassword(command) => app_password::run(&config, command)?,
        Command::Remove { address } => {
            edit::remove_user(dir, &address)?;
            super::hint_reload();
        }
        Command::List { domain, json } => list(&config, domain.as_deref(), json)?,
        Command::Verify {
            address,
            password_stdin: _,
        } => return verify(&config, &address),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, only: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    for (domain, found) in Identity::load(&config.dir, &config.postmaster)?.domains() {
        if only.is_some_and(|only| !only.eq_ignore_ascii_case(domain)) {
            continue;
        }
        for (local, user) in found.users() {
            let (address, send_as) = (format!("{local}@{domain}"), &user.send_as);
            if as_json {
                say!("{}", json!({ "address": address, "send_as": send_as }));
            } else if send_as.is_empty() {
                say!("{address}");
            } else {
                say!("{address}  sends as {}", send_as.join(", "));
            }
        }
    }
    Ok(())
}

fn verify(config: &Config, address: &str) -> anyhow::Result<ExitCode> {
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let Some(user) = identity.user(address) else {
        eprintln!("chapar: there is no user {address}; `chapar user list` shows them");
        return Ok(exit::NO_USER.into());
    };
    if hashing::verify(&password::read()?, &user.password) {
        say!("The password is right.");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("chapar: the password is wrong; `chapar user passwd {address}` sets another");
    Ok(exit::NO_PERMISSION.into())
}
