//! What one transaction brings, whatever the server answers.

use super::*;

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
    let mut begin =
        |mail: &Mail<'_>, to: &'static str| client.begin(mail, [To::from(to)].into_iter());
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
        begin(
            &Mail {
                require_tls: true,
                ..MAIL
            },
            "b@example.com"
        ),
        Err(Refusal::RequireTls)
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

/// RFC 3461 section 4 and 5.2.1: what the sender asked for goes on, word for word, to a hop that
/// knows DSN, and to no other.
#[test]
fn what_is_asked_of_dsns_is_passed_on_where_dsn_is_offered() {
    use queue_schema::{Notify, Ret};
    let mail = Mail {
        ret: Some(Ret::Headers),
        envid: Some("a+b = c"),
        ..MAIL
    };
    let notify = |success, failure, delay| Notify {
        success,
        failure,
        delay,
    };
    let to = |address, notify, orcpt| To {
        address,
        notify,
        orcpt,
    };
    let all = || {
        vec![
            to(
                "a@example.com",
                notify(true, true, false),
                Some("rfc822;x+y=z@example.net"),
            ),
            to(
                "b@example.com",
                notify(false, false, false),
                Some("utf-8;d\u{e9}@example.net"),
            ),
            to("c@example.com", Notify::default(), None),
            to(
                "d@example.com",
                notify(false, false, true),
                Some("no type \u{e9}"),
            ),
        ]
    };
    after_hello(
        "250-a\r\n250-DSN\r\n250 PIPELINING\r\n",
        vec![
            BeginTo(mail, all()),
            C(
                "MAIL FROM:<a@example.org> RET=HDRS ENVID=a+2Bb+20+3D+20c\r\n\
               RCPT TO:<a@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x+2By+3Dz@example.net\r\n\
               RCPT TO:<b@example.com> NOTIFY=NEVER ORCPT=utf-8;d\\x{E9}@example.net\r\n\
               RCPT TO:<c@example.com>\r\n\
               RCPT TO:<d@example.com> NOTIFY=DELAY\r\nDATA\r\n",
            ),
        ],
    );
    after_hello(
        "250-a\r\n250 PIPELINING\r\n",
        vec![
            BeginTo(mail, all()),
            C("MAIL FROM:<a@example.org>\r\nRCPT TO:<a@example.com>\r\n\
               RCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\n\
               RCPT TO:<d@example.com>\r\nDATA\r\n"),
        ],
    );
    let mail = Mail {
        require_tls: true,
        ret: Some(Ret::Full),
        ..MAIL
    };
    after_hello(
        "250-a\r\n250-DSN\r\n250 REQUIRETLS\r\n",
        vec![
            BeginWith(mail, TO_B),
            C("MAIL FROM:<a@example.org> REQUIRETLS RET=FULL\r\n"),
        ],
    );
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
                no_chunks: false,
                accepted: 0,
            })),
            Do(Step::Closed(reply(Stage::Reset, 500, "", "what"))),
        ],
    );
}
