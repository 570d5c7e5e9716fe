//! `chapar check --config`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::site::Site;

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
