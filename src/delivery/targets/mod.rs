//! Targets on this machine: a Maildir, a program, nowhere.
//!
//! Each receives a message and one recipient and says what became of it; nothing here knows the
//! queue. LMTP is a connection like SMTP and is not here. What is delivered gets Return-Path and
//! Delivered-To on top (RFC 5321 section 4.4, RFC 9228) and lines that end with LF, as mail on
//! disk has them. It goes there in pieces: memory does not grow with it. A message that was at this
//! recipient already is a loop.

mod maildir;
mod pipe;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use queue_schema::{Message, Recipient};

use super::verdict::Verdict;
use crate::config::routes::Via;
use crate::confined::Hidden;
use crate::message::Content;

/// What a local delivery is about.
pub(super) struct Errand<'a> {
    pub(super) message: &'a Message,
    /// Position in the envelope.
    pub(super) at: u32,
    pub(super) recipient: &'a Recipient,
    pub(super) content: &'a Content,
    pub(super) hostname: &'a str,
    /// How long a program may take.
    pub(super) patience: Duration,
    /// What a program can not read.
    pub(super) hidden: Hidden,
    /// The message arrived before this process began: it may have been delivered.
    pub(super) repeated: bool,
}

impl Errand<'_> {
    /// The address this is for: the alias, where one leads here.
    fn address(&self) -> &str {
        match (
            &self.recipient.alias_of,
            Via::of_address(&self.recipient.address),
        ) {
            (Some(alias), Some(_)) => alias,
            _ => &self.recipient.address,
        }
    }
}

/// Delivers to a local target.
pub(super) async fn deliver(via: &Via, errand: &Errand<'_>) -> Verdict {
    if has_been_here(errand) {
        let text = format!(
            "the message was delivered to {} before: a loop",
            errand.address()
        );
        return Verdict::failed(554, "5.4.6", &text);
    }
    match via {
        Via::Discard => Verdict::delivered("2.0.0", "discarded"),
        Via::Maildir(template) => match filled(template, errand.address(), Fill::Path) {
            Ok(path) => maildir::deliver(PathBuf::from(path), errand).await,
            Err(verdict) => verdict,
        },
        Via::Pipe(argv) => {
            let argv = argv
                .iter()
                .map(|word| filled(word, errand.address(), Fill::Argument))
                .collect::<Result<Vec<_>, _>>();
            match argv {
                Ok(argv) => pipe::run(&argv, errand).await,
                Err(verdict) => verdict,
            }
        }
        Via::Mx | Via::Hop(_) => Verdict::deferred(451, "4.3.5", "this target is not local"),
    }
}

/// What a placeholder is put into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Path,
    Argument,
}

/// `{local}`, `{domain}` and `{recipient}` replaced. What a sender chose can neither leave its
/// directory nor pass for an option of a program.
fn filled(template: &str, address: &str, fill: Fill) -> Result<String, Verdict> {
    if !template.contains('{') {
        return Ok(template.to_owned());
    }
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let lower = |text: &str| match fill {
        Fill::Path => text.to_lowercase(),
        Fill::Argument => text.to_owned(),
    };
    let (local, domain) = (lower(local), lower(domain));
    let unsafe_in_path = |part: &str| {
        part.is_empty() || part.starts_with('.') || part.contains(['/', '\\', '\0', '"'])
    };
    let bad = match fill {
        Fill::Path => [&local, &domain]
            .into_iter()
            .any(|part| unsafe_in_path(part)),
        Fill::Argument => template.starts_with('{') && address.starts_with('-'),
    };
    if bad || address.chars().any(char::is_control) {
        let text = format!("{address} can not be delivered here");
        return Err(Verdict::failed(553, "5.1.3", &text));
    }
    Ok(template
        .replace("{recipient}", address)
        .replace("{local}", &local)
        .replace("{domain}", &domain))
}

/// The fields a final delivery adds.
fn trace(errand: &Errand<'_>) -> String {
    format!(
        "Return-Path: <{}>\nDelivered-To: {}\n",
        errand.message.envelope.mail_from(),
        errand.address()
    )
}

fn has_been_here(errand: &Errand<'_>) -> bool {
    let Ok(fields) = crate::message::headers::fields(&errand.content.head) else {
        return false;
    };
    fields
        .iter()
        .filter(|field| field.is("Delivered-To"))
        .any(|field| {
            let value = field.value.trim_ascii();
            value.eq_ignore_ascii_case(errand.address().as_bytes())
        })
}

/// A failure of this machine, which may pass. The log names the path; the reply, which a stranger
/// may be sent, does not.
fn failed(what: &str, path: &str, error: &std::io::Error) -> Verdict {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (code, enhanced) = match error.kind() {
        StorageFull => (452, "4.3.1"),
        QuotaExceeded => (452, "4.2.2"),
        _ => (451, "4.3.0"),
    };
    tracing::error!(target: "alarm", path, %error, "a local delivery failed; the message waits");
    Verdict::deferred(code, enhanced, &format!("{what}: {error}"))
}

#[cfg(test)]
mod tests;
