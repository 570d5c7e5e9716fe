//! `chapar auth`: who is kept from logging in.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{exit, owner};
use crate::auth::bans;
use crate::config::Config;

/// Show and lift the bans of those who guessed passwords
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List who may not log in for now, or let an address in again. A running daemon notices at
    /// the next login from there.
    #[command(after_help = "Examples:\n  chapar auth bans\n  chapar auth bans --clear 192.0.2.1")]
    Bans {
        /// Let this address log in again; of an IPv6 address, its /64.
        #[arg(long, value_name = "ADDRESS")]
        clear: Option<IpAddr>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    owner::step_down(&config)?;
    let now = crate::time::now();
    match command {
        Command::Bans {
            clear: Some(address),
            ..
        } => {
            if !bans::clear(&config.data_dir, address, now)? {
                let problem = format!("{address} is not banned; `chapar auth bans` shows who is");
                return Err(exit::Wrong(problem).into());
            }
            say!("{address} may log in again.");
        }
        Command::Bans { clear: None, json } => list(&config, json, now),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, json: bool, now: u64) {
    let bans = bans::load(&config.data_dir, now);
    if !json && bans.is_empty() {
        say!("Nobody is banned.");
    }
    for ban in bans {
        let network = match ban.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("{address}/64"),
        };
        let until = i64::try_from(ban.until)
            .ok()
            .and_then(|until| jiff::Timestamp::from_millisecond(until).ok())
            .map(|until| until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default();
        if json {
            let object = json!({
                "address": network,
                "until": until,
                "guesses": ban.guesses,
                "user": ban.user,
                "only_user": ban.only_user,
            });
            say!("{object}");
        } else {
            // The name is what a stranger sent.
            let (guesses, user) = (ban.guesses, &ban.user);
            match ban.only_user {
                true => say!("{network}  until {until}  {user:?} alone, after {guesses} guesses"),
                false => {
                    say!("{network}  until {until}  after {guesses} guesses, the last as {user:?}")
                }
            }
        }
    }
}
