//! Passwords and users that Dovecot knows: the client side of its authentication protocol, version
//! 1, with the PLAIN mechanism over the Unix socket of `auth.dovecot`, and of its lookup of users
//! over that of `auth.dovecot_users`.
//!
//! Asked about users who are in no `users.toml`. One connection for each question; every wait is
//! bounded, and so is what is read.

use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Bytes that are read of one connection.
const MOST: u64 = 64 * 1024;

/// Why Dovecot did not say yes or no.
#[derive(Debug, thiserror::Error)]
pub enum DovecotError {
    /// The socket.
    #[error("{0}; see the `service auth` of dovecot.conf")]
    Io(#[from] io::Error),
    /// `auth.dovecot_time`.
    #[error("it did not answer in time")]
    Slow,
    /// Not the protocol, or not PLAIN.
    #[error("it sent {0}")]
    Protocol(&'static str),
    /// It has trouble itself.
    #[error("it can not tell for now")]
    Temporary,
}

/// Who logs in with this `password`, in Dovecot's words, which may be another name than `user` (a
/// canonical one, or that of a mailbox which several names open); `None`: it is wrong.
pub async fn authenticate(
    socket: &Path,
    time: Duration,
    user: &str,
    password: &str,
) -> Result<Option<String>, DovecotError> {
    if user.contains('\0') || password.contains('\0') {
        return Ok(None);
    }
    tokio::time::timeout(time, ask(socket, user, password))
        .await
        .unwrap_or(Err(DovecotError::Slow))
}

/// Whether there is a user of this name.
pub async fn exists(socket: &Path, time: Duration, user: &str) -> Result<bool, DovecotError> {
    // They part words and lines of the protocol; no address of ours has them.
    if user.is_empty() || user.contains(char::is_control) {
        return Ok(false);
    }
    tokio::time::timeout(time, look_up(socket, user))
        .await
        .unwrap_or(Err(DovecotError::Slow))
}

async fn look_up(socket: &Path, user: &str) -> Result<bool, DovecotError> {
    let stream = UnixStream::connect(socket).await?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MOST)).lines();
    let request = format!("VERSION\t1\t1\nUSER\t1\t{user}\tservice=smtp\n");
    write.write_all(request.as_bytes()).await?;
    loop {
        let line = next(&mut lines).await?;
        let mut words = line.split('\t');
        match (words.next(), words.next()) {
            (Some("VERSION"), version) if version != Some("1") => {
                return Err(DovecotError::Protocol("another version than 1"));
            }
            (Some("USER"), Some("1")) => return Ok(true),
            (Some("NOTFOUND"), Some("1")) => return Ok(false),
            (Some("FAIL"), Some("1")) => return Err(DovecotError::Temporary),
            _ => {}
        }
    }
}

async fn ask(socket: &Path, user: &str, password: &str) -> Result<Option<String>, DovecotError> {
    let stream = UnixStream::connect(socket).await?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MOST)).lines();
    let hello = format!("VERSION\t1\t1\nCPID\t{}\n", std::process::id());
    write.write_all(hello.as_bytes()).await?;
    let mut plain = false;
    loop {
        let line = next(&mut lines).await?;
        let mut words = line.split('\t');
        match (words.next(), words.next()) {
            (Some("VERSION"), version) if version != Some("1") => {
                return Err(DovecotError::Protocol("another version than 1"));
            }
            (Some("MECH"), Some("PLAIN")) => plain = true,
            (Some("DONE"), _) => break,
            _ => {}
        }
    }
    if !plain {
        return Err(DovecotError::Protocol("no PLAIN in auth_mechanisms"));
    }
    let response = STANDARD.encode(format!("\0{user}\0{password}"));
    let request = format!("AUTH\t1\tPLAIN\tservice=smtp\tsecured\tresp={response}\n");
    write.write_all(request.as_bytes()).await?;
    loop {
        let line = next(&mut lines).await?;
        let mut words = line.split('\t');
        match (words.next(), words.next()) {
            (Some("OK"), Some("1")) => {
                let named = words.find_map(|word| word.strip_prefix("user="));
                return Ok(Some(named.unwrap_or(user).to_owned()));
            }
            (Some("FAIL"), Some("1")) => {
                let temporary = words.any(|word| word == "temp");
                return if temporary {
                    Err(DovecotError::Temporary)
                } else {
                    Ok(None)
                };
            }
            (Some("CONT"), _) => return Err(DovecotError::Protocol("a question to PLAIN")),
            _ => {}
        }
    }
}

type Lines = tokio::io::Lines<BufReader<tokio::io::Take<tokio::net::unix::OwnedReadHalf>>>;

async fn next(lines: &mut Lines) -> Result<String, DovecotError> {
    let line = lines.next_line().await?;
    line.ok_or(DovecotError::Protocol("an end instead of an answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Dovecot that knows a@b.example with the password "right".
    async fn ask(hello: &'static str, password: &str) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("auth-client");
        let listener = tokio::net::UnixListener::bind(&socket).expect("socket");
        let server = async move {
            let (stream, _) = listener.accept().await.expect("client");
            let (read, mut write) = stream.into_split();
            write.write_all(hello.as_bytes()).await.expect("written");
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some((_, response)) = line.split_once("resp=") else {
                    continue;
                };
                assert!(line.starts_with("AUTH\t1\tPLAIN\tservice=smtp\t"));
                let plain = STANDARD.decode(response).expect("base64");
                let answer = match plain.as_slice() {
                    b"\0a@b.example\0right" => "OK\t1\tuser=a@b.example\n",
                    b"\0a@b.example\0other" => "OK\t1\tuser=c@b.example\tx=y\n",
                    b"\0a@b.example\0nameless" => "OK\t1\n",
                    b"\0a@b.example\0busy" => "FAIL\t1\tuser=a@b.example\ttemp\n",
                    b"\0a@b.example\0mute" => "",
                    _ => "FAIL\t1\tuser=a@b.example\n",
                };
                write.write_all(answer.as_bytes()).await.expect("written");
            }
        };
        let client = authenticate(&socket, Duration::from_millis(500), "a@b.example", password);
        tokio::select! {
            answer = client => answer.map_err(|error| error.to_string()),
            () = server => Err("it went".into()),
        }
    }

    const HELLO: &str =
        "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t5\nCUID\t1\nCOOKIE\tx\nDONE\n";

    #[tokio::test]
    async fn dovecot_says_yes_no_later_or_nothing() {
        let named = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(ask(HELLO, "right").await, named("a@b.example"));
        assert_eq!(ask(HELLO, "other").await, named("c@b.example"));
        assert_eq!(ask(HELLO, "nameless").await, named("a@b.example"));
        assert_eq!(ask(HELLO, "wrong").await, Ok(None));
        let later = ask(HELLO, "busy").await;
        assert_eq!(later, Err("it can not tell for now".into()));
        let slow = ask(HELLO, "mute").await;
        assert_eq!(slow, Err("it did not answer in time".into()));
        assert!(ask("VERSION\t2\t0\n", "right").await.is_err());
        assert!(
            ask("VERSION\t1\t2\nMECH\tLOGIN\nDONE\n", "right")
                .await
                .is_err()
        );
        assert_eq!(ask(HELLO, "nul\0").await, Ok(None));
    }

    #[tokio::test]
    async fn users_are_looked_up() {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("auth-userdb");
        let listener = tokio::net::UnixListener::bind(&socket).expect("socket");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, mut write) = stream.into_split();
                write
                    .write_all(b"VERSION\t1\t2\nSPID\t7\n")
                    .await
                    .expect("written");
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.as_str() {
                        "USER\t1\ta@b.example\tservice=smtp" => "USER\t1\ta@b.example\tuid=5\n",
                        "USER\t1\tbusy@b.example\tservice=smtp" => "FAIL\t1\treason=x\n",
                        "USER\t1\tmute@b.example\tservice=smtp" => "",
                        "VERSION\t1\t1" => "",
                        _ => "NOTFOUND\t1\n",
                    };
                    write.write_all(answer.as_bytes()).await.expect("written");
                }
            }
        });
        let ask = |user: &'static str| exists(&socket, Duration::from_millis(300), user);
        assert!(matches!(ask("a@b.example").await, Ok(true)));
        assert!(matches!(ask("b@b.example").await, Ok(false)));
        assert!(matches!(ask("x\tservice=y").await, Ok(false)));
        assert!(matches!(ask("x\nUSER\t1\ta@b.example").await, Ok(false)));
        assert!(matches!(
            ask("busy@b.example").await,
            Err(DovecotError::Temporary)
        ));
        assert!(matches!(
            ask("mute@b.example").await,
            Err(DovecotError::Slow)
        ));
    }

    #[tokio::test]
    async fn no_socket_is_told() {
        let answer = authenticate(
            Path::new("/nonexistent/x"),
            Duration::from_secs(1),
            "a",
            "b",
        );
        assert!(matches!(answer.await, Err(DovecotError::Io(_))));
    }
}
