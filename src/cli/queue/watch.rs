//! `mta-queue watch`: a line for each event.

use super::ask::{self, Failure};
use super::show;
use crate::config::Config;
use crate::control::protocol::{Answer, Request};
use crate::queue::{Happened, Selector};

/// Prints events until it is interrupted or the daemon ends.
pub(super) fn run(config: &Config, selector: Selector, json: bool) -> Result<(), Failure> {
    let request = Request::Watch { selector };
    ask::ask(config, request, &mut |answer| {
        match answer {
            Answer::Event(event) if json => {
                say!("{}", serde_json::to_string(&event).unwrap_or_default());
            }
            Answer::Event(event) => say!("{}", line(&event)),
            Answer::Missed(count) => eprintln!("mta-queue: {count} events were missed"),
            _ => {}
        }
        Ok(())
    })?;
    Ok(())
}

/// One event for people.
pub(super) fn line(event: &Happened) -> String {
    let time = event.at.get(11..19).unwrap_or(&event.at);
    let mut line = format!("{time} {:10}", event.event);
    if !event.id.is_empty() {
        line.push_str(&format!(" {} {} ->", event.id, show::sender(&event.from)));
    }
    line.push_str(&format!(" {}", event.to.join(", ")));
    if !event.text.is_empty() {
        line.push_str(&format!(": {}", event.text));
    }
    if !event.remote.is_empty() {
        line.push_str(&format!(" [{}]", event.remote));
    }
    if !event.by.is_empty() {
        line.push_str(&format!(" by {}", event.by));
    }
    line
}
