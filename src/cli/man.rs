//! `chapar man`: a manual page for each command, laid out as man-pages(7) says, from the same
//! definitions as the help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{completions, exit};

/// Write man pages of chapar and mta-queue, one for each command, to a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chapar man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// The directory, such as /usr/local/share/man/man1; it is made if it is missing
    dir: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = args.dir.display().to_string();
    fs::create_dir_all(&args.dir).with_context(|| dir.clone())?;
    for name in completions::PROGRAMS {
        let mut program = completions::program(name).disable_help_subcommand(true);
        program.build();
        pages(&program, None, &args.dir).with_context(|| dir.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of a command's page: `mta-queue-list` of `mta-queue list`.
fn page_name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or(command.get_name()).to_owned()
}

/// Writes the pages of a command and of those below it.
fn pages(command: &Command, above: Option<&Command>, dir: &Path) -> std::io::Result<()> {
    let below = command.get_subcommands().filter(|one| !one.is_hide_set());
    for one in below {
        pages(one, Some(command), dir)?;
    }
    let name = page_name(command);
    fs::write(dir.join(format!("{name}.1")), page(command, above)?)
}

fn page(command: &Command, above: Option<&Command>) -> std::io::Result<Vec<u8>> {
    let name = page_name(command);
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1")
        .source(concat!("chapar ", env!("CARGO_PKG_VERSION")))
        .manual("chapar manual");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    synopsis(command).to_writer(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut out)?;
    }
    if command.get_subcommands().any(|one| !one.is_hide_set()) {
        man.render_subcommands_section(&mut out)?;
    }
    let mut rest = Roff::new();
    exit_status(&mut rest);
    files(&mut rest, command);
    after_help(&mut rest, command);
    see_also(&mut rest, command, above);
    rest.to_writer(&mut out)?;
    Ok(out)
}

/// What may be typed, with the values of options.
fn synopsis(command: &Command) -> Roff {
    let mut line = vec![bold(command.get_bin_name().unwrap_or(command.get_name()))];
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    for arg in shown().filter(|arg| !arg.is_positional()) {
        optional(&mut line, arg, option(arg));
    }
    for arg in shown().filter(|arg| arg.is_positional()) {
        optional(&mut line, arg, vec![italic(values(arg).join(" "))]);
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND")]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(line);
    roff
}

fn optional(line: &mut Vec<Inline>, arg: &Arg, inner: Vec<Inline>) {
    let (begin, end) = match arg.is_required_set() {
        true => (" ", ""),
        false => (" [", "]"),
    };
    line.push(roman(begin));
    line.extend(inner);
    let several = match arg.get_action() {
        clap::ArgAction::Append | clap::ArgAction::Count => true,
        _ => arg.is_positional() && arg.get_num_args().is_some_and(|n| n.max_values() > 1),
    };
    line.push(roman(if several { "..." } else { "" }));
    line.push(roman(end));
}

fn option(arg: &Arg) -> Vec<Inline> {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let mut inner = vec![bold(long.or(short).unwrap_or_default())];
    if arg.get_action().takes_values() {
        let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let value = italic(values(arg).join(" "));
        inner.extend(match optional {
            true => vec![roman(" ["), value, roman("]")],
            false => vec![roman(" "), value],
        });
    }
    inner
}

fn values(arg: &Arg) -> Vec<String> {
    match arg.get_value_names() {
        Some(names) => names.iter().map(ToString::to_string).collect(),
        None => vec![arg.get_id().as_str().to_uppercase()],
    }
}

/// Codes that any command may end with (sysexits(3)).
fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit::MEANINGS {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(*meaning)]);
    }
}

fn files(roff: &mut Roff, command: &Command) {
    let configured = |arg: &Arg| arg.get_long() == Some("config");
    if !command.get_arguments().any(configured) {
        return;
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", []);
    roff.text([italic("/etc/chapar/chapar.toml")]);
    roff.text([
        roman("The configuration, unless "),
        bold("--config"),
        roman(" names another."),
    ]);
}

/// What follows the help: its examples, as they are typed, and what else there is to say.
fn after_help(roff: &mut Roff, command: &Command) {
    let text = command
        .get_after_long_help()
        .or(command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let is_example = |line: &str| line.starts_with("  ");
    let heading = |line: &str| line.starts_with("Example");
    let lines = || text.lines().map(str::trim_end);
    let mut examples = lines().filter(|line| is_example(line)).peekable();
    if examples.peek().is_some() {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("EX", []);
        for line in examples {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("EE", []);
    }
    let mut notes = lines()
        .filter(|line| !is_example(line) && !heading(line))
        .skip_while(|line| line.is_empty())
        .peekable();
    if notes.peek().is_some() {
        roff.control("SH", ["NOTES"]);
        for line in notes {
            match line {
                "" => roff.control("PP", []),
                line => roff.text([roman(line)]),
            };
        }
    }
}

/// The commands above and below, the other program, and where the rest is explained.
fn see_also(roff: &mut Roff, command: &Command, above: Option<&Command>) {
    let below = command.get_subcommands().filter(|one| !one.is_hide_set());
    let mut names: Vec<String> = above.into_iter().chain(below).map(page_name).collect();
    if above.is_none() {
        let others = completions::PROGRAMS.iter().map(ToString::to_string);
        names.extend(others.filter(|name| *name != page_name(command)));
    }
    names.sort();
    let mut line = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        if at > 0 {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman("(1)")]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(line);
    roff.control("PP", []);
    roff.text([roman("The pages in the directory docs of the source, which the package has in /usr/share/doc/chapar.")]);
}
