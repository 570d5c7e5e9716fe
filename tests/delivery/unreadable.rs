//! Answers of the DNS that hold records which can not be read.

use std::net::SocketAddr;

use chapar::dns::Resolver;
use chapar::dns::mx::{Lookup, Record};
use chapar::lab::{DnsServer, Identity, Mx, MxConfig};

use crate::bind::{Bind, How, Zone};
use crate::dane::{delivered, domain, front, sent, shows, tlsa, world};
use crate::world::ip;

/// The type of MX records.
const MX: u16 = 15;
/// The type of TLSA records.
const TLSA: u16 = 52;

/// Forwards DNS over UDP, but answers questions of one type itself: with these records.
async fn crippled(server: SocketAddr, kind: u16, records: Vec<Vec<u8>>) -> SocketAddr {
    let instead = move |question: &[u8]| {
        let name = question[12..].iter().position(|byte| *byte == 0);
        let end = 12 + name.expect("a name") + 5;
        if question[end - 4..end - 2] != kind.to_be_bytes() {
            return None;
        }
        let mut answer = question[..end].to_vec();
        let count = u8::try_from(records.len()).expect("few");
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
        for record in &records {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            let length = u8::try_from(record.len()).expect("short");
            answer.extend([0, 1, 0, 0, 0, 60, 0, length]);
            answer.extend(record);
        }
        Some(answer)
    };
    front(server, instead).await
}

/// `10 mx.` and the name that was asked about.
fn good() -> Vec<u8> {
    b"\0\x0a\x02mx\xc0\x0c".to_vec()
}

#[actix::test]
async fn records_that_can_not_be_read_are_never_taken_for_none() {
    let own = Identity::self_signed("mx").expect("a certificate");
    let mx = Mx::start(shows(own.clone())).await.expect("an MX");
    let right = tlsa(3, 1, 1, &own.chain[0]);
    let bind = Bind::start(&domain("good", &mx, &[right]), Vec::new()).await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let unknown =
        "451 4.7.5 mx.good.example: whether it has TLSA records (DANE) can not be found out";
    for (kind, records, begins) in [
        (TLSA, vec![vec![]], unknown),
        (TLSA, vec![vec![3; 2]], unknown),
        (MX, vec![vec![3]], "451 4.4.3 "),
        // A set with a record missing is not the one that was signed.
        (MX, vec![vec![3], good()], "451 4.4.3 "),
    ] {
        let front = crippled(bind.address(), kind, records).await;
        let port = mx.address().port();
        let mut world = world(&bind, port, &dns, |config| config.dns = bind.dns(front));
        let (outcome, _) = sent(&mut world, "x@good.example").await;
        let begins = format!("x@good.example deferred {begins}");
        assert!(outcome.starts_with(&begins), "{outcome}");
        world.end().await;
    }
    assert_eq!(mx.taken(), 0);
}

#[actix::test]
async fn mx_records_beside_one_that_can_not_be_read_are_used() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let plain = Zone {
        name: "plain.example.",
        how: How::Unsigned,
        records: format!("@ MX 10 mx\nmx A {}\n", ip(&mx)),
    };
    let bind = Bind::start("", vec![plain]).await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let records = vec![vec![3], good(), vec![0, 5, 2, b'm']];
    let front = crippled(bind.address(), MX, records).await;
    let only = Record {
        preference: 10,
        host: "mx.plain.example".to_owned(),
    };
    // With validation, which proves that nothing is to be proven there, and without.
    for dnssec in [chapar::config::Dnssec::On, chapar::config::Dnssec::Off] {
        let mut config = bind.dns(front);
        config.dnssec = dnssec;
        let resolver = Resolver::new(&config).expect("a resolver");
        let (found, _, proven) = resolver.mx_proven("plain.example").await;
        assert_eq!(found, Lookup::Records(vec![only.clone()]));
        assert!(!proven);
    }
    let port = mx.address().port();
    let mut world = world(&bind, port, &dns, |config| config.dns = bind.dns(front));
    let to = "x@plain.example";
    assert_eq!(sent(&mut world, to).await.0, delivered(to));
    world.end().await;
    // While none can be read nobody knows where the mail goes; nor beside one that is empty.
    for records in [vec![vec![3], vec![0; 2]], vec![good(), vec![]]] {
        let front = crippled(bind.address(), MX, records).await;
        let resolver = Resolver::new(&bind.dns(front)).expect("a resolver");
        let (found, _) = resolver.mx("plain.example").await;
        assert!(matches!(found, Lookup::Failed(_)), "{found:?}");
    }
}
