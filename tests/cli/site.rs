//! A site that a test may change, and the programs that do it.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs `chapar` with `input` as standard input.
pub fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_chapar"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chapar runs");
    let mut stdin = child.stdin.take().expect("stdin");
    // A command that reads nothing may have ended already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("output")
}

/// The same without input.
pub fn chapar(args: &[&str]) -> Output {
    run(args, "")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What was printed by a command that succeeded.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A site made by `chapar setup`.
pub struct Site {
    dir: tempfile::TempDir,
}

/// Exit code, standard output, standard error.
pub type Ran = (Option<i32>, String, String);

impl Site {
    pub fn new() -> Site {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("read")
    }

    pub fn chapar(&self, args: &[&str], input: &str) -> Ran {
        let output = run(args, input);
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// With `--config` for this site.
    pub fn run(&self, args: &[&str], input: &str) -> Ran {
        let config = self.path("chapar.toml");
        let mut args = args.to_vec();
        args.extend(["--config", config.to_str().expect("path")]);
        self.chapar(&args, input)
    }

    pub fn good(&self, args: &[&str], input: &str) -> String {
        let (code, out, error) = self.run(args, input);
        assert_eq!(code, Some(0), "{args:?}: {error}");
        out
    }

    pub fn bad(&self, args: &[&str], input: &str, code: i32, remedy: &str) {
        let (found, _, error) = self.run(args, input);
        assert_eq!(found, Some(code), "{args:?}: {error}");
        assert!(error.contains(remedy), "{args:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}
