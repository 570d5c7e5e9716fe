//! Opening: whatever state the files were left in, what was promised is found again.
//!
//! 1. Segments are opened; one whose header is lost is put aside.
//! 2. The index is opened on a thread of its own with a limit on time without progress, because
//!    sled may panic or hang on damage. If it does, reports an error, is of another version, or
//!    does not fit the journal, it is moved to `index.damaged-1`, in place of the one before, and
//!    made again from nothing. Where there is no room for one, it is held in memory.
//! 3. The journal is synced and replayed into it from its checkpoint on. Damaged records are kept
//!    in `quarantine/`; a torn tail of the last segment was never acknowledged and is cut off.
//! 4. Spool files without a message are removed, and a fresh segment is begun.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use queue_schema::index::Checkpoint;
use queue_schema::segment::SEGMENT_START;
use queue_schema::{BodyPlace, Millis, QueueId, SegmentError, SegmentHeader};

use super::flusher::INDEX_ROOM;
use super::index::{Index, IndexError};
use super::journal::{self, Journal};
use super::layout::Layout;
use super::reader::read_segment;
use super::replay::Replay;
use super::shared::{SegmentFile, Shared, Usage};
use super::{OpenError, Options, StoreError};
use crate::clock::{self, Clock};
use crate::kept;
use crate::schedule;
use crate::ways::{self, Ways};

/// Bytes of the journal that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Segment number.
    pub segment: u64,
    /// Where in it.
    pub range: Range<u64>,
    /// What is wrong.
    pub reason: String,
}

/// What opening found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Every message that waits, and when it is due as it was written; held ones are not here.
    pub waiting: Vec<(Millis, QueueId)>,
    /// By which ways they wait, and when they are due by the clock as it is.
    pub ways: Ways,
    /// What is known of the clock.
    pub clock: Clock,
    /// The clock is behind what it was when something was written.
    pub behind: bool,
    /// The highest id that was ever issued.
    pub highest: QueueId,
    /// Damage that was met, all of it kept in quarantine.
    pub damage: Vec<Damage>,
    /// Why the index was made again, if it was.
    pub rebuilt: Option<String>,
}

/// The parts of an open store.
pub(super) struct Opened {
    pub shared: Shared,
    pub index: Index,
    pub journal: Journal,
    pub applied: Checkpoint,
    pub recovered: Recovered,
}

struct Segment {
    number: u64,
    file: Arc<SegmentFile>,
}

/// What the guarded thread brings back.
pub(super) struct Loaded {
    pub index: Index,
    pub applied: Checkpoint,
    pub waiting: Vec<(Millis, QueueId)>,
    pub ways: Ways,
    pub clock: Clock,
    pub behind: bool,
    pub usage: BTreeMap<u64, Usage>,
    spooled: HashSet<QueueId>,
    pub damage: Vec<Damage>,
    /// Where the last segment ends, and whether something torn is behind that.
    end: Option<(u64, bool)>,
}

/// Where the index is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In its directory.
    Disk,
    /// In memory, because there is no room for it.
    Memory,
    /// In memory, and nothing is written at all.
    Reading,
}

/// Why loading failed.
pub(super) enum LoadError {
    /// The index is to blame.
    Index(String),
    /// There is no room for the index, or something else that passes.
    Room(String),
    /// Something else is.
    Open(OpenError),
}

impl LoadError {
    /// In words.
    pub fn reason(&self) -> String {
        match self {
            LoadError::Index(reason) | LoadError::Room(reason) => reason.clone(),
            LoadError::Open(error) => error.to_string(),
        }
    }
}

impl From<IndexError> for LoadError {
    fn from(error: IndexError) -> Self {
        match error.passes() {
            true => LoadError::Room(error.to_string()),
            false => LoadError::Index(error.to_string()),
        }
    }
}

/// See the module.
pub(super) fn recover(layout: &Layout, options: &Options) -> Result<Opened, OpenError> {
    let mut damage = Vec::new();
    let (segments, mut highest) = open_segments(layout, &mut damage)?;
    let mark = layout.index_mark();
    let mut rebuilt = layout
        .disk
        .exists(&mark)
        .then(|| "the index failed when it was last used".to_owned());
    // sled writes as soon as it is opened, and does not always survive that it can not.
    let free = layout.disk.free(&layout.root);
    let mut home = match free {
        Ok(free) if free.bytes < INDEX_ROOM => Home::Memory,
        _ => Home::Disk,
    };
    let mut last_try = false;
    let loaded = loop {
        if let (Some(reason), Home::Disk) = (&rebuilt, home) {
            put_index_aside(layout, reason)?;
        }
        match guarded(layout, options, &segments, home) {
            Ok(loaded) => break loaded,
            Err(LoadError::Open(error)) => return Err(error),
            Err(LoadError::Index(reason)) if home == Home::Disk && !last_try => {
                rebuilt = Some(reason);
                last_try = true;
            }
            // Not even a fresh one works, or there is no room for any.
            Err(LoadError::Index(reason) | LoadError::Room(reason)) if home == Home::Disk => {
                tracing::error!(
                    reason,
                    "the index is held in memory until it can be written"
                );
                home = Home::Memory;
            }
            Err(LoadError::Index(reason) | LoadError::Room(reason)) => {
                return Err(OpenError::Index(reason));
            }
        }
    };
    highest = highest.max(loaded.applied.highest);
    damage.extend(loaded.damage);
    keep_damage(layout, &segments, &damage);
    remove_orphans(layout, &loaded.spooled, !damage.is_empty())?;

    if let (Some(last), Some((end, torn))) = (segments.last(), loaded.end) {
        if torn {
            tracing::warn!(
                segment = last.number,
                offset = end,
                "the journal ends in a write that was cut off and never acknowledged"
            );
        }
        let path = layout.segment(last.number);
        layout
            .disk
            .open_write(&path)
            .and_then(|file| file.set_len(end).and_then(|()| file.sync_all()))
            .map_err(|error| OpenError::io(&path, error))?;
    }

    // First, or a segment would take all there is.
    let reserve = journal::make_reserve(layout, options.segment_size).unwrap_or_default();
    let journal = begin(
        layout,
        options,
        &segments,
        loaded.applied.segment,
        loaded.end,
        highest,
    )?;
    let number = journal.stamp().segment;

    let mut usage = loaded.usage;
    let mut files = BTreeMap::new();
    for segment in segments {
        usage.entry(segment.number).or_default();
        files.insert(segment.number, segment.file);
    }
    for (number, usage) in &mut usage {
        let length = files.get(number).map(|file| file.file.length());
        usage.used = length.and_then(Result::ok).unwrap_or_default();
    }
    usage.entry(number).or_default().used = journal.end();
    files.insert(number, journal.file());
    let position = Checkpoint {
        segment: number,
        offset: journal.end(),
        salt: journal.stamp().salt,
        highest,
    };
    let recovered = Recovered {
        waiting: loaded.waiting,
        ways: loaded.ways,
        clock: loaded.clock,
        behind: loaded.behind,
        highest,
        damage,
        rebuilt,
    };
    let shared = Shared::new(layout.clone(), usage, files, position);
    shared.set_reserve(reserve);
    shared.set_rest(journal.rest());
    Ok(Opened {
        shared,
        index: loaded.index,
        journal,
        applied: loaded.applied,
        recovered,
    })
}

fn open_segments(
    layout: &Layout,
    damage: &mut Vec<Damage>,
) -> Result<(Vec<Segment>, QueueId), OpenError> {
    let numbers = layout
        .segments()
        .map_err(|error| OpenError::io(&layout.journal, error))?;
    let mut segments = Vec::new();
    let mut highest = QueueId(0);
    for number in numbers {
        let path = layout.segment(number);
        let io = |error| OpenError::io(&path, error);
        let file = layout.disk.open(&path).map_err(io)?;
        let mut head = vec![0; SEGMENT_START];
        let length = file.read_at(&mut head, 0).map_err(io)?;
        match SegmentHeader::decode(head.get(..length).unwrap_or_default()) {
            Ok(header) if header.stamp.segment == number => {
                highest = highest.max(header.id_floor);
                let file = Arc::new(SegmentFile {
                    file,
                    stamp: header.stamp,
                });
                segments.push(Segment { number, file });
            }
            Err(newer @ SegmentError::Newer(_)) => {
                let reason = newer.to_string();
                return Err(OpenError::Newer { path, reason });
            }
            Ok(_) | Err(SegmentError::Damaged) => {
                let length = file.length().map_err(io)?;
                let blank = read_segment(&file).is_ok_and(|bytes| bytes.iter().all(|b| *b == 0));
                if blank {
                    // It was being made when the process ended; nothing is in it.
                    layout.disk.remove_file(&path).map_err(io)?;
                    continue;
                }
                let kept = layout.quarantine.join(format!("{number:012}.journal"));
                layout.disk.rename(&path, &kept).map_err(io)?;
                let reason = SegmentError::Damaged.to_string();
                tracing::error!(path = %kept.display(), reason, "a segment of the journal is lost");
                damage.push(Damage {
                    segment: number,
                    range: 0..length,
                    reason,
                });
            }
        }
    }
    layout
        .disk
        .sync_dir(&layout.journal)
        .map_err(|error| OpenError::io(&layout.journal, error))?;
    Ok((segments, highest))
}

/// A fresh segment; where there is no room for one, the last one, behind which the journal goes on
/// as soon as there is.
fn begin(
    layout: &Layout,
    options: &Options,
    segments: &[Segment],
    applied: u64,
    end: Option<(u64, bool)>,
    highest: QueueId,
) -> Result<Journal, OpenError> {
    let last = layout.segments();
    let number = last
        .map_err(|error| OpenError::io(&layout.journal, error))?
        .last()
        .max(Some(&applied))
        .map_or(1, |last| last + 1);
    let size = options.segment_size;
    let path = layout.segment(number);
    match (
        Journal::begin(layout, number, highest, size),
        segments.last(),
        end,
    ) {
        (Ok(journal), ..) => Ok(journal),
        (Err(error), Some(last), Some((end, _))) if error.passes() => {
            tracing::error!(%error, "no room for a new segment: mail gets 452 until there is");
            Ok(Journal::full(layout, last.file.clone(), end, size))
        }
        (Err(StoreError::Full), ..) => {
            Err(OpenError::io(&path, std::io::ErrorKind::StorageFull.into()))
        }
        (Err(error), ..) => Err(OpenError::io(
            &path,
            std::io::Error::other(error.to_string()),
        )),
    }
}

fn put_index_aside(layout: &Layout, reason: &str) -> Result<(), OpenError> {
    let io = |error| OpenError::io(&layout.index, error);
    if layout.disk.exists(&layout.index) {
        let kept = layout.put_index_aside().map_err(io)?;
        tracing::error!(
            reason,
            kept = %kept.display(),
            "the index of the queue is made again from the journal"
        );
    }
    match layout.disk.remove_file(&layout.index_mark()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    layout.disk.sync_dir(&layout.root).map_err(io)
}

/// Loads on a thread of its own, which is left behind if it hangs: it then holds a directory that
/// was moved away and does no harm.
fn guarded(
    layout: &Layout,
    options: &Options,
    segments: &[Segment],
    home: Home,
) -> Result<Loaded, LoadError> {
    let progress = Arc::new(AtomicU64::new(0));
    let (answer, answered) = mpsc::channel();
    let segments: Vec<_> = segments
        .iter()
        .map(|s| (s.number, s.file.clone()))
        .collect();
    // Here: a simulated clock is of this thread.
    let now = crate::time::now();
    let thread = {
        let (progress, layout) = (progress.clone(), layout.clone());
        let options = options.clone();
        std::thread::Builder::new()
            .name("queue-index".into())
            .spawn(move || {
                let load = || load(&layout, &options, &segments, home, now, &progress);
                let loaded = catch_unwind(AssertUnwindSafe(load));
                let loaded = loaded.unwrap_or_else(|_| Err(LoadError::Index("it panicked".into())));
                let _ = answer.send(loaded);
            })
    };
    thread.map_err(|error| LoadError::Open(OpenError::io(&layout.root, error)))?;
    let mut seen = 0;
    loop {
        match answered.recv_timeout(options.index_limit) {
            Ok(loaded) => return loaded,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(LoadError::Index("its thread ended".into()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    return Err(LoadError::Index("it hangs".into()));
                }
                seen = now;
            }
        }
    }
}

/// Messages after which it is asked whether the index has taken much memory.
const OPEN_AGAIN: usize = 4096;

/// Opens the index and brings it up to the end of the journal.
pub(super) fn load(
    layout: &Layout,
    options: &Options,
    segments: &[(u64, Arc<SegmentFile>)],
    home: Home,
    now: Millis,
    progress: &AtomicU64,
) -> Result<Loaded, LoadError> {
    let index = match home {
        Home::Disk => Index::open(&layout.disk, &layout.index)?,
        Home::Memory | Home::Reading => Index::in_memory(),
    };
    let checkpoint = index.checkpoint()?;
    let first = match checkpoint {
        None => 0,
        Some(at) => segments
            .iter()
            .position(|(number, file)| *number == at.segment && file.stamp.salt == at.salt)
            .ok_or_else(|| LoadError::Index("does not belong to this journal".into()))?,
    };
    let none = Checkpoint {
        segment: 0,
        offset: 0,
        salt: 0,
        highest: QueueId(0),
    };
    let mut replay = Replay::new(&index, checkpoint.unwrap_or(none));
    let mut end = None;
    for (place, (number, segment)) in segments.iter().enumerate().skip(first) {
        let path = layout.segment(*number);
        let io = |error| LoadError::Open(OpenError::io(&path, error));
        // What is acted upon must not vanish in a power cut afterwards.
        if home != Home::Reading {
            segment.file.sync_all().map_err(io)?;
        }
        let bytes = read_segment(&segment.file).map_err(io)?;
        let start = match checkpoint {
            Some(at) if at.segment == *number => usize::try_from(at.offset)
                .ok()
                .filter(|at| *at <= bytes.len())
                .ok_or_else(|| LoadError::Index("is ahead of the journal".into()))?,
            _ => SEGMENT_START,
        };
        let last = place + 1 == segments.len();
        end = Some(replay.segment(&path, *number, segment, &bytes, start, last, progress)?);
    }
    replay.flush()?;
    index.flush()?;
    let Replay {
        position, damage, ..
    } = replay;
    let jumps = kept::load(&layout.disk, &layout.root, clock::FILE);
    let jumps = jumps
        .map_err(|error| LoadError::Open(OpenError::io(&layout.root.join(clock::FILE), error)))?;
    let mut loaded = Loaded {
        applied: position,
        index,
        waiting: Vec::new(),
        ways: Ways::default(),
        clock: Clock::new(jumps, options.retry.clone()),
        behind: false,
        usage: BTreeMap::new(),
        spooled: HashSet::new(),
        damage,
        end,
    };
    let mut latest = 0;
    loaded.clock.begin(now);
    let index = loaded.index.clone();
    for (number, message) in index.messages(QueueId(0)).enumerate() {
        let message = message?;
        progress.fetch_add(1, Ordering::Relaxed);
        if number % OPEN_AGAIN == 0 {
            // What a start takes stays with the arenas of the allocator.
            index.open_again(&layout.disk, &layout.index)?;
        }
        if let Some(due) = schedule::due(&message) {
            loaded.waiting.push((due, message.id));
            let waits = ways::waits(options.naming, &loaded.clock, &message, |_| false, now);
            loaded.ways.add(message.id, waits);
        }
        latest = latest.max(loaded.clock.latest(&message, now));
        let usage = loaded.usage.entry(message.location.segment).or_default();
        usage.add(&message);
        if matches!(message.location.body, BodyPlace::Spool(_)) {
            loaded.spooled.insert(message.id);
        }
    }
    let floor = QueueId(loaded.applied.highest.0.saturating_add(1));
    loaded.behind = loaded.clock.begun(latest, floor);
    Ok(loaded)
}

fn keep_damage(layout: &Layout, segments: &[Segment], damage: &[Damage]) {
    for piece in damage {
        let Some(segment) = segments.iter().find(|s| s.number == piece.segment) else {
            continue;
        };
        let length = usize::try_from(piece.range.end - piece.range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        let kept = segment
            .file
            .file
            .read_exact_at(&mut bytes, piece.range.start)
            .and_then(|()| {
                let name = format!("{:012}-{}.bytes", piece.segment, piece.range.start);
                layout.quarantine(&name, &bytes)
            });
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                // The mail that is whole must not wait for it.
                let (segment, offset) = (piece.segment, piece.range.start);
                tracing::error!(%error, segment, offset, length, "damaged bytes can not be kept");
                continue;
            }
        };
        tracing::error!(
            segment = piece.segment,
            offset = piece.range.start,
            length,
            reason = piece.reason,
            kept = %kept.display(),
            "the journal is damaged; the bytes are kept, all other records were read"
        );
    }
}

/// Removes spool files that no message refers to. If records were lost, they may belong to those
/// and are kept in quarantine.
fn remove_orphans(
    layout: &Layout,
    spooled: &HashSet<QueueId>,
    damaged: bool,
) -> Result<(), OpenError> {
    let io = |error| OpenError::io(&layout.spool, error);
    for name in layout.disk.read_dir(&layout.spool).map_err(io)? {
        let path = layout.spool.join(&name);
        if name.starts_with("tmp-") {
            layout.disk.remove_file(&path).map_err(io)?;
            continue;
        }
        let Ok(id) = name.parse::<QueueId>() else {
            continue;
        };
        if spooled.contains(&id) {
            continue;
        }
        if damaged {
            let kept = layout.quarantine.join(format!("{name}.body"));
            layout.disk.rename(&path, &kept).map_err(io)?;
        } else {
            layout.disk.remove_file(&path).map_err(io)?;
        }
    }
    Ok(())
}
