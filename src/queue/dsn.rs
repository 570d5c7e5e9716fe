//! Delivery status notifications: what the sender of a message is told about it. Pure.
//!
//! RFC 3464 (the notification), RFC 6522 (multipart/report), RFC 3461 section 6 (when and what),
//! RFC 3834 (Auto-Submitted), RFC 6533 (addresses beyond ASCII). One notification names every
//! recipient that one event concerns. People read the first part: it says who did not get the
//! message, what the other server said, and what to do.

use std::fmt::Write;

use bytes::Bytes;
use queue_schema::{
    BodyKind, Message, Millis, Origin, QueueId, Recipient, RecipientState, Reply, Ret, Status,
};

use super::HERE;
use super::dsn_text::{ascii, date, fitting, line, printable, wrap};
use crate::config::routes::Via;
use crate::message::{Body, Content};
use crate::smtp::client::own_words::is_own_words;

/// Bytes of the original that are returned at most.
const RETURNED: usize = 64 << 10;

/// What happened to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Position in `envelope.recipients`.
    pub recipient: u32,
    /// Its state after the event: `Bounced` and `Expired` failed, `Waiting` is late, `Delivered`
    /// was delivered, or relayed to a server that knows no notifications.
    pub state: RecipientState,
    /// Protocol version and cipher of the attempt, for the message's story.
    pub tls: String,
    /// When it happened.
    pub at: Millis,
}

/// What a notification is made of.
#[derive(Debug)]
pub struct Notice<'a> {
    /// Its own id.
    pub id: QueueId,
    /// Now.
    pub now: Millis,
    /// The message it is about.
    pub message: &'a Message,
    /// Recipients, at least one.
    pub reports: &'a [Report],
    /// Until when late ones are tried.
    pub deadline: Millis,
    /// Our EHLO name.
    pub hostname: &'a str,
    /// The bytes of the message it is about, if they can be read.
    pub original: Option<&'a Content>,
    /// Who is told: the sender, or the postmaster of what could not be told to a sender.
    pub to: &'a str,
}

/// What a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It will not be delivered.
    Failed,
    /// It is not delivered yet.
    Late,
    /// It was delivered, or passed on to a server that will not tell (RFC 3461 section 5.2.1).
    Done,
}

/// A notification, not yet signed.
#[derive(Debug, Clone)]
pub struct Built {
    /// The domain of its From header.
    pub domain: String,
    /// Its bytes.
    pub content: Content,
    /// Whether it has bytes over 127.
    pub body: BodyKind,
    /// Whether it needs SMTPUTF8.
    pub smtputf8: bool,
}

/// The domain that speaks: the one whose mail this was, so that its key signs the notification.
pub fn domain(message: &Message, hostname: &str) -> String {
    let of = |address: &str| {
        address
            .rsplit_once('@')
            .map(|(_, domain)| domain.to_owned())
    };
    let own = match &message.origin {
        Origin::User { user, .. } => of(user),
        _ => message
            .envelope
            .recipients
            .iter()
            .find_map(|r| of(r.alias_of.as_deref()?)),
    };
    own.unwrap_or_else(|| hostname.to_owned())
}

/// Writes the notification.
pub fn build(notice: &Notice<'_>) -> Built {
    let domain = domain(notice.message, notice.hostname);
    let recipients = notice.recipients();
    let wide = notice.is_wide();
    let event = notice.event();

    let (returned, kind) = returned(notice);
    let mut boundary = format!("{}.{}", notice.id, notice.hostname);
    while memchr::memmem::find(&returned, boundary.as_bytes()).is_some() {
        boundary.push('=');
    }
    let subject = match event {
        Event::Late => "Your message is late",
        Event::Done if recipients.iter().all(|(_, state)| is_here(state)) => {
            "Your message was delivered"
        }
        Event::Done => "Your message was passed on",
        Event::Failed if notice.is_own_failure() => "A notice could not be delivered",
        Event::Failed => "Your message was not delivered",
    };
    let charset = if wide { "utf-8" } else { "us-ascii" };
    let machine = if wide {
        "global-delivery-status"
    } else {
        "delivery-status"
    };
    let eight_bit = wide || !returned.is_ascii();
    let transfer = |eight: bool| if eight { "8bit" } else { "7bit" };

    let mut head = String::new();
    let mut field = |text: std::fmt::Arguments<'_>| {
        let _ = write!(head, "{text}\r\n");
    };
    field(format_args!("Date: {}", date(notice.now)));
    field(format_args!(
        "From: Mail delivery at {domain} <MAILER-DAEMON@{domain}>"
    ));
    field(format_args!("To: <{}>", line(notice.to)));
    field(format_args!("Subject: {subject}"));
    field(format_args!(
        "Message-ID: <{}@{}>",
        notice.id, notice.hostname
    ));
    if let Some(original) = notice
        .original
        .and_then(|content| message_id(&content.head))
    {
        field(format_args!("In-Reply-To: {original}"));
        field(format_args!("References: {original}"));
    }
    field(format_args!("Auto-Submitted: auto-replied"));
    field(format_args!("MIME-Version: 1.0"));
    field(format_args!(
        "Content-Type: multipart/report; report-type={machine};"
    ));
    field(format_args!(" boundary=\"{boundary}\""));
    field(format_args!(
        "Content-Transfer-Encoding: {}",
        transfer(eight_bit)
    ));
    head.push_str("\r\n");

    let mut body = String::new();
    let _ = write!(
        body,
        "--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\n\
         Content-Transfer-Encoding: {}\r\n\r\n",
        transfer(wide)
    );
    people(&mut body, notice, &recipients, event, wide);
    let _ = write!(
        body,
        "\r\n--{boundary}\r\nContent-Type: message/{machine}\r\n\
         Content-Transfer-Encoding: {}\r\n\r\n",
        transfer(wide)
    );
    machines(&mut body, notice, &recipients, wide);
    let _ = write!(
        body,
        "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {}\r\n\r\n",
        transfer(!returned.is_ascii())
    );
    let mut bytes = body.into_bytes();
    bytes.extend_from_slice(&returned);
    bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Built {
        domain,
        content: Content {
            head: head.into(),
            body: Body::Memory(Bytes::from(bytes)),
        },
        body: if eight_bit {
            BodyKind::EightBit
        } else {
            BodyKind::SevenBit
        },
        // What the parts hold is content, which can be encoded; the envelope and the header are not.
        smtputf8: !notice.to.is_ascii(),
    }
}

impl<'a> Notice<'a> {
    fn event(&self) -> Event {
        let all = |status| {
            self.reports
                .iter()
                .all(|report| report.state.status == status)
        };
        if all(Status::Waiting) {
            Event::Late
        } else if all(Status::Delivered) {
            Event::Done
        } else {
            Event::Failed
        }
    }

    /// Whether it names addresses beyond ASCII (RFC 6533).
    fn is_wide(&self) -> bool {
        let shown =
            |(recipient, _): &(&'a Recipient, _)| !shown(self.message, recipient).is_ascii();
        !self.to.is_ascii() || self.recipients().iter().any(shown)
    }

    /// A notice of ours could not be delivered, and the postmaster is told.
    fn is_own_failure(&self) -> bool {
        matches!(self.message.origin, Origin::Dsn { .. })
    }

    fn recipients(&self) -> Vec<(&'a Recipient, &'a RecipientState)> {
        let named = |report: &'a Report| {
            let position = usize::try_from(report.recipient).ok()?;
            Some((
                self.message.envelope.recipients.get(position)?,
                &report.state,
            ))
        };
        self.reports.iter().filter_map(named).collect()
    }
}

/// The address the sender knows: someone outside is not told where an alias of ours leads, and a
/// program or directory is no address.
fn shown<'a>(message: &Message, recipient: &'a Recipient) -> &'a str {
    match (&message.origin, &recipient.alias_of) {
        (Origin::Outside { .. }, Some(alias)) => alias,
        (_, Some(alias)) if Via::of_address(&recipient.address).is_some() => alias,
        _ => &recipient.address,
    }
}

/// The other server's words, without the address that [`shown`] hides.
fn hidden(message: &Message, recipient: &Recipient, said: &str) -> String {
    let shown = shown(message, recipient);
    if shown == recipient.address {
        return said.to_owned();
    }
    let (lower, secret) = (
        said.to_ascii_lowercase(),
        recipient.address.to_ascii_lowercase(),
    );
    let mut out = String::new();
    let mut from = 0;
    // Lower case in ASCII changes no lengths.
    while let Some(at) = lower.get(from..).and_then(|rest| rest.find(&secret)) {
        out.push_str(said.get(from..from + at).unwrap_or_default());
        out.push_str(shown);
        from += at + secret.len().max(1);
    }
    out.push_str(said.get(from..).unwrap_or_default());
    out
}

/// The part for people.
fn people(
    out: &mut String,
    notice: &Notice<'_>,
    recipients: &[(&Recipient, &RecipientState)],
    event: Event,
    wide: bool,
) {
    let arrived = date(notice.message.arrived);
    let opening = match event {
        Event::Late => format!(
            "Your message of {arrived} has not been delivered yet to the recipients below. \
             There is nothing you need to do: it is tried again until {}, and you are told if \
             that fails.",
            date(notice.deadline)
        ),
        Event::Done if recipients.iter().all(|(_, state)| is_here(state)) => format!(
            "You asked to be told when your message of {arrived} arrives. It was delivered to the \
             recipients below."
        ),
        Event::Done => format!(
            "You asked to be told when your message of {arrived} arrives. It was handed on for \
             the recipients below. Their servers send no confirmations of their own, so this is \
             the last you hear, unless it fails later.",
        ),
        Event::Failed if notice.is_own_failure() => format!(
            "This server wrote a notice on {arrived} about a message that failed, and the notice \
             itself could not be delivered to the recipients below. So somebody does not know \
             that their mail failed. You get this as the postmaster of this server.",
        ),
        Event::Failed => {
            format!("Your message of {arrived} could not be delivered to the recipients below.")
        }
    };
    wrap(out, "", &opening);
    for (recipient, state) in recipients {
        out.push_str("\r\n");
        let expanded = match &recipient.alias_of {
            Some(alias) if alias != shown(notice.message, recipient) => {
                format!(" (from {})", fitting(&line(alias), wide))
            }
            _ => String::new(),
        };
        let _ = write!(
            out,
            "<{}>{expanded}\r\n",
            line(shown(notice.message, recipient))
        );
        if let Some(reply) = &state.last_reply {
            let who = match host(reply) {
                Some(host) if is_own_words(&reply.text) => format!("Reason, at {host}"),
                Some(host) => format!("The server {host} said"),
                None => "Reason".to_owned(),
            };
            let said = hidden(notice.message, recipient, &reply.to_string());
            let said = printable(&said, notice.is_wide());
            wrap(out, "    ", &format!("{who}: {said}"));
        }
        wrap(out, "    ", advice(state));
    }
    out.push_str("\r\n");
    wrap(
        out,
        "",
        &format!(
            "This notice was written by the mail server {}. The parts below are for programs and \
             for whoever helps you; in its log this message is {}.",
            notice.hostname, notice.message.id
        ),
    );
}

/// What the reader can do about it, by the class of the status (RFC 3463).
fn advice(state: &RecipientState) -> &'static str {
    let status = status(state);
    let mut parts = status.split('.');
    let (class, subject, detail) = (parts.next(), parts.next(), parts.next());
    match (state.status, class, subject, detail) {
        (Status::Waiting, ..) => "It will be tried again.",
        (Status::Delivered, ..) => "There is nothing to do.",
        (Status::Expired, ..) => {
            "It was tried until its time was over. Try again later, or reach the recipient in \
             another way."
        }
        (_, _, Some("1"), Some("1" | "3" | "6" | "10")) | (_, _, Some("1"), Some("0" | "2")) => {
            "Check the address; it does not exist there."
        }
        (_, _, Some("2"), Some("2")) => "The mailbox is full. Try again later.",
        (_, _, Some("2"), _) => "The mailbox does not take mail. Ask the recipient.",
        (_, _, Some("3"), Some("4")) => {
            "The message is too large for that server. Send less, or send a link."
        }
        (_, _, Some("7"), _) => {
            "That server refuses this message by its policy. Ask the recipient, or show this \
             notice to whoever runs your mail server."
        }
        _ => "Show this notice to whoever runs your mail server if you do not know why.",
    }
}

/// The part for programs (RFC 3464 section 2).
fn machines(
    out: &mut String,
    notice: &Notice<'_>,
    recipients: &[(&Recipient, &RecipientState)],
    wide: bool,
) {
    let _ = write!(out, "Reporting-MTA: dns; {}\r\n", notice.hostname);
    if let Some(envid) = &notice.message.envelope.envid {
        let _ = write!(out, "Original-Envelope-Id: {}\r\n", ascii(&line(envid)));
    }
    let _ = write!(out, "X-Chapar-Queue-ID: {}\r\n", notice.message.id);
    let _ = write!(out, "Arrival-Date: {}\r\n", date(notice.message.arrived));
    for (recipient, state) in recipients {
        let address = line(shown(notice.message, recipient));
        let kind = if address.is_ascii() {
            "rfc822"
        } else {
            "utf-8"
        };
        out.push_str("\r\n");
        if let Some(orcpt) = &recipient.orcpt {
            let orcpt = fitting(&line(orcpt), wide);
            let _ = write!(out, "Original-Recipient: {orcpt}\r\n");
        } else if let Some(alias) = &recipient.alias_of {
            let kind = if alias.is_ascii() { "rfc822" } else { "utf-8" };
            let alias = fitting(&line(alias), wide);
            let _ = write!(out, "Original-Recipient: {kind}; {alias}\r\n");
        }
        let _ = write!(out, "Final-Recipient: {kind}; {address}\r\n");
        let action = match state.status {
            Status::Waiting => "delayed",
            Status::Delivered if state.last_reply.as_ref().and_then(host).is_some() => "relayed",
            Status::Delivered => "delivered",
            _ => "failed",
        };
        let _ = write!(out, "Action: {action}\r\nStatus: {}\r\n", status(state));
        if let Some(reply) = &state.last_reply {
            let mut kind = "x-chapar";
            if let Some(host) = host(reply) {
                // RFC 3464 section 2.3.6: the type says whose words these are.
                if !is_own_words(&reply.text) {
                    kind = "smtp";
                }
                let _ = write!(out, "Remote-MTA: dns; {host}\r\n");
            }
            let mut text = String::new();
            let said = hidden(notice.message, recipient, &reply.to_string());
            wrap(&mut text, " ", &printable(&said, notice.is_wide()));
            let _ = write!(out, "Diagnostic-Code: {kind};{}", text);
        }
        if state.last_attempt != 0 {
            let _ = write!(out, "Last-Attempt-Date: {}\r\n", date(state.last_attempt));
        }
        if state.status == Status::Waiting {
            let _ = write!(out, "Will-Retry-Until: {}\r\n", date(notice.deadline));
        }
    }
}

/// The status code (RFC 3463): the peer's where it has the right class, else a general one.
fn status(state: &RecipientState) -> String {
    let given = state
        .last_reply
        .as_ref()
        .map(|reply| reply.enhanced.as_str())
        .unwrap_or_default();
    let (class, general) = match state.status {
        Status::Expired => return "4.4.7".to_owned(),
        Status::Waiting => ('4', "4.0.0"),
        Status::Delivered => ('2', "2.0.0"),
        _ => ('5', "5.0.0"),
    };
    let sound = given.starts_with(class)
        && given.split('.').count() == 3
        && given.split('.').all(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        });
    if sound {
        given.to_owned()
    } else {
        general.to_owned()
    }
}

/// The third part: the original or its header block, and its media type.
fn returned(notice: &Notice<'_>) -> (Vec<u8>, &'static str) {
    let Some(original) = notice.original else {
        return (Vec::new(), "text/rfc822-headers");
    };
    // RET=FULL is about failures only, and what holds without RET is ours to say (RFC 3461 section
    // 4.3): headers, so that nobody sends mail to others by way of us.
    if let Body::Memory(body) = &original.body
        && notice.event() == Event::Failed
        && notice.message.envelope.ret == Some(Ret::Full)
        && original.len() <= RETURNED as u64
    {
        let kind = if notice.message.envelope.smtputf8 {
            "message/global"
        } else {
            "message/rfc822"
        };
        return ([&original.head[..], &body[..]].concat(), kind);
    }
    let mut head = original.head.to_vec();
    if head.len() > RETURNED {
        head.truncate(RETURNED);
        let whole = memchr::memrchr(b'\n', &head).map_or(0, |end| end + 1);
        head.truncate(whole);
    }
    let kind = if notice.message.envelope.smtputf8 {
        "message/global-headers"
    } else {
        "text/rfc822-headers"
    };
    (head, kind)
}

/// Whether a recipient was delivered on this machine.
fn is_here(state: &RecipientState) -> bool {
    state.last_reply.as_ref().and_then(host).is_none()
}

/// The host in a reply's `host[address]:port`; this machine is none that was asked.
fn host(reply: &Reply) -> Option<String> {
    if reply.remote == HERE {
        return None;
    }
    let host = reply.remote.split(['[', ':']).next().unwrap_or_default();
    (!host.is_empty()).then(|| ascii(&line(host)))
}

/// The Message-ID of a header block, if it is one word of a sane length.
fn message_id(head: &[u8]) -> Option<String> {
    let line = head
        .split(|byte| *byte == b'\n')
        .take_while(|line| *line != b"\r")
        .find(|line| {
            line.get(..11)
                .is_some_and(|name| name.eq_ignore_ascii_case(b"message-id:"))
        })?;
    let value = std::str::from_utf8(line.get(11..)?).ok()?.trim();
    let sound = value.starts_with('<')
        && value.ends_with('>')
        && value.len() <= 250
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then(|| value.to_owned())
}

#[cfg(test)]
#[path = "dsn_tests.rs"]
mod tests;
