//! What holds for every command: help, manual pages, completions, a test; and the defaults.

use std::fs;
use std::process::Command;

use crate::site::Site;

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
            if !page.contains(".SH EXAMPLES") {
                missing.push(format!("{own}: no manual page with an example"));
            }
            // A test runs it: its words stand in one, side by side.
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            let verb = match words.split_first() {
                Some((first, rest)) if first == "queue" => rest.last(),
                _ if name == "mta-queue" => words.last(),
                _ => None,
            };
            // A verb of the queue is also run as mta-queue.
            let as_tool = match &quoted[..] {
                [queue, verb @ ..] if queue == "\"queue\"" && verb.len() > 1 => verb.join(", "),
                _ => quoted.join(", "),
            };
            let tested = tests.contains(&quoted.join(", "))
                || tests.contains(&as_tool)
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

/// What bash offers for the last of `words`.
fn offered(site: &Site, program: &str, words: &[&str]) -> Vec<String> {
    let (_, script, _) = site.chapar(&["completions", "bash", "--of", program], "");
    let file = site.path("completions.bash");
    fs::write(&file, script).expect("write");
    // As bash calls it: the program, the word to complete, and the one before it.
    let ask = r#"
        source "$1"; shift
        name=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        "$name" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", ask, "bash"])
        .arg(&file)
        .arg(program)
        .args(words)
        .output()
        .expect("bash runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn o12_bash_completes_verbs_and_their_options() {
    let site = Site::new();
    assert_eq!(offered(&site, "mta-queue", &["susp"]), ["suspend"]);
    assert_eq!(offered(&site, "mta-queue", &["list", "--st"]), ["--state"]);
    assert_eq!(
        offered(&site, "mta-queue", &["export", "--rem"]),
        ["--remove"]
    );
    assert_eq!(offered(&site, "chapar", &["user", "ad"]), ["add"]);
    let options = offered(&site, "chapar", &["setup", "--"]);
    assert!(options.contains(&"--dry-run".to_owned()), "{options:?}");
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

/// The sections of man-pages(7), the values of options, and the same mood everywhere.
#[test]
fn o14_manual_pages_are_laid_out_as_others_and_say_what_exit_codes_mean() {
    let site = Site::new();
    let dir = site.path("man");
    let (code, _, error) = site.chapar(&["man", dir.to_str().expect("path")], "");
    assert_eq!(code, Some(0), "{error}");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&dir).expect("pages").flatten() {
        let text = fs::read_to_string(entry.path()).expect("page");
        let file = entry.file_name().into_string().expect("name");
        let name = file.trim_end_matches(".1");
        count += 1;
        let title = format!(".TH {} 1", name.to_uppercase());
        for part in [
            title.as_str(),
            concat!("chapar ", env!("CARGO_PKG_VERSION")),
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH DESCRIPTION",
            ".SH \"EXIT STATUS\"",
            ".SH \"SEE ALSO\"",
        ] {
            if !text.contains(part) {
                wrong.push(format!("{file}: no {part}"));
            }
        }
        for not in [".SH EXTRA", ".SH VERSION"] {
            if text.contains(not) {
                wrong.push(format!("{file}: {not}"));
            }
        }
        // "Print", not "Prints".
        let about = text.split(" \\- ").nth(1).unwrap_or_default();
        let verb = about.split_whitespace().next().unwrap_or_default();
        if verb.ends_with('s') && verb != "Passwords" {
            wrong.push(format!("{file}: {verb}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 90, "{count} pages");
    let page = fs::read_to_string(dir.join("mta-queue-list.1")).expect("page");
    for part in [
        "[\\fB\\-\\-limit\\fR \\fIROWS\\fR]",
        "\\fB66\\fR\nThere is no such message",
        ".SH EXAMPLES\n.EX\nmta\\-queue list",
        "\\fBmta\\-queue\\fR(1)",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[test]
fn r10_output_that_can_not_be_written_is_a_failure_with_a_word() {
    use std::process::Command;
    let site = Site::new();
    for arguments in [&["dns", "example.org"][..], &["config", "--defaults"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let output = Command::new(env!("CARGO_BIN_EXE_chapar"))
            .args(arguments)
            .arg("--config")
            .arg(site.path("chapar.toml"))
            .stdout(full.expect("/dev/full"))
            .output()
            .expect("chapar runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{arguments:?}: {error}");
        assert!(error.contains("the output can not be written"), "{error}");
    }
}
