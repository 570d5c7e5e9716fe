//! Where things lie in `data_dir`, and how files and directories there are made.
//!
//! ```text
//! data_dir/            0700
//!   reserve            room for outcomes when the disk is full
//!   lock               held by the one process that may write
//!   control.sock       see crate::control
//!   journal/NUMBER.journal
//!   index/             sled; can be thrown away
//!   index.damaged-1    the last index that was put aside
//!   spool/QUEUEID      a body too large for the journal
//!   spool/tmp-*        such a body while it arrives
//!   quarantine/        damaged bytes, never deleted
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::disk::{Disk, DiskFile, Lock, Owner};

const SUFFIX: &str = "journal";
/// How the name of an index that was put aside begins.
const DAMAGED: &str = "index.damaged-";

/// The directories of one store.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `data_dir`.
    pub root: PathBuf,
    /// Segments.
    pub journal: PathBuf,
    /// The index.
    pub index: PathBuf,
    /// Large bodies.
    pub spool: PathBuf,
    /// Damaged bytes.
    pub quarantine: PathBuf,
    /// The way to all of them.
    pub disk: Disk,
    /// Whom new files are given to, when root works on another user's store.
    owner: Owner,
}

impl Layout {
    /// The paths, without touching any of them.
    pub fn new(root: &Path, disk: &Disk) -> Layout {
        Layout {
            root: root.to_path_buf(),
            journal: root.join("journal"),
            index: root.join("index"),
            spool: root.join("spool"),
            quarantine: root.join("quarantine"),
            disk: disk.clone(),
            owner: None,
        }
    }

    /// Makes what is missing, each directory readable by its owner alone.
    pub fn create(root: &Path, disk: &Disk) -> io::Result<Layout> {
        let mut layout = Layout::new(root, disk);
        disk.create_dir(root, None)?;
        layout.owner = disk.owner(root)?;
        for dir in [&layout.journal, &layout.spool, &layout.quarantine] {
            disk.create_dir(dir, layout.owner)?;
        }
        disk.sync_dir(root)?;
        Ok(layout)
    }

    /// Takes the lock; it is held as long as the answer lives.
    pub fn lock(&self) -> Result<Lock, OpenError> {
        let path = self.root.join("lock");
        match self.disk.lock(&path, self.owner) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(OpenError::InUse(self.root.clone())),
            Err(error) => Err(OpenError::io(&path, error)),
        }
    }

    /// A new file, 0600, that did not exist before.
    pub fn create_file(&self, path: &Path) -> io::Result<DiskFile> {
        self.disk.create_new(path, self.owner)
    }

    /// The file of a segment.
    pub fn segment(&self, number: u64) -> PathBuf {
        self.journal.join(format!("{number:012}.{SUFFIX}"))
    }

    /// Numbers of the segments there are, in order.
    pub fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for name in self.disk.read_dir(&self.journal)? {
            if let Some((stem, SUFFIX)) = name.rsplit_once('.')
                && let Ok(number) = stem.parse()
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What becomes a segment when there is no room for one.
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Moves the index aside, in place of the one that was put aside before. Where to.
    pub fn put_index_aside(&self) -> io::Result<PathBuf> {
        for name in self.disk.read_dir(&self.root)? {
            if name.starts_with(DAMAGED) {
                self.disk.remove_dir(&self.root.join(name))?;
            }
        }
        let to = self.root.join(format!("{DAMAGED}1"));
        self.disk.rename(&self.index, &to)?;
        Ok(to)
    }

    /// The mark that says the index is not to be trusted at the next start.
    pub fn index_mark(&self) -> PathBuf {
        self.root.join("index.suspect")
    }

    /// Keeps damaged bytes; the same ones twice are one file.
    pub fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.quarantine.join(name);
        match self.create_file(&path) {
            Ok(file) => {
                file.write_all_at(bytes, 0)?;
                file.sync_all()?;
                self.disk.sync_dir(&self.quarantine)?;
                Ok(path)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            Err(error) => Err(error),
        }
    }

    /// Gives everything below the index to the owner of the store (sled made the files).
    pub fn give_index(&self) -> io::Result<()> {
        if self.owner.is_some() && self.disk.exists(&self.index) {
            self.disk.give_all(&self.index, self.owner)?;
        }
        Ok(())
    }

    /// Writes the mark that [`Layout::index_mark`] names.
    pub fn mark_index(&self) -> io::Result<()> {
        match self.create_file(&self.index_mark()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.disk.sync_dir(&self.root)
    }
}
