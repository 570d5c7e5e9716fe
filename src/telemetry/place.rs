//! How the log names the place in the code that a line comes from.
//!
//! Rooms are crates, and Rust names their modules `chapar_queue::actor`. The log says
//! `chapar::queue::actor`, in a filter as in a line: whoever reads it need not know what is a crate.

use std::borrow::Cow;
use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What Rust puts before the name of a room.
const CRATE: &str = "chapar_";
/// What the log puts there.
const SHOWN: &str = "chapar::";
/// The modules of the program itself, which are no crates.
const WITHIN: [&str; 2] = ["cli", "daemon"];

/// The place as the log names it.
pub(crate) fn shown(target: &str) -> Cow<'_, str> {
    match target.strip_prefix(CRATE) {
        Some(room) => Cow::Owned(format!("{SHOWN}{room}")),
        None => Cow::Borrowed(target),
    }
}

/// A filter that names places as the log does, as Rust names them.
pub(crate) fn filter(given: &str) -> String {
    let directive = |directive: &str| {
        let text = directive.trim_start();
        match text.strip_prefix(SHOWN) {
            Some(room) if !WITHIN.iter().any(|within| room.starts_with(within)) => {
                format!("{CRATE}{room}")
            }
            _ => directive.to_owned(),
        }
    };
    given
        .split(',')
        .map(directive)
        .collect::<Vec<_>>()
        .join(",")
}

/// Lines of another format with the place as it is shown.
pub(crate) struct Places<F> {
    /// The other format.
    pub inner: F,
    /// Whether it writes objects of JSON.
    pub json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Places<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let target = event.metadata().target();
        let Cow::Owned(name) = shown(target) else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        // Of the line's own words only time and level stand before it; of an object's keys no
        // other is called so, and within a text its quotes would be escaped.
        let (before, after) = match self.json {
            true => (
                format!("\"target\":\"{target}\""),
                format!("\"target\":\"{name}\""),
            ),
            false => (target.to_owned(), name),
        };
        writer.write_str(&line.replacen(&before, &after, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_room_in_lines_and_filters() {
        assert_eq!(shown("chapar_queue::actor"), "chapar::queue::actor");
        assert_eq!(shown("chapar::daemon"), "chapar::daemon");
        assert_eq!(shown("auth"), "auth");
        assert_eq!(
            filter("warn,chapar::queue::actor=debug, chapar::cli=info,chapar=trace"),
            "warn,chapar_queue::actor=debug, chapar::cli=info,chapar=trace"
        );
    }
}
