//! How a connection begins, and all the ways it can end.

use super::*;

#[test]
fn a_421_anywhere_is_the_end_and_keeps_what_was_said_before() {
    let end = |stage| reply(stage, 421, "4.7.0", "bye");
    // In the greeting and after EHLO.
    run(
        false,
        &[
            S("421 4.7.0 bye\r\n"),
            Do(Step::Closed(end(Stage::Greeting))),
        ],
    );
    run(
        false,
        &[
            S("220 hi\r\n"),
            S("421 4.7.0 bye\r\n"),
            Do(Step::Closed(end(Stage::Hello))),
        ],
    );
    // In place of the reply to MAIL: no attempt, if the connection was used before.
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            S("421 4.7.0 bye\r\n"),
            Do(Step::Finished(Finished {
                answers: vec![end(Stage::Mail), end(Stage::Mail)],
                untouched: true,
                no_chunks: false,
                accepted: 0,
            })),
            Do(Step::Closed(end(Stage::Mail))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            S("250 Ok\r\n550 5.1.1 no\r\n421 4.7.0 bye\r\n"),
            Do(finished(vec![
                reply(Stage::Recipient, 550, "5.1.1", "no"),
                end(Stage::Recipient),
            ])),
            Do(Step::Closed(end(Stage::Recipient))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            S("250 Ok\r\n250 Ok\r\n421 4.7.0 bye\r\n"),
            Do(finished(vec![end(Stage::Data)])),
            Do(Step::Closed(end(Stage::Data))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            S("250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            S("421 4.7.0 bye\r\n"),
            Do(finished(vec![end(Stage::FinalDot)])),
            Do(Step::Closed(end(Stage::FinalDot))),
        ],
    );
    // Between two transactions.
    after_hello(
        PIPE,
        vec![S("421 4.7.0 bye\r\n"), Do(Step::Closed(end(Stage::Mail)))],
    );
    after_hello(
        PIPE,
        vec![
            S("250 hm\r\n"),
            Do(Step::Closed(nothing(Stage::Mail, Loss::OutOfStep))),
        ],
    );
}

#[test]
fn the_end_of_the_connection_anywhere() {
    let closed = |stage| nothing(stage, Loss::Closed);
    run(
        false,
        &[
            Lost(Loss::Closed),
            Do(Step::Closed(closed(Stage::Greeting))),
        ],
    );
    run(
        false,
        &[
            S("220 hi\r\n"),
            S("250-a"),
            Lost(Loss::Closed),
            Do(Step::Closed(closed(Stage::Hello))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            Lost(Loss::Closed),
            Do(Step::Finished(Finished {
                answers: vec![closed(Stage::Mail)],
                untouched: true,
                no_chunks: false,
                accepted: 0,
            })),
            Do(Step::Closed(closed(Stage::Mail))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            S("250 Ok\r\n550 5.1.1 no\r\n25"),
            Lost(Loss::TimedOut),
            Do(finished(vec![
                reply(Stage::Recipient, 550, "5.1.1", "no"),
                nothing(Stage::Recipient, Loss::TimedOut),
            ])),
            Do(Step::Closed(nothing(Stage::Recipient, Loss::TimedOut))),
        ],
    );
    // While the message is sent, and after its dot.
    let to_data = || {
        vec![
            Begin(TO_B),
            S("250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
        ]
    };
    let mut script = to_data();
    script.extend([
        Lost(Loss::Closed),
        Do(finished(vec![closed(Stage::Content)])),
    ]);
    after_hello(PIPE, script);
    let mut script = to_data();
    script.extend([
        DataSent,
        Lost(Loss::Closed),
        Do(finished(vec![closed(Stage::FinalDot)])),
    ]);
    after_hello(PIPE, script);
    // A server that refuses half way, then closes, has refused.
    let mut client = after_hello(PIPE, to_data());
    client.receive(b"552 5.3.4 too big\r\n");
    client.lost(Loss::Network("broken pipe".to_owned()));
    assert_eq!(
        client.step(),
        finished(vec![reply(Stage::FinalDot, 552, "5.3.4", "too big")])
    );
    // But not one that says yes before it has it all.
    let mut client = after_hello(PIPE, to_data());
    client.receive(b"250 2.0.0 queued\r\n");
    client.lost(Loss::Closed);
    assert_eq!(client.step(), finished(vec![closed(Stage::Content)]));
}

/// A reply that is here before its command was given answers nothing, whatever it says.
#[test]
fn a_reply_before_its_command_ends_the_connection() {
    let odd = |stage| nothing(stage, Loss::OutOfStep);
    let mut client = Client::new("mx.example.org", false);
    client.receive(b"220 hi\r\n250 mx.example.com\r\n");
    assert_eq!(client.step(), Step::Closed(odd(Stage::Hello)));
    assert!(client.output().is_empty());
    for (said, stage) in [
        ("250 Ok\r\n250 Ok\r\n", Stage::Recipient),
        (
            "250 Ok\r\n250 Ok\r\n354 go\r\n250 queued\r\n",
            Stage::Recipient,
        ),
    ] {
        let mut client = after_hello(PLAIN, vec![Begin(TO_B)]);
        client.receive(said.as_bytes());
        assert_eq!(client.step(), finished(vec![odd(stage)]));
        assert_eq!(client.step(), Step::Closed(odd(stage)));
    }
    // A 250 behind the 354 would be taken for the answer to the final dot.
    let mut client = after_hello(PIPE, vec![Begin(TO_B)]);
    client.receive(b"250 Ok\r\n250 Ok\r\n354 go\r\n250 2.0.0 queued\r\n");
    assert_eq!(client.step(), finished(vec![odd(Stage::Data)]));
    assert_eq!(client.step(), Step::Closed(odd(Stage::Data)));
    // A refusal there is one.
    let mut client = after_hello(PIPE, vec![Begin(TO_B)]);
    client.receive(b"250 Ok\r\n250 Ok\r\n354 go\r\n552 5.3.4 too big\r\n");
    let refused = reply(Stage::FinalDot, 552, "5.3.4", "too big");
    assert_eq!(client.step(), finished(vec![refused]));
}

#[test]
fn endless_and_malformed_replies() {
    run(
        false,
        &[
            S("SSH-2.0-OpenSSH\r\n"),
            Do(Step::Closed(nothing(
                Stage::Greeting,
                Loss::Malformed(ReplyError::NoReply),
            ))),
        ],
    );
    let mut client = after_hello(PIPE, vec![Begin(TO_B)]);
    for _ in 0..101 {
        client.receive(b"250-x\r\n");
    }
    let loss = || nothing(Stage::Mail, Loss::Malformed(ReplyError::TooLong));
    let step = client.step();
    assert_eq!(
        step,
        Step::Finished(Finished {
            answers: vec![loss()],
            untouched: true,
            no_chunks: false,
            accepted: 0,
        })
    );
    assert_eq!(client.step(), Step::Closed(loss()));
}

#[test]
fn greetings() {
    // Many lines, with bytes that are no text.
    run(
        false,
        &[
            S("220-a\r\n220-\x07b\r\n220 c\r\n"),
            C("EHLO mx.example.org\r\n"),
        ],
    );
    for (text, code) in [("554 no\r\n", 554), ("450 later\r\n", 450)] {
        run(
            false,
            &[
                S(text),
                Do(Step::Closed(reply(
                    Stage::Greeting,
                    code,
                    "",
                    text[4..].trim(),
                ))),
            ],
        );
    }
    run(
        false,
        &[
            S("354 hm\r\n"),
            Do(Step::Closed(nothing(Stage::Greeting, Loss::OutOfStep))),
        ],
    );
}

#[test]
fn helo_where_ehlo_is_unknown() {
    let client = run(
        false,
        &[
            S("220 hi\r\n"),
            C("EHLO mx.example.org\r\n"),
            S("502-PIPELINING\r\n502 5.5.1 unknown\r\n"),
            C("HELO mx.example.org\r\n"),
            S("250 hi\r\n"),
            Do(Step::Ready),
        ],
    );
    assert_eq!(client.extensions(), &Extensions::default());
    run(
        false,
        &[
            S("220 hi\r\n"),
            S("500 what\r\n"),
            S("550 5.7.1 go away\r\n"),
            Do(Step::Closed(reply(Stage::Hello, 550, "5.7.1", "go away"))),
        ],
    );
    run(
        false,
        &[
            S("220 hi\r\n"),
            S("451 4.3.0 later\r\n"),
            Do(Step::Closed(reply(Stage::Hello, 451, "4.3.0", "later"))),
        ],
    );
}

#[test]
fn starttls_forgets_what_was_said_in_clear() {
    let client = run(
        true,
        &[
            S("220 hi\r\n"),
            S("250-a\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 SIZE 10\r\n"),
            C("EHLO mx.example.org\r\nSTARTTLS\r\n"),
            S("220 go\r\n"),
            Do(Step::Handshake),
            Secured,
            C("EHLO mx.example.org\r\n"),
            S("250-a\r\n250 8BITMIME\r\n"),
            Do(Step::Ready),
        ],
    );
    assert!(client.is_secure());
    assert_eq!(
        client.extensions(),
        &Extensions {
            eight_bit: true,
            ..Extensions::default()
        }
    );
    // Not asked for, it is not used; refused, mail goes on in clear.
    run(
        false,
        &[
            S("220 hi\r\n"),
            S("250-a\r\n250 STARTTLS\r\n"),
            Do(Step::Ready),
        ],
    );
    run(
        true,
        &[
            S("220 hi\r\n"),
            S("250-a\r\n250 STARTTLS\r\n"),
            S("454 4.7.0 not now\r\n"),
            Do(Step::Ready),
        ],
    );
}

/// CVE-2011-0411 seen from the client: what follows the 220 in clear is not the server's.
#[test]
fn bytes_behind_the_220_of_starttls_end_the_connection() {
    let mut client = run(true, &[S("220 hi\r\n"), S("250-a\r\n250 STARTTLS\r\n")]);
    client.receive(b"220 go\r\n250-AUTH PLAIN\r\n");
    assert_eq!(
        client.step(),
        Step::Closed(nothing(Stage::StartTls, Loss::OutOfStep))
    );
    // And if they come after the step was taken, they are dropped.
    let mut client = run(
        true,
        &[
            S("220 hi\r\n"),
            S("250-a\r\n250 STARTTLS\r\n"),
            S("220 go\r\n"),
        ],
    );
    client.receive(b"250-AUTH PLAIN\r\n250 PIPELINING\r\n");
    client.secured();
    assert_eq!(client.step(), Step::Read(Wait::Command));
    assert_eq!(client.extensions(), &Extensions::default());
}

#[test]
fn quit_is_said_once_and_not_waited_for() {
    let mut client = after_hello(PIPE, vec![]);
    client.quit();
    assert_eq!(client.output(), b"QUIT\r\n");
    assert!(matches!(client.step(), Step::Closed(_)));
}
