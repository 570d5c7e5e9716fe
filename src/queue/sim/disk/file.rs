//! An open file of the simulated disk.

use super::*;

impl SimFile {
    /// Reads some bytes.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.state().operation(Operation::Read)?;
        let inode = locked(&self.inode);
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = inode.data.get(from..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// Fills the buffer.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        if self.read_at(buffer, at)? < buffer.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Writes all bytes; a process that dies of it, or a disk that is full, writes some of them.
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_dead = state.dead;
        let begun = state.operation(Operation::Write);
        let mut inode = locked(&self.inode);
        let at = usize::try_from(at).map_err(io::Error::other)?;
        if let Err(error) = begun {
            let part = state.rng.usize(..=bytes.len());
            let fits = (at + part) <= inode.data.len();
            if !was_dead && fits && part > 0 {
                inode.write(&bytes[..part], at);
            }
            return Err(error);
        }
        let grows = (at + bytes.len()).saturating_sub(inode.data.len()) as u64;
        if grows > state.room() {
            return Err(state.refuse());
        }
        if inode.links > 0 {
            state.used += grows;
        }
        inode.write(bytes, at);
        Ok(())
    }

    /// Makes the bytes durable.
    pub fn sync_data(&self) -> io::Result<()> {
        self.disk.state().operation(Operation::Sync)?;
        locked(&self.inode).pending.clear();
        Ok(())
    }

    /// The same.
    pub fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    /// Makes it longer or shorter.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operation(Operation::Write)?;
        let mut inode = locked(&self.inode);
        let size = inode.data.len() as u64;
        let grows = length.saturating_sub(size);
        if grows > state.room() {
            return Err(state.refuse());
        }
        if inode.links > 0 {
            state.used = (state.used + grows).saturating_sub(size.saturating_sub(length));
        }
        inode.resize(usize::try_from(length).map_err(io::Error::other)?);
        Ok(())
    }

    /// Reserves room for so many bytes.
    pub fn allocate(&self, length: u64) -> io::Result<()> {
        if length <= self.length()? {
            return Ok(());
        }
        self.set_len(length)
    }

    /// Bytes of it.
    pub fn length(&self) -> io::Result<u64> {
        Ok(locked(&self.inode).data.len() as u64)
    }
}
