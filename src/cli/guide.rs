//! `chapar guide`: how a mail program is told of this server, ready to type.

use std::path::Path;
use std::process::ExitCode;

use super::exit::Wrong;
use crate::config::{Config, Service, TlsMode};
use crate::identity::app;
use crate::identity::{Identity, edit};

/// Show what to type into a mail program, field by field
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chapar guide gmail me@example.org\n  \
                  chapar guide thunderbird me@example.org --new-password")]
pub(super) struct Args {
    /// The program.
    #[arg(value_enum)]
    program: Program,
    /// One of our users.
    user: String,
    /// Make a password for this program alone and show it once; `chapar user app-password revoke`
    /// takes it back.
    #[arg(long)]
    new_password: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Program {
    /// Gmail's "Send mail as".
    Gmail,
    /// Thunderbird.
    Thunderbird,
    /// Apple's Mail on a Mac or a phone.
    Apple,
    /// Any other.
    Other,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Gmail => "Gmail",
            Program::Thunderbird => "Thunderbird",
            Program::Apple => "Apple Mail",
            Program::Other => "mail program",
        }
    }
}

pub(super) fn run(file: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let user = args.user.to_lowercase();
    if identity.user(&user).is_none() {
        let text = format!("there is no user {user}; `chapar user list` shows them");
        return Err(Wrong(text).into());
    }
    let mut password = "the one that setup or `chapar user add` showed".to_owned();
    if args.new_password {
        let (kept, made) = app::make(args.program.name())?;
        edit::add_app_password(&config.dir, &user, &kept)?;
        password = format!("{made}    (shown only now)");
    }
    let ways = Ways::of(&config);
    let Some((port, security)) = ways.best() else {
        return Err(Wrong(
            "no listener takes mail from users: chapar.toml needs a [[listen]] with service = \
             \"submission\""
                .into(),
        )
        .into());
    };
    let host = &config.hostname;
    match args.program {
        Program::Gmail => {
            let forward = "the message with its code comes to where mail to this address goes";
            say!(
                "In Gmail: Settings, See all settings, Accounts and Import, Send mail as, Add another \
                 email address.\n"
            );
            say!("First window");
            say!("  Name            as others shall see it");
            say!("  Email address   {user}");
            say!("  Treat as an alias   yes if its mail comes to this Gmail, else no\n");
            say!("Second window");
            say!("  SMTP Server     {host}");
            say!("  Port            {port}");
            say!("  Username        {user}");
            say!("  Password        {password}");
            say!("  Secured connection using   {}\n", security.gmail());
            say!("Then Add Account; {forward}:");
            say!("  chapar trace {user} --since 10m    shows it on its way");
            let (own, trusted) = certificate(&config);
            if !trusted {
                say!("\nGmail refuses {own}: chapar setup with --acme gets one from a CA.");
            }
        }
        Program::Thunderbird | Program::Apple | Program::Other => {
            say!("Outgoing mail (SMTP)");
            say!("  Server          {host}");
            say!("  Port            {port}");
            say!("  Security        {}", security.name());
            say!("  Authentication  normal password");
            say!("  User name       {user}");
            say!("  Password        {password}");
            if let Some((port, security)) = ways.second() {
                say!("Or port {port} with {}.", security.name());
            }
            if !config.web.imap.is_empty() {
                say!(
                    "\nIncoming mail (IMAP)\n  Server          {}",
                    config.web.imap
                );
            }
            let domain = user.rsplit_once('@').map_or("", |(_, domain)| domain);
            if !config.web.https.is_empty() {
                match args.program {
                    Program::Thunderbird => {
                        say!(
                            "\nThunderbird finds all of it by itself: type the address and Continue."
                        );
                    }
                    Program::Apple if !config.web.imap.is_empty() => say!(
                        "\nOr open on the device, and install the profile:\n  \
                         https://autoconfig.{domain}/apple.mobileconfig?email={user}"
                    ),
                    _ => {}
                }
            }
        }
    }
    if args.new_password {
        super::hint_reload();
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of the certificate: what it is, and whether strangers trust it.
fn certificate(config: &Config) -> (String, bool) {
    let path = crate::tls::server::files(config).0;
    let facts = std::fs::read(path)
        .ok()
        .and_then(|pem| crate::tls::certificate::Facts::of_pem(&pem).ok());
    match facts {
        Some(facts) if facts.self_signed => {
            ("the self-signed certificate of this host".into(), false)
        }
        Some(facts) if !facts.covers(&config.hostname) => (
            format!("a certificate that is not for {}", config.hostname),
            false,
        ),
        Some(_) => ("the certificate".into(), true),
        None => ("a host without a certificate".into(), false),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Implicit,
    Starttls,
}

impl Security {
    fn gmail(self) -> &'static str {
        match self {
            Security::Implicit => "SSL",
            Security::Starttls => "TLS",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Security::Implicit => "SSL/TLS",
            Security::Starttls => "STARTTLS",
        }
    }
}

struct Ways(Vec<(u16, Security)>);

impl Ways {
    fn of(config: &Config) -> Ways {
        let mut ways = Vec::new();
        for (tls, usual, security) in [
            (TlsMode::Implicit, 465, Security::Implicit),
            (TlsMode::Starttls, 587, Security::Starttls),
        ] {
            let listen = config
                .listeners
                .iter()
                .find(|listen| listen.service == Service::Submission && listen.tls == tls);
            if let Some(listen) = listen {
                let port = listen.address.rsplit_once(':');
                let port = port.and_then(|(_, port)| port.parse().ok());
                ways.push((port.unwrap_or(usual), security));
            }
        }
        Ways(ways)
    }

    fn best(&self) -> Option<(u16, Security)> {
        self.0.first().copied()
    }

    fn second(&self) -> Option<(u16, Security)> {
        self.0.get(1).copied()
    }
}
