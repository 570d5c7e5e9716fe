//! SASL PLAIN (RFC 4616) and LOGIN, the server's side, without I/O.
//!
//! Gives [`Credentials`] to verify; never keeps or prints a password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::replies::{self, Reply};

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
}

/// Where an exchange has come to.
#[derive(Debug)]
pub enum Progress {
    /// Send the challenge and wait.
    Challenge(Exchange, Reply),
    /// Verify these.
    Verify(Credentials),
    /// It is over.
    Refused(Reply),
}

/// Starts `mechanism` (in upper case) with the initial response of the AUTH command.
pub fn begin(mechanism: &str, initial: Option<&str>) -> Progress {
    let exchange = match mechanism {
        "PLAIN" => Exchange::Plain,
        "LOGIN" => Exchange::LoginUser,
        _ => return Progress::Refused(replies::UNKNOWN_MECHANISM),
    };
    match (initial, &exchange) {
        // RFC 4954 section 4: "=" is an empty initial response.
        (Some("="), _) => exchange.decoded(""),
        (Some(response), _) => exchange.response(response.as_bytes()),
        (None, Exchange::Plain) => Progress::Challenge(exchange, replies::CHALLENGE_EMPTY),
        (None, _) => Progress::Challenge(exchange, replies::CHALLENGE_USER),
    }
}

impl Exchange {
    /// The client's next line, without its CR LF.
    pub fn response(self, line: &[u8]) -> Progress {
        if line == b"*" {
            return Progress::Refused(replies::AUTH_CANCELLED);
        }
        match STANDARD
            .decode(line)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
        {
            Some(text) => self.decoded(&text),
            None => Progress::Refused(replies::BAD_SASL),
        }
    }

    fn decoded(self, text: &str) -> Progress {
        match self {
            Exchange::Plain => plain(text),
            _ if text.contains('\0') => Progress::Refused(replies::BAD_SASL),
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

    fn plain_of(text: &str) -> Progress {
        begin("PLAIN", Some(&STANDARD.encode(text)))
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
            match begin("PLAIN", Some(bad)) {
                Progress::Refused(reply) => {
                    assert_eq!((reply.code, reply.enhanced), (501, "5.5.2"))
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
        assert!(matches!(begin("CRAM-MD5", None), Progress::Refused(r) if r.code == 504));
    }

    proptest! {
        #[test]
        fn any_line_ends_or_goes_on(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            for exchange in [Exchange::Plain, Exchange::LoginUser] {
                let _ = exchange.response(&line);
            }
        }
    }
}
