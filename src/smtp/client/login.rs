//! AUTH, the client's side (RFC 4954): SCRAM-SHA-256 (RFC 5802, 7677), PLAIN (RFC 4616), LOGIN.
//!
//! Pure. The strongest mechanism that is offered is used; with SCRAM the password never leaves
//! this machine, and the server has to prove that it knows it too.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::super::scram::MOST_ITERATIONS;

/// Who we are to a server, and how we prove it.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
    /// Random and printable, another one for each connection.
    pub nonce: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// How far the dialogue is.
#[derive(Debug)]
pub(super) enum Exchange {
    /// The password follows in the second answer of LOGIN.
    LoginUser(Login),
    LoginPassword(Login),
    /// Nothing more is to be said.
    Sent,
    ScramFirst(Login),
    /// The server owes us this signature.
    ScramProof(String),
    ScramDone,
}

/// What follows from a reply.
pub(super) enum Turn {
    /// Say this, and wait for the next reply.
    Say(String, Exchange),
    /// We are known.
    Done,
    /// The dialogue broke the rules of its mechanism.
    Broken,
}

/// The first line, if a mechanism that we know is among those that are offered.
pub(super) fn begin(login: Login, offered: &[String]) -> Option<(String, Exchange)> {
    let has = |name: &str| offered.iter().any(|known| known == name);
    if has("SCRAM-SHA-256") {
        let first = format!("n,,{}", bare(&login));
        let line = format!("AUTH SCRAM-SHA-256 {}", STANDARD.encode(first));
        return Some((line, Exchange::ScramFirst(login)));
    }
    if has("PLAIN") {
        let text = format!("\0{}\0{}", login.user, login.password);
        let line = format!("AUTH PLAIN {}", STANDARD.encode(text));
        return Some((line, Exchange::Sent));
    }
    has("LOGIN").then(|| ("AUTH LOGIN".to_owned(), Exchange::LoginUser(login)))
}

fn bare(login: &Login) -> String {
    let user = login.user.replace('=', "=3D").replace(',', "=2C");
    format!("n={user},r={}", login.nonce)
}

impl Exchange {
    /// Takes a positive reply: 334 with its text, or 235.
    pub(super) fn hear(self, code: u16, text: &str) -> Turn {
        let challenge = || {
            let bytes = STANDARD.decode(text.trim()).ok()?;
            String::from_utf8(bytes).ok()
        };
        match (self, code) {
            (Exchange::LoginUser(login), 334) => {
                let user = STANDARD.encode(&login.user);
                Turn::Say(user, Exchange::LoginPassword(login))
            }
            (Exchange::LoginPassword(login), 334) => {
                Turn::Say(STANDARD.encode(&login.password), Exchange::Sent)
            }
            (Exchange::Sent | Exchange::ScramDone, 235) => Turn::Done,
            (Exchange::ScramFirst(login), 334) => {
                let proof = challenge().and_then(|challenge| prove(&login, &challenge));
                match proof {
                    Some((line, signature)) => Turn::Say(line, Exchange::ScramProof(signature)),
                    None => Turn::Broken,
                }
            }
            (Exchange::ScramProof(signature), 334 | 235) => {
                let right = challenge().is_some_and(|last| last == signature);
                match (right, code) {
                    (false, _) => Turn::Broken,
                    (true, 235) => Turn::Done,
                    (true, _) => Turn::Say(String::new(), Exchange::ScramDone),
                }
            }
            _ => Turn::Broken,
        }
    }
}

/// Our last message, in base64, and what the server has to answer (RFC 5802 section 3).
fn prove(login: &Login, challenge: &str) -> Option<(String, String)> {
    let mut parts = challenge.split(',');
    let nonce = parts.next()?.strip_prefix("r=")?;
    let salt = STANDARD.decode(parts.next()?.strip_prefix("s=")?).ok()?;
    let rounds: u32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
    if !nonce.starts_with(&login.nonce) || nonce.len() == login.nonce.len() {
        return None;
    }
    let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MOST_ITERATIONS)?;
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        login.password.as_bytes(),
        &mut salted,
    );
    let mac = |key: &[u8], text: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text)
    };
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let last = format!("c=biws,r={nonce}");
    let signed = format!("{},{challenge},{last}", bare(login));
    let signature = mac(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key
        .as_ref()
        .iter()
        .zip(signature.as_ref())
        .map(|(one, other)| one ^ other)
        .collect();
    let server_key = mac(&salted, b"Server Key");
    let expected = mac(server_key.as_ref(), signed.as_bytes());
    Some((
        STANDARD.encode(format!("{last},p={}", STANDARD.encode(proof))),
        format!("v={}", STANDARD.encode(expected)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(nonce: &str) -> Login {
        Login {
            user: "user".to_owned(),
            password: "pencil".to_owned(),
            nonce: nonce.to_owned(),
        }
    }

    fn offered(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The dialogue of RFC 7677 section 3.
    #[test]
    fn scram_as_its_rfc_has_it() {
        let names = offered(&["LOGIN", "PLAIN", "SCRAM-SHA-256"]);
        let (line, exchange) = begin(login("rOprNGfwEbeRWgbNEkqO"), &names).expect("known");
        let first = STANDARD.encode("n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(line, format!("AUTH SCRAM-SHA-256 {first}"));
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let Turn::Say(line, exchange) = exchange.hear(334, &STANDARD.encode(challenge)) else {
            panic!("a proof");
        };
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(line, STANDARD.encode(expected));
        let last = STANDARD.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let Turn::Say(line, exchange) = exchange.hear(334, &last) else {
            panic!("an empty line");
        };
        assert_eq!(line, "");
        assert!(matches!(exchange.hear(235, ""), Turn::Done));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let names = offered(&["SCRAM-SHA-256"]);
        let start = || begin(login("abc"), &names).expect("known").1;
        let good = STANDARD.encode("r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        for bad in [
            "r=abc,s=W22Z,i=4096",
            "r=xyzdef,s=W22Z,i=4096",
            "r=abcdef,s=W22Z,i=0",
            "r=abcdef,s=W22Z,i=99999999",
            "r=abcdef,s=!,i=4096",
            "",
        ] {
            assert!(
                matches!(start().hear(334, &STANDARD.encode(bad)), Turn::Broken),
                "{bad}"
            );
        }
        assert!(matches!(start().hear(235, ""), Turn::Broken));
        let Turn::Say(_, exchange) = start().hear(334, &good) else {
            panic!("a proof");
        };
        assert!(matches!(
            exchange.hear(235, &STANDARD.encode("v=AAAA")),
            Turn::Broken
        ));
    }

    #[test]
    fn plain_and_login_where_there_is_nothing_better() {
        let (line, exchange) = begin(login(""), &offered(&["LOGIN", "PLAIN"])).expect("known");
        assert_eq!(line, "AUTH PLAIN AHVzZXIAcGVuY2ls");
        assert!(matches!(exchange.hear(235, ""), Turn::Done));
        let (line, exchange) = begin(login(""), &offered(&["LOGIN"])).expect("known");
        assert_eq!(line, "AUTH LOGIN");
        let Turn::Say(line, exchange) = exchange.hear(334, "VXNlcm5hbWU6") else {
            panic!("the user");
        };
        assert_eq!(line, "dXNlcg==");
        let Turn::Say(line, exchange) = exchange.hear(334, "UGFzc3dvcmQ6") else {
            panic!("the password");
        };
        assert_eq!(line, "cGVuY2ls");
        assert!(matches!(exchange.hear(235, ""), Turn::Done));
        assert!(begin(login(""), &offered(&["CRAM-MD5"])).is_none());
    }
}
