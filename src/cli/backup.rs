//! `chapar backup` and `restore`: configuration, secrets and queue in one file, encrypted with a
//! passphrase. The file is a tar archive in age's format: `age -d FILE | tar x` opens it, too.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use age::secrecy::SecretString;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::exit::Wrong;
use super::password;
use super::queue::ask::{self, Failure, Taken};
use super::taken;
use crate::config::{Config, files};
use crate::control::protocol::{Answer, Exported, Request};
use crate::queue::Selector;

/// What of the configuration's directory is kept.
const PARTS: [&str; 4] = ["chapar.toml", ".gitignore", "domains", "secrets"];
/// Where the queue is in the archive.
const QUEUE: &str = "queue";
/// Octets of the shortest passphrase.
const SHORTEST: usize = 12;
/// Bytes of one file that is restored, and of one message.
const LARGEST: u64 = 1 << 30;

/// Write configuration, secrets and queue to one file, encrypted with a passphrase
///
/// The passphrase comes from standard input (a terminal asks). The daemon may run; messages that
/// come while it is written may or may not be in it. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  pass show chapar-backup | chapar backup /var/backups/chapar.age\n\n\
                  age -d /var/backups/chapar.age | tar t   lists what is in it."
)]
pub(super) struct Backup {
    /// The file; it must not exist.
    file: PathBuf,
    /// Leave the queue out.
    #[arg(long)]
    no_queue: bool,
}

/// Bring back what a backup has: files where they are missing, messages into the queue
///
/// Nothing that exists is changed. Restore a queue only where the old daemon does not run any more:
/// otherwise its messages are sent twice. Run again, it takes no message that it took before.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  pass show chapar-backup | chapar restore /var/backups/chapar.age"
)]
pub(super) struct Restore {
    /// The file.
    file: PathBuf,
    /// Leave the queue alone.
    #[arg(long)]
    no_queue: bool,
}

fn passphrase() -> anyhow::Result<SecretString> {
    let read = String::from_utf8(password::read()?).context("the passphrase is not UTF-8")?;
    if read.len() < SHORTEST {
        bail!(Wrong(format!(
            "a passphrase has at least {SHORTEST} octets: whoever has the file can guess as long as they like"
        )));
    }
    Ok(SecretString::from(read))
}

pub(super) fn backup(config: &Path, args: &Backup) -> anyhow::Result<ExitCode> {
    let loaded = Config::load(config)?;
    let encryptor = age::Encryptor::with_user_passphrase(passphrase()?);
    let name = || args.file.display().to_string();
    if args.file.exists() {
        bail!(Wrong(format!("{} exists; name another file", name())));
    }
    let dir = match args.file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Whole or not at all; mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(name)?;
    let encrypted = encryptor.wrap_output(BufWriter::new(file.as_file_mut()))?;
    let mut archive = tar::Builder::new(encrypted);
    let mut count = 0u64;
    for part in PARTS {
        add(
            &mut archive,
            &loaded.dir.join(part),
            Path::new(part),
            &mut count,
        )?;
    }
    let mut messages = 0u64;
    if !args.no_queue {
        messages = add_queue(&mut archive, &loaded)?;
    }
    let mut inner = archive.into_inner()?.finish()?;
    inner.flush()?;
    drop(inner);
    file.as_file().sync_all()?;
    file.persist_noclobber(&args.file).with_context(name)?;
    say!(
        "{count} files and {messages} messages are in {}",
        args.file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn add<W: io::Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    count: &mut u64,
) -> anyhow::Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let file = entry.file_name();
            add(archive, &entry.path(), &name.join(file), count)?;
        }
    } else if path.exists() {
        // Where a link leads, not the link.
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        archive.append_file(name, &mut file)?;
        *count += 1;
    }
    Ok(())
}

fn put<W: io::Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, format!("{QUEUE}/{name}"), bytes)
}

fn add_queue<W: io::Write>(archive: &mut tar::Builder<W>, config: &Config) -> anyhow::Result<u64> {
    let request = Request::Export {
        selector: Selector::default(),
    };
    let mut open: Option<(Exported, Vec<u8>)> = None;
    let mut count = 0;
    let mut finish = |open: &mut Option<(Exported, Vec<u8>)>| -> io::Result<()> {
        if let Some((exported, bytes)) = open.take() {
            put(
                archive,
                &format!("{}.json", exported.id),
                &serde_json::to_vec(&exported)?,
            )?;
            put(archive, &format!("{}.eml", exported.id), &bytes)?;
            count += 1;
        }
        Ok(())
    };
    ask::ask(config, request, &mut |answer| {
        match answer {
            Answer::Message(exported) => {
                finish(&mut open)?;
                open = Some((*exported, Vec::new()));
            }
            Answer::Bytes(piece) => {
                if let Some((_, bytes)) = &mut open {
                    bytes.extend(STANDARD.decode(piece).map_err(io::Error::other)?);
                }
            }
            Answer::Skipped(skipped) => {
                eprintln!("chapar: {} is left out: {}", skipped.id, skipped.text);
            }
            _ => {}
        }
        Ok(())
    })?;
    finish(&mut open)?;
    Ok(count)
}

pub(super) fn restore(config: &Path, args: &Restore) -> anyhow::Result<ExitCode> {
    let name = || args.file.display().to_string();
    let file = File::open(&args.file).with_context(name)?;
    let decryptor = age::Decryptor::new_buffered(BufReader::new(file))
        .with_context(|| format!("{} is no backup of chapar", name()))?;
    let identity = age::scrypt::Identity::new(passphrase()?);
    let opened = match decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)) {
        Ok(opened) => opened,
        Err(error) => bail!(Wrong(format!(
            "{}: {error}; is the passphrase right?",
            name()
        ))),
    };
    let mut archive = tar::Archive::new(opened);
    let mut restoring = Restoring {
        name: name(),
        dir: super::directory(config).to_path_buf(),
        entries: archive.entries()?,
        pending: None,
        wrote: 0,
        kept: 0,
    };
    // Files come first, so that the queue is that of the configuration that was restored.
    let first = restoring.next_message()?;
    say!(
        "{} files restored below {}, {} that exist were kept",
        restoring.wrote,
        restoring.dir.display(),
        restoring.kept
    );
    if let Some(first) = first.filter(|_| !args.no_queue) {
        let config = Config::load(config)?;
        let rest = std::iter::from_fn(|| {
            let next = restoring.next_message();
            next.map_err(|error| Failure::Other(format!("{error:#}")))
                .transpose()
        });
        let mut all = std::iter::once(Ok(first)).chain(rest);
        let counts = taken::take_new(&config, "chapar", "chapar restore", &mut all)?;
        say!(
            "{} messages are in the queue{}",
            counts.taken,
            counts.remark()
        );
    }
    say!("Then: chapar check --config {}", config.display());
    Ok(ExitCode::SUCCESS)
}

/// An archive that is read once, from its beginning to its end: one file at a time is in memory.
struct Restoring<'a, R: io::Read> {
    name: String,
    dir: PathBuf,
    entries: tar::Entries<'a, R>,
    /// The description whose message comes next.
    pending: Option<Exported>,
    wrote: u64,
    kept: u64,
}

impl<R: io::Read> Restoring<'_, R> {
    /// Writes files on the way to the next message of the queue, and gives that; none at the end.
    fn next_message(&mut self) -> anyhow::Result<Option<Taken>> {
        while let Some(entry) = self.entries.next() {
            let entry = entry.with_context(|| self.name.clone())?;
            let path = entry.path()?.into_owned();
            let plain = path
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            let wrong = |what: &str| Wrong(format!("{}: {} {what}", self.name, path.display()));
            if !plain {
                bail!(wrong("leads elsewhere"));
            }
            let mode = entry.header().mode()? & 0o777;
            if entry.size() > LARGEST {
                bail!(wrong(&format!("has more than {LARGEST} bytes")));
            }
            let mut bytes = Vec::new();
            entry
                .take(LARGEST)
                .read_to_end(&mut bytes)
                .with_context(|| self.name.clone())?;
            let first = path.components().next();
            let first = first.map_or_else(Default::default, |part| part.as_os_str().to_owned());
            if first == QUEUE {
                match path.extension().and_then(|ending| ending.to_str()) {
                    Some("json") => self.pending = Some(serde_json::from_slice(&bytes)?),
                    _ => {
                        if let Some(exported) = self.pending.take() {
                            return Ok(Some(Taken { exported, bytes }));
                        }
                    }
                }
            } else if PARTS.iter().any(|part| first == *part) {
                self.file(&path, &bytes, mode, first == "secrets")?;
            }
        }
        Ok(None)
    }

    fn file(&mut self, path: &Path, bytes: &[u8], mode: u32, secret: bool) -> anyhow::Result<()> {
        let target = self.dir.join(path);
        let parent = target.parent().unwrap_or(&self.dir);
        files::create_dir(parent, if secret { 0o700 } else { 0o750 })?;
        let made = files::create(&target, bytes, if secret { 0o600 } else { mode })
            .with_context(|| target.display().to_string())?;
        match made {
            true => self.wrote += 1,
            false => self.kept += 1,
        }
        Ok(())
    }
}
