//! What the resolver keeps, for how long, and how often it asks.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{Addresses, Resolver, TIMEOUT};
use crate::config::{Dns, Dnssec};
use crate::lab::DnsServer;
use crate::mx::{Lookup, Record};

async fn lab(cached: u64) -> (DnsServer, Resolver) {
    let server = DnsServer::start().await.expect("a DNS server");
    let config = Dns {
        servers: vec![server.address()],
        dnssec: Dnssec::Off,
        ..Dns::default()
    };
    let resolver = Resolver::build(&config, TIMEOUT, cached).expect("a resolver");
    (server, resolver)
}

fn records(host: &str) -> Lookup {
    Lookup::Records(vec![Record {
        preference: 10,
        host: host.to_owned(),
    }])
}

async fn sleep_past(time: Instant) {
    let rest = time.saturating_duration_since(Instant::now());
    tokio::time::sleep(rest + Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_ask_once() {
    let (server, resolver) = lab(100).await;
    server.mx("example.com", 10, "mx.example.com");
    let all = join_all((0..100).map(|_| resolver.mx("example.com"))).await;
    assert!(
        all.iter()
            .all(|(found, _)| *found == records("mx.example.com"))
    );
    assert_eq!(server.queries(), 1);
    // Who gives up waiting takes the answer from nobody.
    server.silent("late.example");
    let impatient = tokio::time::timeout(Duration::from_millis(50), resolver.mx("late.example"));
    assert!(impatient.await.is_err());
    let asked = server.queries();
    server.remove("late.example");
    server.mx("late.example", 10, "mx.example.com");
    let (found, _) = resolver.mx("late.example").await;
    assert_eq!(found, records("mx.example.com"));
    assert_eq!(
        server.queries(),
        asked + 1,
        "it joined, and the repetition was answered"
    );
}

#[tokio::test]
async fn an_answer_is_kept_for_its_ttl_and_no_longer() {
    let (server, resolver) = lab(100).await;
    server.ttl(1);
    server.mx("example.com", 10, "old.example.com");
    let (found, until) = resolver.mx("example.com").await;
    assert_eq!(found, records("old.example.com"));
    server.remove("example.com");
    server.mx("example.com", 10, "new.example.com");
    let (kept, _) = resolver.mx("example.com").await;
    assert_eq!((kept, server.queries()), (records("old.example.com"), 1));
    assert!(until <= Instant::now() + Duration::from_secs(1));
    sleep_past(until).await;
    let (found, _) = resolver.mx("example.com").await;
    assert_eq!((found, server.queries()), (records("new.example.com"), 2));
}

/// RFC 2308: that a name does not exist, or has no such record, is kept as long as the SOA says.
#[tokio::test]
async fn absence_is_kept_for_as_long_as_the_soa_says_and_failure_is_not() {
    let (server, resolver) = lab(100).await;
    server.ttl(1);
    server.empty("empty.example");
    server.servfail("broken.example");
    let begun = Instant::now();
    assert_eq!(resolver.mx("nowhere.example").await.0, Lookup::NoDomain);
    assert_eq!(resolver.mx("empty.example").await.0, Lookup::Nothing);
    let failed = resolver.mx("broken.example").await.0;
    assert!(matches!(failed, Lookup::Failed(_)), "{failed:?}");
    let asked = server.queries();
    for domain in ["nowhere.example", "empty.example", "broken.example"] {
        server.remove(domain);
        server.mx(domain, 10, "mx.example.com");
    }
    assert_eq!(resolver.mx("nowhere.example").await.0, Lookup::NoDomain);
    assert_eq!(resolver.mx("empty.example").await.0, Lookup::Nothing);
    assert_eq!(server.queries(), asked);
    assert_eq!(
        resolver.mx("broken.example").await.0,
        records("mx.example.com")
    );
    sleep_past(begun + Duration::from_millis(1100)).await;
    for domain in ["nowhere.example", "empty.example"] {
        assert_eq!(
            resolver.mx(domain).await.0,
            records("mx.example.com"),
            "{domain}"
        );
    }
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let (server, resolver) = lab(20).await;
    server.ttl(3600);
    let names: Vec<String> = (0..200).map(|n| format!("h{n}.example")).collect();
    for name in &names {
        server.a(name, Ipv4Addr::new(192, 0, 2, 1));
    }
    for _ in 0..2 {
        for name in &names {
            assert_ne!(resolver.ipv4(name).await, Addresses::None);
        }
    }
    let asked = server.queries();
    assert!((380..=400).contains(&asked), "{asked} of 400");
}

#[tokio::test]
async fn aliases_are_followed_but_not_for_ever() {
    let (server, resolver) = lab(100).await;
    server.mx("example.com", 10, "mx.example.com");
    server.cname("one.example", "two.example");
    server.cname("two.example", "example.com");
    server.empty("empty.example");
    server.cname("to-empty.example", "empty.example");
    server.cname("to-nowhere.example", "nowhere.example");
    server.cname("self.example", "self.example");
    server.cname("a.example", "b.example");
    server.cname("b.example", "a.example");
    assert_eq!(
        resolver.mx("one.example").await.0,
        records("mx.example.com")
    );
    assert_eq!(resolver.mx("to-empty.example").await.0, Lookup::Nothing);
    assert_eq!(resolver.mx("to-nowhere.example").await.0, Lookup::NoDomain);
    for domain in ["self.example", "a.example"] {
        let found = resolver.mx(domain).await.0;
        assert!(matches!(found, Lookup::Failed(_)), "{domain} {found:?}");
        let found = resolver.ipv4(domain).await;
        assert!(matches!(found, Addresses::Failed(_)), "{domain} {found:?}");
    }
}
