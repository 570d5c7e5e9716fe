//! Who may send what to whom, on a real directory of domains.

use queue_schema::Ret;

use super::*;
use crate::config::files;
use crate::smtp::params::{By, Mail};
use chapar_base::net::{Network, is_in};

fn identity() -> Identity {
    let dir = tempfile::tempdir().expect("directory");
    let domain = dir.path().join("domains/example.org");
    let lonely = dir.path().join("domains/send.example");
    std::fs::create_dir_all(&domain).expect("directory");
    std::fs::create_dir_all(&lonely).expect("directory");
    std::fs::write(domain.join("domain.toml"), "mode = \"forward\"\n").expect("domain");
    let hash = crate::identity::password::hash(b"correct horse").expect("hash");
    let users = format!("\"me@example.org\" = {{ password = \"{hash}\" }}\n");
    files::create(&domain.join("users.toml"), users.as_bytes(), 0o600).expect("users");
    let aliases = "sales: a@one.example, b@two.example\nme: me@box.example\n";
    std::fs::write(domain.join("aliases"), aliases).expect("aliases");
    std::fs::write(lonely.join("domain.toml"), "mode = \"send-only\"\n").expect("domain");
    Identity::load(dir.path(), "").expect("identity")
}

fn address(text: &str) -> Address {
    Address::parse(text.as_bytes()).expect("address")
}

const ME: Client<'_> = Client::User("me@example.org");

#[test]
fn i11_mail_for_others_is_accepted_only_from_users_and_networks() {
    let identity = identity();
    let judge = |client, to| {
        recipient(&identity, client, &address(to), None).map_err(|r| (r.code, r.enhanced))
    };
    let stranger = "x@elsewhere.example";
    assert_eq!(judge(Client::Outside, stranger), Err((550, "5.7.1")));
    assert_eq!(judge(ME, stranger), Ok(vec![stranger.to_owned()]));
    assert_eq!(
        judge(Client::Network, stranger),
        Ok(vec![stranger.to_owned()])
    );
    for trick in [
        "x%elsewhere.example@example.org",
        "elsewhere.example!x@example.org",
        "\"x@elsewhere.example\"@example.org",
    ] {
        assert_eq!(
            judge(Client::Outside, trick),
            Err((550, "5.1.1")),
            "{trick}"
        );
    }
    assert_eq!(
        judge(Client::Outside, "nobody@example.org"),
        Err((550, "5.1.1"))
    );
    assert_eq!(
        judge(Client::Outside, "x@send.example"),
        Err((550, "5.7.1"))
    );
    assert_eq!(
        judge(ME, "x@send.example"),
        Ok(vec!["x@send.example".to_owned()])
    );
    let sales = vec!["a@one.example".to_owned(), "b@two.example".to_owned()];
    assert_eq!(judge(Client::Outside, "Sales@Example.org"), Ok(sales));
    let networks: Vec<Network> = vec!["127.0.0.0/8".parse().expect("network")];
    assert!(is_in(
        &networks,
        "::ffff:127.0.0.1".parse().expect("address")
    ));
    assert!(!is_in(&networks, "::1".parse().expect("address")));
}

#[test]
fn users_send_as_themselves() {
    let identity = identity();
    let judge = |from: &str| sender(&identity, ME, Some(&address(from))).map_err(|r| r.code);
    assert_eq!(judge("me@example.org"), Ok(()));
    assert_eq!(judge("Me+tag@example.org"), Ok(()));
    assert_eq!(judge("you@example.org"), Err(553));
    assert_eq!(sender(&identity, ME, None), Ok(()));
    assert_eq!(
        sender(
            &identity,
            Client::Outside,
            Some(&address("you@example.org"))
        ),
        Ok(())
    );
}

fn header_of(client: Client<'_>, head: &str) -> Result<Header, (u16, &'static str)> {
    let limits = Limits::default();
    let head = head.as_bytes().to_vec();
    let recipients = [Rcpt::new(address("b@example.org"))];
    let received = Received {
        limits: &limits,
        hostname: "mx.example.org",
        recipients: &recipients,
        author: None,
        id: QueueId(1),
        at: 0,
    };
    header(&identity(), client, head, &received).map_err(|reply| (reply.code, reply.enhanced))
}

#[test]
fn headers_of_users_are_checked_and_completed() {
    let header =
        header_of(ME, "From: Me <me@example.org>\r\nBcc: x@y.example\r\n\r\n").expect("header");
    assert_eq!(header.sign_for.as_deref(), Some("example.org"));
    let head = String::from_utf8(header.head).expect("text");
    assert!(
        head.starts_with("From: Me <me@example.org>\r\nDate: ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(head.contains("Message-ID: <0000000000001@mx.example.org>") && !head.contains("Bcc"));
    let several = "From: me@example.org, me+x@example.org\r\n\r\n";
    let head = header_of(ME, several).expect("header").head;
    let head = String::from_utf8(head).expect("text");
    assert!(head.contains("\r\nSender: me@example.org\r\n"), "{head}");
    for (head, expected) in [
        ("From: you@example.org\r\n\r\n", (553, "5.7.1")),
        (
            "From: me@example.org\r\nFrom: me@example.org\r\n\r\n",
            (550, "5.6.0"),
        ),
        (
            "From: me@example.org\r\nSender: you@example.org\r\n\r\n",
            (553, "5.7.1"),
        ),
        (
            "From: me@example.org\r\nSender: a@b.example, c@d.example\r\n\r\n",
            (550, "5.6.0"),
        ),
        ("Subject: x\r\n\r\n", (550, "5.6.0")),
        ("From: nobody\r\n\r\n", (550, "5.7.1")),
        (
            "From: <you@example.org.>, <me@example.org>\r\n\r\n",
            (550, "5.7.1"),
        ),
        (
            "From: \"you\"@example.org, me@example.org\r\n\r\n",
            (553, "5.7.1"),
        ),
        ("no header at all\r\n\r\n", (550, "5.6.0")),
    ] {
        assert_eq!(header_of(ME, head), Err(expected), "{head}");
    }
}

#[test]
fn mail_goes_on_until_it_loops() {
    let loops = format!("{}\r\n", "Received: x\r\n".repeat(50));
    assert_eq!(header_of(Client::Network, &loops), Err((554, "5.4.6")));
    let own = |name: &str, to: &str| {
        format!(
            "Received: from a.example ([192.0.2.1])\r\n\tby {name} with ESMTP id 1\r\n\t\
             for <{to}>;\r\n\tMon, 24 Nov 2025 16:00:00 +0000\r\n"
        )
    };
    let once = format!("{}\r\n", own("MX.example.org", "b@example.org"));
    assert_eq!(header_of(Client::Network, &once), Err((554, "5.4.6")));
    for pass in [
        own("mx.example.org", "c@example.org"),
        own("mx.example.net", "b@example.org"),
        own("mx.example.org", "c@example.org").repeat(4),
    ] {
        assert!(header_of(Client::Network, &format!("{pass}\r\n")).is_ok());
    }
    let often = own("mx.example.org", "c@example.org").repeat(5);
    let often = format!("{often}\r\n");
    assert_eq!(header_of(Client::Network, &often), Err((554, "5.4.6")));
    let nearly = format!("{}\r\n", "Received: x\r\n".repeat(49));
    assert!(header_of(Client::Network, &nearly).is_ok());
}

#[test]
fn recipients_that_lead_to_one_address_are_one() {
    let transaction = Transaction {
        mail: Mail {
            envid: Some("id".into()),
            ret: Some(Ret::Headers),
            smtputf8: true,
            require_tls: true,
            hold: Some(Hold::For(60)),
            by: Some(By {
                seconds: 120,
                give_up: true,
                trace: false,
            }),
            priority: Some(3),
            ..Mail::default()
        },
        recipients: vec![
            Rcpt {
                orcpt: Some("rfc822;x@example.org".into()),
                ..Rcpt::new(address("a@example.org"))
            },
            Rcpt::new(address("b@example.org")),
        ],
        chunks: None,
    };
    let targets = [
        vec!["x@y.example".to_owned(), "b@example.org".to_owned()],
        vec!["b@example.org".to_owned()],
    ];
    let envelope = envelope(&transaction, &targets, b"Subject: x\r\n\r\n", true, 1000);
    let list: Vec<_> = envelope
        .recipients
        .iter()
        .map(|r| (r.address.as_str(), r.alias_of.as_deref()))
        .collect();
    assert_eq!(
        list,
        [
            ("x@y.example", Some("a@example.org")),
            ("b@example.org", Some("a@example.org"))
        ]
    );
    assert_eq!(
        (envelope.reverse_path.as_str(), envelope.body),
        ("", BodyKind::EightBit)
    );
    let orcpts: Vec<_> = envelope
        .recipients
        .iter()
        .map(|r| r.orcpt.as_deref())
        .collect();
    assert_eq!(orcpts, [Some("rfc822;x@example.org"); 2]);
    assert_eq!(
        (envelope.envid.as_deref(), envelope.ret),
        (Some("id"), Some(Ret::Headers))
    );
    assert!(envelope.require_tls);
    assert_eq!(envelope.release_at, Some(61_000));
    let by = envelope.deliver_by.map(|by| (by.at, by.give_up));
    assert_eq!((by, envelope.priority), (Some((121_000, true)), 3));
    assert!(!envelope.smtputf8, "declared, but nothing is beyond ASCII");
    let utf8 = super::envelope(
        &transaction,
        &targets,
        "Subject: ü\r\n".as_bytes(),
        true,
        1000,
    );
    assert!(utf8.smtputf8);
}
