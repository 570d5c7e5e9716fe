//! Where the log is read from: `log.file`, or systemd's journal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::entry::{Entry, Filter};
use crate::cli::exit::Wrong;
use crate::config::Config;

/// Bytes of one line.
const LINE: u64 = 64 << 10;
/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Where the log is instead of where the configuration says.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Read this log file instead.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The unit whose journal is read.
    #[arg(long, value_name = "UNIT", default_value = "chapar")]
    unit: String,
}

/// What to read.
pub struct Source {
    file: Option<PathBuf>,
    unit: String,
}

impl Source {
    /// As the configuration says; `place` counts more.
    pub fn new(config: &Config, place: &Place) -> Source {
        let configured = Some(&config.log.file).filter(|file| !file.is_empty());
        Source {
            file: place
                .file
                .clone()
                .or_else(|| configured.map(|file| config.dir.join(file))),
            unit: place.unit.clone(),
        }
    }

    /// Calls `each` with every line that fits, the oldest first, until it says that it is enough.
    pub fn read(
        &self,
        filter: &Filter,
        follow: bool,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> anyhow::Result<()> {
        let mut wanted = |entry: Option<Entry>| match entry {
            Some(entry) if entry.fits(filter) => each(entry),
            _ => true,
        };
        match &self.file {
            Some(file) => of_file(file, follow, &mut wanted),
            None => self.of_journal(filter, follow, &mut wanted),
        }
    }

    fn of_journal(
        &self,
        filter: &Filter,
        follow: bool,
        each: &mut dyn FnMut(Option<Entry>) -> bool,
    ) -> anyhow::Result<()> {
        let mut command = Command::new("journalctl");
        command.args([
            "--unit",
            &self.unit,
            "--output",
            "json",
            "--no-pager",
            "--quiet",
        ]);
        if follow {
            command.args(["--follow", "--lines", "1000"]);
        }
        for (name, time) in [("--since", &filter.since), ("--until", &filter.until)] {
            if let Some(time) = time {
                let time = time.get(..19).unwrap_or(time).replace('T', " ");
                command.arg(name).arg(format!("{time} UTC"));
            }
        }
        // The journal can look for ids much faster than we can.
        for id in &filter.ids {
            command.arg(format!("CHAPAR_ID={id}"));
        }
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(_) => bail!(Wrong(
                "there is no journalctl here and no log.file in chapar.toml; set log.file, or name \
                 the file with --file"
                    .into()
            )),
        };
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut out).take(LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if !each(Entry::of_journal(&String::from_utf8_lossy(&line))) {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(());
            }
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!(
                "journalctl: {}; it needs root or the group systemd-journal",
                why.trim()
            );
        }
        Ok(())
    }
}

fn of_file(
    path: &Path,
    follow: bool,
    each: &mut dyn FnMut(Option<Entry>) -> bool,
) -> anyhow::Result<()> {
    let open = || {
        let remedy = "log.file in chapar.toml names it, --file another";
        File::open(path).with_context(|| format!("{} can not be read; {remedy}", path.display()))
    };
    let mut file = open()?;
    loop {
        let inode = file.metadata()?.ino();
        let mut reading = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            let read = (&mut reading).take(LINE).read_until(b'\n', &mut line)?;
            let long = line.len() as u64 >= LINE;
            if line.ends_with(b"\n") || long {
                if !each(Entry::of_file(&String::from_utf8_lossy(&line))) {
                    return Ok(());
                }
                line.clear();
            } else if read == 0 {
                if !follow {
                    return Ok(());
                }
                let moved = std::fs::metadata(path).is_ok_and(|now| now.ino() != inode);
                if moved {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        file = open()?;
    }
}
