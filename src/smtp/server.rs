//! The SMTP server as a state machine (RFC 5321, 3207, 4954, 2920): bytes in, replies and steps out.
//!
//! A session feeds it what it reads and does what each [`Step`] says; the machine then waits for
//! the answer. It opens nothing, knows no clock, and sees message data only to say when it begins:
//! the bytes between 354 and the final dot go through [`super::data::Decoder`].
//!
//! What must never happen: a reply more or less than one for a command; a state that outlives
//! STARTTLS; a password taken without TLS; a recipient without a sender.

use bytes::BytesMut;
use memchr::memchr;
use queue_schema::BodyKind;

use super::address::Address;
use super::command::{self, Command, Mail};
use super::replies::{self, Reply};
use super::sasl::{self, Credentials, Exchange};

/// What a session is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our name in greeting and EHLO reply.
    pub hostname: String,
    /// Whether clients must authenticate here before MAIL, and may at all.
    pub submission: bool,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// Whether TLS is active from the start.
    pub tls: bool,
    /// Whether the client's network may relay without AUTH.
    pub trusted: bool,
    /// `limits.message` in bytes.
    pub max_message: u64,
    /// `limits.recipients`.
    pub max_recipients: usize,
    /// `limits.command_line` in bytes.
    pub max_line: usize,
    /// `limits.errors`.
    pub max_errors: usize,
    /// `limits.idle_commands`.
    pub max_idle_commands: usize,
}

/// What the session does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send what is to be sent, then read more bytes.
    Read,
    /// Judge the sender and answer with [`Server::sender`].
    Sender(Option<Address>),
    /// Judge the recipient and answer with [`Server::recipient`].
    Recipient(Address),
    /// Verify and answer with [`Server::authenticated`].
    Authenticate(Credentials),
    /// Send, drop every byte not yet parsed, run the handshake, call [`Server::tls_started`].
    StartTls,
    /// Send, take the message, answer with [`Server::message_done`].
    Data,
    /// Send and close.
    Close,
}

/// The transaction under way: MAIL was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// `None` is the null reverse-path.
    pub from: Option<Address>,
    /// The declared BODY.
    pub body: Option<BodyKind>,
    /// The accepted recipients.
    pub recipients: Vec<Address>,
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
    tls: bool,
    hello: Option<Hello>,
    user: Option<String>,
    transaction: Option<Transaction>,
    /// A MAIL or RCPT that waits for the session's judgement.
    pending: Option<Mail>,
    exchange: Option<Exchange>,
    errors: usize,
    idle_commands: usize,
    /// Bytes of an overlong line thrown away so far.
    discarded: Option<usize>,
    closing: bool,
}

/// Bytes of one overlong line that are read and dropped before the connection is closed.
const MAX_DISCARD: usize = 64 * 1024;

/// Longest line of a SASL exchange in bytes (RFC 4954 section 4).
const MAX_SASL_LINE: usize = 12_288;

impl Server {
    /// A machine for a connection that was just accepted.
    pub fn new(options: Options) -> Server {
        Server {
            tls: options.tls,
            options,
            hello: None,
            user: None,
            transaction: None,
            pending: None,
            exchange: None,
            errors: 0,
            idle_commands: 0,
            discarded: None,
            closing: false,
        }
    }

    /// The 220 that opens the dialogue.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        Reply::new(220, "", format!("{} ESMTP chapar", self.options.hostname)).write(out);
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

    /// The transaction under way.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
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

    /// The next whole line without its CR LF; an unsound one is answered here.
    fn line(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Option<BytesMut> {
        loop {
            let limit = match self.exchange {
                Some(_) => self.options.max_line.max(MAX_SASL_LINE),
                None => self.options.max_line,
            };
            let end = memchr(b'\n', input);
            if let Some(dropped) = self.discarded {
                let part = end.map_or(input.len(), |end| end + 1);
                let _ = input.split_to(part);
                self.discarded = end.is_none().then_some(dropped + part);
                if self.discarded.is_some_and(|dropped| dropped > MAX_DISCARD) {
                    self.close(replies::TOO_MANY_ERRORS, out);
                }
                end?;
                continue;
            }
            if self.hello.is_none() && input.starts_with(&[0x16, 3]) {
                // A TLS ClientHello where SMTP is spoken.
                self.close(replies::OTHER_PROTOCOL, out);
                return None;
            }
            if end.map_or(input.len(), |end| end + 1) > limit {
                self.refuse(replies::LINE_TOO_LONG, out);
                self.exchange = None;
                self.discarded = Some(0);
                if self.closing {
                    return None;
                }
                continue;
            }
            let mut line = input.split_to(end? + 1);
            line.truncate(line.len() - 1);
            if line.last() != Some(&b'\r') || line.iter().filter(|byte| **byte == b'\r').count() > 1
            {
                self.exchange = None;
                self.refuse(replies::BAD_LINE_END, out);
                if self.closing {
                    return None;
                }
                continue;
            }
            line.truncate(line.len() - 1);
            return Some(line);
        }
    }

    fn command(&mut self, line: &[u8], input: &BytesMut, out: &mut Vec<u8>) -> Option<Step> {
        if let Some(exchange) = self.exchange.take() {
            return self.sasl(exchange.response(line), out);
        }
        let command = match command::parse(line, &self.options.hostname) {
            Ok(command) => command,
            Err(reply) => {
                self.refuse(reply, out);
                return None;
            }
        };
        match command {
            // RFC 2920 section 3.1: these end a group, so nothing can rightly follow them yet.
            Command::Hello { .. } | Command::Auth { .. } if !input.is_empty() => {
                self.close(replies::UNAUTHORISED_PIPELINING, out);
                Some(Step::Close)
            }
            Command::Hello { extended, name } => {
                self.hello = Some(Hello { name, extended });
                self.transaction = None;
                self.write_hello(extended, out);
                None
            }
            Command::StartTls => self.starttls(out),
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial.as_deref(), out),
            Command::Mail(mail) => self.mail(mail, out),
            Command::Rcpt(to) => self.rcpt(to, out),
            Command::Data => self.data(input, out),
            Command::Rset => {
                self.transaction = None;
                self.idle(replies::OK, out)
            }
            Command::Noop => self.idle(replies::OK, out),
            Command::Help => self.idle(replies::HELP, out),
            Command::Vrfy => self.idle(replies::WILL_NOT_VERIFY, out),
            Command::Quit => {
                self.close(replies::BYE, out);
                Some(Step::Close)
            }
            Command::NotOffered => self.refused(replies::NOT_OFFERED, out),
            Command::OtherProtocol => {
                self.close(replies::OTHER_PROTOCOL, out);
                Some(Step::Close)
            }
        }
    }

    fn write_hello(&self, extended: bool, out: &mut Vec<u8>) {
        if !extended {
            Reply::new(250, "", self.options.hostname.clone()).write(out);
            return;
        }
        let mut lines = vec![
            self.options.hostname.clone(),
            format!("SIZE {}", self.options.max_message),
            "8BITMIME".to_owned(),
            "PIPELINING".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
        ];
        if self.options.starttls && !self.tls {
            lines.push("STARTTLS".to_owned());
        }
        if self.options.submission && self.tls {
            lines.push("AUTH PLAIN LOGIN".to_owned());
        }
        let last = lines.len() - 1;
        for (place, line) in lines.iter().enumerate() {
            out.extend_from_slice(if place == last { b"250 " } else { b"250-" });
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    fn starttls(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let refusal = if self.tls {
            replies::ALREADY_TLS
        } else if !self.options.starttls {
            replies::NOT_OFFERED
        } else if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if self.transaction.is_some() {
            replies::TLS_IN_TRANSACTION
        } else {
            replies::START_TLS.write(out);
            return Some(Step::StartTls);
        };
        self.refused(refusal, out)
    }

    /// The handshake is done: everything said in clear is forgotten (RFC 3207 section 4.2).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.hello = None;
        self.user = None;
        self.transaction = None;
        self.exchange = None;
    }

    fn auth(&mut self, mechanism: &str, initial: Option<&str>, out: &mut Vec<u8>) -> Option<Step> {
        let refusal = if !self.options.submission {
            replies::AUTH_NOT_HERE
        } else if !self.tls {
            replies::AUTH_NEEDS_TLS
        } else if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if self.user.is_some() {
            replies::ALREADY_AUTHENTICATED
        } else if self.transaction.is_some() {
            replies::AUTH_IN_TRANSACTION
        } else {
            return self.sasl(sasl::begin(mechanism, initial), out);
        };
        self.refused(refusal, out)
    }

    fn sasl(&mut self, progress: sasl::Progress, out: &mut Vec<u8>) -> Option<Step> {
        match progress {
            sasl::Progress::Challenge(exchange, reply) => {
                self.exchange = Some(exchange);
                reply.write(out);
                None
            }
            sasl::Progress::Verify(credentials) => Some(Step::Authenticate(credentials)),
            sasl::Progress::Refused(reply) => self.refused(reply, out),
        }
    }

    /// The outcome of [`Step::Authenticate`]: the user's address, or the reply that refuses.
    pub fn authenticated(&mut self, outcome: Result<String, Reply>, out: &mut Vec<u8>) {
        match outcome {
            Ok(user) => {
                self.user = Some(user);
                replies::AUTHENTICATED.write(out);
            }
            Err(reply) => self.refuse(reply, out),
        }
    }

    fn mail(&mut self, mail: Mail, out: &mut Vec<u8>) -> Option<Step> {
        let unknown = self.options.submission && self.user.is_none() && !self.options.trusted;
        let refusal = if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if unknown && !self.tls {
            replies::TLS_REQUIRED
        } else if unknown {
            replies::AUTH_REQUIRED
        } else if self.transaction.is_some() {
            replies::NESTED_MAIL
        } else if mail
            .size
            .is_some_and(|size| size > self.options.max_message)
        {
            replies::MESSAGE_TOO_BIG
        } else {
            let from = mail.from.clone();
            self.pending = Some(mail);
            return Some(Step::Sender(from));
        };
        self.refused(refusal, out)
    }

    /// The session's judgement of the sender.
    pub fn sender(&mut self, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        let Some(mail) = self.pending.take() else {
            return;
        };
        match verdict {
            Ok(()) => {
                replies::SENDER_OK.write(out);
                let Mail { from, body, .. } = mail;
                self.transaction = Some(Transaction {
                    from,
                    body,
                    recipients: Vec::new(),
                });
            }
            Err(reply) => self.refuse(reply, out),
        }
    }

    fn rcpt(&mut self, to: Address, out: &mut Vec<u8>) -> Option<Step> {
        match &self.transaction {
            None => self.refused(replies::MAIL_FIRST, out),
            Some(transaction) if transaction.recipients.len() >= self.options.max_recipients => {
                self.refused(replies::TOO_MANY_RECIPIENTS, out)
            }
            Some(_) => Some(Step::Recipient(to)),
        }
    }

    /// The session's judgement of a recipient.
    pub fn recipient(&mut self, to: Address, verdict: Result<(), Reply>, out: &mut Vec<u8>) {
        match (verdict, &mut self.transaction) {
            (Ok(()), Some(transaction)) => {
                transaction.recipients.push(to);
                replies::RECIPIENT_OK.write(out);
            }
            (Ok(()), None) => self.refuse(replies::MAIL_FIRST, out),
            (Err(reply), _) => self.refuse(reply, out),
        }
    }

    fn data(&mut self, input: &BytesMut, out: &mut Vec<u8>) -> Option<Step> {
        match &self.transaction {
            None => self.refused(replies::MAIL_FIRST, out),
            Some(transaction) if transaction.recipients.is_empty() => {
                self.refused(replies::NO_RECIPIENTS, out)
            }
            // A message that did not wait for 354 may be another protocol's request.
            Some(_) if !input.is_empty() => {
                self.close(replies::UNAUTHORISED_PIPELINING, out);
                Some(Step::Close)
            }
            Some(_) => {
                replies::SEND_DATA.write(out);
                Some(Step::Data)
            }
        }
    }

    /// What became of the message: the one reply to its final dot. Whatever it is, the
    /// transaction is over.
    pub fn message_done(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.transaction = None;
        if reply.code == 421 {
            self.close(reply, out);
        } else if reply.is_error() {
            self.refuse(reply, out);
        } else {
            self.idle_commands = 0;
            reply.write(out);
        }
    }

    /// Says `reply` and closes: a timeout, a stop, a limit.
    pub fn close(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.closing = true;
        self.transaction = None;
        reply.write(out);
    }

    fn idle(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.idle_commands += 1;
        if self.idle_commands > self.options.max_idle_commands {
            self.close(replies::TOO_MANY_IDLE_COMMANDS, out);
            return Some(Step::Close);
        }
        reply.write(out);
        None
    }

    fn refused(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.refuse(reply, out);
        None
    }

    /// One reply for the command: the refusal, or the 421 that ends a connection which had too many.
    fn refuse(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.errors += 1;
        if self.errors > self.options.max_errors {
            self.close(replies::TOO_MANY_ERRORS, out);
        } else {
            reply.write(out);
        }
    }
}

#[cfg(test)]
mod tests;
