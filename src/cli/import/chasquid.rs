//! Taking over from chasquid.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::super::exit::Wrong;
use super::super::site::{Did, NewConfig, Site};
use super::textproto::{self, Message};
use super::{Args, mail};
use crate::config::{Config, Listen, Service, TlsMode, files};
use crate::identity::edit::{ALIASES_HEAD, FILE_MODE, USERS_HEAD, USERS_MODE};
use crate::identity::password;
use crate::identity::{Identity, address};
use crate::signing::keys::{self, PrivateKey};

/// Where chasquid keeps its data unless told otherwise.
const DATA_DIR: &str = "/var/lib/chasquid";
/// Mode of a directory with secrets, and of keys.
const SECRET_DIR: u32 = 0o700;
const SECRET: u32 = 0o600;

/// What its `chasquid.conf` says of all domains.
struct Common {
    separators: String,
    ignore_dots: bool,
    /// Program and arguments of local delivery.
    agent: Vec<String>,
    /// Whether Dovecot knows users, too.
    dovecot: bool,
}

/// What was done and what could not be.
#[derive(Default)]
struct Report {
    wrote: Vec<PathBuf>,
    kept: Vec<PathBuf>,
    remarks: Vec<String>,
}

impl Report {
    fn make(&mut self, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let wrote = files::create(path, bytes, mode)
            .with_context(|| format!("{} can not be written", path.display()))?;
        match wrote {
            true => self.wrote.push(path.to_owned()),
            false => self.kept.push(path.to_owned()),
        }
        Ok(())
    }

    fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }
}

pub(super) fn run(file: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let main = read(&args.dir.join("chasquid.conf"))?.with_context(|| {
        format!(
            "{} has no chasquid.conf; name chasquid's configuration directory",
            args.dir.display()
        )
    })?;
    let mut report = Report::default();
    let mut site = Site::new(file);
    let hostname = hostname(&main, args)?;
    let config = site.config(&new_config(&main, &hostname, &mut report))?;
    for (path, did) in site.steps() {
        match did {
            Did::Wrote => report.wrote.push(path.clone()),
            Did::Kept => report.kept.push(path.clone()),
        }
    }
    let text = |name: &str, usual: &str| main.text(name).unwrap_or_else(|| usual.to_owned());
    let mut agent = vec![text("mail_delivery_agent_bin", "maildrop")];
    match main.texts("mail_delivery_agent_args") {
        none if none.is_empty() => agent.extend(["-d".into(), "%to_user%".into()]),
        some => agent.extend(some),
    }
    let common = Common {
        separators: text("suffix_separators", "+"),
        ignore_dots: text("drop_characters", ".").contains('.'),
        agent,
        dovecot: main.word("dovecot_auth") == Some("true"),
    };
    let mut domains: Vec<String> = entries(&args.dir.join("domains"))
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_lowercase()))
        .collect();
    domains.sort();
    for domain in &domains {
        if let Err(problem) = address::check_domain(domain) {
            report.remark(format!("domains/{domain} was left out: {problem}"));
            continue;
        }
        take_domain(&config.dir, &args.dir, domain, &common, &mut report)?;
    }
    certificates(&config, &args.dir, &mut site, &mut report)?;
    // All of it together, as the daemon will read it.
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    report.remarks.extend(identity.refusals());
    for path in &report.wrote {
        say!("wrote {}", path.display());
    }
    if !report.kept.is_empty() {
        say!("kept {} files that exist", report.kept.len());
    }
    let users = identity.domains().map(|(_, domain)| domain.users().count());
    say!("{} domains, {} users", domains.len(), users.sum::<usize>());
    if !args.no_queue {
        let data = args
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(text("data_dir", DATA_DIR)));
        let (counts, remarks) = mail::import(&config, &data.join("queue"))?;
        report.remarks.extend(remarks);
        say!(
            "{} messages taken from {}{}",
            counts.taken,
            data.join("queue").display(),
            counts.remark()
        );
    }
    for remark in &report.remarks {
        say!("! {remark}");
    }
    say!(
        "Then: chapar check --config {0}, and systemctl disable --now chasquid && systemctl enable \
         --now chapar",
        file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// A file in text form; `None` if there is none.
fn read(path: &Path) -> anyhow::Result<Option<Message>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    match textproto::parse(&text) {
        Ok(message) => Ok(Some(message)),
        Err((line, why)) => bail!(Wrong(format!("{}:{line}: {why}", path.display()))),
    }
}

fn hostname(main: &Message, args: &Args) -> anyhow::Result<String> {
    let known = args
        .hostname
        .clone()
        .or_else(|| main.text("hostname").filter(|name| !name.is_empty()))
        // As chasquid: the name of the machine.
        .or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let name = known.unwrap_or_default().trim().to_lowercase();
    match address::check_domain(&name) {
        Ok(_) if name.contains('.') => Ok(name),
        _ => bail!(Wrong(format!(
            "{name:?} is no full host name; --hostname names one, that of the PTR"
        ))),
    }
}

fn new_config(main: &Message, hostname: &str, report: &mut Report) -> NewConfig {
    let mut listeners = Vec::new();
    let any = NewConfig::any_address();
    for (key, port, service, tls) in [
        ("smtp_address", 25, Service::Mx, TlsMode::Starttls),
        (
            "submission_address",
            587,
            Service::Submission,
            TlsMode::Starttls,
        ),
        (
            "submission_over_tls_address",
            465,
            Service::Submission,
            TlsMode::Implicit,
        ),
    ] {
        let mut given = main.texts(key);
        if given.is_empty() {
            given.push("systemd".into());
        }
        for address in given {
            let address = match address.as_str() {
                "systemd" => format!("{any}:{port}"),
                // Go's way to say every address.
                some if some.starts_with(':') => format!("{any}{some}"),
                some => some.to_owned(),
            };
            listeners.push(Listen {
                address,
                service,
                tls,
                disable: Vec::new(),
                milters: Vec::new(),
            });
        }
    }
    let mut rest = String::new();
    if let Some(most) = main.number("max_data_size_mb") {
        rest.push_str(&format!("\n[limits]\nmessage = \"{most}MiB\"\n"));
    }
    if main.word("dovecot_auth") == Some("true") {
        let path = main
            .text("dovecot_client_path")
            .unwrap_or_else(|| "/run/dovecot/auth-chasquid-client".into());
        rest.push_str(&format!("\n[auth]\ndovecot = {path:?}\n"));
    }
    if main.word("haproxy_incoming") == Some("true") {
        report.remark("haproxy_incoming: name the proxies in proxy_networks of chapar.toml");
    }
    NewConfig {
        hostname: hostname.to_owned(),
        data_dir: PathBuf::from("/var/lib/chapar"),
        postmaster: String::new(),
        listeners,
        rest,
    }
}

fn take_domain(
    to: &Path,
    from: &Path,
    domain: &str,
    common: &Common,
    report: &mut Report,
) -> anyhow::Result<()> {
    let source = from.join("domains").join(domain);
    let target = to.join("domains").join(domain);
    files::create_dir(&target, 0o750)
        .with_context(|| format!("{} can not be made", target.display()))?;
    let mut selectors = Vec::new();
    let mut found: Vec<PathBuf> = entries(&source).collect();
    found.sort();
    for path in found {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(selector) = name
            .strip_prefix("dkim:")
            .and_then(|name| name.strip_suffix(".pem"))
        else {
            continue;
        };
        let pem = fs::read(&path).with_context(|| path.display().to_string())?;
        match PrivateKey::from_pem(&pem) {
            Ok(key) => {
                let at = keys::path(to, domain, selector);
                files::create_dir(at.parent().unwrap_or(to), SECRET_DIR)?;
                report.make(&at, key.to_pem().as_bytes(), SECRET)?;
                selectors.push(format!("{selector:?}"));
            }
            Err(problem) => report.remark(format!("{} was left out: {problem}", path.display())),
        }
    }
    if selectors.is_empty() {
        report.remark(format!(
            "{domain} has no DKIM key there; chapar setup {domain} makes keys once its domain.toml \
             names selectors"
        ));
    }
    let text = format!(
        "# From chasquid. forward: mail to this domain goes where its aliases lead.\n\
         mode = \"forward\"\n\
         # DKIM keys to sign with: secrets/dkim/{domain}/SELECTOR.pem\n\
         selectors = [{}]\n\
         separators = {:?}\nignore_dots = {}\n{}",
        selectors.join(", "),
        common.separators,
        common.ignore_dots,
        match common.dovecot {
            true =>
                "# Who is in no users.toml logs in with the password that Dovecot knows.\ndovecot = true\n",
            false => "",
        }
    );
    report.make(&target.join("domain.toml"), text.as_bytes(), FILE_MODE)?;

    let mut users = USERS_HEAD.to_owned();
    let mut names = Vec::new();
    if let Some(database) = read(&source.join("users"))? {
        for entry in database.messages("users") {
            let name = entry.text("key").unwrap_or_default().to_lowercase();
            let user = format!("{name}@{domain}");
            let line = entry
                .message("value")
                .map_or(Err("it has no password".to_owned()), |value| {
                    user_line(&user, domain, value)
                });
            match line.and_then(|line| address::check(&user).map(|_| line)) {
                Ok(line) => {
                    users.push_str(&line);
                    names.push(name);
                }
                Err(problem) => report.remark(format!("user {user} was left out: {problem}")),
            }
        }
    }
    report.make(&target.join("users.toml"), users.as_bytes(), USERS_MODE)?;
    let aliases = aliases(&source, domain, &names, common, report)?;
    report.make(&target.join("aliases"), aliases.as_bytes(), FILE_MODE)
}

/// The line of a user in `users.toml`.
fn user_line(user: &str, domain: &str, value: &Message) -> Result<String, String> {
    if value.message("denied").is_some() {
        return Ok(format!("{user:?} = {{ receive_only = true }}\n"));
    }
    let hash = if let Some(scrypt) = value.message("scrypt") {
        let number = |name| scrypt.number(name).ok_or(format!("its {name} is missing"));
        let bytes = |name| scrypt.bytes(name).ok_or(format!("its {name} is missing"));
        format!(
            "$scrypt$ln={},r={},p={}${}${}",
            number("logN")?,
            number("r")?,
            number("p")?,
            STANDARD_NO_PAD.encode(bytes("salt")?),
            STANDARD_NO_PAD.encode(bytes("encrypted")?)
        )
    } else if let Some(plain) = value.message("plain") {
        let known = plain.bytes("password").unwrap_or_default();
        password::hash(known).map_err(|error| error.to_string())?
    } else {
        return Err("its password is of a kind that is not known".into());
    };
    password::check(&hash).map_err(|error| error.to_string())?;
    // There, users may send as anybody.
    Ok(format!(
        "{user:?} = {{ password = {hash:?}, send_as = [\"*@{domain}\"] }}\n"
    ))
}

fn aliases(
    source: &Path,
    domain: &str,
    users: &[String],
    common: &Common,
    report: &mut Report,
) -> anyhow::Result<String> {
    let path = source.join("aliases");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    // The last of several lines for one name counts there.
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let Some((name, target)) = line.split_once(':').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let mut name = name.trim().to_lowercase();
        if common.ignore_dots {
            name.retain(|c| c != '.');
        }
        let target = target.trim();
        if target.is_empty() {
            continue;
        }
        let is_pipe = target.starts_with('|');
        if !is_pipe && target.split(',').any(|part| part.trim().contains(" via ")) {
            report.remark(format!(
                "alias {name}@{domain} was left out: what `via` says stands in [[route]] here"
            ));
            continue;
        }
        lines.insert(name, target.to_owned());
    }
    // A user without an alias has a mailbox there, also behind a catch-all.
    for user in users {
        let mut name = user.clone();
        if common.ignore_dots {
            name.retain(|c| c != '.');
        }
        if lines.contains_key(&name) {
            continue;
        }
        let Some(program) = found_program(common.agent.first().map_or("", String::as_str)) else {
            report.remark(format!(
                "user {user}@{domain} has a mailbox there, and the program that fills it is not on this \
                 host: until an alias says where its mail goes it is treated as an unknown address or \
                 goes to the catch-all"
            ));
            continue;
        };
        let mut command = format!("| {program}");
        for argument in common.agent.iter().skip(1) {
            let argument = argument
                .replace("%to_user%", user)
                .replace("%to_domain%", domain)
                .replace("%to%", &format!("{user}@{domain}"));
            if argument.contains("%from%") || argument == "-f" {
                continue;
            }
            command.push_str(&format!(" {argument}"));
        }
        lines.insert(name, command);
    }
    let mut out = ALIASES_HEAD.to_owned();
    for (name, target) in lines {
        out.push_str(&format!("{name}: {target}\n"));
    }
    Ok(out)
}

/// The path of a program that can be run.
fn found_program(name: &str) -> Option<String> {
    if name.starts_with('/') {
        return Path::new(name).exists().then(|| name.to_owned());
    }
    ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"]
        .iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| Path::new(path).exists())
}

/// That of the host name, else the only one there is, else a self-signed one.
fn certificates(
    config: &Config,
    from: &Path,
    site: &mut Site,
    report: &mut Report,
) -> anyhow::Result<()> {
    let before = site.steps().len();
    let pair = |dir: &Path| {
        let read = |name: &str| fs::read(dir.join(name)).ok();
        Some((read("fullchain.pem")?, read("privkey.pem")?))
    };
    let mut found: Vec<PathBuf> = entries(&from.join("certs"))
        .filter(|dir| pair(dir).is_some())
        .collect();
    found.sort();
    let own = from.join("certs").join(&config.hostname);
    let chosen = match (pair(&own), found.as_slice()) {
        (Some(pair), _) => Some(pair),
        (None, [only]) => pair(only),
        _ => None,
    };
    if found.len() > 1 {
        report.remark(format!(
            "{} certificates are there, and here there is one for all: put the other names into \
             acme.names, or into a certificate of your own",
            found.len()
        ));
    }
    let there = crate::acme::directory(config)
        .join("fullchain.pem")
        .exists();
    let usable = chosen.filter(
        |(chain, key)| match super::super::certificate::check(chain, key) {
            Ok(()) => true,
            Err(problem) => {
                report.remark(format!("the certificate was left out: {problem}"));
                false
            }
        },
    );
    site.certificate(
        &config.hostname,
        usable.filter(|_| !there),
        SystemTime::now(),
    )?;
    for (path, did) in site.steps().iter().skip(before) {
        match did {
            Did::Wrote => report.wrote.push(path.clone()),
            Did::Kept => report.kept.push(path.clone()),
        }
    }
    report.remark(
        "a certificate that is renewed elsewhere must come here too: setup --acme, or setup --cert and \
         --key after each renewal",
    );
    Ok(())
}
