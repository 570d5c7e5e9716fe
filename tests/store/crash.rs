//! Invariant I3: SIGKILL at any moment loses nothing that was acknowledged and brings nothing
//! back that was acknowledged as done.
//!
//! The test starts itself as a child that accepts, changes and finishes messages, and writes a
//! line to its standard output after each acknowledgement. The parent kills it at a random moment
//! and compares the store with the lines. `CHAPAR_ROUNDS` says how often (default 6).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chapar::queue::store::{Options, Recovered, Store};
use queue_schema::{QueueId, Status};

use crate::support::*;

pub const CHILD: &str = "CHAPAR_STORE_CHILD";

fn body(id: u64) -> Vec<u8> {
    let mut state = id;
    (0..id % 6000)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// Not a test of its own: what the child does until it is killed.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let mut options = Options::new(dir.as_ref());
    options.segment_size = 4 << 20;
    options.flush_every = Duration::from_millis(50);
    let (store, recovered) = Store::open(&options).unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\n@{line}").and_then(|()| out.flush());
    };
    say(format!(
        "open {} {}",
        recovered.damage.len(),
        recovered.rebuilt.is_some()
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..16u64)
        .map(|lane| {
            let store = store.clone();
            let mut id = recovered.highest.0 + 1 + lane;
            runtime.spawn(async move {
                loop {
                    let accepted = store.accept(message(id), content(id, &body(id))).await;
                    let message = accepted.unwrap();
                    say(format!("accepted {id}"));
                    let (change, message) = progress(&message, Status::Waiting, id);
                    if id.is_multiple_of(3) {
                        store.apply(vec![change]).await.unwrap();
                        say(format!("changed {id}"));
                    }
                    if !id.is_multiple_of(50) {
                        say(format!("finishing {id}"));
                        store.apply(vec![done(&message)]).await.unwrap();
                        say(format!("done {id}"));
                    }
                    id += 16;
                }
            })
        })
        .collect();
    let all = futures_util::future::join_all(tasks);
    match std::env::var("CHAPAR_CHILD_TIME") {
        Ok(millis) => {
            std::thread::sleep(Duration::from_millis(millis.parse().unwrap()));
            // Nothing is closed: the end comes as it would from a kill.
            std::process::exit(0);
        }
        Err(_) => drop(runtime.block_on(all)),
    }
}

#[derive(Default, Clone, Copy, Debug)]
struct Known {
    changed: bool,
    finishing: bool,
    done: bool,
}

/// What was acknowledged so far.
#[derive(Default)]
pub struct Ledger {
    known: BTreeMap<u64, Known>,
    finished: u64,
}

impl Ledger {
    /// Lets a child run until it is killed, or until it ends itself at a failpoint.
    fn run(&mut self, what: &str, place: &Place, failpoint: Option<&str>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash::child", "--nocapture"])
            .env(CHILD, &place.options.data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("CHAPAR_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (opened, open) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for line in lines.lines() {
                let Ok(line) = line else { break };
                if line.starts_with("@open") {
                    opened.send(line.clone()).unwrap();
                }
                seen.push(line);
            }
            seen
        });
        let first = open
            .recv_timeout(Duration::from_secs(60))
            .expect("the child opens its store");
        assert_eq!(first, "@open 0 false", "{what}: no damage, no rebuild");
        if failpoint.is_none() {
            std::thread::sleep(Duration::from_millis(20 + fastrand::u64(..600)));
            child.kill().unwrap();
        }
        assert!(!child.wait().unwrap().success());
        for line in reader.join().unwrap() {
            self.note(&line);
        }
    }

    pub fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some(word), Some(id)) = (words.next(), words.next().and_then(|w| w.parse().ok()))
        else {
            return;
        };
        match word {
            "@accepted" => drop(self.known.insert(id, Known::default())),
            "@changed" => self.known.get_mut(&id).unwrap().changed = true,
            "@finishing" => self.known.get_mut(&id).unwrap().finishing = true,
            "@done" => {
                self.known.get_mut(&id).unwrap().done = true;
                self.finished += 1;
            }
            _ => {}
        }
    }

    /// Compares the store with what was acknowledged; its index must be sound.
    fn check(&mut self, what: &str, place: &Place) {
        let recovered = self.compare(what, place);
        assert!(
            recovered.damage.is_empty(),
            "{what}: {:?}",
            recovered.damage
        );
        assert_eq!(recovered.rebuilt, None, "{what}: the index was not sound");
    }

    /// Compares the store with what was acknowledged, whatever opening it found.
    pub fn compare(&mut self, what: &str, place: &Place) -> Recovered {
        let (store, recovered) = Store::open(&place.options).unwrap();
        let here: BTreeMap<u64, Arc<_>> = all(&store)
            .into_iter()
            .map(|message| (message.id.0, message))
            .collect();
        for (id, known) in &self.known {
            match here.get(id) {
                Some(_) if known.done => panic!("{what}: {} came back", QueueId(*id)),
                None if !known.finishing => panic!("{what}: {} is lost", QueueId(*id)),
                Some(message) => {
                    if known.changed {
                        assert_eq!(message.states[0].attempts, 1, "{what}: {id}");
                    }
                    let bytes = fetch(&store, *id).unwrap();
                    assert_eq!(bytes, (head(*id), body(*id)), "{what}: {id}");
                }
                None => {}
            }
        }
        // What was accepted and not acknowledged may be there; it is whole.
        for id in here.keys().filter(|id| !self.known.contains_key(id)) {
            assert_eq!(fetch(&store, *id).unwrap().1, body(*id));
        }
        self.known
            .retain(|id, known| !known.done && here.contains_key(id));
        store.close();
        recovered
    }
}

#[test]
fn i3_kill_loses_nothing_and_brings_nothing_back() {
    let rounds: u32 = std::env::var("CHAPAR_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6);
    let place = Place::new();
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let what = format!("round {round}");
        ledger.run(&what, &place, None);
        // Also what a rebuild makes of the journal alone.
        if round % 3 == 2 {
            std::fs::remove_dir_all(place.data("index")).unwrap();
        }
        ledger.check(&what, &place);
    }
    let live = ledger.known.len();
    println!(
        "{rounds} rounds, {} messages accepted and finished, {live} live",
        ledger.finished
    );
    assert!(ledger.finished > 0);
}

#[cfg(debug_assertions)]
#[test]
fn i3_a_crash_at_any_step_loses_nothing_and_brings_nothing_back() {
    let place = Place::new();
    let mut ledger = Ledger::default();
    for step in [
        "before-write",
        "before-sync",
        "after-sync",
        "before-ack",
        "after-ack",
        "index-applied",
        "index-flushed",
    ] {
        for hit in [1, 2, 5] {
            let failpoint = format!("{step}:{hit}");
            ledger.run(&failpoint, &place, Some(&failpoint));
            ledger.check(&failpoint, &place);
        }
    }
}
