//! `chapar setup`: from nothing to a configuration that serves.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;

use super::exit::Wrong;
use super::site::{Did, NewConfig, Site};
use super::{password, records};
use crate::identity::{Mode, address};
use crate::intake::srs;

/// Where the queue lies on a host that runs chapar as its service.
const DATA_DIR: &str = "/var/lib/chapar";

/// Write configuration, keys and a first user for a domain, and print its DNS records
///
/// A certificate, too, if none is given. Run again, it makes what is missing and changes nothing
/// that exists.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    chapar setup example.org --forward me@gmail.example\n  \
    chapar setup example.org --dir ~/chapar --hostname mx.example.org\n\n\
    With --dir everything lies below DIR, the queue too: no privilege is needed but for ports below\n\
    1024. --cert and --key are copied; run setup again with them after a renewal.")]
pub(super) struct Args {
    /// The domain to send mail for.
    domain: String,
    /// Put chapar.toml and everything else into DIR.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where mail to any address of the domain goes; without it the domain is send-only.
    #[arg(long, value_name = "ADDRESS")]
    forward: Option<String>,
    /// The name of this host, as in the PTR of its address; default: mx.DOMAIN.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// An address of this host for its DNS records (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    ip: Vec<IpAddr>,
    /// A certificate chain for the host name, PEM; default: self-signed.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Where the queue lives; default: /var/lib/chapar, or DIR/data with --dir.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first user: the part before the @.
    #[arg(long, value_name = "NAME", default_value = "me")]
    user: String,
    /// Take the first user's password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(config: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let domain = args.domain.to_ascii_lowercase();
    address::check_domain(&domain).map_err(Wrong)?;
    let user = format!("{}@{domain}", args.user.to_lowercase());
    for address in args.forward.iter().chain([&user]) {
        address::check(address).map_err(Wrong)?;
    }
    let forward = args.forward.as_deref();
    if forward.is_some_and(|to| {
        to.rsplit_once('@')
            .is_some_and(|(_, own)| own.eq_ignore_ascii_case(&domain))
    }) {
        return Err(
            Wrong("--forward must lead to another domain, where the mail is read".into()).into(),
        );
    }
    let given = given(&args)?;

    let file = args
        .dir
        .as_ref()
        .map_or(config.to_path_buf(), |dir| dir.join("chapar.toml"));
    let mut site = Site::new(&file);
    let data_dir = match (&args.data_dir, &args.dir) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(_)) => PathBuf::from("data"),
        (None, None) => PathBuf::from(DATA_DIR),
    };
    let new = NewConfig {
        hostname: args
            .hostname
            .as_deref()
            .unwrap_or(&format!("mx.{domain}"))
            .to_ascii_lowercase(),
        data_dir,
        postmaster: args.forward.clone().unwrap_or_else(|| user.clone()),
        listeners: NewConfig::usual_listeners(),
        rest: String::new(),
    };
    let config = site.config(&new)?;
    let mode = site.domain(&domain, forward, Some(&args.user.to_lowercase()))?;
    site.certificate(&config.hostname, given, SystemTime::now())?;
    srs::Keys::load(&config.dir)?;
    let mut made = None;
    let first = site.first_user(&domain, &user, || {
        let (hash, password) = password::new(args.password_stdin)?;
        made = password;
        Ok(hash)
    })?;

    report(&site);
    if args
        .hostname
        .as_ref()
        .is_some_and(|name| !name.eq_ignore_ascii_case(&config.hostname))
    {
        say!(
            "{} says hostname = \"{}\"; it was kept.",
            file.display(),
            config.hostname
        );
    }
    if forward.is_some() && mode == Mode::SendOnly {
        say!("{domain} is send-only by its domain.toml; that was kept, --forward changed nothing.");
    }
    if first {
        say!("");
        password::show(&user, made.as_deref());
    }
    say!("\nDNS records of {domain}:");
    let ips = records::addresses(&config, &args.ip);
    records::print(&records::of(&config, &domain, &ips)?, false);
    say!(
        "\nThe PTR record of this host's addresses must be {}.; their hoster sets it.",
        config.hostname
    );
    say!(
        "Then: chapar check --config {0} && chapar serve --config {0}",
        file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn given(args: &Args) -> anyhow::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
        return Ok(None);
    };
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("{} can not be read", path.display()));
    let pair = (read(cert)?, read(key)?);
    super::certificate::check(&pair.0, &pair.1)
        .map_err(|why| Wrong(format!("{}: {why}", cert.display())))?;
    Ok(Some(pair))
}

fn report(site: &Site) {
    let wrote: Vec<_> = site
        .steps()
        .iter()
        .filter(|(_, did)| *did == Did::Wrote)
        .collect();
    for (path, _) in &wrote {
        say!("wrote {}", path.display());
    }
    let kept = site.steps().len() - wrote.len();
    match (wrote.len(), kept) {
        (_, 0) => {}
        (0, _) => say!("Nothing was missing: all {kept} files were kept as they are."),
        (_, _) => say!("kept {kept} files that exist"),
    }
}
