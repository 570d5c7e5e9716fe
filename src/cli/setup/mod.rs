//! `chapar setup`: from nothing to a configuration that serves.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

mod ask;
mod found;
mod prove;
mod rehearsal;
mod remarks;
pub(in crate::cli) mod spf;

use super::exit::Wrong;
use super::panel::Format;
use super::site::{Did, Leads, NewConfig, Site};
use super::{password, publish, records};
use crate::config::{AcmeChallenge, Config, HttpsUrl, files};
use crate::doctor::{Level, list};
use crate::identity::{Mode, address};
use crate::intake::srs;
use crate::publish::data::Record;
use crate::publish::{Provider, Publisher, credentials_file, read_credentials};
use found::Found;

/// Where the queue lies on a host that runs chapar as its service.
const DATA_DIR: &str = "/var/lib/chapar";
/// Bytes of a file of credentials.
const CREDENTIALS: u64 = 64 * 1024;
/// How long the zone's servers may take to show what was published.
const SEEN: Duration = Duration::from_secs(120);

/// Write configuration, keys and a first user for a domain, and print its DNS records
///
/// A certificate, too, if none is given. Then it starts the service and proves it: logs in on every
/// port for users, puts a message through the queue, verifies its signatures with the keys in the
/// DNS, and with --test-to follows one to its end. Run again, it makes what is missing and changes
/// nothing that exists. On a terminal it asks for what it can not find out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    chapar setup example.org --forward me@gmail.example --acme\n  \
    chapar setup example.org --acme --dns cloudflare --dns-credentials token.toml\n  \
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
    /// Only send from here: mail to the domain goes where its MX says.
    #[arg(long, conflicts_with = "forward")]
    send_only: bool,
    /// The name of this host, as in the PTR of its address; default: that of the PTR if it is a
    /// name of its own and leads back, else mx.DOMAIN.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// An address of this host for its DNS records (repeat it for more); default: found out.
    #[arg(long, value_name = "ADDRESS", num_args = 1..)]
    ip: Vec<IpAddr>,
    /// Ask a server elsewhere which addresses it sees (behind NAT nothing else knows them):
    /// OpenDNS, or this one that answers myip.opendns.com alike.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, conflicts_with = "ip")]
    ask_ip: Option<Option<SocketAddr>>,
    /// A domain whose mail host is tried, to see whether port 25 is open on the way out.
    #[arg(long, value_name = "DOMAIN", default_value = "gmail.com")]
    probe: String,
    /// A certificate chain for the host name, PEM; default: self-signed.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Have the certificate from Let's Encrypt, renewed by itself; this agrees to its terms of
    /// service. Ports 80 and 443 of this host must be free and reachable.
    #[arg(long, conflicts_with = "cert")]
    acme: bool,
    /// Another CA that speaks ACME.
    #[arg(long, value_name = "URL", requires = "acme")]
    acme_directory: Option<HttpsUrl>,
    /// How the CA is shown that the name is ours; default: dns-01 with --dns, else http-01.
    #[arg(long, value_name = "CHALLENGE", requires = "acme")]
    acme_challenge: Option<AcmeChallenge>,
    /// Publish the DNS records where the zone is, now and whenever they change (docs/dns.md); it
    /// takes credentials in secrets/dns/PROVIDER.toml.
    #[arg(long, value_enum, value_name = "PROVIDER")]
    dns: Option<Provider>,
    /// Take these credentials: a file as secrets/dns/PROVIDER.toml, mode 0600; it is copied.
    #[arg(long, value_name = "FILE", requires = "dns")]
    dns_credentials: Option<PathBuf>,
    /// Where the queue lives; default: /var/lib/chapar, or DIR/data with --dir.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first user: the part before the @.
    #[arg(long, value_name = "NAME", default_value = "me")]
    user: String,
    /// Ask this DNS server, now and later (repeat it for more); default: the system's, and with
    /// --dir none now.
    #[arg(long, value_name = "ADDRESS:PORT")]
    resolver: Vec<SocketAddr>,
    /// Send a test message to this address elsewhere and follow it.
    #[arg(long, value_name = "ADDRESS")]
    test_to: Option<String>,
    /// Neither start the service nor prove anything.
    #[arg(long)]
    no_start: bool,
    /// Ask nothing, also on a terminal.
    #[arg(long, short)]
    yes: bool,
    /// Show what would be done and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// The copy in which a rehearsal works.
    #[arg(long, hide = true, requires = "dry_run")]
    rehearsal: Option<PathBuf>,
    /// Take the first user's password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
    /// A rehearsal of a setup that would ask the system's DNS servers.
    #[arg(skip)]
    asks: bool,
    /// A rehearsal.
    #[arg(skip)]
    rehearses: bool,
    /// Credentials that were typed.
    #[arg(skip)]
    typed: Option<String>,
}

pub(super) fn run(config: &Path, mut args: Args) -> anyhow::Result<ExitCode> {
    if args.dry_run && args.rehearsal.is_none() {
        return rehearsal::apart();
    }
    let file = args
        .dir
        .as_ref()
        .map_or(config.to_path_buf(), |dir| dir.join("chapar.toml"));
    ask::fill(&file, &mut args);
    if let Some(server) = args.ask_ip {
        args.ip = found::seen_addresses(server);
        match args.ip.is_empty() {
            true => say!("Nobody could be asked which address this host has; give it with --ip."),
            false => say!("Others see this host at {}.", list(&args.ip)),
        }
        args.ask_ip = None;
    }
    if let Some(copy) = args.rehearsal.take() {
        return rehearsal::run(config, args, copy);
    }
    let domain = args.domain.to_ascii_lowercase();
    address::check_domain(&domain).map_err(Wrong)?;
    let user = format!("{}@{domain}", args.user.to_lowercase());
    for address in args.forward.iter().chain(&args.test_to).chain([&user]) {
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
    let credentials = credentials(&args)?;
    if let (Some(provider), None) = (args.dns, &credentials) {
        // Without them nothing can be published.
        read_credentials(super::directory(&file), provider)?;
    }

    let mut site = Site::new(&file);
    let data_dir = match (&args.data_dir, &args.dir) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(_)) => PathBuf::from("data"),
        (None, None) => PathBuf::from(DATA_DIR),
    };
    let new = NewConfig {
        hostname: hostname(&file, &args, &domain),
        data_dir,
        postmaster: args.forward.clone().unwrap_or_else(|| user.clone()),
        listeners: NewConfig::usual_listeners(),
        rest: acme(&args) + &dns(&args),
    };
    let config = site.config(&new)?;
    let provider = args.dns.or(config.dns.provider.0);
    if let Some(provider) = args.dns
        && let Some(text) = &credentials
        && !publish::take_credentials(&config.dir, provider, text)?
    {
        let kept = credentials_file(&config.dir, provider);
        say!("{} exists and was kept", kept.display());
    }
    if let Some(provider) = provider {
        // Before anything else is made.
        Publisher::of(&config, provider)?;
    }
    let ips = records::addresses(&config, &args.ip);
    // A directory of one's own is a lab until it is told whom to ask.
    let asks = args.asks || args.dir.is_none() || !args.resolver.is_empty();
    let mut found = match asks {
        true => found::look(&config.dns, &domain, &ips),
        false => Found::default(),
    };
    if asks && config.routes.is_empty() {
        found.outbound = found::reach(&config, &ips, &args.probe);
    }
    let mode = site.domain(
        &domain,
        Leads {
            forward,
            mailbox: None,
        },
        Some(&args.user.to_lowercase()),
    )?;
    site.certificate(&config.hostname, given, SystemTime::now())?;
    srs::Keys::load(&config.dir)?;
    let (mut made, mut known) = (None, None);
    let first = site.first_user(&domain, &user, || {
        let (secrets, password, shown) = password::new_known(args.password_stdin)?;
        made = shown.then(|| password.clone());
        known = Some(password);
        Ok(secrets)
    })?;

    report(&site);
    if args.acme && !config.acme.enabled {
        say!(
            "{} was kept and has no ACME; for a certificate from a CA add:\n{}",
            file.display(),
            acme(&args)
        );
    }
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
    let mut records = records::of(&config, &domain, &ips)?;
    let publishes = provider.filter(Provider::keeps_zones);
    match publishes {
        Some(provider) => {
            let outcome = publish::publish(&config, provider, &domain, &records, args.rehearses)?;
            if args.dns.is_some() && config.dns.provider.0 != args.dns {
                say!(
                    "{} was kept; so that keys can be rotated later write into its [dns]: provider = \"{}\"",
                    file.display(),
                    provider.name()
                );
            }
            if !args.rehearses && !args.no_start {
                seen(&config, provider, &outcome.changed);
            }
        }
        None => {
            if let Some(present) = found.spf.first() {
                let merged = publish::merged_spf(&config, present, &ips);
                let merged = publish::runtime()?.block_on(merged);
                records::set_spf(&mut records, &domain, &merged);
            }
            Format::Zone.print(&domain, &records);
        }
    }
    say!("");
    for remark in remarks::of(&config, &domain, mode, &found, &ips, publishes.is_some()) {
        say!("{remark}");
    }
    let proof = prove::Proof {
        config: &config,
        user: &user,
        password: known.as_deref(),
        to: args.test_to.as_deref(),
    };
    // A rehearsal in a directory of its own starts nothing.
    let running = match args.no_start || args.asks {
        true => Ok(false),
        false => prove::start(&config, args.dir.is_none()),
    };
    match running {
        Ok(true) => {
            let worst = proof.run()?;
            say!("\nNext: chapar guide gmail {user}, and chapar check {domain}");
            return Ok(match worst {
                Level::Wrong => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            });
        }
        Ok(false) => say!(
            "Then: chapar check --config {0} && chapar serve --config {0}",
            file.display()
        ),
        Err(problem) => return Err(anyhow::anyhow!(problem)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What belongs into the file of the DNS provider: typed, or in a file that nobody else may read.
fn credentials(args: &Args) -> anyhow::Result<Option<String>> {
    let Some(from) = &args.dns_credentials else {
        return Ok(args.typed.clone());
    };
    let read = files::secret(from, CREDENTIALS).map_err(Wrong);
    Ok(Some(read.with_context(|| from.display().to_string())?))
}

/// Waits until the zone's servers show the records, which the CA and receivers ask for.
fn seen(config: &Config, provider: Provider, changed: &[Record]) {
    if let Err(problem) = publish::visible(config, provider, changed, SEEN) {
        say!("The records are published, but: {problem:#}");
    }
}

/// The name for a new configuration: the one that was given, else that of an address of ours, else
/// one of the domain.
fn hostname(file: &Path, args: &Args, domain: &str) -> String {
    let usual = format!("mx.{domain}");
    if let Some(given) = &args.hostname {
        return given.to_ascii_lowercase();
    }
    let asks = args.asks || args.dir.is_none() || !args.resolver.is_empty();
    if !asks || file.exists() {
        return usual;
    }
    let ips = match args.ip.as_slice() {
        [] => records::public(),
        given => given.to_vec(),
    };
    let dns = crate::config::Dns {
        servers: args.resolver.clone(),
        ..crate::config::Dns::default()
    };
    let names = found::look(&dns, domain, &ips).ptr;
    let own = names
        .into_iter()
        .find(|(_, name)| found::is_own(name, domain));
    own.map_or(usual, |(_, name)| name)
}

/// What `--resolver` and `--dns` add to the configuration.
fn dns(args: &Args) -> String {
    let mut text = String::new();
    if !args.resolver.is_empty() {
        let servers = args.resolver.iter().map(|server| format!("\"{server}\""));
        let servers: Vec<String> = servers.collect();
        text += &format!("servers = [{}]\n", servers.join(", "));
    }
    if let Some(provider) = args.dns {
        text += &format!("provider = \"{}\"\n", provider.name());
    }
    match text.is_empty() {
        true => text,
        false => format!("\n[dns]\n{text}"),
    }
}

/// What `--acme` adds to the configuration.
fn acme(args: &Args) -> String {
    if !args.acme {
        return String::new();
    }
    let any = NewConfig::any_address();
    let directory = args.acme_directory.as_ref().map_or(String::new(), |url| {
        format!("directory = \"{}\"\n", url.as_str())
    });
    let usual = match args.dns {
        Some(_) => AcmeChallenge::Dns01,
        None => AcmeChallenge::Http01,
    };
    let challenge = match args.acme_challenge.unwrap_or(usual) {
        AcmeChallenge::Http01 => String::new(),
        other => format!("challenge = \"{}\"\n", other.name()),
    };
    let http = match challenge.is_empty() {
        true => format!(
            "# The CA looks on port 80; other servers fetch the MTA-STS policy on port 443.\n[web]\nhttp = [\"{any}:80\"]\n"
        ),
        false => "# Other servers fetch the MTA-STS policy on port 443.\n[web]\n".to_owned(),
    };
    format!(
        "\n# The certificate comes from this CA and is renewed by itself.\n\
         [acme]\nenabled = true\n{directory}{challenge}\n{http}https = [\"{any}:443\"]\n"
    )
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
