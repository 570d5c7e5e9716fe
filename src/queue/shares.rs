//! How much of what may be under way one destination may have, so that those that hang leave room
//! for all others (I10).
//!
//! Dynamic thresholds, as switches share their buffers: a lane may have an eighth of what nobody
//! has. The first destination that hangs gets a ninth of all, the next an eighth of what it left;
//! after 40 of them a hundredth is still free for everyone else. What has no share now waits on
//! disk, not with delivery, so that nothing is handed out only to be handed back.

use std::collections::HashMap;

use super::due::Lane;

/// One lane may have one part in so many of what is free.
const PART: usize = 8;
/// What each lane may have however little is free; all lanes together have room for that in the
/// default of `delivery.active`.
const LEAST: usize = 16;

/// Messages in memory for delivery, by lane.
#[derive(Debug, Default)]
pub(super) struct Shares {
    lanes: HashMap<Lane, usize>,
    total: usize,
}

impl Shares {
    /// Whether this lane may have one more, of `limit` in all; the caller keeps to the limit itself.
    pub fn admits(&self, lane: Lane, limit: usize) -> bool {
        let share = limit.saturating_sub(self.total).div_ceil(PART).max(LEAST);
        self.lanes.get(&lane).copied().unwrap_or_default() < share
    }

    /// Counts one, in place of the lane it was counted in before.
    pub fn enter(&mut self, place: &mut Option<Lane>, lane: Lane) {
        if *place != Some(lane) {
            self.leave(place);
            *self.lanes.entry(lane).or_default() += 1;
            self.total += 1;
            *place = Some(lane);
        }
    }

    /// Counts it no more.
    pub fn leave(&mut self, place: &mut Option<Lane>) {
        let Some(lane) = place.take() else { return };
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.lanes.get_mut(&lane) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lanes.remove(&lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_destinations_that_hang_leave_room_for_the_others() {
        let mut shares = Shares::default();
        let mut taken = Vec::new();
        for domain in 0..40 {
            let lane = Lane::of_domain(&format!("d{domain}.example"));
            let mut count = 0;
            while shares.admits(lane, 20_000) {
                shares.enter(&mut None, lane);
                count += 1;
            }
            taken.push(count);
        }
        assert_eq!((taken.first(), taken.get(1)), (Some(&2223), Some(&1976)));
        assert!(shares.admits(Lane::of_domain("example.org"), 20_000));
        assert!(20_000 - shares.total > 100, "{}", shares.total);
    }

    #[test]
    fn each_is_counted_once_and_in_the_lane_it_waits_for() {
        let (one, other) = (
            Lane::of_domain("example.org"),
            Lane::of_domain("example.com"),
        );
        let mut shares = Shares::default();
        let mut place = None;
        shares.enter(&mut place, one);
        shares.enter(&mut place, one);
        shares.enter(&mut place, other);
        assert_eq!((shares.total, shares.lanes.get(&other)), (1, Some(&1)));
        assert_eq!((shares.lanes.get(&one), place), (None, Some(other)));
        shares.leave(&mut place);
        shares.leave(&mut place);
        assert_eq!((shares.total, shares.lanes.len(), place), (0, 0, None));
        for _ in 0..LEAST {
            assert!(shares.admits(one, 1));
            shares.enter(&mut None, one);
        }
        assert!(!shares.admits(one, 1) && shares.admits(other, 1));
    }
}
