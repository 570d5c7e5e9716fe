//! Panics of simulated processes: each is kept for its thread instead of being printed.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// From now on panics of this thread are kept.
pub fn keep() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = CAUGHT.with_borrow_mut(|caught| {
                let some = caught.is_some();
                if let Some(caught) = caught {
                    caught.push(info.to_string().replace('\n', ": "));
                }
                some
            });
            if !kept {
                before(info);
            }
        }));
    });
    CAUGHT.set(Some(Vec::new()));
}

/// The first panic since the last call.
pub fn take() -> Option<String> {
    CAUGHT.with_borrow_mut(|caught| {
        let caught = caught.as_mut()?;
        let first = caught.first().cloned();
        caught.clear();
        first
    })
}

/// Panics of this thread are printed again.
pub fn let_go() {
    CAUGHT.set(None);
}
