//! Lanes in which domains are looked up, so that those that take long hold up no others.
//!
//! A lookup begins in the quick lane and leaves it after [`QUICK`], answered or not: it goes on in
//! the slow lane, and its place is free for the next. A domain that took long the last time begins
//! in the slow lane. So however many domains have dead DNS servers, the others wait for none of
//! them: no longer than [`QUICK`] for each hundred that were never asked about before, and not at
//! all for those that are known to be slow.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Domains that are looked up in the quick lane at the same time.
pub(super) const QUICK_LOOKUPS: usize = 100;
/// The same of the slow lane.
pub(super) const SLOW_LOOKUPS: usize = 400;
/// How long a lookup may stay in the quick lane.
pub(super) const QUICK: Duration = Duration::from_millis(500);
/// How long a lookup may take in all; the resolver gives up earlier, unless every step of a long
/// way (aliases, signatures) is slow.
pub(super) const LONGEST_LOOKUP: Duration = Duration::from_secs(30);
/// How long it is remembered that a domain is slow.
const SLOW_MEMORY: Duration = Duration::from_secs(3600);
/// Slow domains that are remembered.
const MOST_SLOW: usize = 20_000;

/// See the module.
pub(super) struct Lanes {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    known: HashMap<String, Instant>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            quick: Arc::new(Semaphore::new(QUICK_LOOKUPS)),
            slow: Arc::new(Semaphore::new(SLOW_LOOKUPS)),
            known: HashMap::new(),
        }
    }
}

/// Where one lookup begins.
pub(super) struct Lane {
    quick: Option<Arc<Semaphore>>,
    slow: Arc<Semaphore>,
}

impl Lanes {
    /// The lane of a domain.
    pub(super) fn of(&self, domain: &str, now: Instant) -> Lane {
        let slow = self.known.get(domain).is_some_and(|until| *until > now);
        Lane {
            quick: (!slow).then(|| Arc::clone(&self.quick)),
            slow: Arc::clone(&self.slow),
        }
    }

    /// Remembers how it went.
    pub(super) fn learn(&mut self, domain: &str, slow: bool, now: Instant) {
        if !slow {
            self.known.remove(domain);
            return;
        }
        if self.known.len() >= MOST_SLOW {
            self.known.retain(|_, until| *until > now);
        }
        if self.known.len() < MOST_SLOW {
            self.known.insert(domain.to_owned(), now + SLOW_MEMORY);
        }
    }
}

impl Lane {
    /// Runs a lookup; `None` if it takes longer than it may. Also tells whether it was slow.
    pub(super) async fn run<T>(self, lookup: impl Future<Output = T>) -> (Option<T>, bool) {
        // The semaphores are closed never: an error can not be.
        let place = match &self.quick {
            Some(quick) => Arc::clone(quick).acquire_owned().await.ok(),
            None => Arc::clone(&self.slow).acquire_owned().await.ok(),
        };
        let begun = tokio::time::Instant::now();
        let lookup = tokio::time::timeout(LONGEST_LOOKUP, lookup);
        tokio::pin!(lookup);
        let quick = tokio::time::timeout(QUICK, &mut lookup).await;
        if let Ok(answer) = quick {
            return (answer.ok(), false);
        }
        let answer = match self.quick {
            Some(_) => in_slow_lane(lookup, place, self.slow).await,
            None => lookup.await,
        };
        (answer.ok(), begun.elapsed() >= QUICK)
    }
}

/// Waits for the rest of a lookup, and gives its place in the quick lane back as soon as there is
/// one in the slow lane: together they bound how many are under way.
async fn in_slow_lane<T>(
    mut lookup: impl Future<Output = T> + Unpin,
    place: Option<OwnedSemaphorePermit>,
    slow: Arc<Semaphore>,
) -> T {
    let _place = tokio::select! {
        biased;
        answer = &mut lookup => return answer,
        place = slow.acquire_owned() => place,
    };
    drop(place);
    lookup.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{join_all, pending, ready};

    #[tokio::test(start_paused = true)]
    async fn those_that_never_answer_hold_up_nobody() {
        let mut lanes = Lanes::default();
        let start = Instant::now();
        let dead = |lanes: &Lanes, n: usize| lanes.of(&format!("d{n}.example"), start);
        let all = (0..300).map(|n| dead(&lanes, n).run(pending::<()>()));
        let all = tokio::spawn(join_all(all.collect::<Vec<_>>()));
        tokio::task::yield_now().await;
        let clock = tokio::time::Instant::now();
        let good = lanes.of("good.example", start);
        assert_eq!(good.run(ready(7)).await, (Some(7), false));
        // Three hundreds before it had the quick lane.
        assert_eq!(clock.elapsed().as_millis() / 100 * 100, 1500);
        let ended = all.await.expect("a task");
        assert!(ended.iter().all(|end| *end == (None, true)) && ended.len() == 300);
        // The next time nobody waits for those.
        for n in 0..300 {
            lanes.learn(&format!("d{n}.example"), true, start);
        }
        let all = (0..300).map(|n| dead(&lanes, n).run(pending::<()>()));
        let _all = tokio::spawn(join_all(all.collect::<Vec<_>>()));
        tokio::task::yield_now().await;
        let clock = tokio::time::Instant::now();
        let good = lanes.of("good.example", start);
        assert_eq!(good.run(ready(7)).await, (Some(7), false));
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn both_lanes_together_are_bounded_and_a_recovered_domain_is_quick_again() {
        let mut lanes = Lanes::default();
        let start = Instant::now();
        let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let all = (0..1000).map(|n| {
            let begun = Arc::clone(&begun);
            lanes.of(&n.to_string(), start).run(async move {
                begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                pending::<()>().await
            })
        });
        let _all = tokio::spawn(join_all(all.collect::<Vec<_>>()));
        tokio::time::sleep(LONGEST_LOOKUP - QUICK).await;
        let begun = begun.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(begun, QUICK_LOOKUPS + SLOW_LOOKUPS);
        lanes.learn("slow.example", true, start);
        assert!(lanes.of("slow.example", start).quick.is_none());
        assert!(
            lanes
                .of("slow.example", start + SLOW_MEMORY)
                .quick
                .is_some()
        );
        lanes.learn("slow.example", false, start);
        assert!(lanes.of("slow.example", start).quick.is_some());
    }
}
