//! An API on loopback that expects these requests in this order, and answers them.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Provider, Publisher, credentials_file};
use super::config;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Method and path.
    pub(super) line: String,
    /// Lower-case names.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Status, further header lines, body.
    With(u16, &'static str, String),
    /// Nothing, for ever.
    Silence,
}

pub(super) fn ok(body: impl ToString) -> Reply {
    Reply::With(200, "", body.to_string())
}

pub(super) struct Fake {
    /// Of who speaks to it.
    dir: tempfile::TempDir,
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn request(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await.ok()? {
            0 => return None,
            n => bytes.extend_from_slice(&piece[..n]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await.ok()? {
            0 => return None,
            n => body.extend_from_slice(&piece[..n]),
        }
    }
    Some(Asked {
        line,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

impl Fake {
    pub(super) async fn start(replies: Vec<Reply>) -> Fake {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut replies = replies.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                while let Some(request) = request(&mut stream).await {
                    noted.lock().expect("unpoisoned").push(request);
                    let reply = replies.next();
                    let (status, more, body) = match reply {
                        Some(Reply::With(status, more, body)) => (status, more, body),
                        Some(Reply::Silence) => std::future::pending().await,
                        None => (500, "", "nothing more was expected".to_owned()),
                    };
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{more}\r\n{body}",
                        body.len()
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        let dir = tempfile::tempdir().expect("a directory");
        Fake { dir, port, asked }
    }

    /// What it was asked.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    /// Every request had this header.
    pub(super) fn was_always_told(&self, name: &str, value: &str) {
        for asked in self.asked() {
            assert_eq!(asked.header(name), value, "{}", asked.line);
        }
    }

    /// Method and path of each request.
    pub(super) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// The address of the API below this path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Speaks to it with these lines of credentials.
    pub(super) fn publisher(&self, provider: Provider, with: &str) -> Publisher {
        let dir = self.dir.path();
        let text = format!("{with}\nurl = \"{}\"\n", self.url("/v1"));
        let file = credentials_file(dir, provider);
        crate::config::files::create_dir(file.parent().expect("above"), 0o700).expect("made");
        crate::config::files::replace(&file, text.as_bytes(), 0o600).expect("written");
        Publisher::of(&config(dir), provider).expect("credentials")
    }
}
