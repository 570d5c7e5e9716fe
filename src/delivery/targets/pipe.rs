//! A program that takes the message on its standard input, and whose exit code says how it went.
//!
//! No shell ever sees it: the arguments are those of the configuration. It runs in a process group
//! of its own, without our environment, and is killed with all its children when its time is over.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Errand, bytes, failed};
use crate::delivery::verdict::Verdict;

/// Bytes of a program's output that are kept as its reply.
const OUTPUT: usize = 512;
/// Bytes of it that are read at all; a program that writes more is stopped by its pipe.
const MOST_OUTPUT: u64 = 1024 * 1024;

pub(super) async fn run(argv: &[String], errand: &Errand<'_>) -> Verdict {
    let Some((program, arguments)) = argv.split_first() else {
        return Verdict::deferred(451, "4.3.5", "a pipe without a program");
    };
    let address = errand.address();
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let input = match bytes(errand) {
        Ok(input) => input,
        Err(error) => return failed("the message can not be read", program, &error),
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SENDER", errand.message.envelope.mail_from())
        .env("RECIPIENT", address)
        .env("LOCAL", local)
        .env("DOMAIN", domain)
        .env("QUEUE_ID", errand.message.id.to_string())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed("the program can not be run", program, &error),
    };
    let group = Group(
        child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw),
    );
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A program that does not read all of it knows why.
            let _ = stdin.write_all(&input).await;
        }
    };
    let listen = async {
        let mut said = Vec::new();
        if let Some(out) = stdout {
            let _ = out.take(MOST_OUTPUT).read_to_end(&mut said).await;
        }
        said.truncate(OUTPUT);
        said
    };
    let complaints = async {
        let mut said = Vec::new();
        if let Some(out) = stderr {
            let _ = out.take(MOST_OUTPUT).read_to_end(&mut said).await;
        }
        said.truncate(OUTPUT);
        said
    };
    let all = async {
        let ((), out, err) = futures_util::join!(feed, listen, complaints);
        (child.wait().await, if err.is_empty() { out } else { err })
    };
    let ended = tokio::time::timeout(errand.patience, all).await;
    drop(group);
    match ended {
        Err(_) => {
            let text = format!(
                "{} took longer than {} s",
                name(program),
                errand.patience.as_secs()
            );
            Verdict::deferred(451, "4.3.0", &text)
        }
        Ok((Err(error), _)) => failed("the program can not be run", program, &error),
        Ok((Ok(status), said)) => {
            let said = String::from_utf8_lossy(&said);
            judge(name(program), status.code(), said.trim())
        }
    }
}

/// How replies call it: a sender is told of no directory of ours.
fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Kills what is left of a program and its children when it goes.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually nobody is left, which is no error of ours.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What an exit code means (sysexits.h). What is no word of the program about the message (an
/// unknown code, a signal, a mistake in the configuration) never ends a recipient.
fn judge(program: &str, code: Option<i32>, said: &str) -> Verdict {
    let text = |what: &str| match said.is_empty() {
        true => format!("{program}: {what}"),
        false => format!("{program}: {said}"),
    };
    let (code, enhanced, what) = match code {
        Some(0) => {
            let text = match said.is_empty() {
                true => format!("taken by {program}"),
                false => format!("taken by {program}: {said}"),
            };
            return Verdict::delivered("2.0.0", &text);
        }
        Some(65) => (554, "5.6.0", "the message is not what it takes (65)"),
        Some(66) => (554, "5.3.0", "an input is missing (66)"),
        Some(67) => (550, "5.1.1", "no such user (67)"),
        Some(68) => (550, "5.1.2", "no such host (68)"),
        Some(69) => (554, "5.3.0", "unavailable (69)"),
        Some(70) => (554, "5.3.0", "an error inside of it (70)"),
        Some(76) => (554, "5.5.0", "a protocol error (76)"),
        Some(77) => (550, "5.7.0", "not permitted (77)"),
        Some(71..=75) => (451, "4.3.0", "failed for now"),
        Some(64 | 78) => (451, "4.3.5", "it is configured wrongly (64 or 78)"),
        Some(other) => {
            let what = format!("ended with {other}, which sysexits.h does not know");
            return Verdict::deferred(451, "4.3.0", &text(&what));
        }
        None => (451, "4.3.0", "was ended by a signal"),
    };
    match code / 100 {
        5 => Verdict::failed(code, enhanced, &text(what)),
        _ => Verdict::deferred(code, enhanced, &text(what)),
    }
}
