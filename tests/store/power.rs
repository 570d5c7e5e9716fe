//! Invariants I1 to I3 when the power fails: what was not synced may be lost, in part or in any
//! order, and the last writes may be torn.
//!
//! A child works under strace, which notes every write, sync and change of a directory. The disk
//! is then built anew as it might look had the power failed at some moment: a write that a later
//! sync of its file did not cover is there, or not, or in part; changes of directories are there up
//! to some moment no earlier than the last sync of the directory. `CHAPAR_CUTS` says how many
//! moments are tried (default 40).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::crash::{CHILD, Ledger};
use crate::support::*;

/// Parts of a write that a disk keeps or loses as one.
const SECTOR: usize = 512;

/// One system call that succeeded; `path` is absolute.
#[derive(Debug)]
enum Call {
    MakeDir(String),
    Create {
        path: String,
        empty: bool,
    },
    Rename(String, String),
    Unlink(String),
    Write {
        path: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Length {
        path: String,
        length: usize,
        grow: bool,
    },
    Sync(String),
    /// A line that the child said.
    Said(String),
}

/// A call, and the lines of the trace on which it began and ended.
#[derive(Debug)]
struct Traced {
    begun: usize,
    ended: usize,
    call: Call,
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").skip(1);
    digits
        .map(|two| u8::from_str_radix(&two[..2], 16).unwrap())
        .collect()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The strings in quotes, and the path behind the first file descriptor.
fn strings(arguments: &str) -> (Vec<Vec<u8>>, Option<String>) {
    let quoted = arguments.split('"').skip(1).step_by(2).map(unhex).collect();
    let open = arguments.find('<');
    let path = open.and_then(|at| arguments[at + 1..].split('>').next());
    (quoted, path.map(|path| words(&unhex(path))))
}

/// Where writes without a place of their own go on, by file descriptor.
type Places = HashMap<String, usize>;

fn parse(name: &str, arguments: &str, result: &str, places: &mut Places) -> Option<Call> {
    let result = result.split([' ', '<']).next()?;
    let done: usize = result.parse().ok()?;
    let (texts, path) = strings(arguments);
    let numbers: Vec<usize> = arguments
        .rsplit(['"', '>'])
        .next()?
        .split(", ")
        .filter_map(|number| number.trim().parse().ok())
        .collect();
    let text = |n: usize| texts.get(n).map(|text| words(text));
    let fd = arguments.split('<').next()?.to_owned();
    Some(match name {
        "mkdir" | "mkdirat" => Call::MakeDir(text(0)?),
        "openat" => {
            places.insert(result.to_owned(), 0);
            if !arguments.contains("O_CREAT") {
                return None;
            }
            let empty = arguments.contains("O_TRUNC");
            Call::Create {
                path: text(0)?,
                empty,
            }
        }
        "rename" | "renameat" | "renameat2" => Call::Rename(text(0)?, text(1)?),
        "unlink" | "unlinkat" => Call::Unlink(text(0)?),
        "pwrite64" => {
            let mut bytes = texts.into_iter().next()?;
            bytes.truncate(done);
            Call::Write {
                path: path?,
                at: *numbers.last()?,
                bytes,
            }
        }
        "write" => {
            let mut bytes = texts.into_iter().next()?;
            bytes.truncate(done);
            let path = path?;
            if fd == "1" {
                return Some(Call::Said(words(&bytes)));
            }
            let place = places.entry(fd).or_default();
            let at = *place;
            *place += bytes.len();
            Call::Write { path, at, bytes }
        }
        "fallocate" => Call::Length {
            path: path?,
            length: numbers.iter().rev().take(2).sum(),
            grow: true,
        },
        "ftruncate" => Call::Length {
            path: path?,
            length: *numbers.last()?,
            grow: false,
        },
        "fsync" | "fdatasync" => Call::Sync(path?),
        other => panic!("{other} is not known here"),
    })
}

/// The calls in `trace` that concern the directory `root`, in the order in which they ended.
fn read(trace: &str, root: &str) -> Vec<Traced> {
    let mut calls = Vec::new();
    let mut under_way: HashMap<&str, (usize, String)> = HashMap::new();
    let mut places = Places::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let (begun, call) = if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            under_way.insert(pid, (number, begun.to_owned()));
            continue;
        } else if let Some(rest) = call.strip_prefix("<... ") {
            let Some((begun, first)) = under_way.remove(pid) else {
                continue;
            };
            let rest = rest.split_once(" resumed>").map_or("", |(_, rest)| rest);
            (begun, first + rest)
        } else {
            (number, call.to_owned())
        };
        let Some((head, result)) = call.rsplit_once(" = ") else {
            continue;
        };
        let Some((name, arguments)) = head.trim_end().split_once('(') else {
            continue;
        };
        let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
        if let Some(call) = parse(name, arguments, result, &mut places) {
            let ours = match &call {
                Call::MakeDir(path) | Call::Unlink(path) | Call::Sync(path) => path,
                Call::Create { path, .. } | Call::Rename(_, path) => path,
                Call::Write { path, .. } | Call::Length { path, .. } => path,
                Call::Said(_) => root,
            };
            if ours.starts_with(root) {
                calls.push(Traced {
                    begun,
                    ended: number,
                    call,
                });
            }
        }
    }
    calls
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// How the disk treats what was not synced.
#[derive(Debug, Clone, Copy)]
enum Disk {
    /// All of it is lost.
    Forgets,
    /// Any of it may be lost, by the sector.
    Gambles,
    /// It is there but for the last writes, which are torn.
    Tears,
}

/// Builds below `to` what was below `root` when the power failed before call `cut`.
fn after_power_cut(calls: &[Traced], cut: usize, disk: Disk, root: &str, to: &Path) {
    let moment = calls[cut].ended;
    let before: Vec<&Traced> = calls.iter().filter(|call| call.ended < moment).collect();
    let synced = |path: &str, after: usize| {
        before.iter().any(|call| {
            matches!(&call.call, Call::Sync(synced) if synced == path) && call.begun > after
        })
    };
    // A journaling file system keeps the order of changes of directories: some of the last are lost.
    let is_change = |call: &Call| {
        matches!(
            call,
            Call::MakeDir(_) | Call::Create { .. } | Call::Rename(..) | Call::Unlink(_)
        )
    };
    let changes: Vec<&&Traced> = before.iter().filter(|call| is_change(&call.call)).collect();
    let kept = changes
        .iter()
        .rposition(|change| {
            let (Call::MakeDir(path)
            | Call::Create { path, .. }
            | Call::Rename(_, path)
            | Call::Unlink(path)) = &change.call
            else {
                return false;
            };
            synced(parent(path), change.ended)
        })
        .map_or(0, |last| last + 1);
    let kept = match disk {
        Disk::Forgets => kept,
        Disk::Gambles => fastrand::usize(kept..=changes.len()),
        Disk::Tears => changes.len(),
    };
    let last_change = kept
        .checked_sub(1)
        .map_or(0, |last| changes[last].ended + 1);

    let below = |path: &str| path[root.len()..].trim_start_matches('/').to_owned();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut files: Vec<Vec<u8>> = Vec::new();
    let mut written: HashMap<String, usize> = HashMap::new();
    fs::create_dir_all(to).unwrap();
    for call in &before {
        if is_change(&call.call) && call.ended >= last_change {
            continue;
        }
        match &call.call {
            Call::MakeDir(path) => fs::create_dir_all(to.join(below(path))).unwrap(),
            Call::Create { path, empty } => {
                let file = *written.entry(path.clone()).or_insert_with(|| {
                    files.push(Vec::new());
                    files.len() - 1
                });
                if *empty {
                    files[file].clear();
                }
                names.insert(path.clone(), file);
            }
            Call::Rename(from, path) => {
                if let Some(file) = names.remove(from) {
                    names.insert(path.clone(), file);
                    written.remove(from);
                    written.insert(path.clone(), file);
                }
            }
            Call::Unlink(path) => {
                names.remove(path);
                written.remove(path);
            }
            Call::Length { path, length, grow } => {
                let Some(file) = written.get(path).map(|file| &mut files[*file]) else {
                    continue;
                };
                let kept = synced(path, call.ended) || !matches!(disk, Disk::Forgets);
                if kept && (!grow || *length > file.len()) {
                    file.resize(*length, 0);
                }
            }
            Call::Write { path, at, bytes } => {
                let Some(file) = written.get(path).map(|file| &mut files[*file]) else {
                    continue;
                };
                let safe = synced(path, call.ended);
                for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                    let there = safe
                        || match disk {
                            Disk::Forgets => false,
                            Disk::Gambles => fastrand::bool(),
                            Disk::Tears => n * SECTOR < bytes.len() / 2,
                        };
                    if there {
                        let from = at + n * SECTOR;
                        if file.len() < from + sector.len() {
                            file.resize(from + sector.len(), 0);
                        }
                        file[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            Call::Sync(_) | Call::Said(_) => {}
        }
    }
    for (path, file) in names {
        let path = to.join(below(&path));
        // Its directory may not be there yet: then it is not either.
        if path.parent().is_some_and(Path::is_dir) {
            fs::write(path, &files[file]).unwrap();
        }
    }
}

#[test]
fn i1_i2_i3_a_power_cut_loses_nothing_and_brings_nothing_back() {
    let cuts: usize = std::env::var("CHAPAR_CUTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40);
    // A trace is read again for each cut: many cuts are spread over several.
    let traces = cuts.div_ceil(200);
    let mut rebuilt = 0;
    for trace in 0..traces {
        let place = Place::new();
        let file = place.data("").parent().unwrap().join("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-y", "-xx", "-s", "10000000", "-e"])
            .arg(
                "trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,renameat,\
                 renameat2,unlink,unlinkat,mkdir,mkdirat",
            )
            .arg("-o")
            .arg(&file)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture"])
            .env(CHILD, &place.options.data_dir)
            .env("CHAPAR_CHILD_TIME", "700")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace; tests/run installs it");
        assert!(strace.wait().unwrap().success());
        let root = place.options.data_dir.to_str().unwrap().to_owned();
        let calls = read(&fs::read_to_string(&file).unwrap(), &root);
        let said = calls
            .iter()
            .position(|call| matches!(&call.call, Call::Said(text) if text.contains("@open")));
        let first = said.expect("the child opened its store");
        for n in 0..cuts.min(200) {
            let cut = fastrand::usize(first..calls.len());
            let disk = [Disk::Forgets, Disk::Gambles, Disk::Tears][n % 3];
            let what = format!(
                "trace {trace}, {disk:?} before call {cut} of {}",
                calls.len()
            );
            let mut after = Place::new();
            after.options.index_limit = Duration::from_secs(20);
            after_power_cut(&calls, cut, disk, &root, &after.options.data_dir);
            let mut ledger = Ledger::default();
            let moment = calls[cut].ended;
            for call in calls.iter().filter(|call| call.begun < moment) {
                if let Call::Said(text) = &call.call {
                    text.lines().for_each(|line| ledger.note(line));
                }
            }
            let recovered = ledger.compare(&what, &after);
            // A batch whose first sectors are lost and whose last ones are not looks like one that
            // went bad later: it is put aside and reported, and nobody was told that it was there.
            assert!(
                recovered.damage.is_empty() || matches!(disk, Disk::Gambles),
                "{what}: {:?}",
                recovered.damage
            );
            rebuilt += usize::from(recovered.rebuilt.is_some());
        }
    }
    println!("{cuts} power cuts, the index was made again after {rebuilt} of them");
}
