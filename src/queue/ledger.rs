//! Which messages of other queues were taken already: `imported` in the data directory, so that an
//! import or a restore that is run again takes none twice, also after they have ended.
//!
//! A line for each: `SOURCE ID DIGEST NEW` with the id it had there, the SHA-256 of its bytes (the
//! first half) and the id it has here. Before a message is made durable, the same line with `+ `
//! in front is synced; one with `- ` takes it back. What stands at `+` when the queue is opened was
//! broken off by a crash: whether the message is there says how it ended, and since nothing was
//! delivered in between, that is certain.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use queue_schema::QueueId;
use ring::digest;

/// The file.
pub const FILE: &str = "imported";
/// Its mode.
const MODE: u32 = 0o600;
/// Octets of a digest that are kept: enough that no two messages with one id share them.
const DIGEST: usize = 16;

/// A message of another queue: where it came from, what it was there, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// `digest` is the SHA-256 of the message's bytes; it tells messages of two hosts apart that
    /// have one id.
    pub fn new(source: &str, id: &str, digest: &digest::Digest) -> Origin {
        let mut line = String::new();
        let plain = |c: &char| c.is_ascii_graphic();
        line.extend(source.chars().filter(plain));
        line.push(' ');
        line.extend(id.chars().filter(plain));
        line.push(' ');
        for octet in digest.as_ref().iter().take(DIGEST) {
            line.push_str(&format!("{octet:02x}"));
        }
        Origin(line)
    }
}

/// By what a line is found: a digest of it, so that a million cost little.
type Key = [u8; DIGEST];

fn key(line: &str) -> Key {
    let digest = digest::digest(&digest::SHA256, line.as_bytes());
    let mut key = Key::default();
    for (own, octet) in key.iter_mut().zip(digest.as_ref()) {
        *own = *octet;
    }
    key
}

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// What it is here; none where an older version took it.
    id: Option<QueueId>,
    /// It was begun, and how it ended is not known.
    open: bool,
}

/// The list while somebody imports.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    known: HashMap<Key, Known>,
}

/// A line as it was read: its message, what is known.
fn read(line: &str) -> Option<(&str, Option<Known>)> {
    let (mark, rest) = match line.get(..2) {
        Some("+ ") => ("+", line.get(2..)?),
        Some("- ") => ("-", line.get(2..)?),
        _ => ("", line),
    };
    let mut words = rest.split(' ');
    let (source, _id, digest) = (words.next()?, words.next()?, words.next()?);
    if source.is_empty() || digest.len() != 2 * DIGEST {
        return None;
    }
    let new = words.next();
    let origin = match new {
        Some(new) => rest.strip_suffix(new)?.trim_end(),
        None => rest,
    };
    let id = new.and_then(|new| new.parse().ok());
    let known = (mark != "-").then_some(Known {
        id,
        open: mark == "+",
    });
    Some((origin, known))
}

impl Ledger {
    fn open(path: &Path) -> io::Result<Ledger> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // A line that was cut off by a crash is no line.
        let whole = text.rfind('\n').and_then(|end| text.get(..end));
        let mut known = HashMap::new();
        for (origin, now) in whole.unwrap_or_default().lines().filter_map(read) {
            match now {
                Some(now) => known.insert(key(origin), now),
                None => known.remove(&key(origin)),
            };
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(MODE);
        let mut file = options.open(path)?;
        if rustix::process::geteuid().is_root()
            && let Some(dir) = path.parent()
        {
            // Root works on another user's store: the daemon must be able to write it.
            let owner = std::fs::metadata(dir)?;
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Ledger { file, known })
    }

    fn add(&mut self, mark: &str, origin: &Origin, id: QueueId) -> io::Result<()> {
        let line = format!("{mark}{} {id}\n", origin.0);
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }

    /// The id of a message that was taken before; `Some(None)` if only that is known.
    pub fn taken(&self, origin: &Origin) -> Option<Option<QueueId>> {
        self.known.get(&key(&origin.0)).map(|known| known.id)
    }

    /// It is about to be made durable under this id. Blocks.
    pub fn begin(&mut self, origin: &Origin, id: QueueId) -> io::Result<()> {
        self.add("+ ", origin, id)
    }

    /// It is durable. Blocks.
    pub fn done(&mut self, origin: &Origin, id: QueueId) -> io::Result<()> {
        let known = Known {
            id: Some(id),
            open: false,
        };
        self.known.insert(key(&origin.0), known);
        self.add("", origin, id)
    }

    /// It was refused after all. Blocks.
    pub fn undone(&mut self, origin: &Origin, id: QueueId) -> io::Result<()> {
        self.add("- ", origin, id)
    }
}

/// Finds out how imports ended that a crash broke off; `there` says whether the queue has a
/// message. To be called before anything is delivered.
pub(super) fn settle(
    data_dir: &Path,
    mut there: impl FnMut(QueueId) -> Result<bool, String>,
) -> io::Result<()> {
    let path = data_dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut open: HashMap<&str, QueueId> = HashMap::new();
    for (origin, known) in text.lines().filter_map(read) {
        match known {
            Some(Known {
                id: Some(id),
                open: true,
            }) => open.insert(origin, id),
            _ => open.remove(origin),
        };
    }
    if open.is_empty() {
        return Ok(());
    }
    let mut ledger = Ledger::open(&path)?;
    for (origin, id) in open {
        let origin = Origin(origin.to_owned());
        match there(id).map_err(io::Error::other)? {
            true => ledger.done(&origin, id)?,
            false => ledger.undone(&origin, id)?,
        }
    }
    Ok(())
}

/// The list, in memory only while somebody imports.
#[derive(Debug, Clone)]
pub struct Taken {
    path: PathBuf,
    open: Arc<Mutex<Weak<Mutex<Ledger>>>>,
}

impl Taken {
    pub(super) fn new(data_dir: &Path) -> Taken {
        Taken {
            path: data_dir.join(FILE),
            open: Arc::default(),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The list that all who import now share. Blocks.
    pub fn open(&self) -> io::Result<Arc<Mutex<Ledger>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open.upgrade() {
            return Ok(shared);
        }
        let shared = Arc::new(Mutex::new(Ledger::open(&self.path)?));
        *open = Arc::downgrade(&shared);
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(id: &str) -> Origin {
        Origin::new(
            "chapar",
            id,
            &digest::digest(&digest::SHA256, id.as_bytes()),
        )
    }

    #[test]
    fn q7_what_was_taken_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut ledger = Ledger::open(&path).unwrap();
        let (one, two) = (origin("one"), origin("two"));
        assert_eq!(ledger.taken(&one), None);
        ledger.begin(&one, QueueId(7)).unwrap();
        ledger.done(&one, QueueId(7)).unwrap();
        ledger.begin(&two, QueueId(8)).unwrap();
        ledger.undone(&two, QueueId(8)).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        assert_eq!(ledger.taken(&two), None);
        let other = Origin::new("chapar", "one", &digest::digest(&digest::SHA256, b"other"));
        assert_eq!(
            ledger.taken(&other),
            None,
            "another host's message with this id"
        );
    }

    #[test]
    fn q7_lines_of_older_versions_count_and_one_that_was_cut_off_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let one = origin("one");
        std::fs::write(&path, format!("{}\nchapar tw", one.0)).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.taken(&one), Some(None));
        let two = origin("two");
        ledger.done(&two, QueueId(9)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let new = QueueId(9);
        assert_eq!(text, format!("{}\nchapar tw\n{} {new}\n", one.0, two.0));
        assert_eq!(Ledger::open(&path).unwrap().taken(&two), Some(Some(new)));
    }

    #[test]
    fn q7_an_import_that_a_crash_broke_off_is_settled_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        settle(dir.path(), |_| panic!("nothing was begun")).unwrap();
        let path = dir.path().join(FILE);
        let (one, two, three) = (origin("one"), origin("two"), origin("three"));
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.begin(&one, QueueId(7)).unwrap();
        ledger.begin(&two, QueueId(8)).unwrap();
        ledger.begin(&three, QueueId(9)).unwrap();
        ledger.done(&three, QueueId(9)).unwrap();
        drop(ledger);
        settle(dir.path(), |id| Ok(id == QueueId(7))).unwrap();
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        assert_eq!(ledger.taken(&two), None);
        assert_eq!(ledger.taken(&three), Some(Some(QueueId(9))));
        settle(dir.path(), |_| panic!("all is settled")).unwrap();
    }

    #[test]
    fn all_who_import_share_one_list() {
        let dir = tempfile::tempdir().unwrap();
        let taken = Taken::new(dir.path());
        let (one, other) = (taken.open().unwrap(), taken.clone().open().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        one.lock()
            .unwrap()
            .done(&origin("one"), QueueId(7))
            .unwrap();
        drop((one, other));
        let again = taken.open().unwrap();
        assert!(again.lock().unwrap().taken(&origin("one")).is_some());
    }
}
