//! What breaks on the simulated disk, what is left after the process or the power died, and what a
//! test may look at.

use super::*;

/// What the simulation does with the disk, and sees of it without any fault.
impl SimDisk {
    /// From now on it fails like this.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How it fails.
    pub fn faults(&self) -> Faults {
        self.state().faults
    }

    /// The process dies within so many operations from now on.
    pub fn die_after(&self, operations: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.operations + operations.max(1));
    }

    /// The process dies now.
    pub fn die(&self) {
        self.state().dead = true;
    }

    /// Whether it died.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Whether an operation failed, or the disk was full, since the last start.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.failed || state.full
    }

    /// Whether an operation failed since the last start, not for want of room.
    pub fn has_failed_hard(&self) -> bool {
        self.state().failed
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// Another process takes over: what was in the memory of the last one is gone, and after a
    /// power cut some of what no sync made durable, each piece with this chance.
    pub fn restart(&self, power: Option<f64>) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.dead = false;
        state.dies_at = None;
        state.failed = false;
        state.full = false;
        if let Some(chance) = power {
            state.lose_names(chance);
        }
        let nodes: Vec<Node> = state.names.values().cloned().collect();
        let mut used = 0;
        for node in nodes {
            match node {
                Node::File(inode) => {
                    let mut inode = locked(&inode);
                    if let Some(chance) = power {
                        inode.lose(chance, &mut state.rng);
                    }
                    used += inode.data.len() as u64;
                }
                Node::Tree(tree) => locked(&tree).revert(),
                Node::Directory => {}
            }
        }
        state.used = used;
    }

    /// Names below a directory.
    pub fn names(&self, path: &Path) -> Vec<PathBuf> {
        let state = self.state();
        let names = state.names.keys();
        names
            .filter(|name| name.parent() == Some(path))
            .cloned()
            .collect()
    }

    /// Looks at the bytes of a file from an offset on; `None` if it is not there.
    pub fn peek<T>(&self, path: &Path, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let inode = self.state().file(path).ok()?;
        let inode = locked(&inode);
        Some(look(&inode.data))
    }

    /// Up to where the bytes of a file are durable.
    pub fn durable(&self, path: &Path) -> usize {
        let Ok(inode) = self.state().file(path) else {
            return 0;
        };
        let inode = locked(&inode);
        let first = inode.pending.iter().map(|change| change.at).min();
        first.unwrap_or(inode.data.len())
    }

    /// Does something during which nothing fails and nothing is counted.
    pub fn quietly<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = {
            let mut state = self.state();
            let before = (state.faults, state.operations, state.dies_at.take());
            state.faults = Faults::default();
            before
        };
        let done = work();
        let mut state = self.state();
        (state.faults, state.operations, state.dies_at) = before;
        done
    }

    /// A place where a bit could flip: of a file with bytes, or of an index.
    pub fn any_place(&self) -> Option<(PathBuf, usize)> {
        let mut state = self.state();
        let whole = |node: &Node| matches!(node, Node::File(_) | Node::Tree(_));
        let nodes = state.names.iter().filter(|(_, node)| whole(node));
        let nodes: Vec<(PathBuf, Node)> = nodes.map(|(p, n)| (p.clone(), n.clone())).collect();
        let (path, node) = nodes.get(state.rng.usize(..nodes.len().max(1)))?.clone();
        match node {
            Node::File(inode) => {
                let end = locked(&inode).data.iter().rposition(|byte| *byte != 0)? + 1;
                Some((path, state.rng.usize(..end)))
            }
            _ => Some((path, 0)),
        }
    }

    /// Flips a bit of a byte there, or of any value of an index.
    pub fn flip(&self, path: &Path, at: usize) {
        let mut state = self.state();
        match state.names.get(path).cloned() {
            Some(Node::File(inode)) => {
                let bit = 1 << state.rng.u8(..8);
                if let Some(byte) = locked(&inode).data.get_mut(at) {
                    *byte ^= bit;
                }
            }
            Some(Node::Tree(tree)) => drop(locked(&tree).flip(&mut state.rng)),
            _ => {}
        }
    }
}
