//! A small list of the queue actor that is on disk as well: suspensions, standing orders.
//!
//! It is changed on disk first, then here, one change after the other, and whoever asked for the
//! change is answered after that.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use queue_schema::Millis;
use serde::Serialize;

use super::store::Disk;
use super::{blocking, kept};

/// See the module. Clones are the same list; all of them stay on the actor's thread.
#[derive(Clone)]
pub(super) struct Listed<T> {
    name: &'static str,
    /// What holds.
    pub now: Rc<RefCell<Vec<T>>>,
    /// Locked while it is written.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Clone + Serialize + Send + 'static> Listed<T> {
    /// The list in the file `name`, as it was read.
    pub fn new(name: &'static str, list: Vec<T>) -> Listed<T> {
        Listed {
            name,
            now: Rc::new(RefCell::new(list)),
            writing: Arc::default(),
        }
    }

    /// Makes a change durable and then true. `settle` takes over into the new list what happened
    /// to the one in memory while it was written.
    pub fn change<R: 'static>(
        &self,
        (disk, data_dir): (Disk, &Path),
        change: impl FnOnce(&mut Vec<T>, Millis) -> Result<R, String> + 'static,
        settle: impl FnOnce(&[T], &mut Vec<T>) + 'static,
    ) -> impl Future<Output = Result<R, String>> + 'static {
        let (list, data_dir) = (self.clone(), data_dir.to_owned());
        async move {
            let _alone = list.writing.clone().lock_owned().await;
            let mut new = list.now.borrow().clone();
            let result = change(&mut new, crate::time::now())?;
            let (written, name) = (new.clone(), list.name);
            let save = move || kept::save(&disk, &data_dir, name, &written);
            let done = blocking(save).await;
            done.map_err(|error| error.to_string())
                .and_then(|done| done.map_err(|error| format!("it can not be written: {error}")))?;
            // Before the answer: whoever hears it and asks hears the new list.
            let mut now = list.now.borrow_mut();
            settle(&now, &mut new);
            *now = new;
            Ok(result)
        }
    }
}
