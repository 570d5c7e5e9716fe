//! Root on the data of the daemon's user, as its real binaries meet it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::site::{Site, text};

/// The daemon's user; a number is enough.
const USER: u32 = 12_345;

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").uid()
}

/// What a daemon that was taken over leaves for root: links in place of its files.
#[test]
fn s4_root_follows_no_link_of_the_daemons_user_and_gives_nothing_away() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: there is nothing to give away");
        return;
    }
    let site = Site::new();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(&site.path(""), 0o755).expect("mode");
    // As setup leaves it for the service: its group may read it.
    chown(site.path("chapar.toml"), None, Some(USER)).expect("group");
    let data = site.path("data");
    let victims = site.path("victims");
    fs::create_dir(&victims).expect("directory");
    let victim = victims.join("file");
    fs::write(&victim, "[]").expect("write");
    open(&victims, 0o700).expect("mode");
    let mta_queue = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mta-queue"))
            .args(args)
            .arg("--config")
            .arg(site.path("chapar.toml"))
            .output()
            .expect("mta-queue runs");
        (output.status.code(), text(&output.stderr))
    };
    for (name, to) in [
        ("lock", &victim),
        ("spool", &victims),
        ("journal", &victims),
        ("quarantine", &victims),
        ("auth/bans.json", &victim),
    ] {
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join("auth")).expect("directory");
        if name != "journal" {
            fs::create_dir(data.join("journal")).expect("directory");
        }
        symlink(to, data.join(name)).expect("link");
        for path in [&data, &data.join("auth"), &data.join("journal")] {
            std::os::unix::fs::lchown(path, Some(USER), Some(USER)).expect("owner");
            if !path.is_symlink() {
                open(path, 0o700).expect("mode");
            }
        }
        for args in [
            &["list"][..],
            &["remove", "all", "--yes"],
            &["verify"],
            &["rebuild"],
        ] {
            let (_, error) = mta_queue(args);
            assert!(!error.contains("panicked"), "{name} {args:?}: {error}");
        }
        let (_, _, error) = site.run(&["auth", "bans", "--clear", "192.0.2.1"], "");
        assert!(!error.contains("panicked"), "{name}: {error}");
        assert_eq!((owner(&victim), owner(&victims)), (0, 0), "{name}");
        assert_eq!(fs::read(&victim).expect("read"), b"[]", "{name}");
        assert_eq!(fs::metadata(&victims).expect("mode").mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&victims).expect("list").count(), 1, "{name}");
    }
    // Without links it works, and all it makes belongs to that user.
    let _ = fs::remove_dir_all(&data);
    fs::create_dir_all(data.join("journal")).expect("directory");
    for path in [&data, &data.join("journal")] {
        chown(path, Some(USER), Some(USER)).expect("owner");
        open(path, 0o700).expect("mode");
    }
    let (code, error) = mta_queue(&["list"]);
    assert_eq!(code, Some(0), "{error}");
    let (code, error) = mta_queue(&["rebuild"]);
    assert_eq!(code, Some(0), "{error}");
    let made: Vec<_> = fs::read_dir(&data).expect("list").flatten().collect();
    assert!(made.len() > 3, "{made:?}");
    for entry in made {
        assert_eq!(owner(&entry.path()), USER, "{:?}", entry.path());
    }
}
