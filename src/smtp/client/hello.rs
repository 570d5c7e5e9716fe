//! From the greeting to the first transaction: EHLO, STARTTLS, AUTH.

use super::{Client, Loss, State, login};

impl Client {
    pub(super) fn greet_back(&mut self) {
        self.state = State::Ehlo;
        let verb = if self.lmtp { "LHLO " } else { "EHLO " };
        self.say(&[verb, &self.hello.clone()]);
    }

    pub(super) fn introduced(&mut self) {
        if self.wants_tls && !self.secure && self.extensions.starttls {
            self.state = State::StartTls;
            self.say(&["STARTTLS"]);
        } else {
            self.introduced_for_good();
        }
    }

    pub(super) fn introduced_for_good(&mut self) {
        self.state = State::Ready;
        let Some(login) = self.login.take() else {
            return;
        };
        self.state = State::Auth(None);
        // A password never travels in clear (I9).
        if !self.secure {
            let what = "the server offers no TLS, and without it nobody logs in";
            return self.fail(Loss::Network(what.to_owned()));
        }
        match login::begin(login, &self.extensions.auth) {
            Some((line, exchange)) => {
                self.state = State::Auth(Some(exchange));
                self.say(&[&line]);
            }
            None => {
                let what = "the server offers none of SCRAM-SHA-256, PLAIN and LOGIN";
                self.fail(Loss::Network(what.to_owned()));
            }
        }
    }
}
