//! The milters of one transaction, one after the other: each sees what those before it made of
//! the message.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use super::milter::{Failure, Milter};
use super::wire::{self, Command, Edit, Said};
use super::{Checked, edits};
use crate::config::{Config, Failing, MilterAddress, MilterChanges, Spam};
use crate::message::{Body, Content, headers};
use crate::queue::Held;
use crate::smtp::replies::{self, Reply};

/// Changes of one message by one milter.
const MOST_EDITS: usize = 1000;

/// Who sends, as milters are told.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its name, where it has one that leads back to it.
    pub name: Option<&'a str>,
    /// The name of EHLO.
    pub hello: &'a str,
    /// Our host name.
    pub hostname: &'a str,
    /// The user who logged in.
    pub user: Option<&'a str>,
    /// TLS version and cipher.
    pub tls: Option<&'a str>,
    /// The reverse-path; empty for the null one.
    pub from: &'a str,
}

/// See the module.
#[derive(Default)]
pub struct Filters {
    milters: Vec<Milter>,
    discarded: bool,
    /// One broke, and `milter.failure` defers: nothing of this transaction is taken.
    broken: bool,
}

/// What a milter's answer means before the end of a message.
enum Turn {
    Next,
    /// It takes the message.
    Done,
}

/// What one milter made of a message.
#[derive(Default)]
struct Verdict {
    edits: Vec<Edit>,
    /// Why it is to be held.
    hold: Option<String>,
    tag: bool,
}

impl Filters {
    /// Connects to the milters at `addresses` and tells them of the client and its MAIL.
    pub async fn begin(
        addresses: &[MilterAddress],
        config: &Config,
        sender: &Sender<'_>,
    ) -> Result<Filters, Reply> {
        let mut filters = Filters::default();
        let settings = &config.milter;
        for address in addresses {
            let opened = Milter::open(address, settings.connect.0, settings.reply.0).await;
            let begun = match opened {
                Ok(mut milter) => {
                    milter.limit(settings.message.0);
                    greet(&mut milter, sender).await.map(|said| (milter, said))
                }
                Err(failure) => Err(failure),
            };
            match begun {
                Ok((milter, said)) => match filters.turn(said)? {
                    Turn::Next => filters.milters.push(milter),
                    Turn::Done => milter.quit().await,
                },
                Err(failure) => failed(address, &failure, settings.failure)?,
            }
        }
        Ok(filters)
    }

    /// RCPT: refused, or taken as far as the milters go. An answer that takes the message is about
    /// this recipient only, and so is one that refuses it: every milter stays to the end of the
    /// transaction. One that broke has not seen all of it, so what follows is what is configured for
    /// the whole of it.
    pub async fn recipient(&mut self, config: &Config, to: &str) -> Result<(), Reply> {
        self.whole()?;
        let data = format!("<{to}>\0");
        let macros = [("{rcpt_addr}", to)];
        let mut verdict = Ok(());
        for mut milter in std::mem::take(&mut self.milters) {
            if verdict.is_err() {
                self.milters.push(milter);
                continue;
            }
            milter.limit(config.milter.message.0);
            match milter.say(wire::RCPT, &macros, &[data.as_bytes()]).await {
                Ok(said) => {
                    verdict = self.turn(said).map(|_| ());
                    self.milters.push(milter);
                }
                Err(failure) => {
                    verdict = failed(&milter.address, &failure, config.milter.failure);
                    self.broken |= verdict.is_err();
                }
            }
        }
        verdict
    }

    /// Refuses what comes after a milter broke, where mail is not to go unseen.
    fn whole(&self) -> Result<(), Reply> {
        match self.broken {
            true => Err(replies::MILTER_FAILED),
            false => Ok(()),
        }
    }

    fn turn(&mut self, said: Said) -> Result<Turn, Reply> {
        match said {
            Said::Continue | Said::Skip | Said::Progress => Ok(Turn::Next),
            Said::Accept => Ok(Turn::Done),
            Said::Discard => {
                self.discarded = true;
                Ok(Turn::Done)
            }
            Said::Reject => Err(replies::MILTER_REJECTED),
            Said::Defer | Said::Close => Err(replies::MILTER_DEFERRED),
            Said::Reply(reply) => Err(reply),
            Said::Quarantine(_) | Said::Edit(_) => Err(replies::MILTER_FAILED),
        }
    }

    /// Shows the message, and gives what became of it.
    pub async fn message(
        mut self,
        config: &Config,
        id: &str,
        content: Content,
    ) -> Result<Checked, Reply> {
        self.whole()?;
        let mut checked = Checked::new(content);
        checked.discarded = self.discarded;
        for mut milter in std::mem::take(&mut self.milters) {
            if checked.discarded {
                break;
            }
            milter.limit(config.milter.message.0);
            match show(&mut milter, config, id, &mut checked).await {
                Ok(outcome) => {
                    let address = milter.address.clone();
                    milter.quit().await;
                    outcome?;
                    tracing::debug!(target: "session", milter = %address, id, "asked");
                }
                Err(failure) => failed(&milter.address, &failure, config.milter.failure)?,
            }
        }
        Ok(checked)
    }
}

fn failed(address: &MilterAddress, failure: &Failure, failing: Failing) -> Result<(), Reply> {
    tracing::error!(target: "session", milter = %address, error = %failure, "milter failed");
    match failing {
        Failing::Defer => Err(replies::MILTER_FAILED),
        Failing::Accept => Ok(()),
    }
}

/// CONNECT, HELO and MAIL, up to the first answer that ends it.
async fn greet(milter: &mut Milter, sender: &Sender<'_>) -> Result<Said, Failure> {
    let address = sender.client.to_string();
    let literal = format!("[{address}]");
    let name = sender.name.unwrap_or(&literal);
    let family: &[u8] = match sender.client {
        IpAddr::V4(_) => b"4",
        IpAddr::V6(_) => b"6",
    };
    let port = sender.port.to_be_bytes();
    let connect: [&[u8]; 6] = [
        name.as_bytes(),
        b"\0",
        family,
        &port,
        address.as_bytes(),
        b"\0",
    ];
    let macros = [
        ("j", sender.hostname),
        ("{daemon_name}", "chapar"),
        ("v", concat!("chapar ", env!("CARGO_PKG_VERSION"))),
        ("_", name),
        ("{client_addr}", &address),
        ("{client_name}", name),
    ];
    let said = milter.say(wire::CONNECT, &macros, &connect).await?;
    if said != Said::Continue {
        return Ok(said);
    }
    let (version, cipher) = sender
        .tls
        .and_then(|tls| tls.split_once(' '))
        .unwrap_or_default();
    let mut macros = Vec::new();
    if sender.tls.is_some() {
        macros.extend([("{tls_version}", version), ("{cipher}", cipher)]);
    }
    let hello: [&[u8]; 2] = [sender.hello.as_bytes(), b"\0"];
    let said = milter.say(wire::HELO, &macros, &hello).await?;
    if said != Said::Continue {
        return Ok(said);
    }
    let mut macros = vec![("{mail_addr}", sender.from)];
    if let Some(user) = sender.user {
        macros.extend([("{auth_authen}", user), ("{auth_type}", "PLAIN")]);
    }
    let from = format!("<{}>\0", sender.from);
    milter.say(wire::MAIL, &macros, &[from.as_bytes()]).await
}

/// Shows one milter the message and does what it says.
async fn show(
    milter: &mut Milter,
    config: &Config,
    id: &str,
    checked: &mut Checked,
) -> Result<Result<(), Reply>, Failure> {
    let settings = &config.milter;
    let mut verdict = Verdict::default();
    let said = match read_out(milter, id, checked).await? {
        // It has heard all it wants; at the end of the body changes come before the answer.
        Said::Continue | Said::Skip => {
            let macros = [("i", id)];
            let mut said = milter.say(wire::END_OF_BODY, &macros, &[]).await?;
            loop {
                match said {
                    Said::Edit(edit) => verdict.edits.push(edit),
                    Said::Quarantine(reason) => {
                        tracing::info!(target: "session", id, reason, "quarantined by a milter");
                        verdict.hold = Some(reason);
                    }
                    other => break other,
                }
                if verdict.edits.len() > MOST_EDITS {
                    return Err(Failure::TooMuch);
                }
                said = milter.hear().await?;
            }
        }
        early => early,
    };
    let refusal = match said {
        Said::Continue | Said::Accept | Said::Skip | Said::Progress => None,
        Said::Discard => {
            checked.discarded = true;
            return Ok(Ok(()));
        }
        Said::Defer | Said::Close => return Ok(Err(replies::MILTER_DEFERRED)),
        Said::Reply(reply) if reply.code < 500 => return Ok(Err(reply)),
        Said::Reply(reply) => Some(reply),
        Said::Reject => Some(replies::MILTER_REJECTED),
        Said::Quarantine(_) | Said::Edit(_) => {
            return Err(wire::Malformed("a change before the end of the message").into());
        }
    };
    if let Some(refusal) = refusal {
        match settings.rejected {
            Spam::Refuse => return Ok(Err(refusal)),
            Spam::Hold => verdict.hold = Some(format!("it was to be refused: {}", refusal.text)),
            Spam::Tag => verdict.tag = true,
        }
        // What a milter changes in mail it rejects means nothing.
        verdict.edits.clear();
    } else if tags(&verdict.edits, settings.spam_header.as_str()) {
        match settings.tagged {
            Spam::Refuse => return Ok(Err(replies::MILTER_REJECTED)),
            Spam::Hold => verdict.hold = Some("it was marked as spam".to_owned()),
            Spam::Tag => {}
        }
    }
    if verdict.tag {
        verdict.edits.push(Edit::Add {
            name: settings.spam_header.as_str().as_bytes().to_vec(),
            value: b"Yes".to_vec(),
        });
    }
    let by = format!("milter {}", milter.address);
    let held = verdict.hold.map(|reason| Held::quarantine(&by, &reason));
    checked.held.extend(held);
    change(config, checked, verdict.edits)?;
    Ok(Ok(()))
}

/// Whether one of the fields that are added says that it is spam.
fn tags(edits: &[Edit], header: &str) -> bool {
    edits.iter().any(|edit| match edit {
        Edit::Add { name, value }
        | Edit::Insert { name, value, .. }
        | Edit::Change { name, value, .. } => {
            name.eq_ignore_ascii_case(header.as_bytes())
                && value
                    .trim_ascii_start()
                    .get(..3)
                    .is_some_and(|word| word.eq_ignore_ascii_case(b"yes"))
        }
        _ => false,
    })
}

fn change(config: &Config, checked: &mut Checked, edits: Vec<Edit>) -> Result<(), Failure> {
    let allowed = config.milter.changes;
    let mut body: Option<Vec<u8>> = None;
    for edit in &edits {
        match edit {
            Edit::Envelope(what) => return Err(Failure::Forbidden(what)),
            Edit::Change { .. } if allowed == MilterChanges::Add => {
                return Err(Failure::Forbidden("another value of a header field"));
            }
            Edit::Body(_) if allowed != MilterChanges::All => {
                return Err(Failure::Forbidden("another body"));
            }
            Edit::Body(part) => {
                let body = body.get_or_insert_default();
                body.extend_from_slice(part);
                if body.len() as u64 > config.limits.message.0 {
                    return Err(Failure::TooMuch);
                }
            }
            _ => {}
        }
    }
    let head = edits::apply(&checked.content.head, &edits)
        .map_err(|_| wire::Malformed("what makes the header no header"))?;
    if head.len() > config.limits.header.bytes() {
        return Err(Failure::TooMuch);
    }
    checked.content.head = head.into();
    if let Some(body) = body {
        checked.new_body = Some(crlf(&body).into());
    }
    Ok(())
}

/// The lines of `body`, each ended by CR LF: a milter may write what no client may send.
fn crlf(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    let text = body.strip_suffix(b"\n").unwrap_or(body);
    if text.is_empty() {
        return out;
    }
    for line in text.split(|byte| *byte == b'\n') {
        out.extend(line.iter().filter(|byte| !matches!(byte, b'\r' | 0)));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// DATA, the header and the body, up to the first answer that ends it.
async fn read_out(milter: &mut Milter, id: &str, checked: &Checked) -> Result<Said, Failure> {
    let said = milter.say(wire::DATA, &[("i", id)], &[]).await?;
    if said != Said::Continue {
        return Ok(said);
    }
    let fields = headers::fields(&checked.content.head)
        .map_err(|_| wire::Malformed("what makes the header no header"))?;
    if milter.wants(wire::HEADER) {
        for field in fields {
            let value: Vec<u8> = field
                .value
                .iter()
                .copied()
                .filter(|byte| !matches!(byte, b'\r' | 0))
                .collect();
            let value = value.strip_suffix(b"\n").unwrap_or(&value);
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let data: [&[u8]; 4] = [field.name, b"\0", value, b"\0"];
            let said = milter.say(wire::HEADER, &[], &data).await?;
            if said != Said::Continue {
                return Ok(said);
            }
        }
    }
    let said = milter.say(wire::END_OF_HEADERS, &[], &[]).await?;
    if said != Said::Continue || !milter.wants(wire::BODY) {
        return Ok(said);
    }
    match (&checked.new_body, &checked.content.body) {
        (Some(bytes), _) | (None, Body::Memory(bytes)) => {
            for part in bytes.chunks(wire::CHUNK) {
                let said = chunk(milter, wire::BODY, part).await?;
                if said != Said::Continue {
                    return Ok(said);
                }
            }
        }
        (None, Body::Spool(file)) => {
            let path = file.path.clone();
            let mut file = blocking(move || File::open(path.as_path())).await?;
            loop {
                let (back, part) = blocking(move || {
                    let mut part = Vec::with_capacity(wire::CHUNK);
                    let most = u64::try_from(wire::CHUNK).unwrap_or(u64::MAX);
                    (&file).take(most).read_to_end(&mut part)?;
                    Ok((file, part))
                })
                .await?;
                file = back;
                if part.is_empty() {
                    break;
                }
                let said = chunk(milter, wire::BODY, &part).await?;
                if said != Said::Continue {
                    return Ok(said);
                }
            }
        }
    }
    Ok(Said::Continue)
}

async fn chunk(milter: &mut Milter, command: Command, part: &[u8]) -> Result<Said, Failure> {
    milter.say(command, &[], &[part]).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or_else(|error| Err(std::io::Error::other(error)))?)
}
