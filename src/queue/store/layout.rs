//! Where things lie in `data_dir`, and how files and directories there are made.
//!
//! ```text
//! data_dir/            0700
//!   lock               held by the one process that may write
//!   control.sock       see crate::control
//!   journal/NUMBER.journal
//!   index/             sled; can be thrown away
//!   index.damaged-N    an index that was put aside
//!   spool/QUEUEID      a body too large for the journal
//!   spool/tmp-*        such a body while it arrives
//!   quarantine/        damaged bytes, never deleted
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::OpenError;

const SUFFIX: &str = "journal";

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
    /// Whom new files are given to, when root works on another user's store.
    owner: Option<(u32, u32)>,
}

impl Layout {
    /// The paths, without touching any of them.
    pub fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_path_buf(),
            journal: root.join("journal"),
            index: root.join("index"),
            spool: root.join("spool"),
            quarantine: root.join("quarantine"),
            owner: None,
        }
    }

    /// Makes what is missing, each directory readable by its owner alone.
    pub fn create(root: &Path) -> io::Result<Layout> {
        let mut layout = Layout::new(root);
        private_dir(root, None)?;
        let meta = fs::metadata(root)?;
        if rustix::process::geteuid().is_root() && meta.uid() != 0 {
            layout.owner = Some((meta.uid(), meta.gid()));
        }
        for dir in [&layout.journal, &layout.spool, &layout.quarantine] {
            private_dir(dir, layout.owner)?;
        }
        sync_dir(root)?;
        Ok(layout)
    }

    /// Takes the lock; it is held as long as the file is open.
    pub fn lock(&self) -> Result<File, OpenError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| OpenError::io(&path, error))?;
        self.give(&file)
            .map_err(|error| OpenError::io(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(self.root.clone())),
            Err(TryLockError::Error(error)) => Err(OpenError::io(&path, error)),
        }
    }

    /// A new file, 0600, that did not exist before.
    pub fn create_file(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        self.give(&file)?;
        Ok(file)
    }

    /// The file of a segment.
    pub fn segment(&self, number: u64) -> PathBuf {
        self.journal.join(format!("{number:012}.{SUFFIX}"))
    }

    /// Numbers of the segments there are, in order.
    pub fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.journal)? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX)
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
                && let Ok(number) = stem.parse()
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A name beside the index that is not taken.
    pub fn damaged_index(&self) -> PathBuf {
        let mut number = 1u32;
        loop {
            let path = self.root.join(format!("index.damaged-{number}"));
            if !path.exists() {
                return path;
            }
            number += 1;
        }
    }

    /// The mark that says the index is not to be trusted at the next start.
    pub fn index_mark(&self) -> PathBuf {
        self.root.join("index.suspect")
    }

    /// Keeps damaged bytes; the same ones twice are one file.
    pub fn quarantine(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        use std::io::Write;
        let path = self.quarantine.join(name);
        match self.create_file(&path) {
            Ok(mut file) => {
                file.write_all(bytes)?;
                file.sync_all()?;
                sync_dir(&self.quarantine)?;
                Ok(path)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            Err(error) => Err(error),
        }
    }

    /// Gives everything below the index to the owner of the store (sled made the files).
    pub fn give_index(&self) -> io::Result<()> {
        fn walk(layout: &Layout, path: &Path) -> io::Result<()> {
            layout.give(&File::open(path)?)?;
            if path.is_dir() {
                for entry in fs::read_dir(path)? {
                    walk(layout, &entry?.path())?;
                }
            }
            Ok(())
        }
        if self.owner.is_some() && self.index.exists() {
            walk(self, &self.index)?;
        }
        Ok(())
    }

    fn give(&self, file: &File) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => fchown(file, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

fn private_dir(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    if let Some((uid, gid)) = owner {
        fchown(File::open(path)?, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Makes names that were created, renamed or removed in `path` survive a power cut.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
