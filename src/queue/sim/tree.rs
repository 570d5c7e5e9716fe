//! The index of a simulation: a map in memory that a power cut takes back to its last flush.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::SimDisk;

/// Keys and values, and what a process that ends without a flush takes back.
#[derive(Debug, Default)]
pub(super) struct Tree {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What keys had before, in order; since the last flush.
    before: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Entries of one answer of [`SimTree::range`].
const PAGE: usize = 128;

/// Keys and values in order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A handle of the index in a [`SimDisk`].
#[derive(Debug, Clone)]
pub struct SimTree {
    disk: SimDisk,
    tree: Arc<Mutex<Tree>>,
}

impl Tree {
    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let old = match value {
            Some(value) => self.values.insert(key.clone(), value),
            None => self.values.remove(&key),
        };
        self.before.push((key, old));
    }

    /// Takes back what was not flushed.
    pub(super) fn revert(&mut self) {
        for (key, old) in std::mem::take(&mut self.before).into_iter().rev() {
            match old {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
        }
    }

    /// Flips a bit of a value.
    pub(super) fn flip(&mut self, rng: &mut fastrand::Rng) -> Option<()> {
        let place = rng.usize(..self.values.len().max(1));
        let value = self.values.values_mut().nth(place)?;
        let at = rng.usize(..value.len().max(1));
        *value.get_mut(at)? ^= 1 << rng.u8(..8);
        Some(())
    }
}

impl SimTree {
    /// Opens or begins the index in `path`.
    pub fn open(disk: &SimDisk, path: &Path) -> io::Result<SimTree> {
        Ok(SimTree {
            tree: disk.tree(path)?,
            disk: disk.clone(),
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tree) -> T) -> T {
        work(&mut self.tree.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A value.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.disk.look()?;
        Ok(self.with(|tree| tree.values.get(key).cloned()))
    }

    /// The first entries from `from` on and before `to`; none if there are no more.
    pub fn range(&self, from: &[u8], to: &[u8]) -> io::Result<Pairs> {
        self.disk.look()?;
        let pair = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(self.with(|tree| {
            let range = tree.values.range(from.to_vec()..to.to_vec());
            range.take(PAGE).map(pair).collect()
        }))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.with(|tree| tree.values.is_empty()))
    }

    /// Makes changes true in memory, all or none.
    pub fn apply(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> io::Result<()> {
        self.disk.look()?;
        self.with(|tree| {
            for (key, value) in changes {
                tree.set(key, value);
            }
        });
        Ok(())
    }

    /// Makes all changes durable.
    pub fn flush(&self) -> io::Result<()> {
        let bytes = self.with(|tree| tree.before.len() as u64);
        self.disk.flush(bytes)?;
        self.with(|tree| tree.before.clear());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_flush_goes_back_to_the_last_one() {
        let (disk, path) = (SimDisk::new(1), Path::new("/d/index"));
        disk.create_dir(Path::new("/d")).unwrap();
        let tree = SimTree::open(&disk, path).unwrap();
        assert!(tree.is_empty().unwrap());
        let set = |key: u8, value: Option<u8>| (vec![key], value.map(|value| vec![value]));
        tree.apply(vec![set(1, Some(1)), set(2, Some(2))]).unwrap();
        tree.flush().unwrap();
        tree.apply(vec![set(1, None), set(3, Some(3)), set(2, Some(9))])
            .unwrap();
        assert_eq!(tree.get(&[2]).unwrap(), Some(vec![9]));
        disk.restart(None);
        let left = tree.range(&[0], &[9]).unwrap();
        assert_eq!(left, [(vec![1], vec![1]), (vec![2], vec![2])]);
    }
}
