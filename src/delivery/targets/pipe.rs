//! A program that takes the message on its standard input, and whose exit code says how it went.
//!
//! No shell ever sees it: the arguments are those of the configuration. It runs in a process group
//! of its own, without our environment and sight of our secrets, and is killed with all its children when its time is over.
//! It is given the message in pieces, as fast as it takes them. A message that turns out to be
//! damaged never ends for it: it is killed before its input is closed.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};

use super::source::Source;
use super::{Errand, failed};
use crate::confined;
use crate::verdict::Verdict;

/// Bytes of a program's output that are kept as its reply.
const OUTPUT: usize = 512;
/// Bytes of it that are read at all; a program that writes more finds its pipe closed.
const MOST_OUTPUT: u64 = 1024 * 1024;
/// How long what a program wrote is read once it has ended: its children may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What kept a program from its exit code.
enum Trouble {
    Message(io::Error),
    Program(io::Error),
}

pub(super) async fn run(argv: &[String], errand: &Errand<'_>) -> Verdict {
    let Some((program, arguments)) = argv.split_first() else {
        return Verdict::deferred(451, "4.3.5", "a pipe without a program");
    };
    let address = errand.address();
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let mut command = Command::new(program);
    command
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
        .kill_on_drop(true);
    let spawned = confined::spawn(command, errand.hidden.clone());
    let mut child = match spawned.await {
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
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        let mut feed = pin!(feed(Source::new(errand), stdin, &group));
        let mut listen = pin!(async {
            futures_util::join!(collect(stdout, &mut out), collect(stderr, &mut err));
        });
        let (mut fed, mut told) = (false, false);
        let status = loop {
            tokio::select! {
                done = &mut feed, if !fed => {
                    fed = true;
                    done.map_err(Trouble::Message)?;
                }
                () = &mut listen, if !told => told = true,
                status = child.wait() => break status.map_err(Trouble::Program)?,
            }
        };
        if !told {
            let _ = tokio::time::timeout(LAST_WORDS, listen).await;
        }
        Ok::<ExitStatus, Trouble>(status)
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
        Ok(Err(Trouble::Message(error))) => failed("the message can not be read", program, &error),
        Ok(Err(Trouble::Program(error))) => failed("the program can not be run", program, &error),
        Ok(Ok(status)) => {
            let said = if err.is_empty() { out } else { err };
            let said = String::from_utf8_lossy(&said);
            judge(name(program), status.code(), said.trim())
        }
    }
}

/// Gives the program its message. A thread is taken for each piece that is read, not for as long as
/// the program takes: many that hang must not take all threads there are.
async fn feed(mut source: Source, stdin: Option<ChildStdin>, group: &Group) -> io::Result<()> {
    let Some(mut stdin) = stdin else {
        return Ok(());
    };
    let mut piece = Vec::new();
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let more = source.fill(&mut piece)?;
            Ok::<_, io::Error>((source, piece, more))
        });
        let read = read.await;
        match read.unwrap_or_else(|_| Err(io::Error::other("the reader panicked"))) {
            Ok((_, _, false)) => return Ok(()),
            Ok((back, filled, true)) => (source, piece) = (back, filled),
            Err(error) => {
                // Before its input ends, which would say that this was all.
                group.kill();
                return Err(error);
            }
        }
        if stdin.write_all(&piece).await.is_err() {
            // A program that does not read all of it knows why.
            return Ok(());
        }
    }
}

/// The beginning of what a program writes.
async fn collect(stream: Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    let Some(stream) = stream else { return };
    let mut stream = stream.take(MOST_OUTPUT);
    let mut block = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut block).await {
        let room = OUTPUT.saturating_sub(said.len());
        said.extend_from_slice(block.get(..read.min(room)).unwrap_or_default());
    }
}

/// How replies call it: a sender is told of no directory of ours.
fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Kills what is left of a program and its children when it goes.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(group) = self.0 {
            // Usually nobody is left, which is no error of ours.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
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
