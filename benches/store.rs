//! How many messages a second become durable, and what one costs.
//!
//! `cargo bench --bench store` prints a line for each case: messages a second, syncs, CPU time a
//! message; with `-- million` what a million deferred messages cost. The directory is
//! `CHAPAR_BENCH_DIR`, or the system's for temporary files: its disk is what is measured. Not
//! criterion: what counts is many clients at once, not one call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use chapar::config::{Config, Size};
use chapar::delivery::Wake;
use chapar::message::{Body, Content};
use chapar::queue::store::{Action, ChangeKind, Options, Store, new_message};
use chapar::queue::{self, Accept, Attempt, Connect, Fetch, Outcome, Record, Stop};
use chapar::signing::{Sign, SignError};
use queue_schema::{
    Change, Envelope, Message, Origin, QueueId, Recipient, RecipientState, Reply, Status,
};

const SIZE: usize = 4096;
const TIME: Duration = Duration::from_secs(4);

fn envelope() -> Envelope {
    Envelope::new(
        "sender@example.org",
        vec![Recipient::new("recipient@example.net")],
    )
}

fn origin() -> Origin {
    Origin::Network {
        client: [127, 0, 0, 1].into(),
    }
}

fn content() -> Content {
    Content {
        head: Bytes::from(vec![b'h'; 500]),
        body: Body::Memory(Bytes::from(vec![b'b'; SIZE - 500])),
    }
}

fn done(message: Arc<Message>) -> Action {
    let state = RecipientState {
        status: Status::Delivered,
        attempts: 1,
        next_due: 0,
        last_attempt: message.arrived,
        last_reply: Some(reply()),
        ..RecipientState::new(0)
    };
    let change = Change {
        recipients: vec![(0, state)],
        ..Change::default()
    };
    Action::Change {
        kind: ChangeKind::Done,
        message,
        change,
    }
}

fn reply() -> Reply {
    Reply {
        code: 250,
        enhanced: "2.0.0".into(),
        text: "Ok: queued as 4Xyz".into(),
        remote: "mx.example.net[192.0.2.1]:25".into(),
    }
}

/// CPU time of this process in seconds: user and system, in hundredths (proc(5)).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn report(what: &str, clients: usize, count: u64, syncs: u64, since: Instant, cpu_before: f64) {
    let seconds = since.elapsed().as_secs_f64();
    let rate = count as f64 / seconds;
    let each = (cpu() - cpu_before) * 1e6 / count as f64;
    println!("{what:16} {clients:4} clients {rate:9.0}/s {syncs:7} syncs {each:7.1} us CPU each");
}

fn place() -> tempfile::TempDir {
    match std::env::var_os("CHAPAR_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a directory")
}

fn store(clients: usize, finish: bool) {
    let dir = place();
    let (store, _) = Store::open(&Options::new(dir.path())).expect("a store");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let (begun, before) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..clients as u64)
        .map(|lane| {
            let store = store.clone();
            runtime.spawn(async move {
                let mut count = 0;
                let content = content();
                while begun.elapsed() < TIME {
                    let id = QueueId(1 + lane + (count << 16));
                    let message = new_message(id, 1_700_000_000_000, origin(), envelope());
                    let message = store.accept(message, content.clone()).await.unwrap();
                    if finish {
                        store.apply(vec![done(message)]).await.unwrap();
                    }
                    count += 1;
                }
                count
            })
        })
        .collect();
    let counts = runtime.block_on(futures_util::future::join_all(tasks));
    let count = counts.into_iter().map(|count| count.unwrap()).sum();
    let what = if finish { "accept and done" } else { "accept" };
    report(what, clients, count, store.stats().syncs, begun, before);
    store.close();
}

struct NoSigner;

impl Actor for NoSigner {
    type Context = Context<Self>;
}

impl Handler<Sign> for NoSigner {
    type Result = Result<Bytes, SignError>;

    fn handle(&mut self, sign: Sign, _: &mut Self::Context) -> Self::Result {
        Err(SignError {
            domain: sign.domain,
            reason: "not here".into(),
        })
    }
}

/// Delivers everything at once.
struct Sink {
    record: actix::Recipient<Record>,
    fetch: actix::Recipient<Fetch>,
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<Wake> for Sink {
    type Result = ();

    fn handle(&mut self, wake: Wake, _: &mut Self::Context) {
        let (record, fetch) = (self.record.clone(), self.fetch.clone());
        actix_rt::spawn(async move {
            for job in wake.0 {
                if job.content.is_none() {
                    let location = job.message.location.clone();
                    let id = job.message.id;
                    let _ = fetch.send(Fetch { id, location }).await;
                }
                let attempt = Attempt {
                    recipient: 0,
                    at: chapar::time::now(),
                    outcome: Outcome::Delivered,
                    reply: reply(),
                    tls: "TLSv1.3".into(),
                    notifies: false,
                };
                let record_ = Record {
                    message: job.message,
                    attempts: vec![attempt],
                    synced: false,
                };
                let _ = record.send(record_).await;
            }
        });
    }
}

fn actor(clients: usize, memory: u64) {
    let dir = place();
    let mut config = Config::parse("hostname = \"mx.example.org\"", "bench", dir.path()).unwrap();
    config.data_dir = dir.path().join("data");
    config.limits.free_space = Size(0);
    config.limits.memory_bodies = Size(memory);
    let config = Arc::new(config);
    System::new().block_on(async {
        let opened = queue::open(&config).expect("a store");
        let handle = queue::start(
            opened,
            config.clone(),
            NoSigner.start().recipient(),
            Arc::new(|address: &str| vec![address.to_owned()]),
            &actix::Arbiter::new().handle(),
        );
        let (record, fetch) = (
            handle.addr.clone().recipient(),
            handle.addr.clone().recipient(),
        );
        let sinks = Arbiter::new();
        let sink = Sink::start_in_arbiter(&sinks.handle(), move |_| Sink { record, fetch });
        handle.addr.send(Connect(sink.recipient())).await.unwrap();
        let (begun, before) = (Instant::now(), cpu());
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let handle = handle.clone();
                actix_rt::spawn(async move {
                    let mut count = 0;
                    let content = content();
                    while begun.elapsed() < TIME {
                        let accept = Accept {
                            id: handle.ids.issue(),
                            arrived: chapar::time::now(),
                            origin: origin(),
                            envelope: envelope(),
                            content: content.clone(),
                            held: Vec::new(),
                        };
                        handle.addr.send(accept).await.unwrap().unwrap();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let counts = futures_util::future::join_all(tasks).await;
        let count: u64 = counts.into_iter().map(|count| count.unwrap()).sum();
        let stats = handle.view.stats();
        let what = if memory == 0 {
            "actor, fetched"
        } else {
            "actor"
        };
        report(what, clients, count, stats.syncs, begun, before);
        println!("{:16} {} not delivered yet", "", stats.messages);
        handle.addr.send(Stop).await.unwrap();
    });
}

/// Memory of this process in MiB (proc(5)).
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) >> 10
}

fn disk(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => disk(&path),
        false => path.metadata().map_or(0, |meta| meta.blocks() * 512),
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

/// A million deferred messages: to start with them, to list them, to replay them, to rebuild.
fn million() {
    let dir = place();
    let mut config = Config::parse("hostname = \"mx.example.org\"", "bench", dir.path()).unwrap();
    config.data_dir = dir.path().join("data");
    config.limits.free_space = Size(0);
    let config = Arc::new(config);
    let options = Options::new(&config.data_dir);
    let count: u64 = 1_000_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    {
        let (store, _) = Store::open(&options).expect("a store");
        let begun = Instant::now();
        runtime.block_on(async {
            for start in (0..count).step_by(1000) {
                let some = (start..start + 1000).map(|n| {
                    let mut message =
                        new_message(QueueId(n + 1), 1_700_000_000_000, origin(), envelope());
                    let address = format!("user{n}@host{}.example.net", n % 1000);
                    message.envelope.recipients[0].address = address;
                    let state = &mut message.states[0];
                    state.attempts = 3;
                    state.next_due = u64::MAX / 2 + n;
                    state.last_attempt = 1_700_000_000_000;
                    state.last_reply = Some(Reply {
                        code: 450,
                        text: "busy, try later".into(),
                        ..reply()
                    });
                    let content = Content {
                        head: Bytes::from(vec![b'h'; 300]),
                        body: Body::Memory(Bytes::from(vec![b'b'; 300])),
                    };
                    store.accept(message, content)
                });
                futures_util::future::try_join_all(some).await.unwrap();
            }
        });
        store.close();
        println!(
            "filled in {:.1?}, {} MiB of memory",
            begun.elapsed(),
            memory()
        );
    }
    for part in ["journal", "index"] {
        println!(
            "{part}: {} MiB on disk",
            disk(&config.data_dir.join(part)) >> 20
        );
    }
    let before = memory();
    let begun = Instant::now();
    let (store, recovered) = Store::open(&options).expect("a store");
    assert_eq!(recovered.waiting.len() as u64, count);
    println!(
        "opened in {:.1?}, {} MiB more memory",
        begun.elapsed(),
        memory() - before
    );
    let begun = Instant::now();
    let seen = store
        .scanner()
        .run_blocking(|reader| {
            let mut seen = 0u64;
            reader.scan(QueueId(0), |_| {
                seen += 1;
                std::ops::ControlFlow::Continue(())
            })?;
            Ok::<_, chapar::queue::store::StoreError>(seen)
        })
        .unwrap()
        .unwrap();
    println!("{seen} listed in {:.1?}", begun.elapsed());
    store.close();
    drop(store);

    System::new().block_on(async {
        let before = memory();
        let begun = Instant::now();
        let opened = queue::open(&config).expect("a store");
        let leads = Arc::new(|address: &str| vec![address.to_owned()]);
        let handle = queue::start(
            opened,
            config.clone(),
            NoSigner.start().recipient(),
            leads,
            &actix::Arbiter::new().handle(),
        );
        handle.addr.send(queue::Ping).await.unwrap();
        let more = memory() - before;
        println!(
            "the actor is up after {:.1?}, {more} MiB more memory",
            begun.elapsed()
        );
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut touched = 0;
        for start in (0..200_000).step_by(256) {
            let targets = (start..start + 256)
                .map(|n| (QueueId(n + 1), vec![0]))
                .collect();
            let steer = queue::Steer {
                verb: queue::Verb::Replay,
                targets,
                by: "bench".into(),
                manner: Default::default(),
            };
            touched += handle.addr.send(steer).await.unwrap().unwrap();
            let asked = Instant::now();
            handle.addr.send(queue::Ping).await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        println!(
            "{touched} replayed in {:.1?}; slowest answer {slowest:.1?}",
            begun.elapsed()
        );
        handle.addr.send(Stop).await.unwrap();
    });
    std::fs::remove_dir_all(config.data_dir.join("index")).unwrap();
    let begun = Instant::now();
    let (store, recovered) = Store::open(&options).expect("a store");
    assert_eq!(recovered.waiting.len() as u64, count);
    println!("rebuilt in {:.1?}", begun.elapsed());
    store.close();
}

fn main() {
    if std::env::args().any(|argument| argument == "million") {
        return million();
    }
    for clients in [1, 16, 64, 256] {
        store(clients, false);
        store(clients, true);
    }
    for clients in [1, 64, 256] {
        actor(clients, 64 << 20);
    }
    actor(64, 0);
}
