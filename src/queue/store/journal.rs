//! The end of the journal: the one open segment that is written to, and the reserve for the next.
//!
//! Room is allocated before it is needed: a segment when it begins, and a reserve beside the
//! journal that becomes a segment when the disk is full, so that what becomes of mail that is
//! under way can be written down. New mail never gets the reserve.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue_schema::segment::SEGMENT_START;
use queue_schema::{QueueId, SegmentHeader, Stamp};

use super::disk::DiskFile;
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
    /// Bytes allocated for the segment.
    room: u64,
    /// Records not written yet.
    buffer: Vec<u8>,
    syncs: Arc<AtomicU64>,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// New mail, which can be refused.
    Mail,
    /// Outcomes and orders.
    Outcomes,
}

/// Room a buffer keeps between batches.
const BUFFER: usize = 1 << 20;
/// Bytes of the smallest segment that is made when there is no room for one of the usual size.
const SMALLEST: u64 = 64 << 10;
/// One part in so many of a segment is the size of the reserve.
const RESERVE_PART: u64 = 2;
/// Segment numbers that are tried when files are in the way.
const NUMBERS: u64 = 100;

impl Journal {
    /// Begins segment `number`, or one soon after it; every id so far is at most `floor`.
    pub fn begin(
        layout: &Layout,
        number: u64,
        floor: QueueId,
        segment_size: u64,
    ) -> Result<Journal, StoreError> {
        let least = smallest(segment_size);
        let (file, room) = create(layout, number, floor, segment_size, least)?;
        Ok(Journal {
            room,
            offset: SEGMENT_START as u64,
            ..Journal::full(layout, Arc::new(file), SEGMENT_START as u64, segment_size)
        })
    }

    /// Goes on behind a segment that ends at `offset`, in a new one as soon as there is room.
    pub fn full(
        layout: &Layout,
        file: Arc<SegmentFile>,
        offset: u64,
        segment_size: u64,
    ) -> Journal {
        Journal {
            layout: layout.clone(),
            segment_size,
            file,
            offset,
            room: 0,
            buffer: Vec::with_capacity(BUFFER),
            syncs: Arc::default(),
        }
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

    /// Bytes that can still be written without asking the disk for room.
    pub fn rest(&self) -> u64 {
        self.room.saturating_sub(self.end())
    }

    /// Records are appended here.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether the segment has no room for `bytes` more.
    pub fn is_full(&self, bytes: u64) -> bool {
        self.end() + bytes > self.room
    }

    /// Whether the buffer goes beyond what was allocated.
    pub fn is_over(&self) -> bool {
        self.end() > self.room
    }

    /// Writes the buffer and syncs. After an error that does not pass nothing may be written any
    /// more: what the disk holds is not known.
    pub fn write(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.file.file.write_all_at(&self.buffer, self.offset) {
            if let Some(passing) = full(&error) {
                let blanked = self.blank();
                blanked.map_err(|error| StoreError::io("the journal can not be synced", &error))?;
                return Err(passing);
            }
            return Err(StoreError::io("the journal can not be written", &error));
        }
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

    /// There was no room for all of the buffer: what was written of it was refused, and must not be
    /// found at the next start, also after a power cut. Nothing more goes into this segment.
    fn blank(&mut self) -> io::Result<()> {
        let zeros = vec![0; self.buffer.len()];
        // Behind the bytes that found room there is nothing to be blanked.
        let _ = self.file.file.write_all_at(&zeros, self.offset);
        self.room = 0;
        self.file.file.sync_data()
    }

    /// Goes on in a new segment with room for `bytes`. The buffer must be empty. On an error
    /// nothing has changed.
    pub fn rotate(&mut self, shared: &Shared, bytes: u64, what: For) -> Result<(), StoreError> {
        let number = self.file.stamp.segment + 1;
        let floor = shared.state().position.highest;
        let least = bytes.saturating_add(SEGMENT_START as u64);
        let least = least.max(smallest(self.segment_size));
        let made = create(&self.layout, number, floor, self.segment_size, least);
        let (next, room) = match made {
            Ok(made) => made,
            Err(error) if what == For::Mail => return Err(error),
            Err(error) => match use_reserve(&self.layout, shared, number, floor, least) {
                Ok(Some(made)) => made,
                Ok(None) => return Err(error),
                Err(failed) => {
                    tracing::error!(error = %failed, "the reserve can not be used");
                    return Err(error);
                }
            },
        };
        self.close();
        let next = Arc::new(next);
        shared.set_file(next.stamp.segment, Some(next.clone()));
        self.file = next;
        self.offset = SEGMENT_START as u64;
        self.room = room;
        Ok(())
    }

    /// Gives back the space that was reserved and not used.
    pub fn close(&self) {
        if let Err(error) = self.file.file.set_len(self.offset) {
            tracing::warn!(%error, "the end of a segment can not be cut off");
        }
    }
}

/// A new segment of the usual size, or of what the disk has room for, down to `least` bytes.
fn create(
    layout: &Layout,
    number: u64,
    floor: QueueId,
    segment_size: u64,
    least: u64,
) -> Result<(SegmentFile, u64), StoreError> {
    // A file that could not be removed may be in the way.
    for number in number..number.saturating_add(NUMBERS) {
        let path = layout.segment(number);
        let stamp = Stamp {
            segment: number,
            salt: salt()?,
        };
        let file = match layout.create_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(unmade(&error)),
            Ok(file) => file,
        };
        let most = segment_size.min(share(layout, 2)).max(least);
        let made = allocate(&file, most, least).and_then(|room| {
            head(&file, stamp, floor)?;
            layout.disk.sync_dir(&layout.journal)?;
            Ok(room)
        });
        return match made {
            Ok(room) => Ok((SegmentFile { file, stamp }, room)),
            Err(error) => {
                // Nothing was promised about this file: it may go, and it may be tried again.
                let _ = layout.disk.remove_file(&path);
                Err(unmade(&error))
            }
        };
    }
    Err(StoreError::Unready(
        "files are in the way of new segments".into(),
    ))
}

/// Reserves the most there is room for; how much that is.
fn allocate(file: &DiskFile, most: u64, least: u64) -> io::Result<u64> {
    let mut size = most;
    loop {
        match file.allocate(size) {
            Ok(()) => return Ok(size),
            Err(error) if full(&error).is_none() || size <= least => return Err(error),
            Err(_) => {
                file.set_len(0)?;
                size = (size / 2).max(least);
            }
        }
    }
}

/// One part in so many of what is free: neither takes all, and the index needs some.
fn share(layout: &Layout, parts: u64) -> u64 {
    let free = layout.disk.free(&layout.root);
    free.map_or(u64::MAX, |free| free.bytes / parts)
}

/// The smallest segment where this is the usual size.
fn smallest(segment_size: u64) -> u64 {
    SMALLEST.min(segment_size)
}

fn head(file: &DiskFile, stamp: Stamp, floor: QueueId) -> io::Result<()> {
    let header = SegmentHeader {
        stamp,
        id_floor: floor,
        created: crate::time::now(),
    };
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()
}

/// Makes the reserve if there is none; how many bytes it has.
pub fn make_reserve(layout: &Layout, segment_size: u64) -> io::Result<u64> {
    let path = layout.reserve();
    let least = smallest(segment_size);
    let size = (segment_size / RESERVE_PART).max(least);
    let file = match layout.create_file(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = layout.disk.open_write(&path)?;
            let length = there.length()?;
            if length >= least {
                return Ok(length);
            }
            there
        }
        Err(error) => return Err(error),
    };
    let size = size.min(share(layout, 4)).max(least);
    let made = allocate(&file, size, least).and_then(|size| {
        file.sync_all()?;
        layout.disk.sync_dir(&layout.root)?;
        Ok(size)
    });
    if made.is_err() {
        let _ = layout.disk.remove_file(&path);
    }
    made
}

/// Makes the reserve a segment; `None` if there is none that has room for `least` bytes.
fn use_reserve(
    layout: &Layout,
    shared: &Shared,
    number: u64,
    floor: QueueId,
    least: u64,
) -> Result<Option<(SegmentFile, u64)>, StoreError> {
    let room = shared.reserve();
    if room < least {
        return Ok(None);
    }
    let mut number = number;
    while layout.disk.exists(&layout.segment(number)) {
        number += 1;
    }
    let stamp = Stamp {
        segment: number,
        salt: salt()?,
    };
    let path = layout.reserve();
    let file = layout
        .disk
        .open_write(&path)
        .map_err(|error| unmade(&error))?;
    let made = head(&file, stamp, floor).and_then(|()| {
        layout.disk.rename(&path, &layout.segment(number))?;
        shared.set_reserve(0);
        layout.disk.sync_dir(&layout.journal)?;
        layout.disk.sync_dir(&layout.root)
    });
    made.map_err(|error| unmade(&error))?;
    tracing::warn!(
        segment = number,
        "the disk is full; what becomes of mail goes into the reserve"
    );
    Ok(Some((SegmentFile { file, stamp }, room)))
}

/// The same, where the error is that nothing more finds room.
fn full(error: &io::Error) -> Option<StoreError> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(StoreError::Full),
        _ => None,
    }
}

/// Why there is no new segment. Nothing was written, so it may be tried again whatever it was.
fn unmade(error: &io::Error) -> StoreError {
    let text = || StoreError::Unready(format!("a new segment can not be made: {error}"));
    full(error).unwrap_or_else(text)
}

fn salt() -> Result<u32, StoreError> {
    let mut bytes = [0; 4];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| StoreError::Unready("the system gives no random numbers".into()))?;
    Ok(u32::from_le_bytes(bytes))
}
