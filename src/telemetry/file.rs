//! The log file: lines are appended; a reload opens it anew, because logrotate moved it away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Readable for the group, such as that of those who read logs.
const MODE: u32 = 0o640;

static OPEN: OnceLock<Writer> = OnceLock::new();

/// Appends to the file.
#[derive(Debug, Clone)]
pub struct Writer {
    path: Arc<PathBuf>,
    file: Arc<Mutex<File>>,
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(MODE)
        .open(path)
}

/// Opens it; the first one of a process is what [`reopen`] opens anew.
pub fn open(path: &Path) -> io::Result<Writer> {
    let writer = Writer {
        path: Arc::new(path.to_owned()),
        file: Arc::new(Mutex::new(append(path)?)),
    };
    Ok(OPEN.get_or_init(|| writer).clone())
}

/// Opens it anew by its name.
pub fn reopen() -> io::Result<()> {
    let Some(writer) = OPEN.get() else {
        return Ok(());
    };
    let file = append(&writer.path)?;
    *writer.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
    Ok(())
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("log.json");
        let mut writer = open(&path).expect("file");
        writer.write_all(b"one\n").expect("write");
        std::fs::rename(&path, dir.path().join("log.json.1")).expect("rename");
        writer.write_all(b"two\n").expect("write");
        reopen().expect("file");
        writer.write_all(b"three\n").expect("write");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("file");
        assert_eq!(read("log.json.1"), "one\ntwo\n");
        assert_eq!(read("log.json"), "three\n");
    }
}
