//! What can be seen of a store from inside only.

use queue_schema::{Change, Recipient, Status};

use std::time::Duration;

use super::*;
use crate::message::Body;

pub fn message(id: u64) -> (Message, Content) {
    let envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
    let origin = Origin::Network {
        client: [127, 0, 0, 1].into(),
    };
    let content = Content {
        head: b"Subject: x\r\n\r\n".to_vec().into(),
        body: Body::Memory(b"body\r\n".to_vec().into()),
    };
    (new_message(QueueId(id), 1, origin, envelope), content)
}

#[tokio::test]
async fn i6_an_index_that_fails_while_it_is_used_costs_no_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    let open = async || {
        let options = options.clone();
        let open = tokio::task::spawn_blocking(move || Store::open(&options));
        open.await.unwrap().unwrap()
    };
    let close = async |store: Store| {
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap();
    };
    let (store, _) = open().await;
    let mut kept = Vec::new();
    for id in [1, 2] {
        let (message, content) = message(id);
        kept.push(store.accept(message, content).await.unwrap());
    }
    store
        .0
        .shared
        .fail_index(&index::IndexError::new("is broken"));
    let (third, content) = message(3);
    let refused = store.accept(third, content).await;
    assert!(matches!(refused, Err(StoreError::Failed(why)) if why.contains("is broken")));
    assert!(store.needs_restart().is_some());

    let mut state = kept[0].states[0].clone();
    state.attempts = 7;
    let change = Change {
        recipients: vec![(0, state)],
        ..Change::default()
    };
    let mut changed = Message::clone(&kept[0]);
    change.apply(&mut changed);
    let mut end = kept[1].states[0].clone();
    end.status = Status::Delivered;
    let done = Change {
        recipients: vec![(0, end)],
        ..Change::default()
    };
    let actions = vec![
        Action::Change {
            kind: ChangeKind::Progress,
            message: Arc::new(changed),
            change,
        },
        Action::Change {
            kind: ChangeKind::Done,
            message: kept[1].clone(),
            change: done,
        },
    ];
    store.apply(actions).await.unwrap();
    close(store).await;

    let (store, recovered) = open().await;
    assert!(recovered.rebuilt.is_some(), "the index is made anew");
    let load = async |id| {
        let readers = store.readers();
        let read = readers.run(move |reader| reader.load(QueueId(id)));
        read.await.unwrap().unwrap()
    };
    assert_eq!(load(1).await.unwrap().states[0].attempts, 7);
    assert_eq!((load(2).await, load(3).await), (None, None));
    close(store).await;
}

/// On the code before, the first segment went and took the messages in it along.
#[tokio::test]
async fn q1_a_segment_that_is_counted_empty_by_mistake_is_not_freed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_size = 64 << 10;
    options.flush_every = Duration::from_millis(5);
    let open = tokio::task::spawn_blocking(move || Store::open(&options));
    let (store, _) = open.await.unwrap().unwrap();
    let mut all = Vec::new();
    for id in 1..=20 {
        let (message, mut content) = message(id);
        content.body = Body::Memory(vec![b'x'; 20_000].into());
        all.push(store.accept(message, content).await.unwrap());
    }
    let first = all[0].location.segment;
    assert!(first < all[19].location.segment);
    let shared = store.0.shared.clone();
    let counted = |shared: &Shared| shared.state().segments.get(&first).copied();
    let right = counted(&shared).unwrap();
    if let Some(usage) = shared.state().segments.get_mut(&first) {
        (usage.messages, usage.live) = (0, 0);
    }
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while counted(&shared) != Some(right) {
        assert!(std::time::Instant::now() < until, "{:?}", counted(&shared));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let readers = store.readers();
    let read = readers.run(|reader| {
        let message = reader.load(QueueId(1)).unwrap().unwrap();
        reader.fetch(message.id, &message.location).map(|_| ())
    });
    assert_eq!(read.await.unwrap(), Ok(()));
    tokio::task::spawn_blocking(move || store.close())
        .await
        .unwrap();
}

/// A store whose threads this test drives, and what waits for them.
async fn driven<T: Send + 'static>(
    stepped: &mut Stepped,
    asked: impl Future<Output = T> + Send + 'static,
) -> T {
    let asked = tokio::spawn(asked);
    tokio::task::yield_now().await;
    stepped.commit();
    asked.await.unwrap()
}

fn end(message: &Arc<Message>) -> Action {
    let mut state = message.states[0].clone();
    state.status = Status::Delivered;
    let change = Change {
        recipients: vec![(0, state)],
        ..Change::default()
    };
    Action::Change {
        kind: ChangeKind::Done,
        message: message.clone(),
        change,
    }
}

/// On the code before, the flusher waited for the committer, which may be waiting for the flusher.
#[tokio::test]
async fn q9_compaction_asks_the_committer_and_never_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.segment_size = 64 << 10;
    options.compact_after = Duration::ZERO;
    let (store, _, mut stepped) = Store::open_stepped(&options).unwrap();
    let mut all = Vec::new();
    for id in 1..=40 {
        let (message, mut content) = message(id);
        content.body = Body::Memory(vec![b'x'; 8000].into());
        let store = store.clone();
        let accepted = async move { store.accept(message, content).await };
        all.push(driven(&mut stepped, accepted).await.unwrap());
    }
    let ends: Vec<Action> = all[1..39].iter().map(end).collect();
    let applying = store.clone();
    driven(&mut stepped, async move { applying.apply(ends).await })
        .await
        .unwrap();
    let oldest = all[0].location.segment;
    for _ in 0..5 {
        stepped.flush();
    }
    let place = || {
        let known = store.0.shared.state().peek(QueueId(1));
        known.flatten().map(|message| message.location.segment)
    };
    assert_eq!(place(), None, "nobody has written it yet");
    assert!(stepped.commit(), "it was asked for");
    assert!(place().unwrap() > oldest);
    stepped.flush();
    stepped.flush();
    assert!(!store.segments().contains(&oldest));
    drop(store);
    stepped.stop();
}

#[tokio::test]
async fn q9_what_the_index_does_not_hold_yet_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, mut stepped) = Store::open_stepped(&Options::new(dir.path())).unwrap();
    let weight = || store.0.shared.state().weight;
    let (large, content) = {
        let (mut message, content) = message(1);
        let to = Recipient::new(format!("{}@example.net", "x".repeat(1000)));
        message.envelope.recipients = vec![to; 1000];
        message.states = vec![message.states[0].clone(); 1000];
        (message, content)
    };
    let accepting = store.clone();
    let accepted = async move { accepting.accept(large, content).await };
    let accepted = driven(&mut stepped, accepted).await.unwrap();
    assert!(weight() > 1_000_000, "{}", weight());
    let (applying, ends) = (store.clone(), vec![end(&accepted)]);
    driven(&mut stepped, async move { applying.apply(ends).await })
        .await
        .unwrap();
    assert_eq!(weight(), 0, "it came and went");
    store.0.shared.state().weight = usize::MAX;
    let (small, content) = message(2);
    let refusing = store.clone();
    let refused = async move { refusing.accept(small, content).await };
    assert_eq!(driven(&mut stepped, refused).await, Err(StoreError::Full));
    drop(store);
    stepped.stop();
}
