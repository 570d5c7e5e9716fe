//! SASL PLAIN (RFC 4616), LOGIN and SCRAM, the server's side, without I/O.
//!
//! Gives [`Credentials`] to verify; never keeps or prints a password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::replies::{self, Reply};
use super::scram::{First, FirstError, Proof, Verifier, Waiting};

/// What a client claims to be.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's address as given.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

/// An exchange that waits for the client's next line.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN without an initial response.
    Plain,
    /// LOGIN before the user name.
    LoginUser,
    /// LOGIN before the password.
    LoginPassword {
        /// The user name.
        user: String,
    },
    /// SCRAM before the client's first message.
    ScramFirst {
        /// With channel binding.
        plus: bool,
        /// The binding's value, where it can be had.
        exporter: Option<[u8; 32]>,
    },
    /// SCRAM before the client's proof.
    ScramProof(Box<Waiting>),
    /// SCRAM after our proof: the client has nothing more to say, and says so.
    ScramEnd {
        /// Who it is.
        user: String,
    },
}

/// Where an exchange has come to.
#[derive(Debug)]
pub enum Progress {
    /// Send the challenge and wait.
    Challenge(Exchange, Reply),
    /// Verify these.
    Verify(Credentials),
    /// Find the verifier of this user, then go on with [`challenge`].
    Lookup(Box<First>),
    /// SCRAM is over: whether this user knew the password.
    Proved {
        /// Who it claims to be.
        user: String,
        /// Whether it is.
        proof: Proven,
    },
    /// SCRAM was given up, or went wrong, after the client had seen this user's salt. Take note as
    /// of a proof, with [`Proven::Nothing`], and send the reply.
    GivenUp {
        /// Whom it asked about.
        user: String,
        /// What it is told.
        reply: Reply,
    },
    /// It is over.
    Refused(Reply),
}

/// What a SCRAM exchange has shown about the client, once it had the user's salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// It knows the password.
    Right,
    /// It does not.
    Wrong,
    /// It broke off before its proof.
    Nothing,
}

/// What a server offers.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// SCRAM-SHA-256.
    pub scram: bool,
    /// The value of `tls-exporter`, with which SCRAM-SHA-256-PLUS is offered too.
    pub exporter: Option<[u8; 32]>,
}

impl Offer {
    /// The mechanisms in the order in which they are told.
    pub fn mechanisms(&self) -> &'static str {
        match (self.scram, self.exporter) {
            (false, _) => "PLAIN LOGIN",
            (true, None) => "SCRAM-SHA-256 PLAIN LOGIN",
            (true, Some(_)) => "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN",
        }
    }
}

/// Starts `mechanism` (in upper case) with the initial response of the AUTH command.
pub fn begin(mechanism: &str, initial: Option<&str>, offer: &Offer) -> Progress {
    let scram = |plus| Exchange::ScramFirst {
        plus,
        exporter: offer.exporter,
    };
    let exchange = match mechanism {
        "PLAIN" => Exchange::Plain,
        "LOGIN" => Exchange::LoginUser,
        "SCRAM-SHA-256" if offer.scram => scram(false),
        "SCRAM-SHA-256-PLUS" if offer.scram && offer.exporter.is_some() => scram(true),
        _ => return Progress::Refused(replies::UNKNOWN_MECHANISM),
    };
    match (initial, &exchange) {
        // RFC 4954 section 4: "=" is an empty initial response.
        (Some("="), _) => exchange.decoded(""),
        (Some(response), _) => exchange.response(response.as_bytes()),
        (None, Exchange::LoginUser) => Progress::Challenge(exchange, replies::CHALLENGE_USER),
        (None, _) => Progress::Challenge(exchange, replies::CHALLENGE_EMPTY),
    }
}

/// Our first message of SCRAM. `nonce` is random and printable.
pub fn challenge(first: First, verifier: Verifier, nonce: &str) -> Progress {
    let (message, waiting) = first.challenge(verifier, nonce);
    encoded(Exchange::ScramProof(Box::new(waiting)), &message)
}

fn encoded(exchange: Exchange, message: &str) -> Progress {
    Progress::Challenge(exchange, Reply::new(334, "", STANDARD.encode(message)))
}

impl Exchange {
    /// The client's next line, without its CR LF.
    pub fn response(self, line: &[u8]) -> Progress {
        if line == b"*" {
            return self.given_up(replies::AUTH_CANCELLED);
        }
        match STANDARD
            .decode(line)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
        {
            Some(text) => self.decoded(&text),
            None => self.given_up(replies::BAD_SASL),
        }
    }

    /// Whose salt the client has got without having proved anything yet.
    pub fn asked_about(&self) -> Option<&str> {
        match self {
            Exchange::ScramProof(waiting) => Some(waiting.user()),
            _ => None,
        }
    }

    fn given_up(self, reply: Reply) -> Progress {
        match self.asked_about() {
            Some(user) => Progress::GivenUp {
                user: user.to_owned(),
                reply,
            },
            None => Progress::Refused(reply),
        }
    }

    fn decoded(self, text: &str) -> Progress {
        match self {
            Exchange::Plain => plain(text),
            _ if text.contains('\0') => self.given_up(replies::BAD_SASL),
            Exchange::LoginUser if text.is_empty() => Progress::Refused(replies::BAD_SASL),
            Exchange::LoginUser => Progress::Challenge(
                Exchange::LoginPassword {
                    user: text.to_owned(),
                },
                replies::CHALLENGE_PASSWORD,
            ),
            Exchange::LoginPassword { user } => Progress::Verify(Credentials {
                user,
                password: text.to_owned(),
            }),
            Exchange::ScramFirst { plus, exporter } => {
                match First::parse(text, plus, exporter.as_ref()) {
                    Ok(first) => Progress::Lookup(Box::new(first)),
                    Err(FirstError::Malformed) => Progress::Refused(replies::BAD_SASL),
                    Err(FirstError::Binding) => Progress::Refused(replies::BAD_BINDING),
                    Err(FirstError::OtherUser) => Progress::Refused(replies::AUTH_FAILED),
                }
            }
            Exchange::ScramProof(waiting) => match waiting.proof(text) {
                Proof::Right { user, last } => encoded(Exchange::ScramEnd { user }, &last),
                Proof::Wrong { user } => Progress::Proved {
                    user,
                    proof: Proven::Wrong,
                },
                Proof::Malformed { user } => Progress::GivenUp {
                    user,
                    reply: replies::BAD_SASL,
                },
            },
            Exchange::ScramEnd { user } if text.is_empty() => Progress::Proved {
                user,
                proof: Proven::Right,
            },
            Exchange::ScramEnd { .. } => Progress::Refused(replies::BAD_SASL),
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`. Nobody may act as another, so an authzid must be the
/// authcid.
fn plain(text: &str) -> Progress {
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(""), Some(_), None) => Progress::Refused(replies::BAD_SASL),
        (Some(authzid), Some(user), Some(password), None) => {
            if authzid.is_empty() || authzid.eq_ignore_ascii_case(user) {
                Progress::Verify(Credentials {
                    user: user.into(),
                    password: password.into(),
                })
            } else {
                Progress::Refused(replies::AUTH_FAILED)
            }
        }
        _ => Progress::Refused(replies::BAD_SASL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFER: Offer = Offer {
        scram: true,
        exporter: None,
    };

    fn plain_of(text: &str) -> Progress {
        begin("PLAIN", Some(&STANDARD.encode(text)), &OFFER)
    }

    #[test]
    fn plain_names_one_user() {
        for good in [
            "\0user@example.org\0secret",
            "user@example.org\0user@example.org\0secret",
        ] {
            match plain_of(good) {
                Progress::Verify(credentials) => {
                    assert_eq!(credentials.user, "user@example.org");
                    assert_eq!(credentials.password, "secret");
                    assert!(!format!("{credentials:?}").contains("secret"));
                }
                other => panic!("{other:?}"),
            }
        }
        for (bad, code) in [
            ("other@example.org\0user@example.org\0secret", 535),
            ("user@example.org\0secret", 501),
            ("\0\0secret", 501),
            ("\0user\0pa\0ss", 501),
            ("", 501),
        ] {
            match plain_of(bad) {
                Progress::Refused(reply) => assert_eq!(reply.code, code, "{bad:?}"),
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn malformed_base64_is_a_clear_refusal() {
        for bad in ["!", "AAA", "AAAAA", "A A=", "=AAA", "/w=="] {
            match begin("PLAIN", Some(bad), &OFFER) {
                Progress::Refused(reply) => {
                    assert_eq!((reply.code, reply.enhanced), (501, "5.5.2"))
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
        assert!(matches!(begin("CRAM-MD5", None, &OFFER), Progress::Refused(r) if r.code == 504));
    }

    proptest! {
        #[test]
        fn any_line_ends_or_goes_on(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let scram = Exchange::ScramFirst { plus: false, exporter: None };
            for exchange in [Exchange::Plain, Exchange::LoginUser, scram] {
                let _ = exchange.response(&line);
            }
        }
    }
}
