//! The client's half of an SMTP connection (RFC 5321), as a state machine without I/O or clock.
//!
//! Whoever drives it writes what [`Client::output`] holds, feeds what comes in to
//! [`Client::receive`], says when the peer is gone with [`Client::lost`], and does what
//! [`Client::step`] asks for. It greets, negotiates STARTTLS, and runs one transaction after the
//! other, pipelined where the server offers that (RFC 2920), and says for each recipient what
//! the server said about it and when. What that means is for delivery to judge.
//!
//! It must never send a message whose recipients were all refused, read a reply as the answer to
//! a command it does not belong to, or use what a server said before TLS once TLS began.

pub mod chunks;
mod deliver_by;
mod ends;
mod extensions;
mod hello;
mod login;
pub mod own_words;
mod step;
mod transaction;

pub use extensions::Extensions;
pub use login::Login;
pub use step::{Answer, Finished, Loss, Said, Stage, Step, Wait};
pub use transaction::{Mail, Refusal, To};

use super::reply::{Reply, ReplyError, ReplyReader};
use chunks::Chunks;
use transaction::Transaction;

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    /// The next reply belongs to this dialogue; none while it is being looked at.
    Auth(Option<login::Exchange>),
    Ready,
    /// Replies to MAIL, RCPT and DATA are awaited.
    Group,
    /// The driver sends the message.
    Data,
    /// The reply to the final dot is awaited.
    FinalDot,
    /// DATA was accepted though no recipient was; a lone dot ended it.
    EmptyDot,
    /// The answers are complete; tells whether the connection may go on.
    Finished(Option<Answer>),
    Closed(Answer),
}

/// One connection, seen from the client.
#[derive(Debug)]
pub struct Client {
    hello: String,
    wants_tls: bool,
    secure: bool,
    /// LMTP (RFC 2033): LHLO, and a reply for each recipient at the end of data.
    lmtp: bool,
    /// The greeting comes after the handshake (RFC 8314).
    implicit: bool,
    /// A server that greets with our own name is left; and whether it did.
    no_loop: bool,
    ourselves: bool,
    /// Who to log in as, until that is done.
    login: Option<Login>,
    state: State,
    replies: ReplyReader,
    output: Vec<u8>,
    extensions: Extensions,
    transaction: Transaction,
    chunks: Chunks,
    /// A transaction failed: RSET comes before the next one.
    needs_reset: bool,
    transactions: u64,
    heard: u64,
}

impl Client {
    /// A connection that just opened. `hello` is our name for EHLO, or an address literal;
    /// `wants_tls` says whether STARTTLS is used where it is offered.
    pub fn new(hello: &str, wants_tls: bool) -> Client {
        Client {
            hello: hello.to_owned(),
            wants_tls,
            secure: false,
            lmtp: false,
            implicit: false,
            no_loop: false,
            ourselves: false,
            login: None,
            state: State::Greeting,
            replies: ReplyReader::default(),
            output: Vec::new(),
            extensions: Extensions::default(),
            transaction: Transaction::default(),
            chunks: Chunks::default(),
            needs_reset: false,
            transactions: 0,
            heard: 0,
        }
    }

    /// Speak LMTP instead.
    pub fn lmtp(mut self) -> Client {
        self.lmtp = true;
        self
    }

    /// Do not speak to a server that has our own name: it is this one (RFC 5321 section 6.3).
    pub fn never_to_ourselves(mut self) -> Client {
        self.no_loop = true;
        self
    }

    /// TLS comes before the greeting.
    pub fn implicit_tls(mut self) -> Client {
        self.implicit = true;
        self.state = State::Handshake;
        self
    }

    /// Log in before the first transaction, and only within TLS.
    pub fn log_in(mut self, login: Login) -> Client {
        self.login = Some(login);
        self
    }

    /// What is to be written; the driver clears it once it is.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What the server offers, as it said last.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Whether the connection is in TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// How many transactions were begun on this connection.
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Takes what the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.replies.push(bytes);
    }

    /// The peer is gone, or too late. What it said before that is taken into account.
    pub fn lost(&mut self, loss: Loss) {
        while self.awaits_reply() {
            match self.next_reply() {
                Ok(Some(reply)) => self.hear(reply),
                Ok(None) | Err(_) => return self.fail(loss),
            }
        }
        match self.state {
            State::Finished(None) => self.state = State::Finished(Some(nothing(Stage::Mail, loss))),
            // A server that refuses a message half way says so and closes.
            State::Data => {
                self.hear_chunks();
                let refusal = self.chunks.refusal.take();
                let refusal = refusal.map(|reply| said(Stage::FinalDot, reply));
                let answer = refusal.or_else(|| self.early_refusal());
                self.end_transaction(answer.unwrap_or_else(|| nothing(Stage::Content, loss)));
            }
            _ => self.fail(loss),
        }
    }

    /// How many replies were understood so far. The time for a reply begins with its command or
    /// with the reply before it, not with each byte.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// The TLS handshake is done. All that was said before it is forgotten (RFC 3207 section 4.2).
    pub fn secured(&mut self) {
        self.secure = true;
        self.replies.clear();
        self.extensions = Extensions::default();
        match self.implicit {
            true => self.state = State::Greeting,
            false => self.greet_back(),
        }
    }

    /// Begins a transaction; only in [`Step::Ready`]. An error is about this message and leaves
    /// the connection as it was.
    pub fn begin<'a>(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = To<'a>>,
    ) -> Result<(), Refusal> {
        let reset = self.needs_reset;
        // After a refused chunk nobody could tell how many replies LMTP still owes (RFC 2033 section
        // 4.3 has one for each recipient after the last chunk), and it saves little on a local hop.
        let chunked = self.chunks.are_useful(mail.size, &self.extensions) && !self.lmtp;
        self.transaction
            .prepare(mail, recipients, &self.extensions, reset, chunked)?;
        self.chunks.begin();
        self.transactions += 1;
        self.state = State::Group;
        if self.extensions.pipelining {
            self.transaction.write_all(&mut self.output);
        } else {
            self.transaction.write_next(&mut self.output);
        }
        Ok(())
    }

    /// The message and its final dot, or its last chunk, were written.
    pub fn data_sent(&mut self) {
        self.state = State::FinalDot;
        if let Some(refusal) = self.chunks.refusal.take() {
            let over = self.chunks.unknown || refusal.code == 421;
            let answer = said(Stage::FinalDot, refusal);
            self.transaction.answer_rest(&answer);
            if over {
                self.finish(Some(answer));
            } else if self.chunks.due == 0 {
                self.finish(None);
            }
        }
    }

    /// What an LMTP server said about single recipients since this was asked last, by their positions:
    /// each is the last word on its recipient (RFC 2033 section 4.2). [`Finished`] repeats it.
    pub fn take_untold(&mut self) -> Vec<(usize, Answer)> {
        self.transaction.take_untold()
    }

    /// Says goodbye; the driver writes it and need not wait for the answer.
    pub fn quit(&mut self) {
        if matches!(self.state, State::Ready) {
            self.output.extend_from_slice(b"QUIT\r\n");
        }
        self.state = State::Closed(nothing(Stage::Mail, Loss::Closed));
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        loop {
            let wait = match &mut self.state {
                State::Handshake => return Step::Handshake,
                State::Data => return Step::SendData,
                State::Closed(answer) => return Step::Closed(answer.clone()),
                State::Finished(end) => {
                    let end = end.take();
                    self.needs_reset |= self.transaction.failed();
                    self.state = end.map_or(State::Ready, State::Closed);
                    let mut finished = self.transaction.finish();
                    finished.no_chunks = std::mem::take(&mut self.chunks.unknown);
                    return Step::Finished(finished);
                }
                // Nobody asked: it closes the connection, or the two of us are out of step.
                State::Ready if self.replies.has_more() => Wait::Command,
                State::Ready => return Step::Ready,
                State::Greeting => Wait::Greeting,
                State::FinalDot | State::EmptyDot => Wait::FinalDot,
                State::Ehlo | State::Helo | State::StartTls | State::Auth(_) | State::Group => {
                    Wait::Command
                }
            };
            match self.next_reply() {
                Ok(None) => return Step::Read(wait),
                Ok(Some(reply)) => self.hear(reply),
                Err(error) => self.fail(Loss::Malformed(error)),
            }
        }
    }

    fn awaits_reply(&self) -> bool {
        match self.state {
            State::Ready => self.replies.has_more(),
            State::Data | State::Handshake | State::Finished(_) | State::Closed(_) => false,
            _ => true,
        }
    }

    fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        let Some(raw) = self.replies.poll()? else {
            return Ok(None);
        };
        if matches!(self.state, State::Ehlo) {
            self.extensions = Extensions::parse(raw.lines());
        }
        if self.no_loop && matches!(self.state, State::Greeting) {
            let line = raw.lines().next().unwrap_or_default();
            let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
            self.ourselves = name.eq_ignore_ascii_case(self.hello.as_bytes());
        }
        self.heard += 1;
        // Nobody ever reads the text of a success but that of the final dot.
        let kept = raw.code >= 400 || matches!(self.state, State::FinalDot | State::Auth(_));
        Ok(Some(match kept {
            true => raw.to_reply(),
            false => Reply::new(raw.code, "", ""),
        }))
    }

    fn hear(&mut self, reply: Reply) {
        match self.state {
            State::Greeting => match reply.code {
                220..=299 if self.ourselves => self.fail(Loss::Ourselves),
                220..=299 => self.greet_back(),
                _ => self.refuse(Stage::Greeting, reply),
            },
            State::Ehlo => match reply.code {
                250..=299 => self.introduced(),
                // RFC 5321 section 3.2: a server without EHLO is greeted the old way. 421 is not
                // among these, and 554 after the greeting still may accept HELO.
                500..=599 if !self.lmtp => {
                    self.state = State::Helo;
                    self.extensions = Extensions::default();
                    self.say(&["HELO ", &self.hello.clone()]);
                }
                _ => self.refuse(Stage::Hello, reply),
            },
            State::Helo => match reply.code {
                250..=299 => self.introduced(),
                _ => self.refuse(Stage::Hello, reply),
            },
            State::StartTls => match reply.code {
                // Bytes behind the 220 were not sent by who will hold the key (CVE-2011-0411,
                // from the client's side): this connection is not to be trusted.
                220 if self.replies.has_more() => self.fail(Loss::OutOfStep),
                220 => self.state = State::Handshake,
                // Offered, but not now: TLS was only opportunistic.
                400..=599 if reply.code != 421 => self.introduced_for_good(),
                _ => self.refuse(Stage::StartTls, reply),
            },
            State::Auth(ref mut exchange) => match reply.code {
                200..=399 => {
                    let turn = exchange
                        .take()
                        .map(|exchange| exchange.hear(reply.code, &reply.text));
                    match turn {
                        Some(login::Turn::Say(line, next)) => {
                            self.state = State::Auth(Some(next));
                            self.say(&[&line]);
                        }
                        Some(login::Turn::Done) => self.state = State::Ready,
                        Some(login::Turn::Broken) | None => self.fail(Loss::OutOfStep),
                    }
                }
                _ => self.refuse(Stage::Auth, reply),
            },
            State::Group => self.hear_in_group(reply),
            State::FinalDot if self.lmtp && !matches!(reply.code, 300..=399 | 421) => {
                // RFC 2033 section 4.2: a reply for each recipient that was accepted, in order.
                if self.transaction.answer_next(said(Stage::FinalDot, reply)) {
                    self.finish(None);
                }
            }
            State::FinalDot
                if self.transaction.is_chunked() && !matches!(reply.code, 300..=399 | 421) =>
            {
                self.hear_chunk(reply);
            }
            State::FinalDot => {
                let closing = matches!(reply.code, 300..=399 | 421);
                let answer = match reply.code {
                    300..=399 => nothing(Stage::FinalDot, Loss::OutOfStep),
                    _ => said(Stage::FinalDot, reply),
                };
                self.transaction.answer_rest(&answer);
                self.finish(closing.then_some(answer));
            }
            State::EmptyDot => {
                let closing = (reply.code == 421).then(|| said(Stage::FinalDot, reply));
                self.finish(closing);
            }
            State::Ready => {
                let answer = match reply.code {
                    421 => said(Stage::Mail, reply),
                    _ => nothing(Stage::Mail, Loss::OutOfStep),
                };
                self.state = State::Closed(answer);
            }
            State::Handshake | State::Data | State::Finished(_) | State::Closed(_) => {}
        }
    }

    fn hear_in_group(&mut self, reply: Reply) {
        use transaction::{Expect, Turn};
        let expected = self.transaction.expected();
        match self.transaction.hear(reply) {
            Turn::Next => {
                if !self.extensions.pipelining {
                    // An answer to a command that was not given yet.
                    if self.replies.has_more() {
                        return self.untimely();
                    }
                    self.transaction.write_next(&mut self.output);
                }
                if expected == Some(Expect::Reset) {
                    self.needs_reset = false;
                }
            }
            // What is said between the 354 and the message can only be against it; anything else
            // would be taken for the answer to the final dot.
            Turn::SendData if self.replies.has_more() => {
                let answer = self.early_refusal();
                self.end_transaction(
                    answer.unwrap_or_else(|| nothing(Stage::Data, Loss::OutOfStep)),
                );
            }
            Turn::SendData => self.state = State::Data,
            // LMTP has no reply for nobody (RFC 2033 section 4.2).
            Turn::EndEmpty if self.lmtp => {
                self.finish(Some(nothing(Stage::Data, Loss::OutOfStep)));
            }
            Turn::EndEmpty => {
                self.output.extend_from_slice(b".\r\n");
                self.state = State::EmptyDot;
            }
            Turn::Finished => self.finish(None),
            Turn::Close(answer) => self.end_transaction(answer),
        }
    }

    fn say(&mut self, words: &[&str]) {
        // An answer that is here before its command belongs to none.
        if self.replies.has_more() {
            return self.untimely();
        }
        for word in words {
            self.output.extend_from_slice(word.as_bytes());
        }
        self.output.extend_from_slice(b"\r\n");
    }
}

fn said(stage: Stage, reply: Reply) -> Answer {
    Answer {
        stage,
        said: Said::Reply(reply),
    }
}

fn nothing(stage: Stage, loss: Loss) -> Answer {
    Answer {
        stage,
        said: Said::Nothing(loss),
    }
}

#[cfg(test)]
mod tests;
