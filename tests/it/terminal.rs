//! A program at a terminal of its own, which script(1) makes: what it shows, and what is typed.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::world::PATIENCE;

/// The terminal and the program.
pub struct Terminal {
    child: Child,
    bytes: Receiver<Vec<u8>>,
    /// What it showed since it was looked at last.
    seen: String,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

impl Terminal {
    /// Runs a command of the shell there.
    pub fn run(command: &str) -> Terminal {
        let mut child = Command::new("script")
            .args(["-qefc", command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script (package bsdutils)");
        let mut output = child.stdout.take().expect("stdout");
        let (send, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let _ = send.send(buffer[..length].to_vec());
            }
        });
        Terminal {
            child,
            bytes,
            seen: String::new(),
        }
    }

    /// Waits until it shows `text`; what came before is forgotten.
    pub fn shows(&mut self, text: &str) {
        // Some draw each second, so that bytes alone say nothing.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at);
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.bytes.recv_timeout(left);
            let more = more.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    /// Types `keys`; what came before is forgotten.
    pub fn press(&mut self, keys: &str) {
        self.seen.clear();
        let to = self.child.stdin.as_mut().expect("stdin");
        to.write_all(keys.as_bytes()).expect("keys");
    }

    /// Waits until `question` is asked and answers it.
    pub fn answer(&mut self, question: &str, answer: &str) {
        self.shows(question);
        self.press(&format!("{answer}\n"));
    }

    /// Waits for its end: what it showed until then, and its exit code.
    pub fn end(&mut self) -> (String, Option<i32>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.bytes.recv_timeout(left) {
                Ok(more) => self.seen.push_str(&String::from_utf8_lossy(&more)),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => panic!("it does not end: {:?}", self.seen),
            }
        }
        // Waiting closes its standard input, without which script(1) would not end.
        let status = self.child.wait().expect("it ends");
        // A terminal ends its lines with both.
        (self.seen.replace("\r\n", "\n"), status.code())
    }
}
