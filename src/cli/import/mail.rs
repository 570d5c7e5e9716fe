//! The queue of chasquid: one file `m:ID` for each message.

use std::fs;
use std::path::Path;

use queue_schema::{BodyKind, Envelope, Origin, Recipient, RecipientState};

use super::super::queue::ask::{Failure, Taken};
use super::super::queue::with_crlf;
use super::super::taken::{self, Counts};
use super::textproto;
use crate::config::Config;
use crate::control::protocol::Exported;

/// How many messages were taken, and remarks about those that were not.
pub(super) fn import(config: &Config, dir: &Path) -> Result<(Counts, Vec<String>), Failure> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("m:")
        })
        .collect();
    paths.sort();
    let mut remarks = Vec::new();
    let mut messages = paths.iter().filter_map(|path| match read(path) {
        Ok(taken) => taken.map(Ok),
        Err(why) => {
            remarks.push(format!("{}: {why}; it stays there", path.display()));
            None
        }
    });
    let by = "chapar import chasquid";
    let counts = taken::take_new(config, "chasquid", by, &mut messages)?;
    drop(messages);
    Ok((counts, remarks))
}

/// A message with those of its recipients who still wait; none if nobody does.
fn read(path: &Path) -> Result<Option<Taken>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let read = textproto::parse(&text).map_err(|(line, why)| format!("line {line}: {why}"))?;
    let data = read.bytes("Data").ok_or("it has no data")?;
    let bytes = with_crlf(data.to_vec());
    let now = crate::time::now();
    let arrived = read
        .message("CreatedAtTs")
        .and_then(|time| time.number("seconds"))
        .map_or(now, |seconds| seconds.saturating_mul(1000));
    let mut recipients = Vec::new();
    let mut states = Vec::new();
    for rcpt in read.messages("Rcpt") {
        // PENDING is the default, which the text form leaves out.
        if !matches!(rcpt.word("Status"), None | Some("PENDING" | "0")) {
            continue;
        }
        let address = rcpt.text("Address").unwrap_or_default();
        if address.is_empty() || rcpt.word("Type") == Some("PIPE") {
            return Err("a recipient of it is a program".into());
        }
        let original = rcpt.text("OriginalAddress").unwrap_or_default();
        recipients.push(Recipient {
            alias_of: (!original.is_empty() && original != address).then_some(original),
            ..Recipient::new(address)
        });
        states.push(RecipientState::new(now));
    }
    if recipients.is_empty() {
        return Ok(None);
    }
    let from = match read.text("From").unwrap_or_default().as_str() {
        "<>" => String::new(),
        from => from.to_owned(),
    };
    let body = match bytes.is_ascii() {
        true => BodyKind::SevenBit,
        false => BodyKind::EightBit,
    };
    let utf8 = !from.is_ascii() || recipients.iter().any(|to| !to.address.is_ascii());
    let exported = Exported {
        format: 1,
        id: read.text("ID").unwrap_or_default(),
        size: bytes.len() as u64,
        arrived,
        origin: Origin::Network {
            client: std::net::Ipv4Addr::LOCALHOST.into(),
        },
        envelope: Envelope {
            body,
            smtputf8: utf8,
            ..Envelope::new(from, recipients)
        },
        states,
        warned: false,
        held: false,
        story: Vec::new(),
        sha256: None,
    };
    Ok(Some(Taken { exported, bytes }))
}
