//! MTA-STS (RFC 8461): policies from a real https server with a CA of its own, enforced for each
//! domain, kept while they last.

use std::sync::Arc;
use std::time::Duration;

use chapar::config::{Config, Span};
use chapar::delivery::Resume;
use chapar::lab::{Act, Ca, DnsServer, Identity, Mx, MxConfig, Page, Site, Stage};
use queue_schema::Message;

use crate::world::{World, hosts, ip, small};

const DELIVERED: &str = "a@example.com delivered 250 2.0.0 Ok: queued";
const HOST: &str = "mx.example.com";

/// Policy host, CA, mail host; the world comes and goes.
pub struct Lab {
    pub ca: Ca,
    pub dir: tempfile::TempDir,
    pub dns: DnsServer,
    pub site: Site,
    pub mx: Mx,
}

pub fn policy(mode: &str, mx: &str) -> Page {
    Page::text(&format!(
        "version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n"
    ))
}

impl Lab {
    /// example.com has this policy and this mail host.
    pub async fn new(page: Page, mx: impl FnOnce(&Ca) -> MxConfig) -> Lab {
        let ca = Ca::new("Lab CA").expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("written");
        let identity = ca.issue("mta-sts.example.com").expect("a certificate");
        let site = Site::start(([127, 0, 0, 1], 0).into(), identity, page).await;
        let mx = Mx::start(mx(&ca)).await.expect("an MX");
        let dns = DnsServer::start().await.expect("a DNS server");
        dns.mx("example.com", 10, HOST);
        dns.a(HOST, ip(&mx));
        dns.a("mta-sts.example.com", [127, 0, 0, 1].into());
        dns.txt("_mta-sts.example.com", "v=STSv1; id=1;");
        let site = site.expect("a web server");
        Lab {
            ca,
            dir,
            dns,
            site,
            mx,
        }
    }

    pub fn configure(&self, config: &mut Config) {
        config.tls.ca_file = self.dir.path().join("ca.pem").display().to_string();
        config.tls.mta_sts_port = self.site.address().port();
        config.tls.mta_sts_time = Span::secs(2);
        config.data_dir = self.dir.path().to_path_buf();
    }

    fn world(&self) -> World {
        self.world_and(|_| {})
    }

    fn world_and(&self, change: impl FnOnce(&mut Config)) -> World {
        let port = self.mx.address().port();
        World::with_dns(self.dns.clone(), port, Default::default(), |config| {
            self.configure(config);
            change(config);
        })
    }

    fn mails(&self) -> usize {
        let log = self.mx.log();
        log.iter()
            .filter(|line| line.line.starts_with("MAIL"))
            .count()
    }
}

pub fn good(ca: &Ca) -> MxConfig {
    with(ca.issue(HOST).expect("a certificate"))
}

pub fn with(identity: Identity) -> MxConfig {
    MxConfig {
        starttls: true,
        identity: Some(identity),
        ..MxConfig::default()
    }
}

/// What became of a message, and over which TLS.
async fn sent(world: &mut World, to: &str) -> (String, String) {
    world.send(&[to]).await;
    let (message, attempt) = world.heard().await;
    (crate::world::text(&message, &attempt), attempt.tls)
}

#[actix::test]
async fn an_enforced_policy_is_kept_and_the_record_says_how() {
    let lab = Lab::new(policy("enforce", "*.example.com"), good).await;
    let mut world = lab.world();
    let (outcome, tls) = sent(&mut world, "a@example.com").await;
    assert_eq!(outcome, DELIVERED);
    assert!(
        tls.starts_with("TLSv1.3 TLS13_") && tls.ends_with(" mta-sts"),
        "{tls}"
    );
    let asked = lab.site.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "GET /.well-known/mta-sts.txt");
    assert_eq!(asked[0].host, "mta-sts.example.com");
    // As long as the id is the same the policy is not fetched again; a new one is.
    sent(&mut world, "a@example.com").await;
    assert_eq!(lab.site.asked().len(), 1);
    lab.dns.remove("_mta-sts.example.com");
    lab.dns.txt("_mta-sts.example.com", "v=STSv1; id=2;");
    sent(&mut world, "a@example.com").await;
    assert_eq!(lab.site.asked().len(), 2);
    world.end().await;
}

#[actix::test]
async fn c079_what_breaks_an_enforced_policy_defers_and_is_only_reported_while_it_is_tested() {
    type Make = fn(&Ca) -> MxConfig;
    let expired: Make = |ca| with(ca.issue_expired(HOST).expect("a certificate"));
    let own: Make = |_| with(Identity::self_signed(HOST).expect("a certificate"));
    let other: Make = |ca| with(ca.issue("other.example.com").expect("a certificate"));
    let none: Make = |_| MxConfig::default();
    for (make, why) in [
        (expired, "certificate expired"),
        (own, "UnknownIssuer"),
        (other, "not valid for name \"mx.example.com\""),
        (none, "the server offers no STARTTLS"),
    ] {
        let lab = Lab::new(policy("enforce", HOST), make).await;
        let mut world = lab.world();
        let (outcome, _) = sent(&mut world, "a@example.com").await;
        let begins = "a@example.com deferred 451 4.7.5 mx.example.com[127.0.0.1]:";
        assert!(outcome.starts_with(begins), "{outcome}");
        assert!(outcome.contains(why), "{why}: {outcome}");
        let ends = "; the MTA-STS policy of example.com demands it";
        assert!(outcome.ends_with(ends), "{outcome}");
        assert_eq!(lab.mails(), 0, "{why}");
        // The same host may have the mail of all others.
        lab.dns.mx("other.example", 10, HOST);
        let (outcome, _) = sent(&mut world, "b@other.example").await;
        assert_eq!(
            outcome, "b@other.example delivered 250 2.0.0 Ok: queued",
            "{why}"
        );
        world.end().await;

        let lab = Lab::new(policy("testing", HOST), make).await;
        let mut world = lab.world();
        let (outcome, tls) = sent(&mut world, "a@example.com").await;
        assert_eq!(outcome, DELIVERED, "{why}");
        assert!(tls.is_empty() || tls.ends_with(" unverified"), "{tls}");
        world.end().await;
    }
}

#[actix::test]
async fn starttls_that_is_refused_or_breaks_is_never_made_up_for_in_clear() {
    let lab = Lab::new(policy("enforce", HOST), good).await;
    let mut world = lab.world();
    lab.mx
        .on(Stage::StartTls, |_| Act::reply("454 4.7.0 not now"));
    let (outcome, _) = sent(&mut world, "a@example.com").await;
    assert!(outcome.starts_with("a@example.com deferred 4"), "{outcome}");
    world.end().await;
    let mut world = lab.world();
    lab.mx.on(Stage::StartTls, |_| {
        Act::Raw(b"220 go\r\nxxxxxxxxxxxx".to_vec())
    });
    let (outcome, _) = sent(&mut world, "a@example.com").await;
    assert!(outcome.starts_with("a@example.com deferred 4"), "{outcome}");
    assert_eq!((lab.mails(), lab.mx.taken()), (0, 0));
    world.end().await;
}

#[actix::test]
async fn c080_hosts_that_the_policy_does_not_name_are_left_out() {
    let lab = Lab::new(policy("enforce", "*.dom.example"), good).await;
    let (first, second) = (
        lab.ca.issue("mx1.other.example").expect("a certificate"),
        lab.ca.issue("mx.dom.example").expect("a certificate"),
    );
    let hosts = hosts(vec![with(first), with(second)]).await;
    let identity = lab.ca.issue("mta-sts.dom.example").expect("a certificate");
    lab.site.be(identity);
    lab.dns.a("mta-sts.dom.example", [127, 0, 0, 1].into());
    lab.dns.txt("_mta-sts.dom.example", "v=STSv1; id=1;");
    lab.dns.mx("dom.example", 10, "mx1.other.example");
    lab.dns.mx("dom.example", 20, "mx.dom.example");
    lab.dns.a("mx1.other.example", ip(&hosts[0]));
    lab.dns.a("mx.dom.example", ip(&hosts[1]));
    let port = hosts[0].address().port();
    let mut world = World::with_dns(lab.dns.clone(), port, Default::default(), |config| {
        lab.configure(config);
    });
    let (outcome, tls) = sent(&mut world, "a@dom.example").await;
    assert_eq!(outcome, "a@dom.example delivered 250 2.0.0 Ok: queued");
    assert!(tls.ends_with(" mta-sts"), "{tls}");
    assert_eq!((hosts[0].connections(), hosts[1].taken()), (0, 1));
    lab.dns.remove("dom.example");
    lab.dns.mx("dom.example", 10, "mx1.other.example");
    let (outcome, _) = sent(&mut world, "a@dom.example").await;
    assert_eq!(
        outcome,
        "a@dom.example deferred 451 4.7.5 mx1.other.example is not among the hosts of the \
         MTA-STS policy of dom.example: mx mismatch"
    );
    assert_eq!(hosts[0].connections(), 0);
    world.end().await;
}

#[actix::test]
async fn c083_a_kept_policy_stays_in_force_while_nothing_newer_can_be_had() {
    let lab = Lab::new(policy("enforce", HOST), good).await;
    let mut world = lab.world();
    assert_eq!(sent(&mut world, "a@example.com").await.0, DELIVERED);
    world.end().await;
    // From now on the mail host offers no TLS, as behind someone who strips it.
    let stripped = Mx::start(MxConfig::default()).await.expect("an MX");
    let lab = Lab {
        mx: stripped,
        ..lab
    };
    let redirect = Page {
        status: 302,
        headers: vec![("location", "https://elsewhere.example/".to_owned())],
        ..Page::status(302)
    };
    let good = lab.ca.issue("mta-sts.example.com").expect("a certificate");
    let bad = Identity::self_signed("mta-sts.example.com").expect("a certificate");
    let record = |id: Option<&str>| {
        lab.dns.remove("_mta-sts.example.com");
        if let Some(id) = id {
            lab.dns
                .txt("_mta-sts.example.com", &format!("v=STSv1; id={id};"));
        }
    };
    for (number, what) in [
        "status 500",
        "no record",
        "SERVFAIL",
        "redirect",
        "bad certificate",
        "silence",
    ]
    .into_iter()
    .enumerate()
    {
        record(Some(&format!("new{number}")));
        lab.site.answer(Some(Page::status(500)));
        lab.site.be(good.clone());
        match what {
            "no record" => record(None),
            "SERVFAIL" => lab.dns.servfail("_mta-sts.example.com"),
            "redirect" => lab.site.answer(Some(redirect.clone())),
            "bad certificate" => {
                lab.site.be(bad.clone());
                lab.site.answer(Some(policy("none", HOST)));
            }
            "silence" => lab.site.answer(None),
            _ => {}
        }
        // Each in a daemon of its own: the policy comes from disk.
        let mut world = lab.world();
        let (outcome, _) = sent(&mut world, "a@example.com").await;
        assert!(
            outcome.starts_with("a@example.com deferred 451 4.7.5")
                && outcome.contains("no STARTTLS"),
            "{what}: {outcome}"
        );
        world.end().await;
    }
    assert_eq!(lab.mx.taken(), 0);
    // A policy of "none" ends it.
    record(Some("last"));
    lab.site.be(good);
    lab.site.answer(Some(policy("none", HOST)));
    let mut world = lab.world();
    assert_eq!(sent(&mut world, "a@example.com").await.0, DELIVERED);
    world.end().await;
}

#[actix::test]
async fn c083_whoever_was_never_reached_has_no_policy() {
    let long = format!(
        "version: STSv1\nmode: enforce\nmx: {HOST}\nmax_age: 9\n{}",
        "x: y\n".repeat(14_000)
    );
    let html = Page {
        headers: vec![("content-type", "text/html".to_owned())],
        ..policy("enforce", HOST)
    };
    let redirect = Page {
        status: 301,
        headers: vec![("location", "/".to_owned())],
        ..Page::status(301)
    };
    for (what, page) in [
        ("an error", Page::status(503)),
        ("a redirect", redirect),
        ("too much", Page::text(&long)),
        ("another type", html),
        ("no policy", Page::text("hello\n")),
    ] {
        let lab = Lab::new(page, |_| MxConfig::default()).await;
        let mut world = lab.world();
        assert_eq!(
            sent(&mut world, "a@example.com").await.0,
            DELIVERED,
            "{what}"
        );
        // And is not asked again for every message.
        assert_eq!(
            sent(&mut world, "a@example.com").await.0,
            DELIVERED,
            "{what}"
        );
        assert_eq!(lab.site.asked().len(), 1, "{what}");
        world.end().await;
    }
    // Silence costs the domain its time, and nobody else anything.
    let lab = Lab::new(policy("enforce", HOST), |_| MxConfig::default()).await;
    lab.site.answer(None);
    lab.dns.mx("other.example", 10, HOST);
    let mut world = lab.world();
    let begun = std::time::Instant::now();
    world.send(&["a@example.com"]).await;
    world.send(&["b@other.example"]).await;
    assert_eq!(
        world.outcome().await,
        "b@other.example delivered 250 2.0.0 Ok: queued"
    );
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(world.outcome().await, DELIVERED);
    world.end().await;
}

#[actix::test]
async fn rules_of_the_operator_replace_the_policy() {
    let rules = |text: &str| {
        let text = format!("hostname = \"mx.example.org\"\ntls.domains = {text}");
        let config = Config::parse(&text, "test", "/".as_ref()).expect("a configuration");
        config.tls.domains
    };
    let lab = Lab::new(policy("enforce", "elsewhere.example"), |_| {
        with(Identity::self_signed(HOST).expect("a certificate"))
    })
    .await;
    for (rule, outcome, how) in [
        ("may", DELIVERED, "unverified"),
        ("encrypt", DELIVERED, "unverified"),
        ("never", DELIVERED, ""),
        ("verify", "deferred 451 4.7.5", ""),
    ] {
        let rules = rules(&format!("{{ \"example.com\" = \"{rule}\" }}"));
        let mut world = lab.world_and(|config| config.tls.domains = rules);
        let (got, tls) = sent(&mut world, "a@example.com").await;
        assert!(got.contains(outcome), "{rule}: {got}");
        assert!(
            tls.ends_with(how) && (tls.is_empty() == how.is_empty()),
            "{rule}: {tls}"
        );
        if rule == "verify" {
            assert!(
                got.ends_with("; tls.domains says verify for example.com"),
                "{got}"
            );
        }
        world.end().await;
    }
    assert_eq!(lab.site.asked().len(), 0);
    let plain = Lab::new(policy("none", HOST), |_| MxConfig::default()).await;
    let encrypt = rules("{ \"*.com\" = \"encrypt\" }");
    let mut world = plain.world_and(|config| config.tls.domains = encrypt);
    let (got, _) = sent(&mut world, "a@example.com").await;
    assert!(
        got.contains("no STARTTLS; tls.domains says encrypt"),
        "{got}"
    );
    assert_eq!(plain.mails(), 0);
    world.end().await;
}

#[actix::test]
async fn an_enforced_policy_vouches_for_the_hosts_of_requiretls() {
    let strict = |world: &mut World| -> Message {
        let mut message = world.message(&["a@example.com"]);
        message.envelope.require_tls = true;
        message
    };
    for (mode, outcome) in [("enforce", "delivered"), ("testing", "failed 550 5.7.30")] {
        let lab = Lab::new(policy(mode, HOST), |ca| MxConfig {
            require_tls: true,
            ..good(ca)
        })
        .await;
        let mut world = lab.world();
        let message = strict(&mut world);
        world.wake(message, Some(small("secret"))).await;
        let got = world.outcome().await;
        assert!(got.contains(outcome), "{mode}: {got}");
        world.end().await;
    }
}

#[actix::test]
async fn a_policy_is_fetched_again_before_it_ends() {
    use actix::Actor;
    use chapar::dns::Resolver;
    use chapar::tls::sts::{Ask, Fetcher, Policies, Refresh, directory};
    let lab = Lab::new(policy("enforce", HOST), good).await;
    let mut config = crate::world::config(&lab.dns, 25);
    lab.configure(&mut config);
    let resolver = Resolver::new(&config.dns).expect("a resolver");
    let fetcher = || Fetcher::new(&config, resolver.clone()).expect("roots");
    let dir = directory(&config.data_dir);
    let keeper = Policies::new(fetcher(), dir.clone()).start();
    let ask = || Ask("example.com".to_owned());
    let answer = keeper.send(ask()).await.expect("an answer");
    assert_eq!(answer.policy.expect("a policy").max_age, 86_400);
    let refresh = || async { keeper.send(Refresh).await.expect("an answer") };
    assert_eq!(refresh().await, 0, "it is new");
    chapar::time::set_by(43_201_000);
    lab.site.answer(Some(Page::status(500)));
    assert_eq!(refresh().await, 0, "it can not be had");
    let answer = keeper.send(ask()).await.expect("an answer");
    assert!(answer.policy.is_some() && answer.problem.is_some());
    // A daemon that starts anew tries again, and has it for another day.
    lab.site.answer(Some(policy("testing", HOST)));
    let keeper = Policies::new(fetcher(), dir.clone()).start();
    assert_eq!(keeper.send(Refresh).await.expect("an answer"), 1);
    chapar::time::set_by(80_000_000);
    lab.dns.servfail("_mta-sts.example.com");
    let keeper = Policies::new(fetcher(), dir.clone()).start();
    let answer = keeper.send(ask()).await.expect("an answer");
    let held: Arc<_> = answer.policy.expect("it holds still");
    assert_eq!(held.mode.name(), "testing");
    chapar::time::set_by(10_000_000);
    let keeper = Policies::new(fetcher(), dir).start();
    let answer = keeper.send(ask()).await.expect("an answer");
    assert!(answer.policy.is_none(), "it has ended");
}

/// A queue full of mail for a host that fails its policy costs it one handshake in a while.
#[actix::test]
async fn a_host_that_failed_a_policy_is_not_asked_again_for_every_message() {
    let lab = Lab::new(policy("enforce", HOST), |ca| {
        with(ca.issue_expired(HOST).expect("a certificate"))
    })
    .await;
    lab.dns.mx("other.example", 10, HOST);
    let mut world = lab.world();
    let (first, _) = sent(&mut world, "a@example.com").await;
    assert!(first.contains("certificate expired"), "{first}");
    for _ in 0..5 {
        let (outcome, _) = sent(&mut world, "a@example.com").await;
        assert_eq!(outcome, first);
    }
    assert_eq!(lab.mx.connections(), 1);
    // Who demands less gets more.
    let (outcome, _) = sent(&mut world, "b@other.example").await;
    assert_eq!(outcome, "b@other.example delivered 250 2.0.0 Ok: queued");
    // An operator who has mended it says so.
    world
        .dispatcher
        .send(Resume::default())
        .await
        .expect("a dispatcher");
    let before = lab.mx.connections();
    sent(&mut world, "a@example.com").await;
    assert_eq!(lab.mx.connections(), before + 1);
    world.end().await;
}
