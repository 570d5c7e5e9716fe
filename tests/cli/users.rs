//! Users and their app passwords.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::site::Site;

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
