//! Each mistake, its line and its remedy.

use std::path::Path;

use super::*;

fn problems(text: &str) -> Vec<String> {
    let parsed = Config::parse_all(text, "chapar.toml", Path::new("/etc/chapar"));
    parsed
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn each_mistake_names_line_and_remedy() {
    for (text, line, remedy) in [
        ("", 1, "missing field `hostname`"),
        ("hostname = \"localhost\"", 1, "such as mx.example.org"),
        ("\nhostname = \"192.0.2.1\"", 2, "such as mx.example.org"),
        ("hostname = \"mx..org\"", 1, "such as mx.example.org"),
        ("hostname = \"mx example.org\"", 1, "such as mx.example.org"),
        (
            "hostname = \"mx.example.org..\"",
            1,
            "such as mx.example.org",
        ),
        (
            "OK\n[tls]\ncertificate = \"/etc/ssl/mx.pem\"",
            3,
            "write tls.key too",
        ),
        (
            "OK\n[acme]\nenabled = true\n[tls]\nkey = \"k\"\ncertificate = \"c\"",
            6,
            "remove one of them",
        ),
        ("OK\npostmaster = \"me\"", 2, "write user@example.org"),
        ("OK\nrelay_networks = [\"0.0.0.0/0\"]", 2, "open relay"),
        (
            "OK\nrelay_networks = [\"10.0.0.0/8\", \"::/0\"]",
            2,
            "open relay",
        ),
        (
            "OK\nrelay_networks = [\"10.0.0.0/33\"]",
            2,
            "write 192.0.2.0/24",
        ),
        (
            "OK\n[[listen]]\nservice = \"mx\"\naddress = \":25\"",
            4,
            "write \"[::]:25\"",
        ),
        (
            "OK\n[[listen]]\naddress = \"mx.example.org:25\"\nservice = \"mx\"",
            3,
            "write \"[::]:25\"",
        ),
        (
            "OK\n[[listen]]\naddress = \"systemd:\"\nservice = \"mx\"",
            3,
            "FileDescriptorName=",
        ),
        (
            "OK\n[[listen]]\naddress = \"[::]:25\"\nservice = \"mx\"\ntls = \"none\"",
            5,
            "in clear",
        ),
        (
            "OK\n[[listen]]\naddress = \"systemd:mx\"\nservice = \"mx\"\ntls = \"none\"",
            5,
            "in clear",
        ),
        (
            "OK\n[[listen]]\naddress = \"[::]:25\"\nservice = \"mx\"\n[[listen]]\naddress = \"[::]:25\"\nservice = \"mx\"",
            6,
            "remove one",
        ),
        (
            "OK\n[[listen]]\naddress = \"[::]:25\"\nservice = \"imap\"",
            4,
            "`submission`",
        ),
        (
            "OK\n[[listen]]\naddress = \"[::]:25\"",
            2,
            "missing field `service`",
        ),
        (
            "OK\n[[route]]\nto = \"*.*\"\nvia = \"smtp://a\"",
            3,
            "write example.org",
        ),
        (
            "OK\n[[route]]\nto = \"*\"\nvia = \"uucp:a\"",
            4,
            "of no kind that is known",
        ),
        (
            "OK\n[[route]]\nto = \"*\"\nvia = \"lmtp://me@a\"",
            4,
            "has a user",
        ),
        (
            "OK\n[[route]]\nto = \"*\"\nvia = \"smtp://a:0\"",
            4,
            "smtp://relay.example.org:25",
        ),
        ("OK\n[dns]\nservers = [\"127.0.0.1:0\"]", 3, "write 53"),
        (
            "OK\n[dns]\nservers = [\"127.0.0.1\"]",
            3,
            "invalid socket address",
        ),
        ("OK\n[delivery]\nport = 0", 3, "write 25"),
        (
            "OK\n[delivery]\nsource = [\"192.0.2.1\", \"192.0.2.1\"]",
            3,
            "192.0.2.1 twice; keep one",
        ),
        (
            "OK\n[[warmup]]\naddress = \"192.0.2.1\"\nsince = \"2026-11-25\"",
            3,
            "add it to delivery.source",
        ),
        (
            "OK\n[delivery]\nsource = [\"192.0.2.1\"]\n[[warmup]]\naddress = \"192.0.2.1\"\n\
             since = \"2026-11-25\"\nshare = 0",
            7,
            "write 1 for one percent",
        ),
        (
            "OK\n[delivery]\nsource = [\"192.0.2.1\"]\n[[warmup]]\naddress = \"192.0.2.1\"\n\
             since = \"2026-11-25\"\ngrowth = 0.5",
            7,
            "such as 1.2",
        ),
        (
            "OK\n[delivery]\nsource = [\"192.0.2.1\"]\n[[warmup]]\naddress = \"192.0.2.1\"\n\
             since = \"yesterday\"",
            6,
            "is no day; write",
        ),
        (
            "OK\n[delivery]\nsource = [\"::\"]",
            3,
            "let the kernel choose",
        ),
        ("OK\n[delivery]\nconnections = 0", 3, "write 1 or more"),
        (
            "OK\n[delivery]\nconections = 9",
            3,
            "unknown field `conections`",
        ),
        ("OK\n[retry]\nfactor = 0.5", 3, "write 1 for equal waits"),
        ("OK\n[retry]\nfactor = nan", 3, "write 1 for equal waits"),
        (
            "OK\n[retry]\nfirst = \"5h\"",
            3,
            "longer than retry.longest = 4h",
        ),
        ("OK\n[retry]\ngive_up = \"never\"", 3, "write a span"),
        ("OK\n[retry]\nfirst = \"5\"", 3, "write 500ms, 90s"),
        ("OK\n[retry]\nwarn_after = \"0s\"", 3, "write 4h or never"),
        ("OK\n[timeouts]\nconnect = \"0s\"", 3, "write a span"),
        ("OK\n[limits]\ncommand_line = 100", 3, "write 512 or more"),
        ("OK\n[limits]\nmessage = \"0\"", 3, "write 1KiB or more"),
        ("OK\n[limits]\nmessage = \"50MB\"", 3, "write 512, 256KiB"),
        ("OK\nlimits.drain = \"never\"", 2, "write a span"),
        ("OK\n[limits\n", 2, ""),
    ] {
        let found = problems(&text.replace("OK", "hostname = \"mx.example.org\""));
        let [problem] = found.as_slice() else {
            panic!("{text}: {found:?}")
        };
        assert!(
            problem.starts_with(&format!("chapar.toml:{line}: ")),
            "{text}: {problem}"
        );
        assert!(problem.contains(remedy), "{text}: {problem}");
        assert!(!problem.contains('\n'), "{problem}");
    }
}

#[test]
fn several_mistakes_are_told_at_once() {
    let found = problems("hostname = \"mx\"\npostmaster = \"me\"\n[retry]\nfactor = 0\n");
    assert_eq!(found.len(), 3, "{found:?}");
    let text = "hostname = \"mx\"\npostmaster = \"me\"\n";
    let first = Config::parse(text, "x", Path::new("")).expect_err("first");
    assert_eq!(first.line, Some(1));
}

#[test]
fn a_good_file_passes_and_serving_needs_a_listener() {
    let text = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\npostmaster = \"me@gmail.example\"\n\
         relay_networks = [\"10.0.0.0/8\", \"fc00::/7\"]\n[delivery]\nsource = [\"192.0.2.1\", \"2001:db8::1\"]\n";
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nservice = \"mx\"\ntls = \"none\"\n\
         [[listen]]\naddress = \"systemd:submission\"\nservice = \"submission\"\n\
         [[route]]\nto = \"*.corp.example\"\nvia = \"smtp://[2001:db8::2]:26\"\n";
    let parse = |text: &str| Config::parse(text, "chapar.toml", Path::new("/etc/chapar"));
    let bare = parse(text).expect("good");
    assert_eq!(bare.data_dir, Path::new("/etc/chapar/data"));
    let error = bare
        .check_to_serve(Path::new("/etc/chapar/chapar.toml"))
        .expect_err("no listener");
    assert!(
        error
            .to_string()
            .starts_with("/etc/chapar/chapar.toml: no listener is configured; ")
    );
    let full = parse(&format!("{text}{listen}")).expect("good");
    assert_eq!(full.check_to_serve(Path::new("")), Ok(()));
    let route = full.routes.first().expect("a route");
    assert_eq!(route.via, ["smtp://[2001:db8::2]:26"]);
}
