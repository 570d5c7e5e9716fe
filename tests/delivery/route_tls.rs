//! What the operator demands of TLS holds on routes as it does for MX hosts.

use chapar::config::Config;
use chapar::lab::{DnsServer, Identity, Mx, MxConfig};

use crate::bind::Bind;
use crate::dane::{domain, shows, tlsa};
use crate::world::{World, ip, text};

const RELAY: &str = "relay.example.com";

/// The rules of `tls.domains`, and those of routes.
fn read(text: &str) -> Config {
    let text = format!("hostname = \"mx.example.org\"\n{text}");
    Config::parse(&text, "test", "/".as_ref()).expect("a configuration")
}

/// A world in which everything goes to this host, under these rules.
async fn world(mx: &Mx, rules: &str, tls: &str) -> (World, tempfile::NamedTempFile) {
    let roots = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(roots.path(), mx.certificate()).expect("written");
    let dns = DnsServer::start().await.expect("a DNS server");
    dns.a(RELAY, ip(mx));
    let port = mx.address().port();
    let route = format!("[[route]]\nvia = \"smtp://{RELAY}:{port}\"\n{tls}");
    let read = read(&format!("tls.domains = {rules}\n{route}"));
    let world = World::with_dns(dns, 1, Default::default(), |config| {
        config.tls.domains = read.tls.domains.clone();
        config.routes = read.routes.clone();
        config.tls.ca_file = roots.path().display().to_string();
    });
    (world, roots)
}

async fn sent(world: &mut World, to: &str) -> (String, String) {
    world.send(&[to]).await;
    let (message, attempt) = world.heard().await;
    (text(&message, &attempt), attempt.tls)
}

#[actix::test]
async fn d12_a_rule_for_a_domain_holds_on_its_route() {
    let plain = Mx::start(MxConfig::default()).await.expect("an MX");
    let rules = "{ \"example.com\" = \"verify\", \"enc.example\" = \"encrypt\" }";
    let (mut world, _roots) = world(&plain, rules, "").await;
    for (to, rule) in [("a@example.com", "verify"), ("a@enc.example", "encrypt")] {
        let (outcome, tls) = sent(&mut world, to).await;
        let begins = format!("{to} deferred 451 4.7.5 {RELAY}[");
        assert!(outcome.starts_with(&begins), "{outcome}");
        let domain = to.trim_start_matches("a@");
        let ends = format!("; tls.domains says {rule} for {domain}");
        assert!(outcome.ends_with(&ends) && tls.is_empty(), "{outcome}");
    }
    assert_eq!(plain.taken(), 0);
    // Others go the same way as before.
    let (outcome, _) = sent(&mut world, "a@other.example").await;
    assert_eq!(outcome, "a@other.example delivered 250 2.0.0 Ok: queued");
    let (outcome, _) = sent(&mut world, "a@example.com").await;
    assert!(outcome.contains(" deferred 451 4.7.5 "), "{outcome}");
    assert_eq!(plain.taken(), 1);
    world.end().await;
}

#[actix::test]
async fn d12_each_rule_on_a_route_does_what_it_says() {
    let config = MxConfig {
        hostname: RELAY.to_owned(),
        starttls: true,
        ..MxConfig::default()
    };
    let mx = Mx::start(config).await.expect("an MX");
    let rules = "{ \"verify.example\" = \"verify\", \"encrypt.example\" = \"encrypt\", \
                 \"may.example\" = \"may\", \"never.example\" = \"never\" }";
    let (mut domains, _roots) = world(&mx, rules, "").await;
    // No session serves a domain with another rule than that it was opened under.
    for (rule, how) in [
        ("other", "unverified"),
        ("verify", "pkix"),
        ("never", ""),
        ("encrypt", "unverified"),
        ("may", "unverified"),
    ] {
        let to = format!("a@{rule}.example");
        let (outcome, tls) = sent(&mut domains, &to).await;
        assert_eq!(outcome, format!("{to} delivered 250 2.0.0 Ok: queued"));
        assert!(
            tls.ends_with(how) && tls.is_empty() == how.is_empty(),
            "{rule}: {tls}"
        );
    }
    domains.end().await;
    // That of the route itself stands above.
    for (rule, how) in [("verify", "pkix"), ("never", ""), ("encrypt", "unverified")] {
        let tls = format!("tls = \"{rule}\"");
        let (mut route, _roots) = world(&mx, rules, &tls).await;
        for to in ["a@other.example", "a@may.example", "a@verify.example"] {
            let (outcome, tls) = sent(&mut route, to).await;
            assert_eq!(outcome, format!("{to} delivered 250 2.0.0 Ok: queued"));
            assert!(
                tls.ends_with(how) && tls.is_empty() == how.is_empty(),
                "{rule}: {tls}"
            );
        }
        route.end().await;
    }
}

/// `via = "mx:"` with a rule, and one that a host can not keep.
#[actix::test]
async fn d12_the_rule_of_a_route_is_demanded_and_named() {
    let plain = Mx::start(MxConfig::default()).await.expect("an MX");
    let (mut hop, _roots) = world(&plain, "{}", "tls = \"encrypt\"").await;
    let ends = "; tls of the route says encrypt for example.com";
    let (outcome, _) = sent(&mut hop, "a@example.com").await;
    assert!(outcome.ends_with(ends), "{outcome}");
    hop.end().await;
    let routes = read("[[route]]\nvia = \"mx:\"\nto = \"example.com\"\ntls = \"encrypt\"").routes;
    let mut mx = World::new(plain.address().port(), |config| config.routes = routes).await;
    for domain in ["example.com", "example.net"] {
        mx.dns.mx(domain, 10, "mx.example.com");
    }
    mx.dns.a("mx.example.com", ip(&plain));
    let (outcome, _) = sent(&mut mx, "a@example.com").await;
    assert!(outcome.ends_with(ends), "{outcome}");
    let (outcome, _) = sent(&mut mx, "a@example.net").await;
    assert!(outcome.contains(" delivered "), "{outcome}");
    assert_eq!(plain.taken(), 1);
    mx.end().await;
}

/// The host of a route is asked for TLSA records where the rule is `dane`.
#[actix::test]
async fn d12_dane_on_a_route_is_proven_by_the_records_of_its_host() {
    let own = Identity::self_signed("mx").expect("a certificate");
    let mx = Mx::start(shows(own.clone())).await.expect("an MX");
    let right = tlsa(3, 1, 1, &own.chain[0]);
    let zone = format!(
        "{}{}",
        domain("good", &mx, &[right]),
        domain("none", &mx, &[])
    );
    let bind = Bind::start(&zone, Vec::new()).await;
    let dns = DnsServer::start().await.expect("a DNS server");
    let port = mx.address().port();
    let route = |name: &str| {
        format!("[[route]]\nto = \"to-{name}.test\"\nvia = \"smtp://mx.{name}.example:{port}\"\n")
    };
    let rules = "{ \"to-good.test\" = \"dane\", \"to-none.test\" = \"dane\" }";
    let read = read(&format!(
        "tls.domains = {rules}\n{}{}",
        route("good"),
        route("none")
    ));
    let mut world = crate::dane::world(&bind, port, &dns, |config| {
        config.tls.domains = read.tls.domains.clone();
        config.routes = read.routes.clone();
    });
    let (outcome, tls) = sent(&mut world, "a@to-good.test").await;
    assert!(
        outcome.contains(" delivered ") && tls.ends_with(" dane"),
        "{outcome} {tls}"
    );
    let (outcome, _) = sent(&mut world, "a@to-none.test").await;
    let ends =
        "no DANE, it has no TLSA record that is proven; tls.domains says dane for to-none.test";
    assert!(outcome.ends_with(ends), "{outcome}");
    assert_eq!(mx.taken(), 1);
    world.end().await;
}
