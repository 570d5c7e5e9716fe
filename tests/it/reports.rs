//! DMARC aggregate reports: what was judged is told to who asks for it, once, over restarts.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};
use mail_auth::report::{ActionDisposition, Discovery, DmarcResult, Report};

use crate::journey::{head, ip, mx, records};
use crate::oracle;
use crate::world::{PATIENCE, World};

const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const BAD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const MESSAGE: &[u8] = b"From: Her <her@news.src.example>\r\nTo: i@example.org\r\n\
    Date: Mon, 24 Nov 2025 16:00:00 +0000\r\nSubject: A letter\r\n\r\nHello.\r\n";

async fn send(world: &World, client: Ipv4Addr, code: u16) {
    let port = world.daemon().port("mx/starttls");
    let mut session = Client::connect_from(client.into(), port)
        .await
        .expect("connect");
    session.reply().await.expect("greeting");
    session
        .expect("EHLO mail.src.example", 250)
        .await
        .expect("EHLO");
    let answer = session
        .send("her@news.src.example", &["i@example.org"], MESSAGE)
        .await;
    assert_eq!(answer.expect("an answer").code, code);
}

/// Files of tallies.
fn files(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.data().join("reports/dmarc"));
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("entry").path())
        .collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c174_a_day_is_reported_once_to_those_who_want_it() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let config = "[incoming]\njudge_private = true\n[reports]\nspread = \"0s\"\n";
    let mut world = World::new(remote.address().port(), config).await;
    for domain in [
        "box.example",
        "src.example",
        "vendor.example",
        "victim.example",
    ] {
        mx(&world, domain, &remote).await;
        world.dns.a(&format!("mx.{domain}"), ip(&remote));
    }
    world.dns.txt(
        "_dmarc.src.example",
        "v=DMARC1; p=reject; aspf=s; rua=mailto:d@src.example, mailto:x@victim.example, \
         mailto:y@vendor.example!10m, mailto:small@src.example!100, https://x.example/, mailto:0",
    );
    world
        .dns
        .txt("src.example._report._dmarc.vendor.example", "v=DMARC1");
    world
        .dns
        .txt("news.src.example", &format!("v=spf1 ip4:{GOOD} -all"));
    world.start().await;
    send(&world, GOOD, 250).await;
    send(&world, GOOD, 250).await;
    send(&world, BAD, 550).await;
    until("three lines", || {
        let text = files(&world)
            .first()
            .map(|file| std::fs::read_to_string(file).expect("text"));
        text.unwrap_or_default().lines().count() == 3
    })
    .await;
    world.kill();
    // The day is over; a crash tore the last line.
    let today = files(&world).remove(0);
    let past = today.with_file_name("2026-11-20.jsonl");
    let mut text = std::fs::read_to_string(&today).expect("text");
    text.push_str("{\"domain\":\"src.exa");
    std::fs::write(&past, text).expect("write");
    std::fs::remove_file(&today).expect("removed");
    // A day long gone is not reported any more.
    let date: String = today
        .file_name()
        .expect("name")
        .to_string_lossy()
        .chars()
        .take(10)
        .collect();
    let yesterday: jiff::civil::Date = date.parse().expect("a date");
    let yesterday = yesterday.yesterday().expect("a day");
    let recent = past.with_file_name(format!("{yesterday}.jsonl"));
    std::fs::rename(&past, &recent).expect("renamed");
    std::fs::write(&past, std::fs::read(&recent).expect("text")).expect("write");
    world.start().await;
    until("the days are removed", || files(&world).is_empty()).await;
    let all = |remote: &Mx| -> Vec<_> {
        let received = remote.received().into_iter();
        received
            .filter(|one| head(&one.data).contains("Auto-Submitted: auto-generated"))
            .collect()
    };
    until("both have it", || {
        let received = all(&remote);
        received
            .iter()
            .map(|one| one.recipients.len())
            .sum::<usize>()
            == 2
    })
    .await;
    let received = all(&remote);
    let mut to: Vec<_> = received
        .iter()
        .flat_map(|one| one.recipients.clone())
        .collect();
    to.sort();
    assert_eq!(to, ["d@src.example", "y@vendor.example"]);
    let one = &received[0];
    assert_eq!(one.reverse_path, "");
    assert!(
        head(&one.data).contains("postmaster@example.org"),
        "{}",
        head(&one.data)
    );
    assert_eq!(oracle::dkimpy(&one.data, &records(&world)), (2, 2));
    let report = Report::parse_rfc5322(&one.data, 1 << 20).expect("a report");
    assert_eq!(report.domain(), "src.example");
    assert_eq!(report.org_name(), "mx.example.org");
    assert_eq!(report.date_range_end() - report.date_range_begin(), 86_399);
    assert_eq!(report.discovery_method(), Discovery::Treewalk);
    let rows = report.records();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].source_ip(), rows[0].count()),
        (Some(GOOD.into()), 2)
    );
    assert_eq!(rows[0].action_disposition(), ActionDisposition::Pass);
    assert_eq!(rows[0].dmarc_spf_result(), DmarcResult::Pass);
    assert_eq!(rows[0].header_from(), "news.src.example");
    assert_eq!(
        (rows[1].source_ip(), rows[1].count()),
        (Some(BAD.into()), 1)
    );
    assert_eq!(rows[1].action_disposition(), ActionDisposition::Reject);
    assert_eq!(rows[1].dmarc_spf_result(), DmarcResult::Fail);
    let read = oracle::report(&one.data);
    let texts = |path: &str| -> Vec<&str> {
        let own = read.iter().filter(|(found, _)| found == path);
        own.map(|(_, text)| text.as_str()).collect()
    };
    for (path, expected) in [
        ("/feedback/version", &["1.0"][..]),
        ("/feedback/report_metadata/org_name", &["mx.example.org"]),
        (
            "/feedback/report_metadata/email",
            &["postmaster@example.org"],
        ),
        ("/feedback/policy_published/domain", &["src.example"]),
        ("/feedback/policy_published/p", &["reject"]),
        ("/feedback/policy_published/aspf", &["s"]),
        ("/feedback/record/row/count", &["2", "1"]),
        (
            "/feedback/record/row/policy_evaluated/disposition",
            &["pass", "reject"],
        ),
        (
            "/feedback/record/auth_results/spf/result",
            &["pass", "fail"],
        ),
        (
            "/feedback/record/identifiers/envelope_from",
            &["news.src.example"; 2],
        ),
    ] {
        assert_eq!(texts(path), expected, "{path}");
    }
    // Once: not again after another start.
    world.stop().await;
    world.start().await;
    send(&world, GOOD, 250).await;
    until("the letters are there", || {
        remote.received().len() == received.len() + 3
    })
    .await;
    assert_eq!(all(&remote).len(), received.len());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_others_are_kept_and_added_up() {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), "").await;
    let (code, out, error) = world.run(&["report", "collect", "example.org"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("`chapar dns example.org`"), "{out}");
    let (_, records, _) = world.run(&["dns", "example.org"]);
    for record in [
        "p=quarantine; rua=mailto:reports@example.org",
        "v=TLSRPTv1; rua=mailto:reports@example.org",
    ] {
        assert!(records.contains(record), "{records}");
    }
    world.start().await;
    let json = "{\"organization-name\":\"Big Mail\",\"date-range\":{\"start-datetime\":\"2026-11-01T00:00:00Z\",\
        \"end-datetime\":\"2026-11-01T23:59:59Z\"},\"report-id\":\"r1\",\"policies\":[{\"policy\":\
        {\"policy-type\":\"tlsa\",\"policy-domain\":\"example.org\"},\"summary\":\
        {\"total-successful-session-count\":41,\"total-failure-session-count\":1},\"failure-details\":\
        [{\"result-type\":\"validation-failure\",\"receiving-mx-hostname\":\"mx.example.org\",\"failed-session-count\":1}]}]}";
    let message = format!(
        "From: <tls@big.example>\r\nSubject: Report Domain: example.org\r\nMIME-Version: 1.0\r\n\
         TLS-Report-Domain: example.org\r\nContent-Type: multipart/report; report-type=\"tlsrpt\"; boundary=\"b\"\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nA report.\r\n--b\r\nContent-Type: application/tlsrpt+json\r\n\
         Content-Disposition: attachment; filename=\"a.json\"\r\n\r\n{json}\r\n--b--\r\n"
    );
    for text in [
        message.clone(),
        message.replace("\"example.org\"", "\"other.example\""),
    ] {
        let mut client = world.mx().await;
        let answer = client
            .send("", &["reports@example.org"], text.as_bytes())
            .await;
        assert_eq!(answer.expect("an answer").code, 250);
    }
    world
        .wait_queue("both are read", |queue| queue.is_empty())
        .await;
    let (code, out, error) = world.run(&["report", "--json", "--days", "100000"]);
    assert_eq!(code, 0, "{error}");
    let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["reports"], 1, "{out}");
    assert_eq!(summary["tls"]["example.org"]["succeeded"], 41);
    assert_eq!(summary["tls"]["example.org"]["failed"], 1);
    let (_, out, _) = world.run(&["report", "--days", "100000"]);
    assert!(
        out.contains("example.org: 41 deliveries over TLS as wanted, 1 not"),
        "{out}"
    );
    assert!(
        out.contains("DANE: validation-failure at mx.example.org"),
        "{out}"
    );
    let file = world.dir.path().join("a.eml");
    std::fs::write(&file, &message).expect("write");
    let (code, out, _) = world.run(&["report", "read", &file.display().to_string()]);
    assert_eq!(code, 0);
    assert!(out.contains("Big Mail"), "{out}");
    std::fs::write(&file, "Hello").expect("write");
    let (code, _, error) = world.run(&["report", "read", &file.display().to_string()]);
    assert_eq!(code, 65);
    assert!(error.contains("no DMARC or TLS report in it"), "{error}");
    world.stop().await;
}
