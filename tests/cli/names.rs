//! Domains, their aliases and mailboxes.

use crate::site::Site;

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
fn r20_addresses_and_names_without_a_dot_are_no_domains() {
    let site = Site::new();
    site.bad(&["domain", "add", "192.0.2.1"], "", 65, "is an IP address");
    site.bad(&["domain", "add", "single"], "", 65, "has no dot");
}
