//! Identity as it is read from files.

use std::fs;
use std::path::Path;

use super::*;

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm8$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn world(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("directory");
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join("domains").join(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("directories");
    fs::write(path, text.replace("HASH", HASH)).expect("write");
}

fn load(dir: &tempfile::TempDir) -> Identity {
    Identity::load(dir.path(), "boss@example.net").expect("identity")
}

fn targets(addresses: &[&str]) -> Resolution {
    Resolution::Targets(addresses.iter().map(|a| (*a).to_owned()).collect())
}

fn refused(resolution: Resolution) -> String {
    match resolution {
        Resolution::Refused(reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

const FORWARD: &str = "mode = \"forward\"\n";

#[test]
fn an_address_leads_where_the_files_say() {
    let dir = world(&[
        ("example.org/domain.toml", FORWARD),
        (
            "example.org/users.toml",
            "\"Me@example.org\" = { password = \"HASH\" }\n\"a+b@example.org\" = { password = \"HASH\" }",
        ),
        (
            "example.org/aliases",
            "Info: A@gmail.example, b@other.example, me\n\
             me: me@gmail.example\na: a@gmail.example\nx+y: xy@gmail.example\n\
             both: info, c@b.example.net, me@EXAMPLE.ORG\n*: all@gmail.example\n",
        ),
        ("b.example.net/domain.toml", FORWARD),
        ("b.example.net/aliases", "c: info@example.org\n"),
        ("send.example.com/domain.toml", "mode = \"send-only\"\n"),
        ("send.example.com/aliases", "a: b@gmail.example\n"),
        (".git/HEAD", ""),
        ("README", "text"),
    ]);
    let identity = load(&dir);
    let resolve = |address: &str| identity.resolve(address);
    let info = targets(&["A@gmail.example", "b@other.example", "me@gmail.example"]);
    assert_eq!(resolve("info@example.org"), info);
    assert_eq!(resolve("INFO@Example.ORG"), info);
    assert_eq!(resolve("both@example.org"), info, "nested, without repeats");
    assert_eq!(resolve("c@b.example.net"), info, "over domains");
    assert_eq!(resolve("info+tag@example.org"), info);
    assert_eq!(
        resolve("x+y@example.org"),
        targets(&["xy@gmail.example"]),
        "exact before plus"
    );
    assert_eq!(resolve("a+c@example.org"), targets(&["a@gmail.example"]));
    assert_eq!(
        resolve("a+b@example.org"),
        targets(&["all@gmail.example"]),
        "a user of its own"
    );
    assert_eq!(resolve("+tag@example.org"), targets(&["all@gmail.example"]));
    assert_eq!(resolve("any@example.org"), targets(&["all@gmail.example"]));
    assert_eq!(
        resolve("postmaster@example.org"),
        targets(&["all@gmail.example"])
    );
    assert_eq!(resolve("nobody@b.example.net"), Resolution::Unknown);
    assert_eq!(
        resolve("Postmaster@b.example.net"),
        targets(&["boss@example.net"])
    );
    assert_eq!(
        resolve("abuse+1@b.example.net"),
        targets(&["boss@example.net"])
    );
    assert_eq!(resolve("postmaster"), targets(&["boss@example.net"]));
    assert_eq!(resolve("a@send.example.com"), Resolution::Remote);
    assert_eq!(resolve("a@gmail.example"), Resolution::Remote);
    assert_eq!(resolve("a@sub.example.org"), Resolution::Remote);
    assert_eq!(resolve("a"), Resolution::Unknown);
    assert_eq!(resolve(""), Resolution::Unknown);
    assert_eq!(
        identity.domains().map(|(name, _)| name).collect::<Vec<_>>(),
        ["b.example.net", "example.org", "send.example.com"]
    );
}

#[test]
fn a_user_without_alias_follows_the_catch_all_and_is_unknown_without_one() {
    let user = "\"me@example.org\" = { password = \"HASH\" }";
    let dir = world(&[
        ("example.org/domain.toml", FORWARD),
        ("example.org/users.toml", user),
    ]);
    assert_eq!(load(&dir).resolve("me@example.org"), Resolution::Unknown);
    write(dir.path(), "example.org/aliases", "*: x@gmail.example");
    assert_eq!(
        load(&dir).resolve("me@example.org"),
        targets(&["x@gmail.example"])
    );
}

#[test]
fn loops_depth_and_explosions_are_refused() {
    use std::fmt::Write as _;
    let mut text = String::from("a: b\nb: a\nself: self\n*: other\ngone: x@dead.example.net\n");
    for n in 0..10 {
        let _ = writeln!(text, "d{n}: d{}", n + 1);
    }
    text.push_str("d10: far@gmail.example\n");
    let many = |n: usize| {
        (0..n)
            .map(|i| format!("u{i}@gmail.example"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let _ = writeln!(text, "most: {}\nmore: {}", many(1000), many(1001));
    // A lattice of 9 levels of 20 names: 20^9 ways, each name walked once.
    for level in 0..9 {
        let next: Vec<String> = (0..20).map(|i| format!("l{}-{i}", level + 1)).collect();
        for i in 0..20 {
            let _ = writeln!(text, "l{level}-{i}: {}", next.join(", "));
        }
    }
    for i in 0..20 {
        let _ = writeln!(text, "l9-{i}: end{i}@gmail.example");
    }
    let dir = world(&[
        ("example.org/domain.toml", FORWARD),
        ("example.org/aliases", &text),
        ("dead.example.net/domain.toml", FORWARD),
    ]);
    let identity = load(&dir);
    for (address, reason) in [
        (
            "a@example.org",
            "alias a of example.org leads back to itself",
        ),
        (
            "self@example.org",
            "alias self of example.org leads back to itself",
        ),
        (
            "none@example.org",
            "alias * of example.org leads back to itself",
        ),
        (
            "d0@example.org",
            "alias d10 of example.org is more than 10 aliases deep",
        ),
        (
            "more@example.org",
            "alias more of example.org leads to more than 1000 addresses",
        ),
        (
            "gone@example.org",
            "alias gone of example.org leads to x@dead.example.net, which does not exist",
        ),
    ] {
        assert_eq!(refused(identity.resolve(address)), reason, "{address}");
    }
    assert_eq!(
        identity.resolve("d1@example.org"),
        targets(&["far@gmail.example"])
    );
    assert!(
        matches!(identity.resolve("most@example.org"), Resolution::Targets(t) if t.len() == 1000)
    );
    let start = std::time::Instant::now();
    assert!(
        matches!(identity.resolve("l0-0@example.org"), Resolution::Targets(t) if t.len() == 20)
    );
    assert!(start.elapsed().as_secs() < 2);
}

#[test]
fn a_user_may_have_its_own_quota() {
    let users = |entry: &str| {
        let text = format!("\"me@example.org\" = {{ password = \"HASH\"{entry} }}\n");
        world(&[
            ("example.org/domain.toml", FORWARD),
            ("example.org/users.toml", &text),
        ])
    };
    for (entry, messages, recipients) in [
        ("", None, None),
        (", quota = { messages = 7 }", Some(7), None),
        (
            ", quota = { messages = 0, recipients = 9 }",
            Some(0),
            Some(9),
        ),
    ] {
        let identity = load(&users(entry));
        let quota = identity.user("me@example.org").expect("user").quota;
        assert_eq!((quota.messages, quota.recipients), (messages, recipients));
    }
}

#[test]
fn s6_a_tag_that_is_somebody_elses_name_is_no_tag() {
    let user = |name: &str| format!("\"{name}@example.org\" = {{ password = \"HASH\" }}\n");
    let users = user("ann") + &user("ann+boss");
    let dir = world(&[
        ("example.org/domain.toml", FORWARD),
        ("example.org/users.toml", &users),
        ("example.org/aliases", "ann+team: ann@example.net\n"),
    ]);
    let identity = load(&dir);
    for (address, may) in [
        ("ann+list@example.org", true),
        ("Ann+Boss@example.org", false),
        ("ann+team@example.org", false),
        ("ann@example.org", true),
    ] {
        assert_eq!(
            identity.may_send_as("ann@example.org", address),
            may,
            "{address}"
        );
    }
    assert!(identity.may_send_as("ann+boss@example.org", "ann+boss@example.org"));
}

#[test]
fn s9_a_user_has_one_name_however_it_is_spelled() {
    for spelled in [
        "Ann@Example.ORG",
        "\u{ff21}\u{ff4e}n@example.org",
        "ann@example.org",
    ] {
        assert_eq!(canonical(spelled), "ann@example.org");
    }
    assert_eq!(canonical("nobody"), "nobody");
}

#[test]
fn who_may_send_as_whom() {
    let dir = world(&[
        ("example.org/domain.toml", FORWARD),
        (
            "example.org/users.toml",
            "\"me@example.org\" = { password = \"HASH\" }\n\
             [\"boss@example.org\"]\npassword = \"HASH\"\nsend_as = [\"*@Example.org\", \"Info@example.net\"]\n",
        ),
    ]);
    let identity = load(&dir);
    for (user, address, may) in [
        ("me@example.org", "me@example.org", true),
        ("ME@example.org", "Me@EXAMPLE.org", true),
        ("me@example.org", "me+news@example.org", true),
        ("me@example.org", "mee@example.org", false),
        ("me@example.org", "+me@example.org", false),
        ("me@example.org", "me@example.net", false),
        ("me@example.org", "boss@example.org", false),
        ("me@example.org", "", false),
        ("me@example.org", "me", false),
        ("boss@example.org", "anything@example.org", true),
        ("boss@example.org", "a@sub.example.org", false),
        ("boss@example.org", "info@example.net", true),
        ("boss@example.org", "other@example.net", false),
        // Who logged in without an entry is a user of Dovecot.
        ("other@example.org", "other@example.org", true),
        ("other@example.org", "me@example.org", false),
        ("other@example.com", "other@example.com", false),
    ] {
        assert_eq!(
            identity.may_send_as(user, address),
            may,
            "{user} as {address}"
        );
    }
    assert!(identity.user("BOSS@Example.org").is_some());
    assert!(identity.user("boss").is_none());
}

#[test]
fn mistakes_name_file_line_and_remedy() {
    let good = ("example.org/domain.toml", FORWARD);
    for (files, place, remedy) in [
        (
            vec![("example.org/domain.toml", "mode = \"fwd\"")],
            "example.org/domain.toml:1: ",
            "`forward`",
        ),
        (
            vec![("example.org/domain.toml", "\nmoda = 1")],
            "example.org/domain.toml:2: ",
            "unknown field",
        ),
        (
            vec![(
                "example.org/domain.toml",
                "mode = \"forward\"\nselectors = [\n\"a b\"]",
            )],
            "example.org/domain.toml:3: ",
            "no DKIM selector",
        ),
        (
            vec![("Example.org/domain.toml", FORWARD)],
            "Example.org: ",
            "write 'example.org'",
        ),
        (
            vec![good, ("example.org/aliases", "a: b@c\n\nb c\n")],
            "example.org/aliases:3: ",
            "no colon",
        ),
        (
            vec![
                good,
                (
                    "example.org/users.toml",
                    "\n\"me@example.org\" = { password = \"secret\" }",
                ),
            ],
            "example.org/users.toml:2: ",
            "chapar user passwd me@example.org",
        ),
        (
            vec![
                good,
                (
                    "example.org/users.toml",
                    "\"me@example.net\" = { password = \"HASH\" }",
                ),
            ],
            "example.org/users.toml:1: ",
            "domains/example.net/users.toml",
        ),
        (
            vec![
                good,
                (
                    "example.org/users.toml",
                    "\"me@example.org\" = { password = \"HASH\" }\n\"ME@example.org\" = { password = \"HASH\" }",
                ),
            ],
            "example.org/users.toml:",
            "stands twice",
        ),
        (
            vec![
                good,
                (
                    "example.org/users.toml",
                    "\"me@example.org\" = { password = \"HASH\",\n send_as = [\"*\"] }",
                ),
            ],
            "example.org/users.toml:2: ",
            "no address to send as",
        ),
        (
            vec![good, ("example.org/users.toml", "me = ")],
            "example.org/users.toml:1: ",
            "",
        ),
    ] {
        let dir = world(&files);
        let error = Identity::load(dir.path(), "").expect_err(place).to_string();
        let start = format!("{}/domains/{place}", dir.path().display());
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains(remedy), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_directory_is_a_domain_and_none_means_none() {
    let dir = world(&[("example.org/README", "only a directory")]);
    let identity = load(&dir);
    let found = identity.domain("example.org").expect("it is a domain");
    assert_eq!((found.mode, found.selectors.len()), (Mode::Forward, 0));
    let dir = tempfile::tempdir().expect("directory");
    let identity = Identity::load(dir.path(), "").expect("identity");
    assert_eq!(identity.domains().count(), 0);
    assert_eq!(identity.resolve("a@example.org"), Resolution::Remote);
    assert_eq!(identity.resolve("postmaster"), Resolution::Unknown);
}

#[test]
fn edits_keep_comments_and_order() {
    let dir = world(&[("example.org/domain.toml", FORWARD)]);
    let (at, domain) = (dir.path(), "example.org");
    let file =
        |name: &str| fs::read_to_string(at.join("domains/example.org").join(name)).expect("read");
    write(
        at,
        "example.org/aliases",
        "# ours\ninfo: a@gmail.example   # both\nlast: x@gmail.example",
    );
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let add = |name: &str, to: &[&str]| edit::add_alias(at, domain, name, &list(to)).expect("add");
    assert!(add("INFO", &["b@Gmail.example", "a@gmail.example"]));
    assert!(!add("info", &["b@gmail.example"]));
    assert!(add("*", &["info"]));
    assert_eq!(
        file("aliases"),
        "# ours\ninfo: a@gmail.example, b@gmail.example   # both\nlast: x@gmail.example\n*: info@example.org\n"
    );
    let remove = |name: &str, to: Option<&str>| edit::remove_alias(at, domain, name, to);
    remove("info", Some("a@gmail.example")).expect("remove");
    remove("last", Some("x@gmail.example")).expect("remove");
    assert!(remove("last", None).is_err_and(|e| e.to_string().contains("chapar alias list")));
    assert_eq!(
        file("aliases"),
        "# ours\ninfo: b@gmail.example   # both\n*: info@example.org\n"
    );
    assert!(edit::add_alias(at, domain, "x", &list(&["| cmd"])).is_err());
    let error = edit::add_alias(at, domain, "info", &list(&["any"])).expect_err("a loop");
    assert_eq!(
        error.to_string(),
        "then mail to *@example.org is refused: alias info of example.org leads back to itself; \
         so nothing was changed; change that alias first"
    );
    assert!(edit::add_alias(at, "example.net", "x", &list(&["a@b"])).is_err());
    assert!(edit::add_alias(at, "../../etc", "x", &list(&["a@b"])).is_err());

    let user = "# first\n\"me@example.org\" = { password = \"HASH\" } # mine\n\n[\"Old@example.org\"] # old\npassword = \"HASH\" # long ago\n";
    write(at, "example.org/users.toml", user);
    let secrets = crate::password::secrets(b"correct horse").expect("hash");
    edit::add_user(at, "New@example.org", &secrets, &list(&["*@example.org"])).expect("add");
    edit::set_password(at, "old@example.org", &secrets).expect("password");
    assert!(edit::add_user(at, "OLD@example.org", &secrets, &[]).is_err());
    assert!(edit::set_password(at, "none@example.org", &secrets).is_err());
    let bad = crate::password::Secrets {
        hash: "secret".into(),
        scram: secrets.scram.clone(),
    };
    assert!(edit::add_user(at, "bad@example.org", &bad, &[]).is_err());
    let (hash, scram) = (&secrets.hash, &secrets.scram);
    let expected = format!(
        "# first\n\"me@example.org\" = {{ password = \"{HASH}\" }} # mine\n\
         \"new@example.org\" = {{ password = \"{hash}\", scram = \"{scram}\", send_as = [\"*@example.org\"] }}\n\n\
         [\"Old@example.org\"] # old\npassword = \"{hash}\" # long ago\nscram = \"{scram}\"\n"
    );
    assert_eq!(file("users.toml"), expected);
    edit::remove_user(at, "ME@example.org").expect("remove");
    fs::remove_file(at.join("domains/example.org/users.toml")).expect("remove");
    edit::add_user(at, "New@example.org", &secrets, &list(&["*@example.org"])).expect("add");
    assert!(file("users.toml").starts_with(edit::USERS_HEAD));
    assert!(edit::remove_user(at, "me@example.org").is_err());
    assert!(load(&dir).may_send_as("new@example.org", "x@example.org"));
    assert!(load(&dir).user("me@example.org").is_none());
}

/// A directory with `domain.toml` and `aliases` of example.org.
fn small(domain: &str, aliases: &str) -> Identity {
    let dir = tempfile::tempdir().expect("directory");
    let folder = dir.path().join("domains/example.org");
    std::fs::create_dir_all(&folder).expect("directory");
    std::fs::write(folder.join("domain.toml"), domain).expect("domain");
    std::fs::write(folder.join("aliases"), aliases).expect("aliases");
    Identity::load(dir.path(), "").expect("identity")
}

fn to(targets: &[&str]) -> Resolution {
    Resolution::Targets(targets.iter().map(|t| (*t).to_owned()).collect())
}

#[test]
fn c156_separators_part_tags_and_open_nothing_else() {
    let identity = small(
        "mode = \"forward\"\nseparators = \"+-\"\n",
        "dora: d@x.example\ndo: z@x.example\ndora-work: w@x.example\n",
    );
    for (address, expected) in [
        ("dora+shop", to(&["d@x.example"])),
        ("dora-shop", to(&["d@x.example"])),
        ("dora+", to(&["d@x.example"])),
        ("do+ra", to(&["z@x.example"])),
        ("dora-work", to(&["w@x.example"])),
        ("dora-work+x", to(&["w@x.example"])),
        ("+shop", Resolution::Unknown),
        ("nobody+x", Resolution::Unknown),
    ] {
        let address = format!("{address}@example.org");
        assert_eq!(identity.resolve(&address), expected, "{address}");
    }
}

#[test]
fn dots_sub_domains_and_other_kinds_of_targets() {
    let identity = small(
        "mode = \"forward\"\nignore_dots = true\nsubdomains = true\n",
        "first.last: a@x.example\nold: !reject Gone, write to new@example.org\nsink: !discard\n\
         *: *@Other.example\n",
    );
    for (address, expected) in [
        ("f.irstlast@example.org", to(&["a@x.example"])),
        ("firstlast+tag@sub.sub.example.org", to(&["a@x.example"])),
        (
            "Any.One+tag@example.org",
            to(&["any.one+tag@other.example"]),
        ),
        ("sink@example.org", to(&[])),
        (
            "old@example.org",
            Resolution::Rejected("Gone, write to new@example.org".into()),
        ),
        ("a@notexample.org", Resolution::Remote),
    ] {
        assert_eq!(identity.resolve(address), expected, "{address}");
    }
    assert!(identity.takes_mail_for("sub.example.org"));
    let (_, steps) = identity.explain("firstlast+tag@sub.example.org");
    assert_eq!(
        steps,
        [
            "firstlast+tag@example.org: an alias of the part before a separator, leads to a@x.example"
        ]
    );
}

#[test]
fn users_without_a_password_only_receive() {
    let dir = tempfile::tempdir().expect("directory");
    let folder = dir.path().join("domains/example.org");
    std::fs::create_dir_all(&folder).expect("directory");
    let write = |text: &str| std::fs::write(folder.join("users.toml"), text).expect("users");
    write("\"in@example.org\" = { receive_only = true }\n");
    let identity = Identity::load(dir.path(), "").expect("identity");
    let user = identity.user("in@example.org").expect("a user");
    assert!(!crate::password::verify(b"correct horse", &user.password));
    for (text, part) in [
        ("\"in@example.org\" = { }\n", "has no password"),
        (
            "\"in@example.org\" = { password = \"x\", receive_only = true }\n",
            "receive_only",
        ),
    ] {
        write(text);
        let error = Identity::load(dir.path(), "").expect_err(text);
        assert!(
            error.line == Some(1) && error.problem.contains(part),
            "{error}"
        );
    }
}
