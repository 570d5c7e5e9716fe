//! Conversations, each run with the server's bytes in one piece, in twos and one by one.

use super::*;

/// A line of a conversation.
enum L {
    /// The server says.
    S(&'static str),
    /// The client has said exactly this since last time.
    C(&'static str),
    /// What the driver is to do.
    Do(Step),
    /// A transaction begins.
    Begin(&'static [&'static str]),
    BeginWith(Mail<'static>, &'static [&'static str]),
    Secured,
    DataSent,
    Lost(Loss),
}
use L::*;

const MAIL: Mail<'static> = Mail {
    reverse_path: "a@example.org",
    size: 1234,
    eight_bit: false,
    smtputf8: false,
};

fn run(wants_tls: bool, script: &[L]) -> Client {
    let mut last = None;
    for chunk in [1, 2, usize::MAX] {
        last = Some(run_in(wants_tls, script, chunk));
    }
    last.expect("a client")
}

fn run_in(wants_tls: bool, script: &[L], chunk: usize) -> Client {
    let mut client = Client::new("mx.example.org", wants_tls);
    let mut seen = None;
    let refresh = |client: &mut Client, seen: &mut Option<Step>| {
        if seen.is_none() {
            *seen = Some(client.step()).filter(|step| !matches!(step, Step::Read(_)));
        }
    };
    for (at, line) in script.iter().enumerate() {
        match line {
            S(text) => {
                for piece in text.as_bytes().chunks(chunk) {
                    client.receive(piece);
                    refresh(&mut client, &mut seen);
                }
            }
            C(text) => {
                refresh(&mut client, &mut seen);
                let output = std::mem::take(client.output());
                assert_eq!(
                    String::from_utf8_lossy(&output),
                    *text,
                    "line {at}, chunk {chunk}"
                );
            }
            Do(step) => {
                let next = seen.take().unwrap_or_else(|| client.step());
                assert_eq!(&next, step, "line {at}, chunk {chunk}");
            }
            Begin(to) => client.begin(&MAIL, to.iter().copied()).expect("begin"),
            BeginWith(mail, to) => client.begin(mail, to.iter().copied()).expect("begin"),
            Secured => client.secured(),
            DataSent => client.data_sent(),
            Lost(loss) => {
                client.lost(loss.clone());
                refresh(&mut client, &mut seen);
            }
        }
    }
    client
}

/// A conversation that begins after the reply to EHLO with these keywords.
fn after_hello(keywords: &'static str, script: Vec<L>) -> Client {
    let mut whole = vec![
        Do(Step::Read(Wait::Greeting)),
        S("220 mx.example.com ESMTP\r\n"),
        C("EHLO mx.example.org\r\n"),
        S(keywords),
        Do(Step::Ready),
    ];
    whole.extend(script);
    run(false, &whole)
}

const PLAIN: &str = "250 mx.example.com\r\n";
const PIPE: &str = "250-mx.example.com\r\n250-PIPELINING\r\n250 SIZE 100000\r\n";

fn reply(stage: Stage, code: u16, enhanced: &str, text: &str) -> Answer {
    said(stage, Reply::new(code, enhanced, text))
}

fn finished(answers: Vec<Answer>) -> Step {
    Step::Finished(Finished {
        answers,
        untouched: false,
    })
}

fn delivered(n: usize) -> Step {
    finished(vec![reply(Stage::FinalDot, 250, "2.0.0", "queued"); n])
}

const ONE: &str = "MAIL FROM:<a@example.org>\r\n";
const RCPT_B: &str = "RCPT TO:<b@example.com>\r\n";
const GROUP_BC: &str = "MAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\n\
                        RCPT TO:<c@example.com>\r\nDATA\r\n";
const TO_B: &[&str] = &["b@example.com"];
const TO_BC: &[&str] = &["b@example.com", "c@example.com"];

#[test]
fn one_by_one_without_pipelining() {
    after_hello(
        PLAIN,
        vec![
            Begin(TO_BC),
            C(ONE),
            S("250 2.1.0 Ok\r\n"),
            C(RCPT_B),
            S("250 2.1.5 Ok\r\n"),
            C("RCPT TO:<c@example.com>\r\n"),
            S("550-5.1.1 no\r\n550 5.1.1 such user\r\n"),
            C("DATA\r\n"),
            S("354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            Do(Step::Read(Wait::FinalDot)),
            S("250 2.0.0 queued\r\n"),
            Do(finished(vec![
                reply(Stage::FinalDot, 250, "2.0.0", "queued"),
                reply(Stage::Recipient, 550, "5.1.1", "no such user"),
            ])),
            // A part that failed is no failed transaction: no RSET.
            Do(Step::Ready),
            Begin(TO_B),
            C(ONE),
        ],
    );
}

#[test]
fn everything_in_one_write_with_pipelining() {
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            C(GROUP_BC),
            S("250 Ok\r\n450 4.2.0 later\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            S("250 2.0.0 queued\r\n"),
            Do(finished(vec![
                reply(Stage::Recipient, 450, "4.2.0", "later"),
                reply(Stage::FinalDot, 250, "2.0.0", "queued"),
            ])),
            Do(Step::Ready),
        ],
    );
}

/// H/issues/538: every reply is read; a 354 with no recipient is ended with a dot.
#[test]
fn a_354_without_recipients_is_ended_properly() {
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            C(GROUP_BC),
            S("250 Ok\r\n550 5.1.1 b\r\n451 4.3.0 c\r\n354 go\r\n"),
            C(".\r\n"),
            Do(Step::Read(Wait::FinalDot)),
            S("554 5.5.1 no recipients\r\n"),
            Do(finished(vec![
                reply(Stage::Recipient, 550, "5.1.1", "b"),
                reply(Stage::Recipient, 451, "4.3.0", "c"),
            ])),
            Do(Step::Ready),
            Begin(TO_B),
            C("RSET\r\nMAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
            S("250 reset\r\n250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            S("250 2.0.0 queued\r\n"),
            Do(delivered(1)),
        ],
    );
}

#[test]
fn no_recipient_means_no_data() {
    // Pipelined: DATA is refused as it must be, and is nobody's answer.
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            C("MAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
            S("250 Ok\r\n550 5.1.1 no\r\n503 5.5.1 no recipients\r\n"),
            Do(finished(vec![reply(Stage::Recipient, 550, "5.1.1", "no")])),
            Do(Step::Ready),
        ],
    );
    // One by one: it is never sent.
    after_hello(
        PLAIN,
        vec![
            Begin(TO_B),
            C(ONE),
            S("250 Ok\r\n"),
            C(RCPT_B),
            S("550 5.1.1 no\r\n"),
            Do(finished(vec![reply(Stage::Recipient, 550, "5.1.1", "no")])),
            Do(Step::Ready),
            Begin(TO_B),
            C("RSET\r\n"),
            S("250 Ok\r\n"),
            C(ONE),
        ],
    );
}

#[test]
fn a_refused_mail_is_the_answer_of_all() {
    let refused = || reply(Stage::Mail, 550, "5.7.1", "not you");
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            C(GROUP_BC),
            S("550 5.7.1 not you\r\n503 5.5.1 MAIL first\r\n503 5.5.1 MAIL first\r\n503 no\r\n"),
            Do(finished(vec![refused(), refused()])),
            Do(Step::Ready),
        ],
    );
    after_hello(
        PLAIN,
        vec![
            Begin(TO_BC),
            C(ONE),
            S("550 5.7.1 not you\r\n"),
            Do(finished(vec![refused(), refused()])),
            Do(Step::Ready),
            C(""),
        ],
    );
    // And if recipients are taken all the same, nothing is sent that could reach them.
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            C(GROUP_BC),
            S("550 5.7.1 not you\r\n250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(finished(vec![refused(), refused()])),
            Do(Step::Closed(nothing(Stage::Data, Loss::OutOfStep))),
            C(""),
        ],
    );
}

#[test]
fn refusals_of_data_and_of_the_message() {
    after_hello(
        PIPE,
        vec![
            Begin(TO_BC),
            C(GROUP_BC),
            S("250 Ok\r\n250 Ok\r\n550 5.1.1 c\r\n451 4.3.2 busy\r\n"),
            Do(finished(vec![
                reply(Stage::Data, 451, "4.3.2", "busy"),
                reply(Stage::Recipient, 550, "5.1.1", "c"),
            ])),
            Do(Step::Ready),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            C("MAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
            S("250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            S("552 5.3.4 too big\r\n"),
            Do(finished(vec![reply(
                Stage::FinalDot,
                552,
                "5.3.4",
                "too big",
            )])),
            Do(Step::Ready),
            Begin(TO_B),
            C("RSET\r\nMAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
        ],
    );
}

#[test]
fn replies_out_of_step_close_the_connection() {
    let lost = |stage| nothing(stage, Loss::OutOfStep);
    let cases: [(&'static str, Stage); 4] = [
        ("354 what\r\n", Stage::Mail),
        ("250 Ok\r\n354 what\r\n", Stage::Recipient),
        ("250 Ok\r\n250 Ok\r\n250 not 354\r\n", Stage::Data),
        ("250 Ok\r\n550 5.1.1 no\r\n250 not 354\r\n", Stage::Data),
    ];
    for (text, stage) in cases {
        let first = match text.contains("5.1.1") {
            true => reply(Stage::Recipient, 550, "5.1.1", "no"),
            false => lost(stage),
        };
        after_hello(
            PIPE,
            vec![
                Begin(TO_B),
                S(text),
                Do(finished(vec![first])),
                Do(Step::Closed(lost(stage))),
            ],
        );
    }
    // An answer too many: the message was taken, the connection is not used again.
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            S("250 Ok\r\n250 Ok\r\n354 go\r\n"),
            Do(Step::SendData),
            DataSent,
            Do(Step::Read(Wait::FinalDot)),
        ],
    );
    let mut client = after_hello(PIPE, vec![Begin(TO_B), S("250 a\r\n250 b\r\n354 c\r\n")]);
    client.data_sent();
    client.receive(b"250 2.0.0 queued\r\n250 again\r\n");
    assert_eq!(client.step(), delivered(1));
    assert_eq!(client.step(), Step::Closed(lost(Stage::FinalDot)));
}

#[test]
fn status_503_is_no_verdict() {
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            S("503 5.5.1 nested MAIL\r\n"),
            Do(finished(vec![reply(
                Stage::Mail,
                503,
                "5.5.1",
                "nested MAIL",
            )])),
            Do(Step::Closed(reply(
                Stage::Mail,
                503,
                "5.5.1",
                "nested MAIL",
            ))),
        ],
    );
    after_hello(
        PIPE,
        vec![
            Begin(TO_B),
            S("250 Ok\r\n503 5.5.1 need MAIL\r\n"),
            Do(finished(vec![reply(
                Stage::Recipient,
                503,
                "5.5.1",
                "need MAIL",
            )])),
            Do(Step::Closed(reply(
                Stage::Recipient,
                503,
                "5.5.1",
                "need MAIL",
            ))),
        ],
    );
}

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
            S("220 hi\r\n421 4.7.0 bye\r\n"),
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
            S("220 hi\r\n250-a"),
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
        Do(finished(vec![closed(Stage::FinalDot)])),
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
    assert_eq!(client.step(), finished(vec![closed(Stage::FinalDot)]));
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
            untouched: true
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
            S("220 hi\r\n500 what\r\n550 5.7.1 go away\r\n"),
            Do(Step::Closed(reply(Stage::Hello, 550, "5.7.1", "go away"))),
        ],
    );
    run(
        false,
        &[
            S("220 hi\r\n451 4.3.0 later\r\n"),
            Do(Step::Closed(reply(Stage::Hello, 451, "4.3.0", "later"))),
        ],
    );
}

#[test]
fn starttls_forgets_what_was_said_in_clear() {
    let client = run(
        true,
        &[
            S("220 hi\r\n250-a\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 SIZE 10\r\n"),
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
        &[S("220 hi\r\n250-a\r\n250 STARTTLS\r\n"), Do(Step::Ready)],
    );
    run(
        true,
        &[
            S("220 hi\r\n250-a\r\n250 STARTTLS\r\n"),
            S("454 4.7.0 not now\r\n"),
            Do(Step::Ready),
        ],
    );
}

/// CVE-2011-0411 seen from the client: what follows the 220 in clear is not the server's.
#[test]
fn bytes_behind_the_220_of_starttls_end_the_connection() {
    let mut client = run(true, &[S("220 hi\r\n250-a\r\n250 STARTTLS\r\n")]);
    client.receive(b"220 go\r\n250-AUTH PLAIN\r\n");
    assert_eq!(
        client.step(),
        Step::Closed(nothing(Stage::StartTls, Loss::OutOfStep))
    );
    // And if they come after the step was taken, they are dropped.
    let mut client = run(true, &[S("220 hi\r\n250-a\r\n250 STARTTLS\r\n220 go\r\n")]);
    client.receive(b"250-AUTH PLAIN\r\n250 PIPELINING\r\n");
    client.secured();
    assert_eq!(client.step(), Step::Read(Wait::Command));
    assert_eq!(client.extensions(), &Extensions::default());
}

#[test]
fn parameters_only_when_needed_and_offered() {
    const ALL: &str = "250-a\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n";
    const EIGHT: Mail<'static> = Mail {
        eight_bit: true,
        ..MAIL
    };
    const NULL: Mail<'static> = Mail {
        reverse_path: "",
        ..MAIL
    };
    after_hello(
        ALL,
        vec![
            BeginWith(NULL, TO_B),
            C("MAIL FROM:<> SIZE=1234\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
        ],
    );
    after_hello(
        ALL,
        vec![
            BeginWith(EIGHT, TO_B),
            C("MAIL FROM:<a@example.org> SIZE=1234 BODY=8BITMIME\r\n\
               RCPT TO:<b@example.com>\r\nDATA\r\n"),
        ],
    );
    after_hello(
        ALL,
        vec![
            BeginWith(EIGHT, &["b@example.com", "d\u{e9}@example.com"]),
            C(
                "MAIL FROM:<a@example.org> SIZE=1234 BODY=8BITMIME SMTPUTF8\r\n\
               RCPT TO:<b@example.com>\r\nRCPT TO:<d\u{e9}@example.com>\r\nDATA\r\n",
            ),
        ],
    );
    let mut client = after_hello(PIPE, vec![]);
    let mut begin = |mail: &Mail<'_>, to: &'static str| client.begin(mail, [to].into_iter());
    let big = Mail {
        size: 100_001,
        ..MAIL
    };
    assert_eq!(
        begin(&big, "b@example.com"),
        Err(Refusal::TooLarge { limit: 100_000 })
    );
    assert_eq!(begin(&EIGHT, "b@example.com"), Err(Refusal::EightBit));
    assert_eq!(begin(&MAIL, "d\u{e9}@example.com"), Err(Refusal::Utf8));
    assert_eq!(
        begin(
            &Mail {
                smtputf8: true,
                ..MAIL
            },
            "b@example.com"
        ),
        Err(Refusal::Utf8)
    );
    assert_eq!(
        begin(&MAIL, "b@example.com>\r\nRSET"),
        Err(Refusal::Address)
    );
    // The connection is as it was.
    assert_eq!(client.step(), Step::Ready);
    assert!(client.output().is_empty());
    assert_eq!(client.transactions(), 0);
}

#[test]
fn a_refused_reset_leaves_the_message_untouched() {
    after_hello(
        PLAIN,
        vec![
            Begin(TO_B),
            C(ONE),
            S("450 4.7.1 later\r\n"),
            Do(finished(vec![reply(Stage::Mail, 450, "4.7.1", "later")])),
            Do(Step::Ready),
            Begin(TO_B),
            C("RSET\r\n"),
            S("500 what\r\n"),
            Do(Step::Finished(Finished {
                answers: vec![reply(Stage::Reset, 500, "", "what")],
                untouched: true,
            })),
            Do(Step::Closed(reply(Stage::Reset, 500, "", "what"))),
        ],
    );
}

#[test]
fn quit_is_said_once_and_not_waited_for() {
    let mut client = after_hello(PIPE, vec![]);
    client.quit();
    assert_eq!(client.output(), b"QUIT\r\n");
    assert!(matches!(client.step(), Step::Closed(_)));
}
