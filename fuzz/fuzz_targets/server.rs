//! The server machine, fed bytes at the splits that the first byte of each part tells.
#![no_main]

use bytes::BytesMut;
use chapar::smtp::extension::Extensions;
use chapar::smtp::replies::{self, Reply};
use chapar::smtp::sasl::Proven;
use chapar::smtp::scram::{Form, Verifier};
use chapar::smtp::server::{Bounds, Options, Server, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&setting, mut rest)) = data.split_first() else {
        return;
    };
    let mut server = Server::new(Options {
        hostname: "mx.example.org".into(),
        submission: setting & 1 != 0,
        starttls: true,
        trusted: setting & 2 != 0,
        xclient: setting & 4 != 0,
        extensions: Extensions::default(),
        limits: Bounds {
            message: 1000,
            recipients: 3,
            line: 2048,
            errors: 50,
            idle_commands: 50,
            commands: 300,
            transactions: 10,
            chunks: 10,
            auth_attempts: 5,
            future_release: 3600,
        },
    });
    if setting & 8 != 0 {
        server.tls_started(Some([7; 32]));
    }
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    while let Some((&length, tail)) = rest.split_first() {
        let (part, next) = tail.split_at(tail.len().min(usize::from(length)));
        rest = next;
        input.extend_from_slice(part);
        loop {
            match server.next(&mut input, &mut out) {
                Step::Read => break,
                Step::Close => {
                    check(&out);
                    return;
                }
                Step::Sender(_) => server.sender(Ok(()), &mut out),
                Step::Recipient(rcpt) => server.recipient(rcpt, Ok(()), &mut out),
                Step::Authenticate(credentials) => {
                    let right = credentials.password == "secret";
                    let outcome = right.then_some(credentials.user).ok_or(replies::AUTH_FAILED);
                    server.authenticated(outcome, &mut out);
                }
                Step::Verifier(user) => {
                    let verifier = Verifier::fake(b"secret", &user, Form::default());
                    server.verifier(Ok((verifier, "nonce".into())), &mut out);
                }
                Step::Proved { user, proof } => {
                    assert!(proof != Proven::Right, "nobody knows the password of a fake verifier");
                    let _ = user;
                    server.authenticated(Err(replies::AUTH_FAILED), &mut out);
                }
                Step::StartTls => {
                    input.clear();
                    server.tls_started(None);
                }
                Step::Data => server.message_done(Reply::new(250, "2.0.0", "ok"), &mut out),
                Step::Chunk { size, last } => {
                    let size = usize::try_from(size).expect("within limits.message");
                    let _ = input.split_to(input.len().min(size));
                    match last {
                        true => server.message_done(Reply::new(250, "2.0.0", "ok"), &mut out),
                        false => server.chunk_done(Ok(()), &mut out),
                    }
                }
                Step::Discard(size) => {
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    let _ = input.split_to(input.len().min(size));
                    server.discarded(&mut out);
                }
                Step::Xclient(_) => server.client_changed(false, None, &mut out),
            }
        }
        assert!(input.len() <= 12_288 + 256, "more than a line is kept");
    }
    check(&out);
});

/// Replies are whole lines of printable ASCII.
fn check(out: &[u8]) {
    assert!(out.is_empty() || out.ends_with(b"\r\n"));
    for line in out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").expect("CR LF");
        assert!(line.len() >= 3 && line.iter().all(|byte| matches!(byte, 32..=126)));
    }
}
