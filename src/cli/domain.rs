//! `chapar domain`: which domains are ours.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::panel::Format;
use super::records;
use super::site::{Did, Leads, Site};
use crate::config::Config;
use crate::identity::Identity;

/// List and add domains
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List our domains with mode, DKIM selectors, and how many users and aliases they have
    #[command(after_help = "Example:\n  chapar domain list --json")]
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Make a domain ours: its directory, files and DKIM keys
    ///
    /// What exists is kept.
    #[command(after_help = "Example:\n  chapar domain add example.net --forward me@gmail.example")]
    Add {
        /// The domain.
        domain: String,
        /// Where mail to any address of it goes; without it the domain is send-only.
        #[arg(long, value_name = "ADDRESS")]
        forward: Option<String>,
        /// Where its users' mail goes: maildir:/path/{domain}/{local} or lmtp:/path/of/socket; with
        /// --forward, mail to other addresses goes there.
        #[arg(long, value_name = "TARGET")]
        mailbox: Option<String>,
    },
}

pub(super) fn run(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    match command {
        Command::List { json } => list(&config, json)?,
        Command::Add {
            domain,
            forward,
            mailbox,
        } => {
            let leads = Leads {
                forward: forward.as_deref(),
                mailbox: mailbox.as_deref(),
            };
            add(&config, file, &domain, leads)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, as_json: bool) -> anyhow::Result<()> {
    for (name, domain) in Identity::load(&config.dir, &config.postmaster)?.domains() {
        let (users, aliases) = (domain.users().count(), domain.aliases().count());
        let (mode, selectors) = (domain.mode.as_str(), &domain.selectors);
        if as_json {
            let line = json!({
                "domain": name, "mode": mode, "selectors": selectors, "users": users, "aliases": aliases,
            });
            say!("{line}");
        } else {
            let selectors = selectors.join(" ");
            say!("{name}  {mode}, users {users}, aliases {aliases}, DKIM {selectors}");
        }
    }
    Ok(())
}

fn add(config: &Config, file: &Path, domain: &str, leads: Leads<'_>) -> anyhow::Result<()> {
    let domain = domain.to_ascii_lowercase();
    let mut site = Site::new(file);
    site.domain(&domain, leads, None)?;
    if !domain.starts_with('*') {
        site.no_users(&domain)?;
    }
    let wrote = site.steps().iter().filter(|(_, did)| *did == Did::Wrote);
    for (path, _) in wrote {
        say!("wrote {}", path.display());
    }
    say!("\nDNS records of {domain}:");
    let ips = records::addresses(config, &[]);
    Format::Zone.print(&domain, &records::of(config, &domain, &ips)?);
    super::hint_reload();
    Ok(())
}
