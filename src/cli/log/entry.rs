//! A line of the log, from the journal or from a file, and which lines are wanted. Pure.

use serde_json::{Map, Value, json};

/// Fields in which an address stands.
const ADDRESSES: [&str; 8] = [
    "from",
    "to",
    "orig_to",
    "user",
    "address",
    "sender",
    "recipient",
    "client",
];
/// Fields in which an id of a message stands.
const IDS: [&str; 2] = ["id", "notice"];
/// Fields that come first, in this order.
const FIRST: [&str; 5] = ["id", "from", "to", "status", "reply"];

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// ERROR, WARN, INFO, DEBUG or TRACE.
    pub level: String,
    /// Which part of the daemon.
    pub target: String,
    /// What happened.
    pub event: String,
    /// Its values.
    pub fields: Map<String, Value>,
}

/// Which lines are wanted; what is empty is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// An address, or a part of one, in any field that has addresses.
    pub address: Option<String>,
    /// Ids of messages.
    pub ids: Vec<String>,
    /// Not before (RFC 3339, UTC).
    pub since: Option<String>,
    /// Not after.
    pub until: Option<String>,
    /// Warnings and errors alone.
    pub trouble: bool,
}

impl Entry {
    /// Of a line of `log.file`.
    pub fn of_file(line: &str) -> Option<Entry> {
        let Value::Object(mut fields) = serde_json::from_str(line).ok()? else {
            return None;
        };
        let mut text = |key: &str| match fields.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        Some(Entry {
            time: text("timestamp"),
            level: text("level"),
            target: text("target"),
            event: text("message"),
            fields,
        })
    }

    /// Of a line of `journalctl -o json`; `None` for one that is not the daemon's own.
    pub fn of_journal(line: &str) -> Option<Entry> {
        let Value::Object(found) = serde_json::from_str(line).ok()? else {
            return None;
        };
        let text = |key: &str| found.get(key).and_then(Value::as_str);
        let micros: i64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
        let time = jiff::Timestamp::from_microsecond(micros).ok()?;
        let mut entry = Entry {
            time: format!("{time:.6}"),
            level: match text("PRIORITY").unwrap_or("6") {
                "0" | "1" | "2" | "3" => "ERROR",
                "4" => "WARN",
                "7" => "DEBUG",
                _ => "INFO",
            }
            .to_owned(),
            target: text("CHAPAR_TARGET").unwrap_or_default().to_owned(),
            event: text("CHAPAR_EVENT")
                .or(text("MESSAGE"))
                .unwrap_or_default()
                .to_owned(),
            fields: Map::new(),
        };
        for (key, value) in &found {
            let Some(name) = key.strip_prefix("CHAPAR_") else {
                continue;
            };
            if !["TARGET", "EVENT"].contains(&name) {
                entry
                    .fields
                    .insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        Some(entry)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// The message it is about.
    pub fn id(&self) -> Option<&str> {
        self.field("id").filter(|id| !id.is_empty())
    }

    /// Whether `filter` wants it.
    pub fn fits(&self, filter: &Filter) -> bool {
        let has_address = |wanted: &str| {
            let wanted = wanted.to_lowercase();
            ADDRESSES
                .iter()
                .filter_map(|name| self.field(name))
                .any(|found| found.to_lowercase().contains(&wanted))
        };
        let has_id = || {
            let mut ids = IDS.iter().filter_map(|name| self.field(name));
            ids.any(|id| filter.ids.iter().any(|wanted| wanted == id))
        };
        // One form of time, so that the order of texts is that of times.
        let time = self.time.get(..19).unwrap_or(&self.time);
        let cut = |text: &String| text.get(..19).unwrap_or(text).to_owned();
        filter.address.as_deref().is_none_or(has_address)
            && (filter.ids.is_empty() || has_id())
            && filter
                .since
                .as_ref()
                .map(cut)
                .is_none_or(|since| *time >= *since)
            && filter
                .until
                .as_ref()
                .map(cut)
                .is_none_or(|until| *time <= *until)
            && (!filter.trouble || ["WARN", "ERROR"].contains(&self.level.as_str()))
    }

    /// For people.
    pub fn line(&self) -> String {
        let time = self.time.get(..19).unwrap_or(&self.time);
        let mut line = format!("{time}Z {:5} {}: {}", self.level, self.target, self.event);
        let first = FIRST
            .iter()
            .filter_map(|name| self.fields.get_key_value(*name));
        let rest = self
            .fields
            .iter()
            .filter(|(name, _)| !FIRST.contains(&name.as_str()));
        for (name, value) in first.chain(rest) {
            match value {
                Value::String(text) if text.is_empty() => {}
                Value::String(text) => line.push_str(&format!(" {name}={}", quoted(text))),
                Value::Null => {}
                other => line.push_str(&format!(" {name}={other}")),
            }
        }
        line.retain(|c| !c.is_control());
        line
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut object = json!({
            "time": self.time, "level": self.level, "target": self.target, "event": self.event,
        });
        if let Some(object) = object.as_object_mut() {
            for (name, value) in &self.fields {
                object.entry(name).or_insert_with(|| value.clone());
            }
        }
        object
    }
}

fn quoted(text: &str) -> String {
    match text.contains([' ', '"']) {
        true => format!("{text:?}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"timestamp":"2026-11-25T10:00:01.5Z","level":"INFO","message":"attempt","id":"a1","from":"me@example.org","to":"You@box.example","reply":"250 2.0.0 ok","attempts":1,"target":"delivery"}"#;
    const JOURNAL: &str = r#"{"__REALTIME_TIMESTAMP":"1795600801500000","PRIORITY":"4","MESSAGE":"WARN auth: login refused client=192.0.2.1","CHAPAR_TARGET":"auth","CHAPAR_EVENT":"login refused","CHAPAR_CLIENT":"192.0.2.1","_PID":"1"}"#;

    #[test]
    fn both_sources_give_the_same_kind_of_line() {
        let file = Entry::of_file(FILE).expect("entry");
        assert_eq!(
            file.line(),
            "2026-11-25T10:00:01Z INFO  delivery: attempt id=a1 from=me@example.org \
             to=You@box.example reply=\"250 2.0.0 ok\" attempts=1"
        );
        let journal = Entry::of_journal(JOURNAL).expect("entry");
        assert_eq!(
            journal.line(),
            "2026-11-25T10:00:01Z WARN  auth: login refused client=192.0.2.1"
        );
        assert_eq!(Entry::of_file("no json"), None);
        assert_eq!(Entry::of_journal("{}"), None);
    }

    #[test]
    fn a_filter_wants_what_fits_all_of_it() {
        let entry = Entry::of_file(FILE).expect("entry");
        let fits = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            entry.fits(&filter)
        };
        assert!(fits(|_| {}));
        assert!(fits(|f| f.address = Some("you@BOX.example".into())));
        assert!(fits(|f| f.address = Some("box.example".into())));
        assert!(!fits(|f| f.address = Some("other.example".into())));
        assert!(fits(|f| f.ids = vec!["b".into(), "a1".into()]));
        assert!(!fits(|f| f.ids = vec!["b".into()]));
        assert!(fits(|f| f.since = Some("2026-11-25T10:00:01Z".into())));
        assert!(!fits(|f| f.since = Some("2026-11-25T10:00:02Z".into())));
        assert!(!fits(|f| f.until = Some("2026-11-25T10:00:00Z".into())));
        assert!(!fits(|f| f.trouble = true));
    }
}
