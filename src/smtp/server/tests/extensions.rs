//! Extensions: each with its parameters, and each turned off.

use super::*;

#[test]
fn chunks_are_taken_by_number_and_dots_mean_nothing_in_them() {
    let mut server = greeted();
    let dialogue = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\nBDAT 11\r\n\
        a\r\n.\r\nQUIT\rBDAT 3\r\n\n\r\nBDAT 0 LAST\r\nNOOP\r\n";
    let whole = talk(&mut server, dialogue);
    assert_eq!(codes(&whole.0), [250, 250, 250, 250, 250, 250]);
    assert!(server.transaction().is_none());
}

#[test]
fn errors_in_bdat_end_the_transaction_and_keep_the_dialogue_in_step() {
    let begin = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\n";
    for (then, expected) in [
        (&b"BDAT bad\r\nDATA\r\n"[..], vec![501, 503]),
        (b"BDAT 5\r\nNOOP\rDATA\r\n", vec![250, 503]),
        (b"BDAT 1\r\n\x7fMAIL FROM:<a@b.example>\r\n", vec![250, 503]),
        (b"BDAT 1\r\nxRCPT TO:<c@example.org>\r\n", vec![250, 503]),
        (b"BDAT 1\r\nxRSET\r\nDATA\r\n", vec![250, 250, 503]),
        (
            b"BDAT 1\r\naBDAT 1\r\naBDAT 1\r\naBDAT 1\r\naBDAT 1\r\naDATA\r\n",
            vec![250, 250, 250, 250, 552, 503],
        ),
        (
            b"BDAT 1 LAST\r\naBDAT 6\r\nRSET\r\nNOOP\r\n",
            vec![250, 503, 250],
        ),
    ] {
        let mut server = greeted();
        let (replies, _) = talk(&mut server, &[begin, then].concat());
        assert_eq!(
            codes(&replies).get(2..).unwrap_or_default(),
            expected,
            "{then:?}"
        );
    }
    let mut server = greeted();
    let (replies, _) = talk(
        &mut server,
        b"BDAT 6 LAST\r\nRSET\r\nMAIL FROM:<a@c.example>\r\nBDAT 6 LAST\r\nRSET\r\nDATA\r\n",
    );
    assert_eq!(codes(&replies), [503, 250, 554, 503]);
}

#[test]
fn a_number_in_bdat_reserves_nothing() {
    for (line, code) in [
        (&b"BDAT 1001 LAST\r\n"[..], 552),
        (b"BDAT 18446744073709551615 LAST\r\n", 552),
        (b"BDAT 99999999999999999999\r\n", 552),
    ] {
        let mut server = greeted();
        let _ = talk(
            &mut server,
            b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@example.org>\r\n",
        );
        let mut input = BytesMut::from(line);
        let mut out = Vec::new();
        match server.next(&mut input, &mut out) {
            Step::Discard(1001) => server.discarded(&mut out),
            Step::Close => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(codes(&String::from_utf8(out).expect("text")), [code]);
    }
    let mut off = options(false);
    off.extensions = Extensions::without(&[Extension::Chunking]);
    let mut server = Server::new(off);
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(!hello.contains("CHUNKING"));
    let (replies, steps) = talk(&mut server, b"BDAT 10 LAST\r\nQUIT\r\nNOOP");
    assert_eq!((codes(&replies), steps), (vec![502], vec![Step::Close]));
}

#[test]
fn parameters_of_extensions_that_are_off_are_unknown() {
    use Extension::*;
    for (extension, line, code) in [
        (Size, "MAIL FROM:<a@c.example> SIZE=1", 555),
        (EightBitMime, "MAIL FROM:<a@c.example> BODY=8BITMIME", 555),
        (SmtpUtf8, "MAIL FROM:<\u{fc}@c.example> SMTPUTF8", 555),
        (Dsn, "MAIL FROM:<a@c.example> RET=FULL", 555),
        (Dsn, "MAIL FROM:<a@c.example> ENVID=a", 555),
        (RequireTls, "MAIL FROM:<a@c.example> REQUIRETLS", 555),
        (DeliverBy, "MAIL FROM:<a@c.example> BY=60;R", 555),
        (FutureRelease, "MAIL FROM:<a@c.example> HOLDFOR=60", 555),
        (MtPriority, "MAIL FROM:<a@c.example> MT-PRIORITY=3", 555),
        (Vrfy, "VRFY a", 502),
        (Help, "HELP", 502),
        (Auth, "AUTH PLAIN", 502),
        (Scram, "AUTH SCRAM-SHA-256", 504),
    ] {
        let mut with = options(true);
        with.trusted = true;
        let mut off = with.clone();
        off.extensions = Extensions::without(&[extension]);
        for (options, on) in [(with, true), (off, false)] {
            let mut server = Server::new(options);
            server.tls_started(None);
            let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
            let told = hello.contains(extension.name());
            assert_eq!(told, on && !matches!(extension, Vrfy | Help), "{extension}");
            let got = codes(&talk(&mut server, format!("{line}\r\n").as_bytes()).0);
            assert_eq!(got == [code], !on, "{line}: {got:?}");
        }
    }
    let mut off = options(false);
    off.extensions = Extensions::without(&[EnhancedStatusCodes, Pipelining, Limits, StartTls]);
    let mut server = Server::new(off);
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(hello.ends_with("250-CHUNKING\r\n250 DSN\r\n"), "{hello}");
    assert_eq!(talk(&mut server, b"NOOP\r\n").0, "250 OK\r\n");
}

#[test]
fn strangers_have_no_use_for_what_is_for_users() {
    let mut server = greeted();
    for line in ["BY=60;N", "HOLDFOR=60", "MT-PRIORITY=3", "REQUIRETLS"] {
        let line = format!("MAIL FROM:<a@c.example> {line}\r\n");
        assert_eq!(
            codes(&talk(&mut server, line.as_bytes()).0),
            [555],
            "{line}"
        );
    }
    let mut server = logged_in();
    server.at(1_767_225_600_000);
    for (parameter, code) in [
        ("BY=60;N", 250),
        ("BY=60;R REQUIRETLS MT-PRIORITY=-9", 250),
        ("HOLDFOR=3600", 250),
        ("HOLDFOR=3601", 501),
        ("HOLDUNTIL=2026-01-01T00:59:00Z", 250),
        ("HOLDUNTIL=2026-01-01T01:01:00Z", 501),
        ("HOLDUNTIL=2025-12-31T23:59:59Z", 501),
    ] {
        let line = format!("MAIL FROM:<u@e.example> {parameter}\r\n");
        assert_eq!(
            codes(&talk(&mut server, line.as_bytes()).0),
            [code],
            "{line}"
        );
        let _ = talk(&mut server, b"RSET\r\n");
    }
    let (hello, _) = talk(&mut server, b"EHLO c.example\r\n");
    assert!(hello.contains("250-FUTURERELEASE 3600 2026-01-01T01:00:00Z\r\n"));
}

#[test]
fn smtputf8_lets_addresses_of_a_transaction_be_beyond_ascii() {
    let mut server = greeted();
    for (line, code) in [
        ("MAIL FROM:<j\u{fc}rgen@c.example>", 553),
        ("MAIL FROM:<j\u{fc}rgen@c.example> SMTPUTF8", 250),
        ("RCPT TO:<b\u{fc}cher@example.org>", 250),
        (
            "RCPT TO:<b@EXAMPLE.org> ORCPT=utf-8;b\u{fc}@example.org",
            250,
        ),
        ("VRFY j\u{fc}rgen", 553),
        ("VRFY j\u{fc}rgen SMTPUTF8", 252),
        ("RCPT TO:<c@example.org>", 250),
        ("RSET", 250),
        ("MAIL FROM:<a@c.example>", 250),
        ("RCPT TO:<b\u{fc}cher@example.org>", 553),
    ] {
        let bytes = format!("{line}\r\n");
        assert_eq!(
            codes(&talk(&mut server, bytes.as_bytes()).0),
            [code],
            "{line}"
        );
    }
}

#[test]
fn xclient_is_for_proxies_of_ours_and_starts_over() {
    let mut server = greeted();
    let line = b"XCLIENT ADDR=127.0.0.1 LOGIN=admin\r\n";
    assert_eq!(codes(&talk(&mut server, line).0), [502]);
    let mut proxied = options(false);
    proxied.xclient = true;
    let mut server = Server::new(proxied);
    let (hello, _) = talk(&mut server, b"EHLO proxy.example\r\n");
    assert!(hello.ends_with("250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n"));
    let mut input = BytesMut::from(
        &b"XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=4711 LOGIN=U@e.example\r\n"[..],
    );
    let mut out = Vec::new();
    let step = server.next(&mut input, &mut out);
    let expected = Xclient {
        address: Some("2001:db8::7".parse().expect("address")),
        port: Some(4711),
        login: Some("u@e.example".into()),
    };
    assert_eq!(step, Step::Xclient(expected));
    server.client_changed(false, Some("u@e.example".into()), &mut out);
    assert_eq!(out, b"220 mx.example.org ESMTP chapar\r\n");
    assert_eq!(
        codes(&talk(&mut server, b"MAIL FROM:<a@b.example>\r\n").0),
        [503]
    );
    for bad in ["ADDR=300.1.1.1", "PORT=x", "COLOUR=red", "ADDR"] {
        let line = format!("XCLIENT {bad}\r\n");
        assert_eq!(codes(&talk(&mut server, line.as_bytes()).0), [501], "{bad}");
    }
}
