//! The world of a run: the disk, the clocks, the chances, and the lives of the process one after
//! the other.

use std::path::Path;
use std::sync::Arc;

use queue_schema::Millis;
use tokio::time::Instant;

use super::delivery::{Temper, tempers};
use super::importers::Foreign;
use super::ledger::Ledger;
use super::life::{End, Life};
use super::model::Model;
use crate::config::{Config, Size};
use crate::queue::sim::disk::{Faults, SimDisk};
use crate::queue::store::{Disk, Options};

/// Where the store is on the simulated disk.
pub const ROOT: &str = "/store";
/// When simulations begin, by the wall clock.
const BEGIN: Millis = 1_800_000_000_000;
/// Bytes of a segment: a dozen messages.
const SEGMENT: u64 = 40 << 10;
/// Steps of a life that is to end everything, before that counts as stuck.
const DRAIN: u64 = 8_000;

/// What may go wrong in a run; what is taken away makes a story shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The process dies, and the power fails.
    pub crashes: bool,
    /// The disk fails.
    pub faults: bool,
    /// The disk is full.
    pub room: bool,
    /// The wall clock is set.
    pub clock: bool,
    /// Bits flip.
    pub flips: bool,
    /// Operators give orders.
    pub operators: bool,
    /// The signer fails.
    pub signer: bool,
    /// Reports come twice and get lost.
    pub reports: bool,
}

/// The kinds of trouble by name.
pub const KINDS: [&str; 8] = [
    "crashes",
    "faults",
    "room",
    "clock",
    "flips",
    "operators",
    "signer",
    "reports",
];

impl Profile {
    /// Everything.
    pub const ALL: Profile = Profile {
        crashes: true,
        faults: true,
        room: true,
        clock: true,
        flips: true,
        operators: true,
        signer: true,
        reports: true,
    };

    /// Whether a kind of trouble happens.
    pub fn kind(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "crashes" => &mut self.crashes,
            "faults" => &mut self.faults,
            "room" => &mut self.room,
            "clock" => &mut self.clock,
            "flips" => &mut self.flips,
            "operators" => &mut self.operators,
            "signer" => &mut self.signer,
            "reports" => &mut self.reports,
            _ => return None,
        })
    }

    /// What happens in the run of a seed: mostly some kinds of trouble, sometimes all.
    pub fn of(self, rng: &mut fastrand::Rng) -> Profile {
        let mut chosen = self;
        let share = rng.f64();
        for name in KINDS {
            // Drawn for each, so that taking one kind away changes nothing for the others.
            let keep = rng.f64() < 0.25 + share;
            if let Some(kind) = chosen.kind(name) {
                *kind &= keep;
            }
        }
        chosen
    }
}

/// See the module.
pub struct World {
    /// Chance.
    pub rng: fastrand::Rng,
    /// The disk.
    pub disk: SimDisk,
    /// What must be true.
    pub model: Model,
    /// The journal, read beside the store.
    pub ledger: Ledger,
    /// What goes wrong.
    pub profile: Profile,
    /// How destinations answer.
    pub tempers: Vec<Temper>,
    /// The chance that the threads of the store do all that waits after a step.
    pub eager: f64,
    /// Messages that wait at the same time before senders pause: where few do, each is tried often.
    pub waiting: usize,
    /// Time that never jumps, up to the present life.
    pub steady: Millis,
    /// When the present life began.
    pub begun: Option<Instant>,
    /// By how much the wall clock is wrong.
    pub offset: i64,
    /// Times it was set.
    pub jumps: u32,
    /// Steps so far, and where they end.
    pub step: u64,
    /// See `step`.
    pub steps: u64,
    /// Nothing goes wrong any more, and everything has to end.
    pub draining: bool,
    /// Whether the process was killed, or the power, since orders were counted.
    pub operators: u64,
    /// Messages that were sent so far.
    pub letters: u64,
    /// Messages of another queue.
    pub foreign: Vec<Foreign>,
    /// A bit was flipped.
    pub flipped: bool,
    /// The configuration.
    pub config: Arc<Config>,
    /// The store's options.
    pub options: Options,
    /// Lives so far.
    pub lives: u64,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, steps: u64, allowed: Profile) -> World {
        // What the queue itself draws follows from the seed as well.
        fastrand::seed(seed ^ 0x5eed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let profile = allowed.of(&mut rng);
        let disk = SimDisk::new(seed ^ 0xd15c);
        let config = config(&mut rng);
        let mut options = Options::new(Path::new(ROOT));
        options.disk = Disk::simulated(disk.clone());
        options.segment_size = SEGMENT;
        options.compact_after = std::time::Duration::from_secs(rng.u64(1..20));
        options.retry = config.retry.clone();
        options.free_space = config.limits.free_space.0;
        let model = Model::new(&config);
        World {
            tempers: tempers(&mut rng),
            eager: [0.2, 0.7, 0.95][rng.usize(..3)],
            waiting: [8, 40, 120][rng.usize(..3)],
            rng,
            disk,
            model,
            ledger: Ledger::new(&Path::new(ROOT).join("journal")),
            profile,
            steady: 0,
            begun: None,
            offset: 0,
            jumps: 0,
            step: 0,
            steps,
            draining: false,
            operators: 0,
            letters: 0,
            foreign: Vec::new(),
            flipped: false,
            config: Arc::new(config),
            options,
            lives: 0,
        }
    }

    /// Time that never jumps.
    pub fn now(&self) -> Millis {
        let passed = self
            .begun
            .map_or(0, |begun| crate::time::millis(begun.elapsed()));
        self.steady + passed
    }

    /// The wall clock shows what it shows.
    pub fn set_clock(&self) {
        let wall = (BEGIN + self.now()).saturating_add_signed(self.offset);
        crate::time::simulated::set(Some(wall));
    }

    /// Whether something was found that must not be.
    pub fn is_broken(&self) -> bool {
        self.model.broken.is_some()
    }

    /// Lives until all steps are made, then one more in which all that is left ends.
    pub fn run(&mut self) {
        while self.step < self.steps && !self.is_broken() {
            self.life();
        }
        if self.is_broken() {
            return;
        }
        self.draining = true;
        self.disk.set_faults(Faults::default());
        self.model.story.tell("== nothing fails any more");
        self.steps = self.step + DRAIN;
        let mut tries = 0;
        while self.draining && !self.is_broken() {
            tries += 1;
            if tries > 20 {
                self.model
                    .breaks("I7: without faults it does not start, or not end".into());
            }
            self.life();
        }
    }

    /// One life of the process.
    fn life(&mut self) {
        self.lives += 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let end = local.block_on(&runtime, async {
            self.begun = Some(Instant::now());
            self.set_clock();
            let end = Life::live(self).await;
            self.steady = self.now();
            self.begun = None;
            end
        });
        // What it still does while it ends has no effect.
        self.disk.die();
        {
            let _within = runtime.enter();
            drop(local);
        }
        drop(runtime);
        super::panics::take();
        crate::time::simulated::ended();
        let power = match end {
            End::Killed { power } => power,
            End::Stopped | End::Over => None,
        };
        if matches!(end, End::Over) {
            self.draining = false;
        }
        if matches!(end, End::Killed { .. }) {
            self.model.torn.extend(self.ledger.last());
        }
        self.model.died();
        self.disk.restart(power);
        self.between();
    }

    /// What happens while no process runs.
    fn between(&mut self) {
        self.steady += self.rng.u64(1..20_000);
        if self.draining {
            return;
        }
        if self.profile.clock && self.rng.u8(..6) == 0 {
            self.jump();
        }
        if self.profile.flips && self.rng.u8(..8) == 0 {
            self.flip();
        }
    }

    /// Sets the wall clock.
    pub fn jump(&mut self) {
        // The queue remembers a number of jumps; more than that in one queue's life are not tried.
        if self.jumps >= 10 {
            return;
        }
        self.jumps += 1;
        let hour = 3_600_000i64;
        let sizes = [70_000, hour, 24 * hour, 40 * 24 * hour];
        let size = sizes[self.rng.usize(..sizes.len())];
        let old = self.offset;
        self.offset = match self.rng.u8(..3) {
            0 => 0,
            1 => self.offset + size,
            _ => self.offset - size,
        };
        if old != self.offset {
            let by = (self.offset - old) / 1000;
            self.model
                .story
                .tell(format!("== the clock is set by {by} s"));
            self.model
                .jumped((BEGIN + self.now()).saturating_add_signed(old));
        }
        if self.begun.is_some() {
            self.set_clock();
        }
    }
}

/// A configuration with short spans, so that a run sees them all.
fn config(rng: &mut fastrand::Rng) -> Config {
    let text = "hostname = \"mx.example.org\"\npostmaster = \"postmaster@d0.example\"\n";
    let mut config = Config::parse(text, "simulation", Path::new("/")).expect("a configuration");
    let span = |text: &str| text.parse().expect("a span");
    config.data_dir = Path::new(ROOT).to_path_buf();
    config.limits.free_space = Size(64 << 10);
    config.limits.free_inodes = 0;
    config.limits.memory_bodies = Size([2 << 10, 1 << 20][rng.usize(..2)]);
    config.delivery.active = [4, 30, 1000][rng.usize(..3)];
    config.retry.first = span("10s");
    config.retry.longest = span("1m");
    config.retry.give_up = span("12m");
    config.retry.bounce_give_up = span("6m");
    config.retry.warn_after = span("1m");
    config
}
