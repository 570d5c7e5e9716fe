//! Puts a chain and its key on disk as one: a crash leaves the old pair or the new one.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Issued;
use crate::config::files;

/// Mode of the directory.
const DIR_MODE: u32 = 0o700;
/// Mode of chain and key.
const MODE: u32 = 0o600;

/// Makes `issued` what is in `dir`. Blocks.
pub fn put(dir: &Path, issued: &Issued) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    // Where a link leads is replaced, not the link.
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let new = parent.join(format!(".{name}.new"));
    remove(&new)?;
    files::create_dir(&new, DIR_MODE)?;
    files::create(&new.join("fullchain.pem"), issued.chain.as_bytes(), MODE)?;
    files::create(&new.join("privkey.pem"), issued.key.as_bytes(), MODE)?;
    if dir.exists() {
        renameat_with(CWD, &new, CWD, &dir, RenameFlags::EXCHANGE)?;
        fs::File::open(parent)?.sync_all()?;
        // The old pair now has the other name.
        remove(&new)
    } else {
        fs::rename(&new, &dir)?;
        fs::File::open(parent)?.sync_all()
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_replaced_whole_and_nothing_else_stays() {
        let root = tempfile::tempdir().expect("directory");
        let dir = root.path().join("mx.example.org");
        let issued = |n: u8| Issued {
            chain: format!("chain {n}"),
            key: format!("key {n}"),
        };
        for n in 1..=3 {
            // What a crash may have left.
            fs::create_dir_all(root.path().join(".mx.example.org.new")).expect("directory");
            put(&dir, &issued(n)).expect("put");
            let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
            assert_eq!(read("fullchain.pem"), format!("chain {n}"));
            assert_eq!(read("privkey.pem"), format!("key {n}"));
            assert_eq!(fs::read_dir(root.path()).expect("list").count(), 1);
        }
    }
}
