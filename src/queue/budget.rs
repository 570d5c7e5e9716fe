//! How much of accepted mail stays in memory for its first attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::message::{Body, Content};

/// Bytes that may still be kept. They come back when the last holder drops the content.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

struct Counted {
    bytes: Bytes,
    size: u64,
    budget: Budget,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.size, Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Budget {
        Budget(Arc::new(AtomicU64::new(bytes)))
    }

    /// The same content, counted; `None` if there is no room for it.
    pub fn keep(&self, content: Content) -> Option<Content> {
        let in_memory = match &content.body {
            Body::Memory(bytes) => bytes.len(),
            Body::Spool(_) => 0,
        };
        let size = (content.head.len() + in_memory) as u64;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(size)
            })
            .ok()?;
        // One owner counts for both parts: the header block is dropped with it, or before.
        let counted = Counted {
            bytes: content.head,
            size,
            budget: self.clone(),
        };
        Some(Content {
            head: Bytes::from_owner(counted),
            body: content.body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_counted_until_its_last_copy_is_dropped() {
        let budget = Budget::new(10);
        let content = |body: &'static [u8]| Content {
            head: Bytes::from_static(b"h"),
            body: Body::Memory(Bytes::from_static(body)),
        };
        let kept = budget.keep(content(b"12345678")).expect("room for 9");
        assert!(budget.keep(content(b"1")).is_none(), "no room for 2 more");
        let copy = kept.clone();
        drop(kept);
        assert!(budget.keep(content(b"1")).is_none(), "a copy is still held");
        assert_eq!(&copy.head[..], b"h");
        drop(copy);
        assert!(budget.keep(content(b"123456789")).is_some());
    }
}
