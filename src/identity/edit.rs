//! Changes `users.toml` and `aliases` as an operator with an editor does: comments, order and
//! everything else stay. The new text is read as the loader reads it before it replaces the old.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, InlineTable, Item, TableLike, Value};

use super::{IdentityError, address, aliases, load};
use crate::app::AppPassword;
use crate::config::files;
use crate::password::Secrets;

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file can not be used as it is, or would not be usable then.
    #[error(transparent)]
    Unusable(#[from] IdentityError),
    /// The request makes no sense, with what to write instead.
    #[error("{0}")]
    Request(String),
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// Mode of `users.toml`: hashes are secrets.
pub const USERS_MODE: u32 = 0o600;
/// Mode of the other files of a domain.
pub const FILE_MODE: u32 = 0o640;

/// What a new `users.toml` begins with.
pub const USERS_HEAD: &str = "# Users of this domain: \"user@domain\" = { password = \"(argon2id hash)\", scram = \"(for SCRAM)\" }; more keys:\n\
     # send_as = [\"*@example.org\"]   addresses to send as beside the own one\n";
/// What a new `aliases` begins with.
pub const ALIASES_HEAD: &str = "# name: target, target     where mail for name@ this domain goes\n\
     # *: target                the catch-all, for every other name\n";

/// Adds a user with what is kept of a password.
pub fn add_user(
    dir: &Path,
    address: &str,
    secrets: &Secrets,
    send_as: &[String],
) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        if key.is_some() {
            return Err(exists(address));
        }
        let mut entry = InlineTable::new();
        entry.insert("password", secrets.hash.as_str().into());
        entry.insert("scram", secrets.scram.as_str().into());
        if !send_as.is_empty() {
            entry.insert("send_as", Value::Array(Array::from_iter(send_as)));
        }
        let first = document.is_empty();
        let key = folded(address);
        document.insert(&key, Item::Value(entry.into()));
        if first {
            // What is only comments is the head, not the tail, of what follows.
            let head = document.trailing().as_str().unwrap_or_default().to_owned();
            if let Some(mut key) = document.key_mut(&key) {
                key.leaf_decor_mut().set_prefix(head);
                document.set_trailing("");
            }
        }
        Ok(())
    })
}

/// Adds a user who gets mail and can not log in.
pub fn add_receiver(dir: &Path, address: &str) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        if key.is_some() {
            return Err(exists(address));
        }
        let mut entry = InlineTable::new();
        entry.insert("receive_only", true.into());
        document.insert(&folded(address), Item::Value(entry.into()));
        Ok(())
    })
}

/// Adds an app password.
pub fn add_app_password(dir: &Path, address: &str, app: &AppPassword) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let entry = entry(document, key).ok_or_else(|| missing(address))?;
        if entry.get("receive_only").and_then(Item::as_bool) == Some(true) {
            return Err(EditError::Request(format!(
                "{address} only receives; `chapar user passwd {address}` lets it log in"
            )));
        }
        let mut table = InlineTable::new();
        for (name, text) in [("id", &app.id), ("label", &app.label), ("hash", &app.hash)] {
            table.insert(name, text.as_str().into());
        }
        if let Some(array) = entry.get_mut("app_passwords").and_then(Item::as_array_mut) {
            array.push(table);
        } else {
            let array = Array::from_iter([table]);
            entry.insert("app_passwords", Item::Value(Value::Array(array)));
        }
        Ok(())
    })
}

/// Removes the app password with this id or label.
pub fn revoke_app_password(dir: &Path, address: &str, which: &str) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let entry = entry(document, key).ok_or_else(|| missing(address))?;
        let none = || {
            EditError::Request(format!(
                "{address} has no app password \"{which}\"; `chapar user app-password list \
                 {address}` shows what there is"
            ))
        };
        let array = entry
            .get_mut("app_passwords")
            .and_then(Item::as_array_mut)
            .ok_or_else(none)?;
        let is = |value: &Value, name: &str| {
            let text = value.as_inline_table().and_then(|table| table.get(name));
            text.and_then(Value::as_str) == Some(which)
        };
        let named = |value: &Value| is(value, "id") || is(value, "label");
        match array.iter().filter(|value| named(value)).count() {
            0 => return Err(none()),
            1 => array.retain(|value| !named(value)),
            _ => {
                return Err(EditError::Request(format!(
                    "{address} has several app passwords \"{which}\"; give the id of one"
                )));
            }
        }
        if array.is_empty() {
            entry.remove("app_passwords");
        }
        Ok(())
    })
}

/// Gives a user another password.
pub fn set_password(dir: &Path, address: &str, secrets: &Secrets) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let entry = entry(document, key).ok_or_else(|| missing(address))?;
        put(entry, "password", &secrets.hash);
        put(entry, "scram", &secrets.scram);
        entry.remove("receive_only");
        Ok(())
    })
}

/// Gives a user whose password stays another hash of it; unless the password is not any more the
/// one that `hash` was made of.
pub fn rehash(dir: &Path, address: &str, hash: &str, secrets: &Secrets) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let entry = entry(document, key).ok_or_else(|| missing(address))?;
        if entry.get("password").and_then(Item::as_str) == Some(hash) {
            put(entry, "password", &secrets.hash);
            put(entry, "scram", &secrets.scram);
        }
        Ok(())
    })
}

/// Gives a user whose password stays a SCRAM verifier; unless the password is not any more the one
/// that `hash` was made of.
pub fn set_scram(dir: &Path, address: &str, hash: &str, scram: &str) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let entry = entry(document, key).ok_or_else(|| missing(address))?;
        let same = entry.get("password").and_then(Item::as_str) == Some(hash);
        if same {
            put(entry, "scram", scram);
        }
        Ok(())
    })
}

fn entry(document: &mut DocumentMut, key: Option<String>) -> Option<&mut dyn TableLike> {
    document.get_mut(&key?)?.as_table_like_mut()
}

/// Sets a value; one that was there keeps the space and comments around it.
fn put(entry: &mut dyn TableLike, name: &str, text: &str) {
    let mut value = Value::from(text);
    if let Some(old) = entry.get(name).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    entry.insert(name, Item::Value(value));
}

/// Removes a user.
pub fn remove_user(dir: &Path, address: &str) -> Result<(), EditError> {
    change_users(dir, address, |document, key| {
        let gone = key.and_then(|key| document.remove(&key));
        gone.map(|_| ()).ok_or_else(|| missing(address))
    })
}

/// An address as a key of `users.toml` is written.
fn folded(address: &str) -> String {
    match address::key(address) {
        Some((local, domain)) => format!("{local}@{domain}"),
        None => address.to_lowercase(),
    }
}

fn exists(address: &str) -> EditError {
    EditError::Request(format!(
        "{address} is a user already; `chapar user passwd {address}` sets another password"
    ))
}

fn missing(address: &str) -> EditError {
    EditError::Request(format!(
        "there is no user {address}; `chapar user list` shows them"
    ))
}

/// Adds targets to the alias `name` (`*`: the catch-all) of `domain`. False: it had them all.
pub fn add_alias(
    dir: &Path,
    domain: &str,
    name: &str,
    targets: &[String],
) -> Result<bool, EditError> {
    change_aliases(dir, domain, name, |text, name, entry| {
        let mut new = Vec::new();
        for target in targets {
            let target = aliases::target(target, domain).map_err(EditError::Request)?;
            if !new.contains(&target) && !entry.is_some_and(|e| e.targets.contains(&target)) {
                new.push(target);
            }
        }
        if new.is_empty() {
            return Ok(None);
        }
        let joined = new.join(", ");
        Ok(Some(match entry {
            Some(entry) => with_line(text, entry.line, |line| {
                let kept = aliases::without_comment(line).trim_end();
                let rest = line.get(kept.len()..).unwrap_or_default();
                Some(format!("{kept}, {joined}{rest}"))
            }),
            None => {
                let gap = if text.is_empty() || text.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                format!("{text}{gap}{name}: {joined}\n")
            }
        }))
    })
}

/// Removes the alias `name` of `domain`, or one target of it (and the alias with its last one).
pub fn remove_alias(
    dir: &Path,
    domain: &str,
    name: &str,
    target: Option<&str>,
) -> Result<(), EditError> {
    change_aliases(dir, domain, name, |text, name, entry| {
        let none = |what: String| {
            EditError::Request(format!(
                "{what}; `chapar alias list {domain}` shows what there is"
            ))
        };
        let entry = entry.ok_or_else(|| none(format!("there is no alias {name}@{domain}")))?;
        let Some(target) = target else {
            return Ok(Some(with_line(text, entry.line, |_| None)));
        };
        let target = aliases::target(target, domain).map_err(EditError::Request)?;
        if !entry.targets.contains(&target) {
            return Err(none(format!("{name}@{domain} does not lead to {target}")));
        }
        Ok(Some(with_line(text, entry.line, |line| {
            let kept = aliases::without_comment(line).trim_end();
            let rest = line.get(kept.len()..).unwrap_or_default();
            let (left, right) = kept.split_once(':')?;
            let others: Vec<&str> = aliases::split_targets(right)
                .map(str::trim)
                .filter(|text| aliases::target(text, domain).as_ref() != Ok(&target))
                .collect();
            (!others.is_empty()).then(|| format!("{left}: {}{rest}", others.join(", ")))
        })))
    })
    .map(|_| ())
}

/// `text` with its line `number` changed, or left out where `change` gives nothing.
fn with_line(text: &str, number: usize, change: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if index + 1 != number {
            out.push_str(line);
            continue;
        }
        let bare = line.trim_end_matches(['\n', '\r']);
        if let Some(new) = change(bare) {
            out.push_str(&new);
            out.push_str(line.get(bare.len()..).unwrap_or_default());
        }
    }
    out
}

fn change_users(
    dir: &Path,
    address: &str,
    change: impl FnOnce(&mut DocumentMut, Option<String>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    address::check_any(address).map_err(EditError::Request)?;
    let (local, domain) = address::key(address).unwrap_or_default();
    let folder = domain_dir(dir, &domain)?;
    let _lock = locked(&folder)?;
    let path = folder.join("users.toml");
    let text = read(&path)?.unwrap_or_else(|| USERS_HEAD.to_owned());
    let fault = |(line, why)| IdentityError::at(&path, line, why);
    load::parse_users(&text, &domain).map_err(fault)?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| fault((1, error.message().to_owned())))?;
    let wanted = (local, domain.clone());
    let key = document
        .iter()
        .map(|(key, _)| key.to_owned())
        .find(|key| address::key(key).as_ref() == Some(&wanted));
    change(&mut document, key)?;
    let text = document.to_string();
    load::parse_users(&text, &domain).map_err(fault)?;
    files::replace(&path, text.as_bytes(), USERS_MODE)
        .map_err(|error| EditError::Io { path, error })
}

fn change_aliases(
    dir: &Path,
    domain: &str,
    name: &str,
    change: impl FnOnce(&str, &str, Option<&aliases::Entry>) -> Result<Option<String>, EditError>,
) -> Result<bool, EditError> {
    let name = aliases::name(name, domain).map_err(EditError::Request)?;
    let folder = domain_dir(dir, domain)?;
    let _lock = locked(&folder)?;
    let path = folder.join("aliases");
    let text = read(&path)?.unwrap_or_else(|| ALIASES_HEAD.to_owned());
    let fault = |(line, why)| IdentityError::at(&path, line, why);
    let entries = aliases::parse(&text, domain).map_err(fault)?;
    let entry = entries.iter().find(|entry| entry.name == name);
    let Some(new) = change(&text, &name, entry)? else {
        return Ok(false);
    };
    let entries = aliases::parse(&new, domain).map_err(fault)?;
    let identity = load::load(dir, "")?;
    let before = identity.refusals();
    let after = identity.with_aliases(domain, entries).refusals();
    if let Some(reason) = after.iter().find(|reason| !before.contains(reason)) {
        let remedy = "so nothing was changed; change that alias first";
        return Err(EditError::Request(format!("then {reason}; {remedy}")));
    }
    files::replace(&path, new.as_bytes(), FILE_MODE)
        .map_err(|error| EditError::Io { path, error })?;
    Ok(true)
}

fn domain_dir(dir: &Path, domain: &str) -> Result<PathBuf, EditError> {
    address::check_domain(domain).map_err(EditError::Request)?;
    let folder = dir.join("domains").join(domain);
    if !folder.is_dir() {
        return Err(EditError::Request(format!(
            "{domain} is not one of our domains; `chapar domain add {domain}` makes it one"
        )));
    }
    Ok(folder)
}

fn locked(folder: &Path) -> Result<fs::File, EditError> {
    files::lock(folder).map_err(|error| EditError::Io {
        path: folder.to_path_buf(),
        error,
    })
}

fn read(path: &Path) -> Result<Option<String>, EditError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EditError::Io {
            path: path.to_path_buf(),
            error,
        }),
    }
}
