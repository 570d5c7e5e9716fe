//! From which of several addresses of ours a message leaves.
//!
//! All attempts of a message leave from the same address (a server that greylists or counts knows it
//! by that), which its queue id decides; so every address has an equal share, and one that comes or
//! goes moves no more mail than its own. A new address has the share its `[[warmup]]` gives it on
//! the day a message arrived. An address that is not on this machine is passed over as long as
//! there is another. Sends nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue_schema::Message;

use super::hops::sourced;
use super::reach::{Destination, is_local};
use crate::config::{Config, Warmup};
use crate::time::Millis;

/// How long it is taken for true that an address is, or is not, on this machine.
const PRESENT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Sources {
    usual: Vec<IpAddr>,
    warmups: Vec<Warmup>,
    present: HashMap<IpAddr, (bool, Instant)>,
}

impl Sources {
    pub(super) fn new(config: &Config) -> Sources {
        Sources {
            usual: config.delivery.source.clone(),
            warmups: config.warmups.clone(),
            present: HashMap::new(),
        }
    }

    /// The destination with the addresses that this message leaves from, where there is a choice.
    pub(super) fn settle(
        &mut self,
        destination: Arc<Destination>,
        message: &Message,
        now: Instant,
    ) -> Arc<Destination> {
        let all = match destination.source.is_empty() {
            true => &self.usual,
            false => &destination.source,
        };
        let of = |ipv4: bool| all.iter().filter(move |ip| ip.is_ipv4() == ipv4).copied();
        if destination.local.is_some() || (of(true).count() < 2 && of(false).count() < 2) {
            return destination;
        }
        let families = [of(true).collect(), of(false).collect()];
        let chosen = families.into_iter().filter_map(|family: Vec<IpAddr>| {
            let here = family.iter().copied().filter(|ip| self.is_here(*ip, now));
            let here: Vec<IpAddr> = here.collect();
            // With none of them the attempt fails, and says why.
            let family = if here.is_empty() { family } else { here };
            choose(&family, &self.warmups, message.id.0, message.arrived)
        });
        let source: Vec<IpAddr> = chosen.collect();
        Arc::new(Destination {
            key: sourced(destination.key.to_string(), &source),
            source,
            ..Destination::clone(&destination)
        })
    }

    fn is_here(&mut self, address: IpAddr, now: Instant) -> bool {
        let known = self.present.get(&address).copied();
        if let Some((here, until)) = known
            && until > now
        {
            return here;
        }
        let here = is_local(address);
        if !here && known.is_none_or(|(before, _)| before) {
            tracing::error!(
                target: "alarm",
                %address,
                remedy = "add it to an interface, or take it out of delivery.source or route.source",
                "an address to send from is not on this machine; the others take its mail"
            );
        }
        self.present.insert(address, (here, now + PRESENT));
        here
    }
}

/// The address for a message, of those of one family.
fn choose(family: &[IpAddr], warmups: &[Warmup], id: u64, arrived: Millis) -> Option<IpAddr> {
    #[allow(clippy::cast_precision_loss)] // There are few.
    let equal = 1.0 / family.len().max(1) as f64;
    let part = |address: &IpAddr| {
        let warmup = warmups.iter().find(|warmup| warmup.address == *address)?;
        Some(warmup.part(arrived)).filter(|part| *part < equal)
    };
    // Those that are new take their parts of the whole first.
    let mut place = unit(id);
    let mut warm = Vec::new();
    for address in family {
        match part(address) {
            None => warm.push(*address),
            Some(part) if place < part => return Some(*address),
            Some(part) => place -= part,
        }
    }
    // Without any that is warm there is nobody else to take the rest.
    let rest = if warm.is_empty() { family } else { &warm };
    // Rendezvous hashing: an address that comes or goes concerns only its own mail.
    rest.iter()
        .copied()
        .max_by_key(|address| mix(id ^ mix(number(*address))))
}

fn number(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => v6
            .segments()
            .iter()
            .fold(0, |sum, segment| mix(sum ^ u64::from(*segment))),
    }
}

/// The finalizer of SplitMix64: the same for ever, as attempts of a message are days apart.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from 0 to below 1.
fn unit(id: u64) -> f64 {
    let bits = u32::try_from(mix(id) >> 32).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Millis = 86_400_000;

    fn addresses(count: u8) -> Vec<IpAddr> {
        (1..=count).map(|n| IpAddr::from([192, 0, 2, n])).collect()
    }

    /// How many of 10,000 messages, a millisecond apart, leave from each.
    fn counts(family: &[IpAddr], warmups: &[Warmup], arrived: Millis) -> Vec<usize> {
        let chosen = (0..10_000u64).filter_map(|n| choose(family, warmups, n * 1_024_000, arrived));
        let chosen: Vec<IpAddr> = chosen.collect();
        let of = |ip: &IpAddr| chosen.iter().filter(|chosen| *chosen == ip).count();
        family.iter().map(of).collect()
    }

    #[test]
    fn equal_shares_and_a_new_one_moves_only_its_own() {
        for count in counts(&addresses(4), &[], 0) {
            assert!((2_300..2_700).contains(&count), "{count}");
        }
        let (three, four) = (addresses(3), addresses(4));
        let mut backwards = four.clone();
        backwards.reverse();
        for id in (0..10_000u64).map(|n| n * 1_024_000) {
            let (before, after) = (choose(&three, &[], id, 0), choose(&four, &[], id, 0));
            assert!(before == after || after == Some(four[3]));
            assert_eq!(after, choose(&backwards, &[], id, 0));
        }
        assert_eq!(choose(&[], &[], 7, 0), None);
    }

    #[test]
    fn a_new_address_gets_what_its_day_allows() {
        let text = "address = \"192.0.2.3\"\nsince = \"2026-11-25\"\nshare = 1\ngrowth = 2";
        let warmup: Warmup = toml::from_str(text).expect("a warmup");
        let first = 1_795_564_800_000;
        for (day, least, most) in [
            (-1_i64, 0, 0),
            (0, 60, 140),
            (1, 150, 250),
            (4, 1_450, 1_750),
            // Warm: its equal share.
            (6, 3_100, 3_600),
            (400, 3_100, 3_600),
        ] {
            let at = first + u64::try_from(day.max(0)).expect("a day") * DAY - u64::from(day < 0);
            let counts = counts(&addresses(3), std::slice::from_ref(&warmup), at);
            assert!((least..=most).contains(&counts[2]), "day {day}: {counts:?}");
            assert!(counts[0].abs_diff(counts[1]) < 500, "day {day}: {counts:?}");
        }
        // Alone it has it all.
        let alone = &addresses(3)[2..];
        assert_eq!(counts(alone, &[warmup], first), [10_000]);
    }
}
