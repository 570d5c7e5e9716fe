//! Steps of the store at which a test lets the process die.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends the process like a crash at the step that `CHAPAR_FAILPOINT` names, or at the Nth time
/// for `NAME:N`. Only in debug builds, which are what tests run.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    static CHOSEN: std::sync::OnceLock<Option<(String, u64)>> = std::sync::OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("CHAPAR_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((chosen, count)) = chosen
        && chosen == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        std::process::abort();
    }
}

/// Nothing, in release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn failpoint(_name: &str) {}
