//! Messages and changes with everything in them that a version knows.

use queue_schema::{
    BodyKind, BodyPlace, Change, DeliverBy, Envelope, Event, EventKind, Hold, HoldKind, Location,
    Message, Notify, Older, Origin, QueueId, Recipient, RecipientState, Reply, Ret, Spooled, Stamp,
    Status, Suspended,
};

pub const STAMP: Stamp = Stamp {
    segment: 5,
    salt: 0x1234_5678,
};
pub const HEAD: &[u8] = b"From: a@example.org\r\nSubject: hello\r\n\r\n";
pub const BODY: &[u8] = b"a body\r\nwith \xC5hq\x01 in it\r\n";

pub fn message() -> Message {
    let tried = RecipientState {
        status: Status::Waiting,
        attempts: 3,
        next_due: 1_700_000_900_000,
        last_attempt: 1_700_000_600_000,
        last_reply: Some(Reply {
            code: 451,
            enhanced: "4.7.1".into(),
            text: "greylisted, try again in 300 seconds".into(),
            remote: "mx.example.net[192.0.2.7]:25".into(),
        }),
        warned: true,
        ..RecipientState::new(0)
    };
    let untried = RecipientState {
        warned: true,
        ..RecipientState::new(1_700_000_000_000)
    };
    Message {
        id: QueueId::floor(1_700_000_000_000_000),
        arrived: 1_700_000_000_000,
        origin: Origin::User {
            user: "a@example.org".into(),
            client: "2001:db8::7".parse().unwrap(),
        },
        envelope: Envelope {
            forwarded_as: Some("SRS0=abcdefgh=aa=example.org=a@example.com".into()),
            reverse_path: "a@example.org".into(),
            recipients: vec![
                Recipient {
                    address: "b@example.net".into(),
                    alias_of: None,
                    notify: Notify::default(),
                    orcpt: Some("rfc822;b@example.net".into()),
                },
                Recipient {
                    address: "c@example.com".into(),
                    alias_of: Some("list@example.org".into()),
                    notify: Notify {
                        success: true,
                        failure: false,
                        delay: false,
                    },
                    orcpt: None,
                },
            ],
            body: BodyKind::EightBit,
            smtputf8: true,
            require_tls: true,
            ret: Some(Ret::Headers),
            envid: Some("envelope-1".into()),
            release_at: Some(1_700_000_100_000),
            deliver_by: Some(DeliverBy {
                at: 1_700_000_900_000,
                give_up: true,
            }),
            priority: -3,
        },
        size: (HEAD.len() + BODY.len()) as u64,
        location: Location {
            segment: 5,
            offset: 0,
            length: 0,
            head: 0,
            body: BodyPlace::Inline,
        },
        states: vec![tried, untried],
        story: Vec::new(),
        message_id: String::new(),
        subject: String::new(),
        top: String::new(),
    }
}

pub fn event(kind: EventKind, at: u64) -> Event {
    Event {
        at,
        kind,
        recipients: vec![0, 1],
        text: "451 4.7.1 greylisted".into(),
        remote: "mx.example.net[192.0.2.7]:25".into(),
        tls: "TLSv1.3 TLS13_AES_256_GCM_SHA384".into(),
        by: String::new(),
    }
}

/// A message with what version 2 added.
pub fn message2() -> Message {
    let mut message = message();
    message.story = vec![
        event(EventKind::Deferred, 1_700_000_600_000),
        Event {
            by: "root".into(),
            ..event(EventKind::Imported, 1_700_000_700_000)
        },
    ];
    message
}

pub fn hold(kind: HoldKind, by: &str, until: Option<u64>) -> Hold {
    Hold {
        kind,
        by: by.into(),
        reason: "a stolen password".into(),
        since: 1_700_000_100_000,
        until,
    }
}

/// A message with what version 3 added.
pub fn message3() -> Message {
    let mut message = message2();
    message.message_id = "<one@example.org>".into();
    message.subject = "hello".into();
    message.top = "ARC-Seal: i=1; cv=none\r\n".into();
    message.states[0].warned = false;
    message.states[0].holds = vec![
        hold(HoldKind::Operator, "root", None),
        hold(HoldKind::Quarantine, "rspamd", Some(1_700_000_200_000)),
        hold(HoldKind::Order, "7", Some(1_700_000_300_000)),
    ];
    message.states[1].suspended = Some(Suspended {
        destination: "*.example.com".into(),
        by: "root (uid 0)".into(),
        reason: "they asked for it".into(),
        until: 1_700_000_400_000,
        slowed_to: String::new(),
    });
    message
        .story
        .push(event(EventKind::Suspended, 1_700_000_750_000));
    message
}

pub fn spooled_from(mut message: Message) -> Message {
    message.id = QueueId(message.id.0 + 1);
    message.origin = Origin::Dsn {
        about: QueueId(77),
        since: 1_699_999_999_999,
    };
    message.envelope.reverse_path.clear();
    message.location.body = BodyPlace::Spool(Spooled {
        name: message.id.to_string(),
        length: 1 << 20,
        crc: 0xCAFE_F00D,
    });
    message
}

/// What versions 1 and 2 said in the change of the golden files.
pub const OLDER: Older = Older {
    warned: Some(true),
    held: Some(false),
};

pub fn change() -> Change {
    Change {
        recipients: vec![
            (
                0,
                RecipientState {
                    status: Status::Bounced,
                    warned: false,
                    ..message().states[0].clone()
                },
            ),
            (
                1,
                RecipientState {
                    status: Status::Delivered,
                    ..RecipientState::new(9)
                },
            ),
        ],
        by: "root".into(),
        older: Some(OLDER),
        ..Change::default()
    }
}

pub fn change2() -> Change {
    let mut redirected = message().envelope.recipients[1].clone();
    redirected.address = "d@example.org".into();
    Change {
        redirected: vec![(1, redirected)],
        story: vec![event(EventKind::Redirected, 1_700_000_800_000)],
        ..change()
    }
}

pub fn change3() -> Change {
    let [first, second] = &message3().states[..] else {
        panic!("two recipients")
    };
    Change {
        recipients: vec![(0, first.clone()), (1, second.clone())],
        added: Some((
            2,
            vec![(Recipient::new("e@example.org"), RecipientState::new(7))],
        )),
        forwarded_as: Some(Some("SRS0=zyxwvuts=aa=example.org=a@example.com".into())),
        top: Some("ARC-Seal: i=2; cv=pass\r\n".into()),
        story: vec![event(EventKind::Requeued, 1_700_000_850_000)],
        older: None,
        ..change2()
    }
}
