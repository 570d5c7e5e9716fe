//! Reads `domains/`: all of it, or nothing and the first file, line and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Domain, Identity, IdentityError, Mode, User, UserQuota, address, aliases};
use crate::app::{self, AppPassword};
use crate::config::routes::Via;
use crate::config::{Dmarc, Span, SpfFail};
use crate::password;
use crate::smtp::scram::Verifier;

/// What may part a tag from a name (RFC 5233 leaves it to us).
const SEPARATORS: &str = "+-_=#";
/// Shorter than this no signature may hold: the give-up of a delivery and a day.
const LEAST_EXPIRY: Duration = Duration::from_secs(6 * 24 * 60 * 60);
/// What does where nothing is said.
const DEFAULT_SEPARATORS: &str = "+";

/// `domain.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainFile {
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    selectors: Vec<Spanned<String>>,
    signature_expires: Option<Spanned<Span>>,
    dmarc: Option<Dmarc>,
    spf_fail: Option<SpfFail>,
    #[serde(default)]
    subdomains: bool,
    separators: Option<Spanned<String>>,
    #[serde(default)]
    ignore_dots: bool,
    mailbox: Option<Spanned<String>>,
    #[serde(default)]
    dovecot: bool,
}

/// One value of `users.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    password: Option<Spanned<String>>,
    #[serde(default)]
    receive_only: bool,
    #[serde(default = "yes")]
    mailbox: bool,
    #[serde(default)]
    scram: Option<Spanned<String>>,
    #[serde(default)]
    send_as: Vec<Spanned<String>>,
    #[serde(default)]
    quota: UserQuota,
    #[serde(default)]
    app_passwords: Vec<Spanned<AppEntry>>,
}

fn yes() -> bool {
    true
}

/// One of `app_passwords`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppEntry {
    id: String,
    label: String,
    hash: String,
}

pub(super) fn load(dir: &Path, postmaster: &str) -> Result<Identity, IdentityError> {
    let root = dir.join("domains");
    let mut identity = Identity {
        domains: BTreeMap::new(),
        postmaster: Some(postmaster.to_owned()),
    };
    identity.postmaster = identity.postmaster.filter(|address| !address.is_empty());
    for (name, path) in directories(&root)? {
        let domain = domain(&path, &name)?;
        identity.domains.insert(name, domain);
    }
    Ok(identity)
}

pub(super) fn names(dir: &Path) -> Result<BTreeSet<String>, IdentityError> {
    let found = directories(&dir.join("domains"))?;
    Ok(found.into_iter().map(|(name, _)| name).collect())
}

/// The domains, and where their files are.
fn directories(root: &Path) -> Result<Vec<(String, PathBuf)>, IdentityError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IdentityError::whole(root, unreadable(&error))),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| IdentityError::whole(root, unreadable(&error)))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || !path.is_dir() {
            continue;
        }
        address::check_domain(&name).map_err(|why| {
            IdentityError::whole(
                &path,
                format!("{why}; the directory's name is the domain's"),
            )
        })?;
        found.push((name.into_owned(), path));
    }
    Ok(found)
}

fn domain(dir: &Path, name: &str) -> Result<Domain, IdentityError> {
    let path = dir.join("domain.toml");
    let text = read(&path)?.unwrap_or_default();
    let file: DomainFile = toml::from_str(&text).map_err(|error| syntax(&path, &text, &error))?;
    let mut selectors = Vec::new();
    for selector in file.selectors {
        if !address::is_domain(selector.as_ref()) {
            let problem = format!(
                "'{}' is no DKIM selector; write letters, digits and hyphens",
                selector.as_ref()
            );
            return Err(IdentityError::at(
                &path,
                line_of(&text, selector.span()),
                problem,
            ));
        }
        selectors.push(selector.into_inner());
    }
    let separators = match file.separators {
        None => DEFAULT_SEPARATORS.to_owned(),
        Some(separators) => {
            if !separators.as_ref().chars().all(|c| SEPARATORS.contains(c)) {
                let problem = format!(
                    "'{}' are no separators; choose among {SEPARATORS}",
                    separators.as_ref()
                );
                let line = line_of(&text, separators.span());
                return Err(IdentityError::at(&path, line, problem));
            }
            separators.into_inner()
        }
    };
    let mailbox = mailbox(file.mode, file.mailbox.as_ref()).map_err(|why| IdentityError {
        file: path.display().to_string(),
        line: file
            .mailbox
            .as_ref()
            .map(|mailbox| line_of(&text, mailbox.span())),
        problem: why,
    })?;
    let signature_expires = match file.signature_expires {
        // What waits for its retry has to hold still.
        Some(time) if time.as_ref().0 < LEAST_EXPIRY => {
            let problem = "signature_expires is shorter than a message may wait; write 7d or more";
            let line = line_of(&text, time.span());
            return Err(IdentityError::at(&path, line, problem.to_owned()));
        }
        time => time.map(|time| time.into_inner().0),
    };
    if file.dovecot && name.starts_with(address::WILDCARD) {
        let problem = "dovecot = true is for one domain; remove it".to_owned();
        return Err(IdentityError::whole(&path, problem));
    }
    let wildcard = name.strip_prefix(address::WILDCARD);
    if let (Some(above), false) = (wildcard, selectors.is_empty()) {
        let problem = format!(
            "selectors of a wildcard; mail of names below {above} is signed with the keys of \
             {above}: write them into domains/{above}/domain.toml"
        );
        return Err(IdentityError::whole(&path, problem));
    }
    let path = dir.join("users.toml");
    if wildcard.is_some() && path.exists() {
        let problem = "a wildcard has no users; give them a domain of its own name".to_owned();
        return Err(IdentityError::whole(&path, problem));
    }
    let users = match read(&path)? {
        Some(text) => {
            parse_users(&text, name).map_err(|(line, why)| IdentityError::at(&path, line, why))?
        }
        None => BTreeMap::new(),
    };
    let path = dir.join("aliases");
    let entries = match read(&path)? {
        Some(text) => aliases::parse(&text, name)
            .map_err(|(line, why)| IdentityError::at(&path, line, why))?,
        None => Vec::new(),
    };
    let aliases: BTreeMap<_, _> = entries
        .into_iter()
        .map(|entry| (entry.name, entry.targets))
        .collect();
    Ok(Domain {
        mode: file.mode,
        selectors,
        subdomains: file.subdomains,
        separators,
        without_dots: match file.ignore_dots {
            true => without_dots(aliases.keys()),
            false => BTreeMap::new(),
        },
        users_without_dots: match file.ignore_dots {
            true => without_dots(users.keys()),
            false => BTreeMap::new(),
        },
        mailbox,
        dovecot: file.dovecot,
        signature_expires,
        dmarc: file.dmarc,
        spf_fail: file.spf_fail,
        users,
        aliases,
    })
}

const MAILBOX: &str = "write mailbox = \"maildir:/var/lib/chapar/mail/{domain}/{local}\" or \
    mailbox = \"lmtp:/run/dovecot/lmtp\"";

/// Where the mail of users goes.
fn mailbox(mode: Mode, given: Option<&Spanned<String>>) -> Result<Option<String>, String> {
    let Some(given) = given else {
        return match mode {
            Mode::Mailbox => Err(format!("mode = \"mailbox\" has no mailbox; {MAILBOX}")),
            _ => Ok(None),
        };
    };
    if mode != Mode::Mailbox {
        let mode = mode.as_str();
        return Err(format!(
            "mailbox with mode = \"{mode}\"; write mode = \"mailbox\" or remove it"
        ));
    }
    check_mailbox(given.as_ref())?;
    Ok(Some(given.as_ref().clone()))
}

/// A Maildir of its own for each user, or a server that speaks LMTP.
pub fn check_mailbox(given: &str) -> Result<(), String> {
    match Via::parse(given) {
        Ok(Via::Maildir(path)) if path.contains("{local}") => Ok(()),
        Ok(Via::Hop(hop)) if hop.protocol.is_lmtp() => Ok(()),
        _ => Err(format!(
            "mailbox = \"{given}\" is neither a Maildir with {{local}} in its path nor LMTP; {MAILBOX}"
        )),
    }
}

/// Names without their dots, and as they are.
pub(super) fn without_dots<'a>(
    names: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, String> {
    names
        .map(|name| (name.replace('.', ""), name.clone()))
        .collect()
}

/// The users in `file`, the text of the `users.toml` of `domain`.
pub(super) fn parse_users(
    file: &str,
    domain: &str,
) -> Result<BTreeMap<String, User>, aliases::Fault> {
    let entries: BTreeMap<Spanned<String>, UserEntry> = toml::from_str(file).map_err(|error| {
        (
            error.span().map_or(1, |span| line_of(file, span)),
            message(&error),
        )
    })?;
    let mut users = BTreeMap::new();
    for (address, entry) in entries {
        let line = line_of(file, address.span());
        let written = address.into_inner();
        address::check_any(&written).map_err(|why| (line, why))?;
        let (local, other) = address::key(&written).unwrap_or_default();
        if other != domain {
            let problem = format!(
                "'{written}' is not of {domain}; it belongs into domains/{other}/users.toml"
            );
            return Err((line, problem));
        }
        let password = match (&entry.password, entry.receive_only) {
            (Some(password), false) => {
                password::check(password.as_ref()).map_err(|error| {
                    let at = line_of(file, password.span());
                    let remedy = format!("`chapar user passwd {written}` sets a new one");
                    (at, format!("{error}; {remedy}"))
                })?;
                password.as_ref().clone()
            }
            // A login takes as long as any other, and fails.
            (None, true) => password::NOBODY.to_owned(),
            (Some(_), true) => {
                let problem = format!("'{written}' is receive_only; remove its password");
                return Err((line, problem));
            }
            (None, false) => {
                let problem = format!(
                    "'{written}' has no password; `chapar user passwd {written}` sets one, or \
                     write receive_only = true"
                );
                return Err((line, problem));
            }
        };
        let mut send_as = Vec::new();
        for pattern in entry.send_as {
            let at = line_of(file, pattern.span());
            send_as.push(send_as_pattern(pattern.as_ref()).map_err(|why| (at, why))?);
        }
        let scram = match &entry.scram {
            None => None,
            Some(text) => Some(Verifier::parse(text.as_ref()).ok_or_else(|| {
                (
                    line_of(file, text.span()),
                    format!(
                        "this is no SCRAM-SHA-256 verifier; `chapar user passwd {written}` makes one"
                    ),
                )
            })?),
        };
        let apps = entry.app_passwords;
        if apps.len() > app::MOST {
            let problem = format!("'{written}' has more than {} app passwords", app::MOST);
            return Err((line, problem));
        }
        let mut app_passwords = Vec::new();
        for entry in apps {
            let at = line_of(file, entry.span());
            let AppEntry { id, label, hash } = entry.into_inner();
            let app = AppPassword { id, label, hash };
            app::check(&app).map_err(|why| (at, why))?;
            app_passwords.push(app);
        }
        let user = User {
            app_passwords,
            scram,
            password,
            mailbox: entry.mailbox,
            send_as,
            quota: entry.quota,
        };
        if users.insert(local, user).is_some() {
            let problem = format!("'{written}' stands twice, in another case; remove one");
            return Err((line, problem));
        }
    }
    Ok(users)
}

/// A pattern of `send_as` in the form in which addresses are compared.
pub(super) fn send_as_pattern(pattern: &str) -> Result<String, String> {
    let labels =
        |domain: &str| address::to_a_labels(domain).filter(|name| address::is_domain(name));
    let kept = match pattern.strip_prefix("*@") {
        Some(domain) => labels(domain).map(|domain| format!("*@{domain}")),
        None => match address::check_any(pattern) {
            Ok(()) => address::key(pattern).map(|(local, domain)| format!("{local}@{domain}")),
            Err(_) => None,
        },
    };
    kept.ok_or_else(|| {
        format!("'{pattern}' is no address to send as; write user@example.org or *@example.org")
    })
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IdentityError::whole(path, unreadable(&error))),
    };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let whole = error.as_bytes().get(..error.utf8_error().valid_up_to());
        let line = 1 + memchr::memchr_iter(b'\n', whole.unwrap_or_default()).count();
        let problem = "is not UTF-8, perhaps Latin-1; save the file as UTF-8: \
                       iconv -f latin1 -t utf8";
        IdentityError::at(path, line, problem.to_owned())
    })
}

fn unreadable(error: &io::Error) -> String {
    format!("can not be read: {error}; see its owner and mode")
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> IdentityError {
    IdentityError {
        file: path.display().to_string(),
        line: error.span().map(|span| line_of(text, span)),
        problem: message(error),
    }
}

fn message(error: &toml::de::Error) -> String {
    error.message().replace('\n', ", ")
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.get(..span.start)
        .map_or(1, |before| before.matches('\n').count() + 1)
}
