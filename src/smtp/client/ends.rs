//! How a transaction and a connection end, in turn and out of it.

use super::super::reply::Reply;
use super::{Answer, Client, Loss, Stage, State, nothing, said};

impl Client {
    /// What the server said against a message that it has not got whole.
    pub(super) fn early_refusal(&mut self) -> Option<Answer> {
        match self.replies.poll() {
            Ok(Some(raw)) if raw.code >= 400 => Some(said(Stage::FinalDot, raw.to_reply())),
            _ => None,
        }
    }

    /// Something came before its command: a 421 that ends the connection may, anything else is an
    /// answer to nothing.
    pub(super) fn untimely(&mut self) {
        match self.next_reply() {
            Ok(Some(reply)) if reply.code == 421 => self.hear(reply),
            _ => self.fail(Loss::OutOfStep),
        }
    }

    /// Every recipient without an answer gets this one, and the connection ends.
    pub(super) fn end_transaction(&mut self, answer: Answer) {
        self.transaction.answer_rest(&answer);
        self.state = State::Finished(Some(answer));
    }

    pub(super) fn finish(&mut self, closing: Option<Answer>) {
        // More replies than commands: nothing that follows could be matched to what it answers.
        let extra = self
            .replies
            .has_more()
            .then(|| nothing(Stage::FinalDot, Loss::OutOfStep));
        self.state = State::Finished(closing.or(extra));
    }

    pub(super) fn fail(&mut self, loss: Loss) {
        let stage = match self.state {
            State::Greeting => Stage::Greeting,
            State::Ehlo | State::Helo => Stage::Hello,
            State::StartTls | State::Handshake => Stage::StartTls,
            State::Auth(_) => Stage::Auth,
            State::Ready => Stage::Mail,
            State::Group => {
                let answer = nothing(self.transaction.stage(), loss);
                return self.end_transaction(answer);
            }
            State::Data => return self.end_transaction(nothing(Stage::Content, loss)),
            State::FinalDot | State::EmptyDot => {
                return self.end_transaction(nothing(Stage::FinalDot, loss));
            }
            State::Finished(_) | State::Closed(_) => return,
        };
        self.state = State::Closed(nothing(stage, loss));
    }

    pub(super) fn refuse(&mut self, stage: Stage, reply: Reply) {
        let answer = match reply.code {
            400..=599 => said(stage, reply),
            _ => nothing(stage, Loss::OutOfStep),
        };
        self.state = State::Closed(answer);
    }
}
