//! The order of addresses, for addresses of our own that this machine need not have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::families::RESOLUTION_DELAY;
use super::mx::{Host, MAX_ADDRESSES};
use super::reach::{Destination, HostMemory, Lesson, Reach, targets};
use crate::config::{Config, Dns};
use crate::dns::Resolver;
use crate::lab::DnsServer;

const OURS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x25);

/// Two hosts with an address of each family, and us with one of each.
async fn lab() -> (DnsServer, Resolver, Config, Destination) {
    let dns = DnsServer::start().await.expect("a DNS server");
    for n in 1..=2 {
        dns.a(&format!("mx{n}.example"), Ipv4Addr::new(192, 0, 2, n));
        let six = format!("2001:db8::{n}").parse().expect("v6");
        dns.aaaa(&format!("mx{n}.example"), six);
    }
    let resolver = Resolver::new(&Dns {
        servers: vec![dns.address()],
        ..Dns::default()
    });
    let text = "hostname = \"mx.example.org\"\n[delivery]\n\
                source = [\"192.0.2.25\", \"2001:db8::25\"]";
    let config = Config::parse(text, "test", "/".as_ref()).expect("config");
    let host = |(rank, name): (usize, &str)| Host {
        rank,
        name: name.to_owned(),
    };
    let destination = Destination {
        hosts: ["mx1.example", "mx2.example"]
            .into_iter()
            .enumerate()
            .map(host)
            .collect(),
        port: 25,
        ..Destination::default()
    };
    (dns, resolver.expect("a resolver"), config, destination)
}

async fn order(destination: &Destination, resolver: &Resolver, reach: &Reach) -> Vec<String> {
    let memory = HostMemory::default();
    let found = targets(destination, resolver, reach, &memory).await;
    let found = found.expect("targets");
    found
        .iter()
        .map(|target| target.address.ip().to_string())
        .collect()
}

#[tokio::test]
async fn ipv6_comes_first_with_a_right_ptr_and_last_without() {
    let (dns, resolver, config, destination) = lab().await;
    let last = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
    assert_eq!(
        order(&destination, &resolver, &Reach::new(&config)).await,
        last
    );
    // A name that leads elsewhere is no better than none.
    dns.ptr(OURS.into(), "mx.example.org");
    dns.aaaa("mx.example.org", "2001:db8::77".parse().expect("v6"));
    assert_eq!(
        order(&destination, &resolver, &Reach::new(&config)).await,
        last
    );
    dns.aaaa("mx.example.org", OURS);
    assert_eq!(
        order(&destination, &resolver, &Reach::new(&config)).await,
        ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]
    );
}

#[tokio::test]
async fn ten_addresses_hold_one_of_each_family_and_none_that_was_dead() {
    let (dns, resolver, config, mut destination) = lab().await;
    dns.ptr(OURS.into(), "mx.example.org");
    dns.aaaa("mx.example.org", OURS);
    let v6 = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n);
    for n in 1..=12 {
        dns.aaaa("many.example", v6(n));
    }
    for n in 1..=3 {
        dns.a("many.example", Ipv4Addr::new(198, 51, 100, n));
    }
    destination.hosts = vec![Host {
        rank: 0,
        name: "many.example".to_owned(),
    }];
    let reach = Reach::new(&config);
    let found = order(&destination, &resolver, &reach).await;
    assert_eq!(found.len(), MAX_ADDRESSES);
    let four = found.iter().filter(|address| address.contains('.')).count();
    assert_eq!((four, found[0].contains(':')), (1, true), "{found:?}");
    // Ten that were dead leave the places to the others.
    let mut memory = HostMemory::default();
    for n in 1..=10 {
        memory.learn(v6(n).into(), Lesson::Unreachable, Instant::now());
    }
    let found = targets(&destination, &resolver, &reach, &memory).await;
    let found: Vec<IpAddr> = found
        .expect("targets")
        .iter()
        .map(|t| t.address.ip())
        .collect();
    assert!(found[..2].contains(&v6(11).into()) && found[..2].contains(&v6(12).into()));
    assert!(found[2..5].iter().all(IpAddr::is_ipv4), "{found:?}");
}

/// DNS servers that answer questions for one type of record only: their hosts are reached over the
/// family that is known, without the time that two unanswered questions take.
#[tokio::test]
async fn a_family_that_nobody_answers_for_does_not_hold_back_the_other() {
    let (dns, resolver, config, mut destination) = lab().await;
    dns.a("four.example", Ipv4Addr::new(192, 0, 2, 7));
    dns.aaaa(
        "six.example",
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
    );
    dns.silent_otherwise("four.example");
    dns.silent_otherwise("six.example");
    let reach = Reach::new(&config);
    // Both are asked about at once.
    let begun = Instant::now();
    for (host, (rank, name)) in destination
        .hosts
        .iter_mut()
        .zip([(0, "four.example"), (1, "six.example")])
    {
        *host = Host {
            rank,
            name: name.to_owned(),
        };
    }
    let found = order(&destination, &resolver, &reach).await;
    assert_eq!(found, ["192.0.2.7", "2001:db8::7"]);
    let took = begun.elapsed();
    let longest = crate::dns::TIMEOUT * u32::try_from(crate::dns::ATTEMPTS).expect("few");
    assert!(took >= RESOLUTION_DELAY && took < longest, "{took:?}");
    // With nothing to go on with, that no answer comes is what counts.
    dns.empty("none.example");
    dns.silent("none.example");
    destination.hosts.truncate(1);
    destination.hosts[0].name = "none.example".to_owned();
    let memory = HostMemory::default();
    let verdict = targets(&destination, &resolver, &reach, &memory).await;
    let verdict = verdict.expect_err("no target");
    assert_eq!(
        (verdict.reply.code, verdict.reply.enhanced.as_str()),
        (451, "4.4.3")
    );
}

/// An address to send from binds its own family, and is used where a host has that family.
#[tokio::test]
async fn d16_a_source_binds_its_own_family_and_goes_first() {
    let (_dns, resolver, mut config, mut destination) = lab().await;
    for (source, first) in [("192.0.2.25", "192.0.2."), ("2001:db8::25", "2001:db8::")] {
        let source: IpAddr = source.parse().expect("an address");
        config.delivery.source = vec![source];
        let mut reach = Reach::new(&config);
        assert!(reach.ipv4);
        reach.ipv6 = true;
        let memory = HostMemory::default();
        let found = targets(&destination, &resolver, &reach, &memory).await;
        let found = found.expect("targets");
        assert_eq!(found.len(), 4);
        for (at, target) in found.iter().enumerate() {
            let own = target.address.ip().to_string().starts_with(first);
            assert_eq!(own, at < 2, "{found:?}");
            assert_eq!(target.source, own.then_some(source));
        }
    }
    // The same for those of a route; what it does not name is that of `delivery.source`.
    config.delivery.source = vec![OURS.into()];
    destination.source = vec![Ipv4Addr::new(192, 0, 2, 26).into()];
    let reach = Reach::new(&config);
    let memory = HostMemory::default();
    let found = targets(&destination, &resolver, &reach, &memory).await;
    for target in found.expect("targets") {
        let expected = match target.address.is_ipv4() {
            true => Ipv4Addr::new(192, 0, 2, 26).into(),
            false => OURS.into(),
        };
        assert_eq!(target.source, Some::<IpAddr>(expected));
    }
}
