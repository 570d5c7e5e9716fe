//! The openspf.org suite for RFC 7208.

use std::net::IpAddr;

use chapar::config::Dns;
use chapar::dns::Resolver;
use chapar::lab::DnsServer;
use chapar::verify::lookup::Lookup;
use chapar::verify::spf::{Sender, check};
use serde::Deserialize;
use serde_norway::Value;

use crate::yaml::{Pairs, documents};

#[derive(Deserialize)]
struct Scenario {
    description: String,
    tests: Pairs<Test>,
    zonedata: Pairs<Vec<Value>>,
}

#[derive(Deserialize)]
struct Test {
    helo: String,
    host: String,
    mailfrom: String,
    result: Value,
    explanation: Option<String>,
}

/// The suite's text as bytes: it writes bytes over 127 as the characters of that number.
fn bytes(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).expect("a byte"))
        .collect()
}

fn strings(value: &Value) -> Vec<Vec<u8>> {
    match value {
        Value::Sequence(items) => items.iter().flat_map(strings).collect(),
        other => vec![bytes(other.as_str().expect("text"))],
    }
}

fn add_text(server: &DnsServer, name: &str, value: &Value) {
    // One string has at most 255 bytes.
    let strings: Vec<Vec<u8>> = strings(value)
        .iter()
        .flat_map(|s| match s.is_empty() {
            true => vec![Vec::new()],
            false => s.chunks(255).map(<[u8]>::to_vec).collect(),
        })
        .collect();
    // A record of no strings can not be sent; one empty string is the nearest that can.
    let strings = match strings.is_empty() {
        true => vec![Vec::new()],
        false => strings,
    };
    let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
    server.txt_strings(name, &strings);
}

fn load(server: &DnsServer, zone: &Pairs<Vec<Value>>) {
    for (name, records) in &zone.0 {
        let record = |kind: &'static str| records.iter().filter_map(move |r| r.get(kind));
        // SPF records stand for TXT records, unless a name says what its TXT records are.
        let own_text = record("TXT").next().is_some();
        for value in record("SPF").filter(|_| !own_text).chain(record("TXT")) {
            if value.as_str() != Some("NONE") {
                add_text(server, name, value);
            }
        }
        for value in record("A") {
            server.a(
                name,
                value.as_str().expect("text").parse().expect("address"),
            );
        }
        for value in record("AAAA") {
            server.aaaa(
                name,
                value.as_str().expect("text").parse().expect("address"),
            );
        }
        for value in record("CNAME") {
            server.cname(name, value.as_str().expect("text"));
        }
        for value in record("MX") {
            let preference = value.get(0).and_then(Value::as_u64).expect("a number");
            let preference = u16::try_from(preference).expect("a preference");
            let host = value.get(1).and_then(Value::as_str).expect("a host");
            match host {
                "" => server.null_mx(name),
                _ => server.mx(name, preference, host),
            }
        }
        for value in record("PTR") {
            server.ptr_at(name, value.as_str().expect("text"));
        }
        server.empty(name);
        if records.iter().any(|r| r.as_str() == Some("TIMEOUT")) {
            server.servfail_otherwise(name);
        }
    }
}

#[tokio::test]
async fn all_results_of_rfc_7208() {
    let suite: Vec<Scenario> = documents(include_str!("spf/rfc7208-tests.yml"));
    let mut count = 0;
    let mut wrong = Vec::new();
    for scenario in &suite {
        let server = DnsServer::start().await.expect("a DNS server");
        load(&server, &scenario.zonedata);
        let config = Dns {
            servers: vec![server.address()],
            ..Dns::default()
        };
        let resolver = Resolver::new(&config).expect("a resolver");
        for (name, test) in &scenario.tests.0 {
            count += 1;
            let client: IpAddr = test.host.parse().expect("address");
            let sender = Sender {
                client,
                hello: &test.helo,
                from: &test.mailfrom,
                receiver: "receiver.example.net",
                now: 0,
            };
            let lookup = Lookup::new(resolver.hickory());
            let outcome = check(&lookup, sender).await;
            let result = outcome.result.as_str();
            let allowed = match &test.result {
                Value::Sequence(all) => all.iter().any(|one| one.as_str() == Some(result)),
                one => one.as_str() == Some(result),
            };
            // "DEFAULT" is the receiver's own text where the domain gives none.
            let expected = test.explanation.as_deref().filter(|e| *e != "DEFAULT");
            let explained =
                test.explanation.is_none() || outcome.explanation.as_deref() == expected;
            if !allowed || !explained {
                wrong.push(format!(
                    "{} / {name}: {result} {:?}, expected {:?} {:?}",
                    scenario.description, outcome.explanation, test.result, test.explanation
                ));
            }
        }
    }
    assert_eq!(count, 203);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
