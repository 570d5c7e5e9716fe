//! What a lab MX does instead of the usual.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where in a connection a lab MX can be told to act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A client connected; the line is the address it connected to.
    Greeting,
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS; `Default` goes on to the handshake.
    StartTls,
    /// Right after the 220 to STARTTLS, in place of the handshake.
    Handshake,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// The DATA command.
    Data,
    /// The first bytes of a message came, its end did not yet.
    Body,
    /// A chunk came that is not the last (RFC 3030); its line is the command.
    Chunk,
    /// The final dot or the last chunk came; the line is the accepted recipients, a blank between two. With LMTP it
    /// is asked for each.
    Dot,
    /// The final dot was answered; nothing was asked since.
    Done,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// What it does there.
#[derive(Debug, Clone)]
pub enum Act {
    /// The usual.
    Default,
    /// Answers this; lines are separated by `\n`, the line ends are added.
    Reply(String),
    /// Answers this and closes the connection.
    ReplyThenClose(String),
    /// Closes the connection without a word.
    Close,
    /// Answers nothing any more and keeps the connection.
    Hang,
    /// Sends these bytes as they are.
    Raw(Vec<u8>),
    /// Sends these bytes again and again until the client goes.
    Endless(Vec<u8>),
    /// Waits first.
    After(Duration, Box<Act>),
    /// Sends these pieces one after the other, each after its time.
    Pieces(Vec<(Duration, Vec<u8>)>),
    /// Answers this, ends its half of the connection and reads on until the client goes.
    Refuse(String),
}

impl Act {
    /// Answers this text.
    pub fn reply(text: &str) -> Act {
        Act::Reply(text.to_owned())
    }
}

type Rule = Box<dyn FnMut(&str) -> Act + Send>;

/// The rules of one MX; clones share them.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<HashMap<Stage, Rule>>>);

impl Script {
    pub(super) fn set(&self, stage: Stage, rule: Rule) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(stage, rule);
    }

    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn act(&self, stage: Stage, line: &str) -> Act {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rules
            .get_mut(&stage)
            .map_or(Act::Default, |rule| rule(line))
    }
}
