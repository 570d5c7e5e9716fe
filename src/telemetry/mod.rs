//! The log: one structured line for each event, on stderr.
//!
//! Texts of peers are sanitised where they come in, so that nothing a peer sends can break a line.
//! No secret is ever given to a log macro.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Names the filter of the log, such as `info` or `warn,delivery=debug`.
pub const FILTER_VARIABLE: &str = "CHAPAR_LOG";
/// Set to `json`, one JSON object a line is written.
pub const FORMAT_VARIABLE: &str = "CHAPAR_LOG_FORMAT";

/// Starts logging to stderr; with times unless systemd's journal adds its own.
pub fn init() {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    // A second start in one process (tests) keeps the first.
    let _ = match std::env::var(FORMAT_VARIABLE).as_deref() {
        Ok("json") => builder.json().flatten_event(true).try_init(),
        _ if journal => builder.without_time().try_init(),
        _ => builder.try_init(),
    };
}
