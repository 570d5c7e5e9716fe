//! That no recipient is forgotten when something of our own fails, which only code in here can
//! bring about.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use queue_schema::{
    BodyPlace, Envelope, Location, Message, Origin, QueueId, Recipient, RecipientState,
};
use tokio::sync::mpsc;

use super::pending::{Pending, Reporter};
use super::stops::Stops;
use super::verdict::Verdict;
use crate::message::{Body, Content};
use crate::queue::{Job, Outcome, Record};
use crate::tls::sts::{Fetcher, Policies};

/// Hears records as the queue would.
struct Ear(mpsc::UnboundedSender<Record>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<Record> for Ear {
    type Result = bool;

    fn handle(&mut self, record: Record, _: &mut Context<Self>) -> bool {
        self.0.send(record).is_ok()
    }
}

fn ear() -> (actix::Addr<Ear>, mpsc::UnboundedReceiver<Record>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Ear(sender).start(), receiver)
}

fn job(recipients: &[&str]) -> Job {
    let of = |address: &&str| Recipient::new(*address);
    let message = Message {
        id: QueueId(1),
        arrived: 0,
        origin: Origin::Network {
            client: Ipv4Addr::LOCALHOST.into(),
        },
        envelope: Envelope::new("sender@example.org", recipients.iter().map(of).collect()),
        size: 0,
        location: Location {
            segment: 0,
            offset: 0,
            length: 0,
            head: 0,
            body: BodyPlace::Inline,
        },
        states: recipients.iter().map(|_| RecipientState::new(0)).collect(),
        message_id: String::new(),
        subject: String::new(),
        top: String::new(),
        story: Vec::new(),
    };
    Job {
        recipients: (0..).take(recipients.len()).collect(),
        message: Arc::new(message),
        content: Some(Content {
            head: Bytes::from_static(b"Subject: x\r\n\r\n"),
            body: Body::Memory(Bytes::new()),
        }),
    }
}

const CUT_OFF: Outcome = Outcome::Deferred {
    retry_after: Some(Duration::from_secs(7)),
    counts: false,
};

#[actix::test]
async fn what_is_dropped_is_reported_and_only_that() {
    let (ear, mut heard) = ear();
    let reporter = Reporter::new(ear.recipient(), Duration::from_secs(7));
    let mut part = Pending::new(job(&["a@x", "b@x", "c@x"]), &reporter);
    let mut split = part.split(vec![1]);
    assert_eq!(
        (part.recipients(), split.recipients()),
        ([0, 2].as_slice(), [1].as_slice())
    );
    // Reported in time: dropping it tells nothing more.
    let record = split.settle_all(&Verdict::failed(550, "5.1.1", "no"), "mx", "");
    reporter.send(record, None);
    drop(split);
    let record = heard.recv().await.expect("a record");
    assert_eq!(record.attempts.len(), 1);
    assert_eq!(
        (record.attempts[0].recipient, &record.attempts[0].outcome),
        (1, &Outcome::Failed)
    );
    // In a task that panics.
    let panicking = actix::spawn(async move {
        let _part = part;
        panic!("told to by a test");
    });
    assert!(panicking.await.is_err());
    let record = heard.recv().await.expect("a record");
    let told: Vec<_> = record
        .attempts
        .iter()
        .map(|one| (one.recipient, one.outcome.clone()))
        .collect();
    assert_eq!(told, [(0, CUT_OFF), (2, CUT_OFF)]);
    // A verdict too few: none is left without one.
    let mut part = Pending::new(job(&["a@x", "b@x"]), &reporter);
    let one = std::iter::once(Verdict::failed(550, "", "no"));
    let record = part.settle(one, "", "");
    let codes: Vec<_> = record.attempts.iter().map(|one| one.reply.code).collect();
    assert_eq!(codes, [550, 451]);
    drop(part);
    reporter.settled().await;
    assert!(heard.try_recv().is_err());
}

#[actix::test]
async fn settled_waits_for_parts_and_for_answers() {
    let (ear, mut heard) = ear();
    let reporter = Reporter::new(ear.recipient(), Duration::from_secs(7));
    reporter.settled().await;
    let part = Pending::new(job(&["a@x"]), &reporter);
    let settled = reporter.settled();
    tokio::pin!(settled);
    let soon = tokio::time::timeout(Duration::from_millis(20), settled.as_mut()).await;
    assert!(soon.is_err(), "a part is still pending");
    reporter.send_all(vec![part], &super::draining());
    settled.await;
    assert!(heard.try_recv().is_ok(), "the record was answered before");
}

mod workers {
    use super::*;
    use crate::config::Config;
    use crate::connection::Common;
    use crate::dispatcher::WorkerIdle;
    use crate::dns::Resolver;
    use crate::lab::{Act, Mx, MxConfig, Stage};
    use crate::mx::Host;
    use crate::queue::{Fetch, FetchError};
    use crate::reach::{Destination, Reach};
    use crate::seven_bit::SevenBit;
    use crate::signing::{Sign, SignError};
    use crate::worker::{Deliver, Die, Worker};
    use crate::{Dispatcher, Wake};
    use tokio::sync::Semaphore;

    impl Handler<Fetch> for Ear {
        type Result = Result<Content, FetchError>;

        fn handle(&mut self, fetch: Fetch, _: &mut Context<Self>) -> Self::Result {
            Err(FetchError {
                id: fetch.id,
                lost: false,
                reason: "a test without a store".to_owned(),
            })
        }
    }

    impl Handler<Sign> for Ear {
        type Result = Result<Bytes, SignError>;

        fn handle(&mut self, _: Sign, _: &mut Context<Self>) -> Self::Result {
            Ok(Bytes::new())
        }
    }

    fn config(route: &Mx) -> Arc<Config> {
        let text = format!(
            "hostname = \"mx.example.org\"\n[[route]]\nto = \"*\"\nvia = \"smtp://{}\"\n\
             [delivery]\nconnections = 1\n[retry]\nfirst = \"7s\"\n[dns]\n\
             servers = [\"127.0.0.1:1\"]",
            route.address()
        );
        Arc::new(Config::parse(&text, "test", "/".as_ref()).expect("config"))
    }

    /// A worker that panics costs its waiting parts a delay and nobody a word; the next mail has
    /// a successor.
    #[actix::test]
    async fn a_worker_that_panics_has_a_successor() {
        let mx = Mx::start(MxConfig::default()).await.expect("an MX");
        mx.on(Stage::Dot, |_| {
            Act::After(Duration::from_millis(200), Box::new(Act::Default))
        });
        let (ear, mut heard) = ear();
        let config = config(&mx);
        let resolver = Resolver::new(&config.dns).expect("a resolver");
        let (record, fetch) = (ear.clone().recipient(), ear.clone().recipient());
        let signer = ear.recipient();
        let dispatcher = Dispatcher::new(config, resolver, record, fetch, signer, Vec::new());
        let dispatcher = dispatcher.expect("a dispatcher");
        let dispatcher = dispatcher.start();
        let jobs = ["a@x", "b@x", "c@x"].map(|to| job(&[to]));
        dispatcher
            .send(Wake(jobs.into()))
            .await
            .expect("a dispatcher");
        mx.until(|mx| mx.log().iter().any(|line| line.line == "DATA"))
            .await;
        dispatcher.send(DieAll).await.expect("a dispatcher");
        let mut told = BTreeMap::new();
        for _ in 0..3 {
            let record = heard.recv().await.expect("a record");
            let to = record.message.envelope.recipients[0].address.clone();
            told.insert(to, record.attempts[0].outcome.clone());
        }
        let expected = [
            ("a@x", Outcome::Delivered),
            ("b@x", CUT_OFF),
            ("c@x", CUT_OFF),
        ];
        assert_eq!(
            told,
            expected
                .map(|(to, outcome)| (to.to_owned(), outcome))
                .into()
        );
        dispatcher
            .send(Wake(vec![job(&["d@x"])]))
            .await
            .expect("a dispatcher");
        let record = heard.recv().await.expect("a record");
        assert_eq!(record.attempts[0].outcome, Outcome::Delivered);
        dispatcher.send(crate::Drain).await.expect("a dispatcher");
        assert!(heard.try_recv().is_err());
    }

    #[derive(actix::Message)]
    #[rtype(result = "()")]
    struct DieAll;

    impl Handler<DieAll> for Dispatcher {
        type Result = ();

        fn handle(&mut self, _: DieAll, _: &mut Context<Self>) {
            for worker in self.workers() {
                worker.do_send(Die);
            }
        }
    }

    /// A worker may end only when nothing is on its way to it.
    #[actix::test]
    async fn idle_workers_end_only_with_nothing_on_the_way() {
        let mx = Mx::start(MxConfig::default()).await.expect("an MX");
        let (ear, mut heard) = ear();
        let config = config(&mx);
        let resolver = Resolver::new(&config.dns).expect("a resolver");
        let (record, fetch) = (ear.clone().recipient(), ear.clone().recipient());
        let signer = ear.recipient();
        let dispatcher = Dispatcher::new(config, resolver, record, fetch, signer, Vec::new());
        let dispatcher = dispatcher.expect("a dispatcher").start();
        for _ in 0..2 {
            dispatcher
                .send(Wake(vec![job(&["a@x"])]))
                .await
                .expect("a dispatcher");
            heard.recv().await.expect("a record");
        }
        let key: Arc<str> = format!("smtp://{}", mx.address()).into();
        let ask = |number, delivers| {
            let key = Arc::clone(&key);
            let question = WorkerIdle {
                key,
                number,
                delivers,
            };
            let answer = dispatcher.send(question);
            async move { answer.await.expect("a dispatcher") }
        };
        assert!(
            !ask(1, 1).await,
            "the second delivery may not have come yet"
        );
        assert!(ask(1, 2).await);
        // The next one is another; its predecessor can not end it.
        dispatcher
            .send(Wake(vec![job(&["a@x"])]))
            .await
            .expect("a dispatcher");
        heard.recv().await.expect("a record");
        assert!(ask(1, 1).await);
        assert!(!ask(2, 0).await);
        assert!(ask(2, 1).await);
    }

    /// More parts than there is room for wait in the queue, not here.
    #[actix::test]
    async fn parts_without_room_are_handed_back() {
        let mx = Mx::start(MxConfig::default()).await.expect("an MX");
        mx.on(Stage::Greeting, |_| Act::Hang);
        let (ear, mut heard) = ear();
        let mut config = (*config(&mx)).clone();
        config.delivery.active = 4;
        let config = Arc::new(config);
        let reporter = Reporter::new(ear.clone().recipient(), Duration::from_secs(7));
        let resolver = Resolver::new(&config.dns).expect("a resolver");
        let (record, fetch) = (ear.clone().recipient(), ear.clone().recipient());
        let dispatcher = Dispatcher::new(
            Arc::clone(&config),
            resolver.clone(),
            record,
            fetch,
            ear.clone().recipient(),
            Vec::new(),
        );
        let dispatcher = dispatcher.expect("a dispatcher").start();
        let fetcher = Fetcher::new(&config, resolver.clone()).expect("roots");
        let policies = Policies::new(fetcher, "/nowhere".into()).start();
        let common = Arc::new(Common {
            policies,
            stops: Stops::default(),
            tally: Arc::default(),
            judge: None,
            reach: Reach::new(&config),
            tls: None,
            verified: None,
            connections: Arc::new(Semaphore::new(9)),
            seven_bit: SevenBit::new(ear.clone().recipient()),
            since: 0,
            fetch: ear.recipient(),
            resolver,
            config,
        });
        let destination = Arc::new(Destination {
            key: "test".into(),
            hosts: vec![Host {
                rank: 0,
                name: "127.0.0.1".to_owned(),
            }],
            port: mx.address().port(),
            routed: true,
            proven: true,
            ..Destination::default()
        });
        let worker = Worker::new(
            1,
            common,
            destination,
            dispatcher,
            reporter.clone(),
            crate::paces::Standing::default(),
        )
        .start();
        let parts = ["a@x", "b@x", "c@x"].map(|to| Pending::new(job(&[to]), &reporter));
        worker.send(Deliver(parts.into())).await.expect("a worker");
        let record = heard.recv().await.expect("a record");
        assert_eq!(record.message.envelope.recipients[0].address, "c@x");
        assert_eq!(
            record.attempts[0].outcome,
            Outcome::Deferred {
                retry_after: Some(Duration::from_secs(60)),
                counts: false
            }
        );
        assert!(heard.try_recv().is_err());
    }
}
