//! Messages as one stream: a tar archive of `ID.json` and `ID.eml` for each message, and at the end
//! a `manifest` that names them all with their checksums, so that a stream that was cut off is
//! known by its missing end. `tar x` makes a directory of it that `import` takes as well.
//!
//! The manifest is a JSON object a line: first `format`, `host`, `at` and the number of `messages`,
//! then `id`, `size` and `sha256` of each.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use ring::digest;
use serde::{Deserialize, Serialize};

use super::ask::{Failure, Taken};
use super::files::cut;
use crate::control::protocol::Exported;

/// The last file of a stream.
const MANIFEST: &str = "manifest";
/// Bytes of one message that is read.
const LARGEST: u64 = 1 << 30;
/// Version of the manifest.
const FORMAT: u32 = 1;

/// The first line of a manifest.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    host: String,
    at: String,
    messages: u64,
}

/// Another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Line {
    id: String,
    size: u64,
    sha256: String,
}

/// A message of the stream, small: there may be a million.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    id: Box<str>,
    size: u64,
    sha256: [u8; 32],
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut out = [0; 32];
    for (own, octet) in out.iter_mut().zip(digest.as_ref()) {
        *own = *octet;
    }
    out
}

fn hex(octets: &[u8]) -> String {
    let mut text = String::new();
    for octet in octets {
        text.push_str(&format!("{octet:02x}"));
    }
    text
}

impl Record {
    fn line(&self) -> Line {
        Line {
            id: self.id.to_string(),
            size: self.size,
            sha256: hex(&self.sha256),
        }
    }
}

/// A stream that nobody reads to its end is no stream, so that a closed pipe is a failure here.
fn output(error: io::Error) -> Failure {
    Failure::Other(format!("standard output: {error}"))
}

/// Where a stream goes.
pub(super) struct Writer {
    host: String,
    /// What was not written yet: one message at most.
    tar: tar::Builder<Vec<u8>>,
    file: File,
    /// Length of what is safe, where the output is a file.
    safe: Option<u64>,
    /// What that was before the last message.
    before: Option<u64>,
    records: Vec<Record>,
    /// Those whose bytes are safe.
    kept: usize,
    open: Option<(Exported, Vec<u8>)>,
}

impl Writer {
    /// Writes to standard output. Whoever removes what was written must know that it is kept, so
    /// that it has to be a file then.
    pub(super) fn stdout(host: &str, kept: bool) -> Result<Writer, Failure> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let text = "standard output is a terminal; write `mta-queue export - all > queue.tar`";
            return Err(Failure::Usage(text.into()));
        }
        let duplicate = stdout.as_fd().try_clone_to_owned();
        let mut file = File::from(duplicate.map_err(output)?);
        let regular = file.metadata().is_ok_and(|about| about.is_file());
        if kept && !regular {
            return Err(Failure::Usage(
                "standard output is no file, so whether what is written there is kept can not be \
                 known: leave out --remove, import the stream, then export with --remove to a \
                 file, or to a directory"
                    .into(),
            ));
        }
        let safe = match regular {
            // Where it is appended to, its end; else where the shell left it.
            true => {
                let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| output(e.into()))?;
                let from = match flags.contains(rustix::fs::OFlags::APPEND) {
                    true => SeekFrom::End(0),
                    false => SeekFrom::Current(0),
                };
                Some(file.seek(from).map_err(output)?)
            }
            false => None,
        };
        Ok(Writer {
            host: host.to_owned(),
            tar: tar::Builder::new(Vec::new()),
            file,
            safe,
            before: safe,
            records: Vec::new(),
            kept: 0,
            open: None,
        })
    }

    pub(super) fn begin(&mut self, exported: Exported) {
        self.open = Some((exported, Vec::new()));
    }

    pub(super) fn piece(&mut self, bytes: &[u8]) {
        if let Some((_, all)) = &mut self.open {
            all.extend_from_slice(bytes);
        }
    }

    pub(super) fn end(&mut self) -> Result<String, Failure> {
        let open = self.open.take();
        let (mut exported, bytes) =
            open.ok_or_else(|| Failure::Broken("a message had no beginning".into()))?;
        let (id, size) = (exported.id.clone(), bytes.len() as u64);
        if size != exported.size {
            return Err(cut(&exported, size));
        }
        let digest = sha256(&bytes);
        exported.sha256 = Some(hex(&digest));
        let mut text =
            serde_json::to_vec_pretty(&exported).map_err(|e| Failure::Other(e.to_string()))?;
        text.push(b'\n');
        let at = exported.arrived / 1000;
        self.put(&format!("{id}.json"), &text, at)?;
        self.put(&format!("{id}.eml"), &bytes, at)?;
        self.records.push(Record {
            id: id.clone().into(),
            size,
            sha256: digest,
        });
        self.write()?;
        Ok(id)
    }

    fn write(&mut self) -> Result<(), Failure> {
        let bytes = std::mem::take(self.tar.get_mut());
        self.file.write_all(&bytes).map_err(output)
    }

    fn put(&mut self, name: &str, bytes: &[u8], at: u64) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(at);
        let done = self.tar.append_data(&mut header, name, bytes);
        done.map_err(output)
    }

    /// What was written is safe, as far as the output can be made safe.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        if self.safe.is_some() {
            self.file.sync_all().map_err(output)?;
            self.before = self.safe;
            self.safe = Some(self.file.stream_position().map_err(output)?);
        }
        self.kept = self.records.len();
        Ok(())
    }

    /// What is not safe, and the last message if it is one of these, is as if it had never been
    /// written.
    pub(super) fn forget(&mut self, ids: &[String]) {
        self.open = None;
        self.records.truncate(self.kept);
        let last = self.records.last();
        if last.is_some_and(|last| ids.iter().any(|id| **id == *last.id)) {
            self.records.pop();
            self.kept = self.records.len();
            self.safe = self.before;
        }
        self.cut_off();
    }

    fn cut_off(&mut self) {
        let Some(safe) = self.safe else { return };
        let done = self
            .file
            .set_len(safe)
            .and_then(|()| self.file.seek(SeekFrom::Start(safe)));
        if let Err(error) = done {
            eprintln!("mta-queue: what was written last can not be cut off again: {error}");
        }
    }

    /// Writes the manifest and the end.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let head = Head {
            format: FORMAT,
            host: self.host.clone(),
            at: crate::time::text(crate::time::now()),
            messages: self.records.len() as u64,
        };
        let json = |e: serde_json::Error| Failure::Other(e.to_string());
        let mut text = serde_json::to_vec(&head).map_err(json)?;
        text.push(b'\n');
        for record in std::mem::take(&mut self.records) {
            serde_json::to_writer(&mut text, &record.line()).map_err(json)?;
            text.push(b'\n');
        }
        self.put(MANIFEST, &text, crate::time::now() / 1000)?;
        self.tar.finish().map_err(output)?;
        self.write()?;
        self.sync()
    }
}

/// A stream that is read.
pub(super) struct Reader<'a, R: Read> {
    name: String,
    entries: tar::Entries<'a, R>,
    /// The description whose message comes next.
    pending: Option<Exported>,
    seen: Vec<Record>,
    /// What is wrong with the stream as a whole.
    wrong: Option<String>,
    /// Its manifest was read.
    ended: bool,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(super) fn new(name: &str, archive: &'a mut tar::Archive<R>) -> Result<Self, Failure> {
        let entries = archive.entries();
        let entries = entries.map_err(|error| Failure::Other(format!("{name}: {error}")))?;
        Ok(Reader {
            name: name.to_owned(),
            entries,
            pending: None,
            seen: Vec::new(),
            wrong: None,
            ended: false,
        })
    }

    /// What is wrong with the stream, once it was read.
    pub(super) fn verdict(&self) -> Result<(), String> {
        match (&self.wrong, self.ended) {
            (Some(wrong), _) => Err(format!("{}: {wrong}", self.name)),
            (None, false) => Err(format!(
                "{}: it was cut off, its manifest is missing",
                self.name
            )),
            (None, true) => Ok(()),
        }
    }

    fn cut(&mut self, what: &str) -> Option<Result<Taken, Failure>> {
        self.wrong = Some(format!("it was cut off: {what}"));
        None
    }

    fn message(&mut self, exported: Exported, bytes: Vec<u8>) -> Taken {
        self.seen.push(Record {
            id: exported.id.clone().into(),
            size: bytes.len() as u64,
            sha256: sha256(&bytes),
        });
        Taken { exported, bytes }
    }

    fn manifest(&mut self, text: &[u8]) {
        self.ended = true;
        self.wrong = compare(text, std::mem::take(&mut self.seen)).err();
    }
}

impl<R: Read> Iterator for Reader<'_, R> {
    type Item = Result<Taken, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended && self.wrong.is_none() {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return self.cut(&error.to_string()),
            };
            let path = match entry.path() {
                Ok(path) => path.into_owned(),
                Err(error) => return self.cut(&error.to_string()),
            };
            let (size, name) = (entry.size(), path.display().to_string());
            if size > LARGEST {
                self.wrong = Some(format!("{name} has more than {LARGEST} bytes"));
                return None;
            }
            let mut bytes = Vec::new();
            let read = entry.take(LARGEST).read_to_end(&mut bytes);
            if let Err(error) = read {
                return self.cut(&error.to_string());
            }
            if bytes.len() as u64 != size {
                return self.cut(&format!("{name} is not whole"));
            }
            if name == MANIFEST {
                self.manifest(&bytes);
                return None;
            }
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("json") => match serde_json::from_slice(&bytes) {
                    Ok(exported) => self.pending = Some(exported),
                    Err(error) => {
                        return Some(Err(Failure::Damaged(format!("{name}: {error}"))));
                    }
                },
                Some("eml") => {
                    if let Some(exported) = self.pending.take() {
                        return Some(Ok(self.message(exported, bytes)));
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Compares what came with what the manifest names.
fn compare(text: &[u8], mut seen: Vec<Record>) -> Result<(), String> {
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let head = lines.next().ok_or("its manifest is empty")?;
    let unclear = |error: serde_json::Error| format!("its manifest can not be read: {error}");
    let head: Head = serde_json::from_slice(head).map_err(unclear)?;
    if head.format != FORMAT {
        return Err("its manifest has a format this chapar does not know".into());
    }
    seen.sort();
    let mut named = 0;
    for line in lines {
        let line: Line = serde_json::from_slice(line).map_err(unclear)?;
        named += 1;
        let found = seen.binary_search_by(|record| (*record.id).cmp(line.id.as_str()));
        let Some(record) = found.ok().and_then(|at| seen.get(at)) else {
            return Err(format!(
                "{} did not come, which its manifest names",
                line.id
            ));
        };
        if record.line() != line {
            return Err(format!("{} is not as its manifest says", line.id));
        }
    }
    if named != head.messages || named != seen.len() as u64 {
        return Err(format!(
            "its manifest names {named} messages and counts {}, {} came",
            head.messages,
            seen.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, text: &str) -> Record {
        Record {
            id: id.into(),
            size: text.len() as u64,
            sha256: sha256(text.as_bytes()),
        }
    }

    fn manifest(records: &[Record], count: u64) -> Vec<u8> {
        let head = Head {
            format: FORMAT,
            host: "mx.example.org".into(),
            at: "2026-11-30T00:00:00Z".into(),
            messages: count,
        };
        let mut text = serde_json::to_string(&head).expect("JSON");
        for record in records {
            text.push('\n');
            text.push_str(&serde_json::to_string(&record.line()).expect("JSON"));
        }
        text.into_bytes()
    }

    #[test]
    fn a_manifest_names_what_came_and_nothing_else() {
        let (one, two) = (record("one", "1"), record("two", "22"));
        let all = [two.clone(), one.clone()];
        let good = manifest(&all, 2);
        assert_eq!(compare(&good, vec![one.clone(), two.clone()]), Ok(()));
        let wrong = |text: &[u8], seen: Vec<Record>| compare(text, seen).expect_err("wrong");
        assert!(wrong(&good, vec![one.clone()]).contains("two did not come"));
        let other = record("two", "23");
        assert!(wrong(&good, vec![one.clone(), other]).contains("two is not as"));
        let three = record("three", "");
        assert!(wrong(&good, vec![one.clone(), two.clone(), three]).contains("3 came"));
        assert!(wrong(&manifest(&all, 3), vec![one.clone(), two.clone()]).contains("counts 3"));
        assert!(wrong(b"", vec![]).contains("empty"));
        assert!(wrong(b"{", vec![]).contains("can not be read"));
        assert_eq!(compare(&manifest(&[], 0), vec![]), Ok(()));
    }
}
