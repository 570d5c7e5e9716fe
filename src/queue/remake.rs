//! Due times are made again after the clock was set, as at a start: for each message from what is
//! written of it, in pages, while everything else goes on. What was placed meanwhile is right
//! already and stays.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use queue_schema::QueueId;

use super::actor::{Event, Queue};
use super::store::StoreError;
use super::ways::{self, Ways};
use super::{blocking, clock};

/// Messages in a page.
const PAGE: usize = 4096;
/// How long after a failure a page is read, or the list of jumps is written, again.
const AGAIN: Duration = Duration::from_secs(5);

/// Jumps that are not on disk yet, while somebody writes them.
pub(super) type Unkept = Rc<RefCell<Option<Vec<clock::Jump>>>>;

/// When some messages are due.
pub(super) struct Remade {
    ways: Ways,
    /// Where it begins.
    from: QueueId,
    /// Where the next page begins.
    next: Option<QueueId>,
    /// Whether another jump made this one void.
    jumps: usize,
    failure: Option<StoreError>,
}

impl Queue {
    /// What waits moves with a clock that was set; see [`super::clock`].
    pub(super) fn check_clock(&mut self) {
        let (wall, steady) = (crate::time::now(), self.started.elapsed());
        let ids = &self.ids;
        let Some(jump) = self.clock.check(wall, steady, || ids.issue()) else {
            return;
        };
        let seconds = jump.by() / 1000;
        tracing::warn!(
            seconds,
            "the clock was set, or the machine slept; what waits moves with it"
        );
        self.remake();
        self.keep_clock();
    }

    /// Writes down what is known of the clock, as often as it takes: after a restart without it,
    /// what was written before a jump could not be told from what was written after.
    fn keep_clock(&self) {
        let unkept = self.unkept.clone();
        if unkept.replace(Some(self.clock.jumps().to_vec())).is_some() {
            return;
        }
        let (data_dir, disk) = (self.config.data_dir.clone(), self.store.disk());
        actix_rt::spawn(async move {
            loop {
                let Some(jumps) = unkept.borrow().clone() else {
                    return;
                };
                let (disk, data_dir, written) = (disk.clone(), data_dir.clone(), jumps.clone());
                let save = move || super::kept::save(&disk, &data_dir, clock::FILE, &written);
                match blocking(save).await {
                    Ok(Ok(())) if unkept.borrow().as_ref() == Some(&jumps) => {
                        unkept.replace(None);
                        return;
                    }
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::error!(
                            %error,
                            file = clock::FILE,
                            "it can not be written; it is tried again in 5 s"
                        );
                        tokio::time::sleep(AGAIN).await;
                    }
                    // The process ends.
                    Err(_) => return,
                }
            }
        });
    }

    /// Begins to make all due times again.
    pub(super) fn remake(&mut self) {
        self.remaking = Some(HashSet::new());
        let mut in_memory: Vec<QueueId> = self.slots.keys().copied().collect();
        in_memory.sort_unstable();
        for id in in_memory {
            if let Some(message) = self.slots.get(&id).and_then(|slot| slot.message.clone()) {
                self.place(&message);
            }
        }
        self.remake_page(QueueId(0));
    }

    fn remake_page(&self, from: QueueId) {
        let (clock, naming) = (self.clock.clone(), self.naming);
        let (readers, inbox) = (self.store.scanner(), self.inbox.clone());
        let jumps = clock.seen();
        let now = crate::time::now();
        actix_rt::spawn(async move {
            let page = readers.run(move |reader| {
                let mut page = Remade {
                    ways: Ways::default(),
                    from,
                    next: None,
                    jumps,
                    failure: None,
                };
                let mut left = PAGE;
                let read = reader.scan(from, |message| {
                    if left == 0 {
                        page.next = Some(message.id);
                        return ControlFlow::Break(());
                    }
                    left -= 1;
                    let waits = ways::waits(naming, &clock, &message, |_| false, now);
                    page.ways.add(message.id, waits);
                    ControlFlow::Continue(())
                });
                page.failure = read.err();
                page
            });
            let page = page.await.unwrap_or_else(|error| Remade {
                ways: Ways::default(),
                from,
                next: None,
                jumps,
                failure: Some(error),
            });
            if page.failure.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
            inbox.push(Event::Remade(page));
        });
    }

    /// Takes over a page and asks for the next.
    pub(super) fn remade(&mut self, page: Remade) {
        if page.jumps != self.clock.seen() {
            return;
        }
        let Some(placed) = self.remaking.take() else {
            return;
        };
        if let Some(error) = page.failure {
            // What is placed too late by the clock before would sleep through its time.
            tracing::error!(%error, "due times are not all made again yet; it goes on");
            self.remaking = Some(placed);
            self.remake_page(page.from);
            return;
        }
        for (id, name, due) in page.ways.entries() {
            if !placed.contains(&id) && !self.slots.contains_key(&id) {
                let way = self.lanes.way(name);
                self.lanes.set(id, way, due);
            }
        }
        if let Some(next) = page.next {
            self.remaking = Some(placed);
            self.remake_page(next);
        }
    }
}
