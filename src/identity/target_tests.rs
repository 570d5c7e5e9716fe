//! Mailboxes, targets on this machine, wildcards and Unicode, as read from files.

use std::fs;

use super::*;

/// Files below `domains/`.
fn load(files: &[(&str, &str)]) -> Result<Identity, IdentityError> {
    let dir = tempfile::tempdir().expect("directory");
    for (name, text) in files {
        let path = dir.path().join("domains").join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        fs::write(path, text).expect("write");
    }
    Identity::load(dir.path(), "boss@example.net")
}

fn targets(addresses: &[&str]) -> Resolution {
    Resolution::Targets(addresses.iter().map(|a| (*a).to_owned()).collect())
}

const MAILDIR: &str = "mode = \"mailbox\"\nmailbox = \"maildir:/m/{domain}/{local}\"\n";

#[test]
fn users_of_a_mailbox_domain_have_mailboxes() {
    let identity = load(&[
        ("example.org/domain.toml", MAILDIR),
        (
            "example.org/users.toml",
            "\"me@example.org\" = { receive_only = true }\n\
             \"copy@example.org\" = { receive_only = true }\n\
             \"away@example.org\" = { receive_only = true }\n\
             \"none@example.org\" = { receive_only = true, mailbox = false }\n",
        ),
        (
            "example.org/aliases",
            "info: me, a@x.example\ncopy: copy, copy@x.example\naway: away@x.example\n\
             loop: loop\nnone-alias: none\n*: all@x.example\n",
        ),
    ])
    .expect("identity");
    for (address, expected) in [
        ("ME@Example.org", targets(&["me@example.org"])),
        ("me+tag@example.org", targets(&["me@example.org"])),
        (
            "info@example.org",
            targets(&["me@example.org", "a@x.example"]),
        ),
        // C157: itself once and the other once.
        (
            "copy@example.org",
            targets(&["copy@example.org", "copy@x.example"]),
        ),
        (
            "copy+x@example.org",
            targets(&["copy@example.org", "copy@x.example"]),
        ),
        ("away@example.org", targets(&["away@x.example"])),
        ("none@example.org", targets(&["all@x.example"])),
        ("none-alias@example.org", targets(&["all@x.example"])),
        ("nobody@example.org", targets(&["all@x.example"])),
    ] {
        assert_eq!(identity.resolve(address), expected, "{address}");
    }
    assert!(matches!(
        identity.resolve("loop@example.org"),
        Resolution::Refused(_)
    ));
    let (_, steps) = identity.explain("info@example.org");
    assert_eq!(
        steps,
        [
            "info@example.org: an alias of this name, leads to me@example.org, a@x.example",
            "me@example.org: the mailbox of me@example.org, maildir:/m/{domain}/{local}",
        ]
    );
    let (_, steps) = identity.explain("none@example.org");
    assert_eq!(
        steps,
        [
            "none@example.org: a user without an alias or mailbox, so the catch-all, leads to all@x.example"
        ]
    );
    let routes = identity.routes();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].to, "example.org");
    assert_eq!(routes[0].via, ["maildir:/m/{domain}/{local}"]);
    assert!(!identity.leaves("me@example.org"));
}

#[test]
fn over_lmtp_the_tag_goes_on_and_dots_do_not_matter() {
    let identity = load(&[
        (
            "example.org/domain.toml",
            "mode = \"mailbox\"\nmailbox = \"lmtp:/run/lmtp\"\nignore_dots = true\n",
        ),
        (
            "example.org/users.toml",
            "\"first.last@example.org\" = { receive_only = true }\n",
        ),
    ])
    .expect("identity");
    for (address, expected) in [
        ("First.Last+Tag", targets(&["first.last+tag@example.org"])),
        ("firstlast", targets(&["first.last@example.org"])),
        ("nobody", Resolution::Unknown),
    ] {
        let address = format!("{address}@example.org");
        assert_eq!(identity.resolve(&address), expected, "{address}");
    }
}

#[test]
fn targets_on_this_machine_and_what_leaves() {
    let identity = load(&[(
        "example.org/aliases",
        "list: | /usr/bin/list \"a, b\", keep\nkeep: maildir:/m/{local}, discard:\nsock: lmtp:/run/lmtp\n",
    )])
    .expect("identity");
    let all = [
        "pipe:/usr/bin/list \"a, b\"",
        "maildir:/m/{local}",
        "discard:",
    ];
    assert_eq!(identity.resolve("list@example.org"), targets(&all));
    assert_eq!(
        identity.resolve("sock+x@example.org"),
        targets(&["lmtp:/run/lmtp"])
    );
    assert!(all.iter().all(|target| !identity.leaves(target)));
    assert!(identity.leaves("a@gmail.example"));
    let (_, steps) = identity.explain("list@example.org");
    assert_eq!(
        steps[1..],
        [
            "to the program /usr/bin/list \"a, b\"",
            "keep@example.org: an alias of this name, leads to maildir:/m/{local}, discard:",
            "into the directory maildir:/m/{local}",
            "taken, logged and thrown away",
        ]
    );
}

#[test]
fn wildcards_speak_for_names_that_have_no_directory_of_their_own() {
    let identity = load(&[
        ("example.org/aliases", "a: apex@x.example\n"),
        (
            "*.example.org/aliases",
            "a: b\nb: below@x.example\n*: *@x.example\n",
        ),
        ("own.example.org/aliases", "a: own@x.example\n"),
        ("out.example.org/domain.toml", "mode = \"send-only\"\n"),
    ])
    .expect("identity");
    for (address, expected) in [
        ("a@example.org", targets(&["apex@x.example"])),
        ("b@example.org", Resolution::Unknown),
        ("a@any.example.org", targets(&["below@x.example"])),
        ("A@x.y.Example.org", targets(&["below@x.example"])),
        ("c@any.example.org", targets(&["c@x.example"])),
        ("a@own.example.org", targets(&["own@x.example"])),
        ("c@own.example.org", Resolution::Unknown),
        ("a@out.example.org", Resolution::Remote),
        ("a@example.com", Resolution::Remote),
    ] {
        assert_eq!(identity.resolve(address), expected, "{address}");
    }
    let (_, steps) = identity.explain("a@out.example.org");
    assert_eq!(
        steps,
        ["a@out.example.org: out.example.org is send-only, mail to it follows its MX"]
    );
}

#[test]
fn names_beyond_ascii_are_found_however_they_are_written() {
    let identity = load(&[(
        "xn--bcher-kva.example/aliases",
        "J\u{fc}rgen: j\u{fc}rgen@gm\u{e4}il.example\n*: all@x.example\n",
    )])
    .expect("identity");
    let found = targets(&["j\u{fc}rgen@xn--gmil-moa.example"]);
    for address in [
        "j\u{fc}rgen@xn--bcher-kva.example",
        "JU\u{308}RGEN@b\u{fc}cher.example",
        "j\u{fc}rgen+tag@B\u{dc}CHER.example",
    ] {
        assert_eq!(identity.resolve(address), found, "{address}");
    }
    assert_eq!(
        identity.resolve("jurgen@xn--bcher-kva.example"),
        targets(&["all@x.example"])
    );
}

#[test]
fn mistakes_about_mailboxes_and_wildcards_name_file_and_remedy() {
    for (name, text, part) in [
        (
            "example.org/domain.toml",
            "mode = \"mailbox\"\n",
            "domain.toml: mode = \"mailbox\" has no mailbox; write",
        ),
        (
            "example.org/domain.toml",
            "\nmailbox = \"maildir:/m/{local}\"\n",
            "domain.toml:2: mailbox with mode = \"forward\"",
        ),
        (
            "example.org/domain.toml",
            "mode = \"mailbox\"\nmailbox = \"maildir:/m\"\n",
            "domain.toml:2: mailbox = \"maildir:/m\" is neither",
        ),
        (
            "example.org/domain.toml",
            "mode = \"mailbox\"\nmailbox = \"smtp://a\"\n",
            "domain.toml:2: mailbox = \"smtp://a\" is neither",
        ),
        (
            "*.example.org/domain.toml",
            "selectors = [\"a\"]\n",
            "domains/example.org/domain.toml",
        ),
        ("*.example.org/users.toml", "", "a wildcard has no users"),
        (
            "b\u{fc}cher.example/aliases",
            "",
            "its A-labels, 'xn--bcher-kva.example'",
        ),
        ("*.org/aliases", "", "is no domain name"),
    ] {
        let error = load(&[(name, text)]).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
}
