//! Maildir: written to `tmp`, synced, linked into `new`, that directory synced.
//!
//! The name is that of the message and recipient, so that a delivery that is repeated after a crash
//! finds its own file in `new`, or in `cur` where a reader has put it, and adds no second one. Its
//! size is part of it (`S=`), which Dovecot and others read in place of asking the file system.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::source::Source;
use super::{Errand, failed};
use crate::verdict::Verdict;

/// What did not work.
enum Trouble {
    /// The message can not be read.
    Message(io::Error),
    /// The mailbox can not be written.
    Mailbox(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Mailbox(error)
    }
}

pub(super) async fn deliver(path: PathBuf, errand: &Errand<'_>) -> Verdict {
    let name = name(errand);
    let source = Source::new(errand);
    let shown = path.display().to_string();
    let repeated = errand.repeated;
    let work = move || match repeated && was_seen(&path, &name)? {
        true => Ok(()),
        false => store(&path, &name, source),
    };
    let done = tokio::task::spawn_blocking(work).await;
    let panicked = |_| Err(Trouble::Mailbox(io::Error::other("the delivery panicked")));
    match done.unwrap_or_else(panicked) {
        Ok(()) => Verdict::delivered("2.0.0", "stored"),
        Err(Trouble::Mailbox(error)) => failed("the mailbox can not be written", &shown, &error),
        Err(Trouble::Message(error)) => failed("the message can not be read", &shown, &error),
    }
}

/// `seconds.UNIQUE.host`: the time a message came and its id never change.
fn name(errand: &Errand<'_>) -> String {
    // The name of a host may hold what stands for something in a Maildir name.
    let host: String = errand
        .hostname
        .chars()
        .map(|c| if matches!(c, '/' | ':' | ',') { '-' } else { c })
        .collect();
    let message = errand.message;
    let seconds = message.arrived / 1000;
    format!("{seconds}.Q{}R{}.{host}", message.id, errand.at)
}

/// Whether a reader has moved it to `cur` already.
fn was_seen(maildir: &Path, name: &str) -> io::Result<bool> {
    let entries = match std::fs::read_dir(maildir.join("cur")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let front = format!("{name},S=");
    for entry in entries {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(front.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn store(maildir: &Path, name: &str, source: Source) -> Result<(), Trouble> {
    let [tmp, new, _] = ["tmp", "new", "cur"].map(|dir| maildir.join(dir));
    if !new.is_dir() || !tmp.is_dir() {
        create(maildir)?;
    }
    let temporary = tmp.join(name);
    // A crash may have left half of one.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let linked = write(file, source).and_then(|size| {
        let place = new.join(format!("{name},S={size}"));
        Ok(link(&temporary, &place)?)
    });
    let removed = std::fs::remove_file(&temporary);
    linked?;
    match removed {
        // It was moved there.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    Ok(File::open(&new)?.sync_all()?)
}

/// All of it, on disk; gives its size. A disk that is full may say so as late as at the sync.
fn write(mut file: File, mut source: Source) -> Result<u64, Trouble> {
    let (mut piece, mut size) = (Vec::new(), 0);
    while source.fill(&mut piece).map_err(Trouble::Message)? {
        file.write_all(&piece)?;
        size += piece.len() as u64;
    }
    file.sync_all()?;
    Ok(size)
}

/// Makes the file visible, once.
fn link(temporary: &Path, place: &Path) -> io::Result<()> {
    match std::fs::hard_link(temporary, place) {
        // It is there already: an earlier attempt whose end was not recorded.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // A file system without links. At worst it takes the place of the same message.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            std::fs::rename(temporary, place)
        }
        other => other,
    }
}

/// The directory, with its three and those above it, for nobody else to read.
fn create(maildir: &Path) -> io::Result<()> {
    for dir in ["tmp", "new", "cur"] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(maildir.join(dir))?;
    }
    File::open(maildir)?.sync_all()?;
    for above in maildir.ancestors().skip(1).take(2) {
        // Best effort: above our own directories others rule.
        let _ = File::open(above).and_then(|dir| dir.sync_all());
    }
    Ok(())
}
