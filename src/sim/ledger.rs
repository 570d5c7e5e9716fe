//! The journal read by hand, beside the store: every record as it became durable, once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use queue_schema::frame::{self, FRAME_HEADER, MAGIC};
use queue_schema::segment::SEGMENT_START;
use queue_schema::{Frame, FrameError, Kind, QueueId, Record, SegmentHeader, Stamp, record};

use crate::queue::sim::disk::SimDisk;

/// A checksum and the length of bytes.
pub type Sum = (u32, u64);

/// One record.
#[derive(Debug)]
pub struct Entry {
    /// The record; what it says of its place is true.
    pub record: Record,
    /// Header block and body of an `Accepted` record.
    pub content: Option<Vec<u8>>,
}

impl Entry {
    /// The message it is about.
    pub fn id(&self) -> QueueId {
        match &self.record {
            Record::Accepted(message) => message.id,
            Record::Changed(id, _) | Record::Done(id, _) => *id,
        }
    }
}

/// Records that became durable together, and whether they had to.
#[derive(Debug)]
pub struct Batch {
    /// All or nothing.
    pub group: bool,
    /// In order.
    pub entries: Vec<Entry>,
}

#[derive(Debug)]
struct Segment {
    stamp: Stamp,
    /// Up to where it was read.
    offset: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    segments: BTreeMap<u64, Segment>,
    /// Those that are gone, which a power cut may bring back.
    gone: BTreeSet<u64>,
}

fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

impl Ledger {
    /// The journal in `dir`.
    pub fn new(dir: &Path) -> Ledger {
        Ledger {
            dir: dir.to_path_buf(),
            segments: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    /// What became durable since the last call. After a restart that is everything that is left,
    /// also behind damage.
    pub fn read(&mut self, disk: &SimDisk, restart: bool) -> Result<Vec<Batch>, String> {
        let mut batches = Vec::new();
        for path in disk.names(&self.dir) {
            let Some(number) = number(&path) else {
                continue;
            };
            let durable = disk.durable(&path);
            let known = self.segments.get(&number);
            let known = known.map(|segment| (segment.stamp, segment.offset));
            let read = disk.peek(&path, |bytes| {
                let whole = durable >= bytes.len();
                segment(
                    &bytes[..durable.min(bytes.len())],
                    whole,
                    known,
                    restart,
                    &mut batches,
                )
            });
            match read {
                Some(Ok(Some((stamp, offset)))) => {
                    self.segments.insert(number, Segment { stamp, offset });
                }
                Some(Err(problem)) => return Err(format!("segment {number}: {problem}")),
                Some(Ok(None)) | None => {}
            }
        }
        Ok(batches)
    }

    /// The segment that was written to last.
    pub fn last(&self) -> Option<u64> {
        self.segments.keys().next_back().copied()
    }

    /// The messages whose records lie at a place of a file.
    pub fn at(&self, disk: &SimDisk, path: &Path, place: usize) -> Vec<QueueId> {
        let known = number(path).and_then(|number| self.segments.get(&number));
        let Some(stamp) = known.map(|segment| segment.stamp) else {
            return Vec::new();
        };
        let found = disk.peek(path, |bytes| {
            let mut offset = SEGMENT_START;
            while offset <= place {
                let Ok(frame) = frame::read(bytes.get(offset..).unwrap_or_default(), stamp) else {
                    match again(bytes, offset + 1, stamp) {
                        Some(next) => offset = next,
                        None => return Vec::new(),
                    }
                    continue;
                };
                if place < offset + frame.len() {
                    let mut batches = Vec::new();
                    let _ = batch(&frame, offset, stamp, &mut batches);
                    let entries = batches.into_iter().flat_map(|batch| batch.entries);
                    return entries.map(|entry| entry.id()).collect();
                }
                offset += frame.len();
            }
            Vec::new()
        });
        found.unwrap_or_default()
    }

    /// Segments that are gone since the last call.
    pub fn freed(&mut self, disk: &SimDisk) -> Vec<u64> {
        let there: Vec<u64> = disk
            .names(&self.dir)
            .iter()
            .filter_map(|p| number(p))
            .collect();
        self.gone.retain(|number| !there.contains(number));
        let numbers = self.segments.keys().copied();
        let freed: Vec<u64> = numbers
            .filter(|number| !there.contains(number) && !self.gone.contains(number))
            .collect();
        self.gone.extend(&freed);
        freed
    }
}

/// Reads one segment on; where it was left, or nothing for one that is not yet begun.
fn segment(
    bytes: &[u8],
    whole: bool,
    known: Option<(Stamp, usize)>,
    restart: bool,
    out: &mut Vec<Batch>,
) -> Result<Option<(Stamp, usize)>, String> {
    let Ok(header) = SegmentHeader::decode(bytes) else {
        return Ok(None);
    };
    let (stamp, mut offset) = match known {
        Some((stamp, offset)) if stamp == header.stamp => (stamp, offset),
        // A power cut took its name, and another has the number now.
        _ => (header.stamp, SEGMENT_START),
    };
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        match frame::read(rest, stamp) {
            Ok(frame) => {
                batch(&frame, offset, stamp, out)?;
                offset += frame.len();
            }
            // After a power cut there may be records behind a hole.
            Err(FrameError::Blank) if !restart => return Ok(Some((stamp, offset))),
            // What follows is not durable yet.
            Err(FrameError::Truncated) if !whole => return Ok(Some((stamp, offset))),
            Err(error) => match again(bytes, offset + 1, stamp) {
                _ if !restart => return Err(format!("at {offset}: {error}")),
                Some(next) => offset = next,
                None => return Ok(Some((stamp, offset))),
            },
        }
    }
}

/// Where the next record is behind damage.
fn again(bytes: &[u8], from: usize, stamp: Stamp) -> Option<usize> {
    memchr::memmem::find_iter(bytes.get(from..)?, &MAGIC)
        .map(|at| from + at)
        .find(|at| frame::read(&bytes[*at..], stamp).is_ok())
}

fn batch(
    frame: &Frame<'_>,
    offset: usize,
    stamp: Stamp,
    out: &mut Vec<Batch>,
) -> Result<(), String> {
    let mut entries = Vec::new();
    if frame.kind == Kind::Group {
        let mut at = 0;
        while at < frame.payload.len() {
            let one = frame::read(&frame.payload[at..], stamp).map_err(|e| e.to_string())?;
            entries.push(entry(&one, offset + FRAME_HEADER + at, stamp)?);
            at += one.len();
        }
    } else if !frame.grouped || frame.kind == Kind::Accepted {
        // What is left of a torn group: its messages are wanted, its ends are not.
        entries.push(entry(frame, offset, stamp)?);
    }
    out.push(Batch {
        group: frame.kind == Kind::Group,
        entries,
    });
    Ok(())
}

fn entry(frame: &Frame<'_>, offset: usize, stamp: Stamp) -> Result<Entry, String> {
    let mut record = record::decode(frame, stamp).map_err(|error| error.to_string())?;
    let mut content = None;
    if let Record::Accepted(message) = &mut record {
        message.location.offset = offset as u64;
        let (head, body) = record::content(frame).map_err(|error| error.to_string())?;
        let part = |range: std::ops::Range<usize>| {
            &frame.payload[range.start - FRAME_HEADER..range.end - FRAME_HEADER]
        };
        content = Some([part(head), part(body)].concat());
    }
    Ok(Entry { record, content })
}

/// The sum of some bytes.
pub fn sum(bytes: &[u8]) -> Sum {
    (crc32c::crc32c(bytes), bytes.len() as u64)
}
