//! Bodies too large for the journal: written to a file of their own as they arrive.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use queue_schema::QueueId;

use super::disk::DiskFile;
use super::layout::Layout;
use crate::message::SpoolFile;

/// Where large bodies go; cheap to clone, one for each session.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Layout>);

impl Spool {
    pub(super) fn new(layout: &Layout) -> Spool {
        Spool(Arc::new(layout.clone()))
    }

    /// Begins the file of the message `id`. Blocks.
    pub fn begin(&self, id: QueueId) -> io::Result<SpoolWriter> {
        let temporary = self.0.spool.join(format!("tmp-{id}"));
        let file = self.0.create_file(&temporary)?;
        let spool = self.clone();
        Ok(SpoolWriter {
            spool,
            temporary,
            id,
            file,
            len: 0,
            crc: 0,
            finished: false,
        })
    }
}

/// Writes one body. All of it blocks: call it from `spawn_blocking`.
///
/// The file has a temporary name until [`finish`](SpoolWriter::finish); one that is dropped
/// before is removed, and one left by a crash is removed at the next start. The name becomes
/// durable with the message's record.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    temporary: PathBuf,
    id: QueueId,
    file: DiskFile,
    len: u64,
    crc: u32,
    finished: bool,
}

impl SpoolWriter {
    /// Appends to the body.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Syncs the file and gives it its name. Pass the result on in `Accept`.
    pub fn finish(mut self) -> io::Result<SpoolFile> {
        self.file.sync_all()?;
        let path = self.spool.0.spool.join(self.id.to_string());
        self.spool.0.disk.rename(&self.temporary, &path)?;
        self.finished = true;
        Ok(SpoolFile {
            path: Arc::new(path),
            len: self.len,
            crc: self.crc,
        })
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.spool.0.disk.remove_file(&self.temporary);
        }
    }
}
