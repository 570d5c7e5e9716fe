//! Tests of [`super`]: exact bytes of a notification, and that nothing can break one.

use super::*;
use crate::store::new_message;
use proptest::prelude::*;
use queue_schema::Envelope;

const NOW: Millis = 1_700_000_000_000;

fn recipient(address: &str) -> Recipient {
    Recipient::new(address)
}

fn message() -> Message {
    let envelope = Envelope {
        envid: Some("QQ314159".into()),
        ..Envelope::new(
            "a@example.org",
            vec![recipient("b@example.net"), recipient("c@example.com")],
        )
    };
    let origin = Origin::User {
        user: "a@example.org".into(),
        client: [192, 0, 2, 9].into(),
    };
    new_message(QueueId(1 << 50), NOW - 60_000, origin, envelope)
}

fn state(status: Status, code: u16, enhanced: &str, text: &str, remote: &str) -> RecipientState {
    RecipientState {
        status,
        attempts: 1,
        next_due: 0,
        last_attempt: NOW,
        last_reply: Some(Reply {
            code,
            enhanced: enhanced.into(),
            text: text.into(),
            remote: remote.into(),
        }),
        ..RecipientState::new(0)
    }
}

fn original(body: &'static [u8]) -> Content {
    Content {
        head: Bytes::from_static(b"Message-ID: <1@example.org>\r\nSubject: hello\r\n\r\n"),
        body: Body::Memory(Bytes::from_static(body)),
    }
}

fn built(message: &Message, reports: &[Report], original: Option<&Content>) -> (Built, String) {
    let built = build(&Notice {
        id: QueueId(1 << 51),
        now: NOW,
        message,
        reports,
        deadline: NOW + 86_400_000,
        hostname: "mx.example.org",
        original,
        to: &message.envelope.reverse_path,
    });
    let Body::Memory(body) = &built.content.body else {
        panic!("in memory")
    };
    let text = [&built.content.head[..], &body[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (built, text)
}

fn refused() -> Report {
    let said = "mx.example.net[192.0.2.1]:25";
    Report {
        recipient: 0,
        state: state(Status::Bounced, 550, "5.1.1", "no such user here", said),
        tls: String::new(),
        at: NOW,
    }
}

#[test]
fn a_bounce_byte_for_byte() {
    let mut message = message();
    message.envelope.ret = Some(Ret::Full);
    let (built, text) = built(&message, &[refused()], Some(&original(b"a body\r\n")));
    assert_eq!(
        (built.domain.as_str(), built.body),
        ("example.org", BodyKind::SevenBit)
    );
    let expected = "\
Date: Tue, 14 Nov 2023 22:13:20 +0000
From: Mail delivery at example.org <MAILER-DAEMON@example.org>
To: <a@example.org>
Subject: Your message was not delivered
Message-ID: <0020000000000@mx.example.org>
In-Reply-To: <1@example.org>
References: <1@example.org>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
 boundary=\"0020000000000.mx.example.org\"
Content-Transfer-Encoding: 7bit

--0020000000000.mx.example.org
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

Your message of Tue, 14 Nov 2023 22:12:20 +0000 could not be delivered
to the recipients below.

<b@example.net>
    The server mx.example.net said: 550 5.1.1 no such user here
    Check the address; it does not exist there.

This notice was written by the mail server mx.example.org. The parts
below are for programs and for whoever helps you; in its log this
message is 0010000000000.

--0020000000000.mx.example.org
Content-Type: message/delivery-status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; mx.example.org
Original-Envelope-Id: QQ314159
X-Chapar-Queue-ID: 0010000000000
Arrival-Date: Tue, 14 Nov 2023 22:12:20 +0000

Final-Recipient: rfc822; b@example.net
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.net
Diagnostic-Code: smtp; 550 5.1.1 no such user here
Last-Attempt-Date: Tue, 14 Nov 2023 22:13:20 +0000

--0020000000000.mx.example.org
Content-Type: message/rfc822
Content-Transfer-Encoding: 7bit

Message-ID: <1@example.org>
Subject: hello

a body

--0020000000000.mx.example.org--
";
    assert_eq!(text, expected.replace('\n', "\r\n"));
}

#[test]
fn one_notice_names_every_recipient_and_each_has_its_own_reason() {
    let expired = Report {
        recipient: 1,
        tls: String::new(),
        at: NOW,
        state: state(
            Status::Expired,
            451,
            "4.7.1",
            "greylisted",
            "mx.example.com[192.0.2.2]:25",
        ),
    };
    let (_, text) = built(&message(), &[refused(), expired], None);
    assert!(text.contains(
        "\r\nFinal-Recipient: rfc822; b@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    ));
    assert!(text.contains(
        "\r\nFinal-Recipient: rfc822; c@example.com\r\nAction: failed\r\nStatus: 4.4.7\r\n"
    ));
    assert!(text.contains("tried until its time was over"));
}

fn delivered(remote: &str) -> Report {
    Report {
        recipient: 0,
        state: state(Status::Delivered, 250, "2.0.0", "ok", remote),
        tls: String::new(),
        at: NOW,
    }
}

#[test]
fn a_success_is_relayed_or_delivered_and_returns_headers_only() {
    let mut message = message();
    message.envelope.ret = Some(Ret::Full);
    let remote = delivered("mx.example.net[192.0.2.1]:25");
    let (_, text) = built(&message, &[remote], Some(&original(b"the body\r\n")));
    assert!(text.contains("\r\nSubject: Your message was passed on\r\n"));
    assert!(text.contains("\r\nAction: relayed\r\nStatus: 2.0.0\r\n"));
    assert!(text.contains("\r\nRemote-MTA: dns; mx.example.net\r\n"));
    assert!(text.contains("Content-Type: text/rfc822-headers"));
    assert!(!text.contains("the body"), "RET is about failures");
    let (_, text) = built(&message, &[delivered("")], None);
    assert!(text.contains("\r\nAction: delivered\r\nStatus: 2.0.0\r\n"));
}

#[test]
fn o3_what_ends_on_this_machine_was_delivered_and_no_server_said_so() {
    let (_, text) = built(&message(), &[delivered("local")], None);
    assert!(
        text.contains("\r\nSubject: Your message was delivered\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nAction: delivered\r\nStatus: 2.0.0\r\n"));
    assert!(text.contains("\r\nDiagnostic-Code: x-chapar; 250 2.0.0 ok\r\n"));
    assert!(
        !text.contains("Remote-MTA")
            && !text.contains("handed on")
            && !text.contains("server local")
    );
}

#[test]
fn o8_a_server_is_quoted_with_its_own_words_only() {
    let mut report = refused();
    if let Some(reply) = &mut report.state.last_reply {
        reply.text = "the message is longer than the 1000 bytes the server takes".into();
    }
    let (_, text) = built(&message(), &[report], None);
    assert!(
        text.contains("\r\n    Reason, at mx.example.net: 550 5.1.1 the message is"),
        "{text}"
    );
    assert!(text.contains("\r\nRemote-MTA: dns; mx.example.net\r\nDiagnostic-Code: x-chapar;"));
}

#[test]
fn o10_what_is_beyond_ascii_is_escaped_or_kept_and_names_no_other_address() {
    let mut report = refused();
    if let Some(reply) = &mut report.state.last_reply {
        reply.text = "no j\u{fc}rgen here".into();
    }
    let mut message = message();
    let (_, text) = built(&message, std::slice::from_ref(&report), None);
    assert!(text.contains("no j\\x{FC}rgen here"), "{text}");
    message.envelope.recipients[0].address = "j\u{fc}rgen@example.net".into();
    let (_, text) = built(&message, &[report], None);
    assert!(text.contains("no j\u{fc}rgen here"), "{text}");
}

#[test]
fn a_notice_that_failed_is_told_to_the_postmaster_in_words_of_its_own() {
    let mut message = message();
    message.envelope.reverse_path.clear();
    message.origin = Origin::Dsn {
        about: QueueId(7),
        since: 0,
    };
    let built = build(&Notice {
        id: QueueId(1 << 51),
        now: NOW,
        message: &message,
        reports: &[refused()],
        deadline: NOW,
        hostname: "mx.example.org",
        original: None,
        to: "boss@example.net",
    });
    let head = String::from_utf8(built.content.head.to_vec()).unwrap();
    assert!(head.contains("\r\nTo: <boss@example.net>\r\n"));
    assert!(head.contains("\r\nSubject: A notice could not be delivered\r\n"));
}

#[test]
fn a_delay_says_that_nothing_needs_to_be_done_and_returns_headers_only() {
    let late = Report {
        recipient: 0,
        tls: String::new(),
        at: NOW,
        state: state(
            Status::Waiting,
            421,
            "",
            "busy",
            "mx.example.net[192.0.2.1]:25",
        ),
    };
    let (_, text) = built(&message(), &[late], Some(&original(b"the body")));
    assert!(text.contains("\r\nSubject: Your message is late\r\n"));
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(
        words.join(" ").contains("There is nothing you need to do"),
        "{text}"
    );
    assert!(text.contains("\r\nAction: delayed\r\nStatus: 4.0.0\r\n"));
    assert!(text.contains("\r\nWill-Retry-Until: Wed, 15 Nov 2023 22:13:20 +0000\r\n"));
    assert!(text.contains("\r\nContent-Type: text/rfc822-headers\r\n"));
    assert!(!text.contains("the body"));
}

#[test]
fn what_is_returned_follows_ret_and_size() {
    let mut message = message();
    message.envelope.ret = Some(Ret::Headers);
    let (_, text) = built(&message, &[refused()], Some(&original(b"the body")));
    assert!(text.contains("text/rfc822-headers") && !text.contains("the body"));

    message.envelope.ret = Some(Ret::Full);
    let large: &'static [u8] = vec![b'x'; RETURNED].leak();
    let (_, text) = built(&message, &[refused()], Some(&original(large)));
    assert!(text.contains("text/rfc822-headers") && !text.contains("xxx"));

    let (eight, text) = built(&message, &[refused()], Some(&original("é\r\n".as_bytes())));
    assert_eq!(eight.body, BodyKind::EightBit);
    assert!(text.contains("\r\nContent-Transfer-Encoding: 8bit\r\n"));

    let mut long = original(b"");
    long.head = Bytes::from(b"X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(4000));
    let (_, text) = built(&message, &[refused()], Some(&long));
    assert!(text.len() < RETURNED + 4000, "{}", text.len());
    assert!(text.ends_with("a\r\n\r\n--0020000000000.mx.example.org--\r\n"));
}

#[test]
fn someone_outside_is_not_told_where_an_alias_leads() {
    let mut message = message();
    message.envelope.recipients[0].alias_of = Some("info@example.org".into());
    let (_, text) = built(&message, &[refused()], None);
    assert!(
        text.contains("<b@example.net> (from info@example.org)"),
        "our own user is told"
    );
    message.origin = Origin::Outside {
        client: [192, 0, 2, 9].into(),
        verified: true,
    };
    let (told, text) = built(&message, &[refused()], None);
    assert_eq!(told.domain, "example.org", "the domain of the alias signs");
    assert!(text.contains("\r\nFinal-Recipient: rfc822; info@example.org\r\n"));
    assert!(!text.contains("b@example.net"));
}

#[test]
fn addresses_beyond_ascii_make_a_global_notification() {
    let mut message = message();
    message.envelope.smtputf8 = true;
    message.envelope.ret = Some(Ret::Full);
    message.envelope.recipients[0].address = "bé@example.net".into();
    let (wide, text) = built(&message, &[refused()], Some(&original(b"x")));
    assert!(!wide.smtputf8, "o4: the sender's own address needs nothing");
    assert!(text.contains("report-type=global-delivery-status"));
    assert!(text.contains("\r\nContent-Type: message/global-delivery-status\r\n"));
    assert!(text.contains("\r\nFinal-Recipient: utf-8; bé@example.net\r\n"));
    assert!(text.contains("\r\nContent-Type: message/global\r\n"));
}

#[test]
fn q18_an_orcpt_or_alias_beyond_ascii_fits_a_notice_of_seven_bits() {
    let mut message = message();
    message.envelope.recipients[0].orcpt = Some("utf-8;b\u{e4}r+x@example.net".into());
    message.envelope.recipients[0].alias_of = Some("\u{e4}lias@example.org".into());
    let mut second = refused();
    second.recipient = 1;
    message.envelope.recipients[1].alias_of = Some("\u{1f600}@example.org".into());
    let (built, text) = built(&message, &[refused(), second], None);
    assert_eq!((built.body, built.smtputf8), (BodyKind::SevenBit, false));
    let Body::Memory(body) = &built.content.body else {
        panic!("in memory")
    };
    assert!(built.content.head.is_ascii() && body.is_ascii(), "{text}");
    for line in [
        "Original-Recipient: utf-8;b\\x{E4}r\\x{2B}x@example.net\r\n",
        "Original-Recipient: utf-8; \\x{1F600}@example.org\r\n",
        "<b@example.net> (from \\x{E4}lias@example.org)\r\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_boundary_is_never_part_of_what_is_returned() {
    let body: &'static [u8] = b"--0020000000000.mx.example.org--\r\n";
    let mut message = message();
    message.envelope.ret = Some(Ret::Full);
    let (_, text) = built(&message, &[refused()], Some(&original(body)));
    assert!(text.contains("boundary=\"0020000000000.mx.example.org=\""));
}

proptest! {
    /// Whatever a peer said and whatever addresses hold, lines are lines and headers are headers.
    #[test]
    fn nothing_breaks_a_notification(
        said in ".{0,600}", enhanced in ".{0,20}", remote in ".{0,80}",
        address in ".{1,80}", envid in ".{0,40}",
    ) {
        let mut message = message();
        message.envelope.recipients[0].address = address;
        message.envelope.envid = Some(envid);
        let state = state(Status::Bounced, 550, &enhanced, &said, &remote);
        let state = RecipientState {
            last_reply: state.last_reply.map(|reply| crate::outcome::clean_reply(&reply)),
            ..state
        };
        let (_, text) = built(&message, &[Report { recipient: 0, state, tls: String::new(), at: NOW }], Some(&original(b"x\r\n")));
        prop_assert_eq!(text.matches("\r\n--0020000000000.mx.example.org").count(), 4);
        prop_assert_eq!(text.matches("\r\nFinal-Recipient: ").count(), 1);
        prop_assert_eq!(text.matches("\r\nStatus: 5.").count(), 1);
        for line in text.split("\r\n") {
            prop_assert!(line.len() <= 998, "{} bytes", line.len());
            let broken = line.contains(['\r', '\n', '\0', '\u{1b}']);
            prop_assert!(!broken);
        }
    }
}
