//! Logging in: PLAIN, LOGIN and SCRAM, and only over TLS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

#[test]
fn i9_credentials_travel_only_over_tls() {
    let mut server = Server::new(options(true));
    let (replies, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(!replies.contains("AUTH"));
    let (replies, _) = talk(&mut server, b"AUTH PLAIN AHVAZS5leGFtcGxlAHNlY3JldA==\r\n");
    assert_eq!(codes(&replies), [538]);
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<u@e.example>\r\n").0),
        [530]
    );
    let (_, steps) = talk(&mut server, b"STARTTLS\r\nEHLO evil\r\nAUTH PLAIN x\r\n");
    assert_eq!(steps, [Step::StartTls], "bytes behind STARTTLS are dropped");
    assert!(
        server.hello().is_none(),
        "what was said in clear is forgotten"
    );
    assert_eq!(codes(&talk(&mut server, b"AUTH PLAIN\r\n").0), [503]);
    let (replies, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(replies.contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"));
    assert!(replies.contains("250-REQUIRETLS\r\n") && !replies.contains("STARTTLS"));
    assert_eq!(codes(&talk(&mut server, b"STARTTLS\r\n").0), [503]);
}

#[test]
fn auth_plain_and_login_with_and_without_initial_response() {
    for parts in [
        &[&b"AUTH PLAIN AHVAZS5leGFtcGxlAHNlY3JldA==\r\n"[..]][..],
        &[b"auth plain\r\n", b"AHVAZS5leGFtcGxlAHNlY3JldA==\r\n"],
        &[b"AUTH LOGIN\r\n", b"dUBlLmV4YW1wbGU=\r\n", b"c2VjcmV0\r\n"],
        &[b"auth login dUBlLmV4YW1wbGU=\r\n", b"c2VjcmV0\r\n"],
    ] {
        let mut server = submission();
        let (replies, _) = talk_in_parts(&mut server, parts);
        let mut expected = vec![334; parts.len() - 1];
        expected.push(235);
        assert_eq!(codes(&replies), expected, "{replies}");
        assert_eq!(server.user(), Some("u@e.example"));
        assert_eq!(codes(&talk(&mut server, b"AUTH PLAIN\r\n").0), [503]);
    }
    let mut server = submission();
    assert_eq!(
        talk(&mut server, b"AUTH PLAIN\r\n").0,
        "334 \r\n",
        "the space is part of it"
    );
    assert_eq!(codes(&talk(&mut server, b"*\r\n").0), [501]);
    assert_eq!(
        codes(&talk(&mut server, b"AUTH PLAIN AHVAZS5leGFtcGxlAHdyb25n\r\n").0),
        [535]
    );
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<u@e.example>\r\n").0),
        [530]
    );
}

#[test]
fn s10_a_client_that_gives_scram_up_after_the_salt_has_asked_about_somebody() {
    let first = STANDARD.encode("n,,n=u@e.example,r=abc");
    let begin = format!("AUTH SCRAM-SHA-256 {first}\r\n");
    for (line, code) in [("*", 501), ("!", 501), ("AAAA", 501), ("YWJj", 501)] {
        let mut server = submission();
        server.tls_started(None);
        let _ = talk(&mut server, b"EHLO c.example\r\n");
        assert_eq!(codes(&talk(&mut server, begin.as_bytes()).0), [334]);
        assert_eq!(server.left_open(), Some("u@e.example"));
        let mut input = BytesMut::from(format!("{line}\r\n").as_bytes());
        let mut out = Vec::new();
        let step = server.next(&mut input, &mut out);
        let user = "u@e.example".to_owned();
        let proof = Proven::Nothing;
        assert_eq!(step, Step::Proved { user, proof }, "{line}");
        assert!(
            out.is_empty(),
            "it waits for its reply as a wrong proof does"
        );
        server.authenticated(Err(replies::AUTH_FAILED), &mut out);
        let reply = String::from_utf8(out).expect("text");
        assert_eq!(codes(&reply), [code], "{line}");
        assert_eq!(server.left_open(), None);
    }
    // Before there was a salt nothing was learnt.
    let mut server = submission();
    assert_eq!(
        codes(&talk(&mut server, b"AUTH SCRAM-SHA-256\r\n").0),
        [334]
    );
    let (replies, steps) = talk(&mut server, b"*\r\n");
    assert_eq!((codes(&replies), steps.len()), (vec![501], 0));
}

/// The client's side of SCRAM.
fn scram_response(challenge: &str, first_bare: &str, header: &[u8], password: &[u8]) -> String {
    use ring::{digest, hmac, pbkdf2};
    let server_first =
        String::from_utf8(STANDARD.decode(challenge).expect("base64")).expect("text");
    let attribute = |name: &str| {
        server_first
            .split(',')
            .find_map(|part| part.strip_prefix(name))
            .expect("attribute")
    };
    let (nonce, salt) = (
        attribute("r="),
        STANDARD.decode(attribute("s=")).expect("salt"),
    );
    let rounds = attribute("i=").parse().expect("number");
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        password,
        &mut salted,
    );
    let sign = |key: &[u8], text: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
            .as_ref()
            .to_vec()
    };
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, &client_key);
    let signed = format!("c={},r={nonce}", STANDARD.encode(header));
    let message = format!("{first_bare},{server_first},{signed}");
    let signature = sign(stored.as_ref(), message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(&signature)
        .map(|(a, b)| a ^ b)
        .collect();
    STANDARD.encode(format!("{signed},p={}", STANDARD.encode(proof)))
}

#[test]
fn scram_proves_both_sides_with_and_without_binding() {
    let bound = [&b"p=tls-exporter,,"[..], &[7; 32]].concat();
    for (mechanism, gs2, header, user, password, expected) in [
        (
            "SCRAM-SHA-256",
            "n,,",
            &b"n,,"[..],
            "u@e.example",
            "secret",
            vec![334, 235],
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-exporter,,",
            &bound,
            "u@e.example",
            "secret",
            vec![334, 235],
        ),
        (
            "SCRAM-SHA-256",
            "n,,",
            b"n,,",
            "u@e.example",
            "wrong",
            vec![535],
        ),
        (
            "SCRAM-SHA-256",
            "n,,",
            b"n,,",
            "x@e.example",
            "secret",
            vec![535],
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-exporter,,",
            b"p=tls-exporter,,wrong",
            "u@e.example",
            "secret",
            vec![535],
        ),
    ] {
        let mut server = submission();
        let bare = format!("n={user},r=abc");
        let first = STANDARD.encode(format!("{gs2}{bare}"));
        let (reply, _) = talk(
            &mut server,
            format!("AUTH {mechanism} {first}\r\n").as_bytes(),
        );
        let challenge = reply.trim_end().strip_prefix("334 ").expect("challenge");
        let response = scram_response(challenge, &bare, header, password.as_bytes());
        let (mut replies, _) = talk(&mut server, format!("{response}\r\n").as_bytes());
        if replies.starts_with("334") {
            replies += &talk(&mut server, b"\r\n").0;
        }
        assert_eq!(
            codes(&replies),
            expected,
            "{mechanism} {user} {password}: {replies}"
        );
        assert_eq!(server.user().is_some(), expected.ends_with(&[235]));
    }
    let mut server = submission();
    let downgraded = STANDARD.encode("y,,n=u@e.example,r=abc");
    let line = format!("AUTH SCRAM-SHA-256 {downgraded}\r\n");
    assert_eq!(codes(&talk(&mut server, line.as_bytes()).0), [535]);
}

#[test]
fn few_logins_fail_on_one_connection() {
    let mut server = submission();
    let wrong = b"AUTH PLAIN AHVAZS5leGFtcGxlAHdyb25n\r\n";
    for code in [535, 535, 535, 421] {
        assert_eq!(codes(&talk(&mut server, wrong).0), [code]);
    }
}
