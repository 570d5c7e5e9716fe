//! The commands that change and show users, aliases, domains and the configuration: the real binary.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A site made by `chapar setup`.
struct Site {
    dir: tempfile::TempDir,
}

/// Exit code, standard output, standard error.
type Ran = (Option<i32>, String, String);

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().expect("directory");
        let site = Site { dir };
        let at = site.path("").to_str().expect("path").to_owned();
        let (code, _, error) = site.chapar(
            &[
                "setup",
                "example.org",
                "--forward",
                "me@gmail.example",
                "--dir",
                &at,
            ],
            "",
        );
        assert_eq!(code, Some(0), "{error}");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("read")
    }

    fn chapar(&self, args: &[&str], input: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chapar"));
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("chapar runs");
        let mut stdin = child.stdin.take().expect("stdin");
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("output");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// With `--config` for this site.
    fn run(&self, args: &[&str], input: &str) -> Ran {
        let config = self.path("chapar.toml");
        let mut args = args.to_vec();
        args.extend(["--config", config.to_str().expect("path")]);
        self.chapar(&args, input)
    }

    fn good(&self, args: &[&str], input: &str) -> String {
        let (code, out, error) = self.run(args, input);
        assert_eq!(code, Some(0), "{args:?}: {error}");
        out
    }

    fn bad(&self, args: &[&str], input: &str, code: i32, remedy: &str) {
        let (found, _, error) = self.run(args, input);
        assert_eq!(found, Some(code), "{args:?}: {error}");
        assert!(error.contains(remedy), "{args:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn users_come_change_and_go() {
    let site = Site::new();
    let user = "You@example.org";
    assert_eq!(
        site.good(
            &[
                "user",
                "add",
                user,
                "--password-stdin",
                "--send-as",
                "info@example.org"
            ],
            "correct horse\r\n"
        ),
        ""
    );
    assert_eq!(
        site.good(&["user", "list"], ""),
        "me@example.org  sends as *@example.org\nyou@example.org  sends as info@example.org\n"
    );
    assert_eq!(site.good(&["user", "list", "example.net"], ""), "");
    assert!(
        site.good(&["user", "list", "--json"], "")
            .contains("{\"address\":\"you@example.org\",\"send_as\":[\"info@example.org\"]}\n")
    );
    let mode = fs::metadata(site.path("domains/example.org/users.toml"))
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !site
            .read("domains/example.org/users.toml")
            .contains("correct horse")
    );
    site.good(
        &["user", "verify", user, "--password-stdin"],
        "correct horse\n",
    );
    site.bad(
        &["user", "verify", user, "--password-stdin"],
        "Correct horse\n",
        77,
        "chapar user passwd",
    );
    site.bad(
        &["user", "add", user, "--password-stdin"],
        "correct horse",
        65,
        "chapar user passwd",
    );
    site.bad(
        &["user", "add", "a@example.org", "--password-stdin"],
        "short\n",
        65,
        "8 to 1024 octets",
    );
    site.bad(
        &["user", "add", "a@example.net"],
        "",
        65,
        "chapar domain add example.net",
    );
    site.bad(&["user", "add", "a"], "", 65, "write user@example.org");
    site.bad(
        &["user", "add", "a@example.org", "--send-as", "*"],
        "",
        78,
        "no address to send as",
    );
    let shown = site.good(&["user", "passwd", user], "");
    let password = shown
        .split_whitespace()
        .nth(3)
        .expect("password")
        .to_owned();
    site.good(&["user", "verify", user], &password);
    site.bad(&["user", "verify", user], "correct horse", 77, "wrong");
    site.good(&["user", "remove", user], "");
    site.bad(&["user", "remove", user], "", 65, "chapar user list");
    site.bad(&["user", "verify", user], "correct horse", 67, "no user");
}

#[test]
fn app_passwords_are_made_shown_once_and_taken_back() {
    let site = Site::new();
    let me = "me@example.org";
    let list = || site.good(&["user", "app-password", "list", me], "");
    assert_eq!(list(), "");
    let made = site.good(&["user", "app-password", "add", me, "phone"], "");
    assert!(made.contains(me), "{made}");
    let kept = list();
    assert!(
        kept.contains("phone") && kept.ends_with("last used: never\n"),
        "{kept}"
    );
    let id = kept.split(' ').next().expect("an id").to_owned();
    site.bad(
        &["user", "app-password", "add", "you@example.org", "x"],
        "",
        65,
        "you@example.org",
    );
    site.bad(
        &["user", "app-password", "revoke", me, "tablet"],
        "",
        65,
        "tablet",
    );
    site.good(&["user", "app-password", "revoke", me, &id], "");
    assert_eq!(list(), "");
}

#[test]
fn reports_are_taken_from_standard_input() {
    let site = Site::new();
    assert_eq!(
        site.good(&["report", "pending"], ""),
        "",
        "nothing was judged"
    );
    site.bad(
        &["report", "add"],
        "From: a@b.example\n\nno report\n",
        65,
        "report",
    );
    let tls = r#"{"organization-name":"b.example","date-range":{
        "start-datetime":"2026-01-01T00:00:00Z","end-datetime":"2026-01-01T23:59:59Z"},
        "contact-info":"a@b.example","report-id":"1","policies":[{
        "policy":{"policy-type":"no-policy-found","policy-domain":"DOMAIN"},
        "summary":{"total-successful-session-count":7,"total-failure-session-count":0}}]}"#;
    let other = tls.replace("DOMAIN", "example.net");
    site.bad(&["report", "add"], &other, 65, "none of our domains");
    let ours = tls.replace("DOMAIN", "example.org");
    assert_eq!(site.good(&["report", "add"], &ours), "kept 1\n");
    let told = site.good(&["report", "--days", "36500"], "");
    assert!(
        told.contains("example.org: 7 deliveries over TLS as wanted, 0 not"),
        "{told}"
    );
}

#[test]
fn aliases_come_and_go_and_lead_somewhere() {
    let site = Site::new();
    site.good(
        &["alias", "add", "Info@Example.org", "a@gmail.example", "me"],
        "",
    );
    assert_eq!(
        site.good(&["alias", "resolve", "info+x@example.org"], ""),
        "a@gmail.example\nme@gmail.example\n"
    );
    assert!(
        site.good(&["alias", "add", "info@example.org", "me@example.org"], "")
            .contains("already")
    );
    assert!(site.good(&["alias", "list", "--json"], "").contains(
        "{\"alias\":\"info@example.org\",\"targets\":[\"a@gmail.example\",\"me@example.org\"]}"
    ));
    let before = site.read("domains/example.org/aliases");
    site.bad(
        &["alias", "add", "me@example.org", "info"],
        "",
        65,
        "leads back to itself",
    );
    site.bad(
        &["alias", "add", "x@example.org", "| cmd"],
        "",
        65,
        "does not begin with the full path of a program",
    );
    site.bad(
        &["alias", "add", "x@example.net", "a@b.example"],
        "",
        65,
        "chapar domain add example.net",
    );
    site.bad(
        &["alias", "add", "x", "a@b.example"],
        "",
        65,
        "has no domain",
    );
    site.bad(
        &["alias", "remove", "x@example.org"],
        "",
        65,
        "chapar alias list",
    );
    assert_eq!(site.read("domains/example.org/aliases"), before);
    site.good(&["alias", "remove", "info@example.org", "me"], "");
    assert_eq!(
        site.good(&["alias", "resolve", "info@example.org"], ""),
        "a@gmail.example\n"
    );
    site.good(&["alias", "remove", "*@example.org"], "");
    site.bad(
        &["alias", "resolve", "other@example.org"],
        "",
        67,
        "chapar alias add",
    );
    assert_eq!(
        site.good(&["alias", "resolve", "a@gmail.example"], ""),
        "a@gmail.example\n"
    );
}

#[test]
fn mailboxes_and_wildcards_come_with_what_they_need() {
    let site = Site::new();
    let target = "maildir:/var/lib/chapar/mail/{domain}/{local}";
    let forward = ["--forward", "all@x.example"];
    let args = [
        &["domain", "add", "m.example", "--mailbox", target],
        &forward[..],
    ]
    .concat();
    site.good(&args, "");
    let domain = site.read("domains/m.example/domain.toml");
    assert!(
        domain.contains(&format!(
            "mode = \"mailbox\"\n# Where the mail of its users goes.\nmailbox = \"{target}\"\n"
        )),
        "{domain}"
    );
    site.good(
        &["user", "add", "a@m.example", "--password-stdin"],
        "correct horse\n",
    );
    assert_eq!(
        site.good(&["alias", "resolve", "A+x@m.example"], ""),
        "a@m.example\n"
    );
    assert_eq!(
        site.good(&["alias", "resolve", "b@m.example"], ""),
        "all@x.example\n"
    );
    site.good(
        &[
            "alias",
            "add",
            "list@m.example",
            "| /bin/x \"a, b\"",
            "discard:",
        ],
        "",
    );
    assert!(
        site.read("domains/m.example/aliases")
            .ends_with("list: pipe:/bin/x \"a, b\", discard:\n")
    );
    site.good(
        &["alias", "remove", "list@m.example", "| /bin/x \"a, b\""],
        "",
    );
    assert!(
        site.read("domains/m.example/aliases")
            .ends_with("list: discard:\n")
    );

    let out = site.good(
        &[
            "domain",
            "add",
            "*.example.org",
            "--forward",
            "below@x.example",
        ],
        "",
    );
    assert!(out.contains("*.example.org. 3600 IN MX 10 "), "{out}");
    for absent in [
        "_dmarc",
        "_domainkey",
        "_smtp._tls",
        "_submissions",
        "mta-sts",
    ] {
        assert!(!out.contains(absent), "{out}");
    }
    assert!(
        !site
            .read("domains/*.example.org/domain.toml")
            .contains("selectors")
    );
    assert_eq!(
        site.good(&["alias", "resolve", "a@sub.example.org"], ""),
        "below@x.example\n"
    );
    site.good(&["check"], "");
    site.bad(
        &["domain", "add", "n.example", "--mailbox", "maildir:/all"],
        "",
        65,
        "{local} in its path",
    );
    assert!(!site.path("domains/n.example").exists());
}

#[test]
fn domains_come_with_their_keys() {
    let site = Site::new();
    let added = site.good(&["domain", "add", "Example.net"], "");
    assert!(
        added.contains("chapar1-rsa._domainkey.example.net. 3600 IN TXT"),
        "{added}"
    );
    assert_eq!(
        site.good(&["domain", "list"], ""),
        "example.net  send-only, users 0, aliases 0, DKIM chapar1-rsa chapar1-ed25519\n\
         example.org  forward, users 1, aliases 2, DKIM chapar1-rsa chapar1-ed25519\n"
    );
    assert!(
        site.good(&["domain", "list", "--json"], "")
            .contains("\"mode\":\"send-only\"")
    );
    site.good(
        &["user", "add", "a@example.net", "--password-stdin"],
        "correct horse",
    );
    assert!(
        site.good(&["check"], "")
            .ends_with("good: listeners 3, domains 2, users 2\n")
    );
    site.bad(&["domain", "add", "../x"], "", 65, "no domain name");
}

#[test]
fn check_names_every_problem_and_exits_78() {
    let site = Site::new();
    let tell = |remedies: &[&str]| {
        for command in [&["check"][..], &["config", "--check"]] {
            let (code, out, error) = site.run(command, "");
            assert_eq!(code, Some(78), "{out}");
            let lines: Vec<&str> = error.lines().collect();
            assert_eq!(lines.len(), remedies.len(), "{error}");
            for (line, remedy) in lines.iter().zip(remedies) {
                assert!(line.contains(remedy), "{line}");
            }
        }
    };
    let (aliases, config) = ("domains/example.org/aliases", "chapar.toml");
    let whole = site.read(config);
    fs::write(site.path(aliases), "a: b\nb: a\nc: d@example.org\n").expect("write");
    fs::write(
        site.path(config),
        whole.replace(
            "postmaster = \"me@gmail.example\"",
            "tls.ca_file = \"none.pem\"",
        ),
    )
    .expect("write");
    let set = |name: &str, mode| {
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).expect("mode")
    };
    set("domains/example.org/users.toml", 0o644);
    set("secrets/tls/mx.example.org/privkey.pem", 0o644);
    set("secrets/dkim/example.org/chapar1-rsa.pem", 0o644);
    fs::write(
        site.path("secrets/dkim/example.org/chapar1-ed25519.pem"),
        "no key",
    )
    .expect("write");
    tell(&[
        "none.pem: No such file",
        "privkey.pem: others may read it (mode 644); chmod 600",
        "mail to a@example.org is refused: alias a of example.org leads back to itself",
        "mail to b@example.org is refused",
        "mail to c@example.org is refused: alias c of example.org leads to d@example.org, which does not exist",
        "users.toml: mode 0644 lets others read it; chmod 600",
        "chapar1-rsa.pem: mode 0644 lets others read this key; chmod 600 it",
        "chapar1-ed25519.pem: no RSA or Ed25519 private key",
        "postmaster@example.org leads nowhere",
    ]);
    fs::write(
        site.path(config),
        "hostname = \"mx\"\n[limits]\nrecipients = 0\n",
    )
    .expect("write");
    tell(&[
        "chapar.toml:1: hostname",
        "chapar.toml:3: limits.recipients",
    ]);
    let route = "[[route]]\nvia = \"smtp://me@relay.example:587\"\n";
    let other = Site::new();
    fs::write(other.path(config), format!("{}{route}", other.read(config))).expect("write");
    let (code, _, error) = other.run(&["check"], "");
    assert_eq!(code, Some(78));
    let missing = "secrets/relay/me@relay.example: No such file or directory (os error 2); write the password into it, with mode 0600";
    assert!(error.trim_end().ends_with(missing), "{error}");
    let password = other.path("secrets/relay/me@relay.example");
    fs::create_dir_all(password.parent().expect("parent")).expect("directory");
    fs::write(&password, "pencil\n").expect("write");
    let (_, _, error) = other.run(&["check"], "");
    assert!(
        error.contains("others can read it (mode 644); chmod 600 it"),
        "{error}"
    );
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("mode");
    let (code, _, error) = other.run(&["check"], "");
    assert_eq!(code, Some(0), "{error}");
    fs::write(other.path("providers.toml"), "[[provider]]\nname = 1\n").expect("write");
    let (code, _, error) = other.run(&["check"], "");
    assert_eq!((code, error.lines().count()), (Some(78), 1));
    assert!(error.contains("providers.toml:2: invalid type"), "{error}");
    fs::remove_file(site.path(config)).expect("remove");
    tell(&["chapar setup DOMAIN"]);
    site.bad(&["user", "list"], "", 78, "chapar setup DOMAIN");
}

/// Every command of `program`, as words, found by asking each for its help.
fn commands(program: &str, words: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let output = Command::new(program)
        .args(words)
        .arg("--help")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{words:?}");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let list = list.split("\n\n").next().unwrap_or_default();
    for line in list.lines() {
        // The rest of a description is indented further.
        let Some(name) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else {
            continue;
        };
        let name = name.split(' ').next().unwrap_or_default();
        if name != "help" {
            let below = [words, &[name.to_owned()]].concat();
            commands(program, &below, found);
        }
    }
    found.push((words.to_vec(), help));
}

/// The text of every test, with white space as one space.
fn sources(dir: &std::path::Path, into: &mut String) {
    for entry in fs::read_dir(dir).expect("tests") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            into.extend(text.split_whitespace().map(|word| format!("{word} ")));
        }
    }
}

#[test]
fn every_command_has_help_with_an_example_a_manual_page_and_a_test() {
    let site = Site::new();
    let pages = site.path("pages");
    let (code, _, error) = site.chapar(&["man", pages.to_str().expect("path")], "");
    assert_eq!(code, Some(0), "{error}");
    let mut tests = String::new();
    sources(std::path::Path::new("tests"), &mut tests);
    let mut missing = Vec::new();
    let mut count = 0;
    for (name, program) in [
        ("chapar", env!("CARGO_BIN_EXE_chapar")),
        ("mta-queue", env!("CARGO_BIN_EXE_mta-queue")),
    ] {
        let mut found = Vec::new();
        commands(program, &[], &mut found);
        count += found.len();
        for (words, help) in &found {
            let whole = [&[name.to_owned()], &words[..]].concat();
            // `chapar queue` is `mta-queue`.
            let own = whole.join(" ");
            let alike = own.replacen("chapar queue", "mta-queue", 1);
            let example = help.split("\nExample").nth(1).unwrap_or_default();
            if !example.contains(&own) && !example.contains(&alike) {
                missing.push(format!("{own}: no example in its help"));
            }
            let page = pages.join(format!("{}.1", whole.join("-")));
            let page = fs::read_to_string(page).unwrap_or_default();
            if !page.contains("Example") {
                missing.push(format!("{own}: no manual page with an example"));
            }
            // A test runs it: its words stand in one, side by side.
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            let verb = match words.split_first() {
                Some((first, rest)) if first == "queue" => rest.last(),
                _ if name == "mta-queue" => words.last(),
                _ => None,
            };
            let tested = tests.contains(&quoted.join(", "))
                || verb.is_some_and(|verb| tests.contains(&format!("[\"{verb}\"")));
            if !tested {
                missing.push(format!("{own}: no test runs it"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 80, "{count} commands were found");
    let (code, _, error) = site.chapar(&["nonsense"], "");
    assert_eq!(code, Some(64), "{error}");
}

#[test]
fn defaults_are_printed_key_by_key() {
    let site = Site::new();
    let (code, out, _) = site.chapar(&["config", "--defaults"], "");
    assert_eq!(code, Some(0));
    assert!(
        out.contains("\nretry.first = \"5m\"  # time: Wait after the first failed attempt.\n"),
        "{out}"
    );
    assert!(
        out.contains("\nlimits.recipients = 1000  # count: Recipients of one message.\n"),
        "{out}"
    );
    for line in out.lines() {
        assert!(
            line.split_once(" = ")
                .is_some_and(|(_, rest)| rest.contains("  # ")),
            "{line}"
        );
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let site = Site::new();
    let (code, out, error) = site.chapar(&["completions", "bash"], "");
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("setup") && out.contains("complete -F"));
    let (_, out, _) = site.chapar(&["completions", "zsh", "--of", "mta-queue"], "");
    for verb in ["suspend", "redirect", "rebuild", "top"] {
        assert!(out.contains(verb), "{verb}");
    }
    let (code, ..) = site.chapar(&["completions", "cobol"], "");
    assert_eq!(code, Some(64));
    let dir = site.path("man");
    let (code, _, error) = site.chapar(&["man", dir.to_str().expect("path")], "");
    assert_eq!(code, Some(0), "{error}");
    for page in [
        "chapar.1",
        "mta-queue.1",
        "mta-queue-suspend.1",
        "chapar-setup.1",
    ] {
        let page = fs::read_to_string(dir.join(page)).expect(page);
        assert!(page.contains(".TH") && page.len() > 300, "{page}");
    }
    let page = fs::read_to_string(dir.join("mta-queue-suspend.1")).expect("page");
    assert!(
        page.contains("destination") && page.contains("reason"),
        "{page}"
    );
}
