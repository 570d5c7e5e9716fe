//! The tap: what is said on connections, line by line, for an operator who watches
//! (`chapar trace --live`).
//!
//! Receives the bytes that sessions read and write; gives them to whoever watches, and costs one
//! look at a counter while nobody does. Never shows a secret: of what clients say, only lines that
//! begin with an SMTP verb are shown, of AUTH the verb and the mechanism; all else, passwords and
//! messages alike, is counted.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::base::text::clean;

/// Lines that wait for a slow watcher before it loses some.
const WAITING: usize = 4096;
/// Bytes of a line that are shown, and of one that is kept until its end comes.
const LINE: usize = 600;
/// Verbs of clients (RFC 5321, 3207, 4954, 3030, 2033, XCLIENT).
const VERBS: [&str; 17] = [
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "STARTTLS",
    "AUTH", "VRFY", "EXPN", "HELP", "XCLIENT", "ETRN",
];

/// A line of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// When (RFC 3339).
    pub at: String,
    /// The other side: a client's `address:port`, or `host[address]:port` where we are the client.
    pub peer: String,
    /// `client`: they came to us; `server`: we went to them.
    pub side: String,
    /// Whether we said it.
    pub ours: bool,
    /// What was said.
    pub text: String,
}

static TAP: LazyLock<broadcast::Sender<Arc<Wire>>> =
    LazyLock::new(|| broadcast::Sender::new(WAITING));

/// Lines from now on.
pub fn watch() -> broadcast::Receiver<Arc<Wire>> {
    TAP.subscribe()
}

/// Which end of a connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It is the client, we are the server.
    Client,
    /// It is the server.
    Server,
}

/// One connection's end of the tap.
#[derive(Debug)]
pub struct Tap {
    peer: Peer,
    theirs: Vec<u8>,
    ours: Vec<u8>,
}

impl Tap {
    /// For a connection to `peer`.
    pub fn new(peer: Peer) -> Tap {
        Tap {
            peer,
            theirs: Vec::new(),
            ours: Vec::new(),
        }
    }

    /// Bytes came from `name`, the other side.
    pub fn heard(&mut self, name: impl FnOnce() -> String, bytes: &[u8]) {
        self.pass(name, false, bytes);
    }

    /// Bytes go to it.
    pub fn said(&mut self, name: impl FnOnce() -> String, bytes: &[u8]) {
        self.pass(name, true, bytes);
    }

    /// Something happened that is no line.
    pub fn noted(&self, name: impl FnOnce() -> String, text: &str) {
        if TAP.receiver_count() > 0 {
            self.tell(&name(), true, format!("({text})"));
        }
    }

    fn pass(&mut self, name: impl FnOnce() -> String, ours: bool, bytes: &[u8]) {
        if TAP.receiver_count() == 0 {
            // What was kept belongs to lines that nobody saw the beginning of.
            self.theirs = Vec::new();
            self.ours = Vec::new();
            return;
        }
        let name = name();
        let of_client = ours == (self.peer == Peer::Server);
        let kept = match ours {
            true => &mut self.ours,
            false => &mut self.theirs,
        };
        let mut told = Vec::new();
        let (mut hidden, mut lines) = (0, 0u64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !piece.ends_with(b"\n") {
                let room = LINE.saturating_sub(kept.len());
                kept.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
                continue;
            }
            let mut line = std::mem::take(kept);
            line.extend_from_slice(piece);
            let text = String::from_utf8_lossy(&line);
            match shown(text.trim_end(), of_client) {
                Some(text) => {
                    if lines > 0 {
                        told.push(counted(lines, hidden));
                        (hidden, lines) = (0, 0);
                    }
                    told.push(text);
                }
                None => {
                    lines += 1;
                    hidden += line.len();
                }
            }
        }
        if lines > 0 {
            told.push(counted(lines, hidden));
        }
        for text in told {
            self.tell(&name, ours, text);
        }
    }

    fn tell(&self, name: &str, ours: bool, text: String) {
        let side = match self.peer {
            Peer::Client => "client",
            Peer::Server => "server",
        };
        // Without a watcher it is dropped, as it should be.
        let _ = TAP.send(Arc::new(Wire {
            at: crate::time::text(crate::time::now()),
            peer: clean(name, 300),
            side: side.to_owned(),
            ours,
            text,
        }));
    }
}

fn counted(lines: u64, bytes: usize) -> String {
    match lines {
        1 => format!("(1 line, {bytes} bytes)"),
        _ => format!("({lines} lines, {bytes} bytes)"),
    }
}

/// The line as it may be seen; `None`: it is only counted.
fn shown(line: &str, of_client: bool) -> Option<String> {
    if !of_client {
        return Some(match line.strip_prefix("334 ") {
            Some(_) => "334 (a challenge)".to_owned(),
            None => clean(line, LINE),
        });
    }
    let mut words = line.split(' ');
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    if !VERBS.contains(&verb.as_str()) {
        return None;
    }
    if verb == "AUTH" {
        let mechanism = words.next().map_or(String::new(), |word| clean(word, 30));
        let secret = if words.next().is_some() {
            " (a secret)"
        } else {
            ""
        };
        return Some(format!("AUTH {mechanism}{secret}"));
    }
    Some(clean(line, LINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_in_order_and_secrets_are_not() {
        let mut watching = watch();
        let name = || "tap.example[192.0.2.1]:25".to_owned();
        let mut tap = Tap::new(Peer::Client);
        tap.said(name, b"220 mx.example.org\r\n");
        tap.heard(name, b"EHLO a.exa");
        tap.heard(name, b"mple\r\nauth plain AGEAYg==\r\nAGEAYg==\r\n");
        tap.said(name, b"334 VXNlcg==\r\n235 in\r\n");
        tap.heard(
            name,
            b"MAIL FROM:<a@b.example>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n",
        );
        let mut server = Tap::new(Peer::Server);
        server.said(name, b"AUTH LOGIN\r\nc2VjcmV0\r\n");
        server.heard(name, b"250-x\r\n250 y\x07\r\n");
        server.noted(name, "TLSv1.3");
        let mut seen = Vec::new();
        while let Ok(wire) = watching.try_recv() {
            // Other tests of this process may speak at the same time.
            if wire.peer == name() {
                assert_eq!(wire.side, if seen.len() < 10 { "client" } else { "server" });
                seen.push(format!(
                    "{} {}",
                    if wire.ours { '>' } else { '<' },
                    wire.text
                ));
            }
        }
        assert_eq!(
            seen,
            [
                "> 220 mx.example.org",
                "< EHLO a.example",
                "< AUTH plain (a secret)",
                "< (1 line, 10 bytes)",
                "> 334 (a challenge)",
                "> 235 in",
                "< MAIL FROM:<a@b.example>",
                "< DATA",
                "< (4 lines, 24 bytes)",
                "< QUIT",
                "> AUTH LOGIN",
                "> (1 line, 10 bytes)",
                "< 250-x",
                "< 250 y ",
                "> (TLSv1.3)",
            ]
        );
    }
}
