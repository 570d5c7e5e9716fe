//! The one way from the queue to files: the real file system, and in unit tests a simulated one
//! that fails, fills up and loses what was not synced.
//!
//! Nothing here decides anything; every error goes to whoever asked. Names that are made, renamed
//! or removed survive a power cut after [`Disk::sync_dir`], bytes after a sync of their file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};

#[cfg(any(test, feature = "simulation"))]
use crate::sim::disk::{SimDisk, SimFile};

/// Bytes of a record that are compared or summed at once.
const PIECE: usize = 64 << 10;

/// Where files are.
#[derive(Debug, Clone, Default)]
pub struct Disk(Home);

#[derive(Debug, Clone, Default)]
enum Home {
    /// The file system.
    #[default]
    Real,
    /// A disk in memory.
    #[cfg(any(test, feature = "simulation"))]
    Simulated(SimDisk),
}

/// An open file; reads and writes name their place.
#[derive(Debug)]
pub struct DiskFile(Open);

#[derive(Debug)]
enum Open {
    Real(File),
    #[cfg(any(test, feature = "simulation"))]
    Simulated(SimFile),
}

/// What is free on the file system of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes that an ordinary user may still write.
    pub bytes: u64,
    /// Files that may still be made; as many as there can be where there is no table of inodes.
    pub inodes: u64,
}

/// Who owns a store, where root works on that of somebody else.
pub type Owner = Option<(u32, u32)>;

impl Disk {
    /// A disk in memory.
    #[cfg(any(test, feature = "simulation"))]
    pub fn simulated(disk: SimDisk) -> Disk {
        Disk(Home::Simulated(disk))
    }

    /// The disk in memory, if it is one.
    #[cfg(any(test, feature = "simulation"))]
    pub fn simulation(&self) -> Option<&SimDisk> {
        match &self.0 {
            Home::Real => None,
            Home::Simulated(disk) => Some(disk),
        }
    }

    /// Makes a directory that its owner alone may enter, with those above it.
    pub fn create_dir(&self, path: &Path, owner: Owner) -> io::Result<()> {
        match &self.0 {
            Home::Real => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                let dir = match owner {
                    // Whoever owns the store chooses what is linked from it, and we are root.
                    Some(_) => without_links(path, OFlags::RDONLY | OFlags::DIRECTORY)?,
                    None => File::open(path)?,
                };
                if dir.metadata()?.permissions().mode() & 0o077 != 0 {
                    dir.set_permissions(fs::Permissions::from_mode(0o700))?;
                }
                give(&dir, owner)
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.create_dir(path),
        }
    }

    /// Who is to own new files below `root`: its owner, where root works on the store of another.
    pub fn owner(&self, root: &Path) -> io::Result<Owner> {
        match &self.0 {
            Home::Real => {
                let meta = fs::metadata(root)?;
                let other = rustix::process::geteuid().is_root() && meta.uid() != 0;
                Ok(other.then(|| (meta.uid(), meta.gid())))
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(_) => Ok(None),
        }
    }

    /// The names in a directory, sorted.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        match &self.0 {
            Home::Real => {
                let mut names = Vec::new();
                for entry in fs::read_dir(path)? {
                    // A name that is no text is none of ours.
                    if let Ok(name) = entry?.file_name().into_string() {
                        names.push(name);
                    }
                }
                names.sort_unstable();
                Ok(names)
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.read_dir(path),
        }
    }

    /// Whether there is a file or directory of that name.
    pub fn exists(&self, path: &Path) -> bool {
        match &self.0 {
            Home::Real => path.exists(),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.exists(path),
        }
    }

    /// Opens a file for reading.
    pub fn open(&self, path: &Path) -> io::Result<DiskFile> {
        match &self.0 {
            Home::Real => Ok(DiskFile(Open::Real(File::open(path)?))),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => Ok(DiskFile(Open::Simulated(disk.open(path)?))),
        }
    }

    /// Opens a file that is there for writing.
    pub fn open_write(&self, path: &Path) -> io::Result<DiskFile> {
        match &self.0 {
            Home::Real => {
                let file = without_links(path, OFlags::RDWR)?;
                Ok(DiskFile(Open::Real(file)))
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => Ok(DiskFile(Open::Simulated(disk.open_write(path)?))),
        }
    }

    /// A new file, 0600, that did not exist before.
    pub fn create_new(&self, path: &Path, owner: Owner) -> io::Result<DiskFile> {
        match &self.0 {
            Home::Real => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)?;
                give(&file, owner)?;
                Ok(DiskFile(Open::Real(file)))
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => Ok(DiskFile(Open::Simulated(disk.create_new(path)?))),
        }
    }

    /// A whole file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.0 {
            Home::Real => fs::read(path),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.read(path),
        }
    }

    /// A new name for a file or directory, in place of what has it.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.0 {
            Home::Real => fs::rename(from, to),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.rename(from, to),
        }
    }

    /// Removes a file.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        match &self.0 {
            Home::Real => fs::remove_file(path),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.remove_file(path),
        }
    }

    /// Removes a directory with all that is in it.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match &self.0 {
            Home::Real => fs::remove_dir_all(path),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.remove_dir_all(path),
        }
    }

    /// A second name for a file.
    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.0 {
            Home::Real => fs::hard_link(from, to),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.hard_link(from, to),
        }
    }

    /// Makes names that were made, renamed or removed in `path` survive a power cut.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match &self.0 {
            Home::Real => File::open(path)?.sync_all(),
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => disk.sync_dir(path),
        }
    }

    /// What is free where `path` lies.
    pub fn free(&self, path: &Path) -> io::Result<Free> {
        match &self.0 {
            Home::Real => {
                let stat = rustix::fs::statvfs(path)?;
                Ok(Free {
                    bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
                    // File systems without a table of inodes report none at all.
                    inodes: match stat.f_files {
                        0 => u64::MAX,
                        _ => stat.f_favail,
                    },
                })
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(disk) => {
                let (bytes, inodes) = disk.free(path)?;
                Ok(Free { bytes, inodes })
            }
        }
    }

    /// The lock of a store; it is held as long as the answer lives. `None`: somebody else has it.
    pub fn lock(&self, path: &Path, owner: Owner) -> io::Result<Option<Lock>> {
        match &self.0 {
            Home::Real => {
                let file = without_links(path, OFlags::CREATE | OFlags::WRONLY)?;
                give(&file, owner)?;
                match file.try_lock() {
                    Ok(()) => Ok(Some(Lock(Some(file)))),
                    Err(fs::TryLockError::WouldBlock) => Ok(None),
                    Err(fs::TryLockError::Error(error)) => Err(error),
                }
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(_) => Ok(Some(Lock(None))),
        }
    }

    /// Gives everything below `path` to `owner`.
    pub fn give_all(&self, path: &Path, owner: Owner) -> io::Result<()> {
        match &self.0 {
            Home::Real => {
                let file = match without_links(path, OFlags::RDONLY) {
                    // A link is nothing of ours, and where it leads even less.
                    Err(_) if path.is_symlink() => return Ok(()),
                    file => file?,
                };
                give(&file, owner)?;
                if file.metadata()?.is_dir() {
                    for entry in fs::read_dir(path)? {
                        self.give_all(&entry?.path(), owner)?;
                    }
                }
                Ok(())
            }
            #[cfg(any(test, feature = "simulation"))]
            Home::Simulated(_) => Ok(()),
        }
    }

    /// Replaces a file as a whole; when this returns, the new one survives a power cut. A reader
    /// sees the old bytes or the new ones.
    pub fn replace(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.new"));
        match self.remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.create_new(&temporary, owner).and_then(|file| {
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            self.rename(&temporary, path)
        });
        if let Err(error) = written {
            // What is left of it is removed by the next replacement at the latest.
            let _ = self.remove_file(&temporary);
            return Err(error);
        }
        self.sync_dir(dir)
    }
}

/// A lock that is held.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held until it is dropped")] Option<File>);

impl DiskFile {
    /// Reads what is there, up to the length of `bytes`.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.0 {
            Open::Real(file) => file.read_at(bytes, offset),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.read_at(bytes, offset),
        }
    }

    /// Reads as much as `bytes` has room for.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => file.read_exact_at(bytes, offset),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.read_exact_at(bytes, offset),
        }
    }

    /// Writes all of `bytes`.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => file.write_all_at(bytes, offset),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    /// Makes the bytes survive a power cut.
    pub fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => file.sync_data(),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.sync_data(),
        }
    }

    /// The same for the bytes and all that is known of the file.
    pub fn sync_all(&self) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => file.sync_all(),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.sync_all(),
        }
    }

    /// Cuts the file off, or fills it with zeros.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => file.set_len(length),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.set_len(length),
        }
    }

    /// Its length in bytes.
    pub fn length(&self) -> io::Result<u64> {
        match &self.0 {
            Open::Real(file) => Ok(file.metadata()?.len()),
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.length(),
        }
    }

    /// Reserves room for so many bytes from its start. Where a file system cannot, room is found
    /// while writing.
    pub fn allocate(&self, length: u64) -> io::Result<()> {
        match &self.0 {
            Open::Real(file) => match fallocate(file, FallocateFlags::empty(), 0, length) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                Err(error) => Err(error.into()),
            },
            #[cfg(any(test, feature = "simulation"))]
            Open::Simulated(file) => file.allocate(length),
        }
    }

    /// Calls `each` with all bytes, a piece at a time.
    pub fn pieces(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let read = self.read_at(&mut buffer, offset)?;
            if read == 0 {
                return Ok(());
            }
            each(buffer.get(..read).unwrap_or_default());
            offset += read as u64;
        }
    }
}

/// Opens what has this name itself, and not what a link leads to.
fn without_links(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(_) if path.is_symlink() => Err(io::Error::other(format!(
            "{} is a link, which is not followed; put the file or directory itself there",
            path.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Gives what root has made to the owner of the store; nothing else ever changes its owner.
fn give(file: &File, owner: Owner) -> io::Result<()> {
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    let found = file.metadata()?;
    let made = found.uid() == 0 && (found.is_dir() || found.nlink() == 1);
    match made {
        true => fchown(file, Some(uid), Some(gid)),
        false => Ok(()),
    }
}
