//! `chapar demo` as a newcomer meets it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chapar"));
    command.arg("demo");
    command
}

#[test]
fn the_whole_journey_holds_in_twenty_seconds() {
    let start = Instant::now();
    let output = demo().output().expect("chapar runs");
    let out = String::from_utf8(output.stdout).expect("UTF-8");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{out}");
    let mut lines = out.lines();
    for step in [
        "it greylists",
        "chapar setup example.org",
        "chapar serve is ready",
        "submitted over TLS with AUTH: 250 ",
        "the MX said: 451",
        "killed with SIGKILL",
        "still has the message",
        "chapar serve is ready again",
        "delivered over TLS",
        "chapar1-rsa._domainkey.example.org pass",
        "queue is empty",
        "All of it held.",
        "ended in order",
    ] {
        let line = lines.next().unwrap_or_default();
        assert!(line.contains(step), "{step}: {out}{error}");
        let time = line.trim_start().split(' ').next().unwrap_or_default();
        assert!(
            time.parse::<f64>().is_ok(),
            "each line begins with its time: {line}"
        );
    }
    assert_eq!(lines.next(), None);
    assert!(
        out.contains("chapar1-ed25519._domainkey.example.org pass"),
        "{out}"
    );
}

/// Kept running, it takes the message of the swaks command that it prints.
#[test]
fn the_swaks_command_of_keep_works() {
    let mut child = demo()
        .arg("--keep")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("chapar runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut command = String::new();
    while let Some(Ok(line)) = lines.next() {
        let part = line.trim();
        if part.starts_with("swaks ") {
            command = part.trim_end_matches('\\').to_owned();
        } else if part.starts_with("--from ") {
            command.push_str(part);
        } else if part.contains(" queue list ") {
            break;
        }
    }
    let swaks = Command::new("sh")
        .args(["-c", &command])
        .output()
        .expect("swaks; tests/run installs it");
    let said = String::from_utf8_lossy(&swaks.stdout);
    assert!(swaks.status.success(), "{command}\n{said}");
    assert!(said.contains("<~  250 "), "{said}");
    let arrived = lines.map_while(Result::ok).find(|line| {
        line.contains("The MX took a message from me@example.org to someone@gmail.example")
    });
    assert!(arrived.is_some(), "the message of swaks did not arrive");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("SIGINT");
    assert!(child.wait().expect("exit").success());
}
