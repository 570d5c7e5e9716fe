//! Small lists beside the journal, as JSON that a person can read: replaced as a whole, synced
//! before anybody is answered, put into the quarantine if they can not be read.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::Disk;

/// Reads a list; an empty one if there is none, or none that can be understood.
pub fn load<T: DeserializeOwned>(disk: &Disk, data_dir: &Path, name: &str) -> io::Result<Vec<T>> {
    let path = data_dir.join(name);
    let bytes = match disk.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice(&bytes) {
        Ok(list) => Ok(list),
        Err(error) => {
            let aside = format!("{}-{name}", crate::time::now());
            let aside = data_dir.join("quarantine").join(aside);
            disk.rename(&path, &aside)?;
            let (path, kept) = (path.display(), aside.display());
            tracing::error!(%error, %path, %kept, "a file can not be read and counts as empty");
            Ok(Vec::new())
        }
    }
}

/// Replaces a list; when this returns, it survives a power cut. Blocks.
pub fn save<T: Serialize>(disk: &Disk, data_dir: &Path, name: &str, list: &[T]) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(list)?;
    bytes.push(b'\n');
    // Root works on another user's store: the daemon must be able to read it.
    let owner = disk.owner(data_dir)?;
    disk.replace(&data_dir.join(name), &bytes, owner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn i6_a_damaged_list_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("quarantine")).unwrap();
        let read = || load::<u32>(&Disk::default(), dir.path(), "list.json").unwrap();
        assert!(read().is_empty());
        save(&Disk::default(), dir.path(), "list.json", &[1, 2]).unwrap();
        assert_eq!(read(), [1, 2]);
        fs::write(dir.path().join("list.json"), b"[1,").unwrap();
        assert!(read().is_empty());
        assert!(!dir.path().join("list.json").exists());
        let kept = fs::read_dir(dir.path().join("quarantine")).unwrap();
        assert_eq!(kept.count(), 1);
    }
}
