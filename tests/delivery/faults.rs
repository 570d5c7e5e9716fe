//! Peers that break the protocol, hang, or go away: the right outcome for each recipient, once.

use std::collections::HashMap;
use std::time::Duration;

use chapar::config::Span;
use chapar::delivery::Resume;
use chapar::lab::{Act, Mx, MxConfig, Stage};
use chapar::message::{Body, Content};

use crate::world::{World, hosts, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";

/// How often what waits is sent again; far more than it takes.
const ROUNDS: usize = 200;

/// Plays one act, then behaves: the outcome of the first message, then one that must work.
async fn one_fault(config: MxConfig, stage: Stage, act: Act, expected: &str) {
    let (mut world, mx) = World::with_mx_and(config, |config| {
        config.retry.first = Span("1ms".parse::<Span>().expect("span").0);
        config.timeouts.greeting = "300ms".parse().expect("span");
        config.timeouts.command = "300ms".parse().expect("span");
        config.timeouts.final_dot = "300ms".parse().expect("span");
    })
    .await;
    let what = format!("{act:?} at {stage:?}");
    mx.on(stage, move |_| act.clone());
    world.send(&["a@example.com"]).await;
    let remote = format!("mx.example.com[127.0.0.1]:{}", mx.address().port());
    let expected = expected.replace("REMOTE", &remote);
    assert_eq!(
        world.outcome().await,
        format!("a@example.com {expected}"),
        "{what}"
    );
    assert_eq!(mx.taken(), 0, "{what}");
    mx.behave();
    // The pause after a failed connection is short here; what comes within it is postponed.
    loop {
        world.send(&["a@example.com"]).await;
        let outcome = world.outcome().await;
        if !outcome.contains("postponed") {
            assert_eq!(outcome, DELIVERED, "after {what}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.end().await;
}

/// Where a message was sent and nothing came back.
const UNKNOWN: &str = "the end of data); whether it has taken the message is not known";

const STAGES: [(Stage, &str); 7] = [
    (Stage::Greeting, "the greeting)"),
    (Stage::Ehlo, "EHLO)"),
    (Stage::Mail, "MAIL FROM)"),
    (Stage::Rcpt, "RCPT TO)"),
    (Stage::Data, "DATA)"),
    (Stage::Body, UNKNOWN),
    (Stage::Dot, UNKNOWN),
];

fn prefix(stage: Stage) -> &'static str {
    match stage {
        Stage::Greeting | Stage::Ehlo | Stage::StartTls => "REMOTE: ",
        _ => "",
    }
}

#[actix::test]
async fn closed_at_each_stage() {
    for pipelining in [true, false] {
        for (stage, name) in STAGES {
            let expected = format!(
                "deferred 451 4.4.2 {}the server closed the connection (at {name}",
                prefix(stage)
            );
            let config = MxConfig {
                pipelining,
                ..MxConfig::default()
            };
            one_fault(config, stage, Act::Close, &expected).await;
        }
    }
}

#[actix::test]
async fn silent_at_each_stage() {
    for (stage, name) in STAGES {
        let expected = format!(
            "deferred 451 4.4.1 {}no answer in time (at {name}",
            prefix(stage)
        );
        one_fault(MxConfig::default(), stage, Act::Hang, &expected).await;
    }
}

#[actix::test]
async fn status_421_at_each_stage() {
    for pipelining in [true, false] {
        for (stage, _) in STAGES {
            let act = Act::ReplyThenClose("421-4.3.2 going\n421 4.3.2 down".to_owned());
            let config = MxConfig {
                pipelining,
                ..MxConfig::default()
            };
            one_fault(config, stage, act, "deferred 421 4.3.2 going down").await;
        }
    }
}

#[actix::test]
async fn replies_that_are_none_or_never_end() {
    for (stage, name) in STAGES
        .into_iter()
        .filter(|(stage, _)| *stage != Stage::Body)
    {
        for (act, what) in [
            (
                Act::Raw(b"\xff\xfe\x00garbage\r\n".to_vec()),
                "something that is no SMTP reply",
            ),
            (Act::Endless(b"250-x\r\n".to_vec()), "a reply without end"),
            (Act::Endless(b"2".repeat(1000)), "a reply without end"),
        ] {
            let expected = format!(
                "deferred 451 4.5.0 {}the server sent {what} (at {name}",
                prefix(stage)
            );
            one_fault(MxConfig::default(), stage, act, &expected).await;
        }
    }
}

/// A byte now and then does not make the time for a reply longer.
#[actix::test]
async fn a_reply_that_drips_is_too_late() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.timeouts.command = "200ms".parse().expect("span");
    })
    .await;
    // The MX sends 250- lines that each come in time, and never the last.
    let drip = Act::After(
        Duration::from_millis(60),
        Box::new(Act::Raw(b"250-x\r\n".to_vec())),
    );
    let mut acts = drip.clone();
    for _ in 0..20 {
        acts = Act::After(Duration::from_millis(60), Box::new(acts));
    }
    mx.on(Stage::Mail, move |_| acts.clone());
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 451 4.4.1 no answer in time (at MAIL FROM)"
    );
    world.end().await;
}

/// Each answer comes in time, and there are too many of them: all together have a limit as well.
#[actix::test]
async fn answers_that_each_come_in_time_do_not_go_on_for_ever() {
    let config = MxConfig {
        pipelining: false,
        ..MxConfig::default()
    };
    let (mut world, mx) = World::with_mx_and(config, |config| {
        config.timeouts.transaction = "700ms".parse().expect("span");
    })
    .await;
    let wait = Duration::from_millis(100);
    mx.on(Stage::Rcpt, move |_| {
        Act::After(wait, Box::new(Act::Default))
    });
    let to: Vec<String> = (0..50).map(|n| format!("u{n}@example.com")).collect();
    let all: Vec<&str> = to.iter().map(String::as_str).collect();
    let begun = std::time::Instant::now();
    world.send(&all).await;
    for outcome in world.outcomes(50).await {
        let end = " deferred 451 4.4.1 no answer in time (at RCPT TO)";
        assert!(outcome.ends_with(end), "{outcome}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    world.end().await;
    // The same before the first MAIL.
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.timeouts.transaction = "300ms".parse().expect("span");
    })
    .await;
    mx.on(Stage::Greeting, |_| Act::Hang);
    world.send(&["a@example.com"]).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.ends_with("no answer in time (at the greeting)"),
        "{outcome}"
    );
    world.end().await;
}

/// What one of three recipients is told in the middle, and how the connection ends then: the right
/// outcome for each, one report, and the next message is delivered.
#[actix::test]
async fn any_end_at_any_stage_is_the_right_outcome_for_each_recipient() {
    let closed = "deferred 451 4.4.2 ";
    let bye = || Act::ReplyThenClose("421 4.3.2 bye".to_owned());
    let no = || Act::ReplyThenClose("554 5.7.1 no".to_owned());
    for (stage, act, expected) in [
        (Stage::Greeting, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Greeting, no(), "failed 554 5.7.1 no"),
        (Stage::Greeting, Act::Close, closed),
        (Stage::Ehlo, bye(), "deferred 421 4.3.2 bye"),
        // To EHLO it may be meant for EHLO only; then it closed.
        (Stage::Ehlo, no(), closed),
        (Stage::Ehlo, Act::Close, closed),
        (Stage::Mail, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Mail, no(), "failed 554 5.7.1 no"),
        (Stage::Mail, Act::Close, closed),
        (Stage::Rcpt, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Rcpt, no(), "failed 554 5.7.1 no"),
        (Stage::Rcpt, Act::Close, closed),
        (Stage::Data, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Data, no(), "failed 554 5.7.1 no"),
        (Stage::Data, Act::Close, closed),
        (Stage::Body, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Body, no(), "failed 554 5.7.1 no"),
        (Stage::Body, Act::Close, closed),
        (Stage::Dot, bye(), "deferred 421 4.3.2 bye"),
        (Stage::Dot, no(), "failed 554 5.7.1 no"),
        (Stage::Dot, Act::Close, closed),
    ] {
        for pipelining in [true, false] {
            let what = format!("{act:?} at {stage:?}, pipelining {pipelining}");
            let config = MxConfig {
                pipelining,
                ..MxConfig::default()
            };
            let (mut world, mx) = World::with_mx_and(config, |config| {
                config.retry.first = "1ms".parse().expect("span");
            })
            .await;
            let acts = act.clone();
            let rcpt = stage == Stage::Rcpt;
            mx.on(stage, move |line| match rcpt && !line.contains("<b@") {
                true => Act::Default,
                false => acts.clone(),
            });
            let all = ["a@example.com", "b@example.com", "c@example.com"];
            world.send(&all).await;
            let outcomes = world.outcomes(3).await;
            for (who, outcome) in ["a", "b", "c"].into_iter().zip(&outcomes) {
                // A host that closes after its 5xx has said nothing about the others.
                let expected = match (rcpt, who, expected.starts_with("failed")) {
                    (true, "a" | "c", true) => closed,
                    // It took one recipient and no more: that one is delivered at once.
                    (true, "a", _) if expected.starts_with("deferred 421") => "delivered 250",
                    _ => expected,
                };
                let begins = format!("{who}@example.com {expected}");
                assert!(outcome.starts_with(&begins), "{what}: {outcomes:?}");
            }
            let taken = usize::from(rcpt && expected.starts_with("deferred 421"));
            assert_eq!(mx.taken(), taken, "{what}");
            mx.behave();
            loop {
                world.send(&["a@example.com"]).await;
                let outcome = world.outcome().await;
                if !outcome.contains("postponed") {
                    assert_eq!(outcome, DELIVERED, "after {what}");
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            world.end().await;
        }
    }
}

#[actix::test]
async fn replies_out_of_step() {
    let odd = "the server sent a reply that belongs to no command";
    for (stage, raw, name) in [
        (Stage::Greeting, "354 what\r\n", "the greeting)"),
        (Stage::Mail, "354 what\r\n", "MAIL FROM)"),
        (Stage::Rcpt, "354 what\r\n", "RCPT TO)"),
        (Stage::Data, "250 not 354\r\n", "DATA)"),
        // More than was asked, at each stage; and a 250 that would be the final dot's.
        (Stage::Greeting, "220 hi\r\n250 mx\r\n", "EHLO)"),
        (Stage::Ehlo, "250 mx\r\n250 Ok\r\n", "MAIL FROM)"),
        (Stage::Mail, "250 Ok\r\n250 Ok\r\n", "RCPT TO)"),
        (Stage::Rcpt, "250 Ok\r\n354 go\r\n", "DATA)"),
        (Stage::Data, "354 go\r\n250 2.0.0 Ok: queued\r\n", "DATA)"),
        (Stage::Dot, "354 again\r\n", UNKNOWN),
    ] {
        let act = Act::Raw(raw.as_bytes().to_vec());
        let expected = format!("deferred 451 4.5.0 {}{odd} (at {name}", prefix(stage));
        // The MX goes on as if nothing was; so the first message may not be taken.
        let config = MxConfig {
            pipelining: false,
            ..MxConfig::default()
        };
        let (mut world, mx) = World::with_mx(config).await;
        mx.on(stage, move |_| act.clone());
        world.send(&["a@example.com"]).await;
        let remote = format!("mx.example.com[127.0.0.1]:{}", mx.address().port());
        let expected = expected.replace("REMOTE", &remote);
        assert_eq!(
            world.outcome().await,
            format!("a@example.com {expected}"),
            "{raw}"
        );
        world.end().await;
    }
    // One reply too many after the message: it was taken, the connection is not trusted again.
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    mx.on(Stage::Dot, |_| {
        Act::Raw(b"250 2.0.0 Ok: queued\r\n250 and more\r\n".to_vec())
    });
    for _ in 0..3 {
        world.send(&["a@example.com"]).await;
        assert_eq!(world.outcome().await, DELIVERED);
    }
    assert_eq!((mx.taken(), mx.connections()), (3, 3));
    world.end().await;
}

/// Bytes behind the 220 of STARTTLS are not from who holds the key.
#[actix::test]
async fn injected_replies_before_tls_are_not_trusted() {
    let mut hosts = hosts(vec![
        MxConfig {
            starttls: true,
            ..MxConfig::default()
        },
        MxConfig {
            starttls: true,
            ..MxConfig::default()
        },
    ])
    .await;
    let mut world = World::new(hosts[0].address().port(), |_| {}).await;
    for (at, mx) in hosts.iter().enumerate() {
        let name = format!("mx{at}.example.com");
        world.dns.mx("example.com", at as u16, &name);
        world.dns.a(&name, ip(mx));
    }
    hosts[0].on(Stage::StartTls, |_| {
        Act::Raw(b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n".to_vec())
    });
    world.send(&["a@example.com"]).await;
    let (_, attempt) = world.heard().await;
    assert_eq!((attempt.reply.code, attempt.tls.is_empty()), (250, false));
    assert_eq!((hosts[0].taken(), hosts[1].taken()), (0, 1));
    hosts.clear();
    world.end().await;
}

/// A server that refuses a large message half way and closes has refused it.
#[actix::test]
async fn an_early_refusal_counts() {
    let (mut world, mx) = World::with_mx(MxConfig {
        size: None,
        ..MxConfig::default()
    })
    .await;
    mx.on(Stage::Body, |_| {
        Act::ReplyThenClose("552 5.3.4 too much".to_owned())
    });
    let message = world.message(&["a@example.com"]);
    let content = Content {
        body: Body::Memory("x".repeat(76).repeat(400_000).into()),
        ..small("")
    };
    world.wake(message, Some(content)).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com failed 552 5.3.4 too much"
    );
    mx.behave();
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, DELIVERED);
    world.end().await;
}

/// What was said about one recipient holds even if the connection breaks at the next.
#[actix::test]
async fn a_break_keeps_what_was_said() {
    for pipelining in [true, false] {
        let (mut world, mx) = World::with_mx(MxConfig {
            pipelining,
            ..MxConfig::default()
        })
        .await;
        mx.on(Stage::Rcpt, |line| match line {
            line if line.contains("<a@") => Act::reply("550 5.1.1 no a"),
            line if line.contains("<c@") => Act::Close,
            _ => Act::Default,
        });
        world
            .send(&[
                "a@example.com",
                "b@example.com",
                "c@example.com",
                "d@example.com",
            ])
            .await;
        let closed = "deferred 451 4.4.2 the server closed the connection (at RCPT TO)";
        assert_eq!(
            world.outcomes(4).await,
            [
                "a@example.com failed 550 5.1.1 no a".to_owned(),
                format!("b@example.com {closed}"),
                format!("c@example.com {closed}"),
                format!("d@example.com {closed}"),
            ]
        );
        assert_eq!(mx.taken(), 0);
        world.end().await;
    }
}

/// A stopping daemon finishes what is under way and postpones the rest.
#[actix::test]
async fn a_drain_lets_attempts_end() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.connections = 1;
    })
    .await;
    mx.on(Stage::Dot, |_| {
        Act::After(Duration::from_millis(300), Box::new(Act::Default))
    });
    for _ in 0..3 {
        world.send(&["a@example.com"]).await;
    }
    mx.until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
        .await;
    let drained = world.dispatcher.send(chapar::delivery::Drain);
    drained.await.expect("a dispatcher");
    let postponed = "a@example.com postponed 421 4.3.2 the daemon is stopping";
    assert_eq!(world.outcomes(3).await, [DELIVERED, postponed, postponed]);
    // And takes nothing more.
    world.send(&["a@example.com"]).await;
    assert_eq!(world.outcome().await, postponed);
    assert_eq!(mx.taken(), 1);
    world.end().await;
}

/// Two hosts of example.com that do something else at random, up to the end of the data, of which
/// `last` is told; `act` gets a number below 100.
async fn unreliable(
    last: Stage,
    act: impl Fn(Stage, u32) -> Act + Copy + Send + 'static,
) -> (World, Vec<Mx>) {
    let hosts = hosts(vec![MxConfig::default(), MxConfig::default()]).await;
    let world = World::new(hosts[0].address().port(), |config| {
        config.retry.first = "20ms".parse().expect("span");
    })
    .await;
    for (at, mx) in hosts.iter().enumerate() {
        let name = format!("mx{at}.example.com");
        world.dns.mx("example.com", 10, &name);
        world.dns.a(&name, ip(mx));
        let first = [Stage::Greeting, Stage::Mail, Stage::Rcpt, Stage::Data];
        for stage in first.into_iter().chain([last]) {
            let mut random = fastrand::Rng::with_seed(at as u64 * 100 + stage as u64);
            mx.on(stage, move |_| act(stage, random.u32(..100)));
        }
    }
    (world, hosts)
}

/// What became of so many recipients, each of whom is told of once.
async fn told_once(world: &mut World, count: usize) -> HashMap<String, String> {
    let mut told = HashMap::new();
    for line in world.outcomes(count).await {
        let (to, rest) = line.split_once(' ').expect("an outcome");
        let kind = rest.split(' ').next().expect("a kind");
        let first = told.insert(to.to_owned(), kind.to_owned()).is_none();
        assert!(first, "{to} was reported twice");
    }
    told
}

/// Two thousand messages through hosts that fail at random: each is told of once, none is
/// delivered twice, and what was reported as delivered is there.
#[actix::test]
async fn many_messages_through_unreliable_hosts() {
    let (mut world, hosts) = unreliable(Stage::Done, |stage, number| match number {
        0..3 => Act::Close,
        3..6 => Act::ReplyThenClose("421 4.3.2 busy".to_owned()),
        6..9 if stage != Stage::Done => Act::reply("451 4.3.0 not now"),
        9..12 if stage == Stage::Rcpt => Act::reply("550 5.1.1 nobody"),
        _ => Act::Default,
    })
    .await;
    let count = 2000;
    for n in 0..count {
        world.send(&[&format!("u{n}@example.com")]).await;
    }
    let told = told_once(&mut world, count).await;
    let mut kinds: HashMap<&str, usize> = HashMap::new();
    for kind in told.values() {
        *kinds.entry(kind).or_default() += 1;
    }
    let received: Vec<_> = hosts
        .iter()
        .flat_map(|mx| mx.received())
        .flat_map(|one| one.recipients)
        .collect();
    assert_eq!(received.len(), kinds["delivered"], "{kinds:?}");
    assert!(received.iter().all(|to| told[to] == "delivered"));
    assert!(kinds["delivered"] > 100, "{kinds:?}");
    drop(hosts);
    world.end().await;
}

/// The same with five recipients each, over their limit now and then, cut off in between: nobody
/// gets two copies, nobody is forgotten, and who was delivered has it.
#[actix::test]
async fn many_recipients_through_unreliable_hosts() {
    let (mut world, hosts) = unreliable(Stage::Dot, |stage, number| match number {
        0..2 => Act::Close,
        2..6 => Act::ReplyThenClose("421 4.3.2 busy".to_owned()),
        6..9 => Act::reply("451 4.3.0 not now"),
        9..12 if stage == Stage::Rcpt => Act::reply("550 5.1.1 nobody"),
        12..30 if stage == Stage::Rcpt => Act::reply("452 4.5.3 too many recipients"),
        _ => Act::Default,
    })
    .await;
    // Those who wait are sent again, as the queue does, until each has its end. A pause of the
    // destination in between, which makes all of them wait, is over at once.
    let mut open: Vec<String> = (0..2000).map(|n| format!("u{n}@example.com")).collect();
    let mut ended = HashMap::new();
    for _ in 0..ROUNDS {
        for to in open.chunks(5) {
            world
                .send(&to.iter().map(String::as_str).collect::<Vec<_>>())
                .await;
        }
        let told = told_once(&mut world, open.len()).await;
        assert!(open.iter().all(|to| told.contains_key(to)));
        let (others, waiting): (HashMap<_, _>, HashMap<_, _>) = told
            .into_iter()
            .partition(|(_, kind)| matches!(kind.as_str(), "delivered" | "failed"));
        ended.extend(others);
        open = waiting.into_keys().collect();
        if open.is_empty() {
            break;
        }
        world
            .dispatcher
            .send(Resume::default())
            .await
            .expect("a dispatcher");
    }
    assert!(open.is_empty(), "{} still wait", open.len());
    let mut copies: HashMap<String, usize> = HashMap::new();
    let received = hosts.iter().flat_map(|mx| mx.received());
    for to in received.flat_map(|one| one.recipients) {
        *copies.entry(to).or_default() += 1;
    }
    assert_eq!(ended.len(), 2000);
    for (to, kind) in &ended {
        let copies = copies.get(to).copied().unwrap_or_default();
        assert_eq!(copies, usize::from(kind == "delivered"), "{to}");
    }
    let count = ended.values().filter(|kind| *kind == "delivered").count();
    assert!(count > 1500, "{count} were delivered");
    world.end().await;
}
