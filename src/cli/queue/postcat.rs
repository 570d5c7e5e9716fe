//! What `postcat -e` prints of a message in Postfix's queue: the records of its envelope, of which
//! the requests of RFC 3461 are read here. Pure.
//!
//! A record is a line `name: value`. What is said of a recipient stands before its `recipient`, as
//! a record of its own or as a `named_attribute: name=value` (rec_type(3), rec_attr_map(3)).

use std::collections::VecDeque;

use queue_schema::{Envelope, Notify, Ret};

/// Postfix's flags of NOTIFY (dsn_mask.h).
const NEVER: u32 = 1;
const SUCCESS: u32 = 1 << 1;
const FAILURE: u32 = 1 << 2;
const DELAY: u32 = 1 << 3;
/// Its flags of RET.
const FULL: u32 = 1;
const HEADERS: u32 = 1 << 1;

/// What was asked for a recipient.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    address: String,
    notify: Option<Notify>,
    orcpt: Option<String>,
}

/// What was asked for a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    ret: Option<Ret>,
    envid: Option<String>,
    recipients: VecDeque<Asked>,
}

impl Records {
    /// Reads the output of `postcat -e`; what is not known is passed over.
    pub(super) fn parse(text: &str) -> Records {
        let mut records = Records::default();
        let mut next = Asked::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim_start();
            let (name, value) = match (name, value.split_once('=')) {
                ("named_attribute", Some(pair)) => pair,
                _ => (name, value),
            };
            match name {
                "ret_flags" | "dsn_return_flags" => records.ret = ret(value),
                "envelope_id" | "dsn_envelope_id" if !value.is_empty() => {
                    records.envid = Some(value.to_owned());
                }
                "notify_flags" | "dsn_notify_flags" => next.notify = notify(value),
                "dsn_orig_rcpt" | "dsn_original_recipient" if value.contains(';') => {
                    next.orcpt = Some(value.to_owned());
                }
                "recipient" => {
                    let mut asked = std::mem::take(&mut next);
                    asked.address = value.to_owned();
                    records.recipients.push_back(asked);
                }
                "done_recipient" | "canceled_recipient" => next = Asked::default(),
                _ => {}
            }
        }
        records
    }

    /// Adds what was asked to an envelope of the same message.
    pub(super) fn apply(mut self, envelope: &mut Envelope) {
        envelope.ret = self.ret;
        envelope.envid = self.envid;
        for to in &mut envelope.recipients {
            let same = |asked: &Asked| asked.address.eq_ignore_ascii_case(&to.address);
            let found = self.recipients.iter().position(same);
            if let Some(asked) = found.and_then(|at| self.recipients.remove(at)) {
                to.notify = asked.notify.unwrap_or(to.notify);
                to.orcpt = asked.orcpt;
            }
        }
    }
}

fn ret(value: &str) -> Option<Ret> {
    match value.trim().parse::<u32>().ok()? {
        FULL => Some(Ret::Full),
        HEADERS => Some(Ret::Headers),
        _ => None,
    }
}

fn notify(value: &str) -> Option<Notify> {
    let flags = value.trim().parse::<u32>().ok()?;
    let asked = flags & (NEVER | SUCCESS | FAILURE | DELAY);
    (asked != 0).then_some(Notify {
        success: flags & SUCCESS != 0,
        failure: flags & FAILURE != 0,
        delay: flags & DELAY != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_schema::Recipient;

    #[test]
    fn q18_notify_ret_and_envid_of_postfix_are_kept() {
        let text = "*** ENVELOPE RECORDS deferred/4/4Fsw2T1bYwz1c ***\n\
            message_size:             312             500               4               0\n\
            message_arrival_time: Tue Nov 14 22:13:20 2023\n\
            named_attribute: rewrite_context=local\n\
            named_attribute: envelope_id=QQ=314159\n\
            named_attribute: ret_flags=2\n\
            sender: a@example.org\n\
            named_attribute: notify_flags=10\n\
            named_attribute: dsn_orig_rcpt=rfc822;B@example.net\n\
            original_recipient: B@example.net\n\
            recipient: b@example.net\n\
            named_attribute: notify_flags=2\n\
            done_recipient: gone@example.net\n\
            dsn_notify_flags: 1\n\
            recipient: c@example.com\n\
            recipient: d@example.com\n\
            *** MESSAGE CONTENTS deferred/4/4Fsw2T1bYwz1c ***\n";
        let addresses = [
            "d@example.com",
            "c@example.com",
            "b@EXAMPLE.net",
            "x@example.com",
        ];
        let mut envelope = Envelope::new("a@example.org", addresses.map(Recipient::new).to_vec());
        Records::parse(text).apply(&mut envelope);
        assert_eq!(envelope.ret, Some(Ret::Headers));
        assert_eq!(envelope.envid.as_deref(), Some("QQ=314159"));
        let notify = |at: usize| {
            let notify = envelope.recipients[at].notify;
            [notify.success, notify.failure, notify.delay]
        };
        assert_eq!(notify(0), [false, true, true], "nothing was asked");
        assert_eq!(notify(1), [false, false, false], "NEVER");
        assert_eq!(notify(2), [true, false, true]);
        let orcpt = envelope.recipients[2].orcpt.as_deref();
        assert_eq!(orcpt, Some("rfc822;B@example.net"));
        assert_eq!(notify(3), [false, true, true]);
    }

    #[test]
    fn nonsense_is_passed_over() {
        for text in [
            "",
            "recipient",
            "named_attribute: ret_flags=9",
            "a: b=c\n:\n=\n",
        ] {
            let mut envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
            let before = envelope.clone();
            Records::parse(text).apply(&mut envelope);
            assert_eq!(envelope, before);
        }
    }
}
