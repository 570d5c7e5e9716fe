//! A queue between a scripted dispatcher and a scripted signer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use chapar::config::{Config, Span};
use chapar::delivery::Wake;
use chapar::message::{Body, Content};
use chapar::queue::{self, Accept, Attempt, Connect, Handle, Job, Outcome, Record, Stop};
use chapar::signing::{Sign, SignError};
use queue_schema::{Envelope, Message, Origin, QueueId, Recipient, Reply};
use tokio::sync::mpsc;

/// Signs with a header of its own, or fails.
pub struct Signer(Arc<AtomicBool>);

impl Actor for Signer {
    type Context = Context<Self>;
}

impl Handler<Sign> for Signer {
    type Result = Result<Bytes, SignError>;

    fn handle(&mut self, sign: Sign, _: &mut Self::Context) -> Self::Result {
        if self.0.load(Ordering::SeqCst) {
            return Err(SignError {
                domain: sign.domain,
                reason: "no key".into(),
            });
        }
        Ok(format!("DKIM-Signature: d={}\r\n", sign.domain).into())
    }
}

/// Hands jobs to the test.
pub struct Dispatcher(pub mpsc::UnboundedSender<Job>);

impl Actor for Dispatcher {
    type Context = Context<Self>;
}

impl Handler<Wake> for Dispatcher {
    type Result = ();

    fn handle(&mut self, wake: Wake, _: &mut Self::Context) {
        for job in wake.0 {
            let _ = self.0.send(job);
        }
    }
}

/// Addresses that lead elsewhere.
pub type Aliases = Vec<(String, Vec<String>)>;

pub struct World {
    _dir: tempfile::TempDir,
    pub config: Config,
    pub fail_signing: Arc<AtomicBool>,
    pub leads: Arc<Mutex<Aliases>>,
    pub queue: Option<Handle>,
    pub jobs: mpsc::UnboundedReceiver<Job>,
    pub sender: mpsc::UnboundedSender<Job>,
}

impl World {
    /// A queue that is ready to deliver.
    pub async fn start(change: impl FnOnce(&mut Config)) -> World {
        let mut world = World::new(change);
        world.open().await;
        world.connect().await;
        world
    }

    pub fn new(change: impl FnOnce(&mut Config)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            Config::parse("hostname = \"mx.example.org\"", "test", dir.path()).unwrap();
        config.data_dir = dir.path().join("data");
        config.limits.free_space = chapar::config::Size(0);
        config.retry.first = "100ms".parse::<Span>().unwrap();
        change(&mut config);
        let (sender, jobs) = mpsc::unbounded_channel();
        World {
            _dir: dir,
            config,
            fail_signing: Arc::default(),
            leads: Arc::default(),
            queue: None,
            jobs,
            sender,
        }
    }

    pub async fn open(&mut self) {
        let config = self.config.clone();
        let opened = tokio::task::spawn_blocking(move || queue::open(&config))
            .await
            .unwrap();
        let signer = Signer(self.fail_signing.clone()).start().recipient();
        let known = self.leads.clone();
        let leads: queue::Leads = Arc::new(move |address: &str| {
            let known = known.lock().unwrap();
            let found = known.iter().find(|(from, _)| from == address);
            found.map_or_else(|| vec![address.to_owned()], |(_, to)| to.clone())
        });
        let config = Arc::new(self.config.clone());
        self.queue = Some(queue::start(
            opened.unwrap(),
            config,
            signer,
            leads,
            &actix::Arbiter::new().handle(),
        ));
    }

    pub async fn connect(&mut self) {
        let dispatcher = Dispatcher(self.sender.clone()).start().recipient();
        self.handle().addr.send(Connect(dispatcher)).await.unwrap();
    }

    pub fn handle(&self) -> &Handle {
        self.queue.as_ref().unwrap()
    }

    pub async fn stop(&mut self) {
        self.queue.take().unwrap().addr.send(Stop).await.unwrap();
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.open().await;
        self.connect().await;
    }

    pub async fn accept(&self, to: &[&str]) -> QueueId {
        self.accept_with(to, |_| {}).await
    }

    pub async fn accept_with(&self, to: &[&str], change: impl FnOnce(&mut Accept)) -> QueueId {
        let id = self.handle().ids.issue();
        let mut accept = Accept {
            id,
            arrived: chapar::time::now(),
            origin: Origin::User {
                user: "a@example.org".into(),
                client: [192, 0, 2, 9].into(),
            },
            envelope: Envelope::new("a@example.org", to.iter().map(|to| recipient(to)).collect()),
            content: Content {
                head: Bytes::from_static(b"Subject: hello\r\n\r\n"),
                body: Body::Memory(Bytes::from_static(b"the body\r\n")),
            },
            held: Vec::new(),
        };
        change(&mut accept);
        self.handle().addr.send(accept).await.unwrap().unwrap()
    }

    /// The next job, within five seconds.
    pub async fn job(&mut self) -> Job {
        let job = tokio::time::timeout(Duration::from_secs(5), self.jobs.recv()).await;
        job.expect("a job comes").unwrap()
    }

    /// No job comes for a while.
    pub async fn no_job(&mut self) {
        let job = tokio::time::timeout(Duration::from_millis(250), self.jobs.recv()).await;
        assert!(job.is_err(), "an unexpected job: {job:?}");
    }

    pub async fn report(&self, job: &Job, outcome: Outcome, code: u16) {
        let recipients = job.recipients.clone();
        self.report_of(job, &recipients, outcome, code).await;
    }

    pub async fn report_of(&self, job: &Job, recipients: &[u32], outcome: Outcome, code: u16) {
        let attempts = recipients
            .iter()
            .map(|recipient| Attempt {
                recipient: *recipient,
                at: chapar::time::now(),
                outcome: outcome.clone(),
                reply: Reply {
                    code,
                    enhanced: String::new(),
                    text: format!("said {code}"),
                    remote: "mx.example.net[192.0.2.1]:25".into(),
                },
                tls: String::new(),
                notifies: false,
            })
            .collect();
        let record = Record {
            message: job.message.clone(),
            attempts,
            synced: false,
        };
        self.handle().addr.send(record).await.unwrap();
    }

    /// Everything that is on disk.
    pub async fn messages(&self) -> Vec<Arc<Message>> {
        self.handle().view.all().await.unwrap()
    }

    /// Waits until what is on disk is as wanted.
    pub async fn until(&self, what: &str, ready: impl Fn(&[Arc<Message>]) -> bool) {
        for _ in 0..500 {
            if ready(&self.messages().await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} did not happen: {:?}", self.messages().await);
    }

    /// Nobody answers any more where a daemon did.
    pub fn no_daemon(&self) {
        let _ = std::fs::remove_file(chapar::control::socket(&self.config.data_dir));
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.config.data_dir.join(name)
    }
}

pub fn recipient(address: &str) -> Recipient {
    Recipient::new(address)
}

pub fn deferred(counts: bool) -> Outcome {
    Outcome::Deferred {
        retry_after: None,
        counts,
    }
}

pub fn text(content: &Content) -> String {
    let Body::Memory(body) = &content.body else {
        panic!("in memory")
    };
    String::from_utf8([&content.head[..], &body[..]].concat()).unwrap()
}
