//! What mail for a destination that is down costs, measured from outside the daemon: memory for
//! each recipient that waits, at rest and after a restart, and what verbs on all of it take, while
//! another client goes on sending.
//!
//! `CHAPAR_WAITING` says how many messages wait; then the limits of docs/queue.md hold, for a
//! release build on a machine that does nothing else. Without it there are 5,000 and the limits are
//! wide, for a debug build among other tests. `tests/long waiting` takes 600,000.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use chapar::lab::Client;
use tokio::time::Instant;

use crate::world::{World, binary, free_port};

/// Clients that fill the queue at the same time.
const CLIENTS: usize = 20;
/// Messages that a client sends before it reads the answers.
const AT_ONCE: usize = 20;
/// Bytes of a message.
const SIZE: usize = 2048;
/// How often memory is looked at while a verb works.
const LOOK: Duration = Duration::from_millis(50);
/// How long the other client waits from one message to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// What it may cost.
struct Limits {
    messages: usize,
    /// Bytes above what an idle daemon has: for each recipient, and besides.
    bytes: u64,
    besides: u64,
    /// A verb on all of them.
    verb: Duration,
    /// Bytes that a verb may take for a while, above what waits.
    peak: u64,
    /// Another client's answer meanwhile.
    other: Duration,
    /// After this time at rest memory is what it was.
    rest: Duration,
}

impl Limits {
    fn new() -> Limits {
        let asked = std::env::var("CHAPAR_WAITING").ok();
        match asked.and_then(|text| text.parse().ok()) {
            Some(messages) => Limits {
                messages,
                bytes: 200,
                besides: 0,
                verb: Duration::from_secs(10),
                peak: 128 << 20,
                other: Duration::from_millis(50),
                rest: Duration::from_secs(60),
            },
            None => Limits {
                messages: 5_000,
                bytes: 200,
                // Without optimisation, and with what the allocator keeps.
                besides: 64 << 20,
                verb: Duration::from_secs(15),
                peak: 64 << 20,
                other: Duration::from_secs(1),
                rest: Duration::from_secs(1),
            },
        }
    }

    fn memory(&self) -> u64 {
        self.bytes * u64::try_from(self.messages).expect("u64") + self.besides
    }
}

/// The daemon's own memory in bytes: its share of what several processes have counts in part
/// (`Pss` of proc_pid_smaps(5)).
fn memory(world: &World) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", world.daemon().pid());
    let text = std::fs::read_to_string(path).expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kibibytes
        .and_then(|text| text.parse::<u64>().ok())
        .expect("Pss")
        << 10
}

async fn serve(world: &mut World) {
    let mut command = Command::new(binary());
    // Hundreds of thousands of attempts are logged else.
    command.env("CHAPAR_LOG", "warn,daemon=info,listener=info");
    command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    world.start_with(command).await;
}

/// `count` messages in one piece, and their answers.
async fn send(client: &mut Client, count: usize, to: &str) {
    let head = "From: a@example.net\r\nSubject: x\r\n\r\n";
    let mut body = String::from(head);
    while body.len() + 72 <= SIZE {
        body.push_str(&"x".repeat(70));
        body.push_str("\r\n");
    }
    let one = format!(
        "MAIL FROM:<a@example.net>\r\nRCPT TO:<{to}>\r\nBDAT {} LAST\r\n{body}",
        body.len()
    );
    client
        .write(one.repeat(count).as_bytes())
        .await
        .expect("sent");
    for _ in 0..3 * count {
        let answer = client.reply().await.expect("an answer");
        assert_eq!(answer.code, 250, "{}", answer.text);
    }
}

async fn fill(world: &World, messages: usize) {
    let one = |share: usize| async move {
        let mut client = world.mx().await;
        for start in (0..share).step_by(AT_ONCE) {
            send(&mut client, AT_ONCE.min(share - start), "to@down.example").await;
        }
    };
    let share = |n| messages / CLIENTS + usize::from(n < messages % CLIENTS);
    futures_util::future::join_all((0..CLIENTS).map(|n| one(share(n)))).await;
}

/// A client that sends one message after the other until it is told to stop: its longest wait for
/// the answers.
async fn other(mut client: Client, stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        send(&mut client, 1, "to@down.example").await;
        longest = longest.max(begun.elapsed());
        // Nothing is awaited: this is how often it sends.
        tokio::time::sleep(PAUSE).await;
    }
    longest
}

/// Runs a verb on everything: how long it took, the most memory meanwhile, the other client's
/// longest wait.
async fn verb(world: &World, verb: &str) -> (Duration, u64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(other(world.mx().await, stop.clone()));
    let mut command = Command::new(binary());
    command
        .args(["queue", verb, "all", "--config"])
        .arg(world.config());
    command.stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().expect("chapar queue");
    let mut most = 0;
    let status = loop {
        most = most.max(memory(world));
        if let Some(status) = child.try_wait().expect("its status") {
            break status;
        }
        tokio::time::sleep(LOOK).await;
    };
    let took = begun.elapsed();
    stop.store(true, Relaxed);
    assert!(status.success(), "{verb}: {status}");
    (took, most, others.await.expect("the other client"))
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_what_waits_costs_little_memory_and_verbs_on_all_of_it_are_quick() {
    let limits = Limits::new();
    let down = free_port();
    let config = format!(
        "relay_networks = [\"127.0.0.0/8\"]\n\
         [[route]]\nto = \"*\"\nvia = \"smtp://127.0.0.1:{down}\"\n"
    );
    let mut world = World::new(25, &config).await;
    serve(&mut world).await;
    drop(world.mx().await);
    let idle = memory(&world);
    let mut problems = Vec::new();
    let mut look = |world: &World, what: &str, judged: bool| {
        let above = memory(world).saturating_sub(idle);
        let each = above / u64::try_from(limits.messages).expect("u64");
        println!(
            "{what}: {} MiB above idle, {each} bytes for each recipient",
            mib(above)
        );
        if judged && above > limits.memory() {
            problems.push(format!(
                "{what}: {above} bytes, at most {}",
                limits.memory()
            ));
        }
    };

    let begun = Instant::now();
    fill(&world, limits.messages).await;
    println!(
        "{} messages accepted in {:.1?}",
        limits.messages,
        begun.elapsed()
    );
    // Memory that is given back with time: nothing tells when.
    tokio::time::sleep(limits.rest).await;
    look(&world, "at rest", true);
    assert_eq!(world.stop().await, Some(0));
    serve(&mut world).await;
    tokio::time::sleep(limits.rest).await;
    look(&world, "after a restart", true);

    let mut slow = Vec::new();
    for name in ["replay", "hold", "release", "remove"] {
        let before = memory(&world);
        let (took, most, waited) = verb(&world, name).await;
        let more = most.saturating_sub(before);
        println!(
            "{name} all: {took:.1?}, {} MiB more meanwhile; another client's 250 within {waited:.1?}",
            mib(more)
        );
        if took > limits.verb || waited > limits.other || more > limits.peak {
            slow.push(format!("{name}: {took:?}, {waited:?}, {more} bytes"));
        }
        tokio::time::sleep(limits.rest).await;
        // What the verbs leave behind is told, and not yet bounded as it should be.
        look(&world, &format!("at rest after {name}"), false);
    }
    assert_eq!(world.stop().await, Some(0));
    assert!(
        problems.is_empty() && slow.is_empty(),
        "{problems:#?} {slow:#?}"
    );
}
