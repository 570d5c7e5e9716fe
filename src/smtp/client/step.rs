//! What a connection tells its driver: what to do next, and what came of a transaction.

use super::super::reply::{Reply, ReplyError};

/// Where in a connection something was said or went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the greeting: no connection.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// RSET between two transactions.
    Reset,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// The DATA command.
    Data,
    /// The message, before its final dot was written: the server does not have it.
    Content,
    /// The final dot.
    FinalDot,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Connect => "connecting",
            Stage::Greeting => "the greeting",
            Stage::Hello => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Auth => "AUTH",
            Stage::Reset => "RSET",
            Stage::Mail => "MAIL FROM",
            Stage::Recipient => "RCPT TO",
            Stage::Data => "DATA",
            Stage::Content => "sending the message",
            Stage::FinalDot => "the end of data",
        })
    }
}

/// Why no reply came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The peer closed the connection.
    Closed,
    /// The time for it ran out.
    TimedOut,
    /// The network failed; what the system said.
    Network(String),
    /// Bytes that are no reply, or a reply without end.
    Malformed(ReplyError),
    /// It greets with our own name.
    Ourselves,
    /// A reply that does not belong to what was asked: the two sides disagree where they are.
    OutOfStep,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loss::Closed => f.write_str("the server closed the connection"),
            Loss::TimedOut => f.write_str("no answer in time"),
            Loss::Network(what) => f.write_str(what),
            Loss::Malformed(what) => what.fmt(f),
            Loss::Ourselves => f.write_str(
                "the host greets with our own name, so the mail would come back to us: \
                 add the domain here or correct its MX record",
            ),
            Loss::OutOfStep => f.write_str("the server sent a reply that belongs to no command"),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This.
    Reply(Reply),
    /// Nothing that could be read.
    Nothing(Loss),
}

/// The last word on one recipient, or on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When it was said.
    pub stage: Stage,
    /// What was said.
    pub said: Said,
}

/// Which of the configured timeouts applies to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// `timeouts.greeting`.
    Greeting,
    /// `timeouts.command`.
    Command,
    /// `timeouts.final_dot`.
    FinalDot,
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the output, then read until a reply is whole or this time is over.
    Read(Wait),
    /// Do a TLS handshake now, then call [`Client::secured`](super::Client::secured).
    Handshake,
    /// A transaction may [`Client::begin`](super::Client::begin).
    Ready,
    /// Send the message, then call [`Client::data_sent`](super::Client::data_sent): through a [`crate::stuffing::Stuffer`], or
    /// as it is in chunks if [`Client::is_chunked`](super::Client::is_chunked).
    SendData,
    /// The transaction is over; the next step is `Ready` or `Closed`.
    Finished(Finished),
    /// The connection is of no more use; this was said last. Write the output if the peer is
    /// still there, and close.
    Closed(Answer),
}

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// One for each recipient, in the order they were given.
    pub answers: Vec<Answer>,
    /// Not one word was said about this transaction: the connection had been closed before, or
    /// ended with a 421 in place of the reply to MAIL. On a connection that was used before it is
    /// no attempt.
    pub untouched: bool,
    /// The server offers CHUNKING and does not know BDAT: the message may go again with DATA.
    pub no_chunks: bool,
    /// How many recipients the server accepted at RCPT.
    pub accepted: usize,
}
