//! `chapar user app-password`: passwords of single programs and devices.

use serde_json::json;

use crate::auth::last_use;
use crate::config::Config;
use crate::identity::app;
use crate::identity::{Identity, edit};

/// What can be done with app passwords
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make one and show it, once
    #[command(after_help = "Example:\n  chapar user app-password add me@example.org phone")]
    Add {
        /// The user's address.
        address: String,
        /// What it is for.
        label: String,
    },
    /// List them with their last use
    #[command(after_help = "Example:\n  chapar user app-password list me@example.org")]
    List {
        /// The user's address.
        address: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Take one back: it does not work any more
    #[command(after_help = "Example:\n  chapar user app-password revoke me@example.org phone")]
    Revoke {
        /// The user's address.
        address: String,
        /// Its label, or its id where several have the label.
        which: String,
    },
}

pub(super) fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    let dir = config.dir.as_path();
    match command {
        Command::Add { address, label } => {
            app::check_label(&label).map_err(edit::EditError::Request)?;
            let (kept, password) = app::make(&label)?;
            edit::add_app_password(dir, &address, &kept)?;
            super::password::show(&address.to_lowercase(), Some(&password));
            super::hint_reload();
        }
        Command::List { address, json } => list(config, &address, json)?,
        Command::Revoke { address, which } => {
            edit::revoke_app_password(dir, &address, &which)?;
            super::hint_reload();
        }
    }
    Ok(())
}

fn list(config: &Config, address: &str, as_json: bool) -> anyhow::Result<()> {
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let Some(user) = identity.user(address) else {
        let problem = format!("there is no user {address}; `chapar user list` shows them");
        return Err(edit::EditError::Request(problem).into());
    };
    let uses = last_use::load(&config.data_dir);
    for app in &user.app_passwords {
        let used = uses.get(&app.id).copied();
        if as_json {
            say!(
                "{}",
                json!({ "id": app.id, "label": app.label, "last_use": used })
            );
            continue;
        }
        let used = used
            .and_then(|used| i64::try_from(used).ok())
            .and_then(|used| jiff::Timestamp::from_millisecond(used).ok())
            .map_or("never".to_owned(), |used| {
                used.strftime("%Y-%m-%d %H:%M UTC").to_string()
            });
        say!("{}  {}  last used: {used}", app.id, app.label);
    }
    Ok(())
}
