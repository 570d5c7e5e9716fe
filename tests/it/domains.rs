//! Mail to many domains of which a fifth defers, one in fifty refuses for good and five hang: the
//! others get theirs as if those did not exist (I10). What waited is then delivered over a restart,
//! what was refused is returned, and nobody gets anything twice.
//!
//! The same mail is sent twice at the same pace: first that for the good domains alone, then all.
//! `CHAPAR_MESSAGES` (default 2,000), `CHAPAR_DOMAINS` (100) and `CHAPAR_RATE` (messages a second
//! that are submitted, 400; 0: as fast as they are taken) say how much; `tests/long domains` sends
//! 100,000 to 1,000.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chapar::lab::{Act, Client, Mx, MxConfig, Stage};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::world::{World, binary};

/// Clients that submit at the same time.
const CLIENTS: usize = 20;
/// Domains that hang, each in its own way.
const HANGING: usize = 5;
/// Nothing here takes longer, however much is sent.
const LONGEST: Duration = Duration::from_secs(3600);
/// Host of the domain of all senders, which get the notices.
const SENDERS: Ipv4Addr = Ipv4Addr::new(127, 78, 0, 1);

fn number(variable: &str, default: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a domain does with mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Good,
    /// 4xx, at one of four places.
    Defers(usize),
    /// 5xx, at one of two places.
    Refuses(usize),
    /// Does not answer any more, in one of five ways.
    Hangs(usize),
}

/// How a domain hangs that takes no connection: its queue of them is full.
const DEAF: Kind = Kind::Hangs(4);

fn kind(domain: usize, domains: usize) -> Kind {
    let step = domains / HANGING;
    match domain {
        domain if domain % step == 7 => Kind::Hangs(domain / step),
        domain if domain % 50 == 3 => Kind::Refuses(domain / 50 % 2),
        domain if domain % 5 == 1 => Kind::Defers(domain / 5 % 4),
        _ => Kind::Good,
    }
}

fn address(domain: usize) -> Ipv4Addr {
    let [high, low] = [domain / 200, domain % 200 + 1].map(|part| u8::try_from(part).expect("u8"));
    Ipv4Addr::new(127, 77, high, low)
}

/// What the MX hosts saw.
#[derive(Default)]
struct Tally {
    /// Times the recipient of each message was delivered to.
    delivered: Vec<u32>,
    /// Notices to the sender of each message.
    notices: Vec<u32>,
    /// Milliseconds from MAIL of the client to the delivery, of good domains.
    delays: Vec<u64>,
    /// When its client began with each message.
    begun: Vec<Option<Instant>>,
    good: usize,
    /// Recipients that were asked for: good, deferring, refusing, hanging.
    asked: [u64; 4],
    /// Connections of deferring domains that were turned away at the greeting.
    turned_away: u64,
    last_good: Option<Instant>,
}

/// All MX hosts in one process, and how they behave.
#[derive(Clone)]
struct Site {
    mx: Mx,
    domains: usize,
    tally: Arc<Mutex<Tally>>,
    /// Those that defer and those that hang take mail from now on.
    recovered: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
}

impl Site {
    async fn start(domains: usize, messages: usize) -> (Site, Vec<TcpSocketHeld>) {
        // A socket for each domain and one for each connection is more than many shells allow.
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        setrlimit(Resource::Nofile, files).expect("the hard limit is allowed");
        // One port must be free at every address.
        for _ in 0..20 {
            let config = MxConfig {
                address: (SENDERS, 0).into(),
                starttls: true,
                keep: false,
                ..MxConfig::default()
            };
            let mx = Mx::start(config).await.expect("MX");
            let mut deaf = Vec::new();
            let mut free = true;
            for domain in 0..domains {
                let at = SocketAddr::from((address(domain), mx.address().port()));
                free &= match kind(domain, domains) {
                    DEAF => hold(at).map(|held| deaf.push(held)).is_ok(),
                    _ => mx.also_at(at).await.is_ok(),
                };
            }
            if free {
                let tally = Tally {
                    delivered: vec![0; messages],
                    notices: vec![0; messages],
                    begun: vec![None; messages],
                    ..Tally::default()
                };
                let site = Site {
                    mx,
                    domains,
                    tally: Arc::new(Mutex::new(tally)),
                    recovered: Arc::default(),
                    delivered: Arc::default(),
                };
                site.script();
                return (site, deaf);
            }
        }
        panic!("no port is free at {domains} addresses");
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("the tally")
    }

    fn kind_of(&self, message: usize) -> Kind {
        self.now(kind(message % self.domains, self.domains))
    }

    fn now(&self, kind: Kind) -> Kind {
        match kind {
            Kind::Defers(_) | Kind::Hangs(_) if self.recovered.load(Relaxed) => Kind::Good,
            kind => kind,
        }
    }

    fn script(&self) {
        let site = self.clone();
        self.mx.on(Stage::Greeting, move |local| {
            let ip: Ipv4Addr = local.parse().expect("an address");
            let [_, net, high, low] = ip.octets().map(usize::from);
            if net != 77 {
                return Act::Default;
            }
            match site.now(kind(high * 200 + low - 1, site.domains)) {
                Kind::Hangs(0) => Act::Hang,
                Kind::Defers(0) => {
                    site.tally().turned_away += 1;
                    Act::ReplyThenClose("421 4.3.2 not now".into())
                }
                _ => Act::Default,
            }
        });
        let site = self.clone();
        self.mx
            .on(Stage::Mail, move |line| match after(line, "<s") {
                Some(message) if site.kind_of(message) == Kind::Hangs(1) => Act::Hang,
                _ => Act::Default,
            });
        let site = self.clone();
        self.mx.on(Stage::Rcpt, move |line| {
            let Some(message) = after(line, "<m") else {
                return Act::Default;
            };
            let what = kind(message % site.domains, site.domains);
            let column = match what {
                Kind::Good => 0,
                Kind::Defers(_) => 1,
                Kind::Refuses(_) => 2,
                Kind::Hangs(_) => 3,
            };
            site.tally().asked[column] += 1;
            match site.now(what) {
                Kind::Defers(1) => Act::reply("450 4.2.0 come back later"),
                Kind::Defers(2) => Act::reply("452 4.2.2 the mailbox is full"),
                Kind::Refuses(0) => Act::reply("550 5.1.1 no such user"),
                Kind::Hangs(2) => Act::Hang,
                _ => Act::Default,
            }
        });
        let site = self.clone();
        self.mx.on(Stage::Dot, move |recipients| {
            let (to, column) = match recipients.as_bytes().first() {
                Some(b'm') => (after(recipients, "m").expect("a number"), 0),
                _ => (after(recipients, "s").expect("a number"), 1),
            };
            let what = site.kind_of(to);
            let act = match what {
                _ if column == 1 => Act::Default,
                Kind::Defers(_) => Act::reply("451 4.3.0 try again"),
                Kind::Refuses(_) => Act::reply("554 5.7.1 we do not want it"),
                Kind::Hangs(_) => Act::Hang,
                Kind::Good => Act::Default,
            };
            if matches!(act, Act::Default) {
                site.took(to, column == 1);
            }
            act
        });
    }

    fn took(&self, message: usize, notice: bool) {
        let mut tally = self.tally();
        self.delivered.fetch_add(1, Relaxed);
        if notice {
            tally.notices[message] += 1;
            return;
        }
        tally.delivered[message] += 1;
        if kind(message % self.domains, self.domains) == Kind::Good {
            tally.good += 1;
            tally.last_good = Some(Instant::now());
            let delay = tally.begun[message].expect("it was sent").elapsed();
            tally.delays.push(delay.as_millis() as u64);
        }
    }

    async fn until(&self, what: &str, done: impl Fn(&Tally) -> bool) {
        let waited = self.mx.until(|_| done(&self.tally()));
        let waited = tokio::time::timeout(LONGEST, waited).await;
        assert!(waited.is_ok(), "{what}");
    }
}

/// A listener that nobody accepts from, with a queue that two connections fill.
struct TcpSocketHeld {
    at: SocketAddr,
    _listener: TcpListener,
}

fn hold(at: SocketAddr) -> std::io::Result<TcpSocketHeld> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let _listener = socket.listen(1)?;
    Ok(TcpSocketHeld { at, _listener })
}

/// The number behind `mark`.
fn after(text: &str, mark: &str) -> Option<usize> {
    let (_, rest) = text.split_once(mark)?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

struct Load {
    messages: usize,
    domains: usize,
    rate: usize,
}

impl Load {
    /// When a message is due after the start: each has its time, whether others are sent or not.
    fn due(&self, message: usize) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(message as f64 / rate as f64),
        }
    }

    fn count(&self, fits: impl Fn(Kind) -> bool) -> usize {
        let kinds = (0..self.messages).map(|message| kind(message % self.domains, self.domains));
        kinds.filter(|kind| fits(*kind)).count()
    }
}

async fn submit(world: &World, site: &Site, load: &Load, all: bool, start: Instant) {
    let server = world.daemon().port("mx/starttls");
    let text = "What is said here does not matter, only that it comes once.\r\n".repeat(32);
    let client = |first: usize| {
        let text = &text;
        async move {
            let mut client = Client::connect(server).await.expect("connect");
            client.reply().await.expect("greeting");
            client.expect("EHLO client.example.net", 250).await.unwrap();
            for message in (first..load.messages).step_by(CLIENTS) {
                let domain = message % load.domains;
                if !all && kind(domain, load.domains) != Kind::Good {
                    continue;
                }
                tokio::time::sleep_until(start + load.due(message)).await;
                let from = format!("s{message}@senders.example");
                let to = format!("m{message}@d{domain}.example");
                let data = format!("From: {from}\r\nTo: {to}\r\nSubject: {message}\r\n\r\n{text}");
                site.tally().begun[message] = Some(Instant::now());
                let sent = client.send(&from, &[&to], data.as_bytes()).await;
                assert_eq!(sent.expect("a reply").code, 250, "{message}");
            }
        }
    };
    futures_util::future::join_all((0..CLIENTS).map(client)).await;
}

/// What a run took.
struct Figures {
    /// From the first submission to the last delivery at a good domain.
    took: Duration,
    submitted: Duration,
    delays: Vec<u64>,
    /// Seconds of CPU of the daemon until then.
    cpu: f64,
    peak_memory: u64,
    peak_connections: u64,
}

impl Figures {
    fn delay(&self, share: f64) -> u64 {
        let at = (self.delays.len() as f64 * share) as usize;
        self.delays[at.min(self.delays.len() - 1)]
    }
}

/// A world of its own with all those domains, and its daemon, which has nothing to do yet.
async fn world(load: &Load) -> (World, Site, Vec<TcpSocketHeld>) {
    let (site, deaf) = Site::start(load.domains, load.messages).await;
    // Those that wait are tried again several times before all is submitted.
    let first = load.due(load.messages).as_secs() / 5 + 2;
    let config = format!(
        "relay_networks = [\"127.0.0.0/8\"]\n\
         [retry]\nfirst = \"{first}s\"\n\
         [incoming]\njudge_private = false\n\
         [limits]\ndrain = \"1s\"\nfree_space = \"64MiB\"\n"
    );
    let mut world = World::new(site.mx.address().port(), &config).await;
    world.dns.ttl(3600);
    for domain in 0..load.domains {
        let (name, host) = (
            format!("d{domain}.example"),
            format!("mx.d{domain}.example"),
        );
        world.dns.mx(&name, 10, &host);
        world.dns.a(&host, address(domain));
    }
    world.dns.mx("senders.example", 10, "mx.senders.example");
    world.dns.a("mx.senders.example", SENDERS);
    serve(&mut world).await;
    (world, site, deaf)
}

async fn serve(world: &mut World) {
    let mut command = Command::new(binary());
    // A line for each attempt would be the work of the test, not of the daemon.
    command.env("CHAPAR_LOG", "error,daemon=info,listener=info");
    world.start_with(command).await;
}

async fn run(world: &World, site: &Site, load: &Load, all: bool) -> Figures {
    let start = Instant::now();
    let submitting = async {
        submit(world, site, load, all, start).await;
        start.elapsed()
    };
    let good = load.count(|kind| kind == Kind::Good);
    let arriving = site.until("good mail arrives", |tally| tally.good >= good);
    let (submitted, ()) = tokio::join!(submitting, arriving);
    let mut tally = site.tally();
    tally.delays.sort_unstable();
    let pid = world.daemon().pid();
    Figures {
        took: tally.last_good.expect("the last one") - start,
        submitted,
        delays: tally.delays.clone(),
        cpu: cpu(pid),
        peak_memory: peak_memory(pid),
        peak_connections: site.mx.most_open(),
    }
}

fn proc(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("/proc")
}

/// User and system time in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = proc(pid, "stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|n| n.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}

/// MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = proc(pid, "status");
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("VmHWM") / 1024
}

/// How many wait for a kind of domain, and the attempts at them so far.
fn waiting(queue: &[Value], load: &Load, fits: impl Fn(Kind) -> bool) -> (usize, u64) {
    let mut found = (0, 0);
    for entry in queue {
        let to = entry["to"].as_str().expect("a recipient");
        let message = to.strip_prefix('m').and_then(|rest| after(rest, ""));
        let Some(message) = message else { continue };
        if fits(kind(message % load.domains, load.domains)) {
            found.0 += 1;
            found.1 += entry["attempts"].as_u64().expect("attempts");
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_domains_that_defer_refuse_and_hang_cost_others_nothing_and_nobody_anything_twice() {
    let load = Load {
        messages: number("CHAPAR_MESSAGES", 2_000),
        domains: number("CHAPAR_DOMAINS", 100),
        rate: number("CHAPAR_RATE", 400),
    };
    let defers = load.count(|kind| matches!(kind, Kind::Defers(_)));
    let refused = load.count(|kind| matches!(kind, Kind::Refuses(_)));
    let hangs = load.count(|kind| matches!(kind, Kind::Hangs(_)));

    let (mut alone, site, _deaf) = world(&load).await;
    let without = run(&alone, &site, &load, false).await;
    assert_eq!(alone.stop().await, Some(0));
    drop((alone, site));

    let (mut world, site, deaf) = world(&load).await;
    let with = run(&world, &site, &load, true).await;
    site.until("every refusal is told", |tally| {
        tally.notices.iter().map(|n| *n as usize).sum::<usize>() >= refused
    })
    .await;
    let list = |world: &World| -> Vec<Value> {
        let (code, out, error) = world.run(&["queue", "list", "--json", "--limit", "0"]);
        assert_eq!(code, 0, "{error}");
        let lines = out.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let queue = list(&world);
    let deferred = waiting(&queue, &load, |kind| matches!(kind, Kind::Defers(_)));
    let hanging = waiting(&queue, &load, |kind| matches!(kind, Kind::Hangs(_)));
    let asked = site.tally().asked;
    let turned_away = site.tally().turned_away;
    let connections = site.mx.connections();

    // They come to their senses while the daemon restarts.
    let stopping = Instant::now();
    assert_eq!(world.stop().await, Some(0));
    let stopped = stopping.elapsed();
    site.recovered.store(true, Relaxed);
    let closed: Vec<SocketAddr> = deaf.iter().map(|held| held.at).collect();
    drop(deaf);
    for at in closed {
        site.mx.also_at(at).await.expect("the port is free again");
    }
    serve(&mut world).await;
    let again = Instant::now();
    let (code, out, error) = world.run(&["queue", "replay", "all"]);
    assert_eq!(code, 0, "{out}{error}");
    let total = (load.messages - refused) as u64 + refused as u64;
    site.until("what waited arrives", |_| {
        site.delivered.load(Relaxed) >= total
    })
    .await;
    let recovered = again.elapsed();
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;

    let tally = site.tally();
    let more = |counts: &[u32]| counts.iter().map(|n| n.saturating_sub(1)).sum::<u32>();
    let duplicates = more(&tally.delivered);
    let ratio = with.took.as_secs_f64() / without.took.as_secs_f64();
    println!(
        "messages                     {} to {} domains, {} a second submitted (0: no limit)\n\
         deferred, refused, hanging   {defers}, {refused}, {hangs}\n\
         \n\
         \x20                            the others alone   with those\n\
         submitted within             {:>10.1} s {:>14.1} s\n\
         all good ones delivered      {:>10.1} s {:>14.1} s   ratio {ratio:.3}\n\
         delay, median                {:>10} ms {:>13} ms\n\
         delay, 99 %                  {:>10} ms {:>13} ms\n\
         delay, longest               {:>10} ms {:>13} ms\n\
         CPU of the daemon            {:>10.1} s {:>14.1} s\n\
         peak memory                  {:>10} MiB {:>12} MiB\n\
         peak connections             {:>10} {:>16}\n",
        load.messages,
        load.domains,
        load.rate,
        without.submitted.as_secs_f64(),
        with.submitted.as_secs_f64(),
        without.took.as_secs_f64(),
        with.took.as_secs_f64(),
        without.delay(0.5),
        with.delay(0.5),
        without.delay(0.99),
        with.delay(0.99),
        without.delay(1.0),
        with.delay(1.0),
        without.cpu,
        with.cpu,
        without.peak_memory,
        with.peak_memory,
        without.peak_connections,
        with.peak_connections,
    );
    println!(
        "recipients asked for         good {}, deferring {}, refusing {}, hanging {}\n\
         turned away at the greeting  {turned_away}; connections in all {connections}\n\
         waiting then, attempts       deferred {}, {}; hanging {}, {}\n\
         stopped within               {:.1} s\n\
         the rest delivered within    {:.1} s of the restart\n\
         notices to senders           {} for {refused} refused\n\
         duplicates                   {duplicates}",
        asked[0],
        asked[1],
        asked[2],
        asked[3],
        deferred.0,
        deferred.1,
        hanging.0,
        hanging.1,
        stopped.as_secs_f64(),
        recovered.as_secs_f64(),
        tally.notices.iter().sum::<u32>(),
    );
    assert_eq!(duplicates, 0);
    assert_eq!(deferred.0, defers, "all that were deferred wait");
    assert_eq!(hanging.0, hangs, "all that hang wait");
    for message in 0..load.messages {
        let expected = match site.kind_of(message) {
            Kind::Refuses(_) => (0, 1),
            _ => (1, 0),
        };
        let found = (tally.delivered[message], tally.notices[message]);
        assert_eq!(
            found, expected,
            "deliveries and notices of message {message}"
        );
    }
    let slack = Duration::from_secs(2);
    assert!(
        with.took <= without.took.mul_f64(1.25) + slack,
        "good mail waited for others: {:?}, alone {:?}",
        with.took,
        without.took
    );
}
