//! The SMTP server as a state machine (RFC 5321, 3207, 4954, 2920, 3030): bytes in, replies and
//! steps out.
//!
//! A session feeds it what it reads and does what each [`Step`] says; the machine then waits for
//! the answer. It opens nothing, knows no clock but [`Server::at`], and sees message data only to
//! say when it begins: the bytes between 354 and the final dot go through
//! [`super::data::Decoder`], those of BDAT through [`super::data::LineEnds`].
//!
//! What must never happen: a reply more or less than one for a command; a state that outlives
//! STARTTLS; a password taken without TLS; a recipient without a sender.

mod chunks;
mod envelope;
mod greeting;
mod lines;
mod login;
mod proxied;

use bytes::BytesMut;
use queue_schema::Millis;

use super::address::{Address, Charset};
use super::command::{self, Command};
use super::extension::{Extension, Extensions};
use super::params::{Mail, Rcpt};
use super::replies::{self, Reply};
use super::sasl::{Credentials, Exchange, Proven};
use super::scram::First;

pub use chunks::Chunks;
pub use proxied::Xclient;

/// What a session is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our name in greeting and EHLO reply.
    pub hostname: String,
    /// Whether clients must authenticate here before MAIL, and may at all.
    pub submission: bool,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// Whether the client's network may relay without AUTH.
    pub trusted: bool,
    /// Whether the client may say XCLIENT.
    pub xclient: bool,
    /// Whether EHLO names that are no host names are refused.
    pub strict_hello: bool,
    /// The extensions that are on.
    pub extensions: Extensions,
    /// The limits.
    pub limits: Bounds,
}

/// The limits a machine keeps; each is the one of the same name in `[limits]`.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// `limits.message` in bytes.
    pub message: u64,
    /// `limits.recipients`.
    pub recipients: usize,
    /// `limits.command_line` in bytes.
    pub line: usize,
    /// `limits.errors`.
    pub errors: usize,
    /// `limits.idle_commands`.
    pub idle_commands: usize,
    /// `limits.commands`.
    pub commands: usize,
    /// `limits.transactions`.
    pub transactions: usize,
    /// `limits.chunks`.
    pub chunks: usize,
    /// `limits.auth_attempts`.
    pub auth_attempts: usize,
    /// `limits.future_release` in seconds.
    pub future_release: u64,
}

/// What the session does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send what is to be sent, then read more bytes.
    Read,
    /// Judge the sender, see [`Server::pending`], and answer with [`Server::sender`].
    Sender(Option<Address>),
    /// Judge the recipient and answer with [`Server::recipient`].
    Recipient(Rcpt),
    /// Verify and answer with [`Server::authenticated`].
    Authenticate(Credentials),
    /// Find the SCRAM verifier of this user and answer with [`Server::verifier`].
    Verifier(String),
    /// Take note of how SCRAM ended and answer with [`Server::authenticated`].
    Proved {
        /// Who the client claims to be.
        user: String,
        /// Whether it is.
        proof: Proven,
    },
    /// Send, drop every byte not yet parsed, run the handshake, call [`Server::tls_started`].
    StartTls,
    /// Send, take the message, answer with [`Server::message_done`].
    Data,
    /// Take so many octets of the message; answer with [`Server::chunk_done`], or with
    /// [`Server::message_done`] if they are the last.
    Chunk {
        /// How many.
        size: u64,
        /// The message ends with them.
        last: bool,
    },
    /// Read so many octets, drop them, answer with [`Server::discarded`].
    Discard(u64),
    /// The client is somebody else from now on: answer with [`Server::client_changed`].
    Xclient(Xclient),
    /// Send and close.
    Close,
}

/// The transaction under way: MAIL was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The sender and the parameters of MAIL.
    pub mail: Mail,
    /// The accepted recipients.
    pub recipients: Vec<Rcpt>,
    /// What came with BDAT so far.
    pub chunks: Option<Chunks>,
}

/// How the client greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name it gave.
    pub name: String,
    /// EHLO, not HELO.
    pub extended: bool,
}

/// The machine of one connection.
#[derive(Debug)]
pub struct Server {
    options: Options,
    now: Millis,
    tls: bool,
    /// The value of `tls-exporter` (RFC 9266), where TLS gives one.
    exporter: Option<[u8; 32]>,
    hello: Option<Hello>,
    user: Option<String>,
    transaction: Option<Transaction>,
    /// A MAIL that waits for the session's judgement.
    pending: Option<Mail>,
    /// A reply that waits until the octets of a refused chunk have come.
    refusal: Option<Reply>,
    exchange: Option<Exchange>,
    /// A SCRAM exchange that waits for the user's verifier.
    first: Option<Box<First>>,
    /// What a client that gave SCRAM up is told once the session has taken note.
    given_up: Option<Reply>,
    counts: Counts,
    /// Bytes of an overlong line thrown away so far.
    dropping: Option<usize>,
    closing: bool,
}

/// What a connection has used up.
#[derive(Debug, Default)]
struct Counts {
    errors: usize,
    idle_commands: usize,
    commands: usize,
    transactions: usize,
    failed_logins: usize,
    /// Octets of refused chunks.
    discarded: u64,
}

impl Server {
    /// A machine for a connection that was just accepted; after the handshake of a listener with
    /// implicit TLS, call [`Server::tls_started`].
    pub fn new(options: Options) -> Server {
        Server {
            options,
            now: 0,
            tls: false,
            exporter: None,
            hello: None,
            user: None,
            transaction: None,
            pending: None,
            refusal: None,
            exchange: None,
            first: None,
            given_up: None,
            counts: Counts::default(),
            dropping: None,
            closing: false,
        }
    }

    /// Tells the time, by which HOLDUNTIL is judged.
    pub fn at(&mut self, now: Millis) {
        self.now = now;
    }

    /// How the client greeted last.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The authenticated user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether TLS is active.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the client's network may relay without AUTH.
    pub fn is_trusted(&self) -> bool {
        self.options.trusted
    }

    /// The transaction under way.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// The MAIL that [`Step::Sender`] is about.
    pub fn pending(&self) -> Option<&Mail> {
        self.pending.as_ref()
    }

    /// Commands refused so far.
    pub fn errors(&self) -> usize {
        self.counts.errors
    }

    /// Takes commands from `input` until one needs the session, or bytes run out.
    pub fn next(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Step {
        loop {
            if self.closing {
                return Step::Close;
            }
            let Some(line) = self.line(input, out) else {
                return if self.closing {
                    Step::Close
                } else {
                    Step::Read
                };
            };
            if let Some(step) = self.command(&line, input, out) {
                return step;
            }
        }
    }

    fn command(&mut self, line: &[u8], input: &BytesMut, out: &mut Vec<u8>) -> Option<Step> {
        self.counts.commands += 1;
        if self.counts.commands > self.options.limits.commands {
            return self.closed(replies::TOO_MANY_COMMANDS, out);
        }
        if let Some(exchange) = self.exchange.take() {
            return self.sasl(exchange.response(line), out);
        }
        let utf8 = self
            .transaction
            .as_ref()
            .is_some_and(|open| open.mail.smtputf8);
        let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
        let command = match command::parse(line, &self.options.hostname, charset) {
            Ok(command) => command,
            Err(reply) => {
                if reply == replies::BAD_BDAT {
                    // Nobody knows how much of the message follows (Postfix 20260724).
                    self.transaction = None;
                }
                return self.refused(reply, out);
            }
        };
        match command {
            // RFC 2920 section 3.1: these end a group, so nothing can rightly follow them yet.
            Command::Hello { .. } | Command::Auth { .. } if !input.is_empty() => {
                self.closed(replies::UNAUTHORISED_PIPELINING, out)
            }
            Command::Hello { sound: false, .. } if self.options.strict_hello => {
                self.refused(replies::BAD_HELLO, out)
            }
            Command::Hello { extended, name, .. } => {
                self.transaction = None;
                self.hello = Some(Hello { name, extended });
                self.write_hello(extended, out);
                None
            }
            Command::StartTls => self.starttls(out),
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial.as_deref(), out),
            Command::Mail(mail) => self.mail(mail, out),
            Command::Rcpt(rcpt) => self.rcpt(rcpt, out),
            Command::Data => self.data(input, out),
            Command::Bdat { size, last } => self.bdat(size, last, out),
            Command::Rset => {
                self.transaction = None;
                self.idle(replies::OK, out)
            }
            Command::Noop => self.idle(replies::OK, out),
            Command::Help if self.has(Extension::Help) => self.idle(replies::HELP, out),
            Command::Vrfy if self.has(Extension::Vrfy) => self.idle(replies::WILL_NOT_VERIFY, out),
            Command::Quit => self.closed(replies::BYE, out),
            Command::Xclient(attributes) => self.xclient(&attributes, out),
            Command::Help | Command::Vrfy | Command::NotOffered => {
                self.refused(replies::NOT_OFFERED, out)
            }
            Command::OtherProtocol => self.closed(replies::OTHER_PROTOCOL, out),
        }
    }

    fn has(&self, extension: Extension) -> bool {
        self.options.extensions.has(extension)
    }

    /// Whether the client may ask for what strangers may not.
    fn is_known(&self) -> bool {
        self.user.is_some() || self.options.trusted
    }

    /// Says `reply` and closes: a timeout, a stop, a limit.
    pub fn close(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.closing = true;
        self.transaction = None;
        self.say(&reply, out);
    }

    fn closed(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.close(reply, out);
        Some(Step::Close)
    }

    fn idle(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.counts.idle_commands += 1;
        if self.counts.idle_commands > self.options.limits.idle_commands {
            return self.closed(replies::TOO_MANY_IDLE_COMMANDS, out);
        }
        self.say(&reply, out);
        None
    }

    fn refused(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.refuse(reply, out);
        None
    }

    /// One reply for the command: the refusal, or the 421 that ends a connection which had too many.
    fn refuse(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.counts.errors += 1;
        if self.counts.errors > self.options.limits.errors {
            self.close(replies::TOO_MANY_ERRORS, out);
        } else {
            self.say(&reply, out);
        }
    }

    fn say(&self, reply: &Reply, out: &mut Vec<u8>) {
        if self.has(Extension::EnhancedStatusCodes) {
            reply.write(out);
        } else {
            let plain = Reply {
                enhanced: "",
                ..reply.clone()
            };
            plain.write(out);
        }
    }
}

#[cfg(test)]
mod tests;
