//! The end of the journal: the one open segment that is written to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue_schema::segment::SEGMENT_START;
use queue_schema::{QueueId, SegmentHeader, Stamp};

use super::layout::Layout;
use super::shared::{SegmentFile, Shared};
use super::{StoreError, failpoint};

/// See the module.
pub struct Journal {
    layout: Layout,
    segment_size: u64,
    file: Arc<SegmentFile>,
    /// Where the buffer goes.
    offset: u64,
    /// Records not written yet.
    buffer: Vec<u8>,
    syncs: Arc<AtomicU64>,
}

/// Room a buffer keeps between batches.
const BUFFER: usize = 1 << 20;

impl Journal {
    /// Begins segment `number`; every id so far is at most `floor`.
    pub fn begin(
        layout: &Layout,
        number: u64,
        floor: QueueId,
        segment_size: u64,
    ) -> Result<Journal, StoreError> {
        let file = Arc::new(create(layout, number, floor, segment_size)?);
        Ok(Journal {
            layout: layout.clone(),
            segment_size,
            file,
            offset: SEGMENT_START as u64,
            buffer: Vec::with_capacity(BUFFER),
            syncs: Arc::default(),
        })
    }

    /// The segment.
    pub fn file(&self) -> Arc<SegmentFile> {
        self.file.clone()
    }

    /// How often was synced so far.
    pub fn syncs(&self) -> Arc<AtomicU64> {
        self.syncs.clone()
    }

    /// What records of the segment are checked with.
    pub fn stamp(&self) -> Stamp {
        self.file.stamp
    }

    /// Where the next record goes.
    pub fn end(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Records are appended here.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether the segment holds something and has no room for `bytes` more.
    pub fn is_full(&self, bytes: u64) -> bool {
        self.end() > SEGMENT_START as u64 && self.end() + bytes > self.segment_size
    }

    /// Writes the buffer and syncs. After an error nothing may be written any more: what the disk
    /// holds is not known.
    pub fn write(&mut self) -> Result<(), StoreError> {
        self.file
            .file
            .write_all_at(&self.buffer, self.offset)
            .map_err(|error| StoreError::io("the journal can not be written", &error))?;
        failpoint("before-sync");
        self.file
            .file
            .sync_data()
            .map_err(|error| StoreError::io("the journal can not be synced", &error))?;
        failpoint("after-sync");
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.offset = self.end();
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER);
        Ok(())
    }

    /// Drops what a write or a sync that failed had to make durable: it was refused, and to write it
    /// again, with a sync that then succeeds, would only look durable.
    pub fn abandon(&mut self) {
        self.buffer.clear();
    }

    /// Goes on in a new segment. The buffer must be empty. On an error nothing has changed.
    pub fn rotate(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let number = self.file.stamp.segment + 1;
        let floor = shared.state().position.highest;
        let next = Arc::new(create(&self.layout, number, floor, self.segment_size)?);
        self.close();
        shared.set_file(number, Some(next.clone()));
        self.file = next;
        self.offset = SEGMENT_START as u64;
        Ok(())
    }

    /// Gives back the space that was reserved and not used.
    pub fn close(&self) {
        if let Err(error) = self.file.file.set_len(self.offset) {
            tracing::warn!(%error, "the end of a segment can not be cut off");
        }
    }
}

fn create(
    layout: &Layout,
    number: u64,
    floor: QueueId,
    segment_size: u64,
) -> Result<SegmentFile, StoreError> {
    let path = layout.segment(number);
    let stamp = Stamp {
        segment: number,
        salt: salt()?,
    };
    let made = layout.create_file(&path).and_then(|file| {
        file.allocate(segment_size)?;
        let created = crate::time::now();
        let header = SegmentHeader {
            stamp,
            id_floor: floor,
            created,
        };
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        layout.disk.sync_dir(&layout.journal)?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok(SegmentFile { file, stamp }),
        Err(error) => {
            // Nothing was promised about this file: it may go, and it may be tried again.
            if error.kind() != io::ErrorKind::AlreadyExists {
                let _ = layout.disk.remove_file(&path);
            }
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Err(StoreError::Full),
                _ => Err(StoreError::io("a new segment can not be made", &error)),
            }
        }
    }
}

fn salt() -> Result<u32, StoreError> {
    let mut bytes = [0; 4];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| StoreError::Failed("the system gives no random numbers".into()))?;
    Ok(u32::from_le_bytes(bytes))
}
