//! The log: one structured line for each event, on stderr, in systemd's journal, in a file.
//!
//! Texts of peers are sanitised where they come in, so that nothing a peer sends can break a line.
//! No secret is ever given to a log macro.
#![forbid(unsafe_code)]

mod file;
mod journal;
mod place;
pub mod wire;

// The rooms that this one enters.
use chapar_base as base;
use chapar_base::time;
use chapar_config as config;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use tracing_subscriber::fmt::format::{Format, Full};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Log, LogFormat};
pub use file::reopen;
use place::Places;

/// Names the filter of the log, such as `info` or `warn,delivery=debug`.
pub const FILTER_VARIABLE: &str = "CHAPAR_LOG";
/// Set to `json` or `human`, it counts more than `log.format`.
pub const FORMAT_VARIABLE: &str = "CHAPAR_LOG_FORMAT";

/// The log can not be written where it should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.file = {file:?}: {error}; its directory must exist and belong to the user of the daemon"
)]
pub struct LogError {
    file: PathBuf,
    error: io::Error,
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging as the configuration says, if there is one with its directory. If the file can
/// not be written, everything else is logged all the same.
pub fn init(log: Option<(Log, PathBuf)>) -> Result<(), LogError> {
    let given = std::env::var(FILTER_VARIABLE).ok();
    let given = given.and_then(|given| EnvFilter::try_new(place::filter(&given)).ok());
    let filter = given.unwrap_or_else(|| EnvFilter::new("info"));
    let format = match std::env::var(FORMAT_VARIABLE).as_deref() {
        Ok("json") => LogFormat::Json,
        Ok("human") => LogFormat::Human,
        _ => log.as_ref().map_or(LogFormat::Auto, |(log, _)| log.format),
    };
    let mut layers: Vec<Boxed> = vec![stderr(format)];
    let opened = match &log {
        Some((log, dir)) if !log.file.is_empty() => Some(open(&dir.join(&log.file))),
        _ => None,
    };
    let mut failed = Ok(());
    match opened {
        Some(Ok(layer)) => layers.push(layer),
        Some(Err(error)) => failed = Err(error),
        None => {}
    }
    // A second start in one process (tests) keeps the first.
    let _ = Registry::default()
        .with(layers.with_filter(filter))
        .try_init();
    failed
}

fn open(path: &Path) -> Result<Boxed, LogError> {
    let writer = file::open(path).map_err(|error| LogError {
        file: path.to_owned(),
        error,
    })?;
    Ok(fmt::layer()
        .json()
        .flatten_event(true)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .map_event_format(|inner| Places { inner, json: true })
        .boxed())
}

fn stderr(format: LogFormat) -> Boxed {
    let colours = io::stderr().is_terminal();
    let plain = || fmt::layer().with_writer(io::stderr).with_ansi(colours);
    let words = |inner: Format<Full, ()>| Places {
        inner: inner.with_ansi(colours),
        json: false,
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    match format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .map_event_format(|inner| Places { inner, json: true })
            .boxed(),
        // The journal adds its own times.
        LogFormat::Auto if journal => match journal::Journal::connect(Path::new(journal::SOCKET)) {
            Ok(journal) => journal.boxed(),
            Err(_) => plain().without_time().map_event_format(words).boxed(),
        },
        LogFormat::Human if journal => plain().without_time().map_event_format(words).boxed(),
        LogFormat::Auto | LogFormat::Human => plain()
            .map_event_format(|inner| Places {
                inner: inner.with_ansi(colours),
                json: false,
            })
            .boxed(),
    }
}
