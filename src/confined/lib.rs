//! Starts programs of an operator (aliases that begin with `|`, routes, the post-data hook) so that
//! they see no secret of ours.
//!
//! Each begins in a thread of its own that first gives up what it could hand on: the ambient
//! capabilities (a port below 1024 is nobody's but ours), and by Landlock the contents of
//! [`Hidden`]: keys, password hashes, the queue. The thread ends with that; the daemon itself stays
//! as it was. With Landlock no program gains rights by being executed (`no_new_privs`), which is
//! what our unit says anyway. A kernel that is too old for it (before 5.19) hides nothing, and the
//! log says so once. Never runs a program itself, only starts it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use landlock::{
    AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError,
};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use chapar_config::Config;

/// Files and directories whose contents programs can not read.
#[derive(Debug, Clone, Default)]
pub struct Hidden(Arc<[PathBuf]>);

impl Hidden {
    /// Keys, users and their hashes, and in `data_dir` what passwords and mail lie in.
    pub fn of(config: &Config) -> Hidden {
        let mut paths = vec![config.dir.join("secrets"), config.dir.join("domains")];
        if !config.tls.key.is_empty() {
            paths.push(config.dir.join(&config.tls.key));
        }
        for name in ["auth", "journal", "spool", "index", "quarantine"] {
            paths.push(config.data_dir.join(name));
        }
        Hidden(paths.into())
    }
}

/// Starts `command`, which can not read what is hidden.
pub async fn spawn(mut command: Command, hidden: Hidden) -> io::Result<Child> {
    let runtime = tokio::runtime::Handle::current();
    let (answer, started) = oneshot::channel();
    let thread = move || {
        // The runtime waits for the program's end.
        let _inside = runtime.enter();
        let child = give_up(&hidden).and_then(|()| command.spawn());
        // A child that nobody waits for any more is killed as it is dropped.
        let _ = answer.send(child);
    };
    std::thread::Builder::new()
        .name("program".into())
        .spawn(thread)?;
    started
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it ended")))
}

/// For the calling thread and whatever it starts.
fn give_up(hidden: &Hidden) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    static TOLD: Once = Once::new();
    if let Err(error) = restrict(hidden) {
        TOLD.call_once(|| {
            tracing::warn!(
                target: "session",
                %error,
                "programs can read keys and hashes of ours: this kernel has no Landlock (5.19 or later)"
            );
        });
    }
    Ok(())
}

/// Landlock can only allow: whatever is beside the way to a hidden place is allowed, each whole.
fn restrict(hidden: &Hidden) -> Result<(), RulesetError> {
    let access = AccessFs::ReadFile | AccessFs::Refer;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(access)?
        .create()?;
    for path in beside(&hidden.0) {
        // What went away meanwhile needs no rule.
        let Ok(place) = PathFd::new(&path) else {
            continue;
        };
        let allowed = match path.is_dir() {
            true => access,
            false => AccessFs::ReadFile.into(),
        };
        rules = rules.add_rule(PathBeneath::new(place, allowed))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// Everything there is but what is hidden: the neighbours of each step on the way to it. Links are
/// left out, since it is where they lead that counts.
fn beside(hidden: &[PathBuf]) -> Vec<PathBuf> {
    let hidden: BTreeSet<PathBuf> = hidden
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    let steps: BTreeSet<&Path> = hidden
        .iter()
        .flat_map(|path| path.ancestors().skip(1))
        .collect();
    if steps.is_empty() {
        return vec![PathBuf::from("/")];
    }
    let mut found = Vec::new();
    for step in &steps {
        for entry in fs::read_dir(step).into_iter().flatten().flatten() {
            let path = entry.path();
            let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if !link && !hidden.contains(&path) && !steps.contains(path.as_path()) {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(script: &str, hidden: &Hidden) -> String {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null());
        let child = spawn(command, hidden.clone()).await.expect("it starts");
        let output = child.wait_with_output().await.expect("output");
        String::from_utf8(output.stdout).expect("text")
    }

    #[tokio::test]
    async fn s16_programs_see_no_secret_and_have_no_capability() {
        let dir = tempfile::tempdir().expect("directory");
        let at = dir.path().display();
        for name in [
            "secrets/dkim",
            "domains",
            "data/journal",
            "data/mail/tmp",
            "data/mail/new",
        ] {
            fs::create_dir_all(dir.path().join(name)).expect("directory");
        }
        for name in [
            "secrets/dkim/key.pem",
            "domains/users.toml",
            "data/journal/1",
            "plain",
        ] {
            fs::write(dir.path().join(name), "text\n").expect("write");
        }
        let config = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n";
        let config = Config::parse(config, "chapar.toml", dir.path()).expect("configuration");
        let hidden = Hidden::of(&config);
        let ambient = said("grep CapAmb /proc/self/status", &hidden).await;
        assert_eq!(ambient.split_whitespace().nth(1), Some("0000000000000000"));
        // What a program does that has nothing to do with secrets: a Maildir of its own, a file
        // beside the configuration.
        let work = format!(
            "cat {at}/plain; cd {at}/data/mail; echo mail > tmp/1; mv tmp/1 new/1; cat new/1; \
             echo more >> {at}/plain; cat {at}/plain | wc -l"
        );
        let worked = said(&work, &hidden).await;
        assert_eq!(
            worked.split_whitespace().collect::<Vec<_>>(),
            ["text", "mail", "2"]
        );
        if restrict_is_missing() {
            println!("this kernel has no Landlock: nothing can be hidden");
            return;
        }
        for name in [
            "secrets/dkim/key.pem",
            "domains/users.toml",
            "data/journal/1",
        ] {
            assert_eq!(
                said(&format!("cat {at}/{name}"), &hidden).await,
                "",
                "{name}"
            );
            let moved = format!("ln -s {at}/{name} {at}/link; cat {at}/link; rm {at}/link");
            assert_eq!(said(&moved, &hidden).await, "", "{name}");
            let linked = format!("ln {at}/{name} {at}/data/mail/x && cat {at}/data/mail/x");
            assert_eq!(said(&linked, &hidden).await, "", "{name}");
        }
        let ours = fs::read_to_string(dir.path().join("secrets/dkim/key.pem"));
        assert_eq!(ours.expect("the daemon still reads it"), "text\n");
    }

    fn restrict_is_missing() -> bool {
        std::thread::spawn(|| restrict(&Hidden::default()).is_err())
            .join()
            .expect("it ends")
    }
}
