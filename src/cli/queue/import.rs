//! `mta-queue import`: messages of a directory, of a stream, or of a Postfix. Each is taken once,
//! however often it is given.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::archive::Reader;
use super::ask::{self, Failure, How, Taken};
use super::{files, postfix, steer};
use crate::config::Config;

/// `mta-queue import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// A directory of `mta-queue export`, a stream of it as a file, `-` for a stream from standard
    /// input, or the word `postfix`
    #[arg(value_name = "DIR|FILE|-|postfix")]
    source: PathBuf,
    /// Hold what comes
    #[arg(long)]
    hold: bool,
    /// Take also what was taken before
    #[arg(long)]
    again: bool,
    /// Only from this Postfix instance (its configuration directory)
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
}

/// What came of it.
#[derive(Default)]
struct Told {
    taken: u64,
    before: u64,
    refused: u64,
}

type Messages<'a> = &'a mut dyn Iterator<Item = Result<Taken, Failure>>;

pub(super) fn import(config: &Config, import: &Import, json: bool) -> Result<(), Failure> {
    if import.source == Path::new("postfix") {
        let mut messages = postfix::messages(import.config_dir.as_deref())?;
        let told = take(config, import, "postfix", &mut messages, json)?;
        if !json && !import.dry_run {
            say!("They are still in Postfix: postsuper -d ID removes them there.");
        }
        return refused(&told);
    }
    let stream: Option<(&str, Box<dyn Read>)> = if import.source == Path::new("-") {
        Some(("standard input", Box::new(std::io::stdin().lock())))
    } else if import.source.is_file() {
        let file = std::fs::File::open(&import.source).map_err(files::at(&import.source))?;
        Some(("the stream", Box::new(std::io::BufReader::new(file))))
    } else {
        None
    };
    let Some((name, stream)) = stream else {
        let mut messages = files::read(&import.source)?;
        let told = take(config, import, "chapar", &mut messages, json)?;
        return refused(&told);
    };
    let mut archive = tar::Archive::new(stream);
    let mut messages = Reader::new(name, &mut archive)?;
    let told = take(config, import, "chapar", &mut messages, json)?;
    if let Err(wrong) = messages.verdict() {
        return Err(Failure::Damaged(format!(
            "{wrong}; what came whole was taken ({} messages, {} were taken before); import the \
             whole stream: nothing is taken twice",
            told.taken, told.before
        )));
    }
    refused(&told)
}

fn refused(told: &Told) -> Result<(), Failure> {
    match told.refused {
        0 => Ok(()),
        1 => Err(Failure::Damaged(
            "1 message was not taken, see above".into(),
        )),
        refused => Err(Failure::Damaged(format!(
            "{refused} messages were not taken, see above"
        ))),
    }
}

fn take(
    config: &Config,
    import: &Import,
    source: &str,
    messages: Messages<'_>,
    json: bool,
) -> Result<Told, Failure> {
    let mut told = Told::default();
    if import.dry_run {
        for taken in messages {
            match taken {
                Ok(taken) => {
                    told.taken += 1;
                    if !json {
                        one(&taken);
                    }
                }
                Err(failure) => {
                    eprintln!("mta-queue: {failure}");
                    told.refused += 1;
                }
            }
        }
        say!("{} messages would be imported", told.taken);
        return Ok(told);
    }
    let hold = import.hold;
    let mut messages = messages.map(|taken| {
        taken.map(|mut taken| {
            taken.exported.held |= hold;
            taken
        })
    });
    let by = steer::operator();
    let how = How {
        source,
        by: &by,
        again: import.again,
    };
    ask::take(config, how, &mut messages, &mut |became| {
        let one = match became {
            Ok(one) => one,
            Err(failure) => {
                // The others are good.
                eprintln!("mta-queue: {failure}");
                told.refused += 1;
                return Ok(());
            }
        };
        match one.before {
            true => told.before += 1,
            false => told.taken += 1,
        }
        if json {
            say!("{}", serde_json::to_string(&one).unwrap_or_default());
        } else if one.before && one.id.is_empty() {
            say!("{} was taken before", one.was);
        } else if one.before {
            say!("{} was taken before as {}", one.was, one.id);
        } else {
            say!("{} is {} here", one.was, one.id);
        }
        Ok(())
    })?;
    if !json {
        let before = match told.before {
            0 => String::new(),
            before => format!(" ({before} were taken before)"),
        };
        say!("{} messages imported{before}", told.taken);
    }
    Ok(told)
}

fn one(taken: &Taken) {
    let to = taken.exported.envelope.recipients.len();
    let from = super::show::sender(&taken.exported.envelope.reverse_path);
    say!("{} from {from} to {to} recipients", taken.exported.id);
}
