//! What the store's tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chapar::message::{Body, Content};
use chapar::queue::store::{Action, ChangeKind, Options, Recovered, Store, new_message};
use queue_schema::{
    Change, Envelope, Message, Origin, QueueId, Recipient, RecipientState, Reply, Status,
};

/// A store in a directory of its own, opened and closed at will.
pub struct Place {
    /// Removed with it.
    _dir: tempfile::TempDir,
    pub options: Options,
    pub runtime: tokio::runtime::Runtime,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(&dir.path().join("data"));
        options.flush_every = Duration::from_millis(10);
        options.index_limit = Duration::from_secs(20);
        options.compact_after = Duration::ZERO;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Place {
            _dir: dir,
            options,
            runtime,
        }
    }

    pub fn open(&self) -> (Store, Recovered) {
        Store::open(&self.options).unwrap()
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.options.data_dir.join(name)
    }

    /// Segment files in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        files(&self.data("journal"))
    }

    pub fn quarantine(&self) -> Vec<PathBuf> {
        files(&self.data("quarantine"))
    }

    pub fn accept(&self, store: &Store, id: u64, body: &[u8]) -> Arc<Message> {
        self.runtime
            .block_on(store.accept(message(id), content(id, body)))
            .unwrap()
    }

    pub fn apply(&self, store: &Store, actions: Vec<Action>) -> Vec<Arc<Message>> {
        self.runtime.block_on(store.apply(actions)).unwrap()
    }
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

pub fn message(id: u64) -> Message {
    let envelope = Envelope::new(
        "a@example.org",
        vec![
            Recipient::new("b@example.net"),
            Recipient::new("c@example.com"),
        ],
    );
    let origin = Origin::Network {
        client: [127, 0, 0, 1].into(),
    };
    new_message(QueueId(id), 1_700_000_000_000 + id, origin, envelope)
}

pub fn head(id: u64) -> Vec<u8> {
    format!("From: a@example.org\r\nMessage-ID: <{id}@example.org>\r\n\r\n").into_bytes()
}

pub fn content(id: u64, body: &[u8]) -> Content {
    Content {
        head: head(id).into(),
        body: Body::Memory(Bytes::copy_from_slice(body)),
    }
}

pub fn reply(code: u16) -> Reply {
    Reply {
        code,
        enhanced: String::new(),
        text: "said so".into(),
        remote: String::new(),
    }
}

/// The change that gives recipient 0 this state, and the message after it.
pub fn progress(message: &Arc<Message>, status: Status, next_due: u64) -> (Action, Arc<Message>) {
    let mut after = Message::clone(message);
    let state = RecipientState {
        status,
        attempts: message.states[0].attempts + 1,
        next_due,
        last_attempt: 5,
        last_reply: Some(reply(450)),
        ..RecipientState::new(0)
    };
    let change = Change {
        recipients: vec![(0, state)],
        ..Change::default()
    };
    change.apply(&mut after);
    let after = Arc::new(after);
    (
        Action::Change {
            kind: ChangeKind::Progress,
            message: after.clone(),
            change,
        },
        after,
    )
}

/// The change that ends a message.
pub fn done(message: &Arc<Message>) -> Action {
    let recipients = (0..)
        .zip(&message.states)
        .map(|(at, state)| {
            (
                at,
                RecipientState {
                    status: Status::Delivered,
                    ..state.clone()
                },
            )
        })
        .collect();
    let change = Change {
        recipients,
        ..Change::default()
    };
    Action::Change {
        kind: ChangeKind::Done,
        message: message.clone(),
        change,
    }
}

pub fn load(store: &Store, id: u64) -> Option<Arc<Message>> {
    store
        .readers()
        .run_blocking(move |reader| reader.load(QueueId(id)))
        .unwrap()
        .unwrap()
}

pub fn all(store: &Store) -> Vec<Arc<Message>> {
    store
        .scanner()
        .run_blocking(|reader| {
            let mut all = Vec::new();
            reader
                .scan(QueueId(0), |message| {
                    all.push(message);
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
            all
        })
        .unwrap()
}

pub fn ids(store: &Store) -> Vec<u64> {
    all(store).iter().map(|message| message.id.0).collect()
}

/// Header block and body of a message, read back from the journal.
pub fn fetch(store: &Store, id: u64) -> Result<(Vec<u8>, Vec<u8>), String> {
    let message = load(store, id).ok_or("not there")?;
    let content = store
        .readers()
        .run_blocking(move |reader| reader.fetch(message.id, &message.location))
        .unwrap()
        .map_err(|error| error.reason)?;
    let body = match content.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::Spool(file) => std::fs::read(&*file.path).unwrap(),
    };
    Ok((content.head.to_vec(), body))
}

/// Waits until `ready`, or fails after ten seconds.
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !ready() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} did not happen"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
