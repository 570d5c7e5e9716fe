//! Looking at a journal without writing anything: what the index would hold, held in memory. For
//! a disk that is full or read-only, and for an index that can not be written for a while.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use queue_schema::index::Checkpoint;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{QueueId, SegmentHeader};

use super::index::{Index, IndexError};
use super::layout::Layout;
use super::reader::read_segment;
use super::recover::{Home, LoadError, Loaded, load};
use super::replay::Replay;
use super::shared::SegmentFile;
use super::{OpenError, Options};

/// The segments that can be read. One that is damaged as a whole is nobody's to put aside here.
pub fn segments(layout: &Layout) -> std::io::Result<Segments> {
    let mut found = Vec::new();
    for number in layout.segments()? {
        let file = layout.disk.open(&layout.segment(number))?;
        let mut head = vec![0; SEGMENT_START];
        let length = file.read_at(&mut head, 0)?;
        match SegmentHeader::decode(head.get(..length).unwrap_or_default()) {
            Ok(header) if header.stamp.segment == number => {
                let stamp = header.stamp;
                found.push((number, Arc::new(SegmentFile { file, stamp })));
            }
            _ => tracing::warn!(segment = number, "a segment can not be read"),
        }
    }
    Ok(found)
}

/// Numbers of segments and their files.
type Segments = Vec<(u64, Arc<SegmentFile>)>;

/// Everything there is, for reading.
pub fn look(layout: &Layout, options: &Options) -> Result<(Loaded, Segments), OpenError> {
    let io = |error| OpenError::io(&layout.journal, error);
    let segments = segments(layout).map_err(io)?;
    match load(
        layout,
        options,
        &segments,
        Home::Reading,
        &AtomicU64::new(0),
    ) {
        Ok(loaded) => Ok((loaded, segments)),
        Err(LoadError::Open(error)) => Err(error),
        Err(LoadError::Index(reason) | LoadError::Room(reason)) => Err(OpenError::Index(reason)),
    }
}

/// What an index holds that is true up to `until`.
pub fn in_memory(layout: &Layout, until: Checkpoint) -> Result<Index, IndexError> {
    let index = Index::in_memory();
    let none = Checkpoint {
        segment: 0,
        offset: 0,
        salt: 0,
        highest: QueueId(0),
    };
    let failed = |why: &dyn std::fmt::Display| IndexError::new(format!("is lost: {why}"));
    let segments = segments(layout).map_err(|error| failed(&error))?;
    let mut replay = Replay::new(&index, none);
    for (number, segment) in segments {
        if number > until.segment {
            break;
        }
        let mut bytes = read_segment(&segment.file).map_err(|error| failed(&error))?;
        if number == until.segment {
            bytes.truncate(usize::try_from(until.offset).unwrap_or(usize::MAX));
        }
        let path = layout.segment(number);
        let progress = AtomicU64::new(0);
        let replayed = replay.segment(
            &path,
            number,
            &segment,
            &bytes,
            SEGMENT_START,
            true,
            &progress,
        );
        replayed.map_err(|error| failed(&error.reason()))?;
    }
    let flushed = replay.flush();
    flushed.map_err(|error| failed(&error.reason()))?;
    Ok(index)
}
