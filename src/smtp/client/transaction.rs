//! One mail transaction: its commands, and which reply answers which of them.

use queue_schema::{Notify, Ret};

use super::super::params;
use super::super::reply::Reply;
use super::{Answer, Extensions, Finished, Loss, Said, Stage, deliver_by, nothing};

/// What MAIL FROM says about a message.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// `local@domain`; empty for the null reverse-path.
    pub reverse_path: &'a str,
    /// Bytes of the message.
    pub size: u64,
    /// Whether it holds bytes above 127.
    pub eight_bit: bool,
    /// Whether it needs SMTPUTF8.
    pub smtputf8: bool,
    /// Whether every hop must use verified TLS (RFC 8689).
    pub require_tls: bool,
    /// How much of it a DSN returns (RFC 3461 section 4.3); told where DSN is offered.
    pub ret: Option<Ret>,
    /// The sender's name for the envelope (RFC 3461 section 4.4); told where DSN is offered.
    pub envid: Option<&'a str>,
    /// Its priority, -9 to 9 (RFC 6710); told where MT-PRIORITY is offered.
    pub priority: i8,
    /// The seconds left to deliver it, and whether it is returned when they are over rather than
    /// told of (RFC 2852); told where DELIVERBY is offered.
    pub deliver_by: Option<(i64, bool)>,
}

/// What RCPT TO says about a recipient.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    /// `local@domain`.
    pub address: &'a str,
    /// Which DSNs are wanted (RFC 3461 section 4.1); told where DSN is offered.
    pub notify: Notify,
    /// `type;address`, decoded (RFC 3461 section 4.2); told where DSN is offered.
    pub orcpt: Option<&'a str>,
}

impl<'a> From<&'a str> for To<'a> {
    fn from(address: &'a str) -> Self {
        To {
            address,
            notify: Notify::default(),
            orcpt: None,
        }
    }
}

impl To<'_> {
    /// ` NOTIFY=...` and ` ORCPT=...`, as far as there is something to say. What is not said means
    /// what [`Notify::default`] does.
    fn parameters(&self) -> String {
        let mut text = String::new();
        if self.notify != Notify::default() {
            text.push_str(" NOTIFY=");
            let Notify {
                success,
                failure,
                delay,
            } = self.notify;
            let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
            let words: Vec<_> = words.iter().filter(|(wanted, _)| *wanted).collect();
            match words.is_empty() {
                true => text.push_str("NEVER"),
                false => {
                    let words: Vec<&str> = words.into_iter().map(|(_, word)| *word).collect();
                    text.push_str(&words.join(","));
                }
            }
        }
        if let Some(orcpt) = self.orcpt.and_then(params::encode_orcpt) {
            text.push_str(" ORCPT=");
            text.push_str(&orcpt);
        }
        text
    }
}

/// Why a message can not go over a connection, before a word about it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is longer than the SIZE the server named (RFC 1870 section 6.1).
    #[error("the message is longer than the {limit} bytes the server takes")]
    TooLarge {
        /// That size.
        limit: u64,
    },
    /// It holds bytes above 127 and the server has no 8BITMIME (RFC 6152 section 3).
    #[error("the message has 8-bit content and the server has no 8BITMIME")]
    EightBit,
    /// It needs SMTPUTF8, which the server has not (RFC 6531 section 3.2).
    #[error(
        "the message has internationalised addresses or headers and the server has no SMTPUTF8"
    )]
    Utf8,
    /// It may go on only over verified TLS to a server that promises the same (RFC 8689 section
    /// 4.2.1), and this one does not.
    #[error(
        "the sender requires TLS on every hop (REQUIRETLS) and the server does not promise that"
    )]
    RequireTls,
    /// It is to be returned when its time is over, and the server needs more than what is left
    /// (RFC 2852).
    #[error(
        "the message is to be delivered within {left} seconds or returned and the server takes none with less than {minimum}"
    )]
    TooLate {
        /// The seconds left.
        left: i64,
        /// The seconds that the server named.
        minimum: i64,
    },
    /// An address holds a control character, which would end its command.
    #[error("an address of the envelope holds a control character")]
    Address,
}

/// The command a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Reset,
    Mail,
    Recipient(usize),
    Data,
}

/// What a reply leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next reply, or the next command.
    Next,
    /// The message.
    SendData,
    /// A lone dot: 354 came, but there is nobody to send the message to.
    EndEmpty,
    /// Every recipient has its answer.
    Finished,
    /// The end of the connection, which is also the answer of all who have none yet.
    Close(Answer),
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The commands, one after the other.
    script: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// How many were given to write.
    written: usize,
    /// How many were answered.
    answered: usize,
    /// The first one is RSET.
    reset: bool,
    answers: Vec<Option<Answer>>,
    /// Positions that had an answer of their own after the message, and were not told of yet.
    untold: Vec<usize>,
    accepted: usize,
    mail_refused: bool,
    /// A recipient was accepted after MAIL was refused: what would happen to data is anyone's guess.
    strange: bool,
    touched: bool,
    completed: bool,
    /// The message goes in chunks (RFC 3030): there is no DATA.
    chunked: bool,
}

impl Transaction {
    pub(super) fn prepare<'a>(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = To<'a>>,
        offered: &Extensions,
        reset: bool,
        chunked: bool,
    ) -> Result<(), Refusal> {
        *self = Transaction {
            script: std::mem::take(&mut self.script),
            ends: std::mem::take(&mut self.ends),
            reset,
            chunked,
            ..Transaction::default()
        };
        self.script.clear();
        self.ends.clear();
        if let Some(limit) = offered
            .size
            .filter(|limit| *limit > 0 && mail.size > *limit)
        {
            return Err(Refusal::TooLarge { limit });
        }
        if mail.eight_bit && !offered.eight_bit {
            // Who has SMTPUTF8 has 8BITMIME (RFC 6531 section 3.1); of both it is the one that
            // encoding the body does not help.
            return Err(match mail.smtputf8 && !offered.smtputf8 {
                true => Refusal::Utf8,
                false => Refusal::EightBit,
            });
        }
        if mail.require_tls && !offered.require_tls {
            return Err(Refusal::RequireTls);
        }
        let mut utf8 = mail.smtputf8;
        if reset {
            self.command(&["RSET"]);
        }
        let mut parameters = String::new();
        if offered.size.is_some() {
            parameters = format!(" SIZE={}", mail.size);
        }
        if mail.eight_bit {
            parameters.push_str(" BODY=8BITMIME");
        }
        if mail.require_tls {
            parameters.push_str(" REQUIRETLS");
        }
        if offered.priority && mail.priority != 0 {
            parameters.push_str(&format!(" MT-PRIORITY={}", mail.priority));
        }
        if let (Some((left, give_up)), Some(minimum)) = (mail.deliver_by, offered.deliver_by) {
            parameters.push_str(&deliver_by::parameter(left, give_up, minimum)?);
        }
        if offered.dsn {
            parameters.push_str(match mail.ret {
                Some(Ret::Full) => " RET=FULL",
                Some(Ret::Headers) => " RET=HDRS",
                None => "",
            });
            if let Some(envid) = mail.envid {
                parameters.push_str(" ENVID=");
                parameters.push_str(&params::encode_xtext(envid));
            }
        }
        check(mail.reverse_path, &mut utf8)?;
        // Whether SMTPUTF8 is needed is known only after all addresses were seen.
        let mail_at = self.script.len();
        self.command(&["MAIL FROM:<", mail.reverse_path, ">", &parameters]);
        for recipient in recipients {
            check(recipient.address, &mut utf8)?;
            let parameters = match offered.dsn {
                true => recipient.parameters(),
                false => String::new(),
            };
            self.command(&["RCPT TO:<", recipient.address, ">", &parameters]);
            self.answers.push(None);
        }
        if !chunked {
            self.command(&["DATA"]);
        }
        if utf8 {
            if !offered.smtputf8 {
                return Err(Refusal::Utf8);
            }
            let word = b" SMTPUTF8";
            let first = usize::from(reset);
            let at = self.ends.get(first).map_or(mail_at, |end| end - 2);
            self.script.splice(at..at, word.iter().copied());
            for end in self.ends.iter_mut().skip(first) {
                *end += word.len();
            }
        }
        Ok(())
    }

    fn command(&mut self, words: &[&str]) {
        for word in words {
            self.script.extend_from_slice(word.as_bytes());
        }
        self.script.extend_from_slice(b"\r\n");
        self.ends.push(self.script.len());
    }

    /// All commands at once; every one of their replies will be read (RFC 2920 section 3.1).
    pub(super) fn write_all(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.script);
        self.written = self.ends.len();
    }

    pub(super) fn write_next(&mut self, out: &mut Vec<u8>) {
        let start = self.written.checked_sub(1).and_then(|at| self.ends.get(at));
        let end = self.ends.get(self.written);
        if let Some(command) = end.and_then(|end| self.script.get(*start.unwrap_or(&0)..*end)) {
            out.extend_from_slice(command);
            self.written += 1;
        }
    }

    /// What the next reply answers.
    pub(super) fn expected(&self) -> Option<Expect> {
        if self.answered >= self.ends.len() {
            return None;
        }
        let skip = usize::from(self.reset);
        Some(match self.answered.checked_sub(skip) {
            None => Expect::Reset,
            Some(0) => Expect::Mail,
            Some(at) if at <= self.answers.len() => Expect::Recipient(at - 1),
            Some(_) => Expect::Data,
        })
    }

    pub(super) fn stage(&self) -> Stage {
        match self.expected() {
            Some(Expect::Reset) => Stage::Reset,
            Some(Expect::Mail) => Stage::Mail,
            Some(Expect::Recipient(_)) => Stage::Recipient,
            Some(Expect::Data) => Stage::Data,
            None => Stage::FinalDot,
        }
    }

    pub(super) fn hear(&mut self, reply: Reply) -> Turn {
        let Some(expected) = self.expected() else {
            return Turn::Close(nothing(Stage::FinalDot, Loss::OutOfStep));
        };
        let stage = self.stage();
        let code = reply.code;
        let pipelined = self.written == self.ends.len();
        let out_of_step = || Turn::Close(nothing(stage, Loss::OutOfStep));
        let answer = Answer {
            stage,
            said: Said::Reply(reply),
        };
        if code == 421 {
            return Turn::Close(answer);
        }
        self.answered += 1;
        match expected {
            Expect::Reset if code / 100 == 2 => return Turn::Next,
            Expect::Reset => return Turn::Close(answer),
            Expect::Mail => {
                self.touched = true;
                match code {
                    200..=299 => {}
                    // It thinks a transaction is open, or none may be: start afresh.
                    503 => return Turn::Close(answer),
                    400..=599 => {
                        self.mail_refused = true;
                        self.answer_rest(&answer);
                        if !pipelined {
                            return Turn::Finished;
                        }
                    }
                    _ => return out_of_step(),
                }
            }
            Expect::Recipient(at) => {
                match code {
                    200..=299 if self.mail_refused => self.strange = true,
                    200..=299 => self.accepted += 1,
                    // To be told that RCPT needs MAIL is what a refused MAIL leads to.
                    400..=599 if self.mail_refused => {}
                    503 => return Turn::Close(answer),
                    400..=599 => {
                        if let Some(slot) = self.answers.get_mut(at) {
                            *slot = Some(answer);
                        }
                    }
                    _ => return out_of_step(),
                }
                let last = at + 1 == self.answers.len();
                if last && self.chunked {
                    // Nothing was begun that would have to be ended.
                    return match self.accepted {
                        _ if self.strange => out_of_step(),
                        0 => Turn::Finished,
                        _ => Turn::SendData,
                    };
                }
                if last && !pipelined && self.accepted == 0 {
                    return Turn::Finished;
                }
            }
            Expect::Data => {
                return match code {
                    300..=399 if self.strange => out_of_step(),
                    300..=399 if self.accepted == 0 => Turn::EndEmpty,
                    300..=399 => Turn::SendData,
                    503 if self.accepted > 0 => Turn::Close(answer),
                    400..=599 => {
                        self.answer_rest(&answer);
                        Turn::Finished
                    }
                    _ => out_of_step(),
                };
            }
        }
        Turn::Next
    }

    /// Gives this answer to the first who has none; true when all have one.
    pub(super) fn answer_next(&mut self, answer: Answer) -> bool {
        let open = self.answers.iter_mut().enumerate();
        if let Some((at, slot)) = open.into_iter().find(|(_, slot)| slot.is_none()) {
            *slot = Some(answer);
            self.untold.push(at);
        }
        // However it ended for each of them, the transaction is over.
        self.completed = self.answers.iter().all(Option::is_some);
        self.completed
    }

    /// What was said since this was asked last about single recipients, by their positions.
    pub(super) fn take_untold(&mut self) -> Vec<(usize, Answer)> {
        let untold = std::mem::take(&mut self.untold).into_iter();
        let answer = |at: usize| Some((at, self.answers.get(at)?.clone()?));
        untold.filter_map(answer).collect()
    }

    /// Gives this answer to all who have none.
    pub(super) fn answer_rest(&mut self, answer: &Answer) {
        for slot in self.answers.iter_mut().filter(|slot| slot.is_none()) {
            *slot = Some(answer.clone());
        }
        self.completed = answer.stage == Stage::FinalDot
            && matches!(&answer.said, Said::Reply(reply) if reply.code / 100 == 2);
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Whether it ended otherwise than by a message that was taken.
    pub(super) fn failed(&self) -> bool {
        !self.completed
    }

    pub(super) fn finish(&mut self) -> Finished {
        let answers = std::mem::take(&mut self.answers)
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| nothing(Stage::FinalDot, Loss::OutOfStep)))
            .collect();
        Finished {
            answers,
            untouched: !self.touched,
            no_chunks: false,
            accepted: self.accepted,
        }
    }
}

/// Refuses an address that would break its command; finds out whether it needs SMTPUTF8.
fn check(address: &str, utf8: &mut bool) -> Result<(), Refusal> {
    if address.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Refusal::Address);
    }
    *utf8 |= !address.is_ascii();
    Ok(())
}
