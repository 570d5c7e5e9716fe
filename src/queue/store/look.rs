//! Looking at a journal without writing anything: what the index would hold, held in memory. For
//! a disk that is full or read-only, and for an index that can not be written for a while.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use queue_schema::frame::FRAME_HEADER;
use queue_schema::index::Checkpoint;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{Frame, Kind, Location, QueueId, Record, SegmentHeader, record};

use super::index::{Index, IndexError};
use super::layout::Layout;
use super::reader::read_segment;
use super::recover::{Home, LoadError, Loaded, load};
use super::replay::Replay;
use super::scan::{self, Found};
use super::shared::{SegmentFile, Shared};
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
        crate::time::now(),
        &AtomicU64::new(0),
    ) {
        Ok(loaded) => Ok((loaded, segments)),
        Err(LoadError::Open(error)) => Err(error),
        Err(LoadError::Index(reason) | LoadError::Room(reason)) => Err(OpenError::Index(reason)),
    }
}

/// Where the journal holds a message that lives, for when the index can not say: its last copy.
/// Reads the segments `numbers`, from the last on.
pub fn located(shared: &Shared, numbers: &[u64], id: QueueId) -> Option<Location> {
    let numbers = numbers.iter().rev();
    let segments = numbers.filter_map(|number| shared.file(*number));
    for segment in segments {
        let Ok(bytes) = read_segment(&segment.file) else {
            continue;
        };
        let mut last = None;
        let mut each = |offset: usize, frame: &Frame<'_>| {
            if frame.kind == Kind::Accepted
                && frame.id == id
                && let Ok(Record::Accepted(message)) = record::decode(frame, segment.stamp)
            {
                last = Some(Location {
                    offset: offset as u64,
                    ..message.location
                });
            }
        };
        // What can be read of one that is damaged or newer is all there is.
        let _ = scan::scan(&bytes, SEGMENT_START, segment.stamp, |found| match found {
            Found::Frame { offset, frame } if frame.kind == Kind::Group => {
                let inner = scan::group(frame.payload, offset + FRAME_HEADER, segment.stamp);
                for (offset, frame) in inner.unwrap_or_default() {
                    each(offset, &frame);
                }
            }
            Found::Frame { offset, frame } => each(offset, &frame),
            Found::Damage { .. } => {}
        });
        if last.is_some() {
            return last;
        }
    }
    None
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
