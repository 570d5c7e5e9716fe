//! The machine itself: resolver, clock, disk, files, daemon, queue.

use std::net::IpAddr;

use super::Finding;

/// Seconds by which a clock may be wrong.
pub const CLOCK: i64 = 60;
/// Minutes that deferred mail may wait before the queue is told of.
pub const OLD: u64 = 320;

/// Judges whether the resolver proves answers. `proves`: it set AD for the root zone; `None`: no
/// answer.
pub fn dnssec(resolver: &str, proves: Option<bool>) -> Finding {
    let remedy = "apt install unbound, and set dns.servers = [\"127.0.0.1:53\"]";
    match proves {
        Some(true) => Finding::good("dnssec", resolver, "the resolver proves answers"),
        Some(false) => Finding::warning(
            "dnssec",
            resolver,
            "the resolver does not verify DNSSEC",
            "DANE can not protect the mail that we send",
            remedy,
        ),
        None => Finding::wrong(
            "dnssec",
            resolver,
            "the resolver does not answer",
            "no mail can be sent without DNS",
            remedy,
        ),
    }
}

/// Judges the clock. `off`: seconds that it is ahead; an error: the time server did not answer.
pub fn clock(server: &str, off: &Result<i64, String>) -> Finding {
    let remedy = "timedatectl set-ntp true";
    match off {
        Err(problem) => Finding::warning(
            "clock",
            server,
            format!("the time server did not answer: {problem}"),
            "a wrong clock would go unseen: signatures and certificates depend on it",
            "let UDP port 123 out, or name another: chapar check --time-server HOST",
        ),
        Ok(off) if off.abs() > CLOCK => Finding::wrong(
            "clock",
            server,
            match *off > 0 {
                true => format!("the clock is {off} s ahead"),
                false => format!("the clock is {} s behind", off.abs()),
            },
            "signatures fail, certificates seem invalid, Date fields look forged",
            remedy,
        ),
        Ok(_) => Finding::good("clock", server, "the clock is right"),
    }
}

/// Judges free space, in bytes, and inodes.
pub fn disk(path: &str, free: u64, wanted: u64, inodes: Option<u64>) -> Finding {
    let mib = |bytes: u64| bytes >> 20;
    let full = "new mail gets 452 and waits at its senders";
    if free < wanted {
        return Finding::wrong(
            "disk",
            path,
            format!(
                "{} MiB are free, limits.free_space wants {}",
                mib(free),
                mib(wanted)
            ),
            full,
            "free some space, or move data_dir to a larger disk",
        );
    }
    if inodes.is_some_and(|inodes| inodes < 1000) {
        let remedy = "remove small files on that file system";
        return Finding::wrong(
            "disk",
            path,
            "there are hardly any inodes left",
            full,
            remedy,
        );
    }
    if free < wanted.saturating_mul(2) {
        return Finding::warning(
            "disk",
            path,
            format!(
                "{} MiB are free, new mail is refused below {}",
                mib(free),
                mib(wanted)
            ),
            "that is soon",
            "free some space",
        );
    }
    Finding::good("disk", path, format!("{} MiB are free", mib(free)))
}

/// A file or directory with the most that its mode may allow.
#[derive(Debug, Clone)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// The bits that it should have.
    pub wanted: u32,
}

/// Judges file modes.
pub fn modes(about: &str, files: &[File]) -> Vec<Finding> {
    let open = |file: &&File| file.mode & 0o077 & !file.wanted != 0;
    let found: Vec<Finding> = files
        .iter()
        .filter(open)
        .map(|file| {
            Finding::wrong(
                "modes",
                &file.path,
                format!("mode {:04o} lets others read it", file.mode),
                "every user of this machine can take keys, hashes or mail",
                format!("chmod {:o} {}", file.wanted, file.path),
            )
        })
        .collect();
    match found.is_empty() {
        true => vec![Finding::good(
            "modes",
            about,
            format!("{} secrets are ours alone", files.len()),
        )],
        false => found,
    }
}

/// Judges bans of private addresses, behind which there may be many.
pub fn bans(private: &[IpAddr]) -> Vec<Finding> {
    let judge = |ip: &IpAddr| {
        Finding::warning(
            "bans",
            &ip.to_string(),
            "this private address is banned from logging in",
            "if it is a proxy, a NAT or a container gateway, whoever comes through it may be locked out",
            format!(
                "chapar auth bans --clear {ip}; let it pass the addresses of clients on \
                 (proxy_networks), or list it in limits.never_ban"
            ),
        )
    };
    private.iter().map(judge).collect()
}

/// Judges password hashes: `imported` are users whose hash is another server's. Nothing, if there
/// are none.
pub fn passwords(domains: &str, imported: &[String]) -> Option<Finding> {
    let (first, rest) = imported.split_first()?;
    let who = match rest.len() {
        0 => format!("the password of {first} has the hash of another server"),
        more => format!("the passwords of {first} and {more} more have hashes of another server"),
    };
    Some(Finding::warning(
        "passwords",
        domains,
        who,
        "who steals such a file guesses them faster, and while one user lacks it SCRAM is offered to nobody",
        format!(
            "let the daemon replace each at its next login: `systemctl edit chapar`, write \
             [Service] and ReadWritePaths={domains}, then `systemctl restart chapar`; take it away \
             when this finding is gone. Or set a new one: chapar user passwd {first}"
        ),
    ))
}

/// What the daemon says.
#[derive(Debug, Clone)]
pub enum Daemon {
    /// It answers; recipients that wait, those that have waited for more than [`OLD`] minutes, the
    /// commonest reply.
    Answers {
        /// Recipients that wait.
        total: u64,
        /// Of these, longer than [`OLD`] minutes.
        old: u64,
        /// The commonest last reply.
        reply: Option<String>,
    },
    /// There is no socket, or nobody behind it.
    Stopped,
    /// It can not be asked.
    Silent(String),
}

/// Judges daemon and queue.
pub fn daemon(data_dir: &str, daemon: &Daemon) -> Vec<Finding> {
    match daemon {
        Daemon::Stopped => vec![Finding::wrong(
            "daemon",
            data_dir,
            "the daemon does not run",
            "no mail comes in or goes out",
            "systemctl start chapar; if it does not stay: journalctl -u chapar -n 50",
        )],
        Daemon::Silent(problem) => vec![Finding::warning(
            "daemon",
            data_dir,
            format!("the daemon can not be asked: {problem}"),
            "daemon and queue were not looked at",
            "run this as root or as the user of the daemon",
        )],
        Daemon::Answers { total, old, reply } => {
            let running = Finding::good("daemon", data_dir, "the daemon runs");
            let queue = match *old > 0 {
                true => Finding::warning(
                    "queue",
                    data_dir,
                    format!(
                        "{old} of {total} recipients wait for more than {OLD} minutes{}",
                        reply
                            .as_ref()
                            .map(|reply| format!(", mostly: {reply}"))
                            .unwrap_or_default()
                    ),
                    "their senders do not know yet that it is late",
                    "mta-queue summary; then put right what the reply says, and mta-queue replay all",
                ),
                false => Finding::good("queue", data_dir, format!("{total} recipients wait")),
            };
            vec![running, queue]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    #[test]
    fn clock_disk_and_modes() {
        assert_eq!(clock("t", &Ok(-61)).what, "the clock is 61 s behind");
        assert_eq!(clock("t", &Ok(5)).level, Level::Good);
        assert_eq!(disk("/", 1, 2, None).level, Level::Wrong);
        assert_eq!(disk("/", 3, 2, None).level, Level::Warning);
        assert_eq!(disk("/", 9, 2, Some(3)).level, Level::Wrong);
        assert_eq!(disk("/", 9, 2, None).level, Level::Good);
        let file = |mode| File {
            path: "users.toml".into(),
            mode,
            wanted: 0o600,
        };
        assert_eq!(modes("x", &[file(0o644)])[0].remedy, "chmod 600 users.toml");
        assert_eq!(modes("x", &[file(0o400)])[0].level, Level::Good);
    }

    #[test]
    fn s15_hashes_of_other_servers_are_told_of_with_what_to_do() {
        assert_eq!(passwords("/etc/chapar/domains", &[]), None);
        let users = ["a@example.org", "b@example.org"].map(str::to_owned);
        let found = passwords("/etc/chapar/domains", &users).expect("a finding");
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.what,
            "the passwords of a@example.org and 1 more have hashes of another server"
        );
        assert!(found.remedy.contains("ReadWritePaths=/etc/chapar/domains"));
        assert!(found.remedy.ends_with("chapar user passwd a@example.org"));
    }

    #[test]
    fn s7_private_addresses_that_are_banned_are_told_of() {
        assert_eq!(bans(&[]), []);
        let found = bans(&[[172, 17, 0, 1].into()]);
        let about: Vec<_> = found.iter().map(|f| (f.about.as_str(), f.level)).collect();
        assert_eq!(about, [("172.17.0.1", Level::Warning)]);
    }

    #[test]
    fn old_mail_is_told_of() {
        let answers = |old| Daemon::Answers {
            total: 7,
            old,
            reply: Some("451 4.7.1 later".into()),
        };
        let levels = |facts: &Daemon| -> Vec<(&str, Level)> {
            daemon("/d", facts)
                .iter()
                .map(|f| (f.check, f.level))
                .collect()
        };
        let good = [("daemon", Level::Good), ("queue", Level::Good)];
        assert_eq!(levels(&answers(0)), good);
        let old = daemon("/d", &answers(3));
        assert_eq!(
            old.last().map(|finding| finding.what.as_str()),
            Some("3 of 7 recipients wait for more than 320 minutes, mostly: 451 4.7.1 later")
        );
        assert_eq!(levels(&Daemon::Stopped), [("daemon", Level::Wrong)]);
        assert_eq!(
            levels(&Daemon::Silent("x".into())),
            [("daemon", Level::Warning)]
        );
    }
}
