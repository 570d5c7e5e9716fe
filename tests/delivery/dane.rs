//! DNSSEC and DANE (RFC 7672) against zones that BIND has really signed.

use std::net::SocketAddr;

use chapar::config::Config;
use chapar::dns::TlsaRecord as Record;
use chapar::dns::mx::Lookup;
use chapar::dns::{Addresses, Resolver, Tlsa};
use chapar::lab::{Ca, DnsServer, Identity, Mx, MxConfig};
use ring::digest::{SHA256, digest};

use crate::bind::{Bind, How, Zone};
use crate::world::{World, hosts, ip, small, text};

/// A TLSA record of a certificate, with SHA-256 unless `matching` is 0.
pub fn tlsa(usage: u8, selector: u8, matching: u8, certificate: &[u8]) -> String {
    let whole = match selector {
        0 => certificate.to_vec(),
        _ => {
            use x509_parser::prelude::FromDer;
            let (_, parsed) =
                x509_parser::certificate::X509Certificate::from_der(certificate).expect("DER");
            parsed.public_key().raw.to_vec()
        }
    };
    let data = match matching {
        0 => whole,
        _ => digest(&SHA256, &whole).as_ref().to_vec(),
    };
    let record = Record {
        usage,
        selector,
        matching,
        data,
    };
    record.text()
}

pub fn shows(identity: Identity) -> MxConfig {
    MxConfig {
        starttls: true,
        identity: Some(identity),
        ..MxConfig::default()
    }
}

/// Records of `NAME.example` with the mail host `mx.NAME.example`.
pub fn domain(name: &str, mx: &Mx, records: &[String]) -> String {
    let mut text = format!("{name} MX 10 mx.{name}\nmx.{name} A {}\n", ip(mx));
    for record in records {
        let port = mx.address().port();
        text.push_str(&format!("_{port}._tcp.mx.{name} TLSA {record}\n"));
    }
    text
}

pub fn world(bind: &Bind, port: u16, dns: &DnsServer, change: impl FnOnce(&mut Config)) -> World {
    World::with_dns(dns.clone(), port, Default::default(), |config| {
        bind.configure(config);
        change(config);
    })
}

/// What became of a message, and what was proven.
pub async fn sent(world: &mut World, to: &str) -> (String, String) {
    world.send(&[to]).await;
    let (message, attempt) = world.heard().await;
    let proof = attempt.tls.split(' ').nth(2).unwrap_or("clear").to_owned();
    (text(&message, &attempt), proof)
}

pub fn delivered(to: &str) -> String {
    format!("{to} delivered 250 2.0.0 Ok: queued")
}

#[actix::test]
async fn what_is_proven_what_is_not_and_what_is_false() {
    let mail = "@ MX 10 mx\nmx A 192.0.2.1\n".to_owned();
    let zone = |name, how| Zone {
        name,
        how,
        records: mail.clone(),
    };
    let bind = Bind::start(
        "good MX 10 mx.good\nmx.good A 192.0.2.1\nalias CNAME good\nnomx A 192.0.2.2\n\
         away CNAME plain\n",
        vec![
            zone("plain.example.", How::Unsigned),
            zone("wrong.example.", How::WrongKey),
            zone("expired.example.", How::Expired),
            zone("broken.example.", How::Failing),
        ],
    )
    .await;
    let resolver = Resolver::new(&bind.dns(bind.address())).expect("a resolver");
    for (domain, proven) in [
        ("good.example", true),
        ("alias.example", true),
        ("plain.example", false),
        ("away.example", false),
    ] {
        let (found, _, secure) = resolver.mx_proven(domain).await;
        assert!(matches!(found, Lookup::Records(_)), "{domain}: {found:?}");
        assert_eq!(secure, proven, "{domain}");
    }
    let (found, _, secure) = resolver.mx_proven("nomx.example").await;
    assert_eq!((found, secure), (Lookup::Nothing, true));
    let (found, _, secure) = resolver.mx_proven("nowhere.example").await;
    assert_eq!((found, secure), (Lookup::NoDomain, true));
    let (found, _, secure) = resolver.mx_proven("nowhere.plain.example").await;
    assert_eq!((found, secure), (Lookup::NoDomain, false));
    for domain in [
        "wrong.example",
        "expired.example",
        "broken.example",
        "no.wrong.example",
    ] {
        let (found, _, secure) = resolver.mx_proven(domain).await;
        assert!(matches!(found, Lookup::Failed(_)), "{domain}: {found:?}");
        assert!(!secure);
        let address = resolver.ipv4(&format!("mx.{domain}")).await;
        assert!(
            matches!(address, Addresses::Failed(_)),
            "{domain}: {address:?}"
        );
    }
    // Many who ask for the same at the same time cost what one costs.
    let many = (0..50).map(|_| resolver.mx_proven("good.example"));
    let all = futures_util::future::join_all(many).await;
    assert!(all.iter().all(|(_, _, secure)| *secure));
    // With another root as the anchor nothing at all is proven, and nothing is answered.
    let other = Bind::start("", Vec::new()).await;
    let mut dns = bind.dns(bind.address());
    dns.trust_anchor = other.dns(other.address()).trust_anchor;
    let astray = Resolver::new(&dns).expect("a resolver");
    let (found, _, _) = astray.mx_proven("good.example").await;
    assert!(matches!(found, Lookup::Failed(_)), "{found:?}");
}

#[actix::test]
async fn mail_waits_while_what_the_dns_says_is_false() {
    let mx = Mx::start(MxConfig::default()).await.expect("an MX");
    let records = format!("@ MX 10 mx\nmx A {}\n", ip(&mx));
    let zone = |name, how| Zone {
        name,
        how,
        records: records.clone(),
    };
    let bind = Bind::start(
        "lead MX 10 mx.wrong\n",
        vec![
            zone("wrong.example.", How::WrongKey),
            zone("expired.example.", How::Expired),
            zone("plain.example.", How::Unsigned),
        ],
    )
    .await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let mut world = world(&bind, mx.address().port(), &dns, |_| {});
    for to in ["a@wrong.example", "a@expired.example", "a@lead.example"] {
        let (outcome, _) = sent(&mut world, to).await;
        assert!(
            outcome.starts_with(&format!("{to} deferred 451 4.4.3")),
            "{outcome}"
        );
    }
    let (outcome, proof) = sent(&mut world, "a@plain.example").await;
    assert_eq!(
        (outcome, proof.as_str()),
        (delivered("a@plain.example"), "clear")
    );
    assert_eq!(mx.taken(), 1);
    world.end().await;
}

#[actix::test]
async fn c086_the_usages_of_tlsa_records() {
    let ca = Ca::new("Lab CA").expect("a CA");
    let stranger = Ca::new("Other CA").expect("a CA");
    let leaf = |identity: &Identity| identity.chain[0].to_vec();
    let expired = ca
        .issue_expired("elsewhere.example")
        .expect("a certificate");
    let under = ca.issue("mx.b.example").expect("a certificate");
    let misnamed = ca.issue("elsewhere.example").expect("a certificate");
    let own = Identity::self_signed("mx.d.example").expect("a certificate");
    let mut configs = vec![
        shows(expired.clone()),
        shows(under),
        shows(misnamed),
        shows(own.clone()),
        shows(own.clone()),
        shows(own.clone()),
        shows(own.clone()),
        shows(own.clone()),
    ];
    // (h): the records can not be used, and the host has no TLS at all.
    configs.push(MxConfig::default());
    let hosts = hosts(configs).await;
    let port = hosts[0].address().port();
    let other = tlsa(3, 1, 1, stranger.certificate());
    let zone = [
        domain("a", &hosts[0], &[tlsa(3, 1, 1, &leaf(&expired))]),
        domain("b", &hosts[1], &[tlsa(2, 1, 1, ca.certificate())]),
        domain("c", &hosts[2], &[tlsa(2, 1, 1, ca.certificate())]),
        domain("d", &hosts[3], std::slice::from_ref(&other)),
        domain("e", &hosts[4], &[other.clone(), tlsa(3, 1, 1, &leaf(&own))]),
        domain("f", &hosts[5], &[tlsa(0, 0, 1, &leaf(&own))]),
        domain("g", &hosts[6], &[format!("3 1 9 {}", "00".repeat(32))]),
        domain("i", &hosts[7], &[tlsa(3, 0, 0, &leaf(&own))]),
        domain("h", &hosts[8], &[tlsa(1, 1, 1, &leaf(&own))]),
    ]
    .concat();
    let bind = Bind::start(&zone, Vec::new()).await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let mut world = world(&bind, port, &dns, |_| {});
    for (name, proof) in [
        ("a", "dane"),
        ("b", "dane"),
        ("e", "dane"),
        ("i", "dane"),
        ("f", "unverified"),
        ("g", "unverified"),
    ] {
        let to = format!("x@{name}.example");
        let (outcome, got) = sent(&mut world, &to).await;
        assert_eq!((outcome, got.as_str()), (delivered(&to), proof));
    }
    for (name, why) in [
        ("c", "the chain does not hold"),
        ("d", "no TLSA record is of its certificate"),
        ("h", "the server offers no STARTTLS"),
    ] {
        let to = format!("x@{name}.example");
        let (outcome, _) = sent(&mut world, &to).await;
        assert!(
            outcome.starts_with(&format!("{to} deferred 451 4.7.5 mx.{name}.example[")),
            "{outcome}"
        );
        assert!(outcome.contains(why), "{outcome}");
        assert!(
            outcome.ends_with("; its TLSA records (DANE) demand it"),
            "{outcome}"
        );
    }
    assert!(
        hosts
            .iter()
            .all(|mx| mx.received().iter().all(|one| one.tls))
    );
    world.end().await;
}

/// Forwards DNS over UDP, but for questions that `instead` answers itself; an empty answer is none.
pub async fn front(
    server: SocketAddr,
    instead: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
    let front = std::sync::Arc::new(front.expect("a port"));
    let address = front.local_addr().expect("a port");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = front.recv_from(&mut buffer).await {
            let question = buffer[..length].to_vec();
            if let Some(answer) = instead(&question) {
                if !answer.is_empty() {
                    let _ = front.send_to(&answer, client).await;
                }
                continue;
            }
            let front = front.clone();
            tokio::spawn(async move {
                let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
                back.send_to(&question, server).await?;
                let mut buffer = [0; 4096];
                let length = back.recv(&mut buffer).await?;
                front.send_to(&buffer[..length], client).await
            });
        }
    });
    address
}

/// BIND, but questions with the label `slow` get no answer.
async fn deaf(bind: &Bind) -> SocketAddr {
    let slow = |bytes: &[u8]| bytes == b"\x04_tcp\x04slow";
    let silent = move |question: &[u8]| question.windows(10).any(slow).then(Vec::new);
    front(bind.address(), silent).await
}

#[actix::test]
async fn c084_what_the_lookup_of_tlsa_records_means() {
    let mx = Mx::start(shows(Identity::self_signed("mx").expect("a certificate"))).await;
    let second = mx.expect("an MX");
    let port = second.address().port();
    let address = ip(&second);
    let zone = format!(
        "{}{}_{port}._tcp.mx.b TXT x\n\
         c MX 10 mx.c\nmx.c A {address}\n\
         d MX 10 slow\nslow A {address}\n\
         both MX 10 mx.c\nboth MX 20 mx.a\n",
        domain("a", &second, &[]),
        domain("b", &second, &[]),
    );
    let mail = format!("@ MX 10 mx\nmx A {address}\n");
    let failing = |name| Zone {
        name,
        how: How::Failing,
        records: String::new(),
    };
    let bind = Bind::start(
        &zone,
        vec![
            failing("_tcp.mx.c.example."),
            Zone {
                name: "e.example.",
                how: How::Unsigned,
                records: mail.clone(),
            },
            Zone {
                name: "f.example.",
                how: How::Unsigned,
                records: format!("{mail}_tcp.mx NS ns.example.\n"),
            },
            failing("_tcp.mx.f.example."),
        ],
    )
    .await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let front = deaf(&bind).await;
    let mut world = world(&bind, port, &dns, |config| config.dns = bind.dns(front));
    // (a), (b), (e), (f), and another host of a domain whose first can not be asked about.
    for name in ["a", "b", "e", "f", "both"] {
        let to = format!("x@{name}.example");
        let (outcome, proof) = sent(&mut world, &to).await;
        assert_eq!((outcome, proof.as_str()), (delivered(&to), "unverified"));
    }
    for (name, host) in [("c", "mx.c.example"), ("d", "slow.example")] {
        let to = format!("x@{name}.example");
        let (outcome, _) = sent(&mut world, &to).await;
        let begins = format!(
            "{to} deferred 451 4.7.5 {host}: whether it has TLSA records (DANE) can not be found out"
        );
        assert!(outcome.starts_with(&begins), "{outcome}");
    }
    assert_eq!(second.taken(), 5);
    world.end().await;
}

#[actix::test]
async fn keys_are_rolled_over_and_a_missed_rollover_holds_mail_back() {
    let old = Identity::self_signed("mx").expect("a certificate");
    let new = Identity::self_signed("mx").expect("a certificate");
    let both = hosts(vec![shows(old.clone()), shows(new.clone())]).await;
    let port = both[0].address().port();
    let (old, new) = (tlsa(3, 1, 1, &old.chain[0]), tlsa(3, 1, 1, &new.chain[0]));
    let mut bind = Bind::start(
        &domain("roll", &both[0], std::slice::from_ref(&old)),
        Vec::new(),
    )
    .await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let mut world = world(&bind, port, &dns, |config| {
        config.delivery.keep_idle =
            chapar::config::Span("0ms".parse::<chapar::config::Span>().expect("span").0);
    });
    let to = "x@roll.example";
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "dane".to_owned())
    );
    // First the record, then the certificate, then the old record goes.
    bind.change(&domain("roll", &both[0], &[old.clone(), new.clone()]))
        .await;
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "dane".to_owned())
    );
    bind.change(&domain("roll", &both[1], &[old.clone(), new.clone()]))
        .await;
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "dane".to_owned())
    );
    // The certificate changed and the record was forgotten.
    bind.change(&domain("roll", &both[1], &[old])).await;
    let (outcome, _) = sent(&mut world, to).await;
    assert!(
        outcome.contains("no TLSA record is of its certificate"),
        "{outcome}"
    );
    bind.change(&domain("roll", &both[1], &[new])).await;
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "dane".to_owned())
    );
    world.end().await;
}

#[actix::test]
async fn aliases_and_mx_records_that_are_not_proven() {
    let own = Identity::self_signed("mx").expect("a certificate");
    let mx = Mx::start(shows(own.clone())).await.expect("an MX");
    let port = mx.address().port();
    let wrong = tlsa(3, 1, 1, Ca::new("x").expect("a CA").certificate());
    let right = tlsa(3, 1, 1, &own.chain[0]);
    let zone = format!(
        "{}alias MX 10 other\nother CNAME mx.good\n_{port}._tcp.other TLSA {wrong}\n\
         {}implicit A {}\n_{port}._tcp.implicit TLSA {right}\n",
        domain("good", &mx, std::slice::from_ref(&right)),
        domain("bad", &mx, std::slice::from_ref(&wrong)),
        ip(&mx),
    );
    let plain = Zone {
        name: "plain.example.",
        how: How::Unsigned,
        records: "@ MX 10 mx.bad.example.\n".to_owned(),
    };
    let bind = Bind::start(&zone, vec![plain]).await;
    let resolver = Resolver::new(&bind.dns(bind.address())).expect("a resolver");
    let found = resolver.tlsa("other.example", port).await;
    assert!(
        matches!(found, Tlsa::Found { ref base, .. } if base == "mx.good.example"),
        "{found:?}"
    );
    let dns = DnsServer::start().await.expect("a DNS server");
    let mut world = world(&bind, port, &dns, |_| {});
    // The records are looked for where the alias leads to; without MX records the domain is the host.
    for to in ["x@alias.example", "x@implicit.example"] {
        assert_eq!(
            sent(&mut world, to).await,
            (delivered(to), "dane".to_owned())
        );
    }
    let (outcome, _) = sent(&mut world, "x@bad.example").await;
    assert!(
        outcome.contains("no TLSA record is of its certificate"),
        "{outcome}"
    );
    // Whose MX records anyone could have forged gains nothing by the records of that host.
    let to = "x@plain.example";
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "unverified".to_owned())
    );
    // REQUIRETLS: DNSSEC vouches for the host, its certificate is proven, but it must offer as much.
    let mut message = world.message(&["x@good.example"]);
    message.envelope.require_tls = true;
    world.wake(message, Some(small("secret"))).await;
    let outcome = world.outcome().await;
    assert!(
        outcome.contains("the server does not offer REQUIRETLS"),
        "{outcome}"
    );
    world.end().await;
}

#[actix::test]
async fn the_level_dane_takes_nothing_less() {
    let own = Identity::self_signed("mx").expect("a certificate");
    let mx = Mx::start(shows(own.clone())).await.expect("an MX");
    let right = tlsa(3, 1, 1, &own.chain[0]);
    let unusable = tlsa(1, 1, 1, &own.chain[0]);
    let zone = format!(
        "{}{}{}",
        domain("good", &mx, std::slice::from_ref(&right)),
        domain("none", &mx, &[]),
        domain("unusable", &mx, &[unusable]),
    );
    let plain = Zone {
        name: "plain.example.",
        how: How::Unsigned,
        records: "@ MX 10 mx.good.example.\n".to_owned(),
    };
    let bind = Bind::start(&zone, vec![plain]).await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let text = "hostname = \"mx.example.org\"\ntls.domains = { \"*.example\" = \"dane\" }";
    let rules = Config::parse(text, "test", "/".as_ref()).expect("a configuration");
    let mut world = world(&bind, mx.address().port(), &dns, |config| {
        config.tls.domains = rules.tls.domains.clone();
        // The level holds whether DANE is used for others or not.
        config.tls.dane = false;
    });
    let to = "x@good.example";
    assert_eq!(
        sent(&mut world, to).await,
        (delivered(to), "dane".to_owned())
    );
    for (name, why) in [
        ("none", "no DANE, it has no TLSA record that is proven"),
        ("plain", "no DANE, the MX records are not proven by DNSSEC"),
        ("unusable", "no DANE, none of its TLSA records can be used"),
    ] {
        let to = format!("x@{name}.example");
        let (outcome, _) = sent(&mut world, &to).await;
        let begins = format!("{to} deferred 451 4.7.5 ");
        assert!(outcome.starts_with(&begins), "{outcome}");
        assert!(outcome.contains(why), "{outcome}");
        assert!(
            outcome.ends_with(&format!("tls.domains says dane for {name}.example")),
            "{outcome}"
        );
    }
    assert_eq!(mx.taken(), 1);
    world.end().await;
}
