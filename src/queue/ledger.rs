//! Which messages of other queues were taken already: `imported` in the data directory, so that an
//! import or a restore that is run again takes none twice, also after they have ended.
//!
//! A line for each: `SOURCE ID DIGEST NEW` with the id it had there, the SHA-256 of its bytes (the
//! first half) and the id it has here. Before a message is made durable, the same line with `+ `
//! in front is synced; one with `- ` takes it back. What stands at `+` when the queue is opened was
//! broken off by a crash: whether the message is there says how it ended, and since nothing was
//! delivered in between, that is certain.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use queue_schema::QueueId;
use ring::digest;

use super::store::{Disk, DiskFile};

/// The file.
pub const FILE: &str = "imported";
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
    file: DiskFile,
    /// Where the next line goes: behind the last one that is whole and synced.
    end: u64,
    /// Something may lie behind that: a line that could not be written or synced.
    torn: bool,
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
    fn open(disk: &Disk, path: &Path) -> io::Result<Ledger> {
        let text = lines(disk, path)?;
        // A line that was cut off by a crash is no line.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut known = HashMap::new();
        let read_lines = text.get(..whole).unwrap_or_default().lines();
        for (origin, now) in read_lines.filter_map(read) {
            match now {
                Some(now) => known.insert(key(origin), now),
                None => known.remove(&key(origin)),
            };
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let file = match disk.open_write(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Root works on another user's store: the daemon must be able to write it.
                disk.create_new(path, disk.owner(dir)?)?
            }
            file => file?,
        };
        // Its name, too, has to survive a power cut; it may have been made a moment before one.
        disk.sync_dir(dir)?;
        Ok(Ledger {
            torn: file.length()? > whole as u64,
            file,
            end: whole as u64,
            known,
        })
    }

    fn add(&mut self, mark: &str, origin: &Origin, id: QueueId) -> io::Result<()> {
        let line = format!("{mark}{} {id}\n", origin.0);
        if self.torn {
            self.file.set_len(self.end)?;
        }
        // What a write that fails leaves is cut off before the next line: the two would be one
        // that says nothing of either.
        self.torn = true;
        self.file.write_all_at(line.as_bytes(), self.end)?;
        self.file.sync_data()?;
        self.torn = false;
        self.end += line.len() as u64;
        Ok(())
    }

    /// The id of a message that was taken before; `Some(None)` if only that is known.
    pub fn taken(&self, origin: &Origin) -> Option<Option<QueueId>> {
        self.known.get(&key(&origin.0)).map(|known| known.id)
    }

    /// Whether an earlier import of it was begun, and nothing says how that ended: the next start
    /// finds out.
    pub fn is_open(&self, origin: &Origin) -> bool {
        let known = self.known.get(&key(&origin.0));
        known.is_some_and(|known| known.open)
    }

    /// It is about to be made durable under this id. Blocks.
    pub fn begin(&mut self, origin: &Origin, id: QueueId) -> io::Result<()> {
        self.add("+ ", origin, id)?;
        let known = Known {
            id: Some(id),
            open: true,
        };
        self.known.insert(key(&origin.0), known);
        Ok(())
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
        self.known.remove(&key(&origin.0));
        self.add("- ", origin, id)
    }
}

/// The text of the list; what is no text in it is no line either.
fn lines(disk: &Disk, path: &Path) -> io::Result<String> {
    match disk.read(path) {
        Ok(bytes) => Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            // As long as before, so that places stay where they are.
            Err(error) => {
                let plain = |octet: u8| if octet.is_ascii() { octet } else { b'?' };
                let octets = error.into_bytes().into_iter();
                octets.map(|octet| char::from(plain(octet))).collect()
            }
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// An import that a crash broke off, and how it ended is not noted yet. One that is here must not
/// be delivered before that, or the next start could not tell it from one that never came.
#[derive(Debug, Clone)]
pub(super) struct Unsettled {
    origin: Origin,
    /// What it is here.
    pub id: QueueId,
    here: bool,
}

impl Unsettled {
    fn note(&self, ledger: &mut Ledger) -> io::Result<()> {
        match self.here {
            true => ledger.done(&self.origin, self.id),
            false => ledger.undone(&self.origin, self.id),
        }
    }
}

/// Finds out how imports ended that a crash broke off; `there` says whether the queue has a
/// message. To be called before anything is delivered. What could not be noted is left over.
pub(super) fn settle(
    disk: &Disk,
    data_dir: &Path,
    mut there: impl FnMut(QueueId) -> Result<bool, String>,
) -> io::Result<Vec<Unsettled>> {
    let path = data_dir.join(FILE);
    let text = lines(disk, &path)?;
    let mut open: HashMap<&str, QueueId> = HashMap::new();
    let whole = text.rfind('\n').and_then(|end| text.get(..end));
    for (origin, known) in whole.unwrap_or_default().lines().filter_map(read) {
        match known {
            Some(Known {
                id: Some(id),
                open: true,
            }) => open.insert(origin, id),
            _ => open.remove(origin),
        };
    }
    let mut all = Vec::new();
    for (origin, id) in open {
        let origin = Origin(origin.to_owned());
        let here = there(id).map_err(io::Error::other)?;
        all.push(Unsettled { origin, id, here });
    }
    // The order of a map is chance.
    all.sort_unstable_by_key(|one| one.id);
    if let Err(error) = note(disk, &path, &mut all) {
        let path = path.display();
        tracing::error!(%error, %path, "how an import ended can not be noted; tried again");
    }
    Ok(all)
}

/// Notes how imports ended, and keeps those of which that fails.
fn note(disk: &Disk, path: &Path, all: &mut Vec<Unsettled>) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let mut ledger = Ledger::open(disk, path)?;
    while let Some(one) = all.last() {
        one.note(&mut ledger)?;
        all.pop();
    }
    Ok(())
}

/// The list, in memory only while somebody imports.
#[derive(Debug, Clone)]
pub struct Taken {
    disk: Disk,
    path: PathBuf,
    open: Arc<Mutex<Weak<Mutex<Ledger>>>>,
    /// Locked by whoever imports a message: two who bring the same find each other's.
    pub one: Arc<tokio::sync::Mutex<()>>,
}

impl Taken {
    pub(super) fn new(disk: &Disk, data_dir: &Path) -> Taken {
        Taken {
            disk: disk.clone(),
            path: data_dir.join(FILE),
            open: Arc::default(),
            one: Arc::default(),
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
        let shared = Arc::new(Mutex::new(Ledger::open(&self.disk, &self.path)?));
        *open = Arc::downgrade(&shared);
        Ok(shared)
    }

    /// Notes how imports ended that opening the queue left over. Blocks.
    pub(super) fn settled(&self, left: &[Unsettled]) -> io::Result<()> {
        let open = self.open()?;
        let mut ledger = open.lock().unwrap_or_else(PoisonError::into_inner);
        left.iter().try_for_each(|one| one.note(&mut ledger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::{Faults, SimDisk};

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
        let mut ledger = Ledger::open(&Disk::default(), &path).unwrap();
        let (one, two) = (origin("one"), origin("two"));
        assert_eq!(ledger.taken(&one), None);
        ledger.begin(&one, QueueId(7)).unwrap();
        ledger.done(&one, QueueId(7)).unwrap();
        ledger.begin(&two, QueueId(8)).unwrap();
        ledger.undone(&two, QueueId(8)).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        let ledger = Ledger::open(&Disk::default(), &path).unwrap();
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
        let mut ledger = Ledger::open(&Disk::default(), &path).unwrap();
        assert_eq!(ledger.taken(&one), Some(None));
        let two = origin("two");
        ledger.done(&two, QueueId(9)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let new = QueueId(9);
        assert_eq!(text, format!("{}\n{} {new}\n", one.0, two.0));
        assert_eq!(
            Ledger::open(&Disk::default(), &path).unwrap().taken(&two),
            Some(Some(new))
        );
    }

    #[test]
    fn q7_an_import_that_a_crash_broke_off_is_settled_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        settle(&Disk::default(), dir.path(), |_| {
            panic!("nothing was begun")
        })
        .unwrap();
        let path = dir.path().join(FILE);
        let (one, two, three) = (origin("one"), origin("two"), origin("three"));
        let mut ledger = Ledger::open(&Disk::default(), &path).unwrap();
        ledger.begin(&one, QueueId(7)).unwrap();
        ledger.begin(&two, QueueId(8)).unwrap();
        ledger.begin(&three, QueueId(9)).unwrap();
        ledger.done(&three, QueueId(9)).unwrap();
        drop(ledger);
        settle(&Disk::default(), dir.path(), |id| Ok(id == QueueId(7))).unwrap();
        let ledger = Ledger::open(&Disk::default(), &path).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        assert_eq!(ledger.taken(&two), None);
        assert_eq!(ledger.taken(&three), Some(Some(QueueId(9))));
        settle(&Disk::default(), dir.path(), |_| panic!("all is settled")).unwrap();
    }

    /// A disk on which every write or sync fails until it is told otherwise.
    fn failing() -> (SimDisk, Disk) {
        let sim = SimDisk::new(1);
        sim.create_dir(Path::new("/store")).unwrap();
        (sim.clone(), Disk::simulated(sim))
    }

    #[test]
    fn q7_a_line_that_could_not_be_written_spoils_none_after_it() {
        let (sim, disk) = failing();
        let path = Path::new("/store").join(FILE);
        let mut ledger = Ledger::open(&disk, &path).unwrap();
        let (one, two, three) = (origin("one"), origin("two"), origin("three"));
        ledger.begin(&one, QueueId(7)).unwrap();
        for (write, sync) in [(1.0, 0.0), (0.0, 1.0)] {
            sim.set_faults(Faults {
                write,
                sync,
                ..Faults::default()
            });
            assert!(ledger.begin(&two, QueueId(8)).is_err());
        }
        sim.set_faults(Faults::default());
        ledger.done(&one, QueueId(7)).unwrap();
        ledger.done(&three, QueueId(9)).unwrap();
        drop(ledger);
        // Neither the file nor a line in it goes with the power.
        sim.restart(Some(1.0));
        let ledger = Ledger::open(&disk, &path).unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        assert_eq!(ledger.taken(&two), None);
        assert_eq!(ledger.taken(&three), Some(Some(QueueId(9))));
    }

    #[test]
    fn q7_a_full_disk_leaves_imports_to_be_settled_and_stops_no_start() {
        let (sim, disk) = failing();
        let dir = Path::new("/store");
        let mut ledger = Ledger::open(&disk, &dir.join(FILE)).unwrap();
        let (one, two) = (origin("one"), origin("two"));
        ledger.begin(&one, QueueId(7)).unwrap();
        ledger.begin(&two, QueueId(8)).unwrap();
        drop(ledger);
        sim.set_faults(Faults {
            room: Some(sim.used()),
            ..Faults::default()
        });
        let left = settle(&disk, dir, |id| Ok(id == QueueId(7))).unwrap();
        assert_eq!(left.iter().map(|one| one.id.0).collect::<Vec<_>>(), [7, 8]);
        let taken = Taken::new(&disk, dir);
        let open = taken.open().unwrap();
        assert!(open.lock().unwrap().is_open(&one));
        drop(open);
        assert!(taken.settled(&left).is_err());
        sim.set_faults(Faults::default());
        taken.settled(&left).unwrap();
        let open = taken.open().unwrap();
        let ledger = open.lock().unwrap();
        assert_eq!(ledger.taken(&one), Some(Some(QueueId(7))));
        assert_eq!(ledger.taken(&two), None);
    }

    #[test]
    fn all_who_import_share_one_list() {
        let dir = tempfile::tempdir().unwrap();
        let taken = Taken::new(&Disk::default(), dir.path());
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
