use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mx::Host;
use super::paces::{COUNTED, Paces, SHORT_WAIT, Turn};
use super::reach::Destination;
use crate::config::providers::Providers;
use crate::queue::suspend::{Effect, Suspension};
use crate::smtp::reply::Reply;

fn destination(host: &str) -> Destination {
    Destination {
        key: format!("{host}:25").into(),
        hosts: vec![Host {
            rank: 0,
            name: host.to_owned(),
        }],
        ..Destination::default()
    }
    .run_by(&Providers::default())
}

fn gmail() -> Destination {
    destination("gmail-smtp-in.l.google.com")
}

fn unusual() -> Reply {
    Reply::new(421, "4.7.28", "an unusual rate of unsolicited mail")
}

#[test]
fn a_rule_slows_the_whole_provider_for_its_time() {
    let mut paces = Paces::default();
    let at = Instant::now();
    let before = paces.standing(&destination("aspmx.l.google.com"), 0);
    assert_eq!((before.connections, before.messages), (5, 50));
    let new = paces.ruled(&gmail(), &unusual(), (1000, at), 0.5);
    let [slow] = &new[..] else {
        panic!("one measure: {new:?}")
    };
    assert_eq!(slow.destination, "google");
    assert_eq!(slow.rule, "google/unusual-rate");
    assert_eq!(slow.until, 1000 + 3_600_000);
    assert!(slow.text().contains("is slowed to 1 connection, 10/m"));
    assert!(
        slow.reason.contains("\"421 4.7.28 an unusual rate"),
        "{slow:?}"
    );
    // Another MX set of the same provider, and none of another.
    let slowed = paces.standing(&destination("aspmx.l.google.com"), 2000);
    assert_eq!(slowed.connections, 1);
    assert_eq!(slowed.rate.expect("a rate").to_string(), "10/m");
    let places = slowed.places.as_ref().expect("places");
    assert_eq!(places.available_permits(), 1);
    assert!(!slowed.is_like(&before));
    let other = paces.standing(&destination("mx.example.org"), 2000);
    assert_eq!((other.connections, other.rate), (usize::MAX, None));
    // Two MX sets share the places.
    let gmail = paces.standing(&gmail(), 2000);
    assert!(Arc::ptr_eq(gmail.places.as_ref().expect("places"), places));
    // Over when its time is over.
    let after = paces.standing(&destination("aspmx.l.google.com"), slow.until);
    assert_eq!((after.connections, after.rate), (5, None));
    assert_eq!(paces.expire(slow.until), None);
    assert!(paces.is_empty());
}

#[test]
fn said_again_it_is_written_once_and_five_times_it_pauses() {
    let mut paces = Paces::default();
    let at = Instant::now();
    let mut all = Vec::new();
    for second in 0..5 {
        let now = (second * 1000, at + Duration::from_secs(second));
        all.extend(paces.ruled(&gmail(), &unusual(), now, 0.5));
    }
    let rules: Vec<_> = all
        .iter()
        .map(|one| (one.rule.as_str(), one.effect))
        .collect();
    assert!(matches!(
        rules[..],
        [
            ("google/unusual-rate", Effect::Slow(_)),
            ("google/unusual-rate-again", Effect::Stop),
        ]
    ));
    assert!(paces.stopped(&gmail(), 10_000).is_some());
    assert!(paces.standing(&gmail(), 10_000).stop.is_some());
    assert!(
        paces
            .stopped(&destination("mx.example.org"), 10_000)
            .is_none()
    );
    // Neither does a reload make them forgotten, though limits may be others then.
    let mut paces = Paces::default();
    let mut stops = 0;
    for second in 0..5 {
        let now = (second * 1000, at + Duration::from_secs(second));
        let new = paces.ruled(&gmail(), &unusual(), now, 0.5);
        stops += new.iter().filter(|one| one.effect == Effect::Stop).count();
        paces.renew();
    }
    assert_eq!(stops, 1);
    // Nor does a restart, in which half of them came before.
    let mut paces = Paces::default();
    let mut stops = 0;
    for second in 0..5 {
        let now = (second * 1000, at + Duration::from_secs(second));
        let new = paces.ruled(&gmail(), &unusual(), now, 0.5);
        stops += new.iter().filter(|one| one.effect == Effect::Stop).count();
        let counts = paces.counts(now);
        assert_eq!(counts.is_empty(), second == 4, "{counts:?}");
        paces = Paces::default();
        paces.recount(counts, now);
    }
    assert_eq!(stops, 1);
    let later = (4_000_000, at + Duration::from_secs(4000));
    paces.ruled(&gmail(), &unusual(), (0, at), 0.5);
    assert!(paces.counts(later).is_empty(), "an hour is over");
    // Replies of long ago do not count.
    let mut paces = Paces::default();
    for n in 0..9u32 {
        let at = at + COUNTED / 3 * n;
        let new = paces.ruled(&gmail(), &unusual(), (0, at), 0.5);
        assert!(new.iter().all(|one| one.effect != Effect::Stop), "{n}");
    }
}

#[test]
fn an_unknown_host_is_slowed_for_itself_and_an_alarm_tells_what_to_do() {
    let mut paces = Paces::default();
    let now = (0, Instant::now());
    let reply = Reply::new(451, "", "Messages from 192.0.2.1 temporarily deferred");
    let new = paces.ruled(&destination("mx.example.org"), &reply, now, 0.0);
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].destination, "mx.example.org");
    assert_eq!(new[0].rule, "default/deferred-address");
    assert_eq!(new[0].until, 90 * 60_000 * 95 / 100);
    let other = paces.standing(&destination("mx2.example.org"), 1);
    assert_eq!(other.connections, usize::MAX);
    let reply = Reply::new(550, "5.7.25", "no PTR");
    let new = paces.ruled(&destination("mx2.example.org"), &reply, now, 0.5);
    let effects: Vec<Effect> = new.iter().map(|one| one.effect).collect();
    assert_eq!(effects, [Effect::Stop, Effect::Alarm]);
    assert!(new[1].reason.contains("let the PTR record"), "{new:?}");
    // A reply that no rule means changes nothing.
    let reply = Reply::new(550, "5.1.1", "no such user");
    assert!(paces.ruled(&gmail(), &reply, now, 0.5).is_empty());
}

#[test]
fn turns_come_at_the_rate_and_the_rest_waits_in_the_queue() {
    let mut paces = Paces::default();
    let gmail = gmail();
    let now = Instant::now();
    paces.ruled(&gmail, &unusual(), (0, now), 0.5);
    let rate = paces.standing(&gmail, 1).rate.expect("a rate");
    let secs = Duration::from_secs;
    let mut turn = |now| paces.turn("google", rate, now);
    for n in 0..6 {
        assert_eq!(turn(now), Turn::After(secs(6 * n)), "{n}");
    }
    assert!(SHORT_WAIT < secs(36));
    assert_eq!(turn(now), Turn::Later(secs(36)));
    assert_eq!(turn(now), Turn::Later(secs(42)));
    // As time goes by, there are turns again.
    assert_eq!(turn(now + secs(6)), Turn::After(secs(30)));
    assert_eq!(turn(now + secs(600)), Turn::After(Duration::ZERO));
    // However many ask, none is sent away for longer than an hour.
    for _ in 0..2000 {
        match turn(now + secs(600)) {
            Turn::After(wait) => assert!(wait <= SHORT_WAIT),
            Turn::Later(wait) => assert!(wait <= secs(3600)),
        }
    }
}

#[test]
fn an_operator_suspends_by_host() {
    let mut paces = Paces::default();
    paces.replace(vec![Suspension {
        destination: "*.example.org".into(),
        hosts: Vec::new(),
        effect: Effect::Stop,
        rule: String::new(),
        until: 1000,
        reason: String::new(),
        by: "root".into(),
        since: 0,
    }]);
    assert!(paces.stopped(&destination("mx.example.org"), 999).is_some());
    assert!(
        paces
            .stopped(&destination("mx.example.org"), 1000)
            .is_none()
    );
    assert_eq!(paces.expire(0), Some(Duration::from_secs(1)));
}
