//! Who shares a transaction, and what becomes of those who are too many for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chapar::lab::{Act, Mx, MxConfig, Stage};

use crate::world::{World, hosts, ip};

#[actix::test]
async fn domains_with_the_same_hosts_share_a_transaction_and_others_do_not() {
    let hosts = hosts(vec![MxConfig::default(), MxConfig::default()]).await;
    let mut world = World::new(hosts[0].address().port(), |_| {}).await;
    for (domain, host, preference) in [
        ("one.example", "mx1", 10),
        ("two.example", "mx1", 50),
        ("three.example", "mx2", 10),
    ] {
        world.dns.mx(domain, preference, &format!("{host}.example"));
    }
    world.dns.a("mx1.example", ip(&hosts[0]));
    world.dns.a("mx2.example", ip(&hosts[1]));
    let to = [
        "a@one.example",
        "b@two.example",
        "c@three.example",
        "d@one.example",
        "e@x.example",
    ];
    world.send(&to).await;
    assert_eq!(
        world.outcomes(5).await,
        [
            "a@one.example delivered 250 2.0.0 Ok: queued",
            "b@two.example delivered 250 2.0.0 Ok: queued",
            "c@three.example delivered 250 2.0.0 Ok: queued",
            "d@one.example delivered 250 2.0.0 Ok: queued",
            "e@x.example failed 550 5.1.2 x.example does not exist in DNS",
        ]
    );
    let recipients = |mx: &Mx| -> Vec<Vec<String>> {
        mx.received()
            .into_iter()
            .map(|received| received.recipients)
            .collect()
    };
    assert_eq!(
        recipients(&hosts[0]),
        [["a@one.example", "b@two.example", "d@one.example"]]
    );
    assert_eq!(recipients(&hosts[1]), [["c@three.example"]]);
    world.end().await;
}

#[actix::test]
async fn c178_many_recipients_go_in_hundreds() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    let to: Vec<String> = (0..250).map(|n| format!("u{n}@example.com")).collect();
    world
        .send(&to.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let outcomes = world.outcomes(250).await;
    assert!(
        outcomes
            .iter()
            .all(|line| line.ends_with("delivered 250 2.0.0 Ok: queued"))
    );
    let mut sizes: Vec<_> = mx
        .received()
        .iter()
        .map(|one| one.recipients.len())
        .collect();
    sizes.sort();
    assert_eq!(sizes, [50, 100, 100]);
    world.end().await;
}

/// Who takes fewer recipients in a transaction gets the others in the next one, at once.
#[actix::test]
async fn c178_recipients_over_the_limit_of_a_transaction_follow_at_once() {
    for (most, act) in [
        (100, Act::reply("452 4.5.3 too many recipients")),
        (60, Act::reply("452 4.5.3 too many recipients")),
        (60, Act::reply("552 5.5.3 too many recipients")),
        (60, Act::reply("552 Too many recipients")),
        (
            60,
            Act::ReplyThenClose("421 4.5.3 too many recipients".to_owned()),
        ),
    ] {
        for pipelining in [true, false] {
            let config = MxConfig {
                pipelining,
                ..MxConfig::default()
            };
            let (mut world, mx) = World::with_mx_and(config, |config| {
                // One after the other, so that they can be counted.
                config.delivery.connections = 1;
            })
            .await;
            let count = Arc::new(AtomicUsize::new(0));
            let (begun, limit) = (Arc::clone(&count), act.clone());
            mx.on(Stage::Mail, move |_| {
                begun.store(0, Ordering::Relaxed);
                Act::Default
            });
            mx.on(Stage::Rcpt, move |_| {
                match count.fetch_add(1, Ordering::Relaxed) < most {
                    true => Act::Default,
                    false => limit.clone(),
                }
            });
            let to: Vec<String> = (0..250).map(|n| format!("u{n}@example.com")).collect();
            let all: Vec<&str> = to.iter().map(String::as_str).collect();
            world.send(&all).await;
            for outcome in world.outcomes(250).await {
                assert!(
                    outcome.ends_with(" delivered 250 2.0.0 Ok: queued"),
                    "{act:?}: {outcome}"
                );
            }
            let received = mx.received();
            let mut sizes: Vec<_> = received.iter().map(|one| one.recipients.len()).collect();
            sizes.sort();
            let expected: &[usize] = match most {
                100 => &[50, 100, 100],
                _ => &[40, 40, 50, 60, 60],
            };
            assert_eq!(sizes, expected, "{act:?}");
            let mut seen: Vec<_> = received
                .into_iter()
                .flat_map(|one| one.recipients)
                .collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 250, "each got one copy");
            world.end().await;
        }
    }
    // Nobody is accepted: that is no reason to go on for ever.
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    mx.on(Stage::Rcpt, |_| Act::reply("452 4.5.3 too many recipients"));
    world.send(&["a@example.com", "b@example.com"]).await;
    for outcome in world.outcomes(2).await {
        assert!(
            outcome.ends_with(" deferred 452 4.5.3 too many recipients"),
            "{outcome}"
        );
    }
    assert_eq!(mx.connections(), 1);
    world.end().await;
}
