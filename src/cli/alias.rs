//! `chapar alias`: where mail to our addresses goes.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::exit::{self, Wrong};
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
    let (resolution, steps) = Identity::load(&config.dir, &config.postmaster)?.explain(address);
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
