//! A simulation of the queue: the real actor, committer, flusher, compaction, recovery and notices
//! in a world that follows from a seed, in which everything breaks that can break.
//!
//! One thread runs it all. The runtime's clock stands still unless nothing else can happen; the
//! threads of the store go on step by step; disk, wall clock, delivery, senders and operators are
//! simulated; the process is killed and started again, with and without the power. Beside it a
//! model is kept by hand (`model`) of what was promised and of what became durable, and judges
//! every record, job and answer; now and then it is compared with the store and the actor
//! (`checks`). At the end everything that fails is taken away, and all mail has to end.
//!
//! A seed makes the same run every time. A run that finds something prints its seed, what must not
//! be, and a story of what led to it, shortened by leaving out kinds of trouble that it does not
//! need. `CHAPAR_SIM_SEED=N` repeats one seed; see docs/simulator.md.
#![cfg(test)]
#![forbid(unsafe_code)]

mod acts;
mod checks;
mod delivery;
mod importers;
mod ledger;
mod life;
mod model;
mod movers;
mod operators;
mod panics;
mod story;
mod undo;
mod world;

// The rooms that this one enters.
use chapar_base::time;
use chapar_config as config;
use chapar_control as control;
use chapar_message as message;
use chapar_queue as queue;
use chapar_signing as signing;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{KINDS, Profile, World};

/// Steps of one seed.
const STEPS: u64 = 2_000;

/// What a seed came to.
struct Outcome {
    steps: u64,
    broken: Option<String>,
    story: String,
    ends: String,
}

/// Runs one seed.
fn run(seed: u64, steps: u64, allowed: Profile) -> Outcome {
    panics::keep();
    let mut world = World::new(seed, steps, allowed);
    if catch_unwind(AssertUnwindSafe(|| world.run())).is_err() {
        let panic = panics::take().unwrap_or_default();
        world.model.breaks(format!("it panicked: {panic}"));
    }
    panics::let_go();
    crate::time::simulated::set(None);
    let broken = world.model.broken.clone();
    let story = broken
        .as_deref()
        .map(|broken| world.model.story.shortened(broken));
    Outcome {
        steps: world.step,
        broken,
        story: story.unwrap_or_default(),
        ends: format!(
            "{} lives, {:?}, {} notices",
            world.lives, world.model.ends, world.model.notices
        ),
    }
}

/// The same run with fewer kinds of trouble, as few as still find something.
fn shorten(
    seed: u64,
    steps: u64,
    mut allowed: Profile,
    mut outcome: Outcome,
) -> (Profile, Outcome) {
    // Another problem that fewer kinds of trouble lead to is another seed's.
    let kind = |broken: &str| plain(broken).chars().take(30).collect::<String>();
    let wanted = outcome.broken.as_deref().map(kind);
    for name in KINDS {
        let mut fewer = allowed;
        if let Some(kind) = fewer.kind(name) {
            *kind = false;
        }
        let again = run(seed, steps, fewer);
        if again.broken.as_deref().map(kind) == wanted && again.steps <= outcome.steps {
            (allowed, outcome) = (fewer, again);
        }
    }
    (allowed, outcome)
}

/// What is told of a seed that found something.
fn told(seed: u64, steps: u64, allowed: Profile, outcome: Outcome) -> String {
    let mut text = format!(
        "seed {seed}: after {} steps: {}\n(CHAPAR_SIM_SEED={seed} repeats it)\n",
        outcome.steps,
        outcome.broken.as_deref().unwrap_or_default(),
    );
    let (allowed, shorter) = shorten(seed, steps, allowed, outcome);
    let _ = write!(
        text,
        "with {allowed:?} after {} steps: {}\n{}",
        shorter.steps,
        shorter.broken.unwrap_or_default(),
        shorter.story
    );
    text
}

/// What seeds came to.
#[derive(Default)]
struct Explored {
    steps: u64,
    seeds: u64,
    /// By what was found, without ids and numbers: how often, the first seed, and its story.
    found: BTreeMap<String, (u64, u64, String)>,
    /// What the first of them told.
    first: Option<String>,
}

/// Runs seeds from `first` on until so many steps are made, or until one finds something, unless
/// all are wanted.
fn explore(first: u64, total: u64, allowed: Profile, all: bool) -> Explored {
    let mut explored = Explored::default();
    while explored.steps < total && (all || explored.first.is_none()) {
        let seed = first + explored.seeds;
        let outcome = run(seed, STEPS, allowed);
        explored.steps += outcome.steps;
        explored.seeds += 1;
        if let Some(broken) = &outcome.broken {
            let plain = plain(broken);
            let story = || format!("{broken}\n{}", outcome.story);
            let found = explored.found.entry(plain);
            found.or_insert_with(|| (0, seed, story())).0 += 1;
            if explored.first.is_none() {
                // Where all are wanted, each is told as it is, which takes no further runs.
                explored.first = Some(match all {
                    true => format!("seed {seed}: {broken}"),
                    false => told(seed, STEPS, allowed, outcome),
                });
            }
        }
    }
    explored
}

/// A problem without its ids and numbers.
fn plain(problem: &str) -> String {
    let words = problem
        .split(' ')
        .map(|word| match word.chars().any(|c| c.is_ascii_digit()) {
            true if word.len() > 4 || word.chars().all(|c| !c.is_alphabetic()) => "#",
            _ => word,
        });
    words
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the stack: futures are large where nothing is optimised.
    const STACK: usize = 64 << 20;

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    /// Steps of all four tests together if nothing is said: about 20 s of two cores.
    const SHORT: u64 = 40_000;

    /// A quarter of the seeds; `CHAPAR_SIM_STEPS` steps in all four together.
    fn quarter(which: u64) {
        let mut steps = number("CHAPAR_SIM_STEPS").unwrap_or(SHORT) / 4;
        let mut first = number("CHAPAR_SIM_FIRST").unwrap_or(1) + which * 1_000_000_000;
        if let Some(seed) = number("CHAPAR_SIM_SEED") {
            (first, steps) = (seed, 1);
        }
        let all = std::env::var_os("CHAPAR_SIM_ALL").is_some();
        let mut allowed = Profile::ALL;
        for name in std::env::var("CHAPAR_SIM_WITHOUT")
            .unwrap_or_default()
            .split(',')
        {
            if let Some(kind) = allowed.kind(name) {
                *kind = false;
            }
        }
        let begun = std::time::Instant::now();
        let thread = std::thread::Builder::new().stack_size(STACK);
        let explored = thread
            .spawn(move || explore(first, steps, allowed, all))
            .unwrap()
            .join()
            .unwrap();
        eprintln!(
            "{} steps in {} seeds from {first} on, {:.1} s",
            explored.steps,
            explored.seeds,
            begun.elapsed().as_secs_f64()
        );
        for (problem, (count, seed, story)) in &explored.found {
            eprintln!("{count} times, first with seed {seed}: {problem}");
            if all {
                eprintln!("{story}");
            }
        }
        if let Some(first) = explored.first {
            panic!("{first}");
        }
    }

    #[test]
    fn sim_explores_interleavings_1() {
        quarter(0);
    }

    #[test]
    fn sim_explores_interleavings_2() {
        quarter(1);
    }

    #[test]
    fn sim_explores_interleavings_3() {
        quarter(2);
    }

    #[test]
    fn sim_explores_interleavings_4() {
        quarter(3);
    }

    #[test]
    fn sim_repeats_a_seed() {
        let twice = || {
            let run = || run(5, 600, Profile::ALL);
            let thread = std::thread::Builder::new().stack_size(STACK);
            thread.spawn(run).unwrap().join().unwrap()
        };
        let (one, two) = (twice(), twice());
        assert_eq!(
            (one.steps, &one.broken, &one.ends),
            (two.steps, &two.broken, &two.ends)
        );
        assert_eq!(one.story, two.story);
    }
}
