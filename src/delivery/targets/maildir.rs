//! Maildir: written to `tmp`, synced, linked into `new`, both directories synced.
//!
//! The name is that of the message and recipient, so that a delivery that is repeated after a crash
//! finds its own file in `new` and adds no second one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Errand, bytes, failed};
use crate::delivery::verdict::Verdict;

pub(super) async fn deliver(path: PathBuf, errand: &Errand<'_>) -> Verdict {
    let name = name(errand);
    let message = errand.message.clone();
    let (at, recipient) = (errand.at, errand.recipient.clone());
    let (content, hostname) = (errand.content.clone(), errand.hostname.to_owned());
    let patience = errand.patience;
    let shown = path.display().to_string();
    let work = move || {
        let errand = Errand {
            message: &message,
            at,
            recipient: &recipient,
            content: &content,
            hostname: &hostname,
            patience,
        };
        let bytes = bytes(&errand)?;
        let name = format!("{name},S={}", bytes.len());
        store(&path, &name, &bytes)
    };
    let done = tokio::task::spawn_blocking(work).await;
    match done.unwrap_or_else(|_| Err(io::Error::other("the delivery panicked"))) {
        Ok(()) => Verdict::delivered("2.0.0", "stored"),
        Err(error) => failed("the mailbox can not be written", &shown, &error),
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

fn store(maildir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let [tmp, new, _] = ["tmp", "new", "cur"].map(|dir| maildir.join(dir));
    if !new.is_dir() || !tmp.is_dir() {
        create(maildir)?;
    }
    let temporary = tmp.join(name);
    // A crash may have left half of one.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| std::fs::hard_link(&temporary, new.join(name)));
    let removed = std::fs::remove_file(&temporary);
    match linked {
        // It is there already: an earlier attempt whose end was not recorded.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    removed?;
    File::open(&new)?.sync_all()
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
