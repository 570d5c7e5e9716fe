//! What lies on disk for a domain to work: made where it is missing, never changed where it is not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use super::exit::Wrong;
use crate::config::{Config, Listen, Service, TlsMode, files};
use crate::identity::edit::{self, ALIASES_HEAD, FILE_MODE, USERS_HEAD, USERS_MODE};
use crate::identity::password::Secrets;
use crate::identity::{Identity, Mode, address, check_mailbox};
use crate::signing::keys::{self, Algorithm, PrivateKey};
use crate::tls::self_signed;

/// Selectors of a domain's first keys. The prefix keeps them apart from those of other senders.
pub const SELECTORS: [&str; 2] = ["chapar1-rsa", "chapar1-ed25519"];

/// Mode of directories without secrets.
const DIR_MODE: u32 = 0o750;
/// Mode of directories with secrets.
const SECRET_DIR_MODE: u32 = 0o700;
/// Mode of keys.
const KEY_MODE: u32 = 0o600;

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// It was missing.
    Wrote,
    /// It exists and was left as it is.
    Kept,
}

/// A file and what was done with it.
pub type Step = (PathBuf, Did);

/// A `chapar.toml` to be.
#[derive(Debug, Clone)]
pub struct NewConfig {
    /// The EHLO name.
    pub hostname: String,
    /// Where the queue lives; absolute, or below the configuration's directory.
    pub data_dir: PathBuf,
    /// Who is told of our failures.
    pub postmaster: String,
    /// The listeners.
    pub listeners: Vec<Listen>,
    /// More of the file, after the listeners.
    pub rest: String,
}

impl NewConfig {
    /// The listeners of every mail host, on all its addresses.
    pub fn usual_listeners() -> Vec<Listen> {
        let any = NewConfig::any_address();
        [
            (25, Service::Mx, TlsMode::Starttls),
            (587, Service::Submission, TlsMode::Starttls),
            (465, Service::Submission, TlsMode::Implicit),
        ]
        .into_iter()
        .map(|(port, service, tls)| Listen {
            address: format!("{any}:{port}"),
            service,
            tls,
            disable: Vec::new(),
            milters: Vec::new(),
        })
        .collect()
    }

    /// All addresses of this host: a kernel without IPv6 can not bind `[::]`, one with it takes IPv4
    /// there too.
    pub fn any_address() -> &'static str {
        if std::net::TcpListener::bind("[::]:0").is_ok() {
            "[::]"
        } else {
            "0.0.0.0"
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# chapar. Every other key and its default: chapar config --defaults\n\n\
             # The EHLO name. The PTR record of this host's addresses must be the same.\n\
             hostname = \"{}\"\n\
             # Where the queue lives.\n\
             data_dir = \"{}\"\n\
             # Who is told of our own failures.\n\
             postmaster = \"{}\"\n",
            self.hostname,
            self.data_dir.display(),
            self.postmaster
        );
        for listen in &self.listeners {
            let who = match listen.service {
                Service::Mx => "Mail from other servers for our domains.",
                Service::Submission => "Mail from our users.",
            };
            let (service, tls) = (listen.service.name(), listen.tls.name());
            text.push_str(&format!(
                "\n# {who}\n[[listen]]\naddress = \"{}\"\nservice = \"{service}\"\ntls = \"{tls}\"\n",
                listen.address
            ));
        }
        text.push_str(&self.rest);
        text
    }
}

/// Where a new domain's mail goes; to neither: the domain is send-only.
#[derive(Debug, Clone, Copy)]
pub struct Leads<'a> {
    /// Mail to any address that is no mailbox.
    pub forward: Option<&'a str>,
    /// Its users' mail: `mailbox` of `domain.toml`.
    pub mailbox: Option<&'a str>,
}

/// A configuration directory and the main file in it.
#[derive(Debug, Clone)]
pub struct Site {
    file: PathBuf,
    dir: PathBuf,
    steps: Vec<Step>,
}

impl Site {
    /// The site whose main file is `file`.
    pub fn new(file: &Path) -> Site {
        let dir = super::directory(file).to_path_buf();
        Site {
            file: file.to_path_buf(),
            dir,
            steps: Vec::new(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was done so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The main file, written if it is missing.
    pub fn config(&mut self, new: &NewConfig) -> anyhow::Result<Config> {
        if !exists(&self.file)? {
            let text = new.text();
            // Checked first: a file that does not load would stay.
            Config::parse(&text, &self.file.display().to_string(), &self.dir)?;
            self.dir_at(&self.dir.clone(), DIR_MODE)?;
            self.make(
                &self.dir.join(".gitignore"),
                b"/secrets/\n/data/\n",
                FILE_MODE,
            )?;
            self.make(&self.file.clone(), text.as_bytes(), FILE_MODE)?;
        } else {
            self.steps.push((self.file.clone(), Did::Kept));
            self.make(
                &self.dir.join(".gitignore"),
                b"/secrets/\n/data/\n",
                FILE_MODE,
            )?;
        }
        Ok(Config::load(&self.file)?)
    }

    /// The directory of `domain` with its files and keys. `leads`: where a new domain's mail
    /// goes, `user`'s in a line of its own.
    pub fn domain(
        &mut self,
        domain: &str,
        leads: Leads<'_>,
        user: Option<&str>,
    ) -> anyhow::Result<Mode> {
        address::check_domain(domain).map_err(Wrong)?;
        check_new(domain).map_err(Wrong)?;
        let Leads { forward, mailbox } = leads;
        if let Some(mailbox) = mailbox {
            check_mailbox(mailbox).map_err(Wrong)?;
        }
        if let Some(forward) = forward {
            address::check(forward).map_err(Wrong)?;
        }
        let dir = self.dir.join("domains").join(domain);
        self.dir_at(&dir, DIR_MODE)?;
        let mode = match (forward, mailbox) {
            (_, Some(_)) => Mode::Mailbox,
            (Some(_), None) => Mode::Forward,
            (None, None) => Mode::SendOnly,
        };
        let mailbox = mailbox.map(|mailbox| {
            let mailbox = toml_edit::Value::from(mailbox);
            format!("# Where the mail of its users goes.\nmailbox = {mailbox}\n")
        });
        // Names below a domain sign with its keys.
        let selectors = match domain.starts_with(address::WILDCARD) {
            true => String::new(),
            false => format!(
                "# DKIM keys to sign with: secrets/dkim/{domain}/SELECTOR.pem\n\
                 selectors = [{}]\n",
                SELECTORS
                    .map(|selector| format!("\"{selector}\""))
                    .join(", ")
            ),
        };
        let text = format!(
            "# forward: mail to this domain goes where its aliases lead.\n\
             # mailbox: the same, and its users have mailboxes.\n\
             # send-only: we only send for it; mail to it follows its MX.\n\
             mode = \"{}\"\n{}{selectors}",
            mode.as_str(),
            mailbox.unwrap_or_default(),
        );
        self.make(&dir.join("domain.toml"), text.as_bytes(), FILE_MODE)?;
        let aliases = match forward {
            Some(forward) => user
                .into_iter()
                .chain(["*"])
                .fold(ALIASES_HEAD.to_owned(), |text, name| {
                    format!("{text}{name}: {forward}\n")
                }),
            None => ALIASES_HEAD.to_owned(),
        };
        self.make(&dir.join("aliases"), aliases.as_bytes(), FILE_MODE)?;
        let identity = Identity::load(&self.dir, "")?;
        let Some(found) = identity.domain(domain) else {
            bail!("{}: vanished while it was written", dir.display());
        };
        let selectors = found.selectors.clone();
        for selector in &selectors {
            self.key(domain, selector)?;
        }
        Ok(found.mode)
    }

    /// A user of a domain that has no file of users yet. False: it has one.
    pub fn first_user(
        &mut self,
        domain: &str,
        user: &str,
        secrets: impl FnOnce() -> anyhow::Result<Secrets>,
    ) -> anyhow::Result<bool> {
        let path = self.dir.join("domains").join(domain).join("users.toml");
        if exists(&path)? {
            self.steps.push((path, Did::Kept));
            return Ok(false);
        }
        let secrets = secrets()?;
        // The owner of a domain sends as any address of it.
        edit::add_user(&self.dir, user, &secrets, &[format!("*@{domain}")])?;
        self.steps.push((path, Did::Wrote));
        Ok(true)
    }

    /// An empty file of users, if there is none.
    pub fn no_users(&mut self, domain: &str) -> anyhow::Result<()> {
        let path = self.dir.join("domains").join(domain).join("users.toml");
        self.make(&path, USERS_HEAD.as_bytes(), USERS_MODE)
    }

    /// The certificate for `host`: the given one (chain and key, PEM), or a self-signed one where
    /// there is none.
    pub fn certificate(
        &mut self,
        host: &str,
        given: Option<(Vec<u8>, Vec<u8>)>,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        let dir = self.dir.join("secrets/tls").join(host);
        self.dir_at(&dir, SECRET_DIR_MODE)?;
        let (chain, key) = (dir.join("fullchain.pem"), dir.join("privkey.pem"));
        if let Some((new_chain, new_key)) = given {
            super::certificate::check(&new_chain, &new_key).map_err(Wrong)?;
            // The key first: a crash between them leaves a pair that is refused, not one that lies,
            // and the same command again mends it.
            self.set(&key, &new_key)?;
            return self.set(&chain, &new_chain);
        }
        match (exists(&chain)?, exists(&key)?) {
            (true, true) => {
                let pair = (fs::read(&chain), fs::read(&key));
                if let (Ok(old_chain), Ok(old_key)) = pair
                    && let Err(problem) = super::certificate::check(&old_chain, &old_key)
                {
                    bail!(Wrong(format!(
                        "{}: {problem}; give both again with --cert and --key, or remove both and \
                         run setup again",
                        dir.display()
                    )));
                }
                self.steps.extend([(chain, Did::Kept), (key, Did::Kept)]);
                Ok(())
            }
            (false, false) => {
                let made = self_signed::generate(host, now)?;
                self.make(&key, made.key.as_bytes(), KEY_MODE)?;
                self.make(&chain, made.certificate.as_bytes(), KEY_MODE)
            }
            // A setup that was ended between the two left the key alone.
            (false, true) => {
                let text = fs::read_to_string(&key)
                    .with_context(|| format!("{} can not be read", key.display()))?;
                let made = self_signed::for_key(host, &text, now).map_err(|error| {
                    Wrong(format!(
                        "{}: {error}; give chain and key with --cert and --key, or remove it and \
                         run setup again",
                        key.display()
                    ))
                })?;
                self.steps.push((key, Did::Kept));
                self.make(&chain, made.as_bytes(), KEY_MODE)
            }
            (true, false) => bail!(Wrong(format!(
                "{} has no key beside it; give both with --cert and --key, or remove it and run \
                 setup again",
                chain.display()
            ))),
        }
    }

    fn key(&mut self, domain: &str, selector: &str) -> anyhow::Result<()> {
        let path = keys::path(&self.dir, domain, selector);
        if exists(&path)? {
            PrivateKey::load(&self.dir, domain, selector)?;
            self.steps.push((path, Did::Kept));
            return Ok(());
        }
        self.dir_at(super::directory(&path), SECRET_DIR_MODE)?;
        let algorithm = if selector.ends_with("ed25519") {
            Algorithm::Ed25519
        } else {
            Algorithm::Rsa
        };
        let pem = PrivateKey::generate(algorithm)?.to_pem();
        self.make(&path, pem.as_bytes(), KEY_MODE)
    }

    fn dir_at(&self, dir: &Path, mode: u32) -> anyhow::Result<()> {
        files::create_dir(dir, mode).with_context(|| format!("{} can not be made", dir.display()))
    }

    fn make(&mut self, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let wrote = files::create(path, bytes, mode)
            .with_context(|| format!("{} can not be written", path.display()))?;
        self.steps.push((
            path.to_path_buf(),
            if wrote { Did::Wrote } else { Did::Kept },
        ));
        Ok(())
    }

    /// Puts what the operator gave into a file of secrets.
    fn set(&mut self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        if fs::read(path).is_ok_and(|old| old == bytes) {
            self.steps.push((path.to_path_buf(), Did::Kept));
            return Ok(());
        }
        files::replace(path, bytes, KEY_MODE)
            .with_context(|| format!("{} can not be written", path.display()))?;
        self.steps.push((path.to_path_buf(), Did::Wrote));
        Ok(())
    }
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} can not be seen", path.display())),
    }
}
/// Why nobody could write to a domain that is to be ours: an address of a machine, or a name without
/// a dot, which no resolver outside knows.
fn check_new(domain: &str) -> Result<(), String> {
    let name = domain.strip_prefix("*.").unwrap_or(domain);
    let last = name.rsplit_once('.').map(|(_, last)| last);
    match last {
        None => Err(format!(
            "'{domain}' has no dot, so nobody outside could write to it; write the full name, \
             such as {domain}.example.org"
        )),
        Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => Err(format!(
            "'{domain}' is an IP address; write the name of the domain, such as example.org"
        )),
        Some(_) => Ok(()),
    }
}
