//! Reports that were received, as JSON in `reports/received/` of `data_dir`: one file each, named
//! by the day it ends and by who sent it under which number, so that one that comes twice counts
//! once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::Received;
use crate::config::files;

/// Files that are kept.
const MOST_FILES: usize = 10_000;

fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("reports/received")
}

/// Makes the directory, for the daemon to call as it starts: a program of an alias may not use one
/// that was made in `data_dir` after it began (docs/hooks.md).
pub fn prepare(data_dir: &Path) -> io::Result<()> {
    files::create_dir(&dir(data_dir), 0o700)
}

/// Keeps a report; the oldest go so that all together take at most `most` bytes.
pub fn add(data_dir: &Path, report: &Received, most: u64) -> io::Result<()> {
    let dir = dir(data_dir);
    files::create_dir(&dir, 0o700)?;
    let text = serde_json::to_vec(report).map_err(io::Error::other)?;
    let domains = report.domains().join(" ");
    let who = format!("{}\0{}\0{domains}", report.organization(), report.number());
    let hash = digest(&SHA256, who.as_bytes());
    let hash: String = hash
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let day = crate::time::text(report.end().saturating_mul(1000));
    let day: String = day.chars().take(10).collect();
    files::replace(&dir.join(format!("{day}-{hash}.json")), &text, 0o600)?;
    let mut all = entries(&dir)?;
    let mut total: u64 = all.iter().map(|(_, size)| size).sum();
    all.sort();
    let mut count = all.len();
    for (path, size) in all {
        if total <= most && count <= MOST_FILES {
            break;
        }
        fs::remove_file(path)?;
        total -= size;
        count -= 1;
    }
    Ok(())
}

/// Every report that ends at `since` (seconds since 1970) or later; a file that can not be read is
/// left out and named in the second list.
pub fn load(data_dir: &Path, since: u64) -> io::Result<(Vec<Received>, Vec<PathBuf>)> {
    let (mut reports, mut damaged) = (Vec::new(), Vec::new());
    let mut all = match entries(&dir(data_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    all.sort();
    let first = crate::time::text(since.saturating_mul(1000));
    let first: String = first.chars().take(10).collect();
    for (path, _) in all {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.as_ref() < first.as_str() {
            continue;
        }
        match serde_json::from_slice::<Received>(&fs::read(&path)?) {
            Ok(report) if report.end() >= since => reports.push(report),
            Ok(_) => {}
            Err(_) => damaged.push(path),
        }
    }
    Ok((reports, damaged))
}

fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".json") {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}
