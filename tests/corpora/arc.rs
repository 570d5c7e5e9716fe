//! The ARC suite: chains to validate and to seal.

use bytes::Bytes;
use chapar::config::Dns;
use chapar::dns::Resolver;
use chapar::lab::DnsServer;
use chapar::message::canonical::{BodyHash, Form};
use chapar::message::headers::{empty_line, fields};
use chapar::message::{Body, tags};
use chapar::signing::arc::{ChainState, Sealer, seal};
use chapar::verify::arc::ArcResult;
use chapar::verify::{Question, Verdicts, verify};
use rsa::Pkcs1v15Sign;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use serde::Deserialize;

use crate::yaml::{Pairs, documents};

#[derive(Deserialize)]
struct Scenario<T> {
    description: String,
    tests: Pairs<T>,
    #[serde(rename = "txt-records")]
    records: Pairs<String>,
    #[serde(default)]
    domain: String,
    #[serde(default, rename = "sel")]
    selector: String,
    #[serde(default, rename = "privatekey")]
    key: String,
}

#[derive(Deserialize)]
struct Validation {
    message: String,
    #[serde(default)]
    cv: Option<String>,
}

#[derive(Deserialize)]
struct Sealing {
    message: String,
    t: u64,
    #[serde(rename = "sig-headers")]
    headers: String,
    #[serde(rename = "srv-id")]
    host: String,
    #[serde(rename = "AS")]
    seal: String,
    #[serde(rename = "AMS")]
    signature: String,
    #[serde(rename = "AAR")]
    results: String,
}

async fn world(records: &Pairs<String>) -> (DnsServer, Resolver) {
    let server = DnsServer::start().await.expect("a DNS server");
    for (name, text) in &records.0 {
        server.txt(name, text);
    }
    let config = Dns {
        servers: vec![server.address()],
        ..Dns::default()
    };
    let resolver = Resolver::new(&config).expect("a resolver");
    (server, resolver)
}

/// Head and body with CR LF; the suite's files have LF.
fn parts(message: &str) -> (Vec<u8>, Bytes) {
    let text = message.replace('\n', "\r\n").into_bytes();
    match empty_line(&text, 0) {
        Some(line) => {
            let (head, body) = text.split_at(line.end);
            (head.to_vec(), Bytes::copy_from_slice(body))
        }
        None => (text, Bytes::new()),
    }
}

async fn verdicts(resolver: &Resolver, head: &[u8], body: Bytes) -> Verdicts {
    let fields = fields(head).expect("fields");
    let question = Question {
        client: [192, 0, 2, 1].into(),
        hello: "mail.example.net",
        from: "",
        receiver: "mx.example.org",
        fields: &fields,
        body: &Body::Memory(body),
        now: 1_764_000_000,
        time: std::time::Duration::from_secs(20),
    };
    verify(&resolver.hickory(), &question)
        .await
        .expect("verdicts")
}

/// What we judge otherwise than the suite; `docs/corpora.md` says why, and has them all.
const DIFFERENT: [(&str, &str); 1] = [("ams_fields_c_na", "Fail")];

#[tokio::test]
async fn all_chains() {
    let suite: Vec<Scenario<Validation>> = documents(include_str!("arc/validation-tests.yml"));
    let mut count = 0;
    let mut wrong = Vec::new();
    let mut different = Vec::new();
    for scenario in &suite {
        let (_server, resolver) = world(&scenario.records).await;
        for (name, test) in &scenario.tests.0 {
            count += 1;
            let (head, body) = parts(&test.message);
            let arc = verdicts(&resolver, &head, body).await.arc;
            let result = match arc.result {
                ArcResult::None => "None",
                ArcResult::Pass => "Pass",
                ArcResult::Fail => "Fail",
                ArcResult::TempError => "TempError",
            };
            // An empty expectation is a chain that already says cv=fail: RFC 8617 section 5.2
            // calls it Fail.
            let expected = test
                .cv
                .as_deref()
                .filter(|cv| !cv.is_empty())
                .unwrap_or("Fail");
            if DIFFERENT.contains(&(name.as_str(), result)) {
                different.push(name);
            } else if result != expected {
                wrong.push(format!(
                    "{} / {name}: {result} ({}), expected {expected}",
                    scenario.description, arc.reason
                ));
            }
        }
    }
    assert_eq!(count, 175);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(different.len(), DIFFERENT.len());
    let docs = include_str!("../../docs/corpora.md");
    assert!(
        different
            .iter()
            .all(|name| docs.contains(&format!("`{name}`")))
    );
}

/// The verdicts of earlier fields in the suite's own name, as one.
fn results(head: &[u8], host: &str) -> String {
    let mut merged = String::from(host);
    for field in fields(head).expect("fields") {
        let value = String::from_utf8_lossy(field.value).replace("\r\n", "\n");
        if let (true, Some((id, rest))) =
            (field.is("Authentication-Results"), value.split_once(';'))
            && id.trim() == host
        {
            merged.push(';');
            merged.push_str(rest.trim_end());
        }
    }
    merged.replace('\n', "\r\n")
}

/// The tags of a field, each without white space.
fn tag_list(text: &str) -> Vec<(String, String)> {
    let tags = tags::Tags::parse(text.as_bytes()).expect("tags");
    let mut list: Vec<_> = tags
        .iter()
        .map(|(name, value)| (name.to_owned(), tags::squeezed(value)))
        .collect();
    list.sort();
    list
}

fn words(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace().collect()
}

/// DigestInfo of SHA-256 up to the digest (RFC 8017 section 9.2).
pub const SHA256: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

#[tokio::test]
async fn all_seals_byte_for_byte() {
    let suite: Vec<Scenario<Sealing>> = documents(include_str!("arc/sign-tests.yml"));
    let mut count = 0;
    let mut wrong = Vec::new();
    for scenario in &suite {
        let (_server, resolver) = world(&scenario.records).await;
        // 1,024 bits, with which the library of the signer does not sign.
        let key = rsa::PrivateKey::from_pkcs1_pem(&scenario.key).expect("key");
        let sign = |text: &[u8]| {
            let digest = ring::digest::digest(&ring::digest::SHA256, text);
            let signed = key.sign(
                Pkcs1v15Sign::new_unprefixed(),
                &[SHA256, digest.as_ref()].concat(),
            );
            signed.map_err(|error| error.to_string())
        };
        for (name, test) in &scenario.tests.0 {
            count += 1;
            let (head, body) = parts(&test.message);
            let state = match verdicts(&resolver, &head, body.clone()).await.arc.result {
                ArcResult::None => ChainState::None,
                ArcResult::Pass => ChainState::Pass,
                _ => ChainState::Fail,
            };
            let mut hash = BodyHash::new(Form::Relaxed);
            hash.write(&body);
            let names: Vec<&str> = test.headers.split(':').collect();
            let sealer = Sealer {
                sign: &sign,
                domain: &scenario.domain,
                selector: &scenario.selector,
                names: &names,
                now: test.t,
            };
            let results = results(&head, &test.host);
            let set = seal(&sealer, &head, state, &results, &hash.finish()).expect("a set");
            let parsed = fields(set.as_bytes()).expect("fields");
            let value = |name: &str| {
                let field = parsed.iter().find(|field| field.is(name));
                field.map(|field| String::from_utf8_lossy(field.value).into_owned())
            };
            let same = match (
                value("ARC-Seal"),
                value("ARC-Message-Signature"),
                value("ARC-Authentication-Results"),
            ) {
                (None, None, None) => test.seal.is_empty() && test.signature.is_empty(),
                (Some(seal), Some(signature), Some(results)) => {
                    tag_list(&seal) == tag_list(&test.seal)
                        && tag_list(&signature) == tag_list(&test.signature)
                        && words(&results) == words(&test.results)
                }
                _ => false,
            };
            if !same {
                wrong.push(format!(
                    "{} / {name} ({state:?}): {set}\nexpected\n{}{}{}",
                    scenario.description, test.seal, test.signature, test.results
                ));
            }
        }
    }
    assert_eq!(count, 17);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}
