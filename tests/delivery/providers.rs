//! What providers ask of our pace: limits, and replies that slow, pause or raise an alarm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chapar::config::Config;
use chapar::config::providers::Providers;
use chapar::delivery::Suspensions;
use chapar::lab::{Act, Mx, MxConfig, Stage};
use chapar::queue::Outcome;
use chapar::queue::suspend::{Effect, Suspension, UNTIL_RESUMED};
use queue_schema::Origin;

use crate::world::{World, hosts, ip};

/// Gmail's MX, which also serves a second domain, with the embedded rules.
async fn gmail() -> (World, Mx) {
    gmail_and(|_| {}).await
}

async fn gmail_and(change: impl FnOnce(&mut Config)) -> (World, Mx) {
    let config = MxConfig {
        starttls: true,
        ..MxConfig::default()
    };
    let mx = Mx::start(config).await.expect("an MX");
    let world = World::new(mx.address().port(), change).await;
    for (domain, host) in [
        ("gmail.com", "gmail-smtp-in.l.google.com"),
        ("example.com", "aspmx.l.google.com"),
        ("example.net", "aspmx.l.google.com"),
    ] {
        world.dns.mx(domain, 10, host);
        if domain != "example.net" {
            world.dns.a(host, ip(&mx));
        }
    }
    (world, mx)
}

fn rules(text: &str) -> impl FnOnce(&mut Config) + use<> {
    let providers = Providers::read(text).expect("providers");
    move |config| config.providers = Arc::new(providers)
}

#[actix::test]
async fn domains_at_google_never_share_a_transaction() {
    let (mut world, mx) = gmail().await;
    let to = [
        "a@example.com",
        "b@example.net",
        "c@example.com",
        "d@gmail.com",
    ];
    world.send(&to).await;
    assert_eq!(world.outcomes(4).await.len(), 4);
    let mut transactions: Vec<Vec<String>> = mx
        .received()
        .into_iter()
        .map(|one| one.recipients)
        .collect();
    transactions.sort();
    assert_eq!(
        transactions,
        [
            vec!["a@example.com", "c@example.com"],
            vec!["b@example.net"],
            vec!["d@gmail.com"]
        ]
    );
    world.end().await;
}

#[actix::test]
async fn elsewhere_they_do() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    world.dns.mx("example.net", 10, "mx.example.com");
    world.send(&["a@example.com", "b@example.net"]).await;
    world.outcomes(2).await;
    assert_eq!(mx.received().len(), 1);
    world.end().await;
}

#[actix::test]
async fn a_pause_holds_for_the_whole_provider_until_it_is_lifted() {
    let (mut world, mx) = gmail().await;
    mx.on(Stage::Rcpt, |_| {
        Act::reply("550 5.7.28 an unusual rate of mail from your IP address")
    });
    world.send(&["a@gmail.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@gmail.com deferred 550 5.7.28 an unusual rate of mail from your IP address"
    );
    mx.behave();
    let before = mx.log().len();
    // The same MX set, and another of the same provider.
    for to in ["a@gmail.com", "a@example.com"] {
        world.send(&[to]).await;
        let (_, attempt) = world.heard().await;
        let Outcome::Suspended { what, wait } = attempt.outcome else {
            panic!("{attempt:?}")
        };
        let hours = Duration::from_secs(3600);
        assert!(wait > hours && wait < hours * 3, "{wait:?}");
        let said = what.to_string();
        let start = "google is suspended by rule google/rate-refused: Gmail refuses mail";
        assert!(said.starts_with(start), "{said}");
    }
    mx.wait_closed().await;
    let new: Vec<_> = mx.log().split_off(before);
    assert!(new.iter().all(|line| line.line == "QUIT"), "{new:?}");
    // Others go on.
    world.dns.mx("example.org", 10, "mx.other.example");
    world.dns.a("mx.other.example", ip(&mx));
    world.send(&["a@example.org"]).await;
    let outcome = world.outcome().await;
    assert!(outcome.contains(" delivered "), "{outcome}");
    // An operator resumes: the list is empty.
    let lifted = world.dispatcher.send(Suspensions(Vec::new())).await;
    lifted.expect("a dispatcher");
    world.send(&["a@gmail.com"]).await;
    let outcome = world.outcome().await;
    assert!(outcome.contains(" delivered "), "{outcome}");
    world.end().await;
}

#[actix::test]
async fn a_slowed_provider_gets_one_connection_and_its_rate() {
    let text = "[[provider]]\nname = \"google\"\nmx = [\"*.google.com\"]\n\
        [[provider.rule]]\nname = \"unusual-rate\"\ncode = 421\naction = \"slow\"\n\
        connections = 1\nrate = \"10/1s\"\nfor = \"1h\"\nreason = \"too fast\"\n";
    let (mut world, mx) = gmail_and(rules(text)).await;
    let mut first = true;
    mx.on(Stage::Dot, move |_| match std::mem::take(&mut first) {
        true => Act::ReplyThenClose("421 4.7.28 unusual rate".to_owned()),
        false => Act::Default,
    });
    world.send(&["a@gmail.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@gmail.com deferred 421 4.7.28 unusual rate"
    );
    mx.wait_closed().await;
    let started = Instant::now();
    for n in 0..8 {
        let to = ["a@gmail.com", "a@example.com", "a@example.net"][n % 3];
        world.send(&[to]).await;
    }
    for outcome in world.outcomes(8).await {
        assert!(outcome.contains(" delivered "), "{outcome}");
    }
    // Eight turns, a tenth of a second apart, beginning at once.
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert_eq!(mx.most_open(), 1);
    world.end().await;
}

#[actix::test]
async fn messages_in_a_connection_and_connections_are_counted() {
    let text = "[[provider]]\nname = \"small\"\nmx = [\"*.example.com\"]\n\
        connections = 2\nmessages_per_connection = 3\nrecipients = 2\n";
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), rules(text)).await;
    // Many hosts of one provider, each a destination of its own.
    for n in 0..6 {
        let (domain, host) = (format!("d{n}.example.net"), format!("mx{n}.example.com"));
        world.dns.mx(&domain, 10, &host);
        world.dns.a(&host, ip(&mx));
    }
    let pause = Duration::from_millis(5);
    mx.on(Stage::Mail, move |_| {
        Act::After(pause, Box::new(Act::Default))
    });
    for n in 0..30 {
        world.send(&[&format!("a@d{}.example.net", n % 6)]).await;
    }
    for outcome in world.outcomes(30).await {
        assert!(outcome.contains(" delivered "), "{outcome}");
    }
    assert_eq!(mx.most_open(), 2);
    let mut counts = std::collections::HashMap::new();
    for received in mx.received() {
        *counts.entry(received.connection).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count <= 3), "{counts:?}");
    world
        .send(&["a@example.com", "b@example.com", "c@example.com"])
        .await;
    world.outcomes(3).await;
    let last: Vec<_> = mx.received().split_off(30);
    let mut sizes: Vec<usize> = last.iter().map(|one| one.recipients.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
    world.end().await;
}

#[actix::test]
async fn r21_a_fault_at_our_end_raises_an_alarm_and_is_told_at_once() {
    let (mut world, mx) = gmail().await;
    mx.on(Stage::Dot, |_| {
        Act::reply("550-5.7.26 This mail has been blocked because\n550 5.7.26 the sender is unauthenticated")
    });
    world.send(&["a@gmail.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@gmail.com failed 550 5.7.26 This mail has been blocked because the sender is unauthenticated"
    );
    // What others sent unauthenticated and we only forward fails: its sender is to hear of it.
    let mut forwarded = world.message(&["a@gmail.com"]);
    forwarded.origin = Origin::Outside {
        client: [192, 0, 2, 1].into(),
        verified: false,
    };
    world
        .wake(forwarded, Some(crate::world::small("Hello")))
        .await;
    assert!(world.outcome().await.starts_with("a@gmail.com failed 550"));
    // An alarm alone stops nothing.
    mx.behave();
    world.send(&["a@gmail.com"]).await;
    let outcome = world.outcome().await;
    assert!(outcome.contains(" delivered "), "{outcome}");
    world.end().await;
}

#[actix::test]
async fn a_refusing_greeting_falls_under_rules_as_well() {
    let text = "[[provider]]\nname = \"mine\"\nmx = [\"*.example.com\"]\n\
        [[provider.rule]]\nname = \"listed\"\ntext = \"block list\"\naction = \"pause\"\n\
        for = \"2h\"\nreason = \"they list us\"\n";
    let servers = hosts(vec![MxConfig::default()]).await;
    let mx = &servers[0];
    let mut world = World::new(mx.address().port(), rules(text)).await;
    world.dns.mx("example.com", 10, "mx.example.com");
    world.dns.a("mx.example.com", ip(mx));
    mx.on(Stage::Greeting, |_| {
        Act::ReplyThenClose("554 5.7.1 you are on our block list".to_owned())
    });
    world.send(&["a@example.com"]).await;
    assert_eq!(
        world.outcome().await,
        "a@example.com deferred 554 5.7.1 you are on our block list"
    );
    world.send(&["a@example.com"]).await;
    let second = world.outcome().await;
    let start = "a@example.com suspended mine is suspended by rule mine/listed: they list us";
    assert!(second.starts_with(start), "{second}");
    assert_eq!(mx.connections(), 1);
    world.end().await;
}

/// Gmail with STARTTLS, without it, and with one that breaks: no mail ever goes in clear.
#[actix::test]
async fn who_takes_mail_over_tls_only_gets_none_in_clear() {
    let (mut world, mx) = gmail().await;
    world.send(&["a@gmail.com"]).await;
    let (_, attempt) = world.heard().await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    assert!(attempt.tls.ends_with(" unverified"), "{}", attempt.tls);
    assert!(mx.received()[0].tls);
    world.end().await;
    for (starttls, why) in [
        (false, "no verified TLS: the server offers no STARTTLS"),
        (true, "the TLS handshake failed: "),
    ] {
        let config = MxConfig {
            starttls,
            ..MxConfig::default()
        };
        let mx = Mx::start(config).await.expect("an MX");
        mx.on(Stage::Handshake, |_| Act::Close);
        let mut world = World::new(mx.address().port(), |_| {}).await;
        world.dns.mx("gmail.com", 10, "gmail-smtp-in.l.google.com");
        world.dns.a("gmail-smtp-in.l.google.com", ip(&mx));
        for _ in 0..2 {
            world.send(&["a@gmail.com"]).await;
            let outcome = world.outcome().await;
            let begins = "a@gmail.com deferred 451 4.7.5 gmail-smtp-in.l.google.com[127.0.0.1]:";
            assert!(outcome.starts_with(begins), "{outcome}");
            assert!(outcome.contains(why), "{outcome}");
            let ends = "its provider takes mail over TLS only (require_tls in providers.toml)";
            assert!(outcome.ends_with(ends), "{outcome}");
        }
        assert!(!mx.log().iter().any(|line| line.line.starts_with("MAIL")));
        assert_eq!(
            mx.connections(),
            1,
            "what it failed is remembered for a while"
        );
        world.end().await;
    }
}

/// A hundred messages while Gmail refuses their rate: few knock, none fails, others are not
/// concerned, and it ends by itself.
#[actix::test]
async fn c091_an_unusual_rate_slows_the_provider_as_a_whole() {
    let refusal = "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating\n\
                   421-4.7.28 from your IP address. To protect our users from spam, mail sent\n\
                   421-4.7.28 from your IP address has been temporarily rate limited. Please\n\
                   421-4.7.28 visit https://support.example/mail/?p=Error to review our\n\
                   421 4.7.28 guidelines. gsmtp";
    let (mut world, mx) = gmail().await;
    world.dns.mx("example.org", 10, "mx.other.example");
    world.dns.a("mx.other.example", ip(&mx));
    mx.on(Stage::Dot, move |_| Act::reply(refusal));
    for n in 0..100 {
        world.send(&[&format!("u{n}@gmail.com")]).await;
    }
    let outcomes = world.outcomes(100).await;
    let told = |text: &str| outcomes.iter().filter(|one| one.contains(text)).count();
    let knocks = told(" deferred 421 4.7.28 Gmail has detected an unusual rate");
    assert!((1..=6).contains(&knocks), "{outcomes:#?}");
    assert_eq!(knocks + told(" suspended google is "), 100, "{outcomes:#?}");
    let dots = mx.log().iter().filter(|line| line.line == "DATA").count();
    assert_eq!(dots, knocks, "no other message was tried");
    mx.behave();
    world.send(&["a@example.org"]).await;
    assert!(world.outcome().await.contains(" delivered "));
    world.end().await;

    // The same with a rule that ends soon.
    let text = "[[provider]]\nname = \"google\"\nmx = [\"*.google.com\"]\n\
        [[provider.rule]]\nname = \"unusual-rate\"\ncode = 421\nenhanced = \"4.7.28\"\n\
        action = \"pause\"\nfor = \"1s\"\nreason = \"too fast\"\n";
    let (mut world, mx) = gmail_and(rules(text)).await;
    mx.on(Stage::Dot, move |_| Act::reply(refusal));
    world.send(&["a@gmail.com"]).await;
    assert!(world.outcome().await.contains(" deferred 421 4.7.28 "));
    mx.behave();
    loop {
        world.send(&["a@gmail.com"]).await;
        let (_, attempt) = world.heard().await;
        match attempt.outcome {
            Outcome::Delivered => break,
            Outcome::Suspended { wait, .. } => tokio::time::sleep(wait).await,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(mx.taken(), 1);
    world.end().await;
}

/// One operator's suspension of a recipient domain.
fn suspended(domain: &str) -> Suspension {
    Suspension {
        destination: domain.to_owned(),
        hosts: Vec::new(),
        effect: Effect::Stop,
        rule: String::new(),
        until: UNTIL_RESUMED,
        reason: "a reason for operators".into(),
        by: "root".into(),
        since: 0,
    }
}

#[actix::test]
async fn d19_nothing_to_a_suspended_domain_begins_after_the_answer() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.connections = 1
    })
    .await;
    world.dns.mx("example.net", 10, "mx.example.com");
    // The first message is in its transaction, the worker holds the others.
    mx.on(Stage::Dot, |_| {
        Act::After(Duration::from_millis(700), Box::new(Act::Default))
    });
    for _ in 0..12 {
        world.send(&["a@example.com"]).await;
    }
    world.send(&["b@example.net"]).await;
    mx.until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
        .await;
    let list = Suspensions(vec![suspended("example.com")]);
    world.dispatcher.send(list).await.expect("a dispatcher");
    let begun = mx
        .log()
        .iter()
        .filter(|line| line.line.starts_with("MAIL"))
        .count();
    assert_eq!(begun, 1, "the worker had not begun the others");
    let told = world.outcomes(13).await;
    let of = |start: &str| told.iter().filter(|one| one.starts_with(start)).count();
    assert_eq!(
        of("a@example.com suspended example.com is suspended by root"),
        11,
        "{told:?}"
    );
    assert_eq!(
        (of("a@example.com delivered"), of("b@example.net delivered")),
        (1, 1)
    );
    let to: Vec<_> = mx
        .received()
        .into_iter()
        .flat_map(|one| one.recipients)
        .collect();
    assert_eq!(to, ["a@example.com", "b@example.net"]);
    world.end().await;
}

#[actix::test]
async fn d19_a_worker_that_a_reload_retired_obeys_a_suspension() {
    let (mut world, mx) = World::with_mx_and(MxConfig::default(), |config| {
        config.delivery.connections = 1
    })
    .await;
    mx.on(Stage::Dot, |_| {
        Act::After(Duration::from_millis(700), Box::new(Act::Default))
    });
    for _ in 0..5 {
        world.send(&["a@example.com"]).await;
    }
    mx.until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
        .await;
    let config = Arc::new(crate::world::config(&world.dns, mx.address().port()));
    let reloaded = world
        .dispatcher
        .send(chapar::delivery::Reload(config))
        .await;
    reloaded.expect("a dispatcher").expect("a configuration");
    let list = Suspensions(vec![suspended("*.com")]);
    world.dispatcher.send(list).await.expect("a dispatcher");
    let told = world.outcomes(5).await;
    let suspended = told
        .iter()
        .filter(|one| one.contains(" suspended "))
        .count();
    assert_eq!(suspended, 4, "{told:?}");
    assert_eq!(mx.taken(), 1);
    world.end().await;
}

#[actix::test]
async fn q15_resume_ends_the_pauses_of_the_selected_destinations_alone() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    for (domain, host) in [
        ("one.example", "mx.one.example"),
        ("two.example", "mx.two.example"),
    ] {
        world.dns.mx(domain, 10, host);
        world.dns.a(host, ip(&mx));
    }
    mx.on(Stage::Greeting, |_| Act::Close);
    for to in ["a@one.example", "a@two.example"] {
        world.send(&[to]).await;
        assert!(
            world
                .outcome()
                .await
                .starts_with(&format!("{to} deferred "))
        );
        world.send(&[to]).await;
        assert!(
            world
                .outcome()
                .await
                .starts_with(&format!("{to} postponed ")),
            "it pauses"
        );
    }
    mx.behave();
    let resume = |name: &str| chapar::delivery::Resume {
        only: Some([name.to_owned()].into()),
    };
    world
        .dispatcher
        .send(resume("one.example"))
        .await
        .expect("a dispatcher");
    for (to, is) in [
        ("a@one.example", "delivered"),
        ("a@two.example", "postponed"),
    ] {
        world.send(&[to]).await;
        let told = world.outcome().await;
        assert!(told.starts_with(&format!("{to} {is} ")), "{told}");
    }
    // By the name of its next hop, with a pattern.
    world
        .dispatcher
        .send(resume("mx.two.*"))
        .await
        .expect("a dispatcher");
    world.send(&["a@two.example"]).await;
    assert!(
        world
            .outcome()
            .await
            .starts_with("a@two.example delivered ")
    );
    world.end().await;
}
