//! Messages as files of a directory: `ID.eml` with the bytes as they go out, and `ID.json` with
//! everything else. A file has its name only when it is whole and safe on disk.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ask::{Failure, Taken};
use crate::control::protocol::Exported;

/// Mode of the files.
const MODE: u32 = 0o600;

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::Other(format!("{path}: {error}"))
}

/// A message that is being written.
struct Open {
    exported: Exported,
    eml: File,
    length: u64,
}

/// A directory that messages are written to.
pub(super) struct Directory {
    path: PathBuf,
    json: bool,
    open: Option<Open>,
}

impl Directory {
    pub(super) fn new(path: &Path, json: bool) -> Result<Directory, Failure> {
        fs::create_dir_all(path).map_err(at(path))?;
        Ok(Directory {
            path: path.to_path_buf(),
            json,
            open: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, id: &str, suffix: &str) -> PathBuf {
        self.path.join(format!("{id}.{suffix}"))
    }

    fn part(&self, id: &str, suffix: &str) -> PathBuf {
        self.path.join(format!(".{id}.{suffix}.part"))
    }

    fn create(&self, id: &str, suffix: &str) -> Result<File, Failure> {
        let path = self.part(id, suffix);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(MODE);
        options.open(&path).map_err(at(&path))
    }

    pub(super) fn begin(&mut self, exported: &Exported) -> Result<(), Failure> {
        let eml = self.create(&exported.id, "eml")?;
        self.open = Some(Open {
            exported: exported.clone(),
            eml,
            length: 0,
        });
        Ok(())
    }

    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.length += bytes.len() as u64;
        let written = open.eml.write_all(bytes);
        let id = open.exported.id.clone();
        written.map_err(at(&self.part(&id, "eml")))
    }

    /// The message is whole: its files get their names.
    pub(super) fn end(&mut self) -> Result<String, Failure> {
        let open = self.open.take();
        let open = open.ok_or_else(|| Failure::Broken("a message had no beginning".into()))?;
        let id = open.exported.id.clone();
        if let Err(failure) = self.name(open) {
            self.forget(&[id]);
            return Err(failure);
        }
        if self.json {
            let file = self.file(&id, "eml");
            say!("{}", serde_json::json!({ "id": id, "file": file }));
        }
        Ok(id)
    }

    fn name(&self, open: Open) -> Result<(), Failure> {
        let id = &open.exported.id;
        if open.length != open.exported.size {
            return Err(cut(&open.exported, open.length));
        }
        let mut json = self.create(id, "json")?;
        let mut text = serde_json::to_vec_pretty(&open.exported)
            .map_err(|error| Failure::Other(format!("{id}: {error}")))?;
        text.push(b'\n');
        for (suffix, done) in [
            ("json", json.write_all(&text).and_then(|()| json.sync_all())),
            ("eml", open.eml.sync_all()),
        ] {
            let part = self.part(id, suffix);
            done.and_then(|()| fs::rename(&part, self.file(id, suffix)))
                .map_err(at(&part))?;
        }
        Ok(())
    }

    /// The names are safe, too.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(at(&self.path))
    }

    /// Removes the files of these messages, and what is half written.
    pub(super) fn forget(&mut self, ids: &[String]) {
        let open = self.open.take().map(|open| open.exported.id);
        for id in ids.iter().chain(&open) {
            for suffix in ["json", "eml"] {
                for path in [self.file(id, suffix), self.part(id, suffix)] {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is half written when something fails has no name that means anything.
        self.forget(&[]);
    }
}

/// A message that did not come whole.
pub(super) fn cut(exported: &Exported, length: u64) -> Failure {
    Failure::Broken(format!(
        "{} has {} bytes, of which {length} came",
        exported.id, exported.size
    ))
}

/// The messages of a directory, in the order of their names.
pub(super) fn read(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<Taken, Failure>> + use<>, Failure> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if path.extension().is_some_and(|suffix| suffix == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::Other(format!(
            "{}: there is no ID.json here; name a directory of mta-queue export",
            dir.display()
        )));
    }
    Ok(paths.into_iter().map(|path| {
        let file = File::open(&path).map_err(at(&path))?;
        let mut exported: Exported = serde_json::from_reader(BufReader::new(file))
            .map_err(|error| Failure::Damaged(format!("{}: {error}", path.display())))?;
        let eml = path.with_extension("eml");
        let mut bytes = Vec::new();
        File::open(&eml)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(at(&eml))?;
        let bytes = with_crlf(bytes);
        // Whoever edits a message need not count its bytes.
        exported.size = bytes.len() as u64;
        exported.sha256 = None;
        Ok(Taken { exported, bytes })
    }))
}

/// Lines end with CR LF, whatever an editor made of them.
pub(in crate::cli) fn with_crlf(bytes: Vec<u8>) -> Vec<u8> {
    let bare = |at: usize| at == 0 || bytes.get(at - 1) != Some(&b'\r');
    if !memchr::memchr_iter(b'\n', &bytes).any(bare) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 40);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::with_crlf;

    #[test]
    fn lines_end_with_cr_lf() {
        for (text, is) in [
            ("a\nb\n", "a\r\nb\r\n"),
            ("a\r\nb\n", "a\r\nb\r\n"),
            ("\n", "\r\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("no end", "no end"),
            ("", ""),
        ] {
            assert_eq!(with_crlf(text.into()), is.as_bytes());
        }
    }
}
