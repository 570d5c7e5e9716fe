//! How a store is opened, why that may fail, and why something was not made durable.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Disk;
use crate::config::Retry;
use crate::ways::Naming;

/// Bytes of a segment file.
pub const SEGMENT_SIZE: u64 = 64 << 20;
/// How long changes gather before they go into the index.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How long opening or scanning the index may make no progress before it is put aside.
pub const INDEX_LIMIT: Duration = Duration::from_secs(60);
/// How long a segment that could be compacted is left alone: mostly what is in it is just being
/// delivered.
pub const COMPACT_AFTER: Duration = Duration::from_secs(30);

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is.
    pub data_dir: PathBuf,
    /// The way to its files.
    pub disk: Disk,
    /// Bytes of free space below which new mail is refused.
    pub free_space: u64,
    /// Free inodes below which new mail is refused.
    pub free_inodes: u64,
    /// See [`SEGMENT_SIZE`].
    pub segment_size: u64,
    /// See [`FLUSH_EVERY`].
    pub flush_every: Duration,
    /// See [`INDEX_LIMIT`].
    pub index_limit: Duration,
    /// See [`COMPACT_AFTER`].
    pub compact_after: Duration,
    /// How destinations are named.
    pub naming: Naming,
    /// How long mail is tried.
    pub retry: Retry,
}

impl Options {
    /// The defaults, and no demand on free space.
    pub fn new(data_dir: &Path) -> Options {
        Options {
            data_dir: data_dir.to_path_buf(),
            disk: Disk::default(),
            free_space: 0,
            free_inodes: 0,
            segment_size: SEGMENT_SIZE,
            flush_every: FLUSH_EVERY,
            index_limit: INDEX_LIMIT,
            compact_after: COMPACT_AFTER,
            naming: Naming::default(),
            retry: Retry::default(),
        }
    }
}

/// Why a store can not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the queue in {} is in use by another process; stop it, or let mta-queue talk to it over \
         its control socket", .0.display()
    )]
    InUse(PathBuf),
    /// A newer chapar wrote it.
    #[error("{}: {reason}; start the newer chapar that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file can not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not even a fresh index works.
    #[error("{0}; is there free space on the file system of data_dir?")]
    Index(String),
}

impl OpenError {
    /// Whether the store is there and can not be written: no room, a disk or a user that may only
    /// read.
    pub fn may_be_read(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kinds = [
            PermissionDenied,
            QuotaExceeded,
            ReadOnlyFilesystem,
            StorageFull,
        ];
        matches!(self, OpenError::Io { source, .. } if kinds.contains(&source.kind()))
    }

    pub(super) fn io(path: &Path, source: io::Error) -> OpenError {
        OpenError::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Why something was not made durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no space; nothing was written, it may be tried again.
    #[error(
        "free space is below limits.free_space, or free inodes below limits.free_inodes; free some \
         on the file system of data_dir"
    )]
    Full,
    /// Something that it takes can not be had just now; nothing was written, it may be tried again.
    #[error("{0}; it is tried again")]
    Unready(String),
    /// Read-only until a restart.
    #[error("{0}")]
    Failed(String),
    /// This request can never be written; others can.
    #[error("{0}")]
    Refused(String),
    /// The store was closed.
    #[error("the queue is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn io(what: &str, error: &io::Error) -> StoreError {
        StoreError::Failed(format!("{what}: {error}"))
    }

    /// Whether nothing was written and the same may work soon.
    pub fn passes(&self) -> bool {
        matches!(self, StoreError::Full | StoreError::Unready(_))
    }

    pub(crate) fn encode(error: impl std::fmt::Display) -> StoreError {
        StoreError::Refused(error.to_string())
    }
}
