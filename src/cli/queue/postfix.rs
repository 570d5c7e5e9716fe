//! `mta-queue import postfix`: what waits in a Postfix, as `postqueue -j` lists it and `postcat`
//! prints it. Postfix is only asked, never changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use queue_schema::{BodyKind, Envelope, Origin, Recipient, RecipientState, Reply};
use serde::Deserialize;

use super::ask::{Failure, Taken};
use super::files::with_crlf;
use super::postcat::Records;
use crate::control::protocol::Exported;

/// A line of `postqueue -j` (postqueue(1)).
#[derive(Debug, Deserialize)]
struct Listed {
    queue_name: String,
    queue_id: String,
    /// Seconds since 1970.
    arrival_time: u64,
    sender: String,
    recipients: Vec<To>,
}

#[derive(Debug, Deserialize)]
struct To {
    address: String,
    #[serde(default)]
    delay_reason: Option<String>,
}

/// The messages of a Postfix.
pub(super) fn messages(
    config_dir: Option<&Path>,
) -> Result<impl Iterator<Item = Result<Taken, Failure>> + use<>, Failure> {
    let listed = run("postqueue", config_dir, &["-j"])?;
    let listed: Vec<Listed> = listed
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice(line).map_err(|error| {
                let line = String::from_utf8_lossy(line);
                Failure::Other(format!("postqueue -j said '{line}': {error}"))
            })
        })
        .collect::<Result<_, _>>()?;
    let config_dir: Option<PathBuf> = config_dir.map(Path::to_path_buf);
    Ok(listed.into_iter().filter_map(move |listed| {
        let id = listed.queue_id.clone();
        // An id is an argument, so it must look like one.
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Some(Err(Failure::Other(format!("'{id}' is no id of Postfix"))));
        }
        let postcat = |what: &[&str]| run("postcat", config_dir.as_deref(), what);
        let read = postcat(&["-h", "-b", "-q", &id])
            .and_then(|bytes| Ok((bytes, postcat(&["-e", "-q", &id])?)));
        match read {
            Ok((bytes, records)) => {
                let mut taken = taken(listed, with_crlf(bytes));
                let records = Records::parse(&String::from_utf8_lossy(&records));
                records.apply(&mut taken.exported.envelope);
                Some(Ok(taken))
            }
            // It was delivered since it was listed.
            Err(Failure::Other(text)) if text.contains("No such file") => {
                eprintln!("mta-queue: {id} left Postfix meanwhile");
                None
            }
            Err(failure) => Some(Err(failure)),
        }
    }))
}

fn run(program: &str, config_dir: Option<&Path>, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
    let mut command = Command::new(program);
    if let Some(dir) = config_dir {
        command.arg("-c").arg(dir);
    }
    let output = command.args(arguments).output().map_err(|error| {
        Failure::Other(format!(
            "{program}: {error}; run this on the machine of the Postfix, as root"
        ))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Other(format!("{program}: {}", said.trim())));
    }
    Ok(output.stdout)
}

fn taken(listed: Listed, bytes: Vec<u8>) -> Taken {
    let now = crate::time::now();
    let arrived = listed.arrival_time.saturating_mul(1000).min(now);
    let sender = match listed.sender.as_str() {
        "MAILER-DAEMON" => String::new(),
        sender => sender.to_owned(),
    };
    let mut envelope = Envelope {
        smtputf8: !sender.is_ascii() || listed.recipients.iter().any(|to| !to.address.is_ascii()),
        body: match bytes.is_ascii() {
            true => BodyKind::SevenBit,
            false => BodyKind::EightBit,
        },
        ..Envelope::new(sender, Vec::new())
    };
    let mut states = Vec::new();
    for to in listed.recipients {
        let tried = to.delay_reason.is_some();
        envelope.recipients.push(Recipient::new(to.address));
        states.push(RecipientState {
            // How often Postfix tried is not listed; it tried at least once.
            attempts: u32::from(tried),
            last_attempt: if tried { arrived } else { 0 },
            last_reply: to.delay_reason.map(reply),
            ..RecipientState::new(now)
        });
    }
    Taken {
        exported: Exported {
            format: 1,
            id: listed.queue_id,
            size: bytes.len() as u64,
            arrived,
            // Postfix had accepted it, and would have told its sender.
            origin: Origin::Network {
                client: [127, 0, 0, 1].into(),
            },
            envelope,
            states,
            warned: false,
            held: listed.queue_name == "hold",
            story: Vec::new(),
            sha256: None,
        },
        bytes,
    }
}

/// What Postfix remembers of the last attempt: `host NAME[ADDRESS] said: CODE TEXT` or its own
/// words.
fn reply(reason: String) -> Reply {
    let said = reason
        .strip_prefix("host ")
        .and_then(|rest| rest.split_once(" said: "));
    let (remote, text) = match said {
        Some((host, text)) => (host.to_owned(), text.to_owned()),
        None => (String::new(), reason),
    };
    let code = text.get(..3).and_then(|code| code.parse().ok());
    let code: Option<u16> = code.filter(|code| (400..600).contains(code));
    Reply {
        code: code.unwrap_or(451),
        enhanced: String::new(),
        text: match code {
            Some(_) => text.get(4..).unwrap_or_default().to_owned(),
            None => text,
        },
        remote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_said_is_told_from_what_postfix_says() {
        let said = reply("host mx.example.net[192.0.2.1] said: 450 4.2.0 greylisted (in reply to RCPT TO command)".into());
        assert_eq!(
            (said.code, said.remote.as_str()),
            (450, "mx.example.net[192.0.2.1]")
        );
        assert!(said.text.starts_with("4.2.0 greylisted"));
        let own = reply("connect to mx.example.net[192.0.2.1]:25: Connection refused".into());
        assert_eq!((own.code, own.remote.as_str()), (451, ""));
        assert!(own.text.starts_with("connect to"));
    }
}
