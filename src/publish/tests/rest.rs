//! The APIs over https, as each one's documentation shows them.

use serde_json::{Value, json};

use super::super::data::{Data, Kind, Record};
use super::super::{Edit, Provider, TTL};
use super::fake::{Fake, Reply, ok};
use super::record;

fn name(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// One of each type that mail needs.
fn all() -> Vec<Record> {
    vec![
        record("mx.example.org", Kind::A, "192.0.2.1"),
        record("mx.example.org", Kind::Aaaa, "2001:db8::1"),
        record("mta-sts.example.org", Kind::Cname, "mx.example.org."),
        record("example.org", Kind::Mx, "10 mx.example.org."),
        record("example.org", Kind::Txt, "\"v=spf1 a:mx.example.org ~all\""),
        record(
            "_submissions._tcp.example.org",
            Kind::Srv,
            "0 1 465 mx.example.org.",
        ),
        record("mx.example.org", Kind::Caa, "0 issue \"letsencrypt.org\""),
        record("_25._tcp.mx.example.org", Kind::Tlsa, "3 1 1 0f0e"),
    ]
}

fn replacement(name: &str, old: &str, new: &str) -> Edit {
    Edit {
        name: name.to_owned(),
        remove: Some(Data::Text(old.to_owned())),
        add: Some(Data::Text(new.to_owned())),
        ttl: TTL,
    }
}

#[tokio::test]
async fn cloudflare_finds_adds_replaces_and_removes() {
    let zones = |name: &str| match name {
        "" => ok(json!({ "success": true, "result": [] })),
        name => ok(json!({ "success": true, "result": [{ "id": "z1", "name": name }] })),
    };
    let found = json!({ "result": [
        { "id": "r1", "type": "TXT", "name": "example.org", "content": "\"v=spf1 -all\"", "ttl": 1 },
        { "id": "r2", "type": "TXT", "name": "example.org", "content": "site=1", "ttl": 300 },
        { "id": "r3", "type": "MX", "name": "example.org", "content": "old.example.org", "priority": 5, "ttl": 600 },
        { "id": "r4", "type": "NS", "name": "example.org", "content": "ns.example.net", "ttl": 600 },
    ]});
    let fake = Fake::start(vec![
        zones("example.org"),
        ok(&found),
        ok(&found),
        ok(json!({ "success": true, "result": { "id": "r1" } })),
        ok(json!({ "success": true, "result": { "id": "r3" } })),
    ])
    .await;
    let mut publisher = fake.publisher(Provider::Cloudflare, "token = \"t0ken\"");
    let here = publisher
        .records(&name("example.org"))
        .await
        .expect("found");
    let texts =
        ["\"v=spf1 -all\"", "\"site=1\""].map(|text| record("example.org", Kind::Txt, text));
    assert_eq!(here[..2], texts);
    assert_eq!(
        here[2..],
        [record("example.org", Kind::Mx, "5 old.example.org.")]
    );
    let edits = [
        replacement("example.org", "v=spf1 -all", "v=spf1 a:mx.example.org -all"),
        Edit::remove(&here[2]),
        // It is there already.
        Edit::add(&texts[1], TTL),
    ];
    publisher.apply(&edits).await.expect("published");
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/zones?name=example.org",
            "GET /v1/zones/z1/dns_records?name=example.org&per_page=100",
            "GET /v1/zones/z1/dns_records?name=example.org&per_page=100",
            "DELETE /v1/zones/z1/dns_records/r3",
            "PUT /v1/zones/z1/dns_records/r1",
        ]
    );
    let asked = fake.asked();
    fake.was_always_told("authorization", "Bearer t0ken");
    assert_eq!(asked[4].header("content-type"), "application/json");
    assert_eq!(
        asked[4].json(),
        json!({ "type": "TXT", "name": "example.org", "ttl": 300,
                "content": "\"v=spf1 a:mx.example.org -all\"" })
    );
    assert_eq!(asked[3].body, "");
}

#[tokio::test]
async fn cloudflare_takes_every_type() {
    let empty = ok(json!({ "success": true, "result": [] }));
    let mut replies = vec![
        empty.clone(),
        ok(json!({ "success": true, "result": [{ "id": "z1", "name": "example.org" }] })),
    ];
    replies.extend(vec![empty.clone(); 1 + 5 + 8]);
    let fake = Fake::start(replies).await;
    let mut publisher = fake.publisher(Provider::Cloudflare, "token = \"t\"");
    let edits: Vec<Edit> = all().iter().map(|record| Edit::add(record, TTL)).collect();
    publisher.apply(&edits).await.expect("published");
    let bodies: Vec<Value> = fake
        .asked()
        .iter()
        .filter(|asked| asked.line == "POST /v1/zones/z1/dns_records")
        .map(super::fake::Asked::json)
        .collect();
    let mut wanted = [
        json!({ "type": "A", "name": "mx.example.org", "ttl": 3600, "content": "192.0.2.1", "proxied": false }),
        json!({ "type": "AAAA", "name": "mx.example.org", "ttl": 3600, "content": "2001:db8::1", "proxied": false }),
        json!({ "type": "CNAME", "name": "mta-sts.example.org", "ttl": 3600, "content": "mx.example.org", "proxied": false }),
        json!({ "type": "MX", "name": "example.org", "ttl": 3600, "content": "mx.example.org", "priority": 10 }),
        json!({ "type": "TXT", "name": "example.org", "ttl": 3600, "content": "\"v=spf1 a:mx.example.org ~all\"" }),
        json!({ "type": "SRV", "name": "_submissions._tcp.example.org", "ttl": 3600,
                "data": { "priority": 0, "weight": 1, "port": 465, "target": "mx.example.org" } }),
        json!({ "type": "CAA", "name": "mx.example.org", "ttl": 3600,
                "data": { "flags": 0, "tag": "issue", "value": "letsencrypt.org" } }),
        json!({ "type": "TLSA", "name": "_25._tcp.mx.example.org", "ttl": 3600,
                "data": { "usage": 3, "selector": 1, "matching_type": 1, "certificate": "0f0e" } }),
    ];
    let mut bodies = bodies;
    bodies.sort_by_key(Value::to_string);
    wanted.sort_by_key(Value::to_string);
    assert_eq!(bodies, wanted);
    // Label by label until there is a zone.
    assert_eq!(
        fake.lines()[..2],
        [
            "GET /v1/zones?name=mx.example.org",
            "GET /v1/zones?name=example.org"
        ]
    );
}

#[tokio::test]
async fn hetzner_works_in_sets() {
    let sets = json!({ "rrsets": [
        { "id": "@/TXT", "name": "@", "type": "TXT", "ttl": null,
          "records": [{ "value": "\"v=spf1 -all\"", "comment": "" }, { "value": "\"site=1\"" }] },
        { "id": "@/MX", "name": "@", "type": "MX", "ttl": 600, "records": [{ "value": "5 old" }] },
        { "id": "@/SOA", "name": "@", "type": "SOA", "ttl": 600, "records": [{ "value": "a b 1 2 3 4 5" }] },
    ]});
    let done = ok(json!({ "action": { "id": 1, "status": "running" } }));
    let fake = Fake::start(vec![
        ok(json!({ "zones": [{ "id": 42, "name": "example.org" }] })),
        ok(&sets),
        ok(&sets),
        ok(json!({ "rrsets": [] })),
        done.clone(),
        done.clone(),
        done,
    ])
    .await;
    let mut publisher = fake.publisher(Provider::Hetzner, "token = \"t0ken\"");
    let here = publisher
        .records(&name("example.org"))
        .await
        .expect("found");
    assert_eq!(
        here[2],
        record("example.org", Kind::Mx, "5 old.example.org.")
    );
    let edits = [
        Edit::remove(&here[2]),
        replacement("example.org", "v=spf1 -all", "v=spf1 a -all"),
        Edit::add(&record("*.example.org", Kind::A, "192.0.2.1"), TTL),
    ];
    publisher.apply(&edits).await.expect("published");
    let asked = fake.asked();
    fake.was_always_told("authorization", "Bearer t0ken");
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/zones?name=example.org",
            "GET /v1/zones/42/rrsets?name=%40&per_page=50",
            "GET /v1/zones/42/rrsets?name=%40&per_page=50",
            "GET /v1/zones/42/rrsets?name=%2A&per_page=50",
            "POST /v1/zones/42/rrsets/%40/MX/actions/remove_records",
            "POST /v1/zones/42/rrsets/%2A/A/actions/add_records",
            "POST /v1/zones/42/rrsets/%40/TXT/actions/set_records",
        ]
    );
    assert_eq!(
        asked[4].json(),
        json!({ "records": [{ "value": "5 old" }] })
    );
    assert_eq!(
        asked[5].json(),
        json!({ "ttl": 3600, "records": [{ "value": "192.0.2.1" }] })
    );
    assert_eq!(
        asked[6].json(),
        json!({ "records": [{ "value": "\"site=1\"" }, { "value": "\"v=spf1 a -all\"" }] })
    );
}

#[tokio::test]
async fn hetzner_tells_of_an_action_that_failed() {
    let fake = Fake::start(vec![
        ok(json!({ "zones": [{ "id": 42, "name": "example.org" }] })),
        ok(json!({ "zones": [] })),
        ok(json!({ "rrsets": [] })),
        ok(json!({ "action": { "id": 1, "status": "error",
                               "error": { "code": "x", "message": "zone is locked" } } })),
    ])
    .await;
    let mut publisher = fake.publisher(Provider::Hetzner, "token = \"t\"");
    let edit = Edit::add(&record("a.example.org", Kind::A, "192.0.2.1"), TTL);
    // The zone of a name that is longer is asked for first.
    publisher.zone_of("example.org").await.expect("a zone");
    let problem = publisher.apply(&[edit]).await.expect_err("it failed");
    assert!(problem.to_string().contains("zone is locked"), "{problem}");
}

#[tokio::test]
async fn digitalocean_finds_adds_replaces_and_removes() {
    let found = json!({ "domain_records": [
        { "id": 1, "type": "TXT", "name": "@", "data": "v=spf1 -all", "priority": null, "port": null, "weight": null, "ttl": 1800, "flags": null, "tag": null },
        { "id": 2, "type": "MX", "name": "@", "data": "@", "priority": 5, "ttl": 1800 },
        { "id": 3, "type": "CAA", "name": "@", "data": "letsencrypt.org.", "flags": 0, "tag": "issue", "ttl": 1800 },
    ]});
    let none = ok(json!({ "domain_records": [] }));
    let made = ok(json!({ "domain_record": { "id": 9 } }));
    let mut replies = vec![
        ok(json!({ "domain": { "name": "example.org", "ttl": 1800 } })),
        ok(&found),
        Reply::With(404, "", String::new()),
        Reply::With(404, "", String::new()),
        ok(&found),
    ];
    replies.extend(vec![none; 3]);
    replies.push(Reply::With(204, "", String::new()));
    replies.extend(vec![made; 8]);
    let fake = Fake::start(replies).await;
    let mut publisher = fake.publisher(Provider::DigitalOcean, "token = \"t0ken\"");
    let here = publisher
        .records(&name("example.org"))
        .await
        .expect("found");
    assert_eq!(
        here,
        [
            record("example.org", Kind::Txt, "v=spf1 -all"),
            record("example.org", Kind::Mx, "5 example.org"),
            record("example.org", Kind::Caa, "0 issue \"letsencrypt.org\""),
        ]
    );
    let mut edits = vec![
        replacement("example.org", "v=spf1 -all", "v=spf1 a -all"),
        Edit::remove(&here[1]),
    ];
    let new = all();
    let fits = |record: &&Record| !matches!(record.data.kind(), Kind::Tlsa | Kind::Txt | Kind::Mx);
    edits.extend(new.iter().filter(fits).map(|record| Edit::add(record, TTL)));
    publisher.apply(&edits).await.expect("published");
    let asked = fake.asked();
    fake.was_always_told("authorization", "Bearer t0ken");
    let lines = fake.lines();
    assert_eq!(
        lines[..6],
        [
            "GET /v1/domains/example.org",
            "GET /v1/domains/example.org/records?name=example.org&per_page=200",
            "GET /v1/domains/mx.example.org",
            "GET /v1/domains/mta-sts.example.org",
            "GET /v1/domains/example.org/records?name=example.org&per_page=200",
            "GET /v1/domains/example.org/records?name=mx.example.org&per_page=200",
        ]
    );
    assert_eq!(lines[8], "DELETE /v1/domains/example.org/records/2");
    let put = asked
        .iter()
        .find(|asked| asked.line.starts_with("PUT "))
        .expect("one");
    assert_eq!(put.line, "PUT /v1/domains/example.org/records/1");
    assert_eq!(
        put.json(),
        json!({ "type": "TXT", "name": "@", "ttl": 1800, "data": "v=spf1 a -all" })
    );
    let posted: Vec<Value> = asked
        .iter()
        .filter(|asked| asked.line == "POST /v1/domains/example.org/records")
        .map(super::fake::Asked::json)
        .collect();
    for wanted in [
        json!({ "type": "A", "name": "mx", "ttl": 3600, "data": "192.0.2.1" }),
        json!({ "type": "CNAME", "name": "mta-sts", "ttl": 3600, "data": "mx.example.org." }),
        json!({ "type": "SRV", "name": "_submissions._tcp", "ttl": 3600, "data": "mx.example.org.",
                "priority": 0, "weight": 1, "port": 465 }),
        json!({ "type": "CAA", "name": "mx", "ttl": 3600, "data": "letsencrypt.org.", "flags": 0, "tag": "issue" }),
    ] {
        assert!(posted.contains(&wanted), "{wanted} in {posted:?}");
    }
    assert_eq!(posted.len(), 5);
}

#[tokio::test]
async fn digitalocean_has_no_tlsa_records() {
    let fake = Fake::start(vec![
        ok(json!({ "domain": { "name": "example.org" } })),
        Reply::With(404, "", String::new()),
        ok(json!({ "domain_records": [] })),
    ])
    .await;
    let mut publisher = fake.publisher(Provider::DigitalOcean, "token = \"t\"");
    publisher.zone_of("example.org").await.expect("a zone");
    let tlsa = record("_25._tcp.mx.example.org", Kind::Tlsa, "3 1 1 0f");
    let problem = publisher
        .apply(&[Edit::add(&tlsa, TTL)])
        .await
        .expect_err("unsupported");
    let text = problem.to_string();
    assert!(
        text.starts_with("digitalocean can not keep TLSA records"),
        "{text}"
    );
}

#[tokio::test]
async fn desec_reads_pages_and_changes_all_at_once() {
    let first = json!([
        { "subname": "", "type": "TXT", "ttl": 3600, "records": ["\"v=spf1 -all\"", "\"site=1\""] },
        { "subname": "", "type": "NS", "ttl": 3600, "records": ["ns1.desec.io."] },
    ]);
    let second = json!([
        { "subname": "old", "type": "A", "ttl": 7200, "records": ["192.0.2.9"] },
    ]);
    let link = "Link: <https://desec.io/api/v1/domains/example.org/rrsets/?cursor=>; rel=\"first\", <https://desec.io/api/v1/domains/example.org/rrsets/?cursor=abc>; rel=\"next\"\r\n";
    let fake = Fake::start(vec![
        Reply::With(404, "", json!({ "detail": "Not found." }).to_string()),
        ok(json!({ "name": "example.org", "minimum_ttl": 3600 })),
        Reply::With(404, "", String::new()),
        Reply::With(200, link, first.to_string()),
        ok(&second),
        // It asks for patience, and gets it.
        Reply::With(
            429,
            "Retry-After: 0\r\n",
            json!({ "detail": "throttled" }).to_string(),
        ),
        ok(json!([])),
    ])
    .await;
    let mut publisher = fake.publisher(Provider::Desec, "token = \"t0ken\"");
    let edits = [
        Edit::add(&record("_acme-challenge.example.org", Kind::Txt, "abc"), 60),
        replacement("example.org", "v=spf1 -all", "v=spf1 a -all"),
        Edit::remove(&record("old.example.org", Kind::A, "192.0.2.9")),
    ];
    publisher.apply(&edits).await.expect("published");
    let asked = fake.asked();
    fake.was_always_told("authorization", "Token t0ken");
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/domains/_acme-challenge.example.org/",
            "GET /v1/domains/example.org/",
            "GET /v1/domains/old.example.org/",
            "GET /v1/domains/example.org/rrsets/?cursor=",
            "GET /v1/domains/example.org/rrsets/?cursor=abc",
            "PATCH /v1/domains/example.org/rrsets/",
            "PATCH /v1/domains/example.org/rrsets/",
        ]
    );
    assert_eq!(
        asked[6].json(),
        json!([
            { "subname": "old", "type": "A", "ttl": 7200, "records": [] },
            { "subname": "_acme-challenge", "type": "TXT", "ttl": 3600, "records": ["\"abc\""] },
            { "subname": "", "type": "TXT", "ttl": 3600, "records": ["\"site=1\"", "\"v=spf1 a -all\""] },
        ])
    );
}

#[tokio::test]
async fn acme_dns_answers_the_ca_and_nothing_else() {
    let fake = Fake::start(vec![ok(json!({ "txt": "abc" }))]).await;
    let with = "username = \"u\"\npassword = \"p\"\nsubdomain = \"8e57\"\n\
                fulldomain = \"8e57.auth.example.net\"\nallowfrom = []";
    let mut publisher = fake.publisher(Provider::AcmeDns, with);
    let answer = record("8e57.auth.example.net", Kind::Txt, "abc");
    publisher
        .apply(&[Edit::add(&answer, 60)])
        .await
        .expect("published");
    publisher
        .apply(&[Edit::remove(&answer)])
        .await
        .expect("nothing to do");
    let asked = fake.asked();
    assert_eq!(fake.lines(), ["POST /v1/update"]);
    assert_eq!(asked[0].header("x-api-user"), "u");
    assert_eq!(asked[0].header("x-api-key"), "p");
    assert_eq!(
        asked[0].json(),
        json!({ "subdomain": "8e57", "txt": "abc" })
    );
    let own = record("_acme-challenge.example.org", Kind::Txt, "abc");
    let problem = publisher
        .apply(&[Edit::add(&own, 60)])
        .await
        .expect_err("no alias");
    let remedy = "make the record _acme-challenge.example.org. CNAME 8e57.auth.example.net.";
    assert!(problem.to_string().contains(remedy), "{problem}");
    let mx = record("example.org", Kind::Mx, "10 mx.example.org");
    let problem = publisher
        .apply(&[Edit::add(&mx, TTL)])
        .await
        .expect_err("no MX");
    assert!(
        problem.to_string().contains("it answers the CA alone"),
        "{problem}"
    );
}

/// What each failure says, with the words of each provider.
#[tokio::test]
async fn each_failure_says_what_to_do() {
    let words = [
        (
            Provider::Cloudflare,
            json!({ "success": false, "errors": [{ "code": 9109, "message": "Mind your token" }] }),
        ),
        (
            Provider::Hetzner,
            json!({ "error": { "code": "unauthorized", "message": "Mind your token" } }),
        ),
        (
            Provider::DigitalOcean,
            json!({ "id": "unauthorized", "message": "Mind your token" }),
        ),
        (Provider::Desec, json!({ "detail": "Mind your token" })),
    ];
    for (provider, said) in words {
        let with = |status, more| Reply::With(status, more, said.to_string());
        for (reply, wanted) in [
            (
                with(401, ""),
                "does not take our credentials (401: Mind your token); ",
            ),
            (
                with(403, ""),
                "does not take our credentials (403: Mind your token); ",
            ),
            (with(400, ""), "refuses (400: Mind your token): "),
            (
                with(429, "Retry-After: 600\r\n"),
                "asks for patience (429: Mind your token); run this again in 600 s",
            ),
            (with(503, ""), "can not be asked: 503: Mind your token; "),
            (
                with(301, ""),
                "answers what is not its API (it redirects, 301",
            ),
            (ok("<html>"), "answers what is not its API (expected value"),
            (
                ok(json!({ "other": 1 })),
                "answers what is not its API (missing field",
            ),
            (Reply::Silence, "can not be asked: no answer within 2 s"),
            (
                Reply::With(404, "", String::new()),
                "has no zone that example.org is in; make the zone",
            ),
        ] {
            let fake = Fake::start(vec![reply]).await;
            let mut publisher = fake.publisher(provider, "token = \"t\"");
            let problem = publisher.zone_of("example.org").await.expect_err(wanted);
            let text = problem.to_string();
            assert!(
                text.starts_with(&format!("{} {wanted}", provider.name())),
                "{wanted}: {text}"
            );
            assert_eq!(fake.lines().len(), 1, "{text}");
        }
    }
}

#[tokio::test]
async fn an_api_is_never_spoken_to_in_clear() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = super::super::credentials_file(dir.path(), Provider::Hetzner);
    crate::config::files::create_dir(file.parent().expect("above"), 0o700).expect("made");
    let text = b"token = \"t\"\nurl = \"http://api.example.net\"\n";
    crate::config::files::replace(&file, text, 0o600).expect("written");
    let made = super::super::Publisher::of(&super::config(dir.path()), Provider::Hetzner);
    let problem = made.err().expect("refused").to_string();
    assert!(
        problem.contains("does not begin with https://"),
        "{problem}"
    );
}
