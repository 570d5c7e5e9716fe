use std::time::Duration;

use super::verdict::{Verdict, follow};
use crate::config::providers::{Action, Provider, Providers};
use crate::queue::Outcome;
use crate::smtp::reply::Reply;

fn of<'a>(providers: &'a Providers, host: &str) -> &'a Provider {
    providers.of(std::iter::once(host))
}

/// The rule a reply of a host falls under and what it does; `code enhanced text`.
fn rule(host: &str, said: &str) -> (String, Action) {
    let providers = Providers::default();
    let mut words = said.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (code, enhanced, text) = (word(), word(), word());
    let reply = Reply::new(code.parse().expect("a code"), enhanced, text);
    match of(&providers, host).rule(&reply) {
        Some(rule) => (rule.name.clone(), rule.action),
        None => ("none".to_owned(), Action::Temporary),
    }
}

fn expect(host: &str, list: &[(&str, &str, Action)]) {
    for (said, name, action) in list {
        assert_eq!(rule(host, said), ((*name).to_owned(), *action), "{said}");
    }
}

#[test]
fn providers_by_their_hosts() {
    let providers = Providers::default();
    for (host, name) in [
        ("gmail-smtp-in.l.google.com", "google"),
        ("aspmx.l.google.com", "google"),
        ("aspmx2.googlemail.com", "google"),
        ("smtp.google.com", "google"),
        ("notgoogle.com", "default"),
        ("google.com.example.org", "default"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx-aol.mail.gm0.yahoodns.net", "yahoo"),
        ("hotmail-com.olc.protection.outlook.com", "outlook"),
        ("example-org.mail.protection.outlook.com", "office365"),
        ("example-org.a-v1.mx.microsoft", "office365"),
        ("mx01.mail.icloud.com", "icloud"),
        ("mx00.gmx.net", "gmx"),
        ("mx-ha02.web.de", "gmx"),
        ("mx1a1.comcast.net", "comcast"),
        ("smtp-in.orange.fr", "orange"),
        ("mx1.mail.yahoo.co.jp", "yahoo-japan"),
        ("mx.kpnmail.nl", "kpn"),
        ("mx1.qq.com", "qq"),
        ("163mx01.mxmail.netease.com", "163"),
        ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
        ("mx0a-00000000.pphosted.com", "proofpoint"),
        ("d000000a.ess.barracudanetworks.com", "barracuda"),
        ("mx.example.org", "default"),
    ] {
        assert_eq!(of(&providers, host).name, name, "{host}");
    }
    // A domain that has hosts of two providers is neither's.
    let both = ["aspmx.l.google.com", "mx.example.org"];
    assert_eq!(providers.of(both.into_iter()).name, "default");
    assert_eq!(providers.of(std::iter::empty()).name, "default");
}

#[test]
fn limits_of_providers() {
    let providers = Providers::default();
    let limits = |host| {
        let provider = of(&providers, host);
        (provider.connections, provider.messages, provider.recipients)
    };
    for (host, connections, messages, recipients) in [
        ("aspmx.l.google.com", 5, 50, 100),
        ("mta5.am0.yahoodns.net", 20, 20, 100),
        ("a.olc.protection.outlook.com", 5, 50, 100),
        ("a.mail.protection.outlook.com", 5, 50, 100),
        ("a.b-v1.mx.microsoft", 5, 50, 100),
        ("mx01.mail.icloud.com", 10, 5, 100),
        ("mx00.gmx.net", 4, 20, 50),
        ("mx1a1.comcast.net", 25, 1000, 100),
        ("smtp-in.orange.fr", 2, 100, 50),
        ("eu-smtp-inbound-1.mimecast.com", 10, 100, 100),
        ("mx1.mail.yahoo.co.jp", 2, 20, 50),
        ("mx.kpnmail.nl", 10, 10, 100),
        ("mx1.qq.com", 4, 8, 20),
        ("163mx01.mxmail.netease.com", 4, 7, 20),
        ("d000000a.ess.barracudanetworks.com", 10, 15, 100),
    ] {
        let expected = (Some(connections), Some(messages), Some(recipients));
        assert_eq!(limits(host), expected, "{host}");
    }
    assert_eq!(limits("mx.example.org"), (None, None, None));
    for (host, demanded) in [
        ("aspmx.l.google.com", true),
        ("mx1a1.comcast.net", true),
        ("mx-ha02.web.de", true),
        ("smtp-in.orange.fr", true),
        ("mta5.am0.yahoodns.net", false),
        ("mx.example.org", false),
    ] {
        assert_eq!(of(&providers, host).require_tls, demanded, "{host}");
    }
    assert!(of(&providers, "aspmx.l.google.com").one_domain);
    assert!(!of(&providers, "mta5.am0.yahoodns.net").one_domain);
}

const GOOGLE: &str = "aspmx.l.google.com";

#[test]
fn gmail_421_4_7_28_unusual_rate_slows() {
    for scope in [
        "from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited.",
        "from your IP Netblock. mail sent from your IP Netblock has been temporarily rate limited.",
        "originating from your DKIM domain [example.org 36]. To protect our users from spam, mail has been temporarily rate limited",
        "originating from your SPF domain [example.org 36].",
        "containing one of your URL domains",
    ] {
        let said =
            format!("421 4.7.28 Gmail has detected an unusual rate of unsolicited mail {scope}");
        expect(GOOGLE, &[(&said, "unusual-rate", Action::Slow)]);
    }
    let providers = Providers::default();
    let reply = Reply::new(421, "4.7.28", "an unusual rate of unsolicited mail");
    let rule = of(&providers, GOOGLE).rule(&reply).expect("a rule");
    assert_eq!(rule.connections, Some(1));
    assert_eq!(rule.rate.expect("a rate").to_string(), "10/m");
    assert_eq!(rule.lasts, Duration::from_secs(3600));
    // Said five times in an hour, it pauses.
    let counting: Vec<_> = of(&providers, GOOGLE).counting(&reply).collect();
    let [again] = &counting[..] else {
        panic!("one rule that counts: {counting:?}")
    };
    assert!(again.pause && again.after == 5, "{again:?}");
}

#[test]
fn gmail_421_4_7_28_same_message_id_waits() {
    let said = "421 4.7.28 Gmail has detected this message exceeded its quota for sending messages with the same Message-ID.";
    expect(GOOGLE, &[(said, "same-message-id", Action::Temporary)]);
}

#[test]
fn gmail_421_4_7_0() {
    expect(
        GOOGLE,
        &[
            (
                "421 4.7.0 [192.0.2.1 15] Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
                "unusual-rate",
                Action::Slow,
            ),
            (
                "421 4.7.0 This message is suspicious due to the very low reputation of the sending IP address.",
                "reputation",
                Action::Slow,
            ),
            (
                "421 4.7.0 Try again later, closing connection.",
                "try-again-later",
                Action::Slow,
            ),
            (
                "421 4.7.0 Connection expired, try reconnecting.",
                "transport",
                Action::Temporary,
            ),
            (
                "421 4.7.0 The IP address sending this message does not have a PTR record setup.",
                "no-ptr",
                Action::Alarm,
            ),
        ],
    );
}

#[test]
fn gmail_450_and_421_4_2_1_concern_one_mailbox() {
    expect(
        GOOGLE,
        &[
            (
                "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
                "recipient-too-fast",
                Action::Mailbox,
            ),
            (
                "452 4.2.2 The recipient's inbox is out of storage space.",
                "over-quota",
                Action::Mailbox,
            ),
        ],
    );
}

#[test]
fn gmail_451_4_3_0() {
    expect(
        GOOGLE,
        &[
            (
                "451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.",
                "multiple-domains",
                Action::Temporary,
            ),
            (
                "421 4.3.0 Temporary System Problem. Try again later.",
                "transport",
                Action::Temporary,
            ),
            (
                "451 4.3.0 Mail server temporarily rejected message.",
                "transport",
                Action::Temporary,
            ),
            (
                "452 4.5.3 Your message has too many recipients.",
                "too-many-recipients",
                Action::Temporary,
            ),
        ],
    );
}

#[test]
fn gmail_5_7_26_and_friends_are_alarms() {
    expect(
        GOOGLE,
        &[
            (
                "550 5.7.26 This mail has been blocked because the sender is unauthenticated.",
                "unauthenticated",
                Action::Alarm,
            ),
            (
                "421 4.7.26 This mail has been rate limited because the sender is unauthenticated.",
                "unauthenticated",
                Action::Alarm,
            ),
            ("550 5.7.27 SPF did not pass", "spf", Action::Alarm),
            ("421 4.7.27 SPF did not pass", "spf", Action::Alarm),
            ("550 5.7.30 DKIM did not pass", "dkim", Action::Alarm),
            ("421 4.7.30 DKIM did not pass", "dkim", Action::Alarm),
            ("550 5.7.32 From is not aligned", "alignment", Action::Alarm),
            ("421 4.7.32 From is not aligned", "alignment", Action::Alarm),
            ("550 5.7.40 no DMARC record", "alignment", Action::Alarm),
            ("421 4.7.29 not over TLS", "no-tls", Action::Alarm),
            ("550 5.7.29 not over TLS", "no-tls", Action::Alarm),
            (
                "550 5.7.25 The IP address does not have a PTR record",
                "no-ptr",
                Action::Alarm,
            ),
            (
                "421 4.7.23 does not have a PTR record, or the PTR does not match",
                "no-ptr",
                Action::Alarm,
            ),
        ],
    );
    // Rules of one provider alone are not those of another.
    assert_eq!(
        rule("mx.example.org", "550 5.7.30 DKIM did not pass").0,
        "none"
    );
}

#[test]
fn gmail_rates_that_are_refused_are_no_bad_addresses() {
    expect(
        GOOGLE,
        &[
            (
                "550 5.7.28 unusual rate of mail",
                "rate-refused",
                Action::Pause,
            ),
            (
                "550 5.7.1 this mail has been rate limited",
                "rate-refused-old",
                Action::Pause,
            ),
        ],
    );
    // What is about the address or the message is no rule's.
    for said in [
        "550 5.1.1 The email account that you tried to reach does not exist.",
        "550 5.2.1 The email account that you tried to reach is disabled.",
        "550 5.7.1 This message is not RFC 5322 compliant.",
        "552 5.2.2 The recipient's inbox is out of storage space and inactive.",
        "554 5.6.0 Mail message is malformed. Not accepted.",
    ] {
        assert_eq!(rule(GOOGLE, said).0, "none", "{said}");
    }
}

#[test]
fn replies_of_other_providers() {
    let yahoo = "mta5.am0.yahoodns.net";
    expect(
        yahoo,
        &[
            (
                "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
                "ts-pause",
                Action::Pause,
            ),
            ("421 4.7.0 [TS05] deferred", "ts-pause-long", Action::Pause),
            ("421 4.7.0 [TS03] deferred", "ts03", Action::Slow),
            (
                "553 5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred",
                "never",
                Action::Permanent,
            ),
            (
                "550 5.7.9 This mail has been blocked because the sender is unauthenticated.",
                "unauthenticated",
                Action::Alarm,
            ),
            (
                "552 5.2.0 1 Requested mail action aborted, mailbox not found",
                "mailbox-not-found",
                Action::Permanent,
            ),
        ],
    );
    for host in [
        "a.olc.protection.outlook.com",
        "a.mail.protection.outlook.com",
    ] {
        expect(
            host,
            &[
                (
                    "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).",
                    "blocked",
                    Action::Pause,
                ),
                (
                    "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)",
                    "rate-limited",
                    Action::Pause,
                ),
                (
                    "451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections.",
                    "too-many-connections",
                    Action::Slow,
                ),
                (
                    "451 4.7.500 Server busy. Please try again later from [192.0.2.1].",
                    "busy",
                    Action::Pause,
                ),
                (
                    "550 5.7.515 Access denied, sending domain EXAMPLE.ORG does not meet the required authentication level.",
                    "unauthenticated",
                    Action::Alarm,
                ),
            ],
        );
    }
    expect(
        "mx01.mail.icloud.com",
        &[("554 5.7.1 [HCM1] rejected", "limited", Action::Pause)],
    );
    expect(
        "mx1a1.comcast.net",
        &[
            ("421 4.1.0 RL000010 limited", "rate-hard", Action::Pause),
            ("421 4.1.0 RL000001 limited", "rate", Action::Slow),
        ],
    );
    expect(
        "smtp-in.orange.fr",
        &[(
            "421 4.0.0 Trop de connexions, veuillez verifier votre configuration",
            "too-many-connections",
            Action::Slow,
        )],
    );
    expect(
        "mx.example.org",
        &[
            (
                "451 4.7.1 Messages from 192.0.2.1 temporarily deferred",
                "deferred-address",
                Action::Slow,
            ),
            ("550 5.7.25 no reverse DNS", "no-ptr", Action::Alarm),
        ],
    );
}

/// Words inside other words, and words of mailboxes, mean nothing.
#[test]
fn d10_rules_meet_words_and_no_parts_of_words() {
    for (host, said) in [
        (
            "mx0a-00000000.pphosted.com",
            "450 4.1.1 <x@corporate.example>: user unknown",
        ),
        (
            "mx0a-00000000.pphosted.com",
            "451 4.3.0 the accelerate.example relay is down",
        ),
        (
            "mx00.gmx.net",
            "451 4.3.0 corporate limits of x@operate.example",
        ),
        ("mx1.qq.com", "550 5.1.1 recipient over its limit"),
        ("mx1.qq.com", "451 4.3.0 infrequencytest"),
        (
            "d000000a.ess.barracudanetworks.com",
            "451 4.3.0 corporate controls",
        ),
        (
            "gmail-smtp-in.l.google.com",
            "421 4.7.0 busybody@example.org is unknown",
        ),
        ("mta5.am0.yahoodns.net", "550 5.7.9 nodmarchere"),
        (
            "eu-smtp-inbound-1.mimecast.com",
            "451 4.3.0 presender.example",
        ),
        ("smtp-in.orange.fr", "421 4.0.0 selfservice refused"),
    ] {
        assert_eq!(rule(host, said).0, "none", "{said}");
    }
}

/// Replies as providers send them, each with the rule that means it.
#[test]
fn d10_replies_as_providers_send_them() {
    use Action::*;
    let google = "gmail-smtp-in.l.google.com";
    for (host, said, name, action) in [
        (
            "mx01.mail.icloud.com",
            "421 4.7.1 Messages to x@icloud.com deferred due to excessive volume. Try again later - https://support.apple.com/en-us/HT204137",
            "volume",
            Slow,
        ),
        (
            google,
            "421 4.7.0 Our system has detected that this message is suspicious due to the very low reputation of the sending IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited. Please visit https://support.google.com/mail/answer/188131",
            "reputation",
            Slow,
        ),
        (
            google,
            "421 4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited.",
            "unusual-rate",
            Slow,
        ),
        (
            google,
            "550 5.7.1 Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been blocked.",
            "rate-refused-old",
            Pause,
        ),
        (
            "mx0a-00000000.pphosted.com",
            "421 4.7.1 Too many connections from 192.0.2.1",
            "rate",
            Slow,
        ),
        (
            "mx0a-00000000.pphosted.com",
            "452 4.3.1 Sending rate exceeded, try again later",
            "rate",
            Slow,
        ),
        (
            "mx00.gmx.net",
            "450 4.7.0 Requested mail action not taken: rate limit exceeded",
            "rate",
            Slow,
        ),
        (
            "mx1.qq.com",
            "550 5.7.1 Mailbox unavailable or access denied: IP frequency limited",
            "frequency",
            Slow,
        ),
        (
            "d000000a.ess.barracudanetworks.com",
            "450 4.7.1 Rate control: too many messages",
            "rate",
            Slow,
        ),
        (
            "eu-smtp-inbound-1.mimecast.com",
            "451 4.7.1 Internal resources are temporarily unavailable - greylisted",
            "greylisted",
            Temporary,
        ),
        (
            "mta5.am0.yahoodns.net",
            "450 4.2.1 User is receiving mail too quickly",
            "recipient-too-fast",
            Mailbox,
        ),
        (
            "smtp-in.orange.fr",
            "421 4.0.0 smtp.orange.fr: Service refuse. Veuillez essayer plus tard. OFR_506",
            "limited",
            Pause,
        ),
    ] {
        assert_eq!(rule(host, said), (name.to_owned(), action), "{said}");
    }
}

/// The enhanced code may stand in any line of a reply.
#[test]
fn d10_the_code_of_any_line_counts() {
    let providers = Providers::default();
    let google = of(&providers, GOOGLE);
    for bytes in [
        "550-5.7.28 an unusual rate of mail\r\n550 see https://support.google.com\r\n",
        "550-5.7.1 blocked\r\n550-5.7.28 an unusual rate\r\n550 5.7.1 gsmtp\r\n",
    ] {
        let mut reader = crate::smtp::reply::ReplyReader::default();
        reader.push(bytes.as_bytes());
        let raw = reader.poll().expect("a reply").expect("a whole one");
        let rule = google.rule(&raw.to_reply()).expect("a rule");
        assert_eq!(rule.name, "rate-refused", "{bytes}");
    }
}

#[test]
fn a_file_of_ones_own_replaces_and_adds() {
    let providers = Providers::read(
        "[[provider]]\nname = \"google\"\nmx = [\"*.google.com\"]\nconnections = 1\n\
         [[provider]]\nname = \"mine\"\nmx = [\"mx.example.org\"]\nrate = \"10/m\"\n\
         [[provider.rule]]\nname = \"busy\"\ncode = 450\naction = \"pause\"\nfor = \"5m\"\n\
         reason = \"they are busy\"\n",
    )
    .expect("providers");
    assert_eq!(of(&providers, GOOGLE).connections, Some(1));
    let reply = Reply::new(421, "4.7.28", "unusual rate");
    assert!(of(&providers, GOOGLE).rule(&reply).is_none());
    let mine = of(&providers, "mx.example.org");
    let busy = mine.rule(&Reply::new(450, "", "x")).expect("a rule");
    assert_eq!(
        (busy.name.as_str(), busy.lasts),
        ("busy", Duration::from_secs(300))
    );
    assert_ne!(providers, Providers::default());
    assert_eq!(of(&providers, "mx1.qq.com").name, "qq");
}

#[test]
fn what_can_not_be_read_is_named() {
    let start = "[[provider]]\nname = \"a\"\nmx = [\"a\"]\n";
    let rule = format!("{start}[[provider.rule]]\nname = \"r\"\nreason = \"x\"\n");
    for (text, problem) in [
        ("x = 1".to_owned(), "unknown field"),
        (format!("{start}{start}"), "used twice"),
        (
            "[[provider]]\nname = \"A b\"\nmx = []\n".into(),
            "small letters",
        ),
        (format!("{start}rate = \"10\"\n"), "is no rate"),
        (format!("{start}like = \"b\"\n"), "is no provider"),
        (format!("{rule}action = \"pause\"\n"), "means every reply"),
        (
            format!("{rule}action = \"stop\"\ncode = 450\n"),
            "unknown variant",
        ),
        (
            format!("{rule}action = \"slow\"\ncode = 450\n"),
            "needs one of them",
        ),
        (
            format!("{rule}action = \"pause\"\ncode = 450\nconnections = 1\n"),
            "needs one of them",
        ),
        (
            format!("{rule}action = \"alarm\"\ncode = 450\n"),
            "a remedy",
        ),
        (format!("{rule}action = \"pause\"\ntext = \"(\"\n"), "text:"),
    ] {
        let found = Providers::read(&text).expect_err(&text).text;
        assert!(found.contains(problem), "{text}: {found}");
    }
}

#[test]
fn what_a_rule_makes_of_a_verdict() {
    let providers = Providers::default();
    let google = of(&providers, GOOGLE);
    let outcome = |code, enhanced, text, ours| {
        let reply = Reply::new(code, enhanced, text);
        let judged = match code {
            500.. => Verdict::failed(code, enhanced, text),
            _ => Verdict::deferred(code, enhanced, text),
        };
        follow(judged, google.rule(&reply).expect("a rule"), ours).outcome
    };
    let later = |secs: Option<u64>| Outcome::Deferred {
        retry_after: secs.map(Duration::from_secs),
        counts: true,
    };
    // R21: what is refused for good fails, whoever sent it; what is put off waits for us.
    assert_eq!(outcome(550, "5.7.26", "x", true), Outcome::Failed);
    assert_eq!(outcome(421, "4.7.26", "x", true), later(Some(3600)));
    assert_eq!(outcome(550, "5.7.26", "x", false), Outcome::Failed);
    assert_eq!(outcome(550, "5.7.25", "PTR", false), later(None));
    assert_eq!(outcome(550, "5.7.28", "x", true), later(None));
    assert_eq!(outcome(421, "4.7.28", "unusual rate", true), later(None));
    assert_eq!(outcome(450, "4.2.1", "x", true), later(Some(900)));
}
