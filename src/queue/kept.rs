//! Small lists beside the journal, as JSON that a person can read: replaced as a whole, synced
//! before anybody is answered, put into the quarantine if they can not be read.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::sync_dir;

/// Reads a list; an empty one if there is none, or none that can be understood.
pub fn load<T: DeserializeOwned>(data_dir: &Path, name: &str) -> io::Result<Vec<T>> {
    let path = data_dir.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(list) => Ok(list),
        Err(error) => {
            let aside = format!("{}-{name}", crate::time::now());
            let aside = data_dir.join("quarantine").join(aside);
            fs::rename(&path, &aside)?;
            let (path, kept) = (path.display(), aside.display());
            tracing::error!(%error, %path, %kept, "a file can not be read and counts as empty");
            Ok(Vec::new())
        }
    }
}

/// Replaces a list; when this returns, it survives a power cut. Blocks.
pub fn save<T: Serialize>(data_dir: &Path, name: &str, list: &[T]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    serde_json::to_writer_pretty(&mut file, list)?;
    file.write_all(b"\n")?;
    if rustix::process::geteuid().is_root() {
        // Root works on another user's store: the daemon must be able to read it.
        let owner = fs::metadata(data_dir)?;
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    file.as_file().sync_all()?;
    file.persist(data_dir.join(name))
        .map_err(|error| error.error)?;
    sync_dir(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_a_damaged_list_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("quarantine")).unwrap();
        let read = || load::<u32>(dir.path(), "list.json").unwrap();
        assert!(read().is_empty());
        save(dir.path(), "list.json", &[1, 2]).unwrap();
        assert_eq!(read(), [1, 2]);
        fs::write(dir.path().join("list.json"), b"[1,").unwrap();
        assert!(read().is_empty());
        assert!(!dir.path().join("list.json").exists());
        let kept = fs::read_dir(dir.path().join("quarantine")).unwrap();
        assert_eq!(kept.count(), 1);
    }
}
