//! How much of what may be under way one destination may have, so that those that hang leave room
//! for all others (I10).
//!
//! Dynamic thresholds, as switches share their buffers: a lane may have an eighth of what nobody
//! has. The first destination that hangs gets a ninth of all, the next an eighth of what it left;
//! after 40 of them a hundredth is still free for everyone else. What has no share now waits on
//! disk, not with delivery, so that nothing is handed out only to be handed back. Pure.

/// One lane may have one part in so many of what is free.
const PART: usize = 8;
/// What each lane may have however little is free; all lanes together have room for that in the
/// default of `delivery.active`.
pub(super) const LEAST: usize = 16;

/// How many messages one lane may have of `limit` when `under_way` are in all.
pub(super) fn share(limit: usize, under_way: usize) -> usize {
    limit.saturating_sub(under_way).div_ceil(PART).max(LEAST)
}
