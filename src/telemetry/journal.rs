//! Entries for systemd's journal, with a field for each value.
//!
//! MESSAGE is the whole line, as fail2ban and people read it; `CHAPAR_EVENT` its words alone, and
//! each value is a field of its own: `CHAPAR_ID`, `CHAPAR_TO`. The crate for this puts nothing but
//! the words into MESSAGE, so the forty lines of the protocol are here
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::fmt::{Debug, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of a value; an entry stays below what a datagram holds.
const VALUE: usize = 8 << 10;

/// See the module.
pub struct Journal(UnixDatagram);

impl Journal {
    /// Entries go to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Journal(socket))
    }
}

#[derive(Default)]
struct Values {
    words: String,
    fields: Vec<(&'static str, String)>,
    /// All of it as it stands in a line: texts are quoted, so that none can look like a field.
    line: String,
}

impl Values {
    fn add(&mut self, field: &Field, value: String, quoted: bool) {
        match field.name() {
            "message" => self.words = value,
            name => {
                let _ = match quoted {
                    true => write!(self.line, " {name}={value:?}"),
                    false => write!(self.line, " {name}={value}"),
                };
                self.fields.push((name, value));
            }
        }
    }
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned(), true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"), false);
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        let meta = event.metadata();
        let (level, target) = (meta.level(), super::place::shown(meta.target()));
        let line = format!("{level} {target}: {}{}", values.words, values.line);
        // Syslog's numbers.
        let priority = match *meta.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut entry = Vec::new();
        put(&mut entry, "MESSAGE", &line);
        put(&mut entry, "PRIORITY", priority);
        put(&mut entry, "SYSLOG_IDENTIFIER", "chapar");
        put(&mut entry, "CHAPAR_TARGET", &target);
        put(&mut entry, "CHAPAR_EVENT", &values.words);
        for (name, value) in &values.fields {
            let name: String = name
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            put(
                &mut entry,
                &format!("CHAPAR_{}", name.to_ascii_uppercase()),
                value,
            );
        }
        // Nobody is left to be told that the journal does not listen.
        let _ = self.0.send(&entry);
    }
}

/// A value with a line end in it goes with its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.as_bytes().get(..VALUE).unwrap_or(value.as_bytes());
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn an_entry_has_the_line_and_a_field_for_each_value() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("socket");
        let layer = Journal::connect(&path).expect("journal");
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            // deploy/fail2ban/filter.d/chapar.conf reads this line.
            tracing::warn!(target: "auth", client = %"192.0.2.1", user = "me", "login refused");
            tracing::info!(target: "x", text = "two\nlines", "y");
        });
        let mut entry = [0; 4096];
        let length = journal.recv(&mut entry).expect("entry");
        assert_eq!(
            String::from_utf8_lossy(&entry[..length]),
            "MESSAGE=WARN auth: login refused client=192.0.2.1 user=\"me\"\nPRIORITY=4\n\
             SYSLOG_IDENTIFIER=chapar\nCHAPAR_TARGET=auth\nCHAPAR_EVENT=login refused\n\
             CHAPAR_CLIENT=192.0.2.1\nCHAPAR_USER=me\n"
        );
        let length = journal.recv(&mut entry).expect("entry");
        let entry = &entry[..length];
        let with_length = b"CHAPAR_TEXT\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert!(entry.ends_with(with_length));
    }
}
