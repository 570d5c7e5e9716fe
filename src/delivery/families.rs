//! The addresses of one host, of both families, without one holding back the other.
//!
//! A and AAAA records are asked for at once. Some DNS servers answer only one of the two, and take
//! all the time there is for the other: once there are addresses to go on with, the other family
//! has [`RESOLUTION_DELAY`] left. What comes later is in the resolver's cache for the next attempt.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use super::reach::Reach;
use crate::dns::{Addresses, Resolver};

/// How long the addresses of one family are waited for when those of the other are here (RFC 8305
/// section 3). Mail is in less of a hurry than a browser, and a host is tried over both families
/// where it can be: 2 seconds is more than nearly all answers take.
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_secs(2);

/// The addresses of one host, those of a family in any order; or why they could not be looked up,
/// where there is none that could be used.
pub(super) async fn addresses(
    host: &str,
    resolver: &Resolver,
    reach: &Reach,
    ipv6_first: bool,
) -> Result<Vec<IpAddr>, String> {
    // An address literal, or a hop of a route.
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let (v4, v6) = match (reach.ipv4, reach.ipv6) {
        (true, true) => both(resolver.ipv4(host), resolver.ipv6(host)).await,
        (_, false) => in_turn(resolver.ipv4(host), resolver.ipv6(host)).await,
        (false, true) => {
            let (v6, v4) = in_turn(resolver.ipv6(host), resolver.ipv4(host)).await;
            (v4, v6)
        }
    };
    match ipv6_first {
        true => gathered(v6, v4),
        false => gathered(v4, v6),
    }
}

/// All addresses, those of `first` first. Where there are none and one could not be looked up,
/// nobody knows whether there are: it is never taken for none, also of a family of no use.
fn gathered(first: Addresses, second: Addresses) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    let mut failure = None;
    for addresses in [first, second] {
        match addresses {
            Addresses::Found(mut list) => {
                fastrand::shuffle(&mut list);
                all.append(&mut list);
            }
            Addresses::None => {}
            Addresses::Failed(reason) => failure = Some(reason),
        }
    }
    match failure {
        Some(reason) if all.is_empty() => Err(reason),
        _ => Ok(all),
    }
}

/// What both lookups found where only the first family has a use. The other one is still asked for
/// if that has nothing: to say that a host has only IPv6 is more help than to say that it has no
/// address.
async fn in_turn(
    useful: impl Future<Output = Addresses>,
    other: impl Future<Output = Addresses>,
) -> (Addresses, Addresses) {
    match useful.await {
        Addresses::None => (Addresses::None, other.await),
        found => (found, Addresses::None),
    }
}

/// What both lookups found. As soon as one has found addresses the other has
/// [`RESOLUTION_DELAY`]; after that it counts as having none. While none has any, each takes the
/// time it takes: whether mail waits or fails depends on what it says.
async fn both(
    first: impl Future<Output = Addresses>,
    second: impl Future<Output = Addresses>,
) -> (Addresses, Addresses) {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    tokio::select! {
        found = &mut first => {
            let other = rest(&found, second).await;
            (found, other)
        }
        found = &mut second => {
            let other = rest(&found, first).await;
            (other, found)
        }
    }
}

/// What the second one found, if that comes in time.
async fn rest(found: &Addresses, other: impl Future<Output = Addresses>) -> Addresses {
    match found {
        Addresses::Found(_) => tokio::time::timeout(RESOLUTION_DELAY, other)
            .await
            .unwrap_or(Addresses::None),
        Addresses::None | Addresses::Failed(_) => other.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const LONG: Duration = Duration::from_secs(12);

    fn found(text: &str) -> Addresses {
        Addresses::Found(vec![text.parse().expect("an address")])
    }

    async fn after(wait: Duration, answer: Addresses) -> Addresses {
        sleep(wait).await;
        answer
    }

    /// What came of two lookups that took so long, and when.
    async fn case(
        first: (Duration, Addresses),
        second: (Duration, Addresses),
    ) -> ((Addresses, Addresses), Duration) {
        let begun = Instant::now();
        let end = both(after(first.0, first.1), after(second.0, second.1)).await;
        (end, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_family_do_not_wait_long_for_the_other() {
        let (four, six) = (found("192.0.2.1"), found("2001:db8::1"));
        let soon = Duration::from_millis(100);
        let late = (soon + RESOLUTION_DELAY) - Duration::from_millis(10);
        // Whichever comes first; and the other too if it comes in time.
        assert_eq!(
            case((soon, four.clone()), (LONG, six.clone())).await,
            ((four.clone(), Addresses::None), soon + RESOLUTION_DELAY)
        );
        assert_eq!(
            case((LONG, four.clone()), (soon, six.clone())).await,
            ((Addresses::None, six.clone()), soon + RESOLUTION_DELAY)
        );
        assert_eq!(
            case((soon, four.clone()), (late, six.clone())).await,
            ((four.clone(), six.clone()), late)
        );
        // A failure that comes too late is no failure of the addresses that are here.
        let failed = Addresses::Failed("no answer".to_owned());
        assert_eq!(
            case((soon, four.clone()), (LONG, failed)).await,
            ((four, Addresses::None), soon + RESOLUTION_DELAY)
        );
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_none() {
        let failed = || Addresses::Failed("SERVFAIL".to_owned());
        let (four, six) = (found("192.0.2.1"), found("2001:db8::1"));
        for (first, second) in [(failed(), Addresses::None), (Addresses::None, failed())] {
            assert_eq!(gathered(first, second), Err("SERVFAIL".to_owned()));
        }
        assert_eq!(gathered(Addresses::None, Addresses::None), Ok(vec![]));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (v4, v6) = (address("192.0.2.1"), address("2001:db8::1"));
        assert_eq!(gathered(failed(), four.clone()), Ok(vec![v4]));
        assert_eq!(gathered(six, four), Ok(vec![v6, v4]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_addresses_each_family_has_all_its_time() {
        let failed = || Addresses::Failed("SERVFAIL".to_owned());
        let none = Addresses::None;
        let six = found("2001:db8::1");
        for first in [none, failed()] {
            for (second, wait) in [(six.clone(), LONG), (failed(), LONG)] {
                assert_eq!(
                    case((Duration::ZERO, first.clone()), (wait, second.clone())).await,
                    ((first.clone(), second), wait)
                );
            }
        }
    }
}
