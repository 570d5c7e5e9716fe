//! Looking at the queue: in pages, so that a million messages cost no pause and little memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use queue_schema::{Message, QueueId};

use super::messages::FetchError;
use super::selector::Matcher;
use super::store::{Finding, Reader, Stats, Store, StoreError};
use crate::message::Content;

/// Messages in a page that are meant.
const PAGE: usize = 256;
/// Messages that are looked at for a page.
const LOOK: usize = 10_000;

/// Looks into the store without asking the actor.
#[derive(Clone)]
pub struct View {
    store: Store,
}

/// Some of the messages an operator means.
pub struct Page {
    /// Messages, and positions of the recipients that are meant; never none.
    pub found: Vec<(Arc<Message>, Vec<u32>)>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<QueueId>,
}

impl View {
    pub(super) fn new(store: Store) -> View {
        View { store }
    }

    /// Counts of the store.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Whether and why no new mail is taken.
    pub fn failure(&self) -> Option<StoreError> {
        self.store.failure()
    }

    /// Waits until at most so many changed messages wait for the index.
    pub async fn calm(&self, most: usize) {
        self.store.calm(most).await;
    }

    /// Numbers of the segments there are.
    pub fn segments(&self) -> Vec<u64> {
        self.store.segments()
    }

    /// Verifies one segment: how many records it has, and what is damaged.
    pub async fn verify_segment(&self, number: u64) -> Result<(u64, Vec<Finding>), StoreError> {
        let scanner = self.store.scanner();
        scanner
            .run(move |reader| reader.verify_segment(number))
            .await
    }

    /// Compares journal, index and what is counted of the segments.
    pub async fn verify_counts(&self) -> Result<Vec<Finding>, StoreError> {
        let scanner = self.store.scanner();
        let counts = scanner.run(|reader| reader.verify_counts()).await??;
        let journal = scanner.run(|reader| reader.verify_journal()).await??;
        Ok([counts, journal].concat())
    }

    /// Verifies some messages from `from` on: how many, what is damaged, where to go on.
    pub async fn verify_messages(
        &self,
        from: QueueId,
    ) -> Result<(u64, Vec<Finding>, Option<QueueId>), StoreError> {
        let scanner = self.store.scanner();
        scanner
            .run(move |reader| reader.verify_messages(from))
            .await?
    }

    /// The next start makes the index anew.
    pub async fn suspect_index(&self) -> Result<(), String> {
        let store = self.store.clone();
        let marked = super::blocking(move || store.suspect_index()).await;
        marked
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// One message.
    pub async fn message(&self, id: QueueId) -> Result<Option<Arc<Message>>, StoreError> {
        self.store
            .scanner()
            .run(move |reader| reader.load(id))
            .await?
    }

    /// The bytes of a message.
    pub async fn content(&self, message: Arc<Message>) -> Result<Content, FetchError> {
        let id = message.id;
        let scanner = self.store.scanner();
        let read = scanner
            .run(move |reader| {
                let content = reader.fetch(message.id, &message.location);
                content.map(|content| content.under(&message.top))
            })
            .await;
        read.unwrap_or_else(|error| {
            Err(FetchError {
                id,
                lost: false,
                reason: error.to_string(),
            })
        })
    }

    /// The messages with an id of at least `from` that are meant.
    pub async fn page(&self, from: QueueId, matcher: Arc<Matcher>) -> Result<Page, StoreError> {
        if !matcher.ids().is_empty() {
            let scanner = self.store.scanner();
            return scanner
                .run(move |reader| named(reader, from, &matcher))
                .await?;
        }
        let scanner = self.store.scanner();
        let page = scanner.run(move |reader| {
            let mut page = Page {
                found: Vec::new(),
                next: None,
            };
            let mut looked = 0;
            reader.scan(from, |message| {
                if page.found.len() == PAGE || looked == LOOK {
                    page.next = Some(message.id);
                    return ControlFlow::Break(());
                }
                looked += 1;
                let recipients = matcher.recipients(&message);
                if !recipients.is_empty() {
                    page.found.push((message, recipients));
                }
                ControlFlow::Continue(())
            })?;
            Ok(page)
        });
        page.await?
    }

    /// All messages, in the order of their ids.
    pub async fn all(&self) -> Result<Vec<Arc<Message>>, StoreError> {
        let matcher = Arc::new(
            super::Selector::default()
                .compile(0)
                .map_err(StoreError::encode)?,
        );
        let mut all = Vec::new();
        let mut from = Some(QueueId(0));
        while let Some(start) = from {
            let page = self.page(start, matcher.clone()).await?;
            all.extend(page.found.into_iter().map(|(message, _)| message));
            from = page.next;
        }
        Ok(all)
    }
}

/// A page of messages that a selector names.
fn named(reader: &Reader, from: QueueId, matcher: &Matcher) -> Result<Page, StoreError> {
    let mut rest = matcher.ids().iter().filter(|id| **id >= from);
    let mut found = Vec::new();
    for id in rest.by_ref().take(PAGE) {
        if let Some(message) = reader.load(*id)? {
            let recipients = matcher.recipients(&message);
            if !recipients.is_empty() {
                found.push((message, recipients));
            }
        }
    }
    let next = rest.next().copied();
    Ok(Page { found, next })
}
