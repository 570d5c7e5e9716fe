//! RFC 2136 against BIND.

use std::time::Duration;

use super::super::data::{Data, Kind};
use super::super::{Edit, NotVisible, Problem, Provider, Publisher, TTL, Visibility};
use super::{config, record};
use crate::config::Dns;
use crate::dns::Resolver;
use crate::lab::Named;

const ZONES: [(&str, &str); 2] = [
    ("example.org", "@ TXT \"site=1\"\nwww A 192.0.2.80"),
    ("sub.example.org", ""),
];

async fn world(key: &str) -> (Named, tempfile::TempDir, Publisher) {
    let named = Named::start(&ZONES)
        .await
        .expect("named; tests/run installs it");
    let dir = tempfile::tempdir().expect("a directory");
    named.credentials(dir.path(), key).expect("written");
    let publisher = Publisher::of(&config(dir.path()), Provider::Rfc2136).expect("credentials");
    (named, dir, publisher)
}

#[tokio::test]
async fn every_type_comes_and_goes_and_what_others_have_stays() {
    let (_named, _dir, mut publisher) = world(Named::KEY).await;
    let long = format!("\"v=DKIM1; p={}\"", "A".repeat(600));
    let records = [
        record("mx.example.org", Kind::A, "192.0.2.1"),
        record("mx.example.org", Kind::Aaaa, "2001:db8::1"),
        record("example.org", Kind::Mx, "10 mx.example.org."),
        record("example.org", Kind::Txt, "\"v=spf1 a:mx.example.org ~all\""),
        record(
            "k._domainkey.example.org",
            Kind::Txt,
            &long.replace("\"", ""),
        ),
        record("mta-sts.example.org", Kind::Cname, "mx.example.org."),
        record(
            "_submissions._tcp.example.org",
            Kind::Srv,
            "0 1 465 mx.example.org.",
        ),
        record("mx.example.org", Kind::Caa, "0 issue \"letsencrypt.org\""),
        record(
            "_25._tcp.mx.example.org",
            Kind::Tlsa,
            &format!("3 1 1 {}", "0f".repeat(32)),
        ),
        record("_dmarc.sub.example.org", Kind::Txt, "\"v=DMARC1; p=none\""),
    ];
    let names: Vec<String> = records.iter().map(|record| record.name.clone()).collect();
    let edits: Vec<Edit> = records
        .iter()
        .map(|record| Edit::add(record, TTL))
        .collect();
    publisher.apply(&edits).await.expect("published");
    let mut found = publisher.records(&names).await.expect("looked up");
    found.sort();
    let site = record("example.org", Kind::Txt, "\"site=1\"");
    let mut wanted = [records.to_vec(), vec![site.clone()]].concat();
    wanted.sort();
    assert_eq!(found, wanted);
    // The longest zone.
    assert_eq!(
        publisher.zone_of("_dmarc.sub.example.org").await.as_deref(),
        Ok("sub.example.org")
    );

    // In place of another, and twice the same.
    let spf = Edit {
        name: "example.org".into(),
        remove: Some(Data::Text("v=spf1 a:mx.example.org ~all".into())),
        add: Some(Data::Text("v=spf1 -all".into())),
        ttl: TTL,
    };
    publisher
        .apply(&[spf.clone(), spf])
        .await
        .expect("replaced");
    let here = publisher
        .records(&["example.org".to_owned()])
        .await
        .expect("looked up");
    let texts: Vec<&str> = here
        .iter()
        .filter_map(|record| record.data.text())
        .collect();
    assert_eq!(texts.len(), 2);
    assert!(texts.contains(&"v=spf1 -all") && texts.contains(&"site=1"));

    let gone: Vec<Edit> = wanted.iter().map(Edit::remove).collect();
    publisher.apply(&gone).await.expect("removed");
    let left = publisher.records(&names).await.expect("looked up");
    assert_eq!(left, [record("example.org", Kind::Txt, "\"v=spf1 -all\"")]);
}

#[tokio::test]
async fn two_answers_for_the_ca_live_at_one_name() {
    let (_named, _dir, mut publisher) = world(Named::KEY).await;
    let name = "_acme-challenge.example.org";
    let both = ["one", "two"].map(|text| record(name, Kind::Txt, text));
    for record in &both {
        publisher
            .apply(&[Edit::add(record, 60)])
            .await
            .expect("added");
    }
    let mut found = publisher.records(&[name.to_owned()]).await.expect("found");
    found.sort();
    assert_eq!(found, both);
    publisher
        .apply(&[Edit::remove(&both[0])])
        .await
        .expect("removed");
    let left = publisher.records(&[name.to_owned()]).await.expect("found");
    assert_eq!(left, both[1..]);
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let (named, dir, mut publisher) = world(Named::READER).await;
    let edit = Edit::add(&record("a.example.org", Kind::A, "192.0.2.1"), TTL);
    let refused = publisher
        .apply(std::slice::from_ref(&edit))
        .await
        .expect_err("may not");
    assert!(
        refused
            .to_string()
            .contains("REFUSED: the key may not change this; give it update-policy"),
        "{refused}"
    );
    let elsewhere = publisher
        .zone_of("mx.example.com")
        .await
        .expect_err("no zone");
    assert!(matches!(elsewhere, Problem::NoZone { .. }), "{elsewhere}");

    named
        .credentials(dir.path(), "nobody.key")
        .expect("written");
    let config = config(dir.path());
    let mut unknown = Publisher::of(&config, Provider::Rfc2136).expect("credentials");
    let denied = unknown
        .apply(std::slice::from_ref(&edit))
        .await
        .expect_err("no such key");
    assert!(
        denied
            .to_string()
            .contains("it knows no key of this name and algorithm"),
        "{denied}"
    );

    let file = super::super::credentials_file(dir.path(), Provider::Rfc2136);
    let text = std::fs::read_to_string(&file)
        .expect("read")
        .replace("nobody", "chapar");
    std::fs::write(&file, text.replace(Named::SECRET, "AAAA")).expect("written");
    let mut wrong = Publisher::of(&config, Provider::Rfc2136).expect("credentials");
    let denied = wrong
        .apply(std::slice::from_ref(&edit))
        .await
        .expect_err("another secret");
    assert!(
        denied.to_string().contains("another secret for this key"),
        "{denied}"
    );

    let at = named.address().to_string();
    drop(named);
    std::fs::write(&file, text).expect("written");
    let mut gone = Publisher::of(&config, Provider::Rfc2136).expect("credentials");
    let away = gone
        .apply(std::slice::from_ref(&edit))
        .await
        .expect_err("nobody there");
    assert!(
        matches!(&away, Problem::Away { why, .. } if why.starts_with(&at)),
        "{away}"
    );

    // One that takes connections and is silent.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let there = silent.local_addr().expect("an address").to_string();
    let text = std::fs::read_to_string(&file)
        .expect("read")
        .replace(&at, &there);
    std::fs::write(&file, text).expect("written");
    let mut slow = Publisher::of(&config, Provider::Rfc2136).expect("credentials");
    let away = slow.apply(&[edit]).await.expect_err("silence");
    assert!(away.to_string().contains("no answer within 2 s"), "{away}");
}

#[test]
fn credentials_must_be_ours_alone_and_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let problem = || match Publisher::of(&config, Provider::Rfc2136) {
        Err(problem) => problem.to_string(),
        Ok(_) => "none".to_owned(),
    };
    assert!(
        problem().contains("secrets/dns/rfc2136.toml: No such file"),
        "{}",
        problem()
    );
    let file = super::super::credentials_file(dir.path(), Provider::Rfc2136);
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("made");
    let write = |text: &str, mode| {
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mode");
    };
    write("server = \"127.0.0.1\"\n", 0o644);
    assert!(
        problem().contains("others can read it (mode 644)"),
        "{}",
        problem()
    );
    write("server = \"127.0.0.1\"\nsecret = \"hush\"\n", 0o600);
    assert!(problem().contains("missing field `key`"), "{}", problem());
    assert!(!problem().contains("hush"), "a secret is not shown");
    write(
        "server = \"127.0.0.1\"\nkey = \"k\"\nsecret = \"hush!\"\n",
        0o600,
    );
    assert!(problem().contains("secret is no base64"), "{}", problem());
    write(
        "server = \"127.0.0.1\"\nkey = \"k\"\nsecret = \"AAAA\"\nalgorithm = \"hmac-md5\"\n",
        0o600,
    );
    assert!(problem().contains("hmac-md5"), "{}", problem());
}

#[tokio::test]
async fn it_is_waited_until_the_servers_of_the_zone_show_a_record() {
    let (named, _dir, mut publisher) = world(Named::KEY).await;
    let resolver = Resolver::new(&Dns {
        servers: vec![named.address()],
        ..Dns::default()
    });
    let resolver = resolver.expect("a resolver");
    let looks = |port, wait| Visibility {
        resolver: &resolver,
        port,
        wait: Duration::from_millis(wait),
    };
    let port = named.address().port();
    let text = record("_acme-challenge.example.org", Kind::Txt, "abc");
    let wanted = [
        record("www.example.org", Kind::A, "192.0.2.80"),
        text.clone(),
    ];
    let not_yet = looks(port, 700).wait("example.org", &wanted).await;
    let not_yet = not_yet.expect_err("it is not published").to_string();
    assert!(
        not_yet.ends_with(
            "ns.example.org (127.0.0.1) does not show _acme-challenge.example.org. TXT \"abc\""
        ),
        "{not_yet}"
    );
    let later = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        publisher
            .apply(&[Edit::add(&text, 60)])
            .await
            .expect("published");
    };
    let long = looks(port, 30_000);
    let (seen, ()) = tokio::join!(long.wait("example.org", &wanted), later);
    assert_eq!(seen, Ok(()));
    // Nobody listens there.
    let silent = looks(1, 100).wait("example.org", &wanted).await;
    assert!(
        matches!(silent, Err(NotVisible::Silent { .. })),
        "{silent:?}"
    );
    let nobody = looks(port, 100).wait("www.example.org", &wanted).await;
    assert!(
        matches!(nobody, Err(NotVisible::NoServers { .. })),
        "{nobody:?}"
    );
}
