//! `chapar alias`: where mail to our addresses goes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::exit::{self, Wrong};
use crate::auth::dovecot;
use crate::config::Config;
use crate::identity::{Identity, Resolution, edit};

/// Add, remove and list aliases; show where an address leads
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add targets to an alias; '*@DOMAIN' is the catch-all
    #[command(after_help = "Example:\n  chapar alias add '*@example.org' me@gmail.example")]
    Add {
        /// The address whose mail is to go elsewhere.
        name: String,
        /// Where it goes.
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Remove an alias, or one target of it
    #[command(after_help = "Example:\n  chapar alias remove info@example.org me@gmail.example")]
    Remove {
        /// The alias.
        name: String,
        /// Only this target.
        target: Option<String>,
    },
    /// List aliases
    #[command(after_help = "Example:\n  chapar alias list example.org")]
    List {
        /// Only those of this domain.
        domain: Option<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print where mail to an address goes, one address a line, and on standard error each step that
    /// led there; exit code 67 if nowhere
    #[command(after_help = "Example:\n  chapar alias resolve info@example.org")]
    Resolve {
        /// The address.
        address: String,
    },
}

pub(super) fn run(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    match command {
        Command::Add { name, targets } => {
            let (local, domain) = split(&name)?;
            if edit::add_alias(&config.dir, &domain, local, &targets)? {
                super::hint_reload();
            } else {
                say!("{name} leads there already.");
            }
        }
        Command::Remove { name, target } => {
            let (local, domain) = split(&name)?;
            edit::remove_alias(&config.dir, &domain, local, target.as_deref())?;
            super::hint_reload();
        }
        Command::List { domain, json } => list(&config, domain.as_deref(), json)?,
        Command::Resolve { address } => return resolve(&config, &address),
    }
    Ok(ExitCode::SUCCESS)
}

fn split(name: &str) -> Result<(&str, String), Wrong> {
    let (local, domain) = name
        .rsplit_once('@')
        .ok_or_else(|| Wrong(format!("'{name}' has no domain; write info@example.org")))?;
    Ok((local, domain.to_ascii_lowercase()))
}

fn list(config: &Config, only: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    for (domain, found) in Identity::load(&config.dir, &config.postmaster)?.domains() {
        if only.is_some_and(|only| !only.eq_ignore_ascii_case(domain)) {
            continue;
        }
        for (name, targets) in found.aliases() {
            if as_json {
                say!(
                    "{}",
                    json!({ "alias": format!("{name}@{domain}"), "targets": targets })
                );
            } else {
                say!("{name}@{domain}: {}", targets.join(", "));
            }
        }
    }
    Ok(())
}

fn resolve(config: &Config, address: &str) -> anyhow::Result<ExitCode> {
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    if let Some(mailbox) = of_dovecot(config, &identity, address)? {
        say!("{mailbox}");
        return Ok(ExitCode::SUCCESS);
    }
    let (resolution, steps) = identity.explain(address);
    for step in steps {
        eprintln!("{step}");
    }
    match resolution {
        Resolution::Targets(targets) if targets.is_empty() => {
            eprintln!("Mail to {address} is taken and thrown away.");
            Ok(ExitCode::SUCCESS)
        }
        Resolution::Rejected(text) => {
            eprintln!("chapar: mail to {address} is refused: {text}");
            Ok(exit::NO_USER.into())
        }
        Resolution::Targets(targets) => {
            for target in targets {
                say!("{target}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Resolution::Remote => {
            say!("{address}");
            Ok(ExitCode::SUCCESS)
        }
        Resolution::Unknown => {
            eprintln!(
                "chapar: there is no {address}; `chapar alias add {address} TARGET` makes one"
            );
            Ok(exit::NO_USER.into())
        }
        Resolution::Refused(reason) => {
            eprintln!("chapar: mail to {address} is refused: {reason}; change the aliases file");
            Ok(exit::CONFIG.into())
        }
    }
}

/// The mailbox that only Dovecot knows, asked as the daemon asks at RCPT; what it says to each name
/// goes to standard error.
fn of_dovecot(
    config: &Config,
    identity: &Identity,
    address: &str,
) -> anyhow::Result<Option<String>> {
    let socket = Path::new(&config.auth.dovecot_users);
    let names = identity.ask_dovecot(address);
    if names.is_empty() || config.auth.dovecot_users.is_empty() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    for (name, target) in names {
        let asked = dovecot::exists(socket, config.auth.dovecot_time.0, &name);
        match runtime.block_on(asked) {
            Ok(true) => {
                eprintln!("{name}: Dovecot has a mailbox for it");
                return Ok(Some(target));
            }
            Ok(false) => eprintln!("{name}: Dovecot knows no such user"),
            Err(error) => {
                let socket = socket.display();
                let text = format!("Dovecot can not be asked about {name} ({socket}): {error}");
                return Err(Wrong(text).into());
            }
        }
    }
    Ok(None)
}
