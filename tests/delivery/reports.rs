//! TLS-RPT (RFC 8460): what happens to sessions is counted, kept, and sent to those who ask for it.

use std::io::Read;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler};
use chapar::config::Config;
use chapar::dns::Resolver;
use chapar::identity::Identity as Domains;
use chapar::lab::{Identity, Page, Site};
use chapar::message::Body;
use chapar::queue::{Accept, AcceptError, IdSource};
use chapar::report::{Means, Reports, Save, Tick};
use chapar::signing::{Sign, SignError};
use queue_schema::QueueId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::sts::{Lab, policy, with};
use crate::world::World;

const HOST: &str = "mx.example.com";
const DAY: u64 = 86_400_000;

/// Stands where signer and queue are.
struct Ear(mpsc::UnboundedSender<Accept>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<Sign> for Ear {
    type Result = Result<bytes::Bytes, SignError>;

    fn handle(&mut self, sign: Sign, _: &mut Context<Self>) -> Self::Result {
        Ok(format!("DKIM-Signature: d={}\r\n", sign.domain).into())
    }
}

impl Handler<Accept> for Ear {
    type Result = Result<QueueId, AcceptError>;

    fn handle(&mut self, accept: Accept, _: &mut Context<Self>) -> Self::Result {
        let id = accept.id;
        self.0.send(accept).expect("a test that listens");
        Ok(id)
    }
}

fn reports(lab: &Lab, config: &Config) -> (Addr<Reports>, mpsc::UnboundedReceiver<Accept>) {
    let (sender, taken) = mpsc::unbounded_channel();
    let ear = Ear(sender).start();
    let domain = lab.dir.path().join("domains/example.org");
    std::fs::create_dir_all(&domain).expect("a directory");
    let toml = "mode = \"send-only\"\nselectors = [\"s1\"]\n";
    std::fs::write(domain.join("domain.toml"), toml).expect("written");
    let means = Means {
        config: Arc::new(config.clone()),
        identity: Domains::load(lab.dir.path(), "").expect("domains").into(),
        resolver: Resolver::new(&config.dns).expect("a resolver"),
        signer: ear.clone().recipient(),
        queue: ear.recipient(),
        ids: IdSource::new(QueueId::floor(1)),
    };
    (Reports::new(means).start(), taken)
}

fn unzipped(zip: &[u8]) -> Value {
    let mut text = String::new();
    let read = flate2::read::GzDecoder::new(zip).read_to_string(&mut text);
    read.expect("gzip");
    serde_json::from_str(&text).expect("JSON")
}

async fn ticked(reports: &Addr<Reports>, days: u64) -> usize {
    let at = chapar::time::now() + days * DAY;
    reports.send(Tick(at)).await.expect("an answer")
}

#[actix::test]
async fn what_happened_is_counted_kept_and_sent_once_by_mail_and_https() {
    let lab = Lab::new(policy("testing", HOST), |ca| {
        with(ca.issue_expired(HOST).expect("a certificate"))
    })
    .await;
    let own = Identity::self_signed("wrong.example").expect("a certificate");
    let taker = Site::start(([127, 0, 0, 1], 0).into(), own, Page::status(201)).await;
    let taker = taker.expect("a web server");
    let port = taker.address().port();
    lab.dns.a("reports.example.com", [127, 0, 0, 1].into());
    let record =
        format!("v=TLSRPTv1; rua=mailto:tls@example.com,https://reports.example.com:{port}/v1");
    lab.dns.txt("_smtp._tls.example.com", &record);
    // The same host, without a policy and without a wish for reports.
    lab.dns.mx("other.example", 10, HOST);
    let mut config = crate::world::config(&lab.dns, lab.mx.address().port());
    lab.configure(&mut config);
    config.delivery.keep_idle = chapar::config::Span::secs(0);

    let (counting, _taken) = reports(&lab, &config);
    let mut world = World::counted(
        lab.dns.clone(),
        config.clone(),
        counting.clone().recipient(),
    );
    for to in ["a@example.com", "b@example.com", "c@other.example"] {
        world.send(&[to]).await;
        assert!(world.outcome().await.contains(" delivered "));
        lab.mx.wait_closed().await;
    }
    world.end().await;
    counting.send(Save).await.expect("an answer");
    assert_eq!(ticked(&counting, 0).await, 0, "the day is not over");
    drop(counting);

    // A daemon that starts the next day knows of it.
    let (sending, mut taken) = reports(&lab, &config);
    assert_eq!(ticked(&sending, 1).await, 2);
    let asked = taker.wait(1).await;
    assert_eq!(asked[0].line, "POST /v1");
    assert_eq!(asked[0].kind, "application/tlsrpt+gzip");
    let report = unzipped(&asked[0].body);
    let today = chapar::time::text(chapar::time::now())[..10].to_owned();
    assert_eq!(report["organization-name"], "example.org");
    assert_eq!(report["contact-info"], "postmaster@example.org");
    let start = format!("{today}T00:00:00Z");
    assert_eq!(report["date-range"]["start-datetime"], start.as_str());
    let one = &report["policies"][0];
    assert_eq!(report["policies"].as_array().map(Vec::len), Some(1));
    let under = json!({
        "policy-type": "sts",
        "policy-string": ["version: STSv1", "mode: testing", "mx: mx.example.com", "max_age: 86400"],
        "policy-domain": "example.com",
        "mx-host": ["mx.example.com"],
    });
    assert_eq!(one["policy"], under);
    let summary = json!({
        "total-successful-session-count": 0,
        "total-failure-session-count": 2,
    });
    assert_eq!(one["summary"], summary);
    let details = &one["failure-details"];
    assert!(
        details.as_array().is_some_and(|all| all
            .iter()
            .all(|one| one["result-type"] == "certificate-expired")),
        "{details}"
    );
    assert_eq!(details[0]["receiving-mx-hostname"], HOST);
    assert_eq!(details[0]["receiving-ip"], "127.0.0.1");
    assert_eq!(details[0]["sending-mta-ip"], "127.0.0.1");

    let mail = taken.recv().await.expect("a mail");
    assert!(taken.try_recv().is_err(), "one domain asks for mail");
    assert_eq!(mail.envelope.recipients[0].address, "tls@example.com");
    assert_eq!(mail.envelope.mail_from(), "");
    let head = String::from_utf8(mail.content.head.to_vec()).expect("text");
    assert!(
        head.starts_with("DKIM-Signature: d=example.org\r\nFrom: postmaster@example.org\r\n"),
        "{head}"
    );
    assert!(
        head.contains(
            "\r\nTLS-Report-Domain: example.com\r\nTLS-Report-Submitter: example.org\r\n"
        )
    );
    assert!(head.contains("multipart/report; report-type=\"tlsrpt\""));
    let Body::Memory(body) = &mail.content.body else {
        panic!("a small body");
    };
    let body = String::from_utf8(body.to_vec()).expect("text");
    let part = body.split("\r\n\r\n").last().expect("a part");
    let part: String = part
        .lines()
        .take_while(|line| !line.starts_with("--"))
        .collect();
    use base64::Engine as _;
    let zip = base64::engine::general_purpose::STANDARD.decode(part);
    assert_eq!(unzipped(&zip.expect("base64")), report);

    // Sent is sent, also after a restart; the other domain asked for nothing.
    assert_eq!(ticked(&sending, 1).await, 0);
    sending.send(Save).await.expect("an answer");
    let (again, _taken) = reports(&lab, &config);
    assert_eq!(ticked(&again, 1).await, 0);
    assert_eq!(taker.asked().len(), 1);
}

#[actix::test]
async fn a_report_that_is_refused_is_tried_again() {
    let lab = Lab::new(policy("enforce", HOST), crate::sts::good).await;
    let own = Identity::self_signed("reports.example.com").expect("a certificate");
    let taker = Site::start(([127, 0, 0, 1], 0).into(), own, Page::status(503)).await;
    let taker = taker.expect("a web server");
    lab.dns.a("reports.example.com", [127, 0, 0, 1].into());
    let port = taker.address().port();
    let record = format!("v=TLSRPTv1; rua=https://reports.example.com:{port}/v1");
    lab.dns.txt("_smtp._tls.example.com", &record);
    let mut config = crate::world::config(&lab.dns, lab.mx.address().port());
    lab.configure(&mut config);
    let (reports, _taken) = reports(&lab, &config);
    let mut world = World::counted(lab.dns.clone(), config, reports.clone().recipient());
    world.send(&["a@example.com"]).await;
    assert!(world.outcome().await.contains(" delivered "));
    world.end().await;
    for days in [1, 2] {
        assert_eq!(ticked(&reports, days).await, 0);
    }
    assert_eq!(taker.asked().len(), 2);
    taker.answer(Some(Page::status(200)));
    assert_eq!(ticked(&reports, 2).await, 1);
    let report = unzipped(&taker.asked()[2].body);
    let summary = &report["policies"][0]["summary"];
    assert_eq!(summary["total-successful-session-count"], 1);
    assert_eq!(summary["total-failure-session-count"], 0);
    assert_eq!(ticked(&reports, 2).await, 0);
}

/// RFC 8460 section 3: a report on a policy that fails must not fail with it, and its own session
/// is in no report.
#[actix::test]
async fn a_report_is_delivered_whatever_the_policy_it_is_about_demands() {
    let lab = Lab::new(policy("enforce", HOST), |ca| {
        with(ca.issue_expired(HOST).expect("a certificate"))
    })
    .await;
    lab.dns.txt(
        "_smtp._tls.example.com",
        "v=TLSRPTv1; rua=mailto:tls@example.com",
    );
    let mut config = crate::world::config(&lab.dns, lab.mx.address().port());
    lab.configure(&mut config);
    let (reports, mut taken) = reports(&lab, &config);
    let mut world = World::counted(lab.dns.clone(), config, reports.clone().recipient());
    world.send(&["a@example.com"]).await;
    assert!(world.outcome().await.contains(" deferred 451 4.7.5 "));
    assert_eq!(ticked(&reports, 1).await, 1);
    let report = taken.recv().await.expect("a mail");
    let head = String::from_utf8(report.content.head.to_vec()).expect("text");
    assert!(head.contains("\r\nTLS-Required: No\r\n"), "{head}");
    let mut message = world.message(&["tls@example.com"]);
    message.envelope.reverse_path.clear();
    world.wake(message, Some(report.content)).await;
    let (message, attempt) = world.heard().await;
    let text = crate::world::text(&message, &attempt);
    assert_eq!(text, "tls@example.com delivered 250 2.0.0 Ok: queued");
    assert!(attempt.tls.ends_with(" unverified"), "{}", attempt.tls);
    world.end().await;
    assert_eq!(ticked(&reports, 1).await, 0);
}
