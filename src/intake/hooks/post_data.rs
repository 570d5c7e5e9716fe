//! The post-data hook: a program that gets each message on its standard input, with the same
//! environment, output and exit codes as chasquid's `hooks/post-data`, whose scripts work here.
//!
//! What it prints that looks like header fields goes on top of the message; exit code 20 refuses
//! the message (554), any other but 0 defers it (451), with the last line it printed as reason.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio::sync::Semaphore;

use super::Checked;
use crate::config::{Config, Hooks};
use crate::confined::{self, Hidden};
use crate::identity::Identity;
use crate::message::{Body, Content, headers};
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};
use crate::smtp::server::Transaction;

/// Bytes of output that are read.
const MOST_OUTPUT: u64 = 64 * 1024;
/// The exit code that refuses for good.
const PERMANENT: i32 = 20;
/// Bytes written to the program at a time.
const BLOCK: usize = 64 * 1024;

/// What the program is told in its environment.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// `REMOTE_ADDR`.
    pub client: String,
    /// `EHLO_DOMAIN` and `EHLO_DOMAIN_RAW`.
    pub hello: String,
    /// `MAIL_FROM`.
    pub from: String,
    /// `RCPT_TO`, separated by spaces.
    pub recipients: String,
    /// `AUTH_AS`; empty for who did not log in.
    pub user: String,
    /// `ON_TLS`.
    pub tls: bool,
    /// `FROM_LOCAL_DOMAIN`.
    pub from_local: bool,
    /// `SPF_PASS`.
    pub spf_pass: bool,
}

impl About {
    /// What an envelope tells.
    pub fn of(identity: &Identity, transaction: &Transaction) -> About {
        let from = transaction.mail.from.as_ref();
        let recipients: Vec<&str> = transaction
            .recipients
            .iter()
            .map(|rcpt| rcpt.to.as_str())
            .collect();
        About {
            from: from.map(Address::to_string).unwrap_or_default(),
            from_local: from.is_some_and(|from| identity.domain(from.domain()).is_some()),
            recipients: recipients.join(" "),
            ..About::default()
        }
    }
}

/// Runs the program for every message, a bounded number of times at once.
pub struct PostData {
    places: Semaphore,
}

impl PostData {
    /// By the configuration.
    pub fn new(hooks: &Hooks) -> PostData {
        PostData {
            places: Semaphore::new(hooks.post_data_at_once),
        }
    }

    /// Asks the program about a message, where there is one.
    pub async fn ask(
        &self,
        config: &Config,
        about: &About,
        checked: &mut Checked,
    ) -> Result<(), Reply> {
        let hooks = &config.hooks;
        if hooks.post_data.is_empty() || checked.discarded {
            return Ok(());
        }
        let time = hooks.post_data_time.0;
        let place = tokio::time::timeout(time, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            tracing::error!(target: "session", "too many post-data hooks run; see hooks.post_data_at_once");
            return Err(replies::HOOK_FAILED);
        };
        let mut content = checked.content.clone();
        if let Some(body) = &checked.new_body {
            content.body = Body::Memory(body.clone());
        }
        let program = config.dir.join(&hooks.post_data);
        let hidden = Hidden::of(config);
        let fields = run(&program, time, about, &content, hidden).await?;
        if !fields.is_empty() {
            checked.content.head = [&fields[..], &content.head].concat().into();
        }
        Ok(())
    }
}

/// Runs `program` for at most `time`; gives the fields to put on top.
pub(crate) async fn run(
    program: &Path,
    time: Duration,
    about: &About,
    content: &Content,
    hidden: Hidden,
) -> Result<Vec<u8>, Reply> {
    let flag = |on: bool| if on { "1" } else { "0" };
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["USER", "SHELL", "PATH", "PWD"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("REMOTE_ADDR", &about.client)
        .env("EHLO_DOMAIN", &about.hello)
        .env("EHLO_DOMAIN_RAW", &about.hello)
        .env("MAIL_FROM", &about.from)
        .env("RCPT_TO", &about.recipients)
        .env("AUTH_AS", &about.user)
        .env("ON_TLS", flag(about.tls))
        .env("FROM_LOCAL_DOMAIN", flag(about.from_local))
        .env("SPF_PASS", flag(about.spf_pass))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(target: "session", program = %program.display(), %error, "the post-data hook failed");
        replies::HOOK_FAILED
    };
    let mut child = confined::spawn(command, hidden)
        .await
        .map_err(|error| failed(&error))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let work = async {
        let read = async {
            let mut output = Vec::new();
            if let Some(mut stdout) = stdout {
                (&mut stdout)
                    .take(MOST_OUTPUT)
                    .read_to_end(&mut output)
                    .await?;
                // The rest is read so that the program can end, and dropped.
                tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
            }
            Ok::<_, std::io::Error>(output)
        };
        let write = async {
            if let Some(stdin) = stdin {
                // A program that does not want the message closes its end.
                let _ = feed(stdin, content).await;
            }
        };
        let (output, ()) = tokio::join!(read, write);
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((output?, status))
    };
    let (output, status) = match tokio::time::timeout(time, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"it took longer than hooks.post_data_time")),
    };
    if status.success() {
        return Ok(fields(&output));
    }
    let text = String::from_utf8_lossy(&output);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let reason: String = last
        .unwrap_or("The message was refused")
        .chars()
        .take(400)
        .collect();
    match status.code() {
        Some(PERMANENT) => Err(Reply::new(554, "5.7.1", reason)),
        Some(code) => {
            tracing::info!(target: "session", code, reason, "the post-data hook defers");
            Err(Reply::new(451, "4.7.1", reason))
        }
        None => Err(failed(&status)),
    }
}

async fn feed(mut stdin: ChildStdin, content: &Content) -> std::io::Result<()> {
    stdin.write_all(&content.head).await?;
    match &content.body {
        Body::Memory(bytes) => stdin.write_all(bytes).await?,
        Body::Spool(file) => {
            let mut file = tokio::fs::File::open(file.path.as_path()).await?;
            let mut block = vec![0; BLOCK];
            loop {
                match file.read(&mut block).await? {
                    0 => break,
                    read => {
                        stdin
                            .write_all(block.get(..read).unwrap_or_default())
                            .await?
                    }
                }
            }
        }
    }
    stdin.shutdown().await
}

/// The output as header fields; nothing, if it is not made of them.
fn fields(output: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(output.len() + 16);
    for line in output.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) || line.len() > 998 {
            return Vec::new();
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    let continued = matches!(out.first(), Some(b' ' | b'\t'));
    match headers::fields(&out) {
        Ok(_) if !continued => out,
        _ => {
            tracing::warn!(target: "session", "what the post-data hook printed is no header; it is left out");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn hook(script: &str) -> Result<String, (u16, String)> {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("post-data");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let content = Content {
            head: "Subject: a\r\n\r\n".into(),
            body: Body::Memory("body\r\n".into()),
        };
        let about = About {
            client: "192.0.2.1".into(),
            from: "a@b.example".into(),
            recipients: "me@example.org you@example.org".into(),
            tls: true,
            ..About::default()
        };
        run(
            &path,
            Duration::from_secs(10),
            &about,
            &content,
            Hidden::default(),
        )
        .await
        .map(|fields| String::from_utf8(fields).expect("text"))
        .map_err(|reply| (reply.code, reply.text.into_owned()))
    }

    #[tokio::test]
    async fn it_is_told_everything_and_its_fields_are_taken() {
        let script = "echo \"X-From: $MAIL_FROM $REMOTE_ADDR $ON_TLS$SPF_PASS$FROM_LOCAL_DOMAIN\"\n\
                      echo \"X-To: $RCPT_TO\"; echo \" $(wc -c)\"";
        assert_eq!(
            hook(script).await,
            Ok(
                "X-From: a@b.example 192.0.2.1 100\r\nX-To: me@example.org you@example.org\r\n 20\r\n"
                    .into()
            )
        );
        // It need not read the message, and what is no header is left out.
        assert_eq!(hook("echo hello").await, Ok(String::new()));
        assert_eq!(hook("echo ' x: y'").await, Ok(String::new()));
    }

    #[tokio::test]
    async fn exit_codes_refuse_and_defer_with_the_last_line() {
        let refused = hook("echo X: y; echo 'It is a virus'; exit 20").await;
        assert_eq!(refused, Err((554, "It is a virus".into())));
        let deferred = hook("cat >/dev/null; echo later; exit 1").await;
        assert_eq!(deferred, Err((451, "later".into())));
        let killed = hook("kill -9 $$").await;
        assert_eq!(killed.map_err(|(code, _)| code), Err(451));
    }
}
