//! Writes configuration files so that a reader, or a crash, finds the old one or the new one whole.
//!
//! A file written by root belongs to whom its directory belongs: `sudo chapar user add` must not
//! leave a file that the daemon, which is not root, can not read.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The text of a file of at most `most` bytes that nobody else may read.
pub fn secret(path: &Path, most: u64) -> Result<String, String> {
    let text = |error: io::Error| error.to_string();
    let file = File::open(path).map_err(text)?;
    let mode = file.metadata().map_err(text)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "others can read it (mode {:o}); chmod 600 it",
            mode & 0o777
        ));
    }
    let mut bytes = String::new();
    file.take(most).read_to_string(&mut bytes).map_err(text)?;
    Ok(bytes)
}

/// Replaces or creates `path`: a temporary file beside it, synced, renamed, the directory synced.
/// An existing file keeps its mode, a new one gets `mode`.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(mode, |found| found.permissions().mode() & 0o777);
    // A link is written through: configuration is often linked from a repository.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let dir = parent(&path);
    temporary(dir, bytes, mode)?
        .persist(&path)
        .map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

/// Replaces or creates `path` as [`replace`] does, but a link there goes and is not followed: state
/// of the daemon, which nobody links from elsewhere.
pub fn replace_state(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = parent(path);
    temporary(dir, bytes, mode)?
        .persist(path)
        .map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

/// Creates `path` with `mode`, as [`replace`] does. False: it exists and was left as it is.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let dir = parent(path);
    match temporary(dir, bytes, mode)?.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error.error),
    }
    File::open(dir)?.sync_all()?;
    Ok(true)
}

/// Creates the directory `path` and those above it, each new one with `mode`.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    create_dir(above, mode)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    own(&made, above)?;
    File::open(above)?.sync_all()
}

/// Keeps other writers of the files below `dir` away until it is dropped.
pub fn lock(dir: &Path) -> io::Result<File> {
    let handle = File::open(dir)?;
    handle.lock()?;
    Ok(handle)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn temporary(dir: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    own(file.as_file(), dir)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Gives `file` to the owner of `dir`, if we are root.
fn own(file: &File, dir: &Path) -> io::Result<()> {
    let above = fs::metadata(dir)?;
    let ours = file.metadata()?.uid() == 0;
    if ours && rustix::process::geteuid().is_root() && above.uid() != 0 {
        fchown(file, Some(above.uid()), Some(above.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
    }

    #[test]
    fn files_appear_whole_with_their_mode_and_nothing_beside_them() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("a/b/secret");
        create_dir(parent(&path), 0o700).expect("directories");
        assert_eq!(mode(&dir.path().join("a")), 0o700);
        assert!(create(&path, b"one", 0o600).expect("create"));
        assert!(!create(&path, b"two", 0o644).expect("exists"));
        assert_eq!(fs::read(&path).expect("read"), b"one");
        replace(&path, b"two", 0o644).expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(parent(&path)).expect("list").count(), 1);
    }

    #[test]
    fn a_link_is_written_through_and_never_taken_for_absent() {
        let dir = tempfile::tempdir().expect("directory");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::os::unix::fs::symlink(&real, &link).expect("link");
        assert!(!create(&link, b"one", 0o600).expect("a dangling link exists"));
        fs::write(&real, b"one").expect("write");
        replace(&link, b"two", 0o600).expect("replace");
        assert_eq!(fs::read(&real).expect("read"), b"two");
        assert!(link.symlink_metadata().expect("link").is_symlink());
    }
}
