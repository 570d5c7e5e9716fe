//! A disk in memory that fails as disks do, from a seed.
//!
//! Bytes become durable by a sync of their file, names by a sync of their directory; a power cut
//! keeps or loses what was not synced, piece by piece. Writes, reads, opens, syncs and changes of
//! names fail as often as [`Faults`] says, space ends at a number of bytes, and the process that
//! uses the disk can be made to die at any one operation: from then on nothing it does has an
//! effect, until [`SimDisk::restart`].

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tree::Tree;

mod file;
mod trouble;

/// The unit in which a write is torn.
const SECTOR: usize = 512;
/// Error numbers that have no `ErrorKind`.
const EIO: i32 = 5;
const EMFILE: i32 = 24;

/// How often operations fail, from 0 to 1, and how much room there is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Writes, with EIO.
    pub write: f64,
    /// Syncs of files and directories, with EIO.
    pub sync: f64,
    /// Reads, with EIO.
    pub read: f64,
    /// Opening and making files, with EMFILE.
    pub open: f64,
    /// Flushes of the index, with EIO.
    pub flush: f64,
    /// Bytes that fit; `None` for as many as are written.
    pub room: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// An open file of a [`SimDisk`].
#[derive(Debug, Clone)]
pub struct SimFile {
    disk: SimDisk,
    inode: Arc<Mutex<Inode>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    names: BTreeMap<PathBuf, Node>,
    /// Changes of names that no sync made durable, in order.
    pending: Vec<Naming>,
    faults: Faults,
    used: u64,
    operations: u64,
    dies_at: Option<u64>,
    dead: bool,
    /// Whether an operation failed since the last start.
    failed: bool,
    /// Whether there was no room since the last start.
    full: bool,
}

#[derive(Debug, Clone)]
enum Node {
    Directory,
    File(Arc<Mutex<Inode>>),
    Tree(Arc<Mutex<Tree>>),
}

#[derive(Debug, Default)]
struct Inode {
    data: Vec<u8>,
    links: u32,
    /// Changes that no sync made durable, in order.
    pending: Vec<Change>,
}

/// What a lost change takes back.
#[derive(Debug)]
struct Change {
    at: usize,
    /// The bytes that were there.
    before: Vec<u8>,
    /// Bytes that were written.
    length: usize,
    /// The length of the file before.
    size: usize,
}

#[derive(Debug)]
struct Naming {
    /// What its names meant before.
    before: Vec<(PathBuf, Option<Node>)>,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Write,
    Sync,
    Read,
    Open,
    Flush,
    Name,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_path_buf()
}

impl State {
    /// Counts an operation; an error if it fails, or if the process is dead.
    fn operation(&mut self, kind: Operation) -> io::Result<()> {
        self.operations += 1;
        if self.dies_at.is_some_and(|at| at <= self.operations) {
            self.dead = true;
        }
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let (chance, number) = match kind {
            Operation::Write => (self.faults.write, EIO),
            Operation::Sync => (self.faults.sync, EIO),
            Operation::Read => (self.faults.read, EIO),
            Operation::Open => (self.faults.open, EMFILE),
            Operation::Flush => (self.faults.flush, EIO),
            Operation::Name => (self.faults.write / 4.0, EIO),
        };
        if chance > 0.0 && self.rng.f64() < chance {
            self.failed = true;
            return Err(io::Error::from_raw_os_error(number));
        }
        Ok(())
    }

    /// There is no room.
    fn refuse(&mut self) -> io::Error {
        self.full = true;
        ErrorKind::StorageFull.into()
    }

    fn room(&self) -> u64 {
        let room = self.faults.room.unwrap_or(u64::MAX);
        room.saturating_sub(self.used)
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Inode>>> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(inode.clone()),
            Some(_) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Gives names new meanings, as one change.
    fn name(&mut self, new: Vec<(PathBuf, Option<Node>)>) {
        let mut before = Vec::new();
        for (path, node) in new {
            self.link(node.as_ref(), 1);
            let old = match node {
                Some(node) => self.names.insert(path.clone(), node),
                None => self.names.remove(&path),
            };
            self.link(old.as_ref(), -1);
            before.push((path, old));
        }
        self.pending.push(Naming { before });
    }

    fn link(&mut self, node: Option<&Node>, by: i32) {
        let Some(Node::File(inode)) = node else {
            return;
        };
        let mut inode = locked(inode);
        let before = inode.links;
        inode.links = before.saturating_add_signed(by);
        let size = inode.data.len() as u64;
        match (before, inode.links) {
            (0, 1) => self.used += size,
            (1, 0) => self.used = self.used.saturating_sub(size),
            _ => {}
        }
    }

    /// Loses changes of names: one that is lost takes with it all later ones of the same names.
    fn lose_names(&mut self, chance: f64) {
        let mut lost: Vec<PathBuf> = Vec::new();
        let mut undone = Vec::new();
        for naming in std::mem::take(&mut self.pending) {
            let same = naming.before.iter().any(|(path, _)| lost.contains(path));
            if same || self.rng.f64() < chance {
                lost.extend(naming.before.iter().map(|(path, _)| path.clone()));
                undone.push(naming);
            }
        }
        for naming in undone.into_iter().rev() {
            for (path, old) in naming.before.into_iter().rev() {
                self.link(old.as_ref(), 1);
                let new = match old {
                    Some(node) => self.names.insert(path, node),
                    None => self.names.remove(&path),
                };
                self.link(new.as_ref(), -1);
            }
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], at: usize) {
        let size = self.data.len();
        let end = at + bytes.len();
        if end > size {
            self.data.resize(end, 0);
        }
        let place = &mut self.data[at..end];
        let before = place.to_vec();
        place.copy_from_slice(bytes);
        self.pending.push(Change {
            at,
            before,
            length: bytes.len(),
            size,
        });
    }

    fn resize(&mut self, length: usize) {
        let size = self.data.len();
        if length == size {
            return;
        }
        let before = self.data.get(length..).unwrap_or_default().to_vec();
        self.data.resize(length, 0);
        self.pending.push(Change {
            at: length.min(size),
            before,
            length: 0,
            size,
        });
    }

    /// Loses changes that were not synced, whole or by sectors.
    fn lose(&mut self, chance: f64, rng: &mut fastrand::Rng) {
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if rng.f64() >= chance {
                continue;
            }
            if change.length == 0 {
                self.data.resize(change.size, 0);
                let kept = change.before.len().min(self.data.len() - change.at);
                self.data[change.at..change.at + kept].copy_from_slice(&change.before[..kept]);
                continue;
            }
            let end = (change.at + change.length).min(self.data.len());
            let torn = rng.bool();
            let mut from = change.at;
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                if !torn || rng.bool() {
                    let old = &change.before[from - change.at..to - change.at];
                    self.data[from..to].copy_from_slice(old);
                }
                from = to;
            }
            if end == self.data.len() && change.size < end && !torn {
                self.data.truncate(change.size.max(change.at));
            }
        }
    }
}

impl SimDisk {
    /// An empty disk; what fails follows from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            names: BTreeMap::new(),
            pending: Vec::new(),
            faults: Faults::default(),
            used: 0,
            operations: 0,
            dies_at: None,
            dead: false,
            failed: false,
            full: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    fn handle(&self, inode: Arc<Mutex<Inode>>) -> SimFile {
        SimFile {
            disk: self.clone(),
            inode,
        }
    }

    /// Makes a directory and those above it; one that is there already is no error.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Name)?;
        if !state.names.contains_key(path) {
            // Directories are made once, when the store is made: their names are durable at once.
            state.names.insert(path.to_path_buf(), Node::Directory);
        }
        Ok(())
    }

    /// The names in a directory, sorted.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operation(Operation::Read)?;
        if !matches!(state.names.get(path), Some(Node::Directory)) {
            return Err(ErrorKind::NotFound.into());
        }
        let names = state
            .names
            .keys()
            .filter(|name| name.parent() == Some(path));
        Ok(names
            .filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    /// Whether there is something of this name.
    pub fn exists(&self, path: &Path) -> bool {
        self.state().names.contains_key(path)
    }

    /// Bytes of a file.
    pub fn len(&self, path: &Path) -> io::Result<u64> {
        let inode = self.state().file(path)?;
        let length = locked(&inode).data.len();
        Ok(length as u64)
    }

    /// Opens a file to read it.
    pub fn open(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.state();
        state.operation(Operation::Open)?;
        let inode = state.file(path)?;
        drop(state);
        Ok(self.handle(inode))
    }

    /// Opens a file to write to it.
    pub fn open_write(&self, path: &Path) -> io::Result<SimFile> {
        self.open(path)
    }

    /// Makes a file that did not exist before.
    pub fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.state();
        state.operation(Operation::Open)?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if state.room() == 0 {
            return Err(state.refuse());
        }
        let inode = Arc::new(Mutex::new(Inode::default()));
        state.name(vec![(path.to_path_buf(), Some(Node::File(inode.clone())))]);
        drop(state);
        Ok(self.handle(inode))
    }

    /// The bytes of a file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        state.operation(Operation::Read)?;
        let inode = state.file(path)?;
        let bytes = locked(&inode).data.clone();
        Ok(bytes)
    }

    /// Gives a file or an index another name, in place of what had it.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Name)?;
        let node = state.names.get(from).cloned().ok_or(ErrorKind::NotFound)?;
        state.name(vec![
            (to.to_path_buf(), Some(node)),
            (from.to_path_buf(), None),
        ]);
        Ok(())
    }

    /// Takes a file's name away.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Name)?;
        state.file(path)?;
        state.name(vec![(path.to_path_buf(), None)]);
        Ok(())
    }

    /// Removes an index.
    pub fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Name)?;
        if !state.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        state.name(vec![(path.to_path_buf(), None)]);
        Ok(())
    }

    /// Gives a file one more name.
    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Name)?;
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = state.file(from)?;
        state.name(vec![(to.to_path_buf(), Some(Node::File(inode)))]);
        Ok(())
    }

    /// Makes the names in a directory durable. A change of names is atomic, as in the journals of
    /// file systems: one that moves a name to another directory is durable in both at once.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Open)?;
        state.operation(Operation::Sync)?;
        let within = |(name, _): &(PathBuf, _)| parent(name) == path;
        let pending = &mut state.pending;
        pending.retain(|naming| !naming.before.iter().any(within));
        Ok(())
    }

    /// Bytes and inodes that are free.
    pub fn free(&self, _path: &Path) -> io::Result<(u64, u64)> {
        let mut state = self.state();
        state.operation(Operation::Read)?;
        Ok((state.room(), 1_000_000))
    }

    /// The index of this name, made if there is none.
    pub(super) fn tree(&self, path: &Path) -> io::Result<Arc<Mutex<Tree>>> {
        let mut state = self.state();
        state.operation(Operation::Open)?;
        match state.names.get(path) {
            Some(Node::Tree(tree)) => Ok(tree.clone()),
            Some(_) => Err(ErrorKind::AlreadyExists.into()),
            None => {
                let tree = Arc::new(Mutex::new(Tree::default()));
                state.name(vec![(path.to_path_buf(), Some(Node::Tree(tree.clone())))]);
                Ok(tree)
            }
        }
    }

    /// Whether an index may write so many bytes now.
    pub(super) fn flush(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operation(Operation::Flush)?;
        if bytes > 0 && state.room() == 0 {
            return Err(state.refuse());
        }
        Ok(())
    }

    /// An index is read.
    pub(super) fn look(&self) -> io::Result<()> {
        self.state().operation(Operation::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn disk() -> SimDisk {
        let disk = SimDisk::new(7);
        disk.create_dir(Path::new(DIR)).unwrap();
        disk
    }

    #[test]
    fn a_power_cut_loses_what_no_sync_made_durable() {
        let (disk, one, two) = (disk(), Path::new("/d/one"), Path::new("/d/two"));
        let file = disk.create_new(one).unwrap();
        file.write_all_at(b"durable", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file.write_all_at(b"lost", 7).unwrap();
        file.write_all_at(b"D", 0).unwrap();
        disk.rename(one, two).unwrap();
        disk.restart(None);
        assert_eq!(disk.read(two).unwrap(), b"Durablelost");
        disk.restart(Some(1.0));
        assert!(!disk.exists(two));
        let left = disk.read(one).unwrap();
        assert!(left.starts_with(b"urable") || &left[1..7] == b"urable");
    }

    #[test]
    fn a_dead_process_changes_nothing() {
        let (disk, path) = (disk(), Path::new("/d/x"));
        let file = disk.create_new(path).unwrap();
        disk.die();
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(disk.remove_file(path).is_err());
        disk.restart(None);
        assert_eq!(disk.read(path).unwrap(), b"");
    }

    #[test]
    fn room_ends_and_comes_back() {
        let (disk, path) = (disk(), Path::new("/d/x"));
        let file = disk.create_new(path).unwrap();
        let room = |room| {
            disk.set_faults(Faults {
                room,
                ..Faults::default()
            });
        };
        room(Some(10));
        file.allocate(8).unwrap();
        file.write_all_at(b"12345678", 0).unwrap();
        let refused = file.write_all_at(b"123", 8).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert_eq!(disk.free(path).unwrap().0, 2);
        room(None);
        file.write_all_at(b"123", 8).unwrap();
        disk.remove_file(path).unwrap();
        assert_eq!(disk.used(), 0);
    }
}
