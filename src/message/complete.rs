//! What a submission server does to the header of its users' mail (RFC 6409 section 8): adds what
//! is missing, removes what must not leave.

use queue_schema::{Millis, QueueId};

use super::date;
use super::headers::Field;

/// Fields that must not leave: they name hidden recipients, or are for the last hop to add
/// (RFC 5322 section 3.6.3, RFC 5321 section 4.4).
const DROPPED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];

/// What a message of a user lacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Missing<'a> {
    /// The author, for a message without From (RFC 6409 section 8.1).
    pub from: Option<&'a str>,
    /// The sender, for a message of several authors.
    pub sender: Option<&'a str>,
}

/// The header block of `fields` without `DROPPED`, with Date and Message-ID if they were missing,
/// and with the From and Sender that are given. The fields that stay keep their bytes and order, but
/// for blanks before a colon, for which signatures have two readings.
pub fn complete(
    fields: &[Field<'_>],
    add: Missing<'_>,
    id: QueueId,
    hostname: &str,
    now: Millis,
) -> Vec<u8> {
    let mut head =
        Vec::with_capacity(fields.iter().map(|field| field.whole.len()).sum::<usize>() + 128);
    for field in fields {
        if !DROPPED.iter().any(|name| field.is(name)) {
            match field.whole.get(field.name.len()) {
                Some(b' ' | b'\t') => {
                    head.extend_from_slice(field.name);
                    head.push(b':');
                    head.extend_from_slice(field.value);
                }
                _ => head.extend_from_slice(field.whole),
            }
        }
    }
    if !head.is_empty() && !head.ends_with(b"\r\n") {
        head.extend_from_slice(b"\r\n");
    }
    if let Some(from) = add.from {
        head.extend_from_slice(format!("From: {from}\r\n").as_bytes());
    }
    if let Some(sender) = add.sender {
        head.extend_from_slice(format!("Sender: {sender}\r\n").as_bytes());
    }
    let missing = |name: &str| !fields.iter().any(|field| field.is(name));
    if missing("Date") {
        head.extend_from_slice(format!("Date: {}\r\n", date(now)).as_bytes());
    }
    if missing("Message-ID") {
        // The queue id is never repeated and fixed before the first attempt, so a retry can not
        // change it.
        head.extend_from_slice(format!("Message-ID: <{id}@{hostname}>\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::fields;

    fn completed(head: &str) -> String {
        let fields = fields(head.as_bytes()).expect("fields");
        let head = complete(
            &fields,
            Missing {
                from: None,
                sender: None,
            },
            QueueId(1),
            "mx.example.org",
            1_764_000_000_000,
        );
        String::from_utf8(head).expect("text")
    }

    #[test]
    fn missing_fields_are_added_and_hidden_ones_removed() {
        assert_eq!(
            completed(
                "From: a@b.example\r\nBCC: x@y.example,\r\n z@y.example\r\nSubject: s\r\n\r\n"
            ),
            "From: a@b.example\r\nSubject: s\r\nDate: Mon, 24 Nov 2025 16:00:00 +0000\r\n\
             Message-ID: <0000000000001@mx.example.org>\r\n\r\n"
        );
    }

    #[test]
    fn r12_blanks_before_a_colon_go_from_what_is_signed() {
        let done = completed("From: a@b.example\r\nSubject \t: s\r\n\r\n");
        assert!(
            done.starts_with("From: a@b.example\r\nSubject: s\r\nDate: "),
            "{done}"
        );
    }

    #[test]
    fn what_is_there_keeps_its_bytes() {
        let head = "message-id: <x@y>\r\nFROM:  a@b.example\r\nDate: whenever\r\n\r\n";
        assert_eq!(completed(head), head);
    }
}
