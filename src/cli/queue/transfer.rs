//! `mta-queue export` and `import`: messages as files, `ID.eml` with the bytes as they go out and
//! `ID.json` with everything else.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::ask::{self, Failure, Taken};
use super::{Which, postfix, steer};
use crate::config::Config;
use crate::control::protocol::{Answer, Exported, Imported, Request};
use crate::queue::{Selector, Verb};

/// `mta-queue export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The directory; it is made if it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Hold them first and remove them from this queue once their files are safe on disk
    #[arg(long)]
    remove: bool,
}

/// `mta-queue import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// A directory of `mta-queue export`, or the word `postfix`
    #[arg(value_name = "DIR|postfix")]
    source: PathBuf,
    /// Hold what comes
    #[arg(long)]
    hold: bool,
    /// Only from this Postfix instance (its configuration directory)
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::Other(format!("{path}: {error}"))
}

/// One message that is being written.
struct Files {
    id: String,
    eml: File,
    path: PathBuf,
}

pub(super) fn export(config: &Config, export: &Export, json: bool) -> Result<(), Failure> {
    let selector = export.which.selector();
    if selector.is_everything() && export.which.id.is_none() {
        return Err(Failure::Usage(
            "say which: an id, `all`, or filters such as --domain example.net".into(),
        ));
    }
    fs::create_dir_all(&export.dir).map_err(at(&export.dir))?;
    if export.remove {
        order(config, Verb::Hold, selector.clone())?;
    }
    let mut written: Vec<String> = Vec::new();
    let mut open: Option<Files> = None;
    let mut failed = None;
    ask::ask(config, Request::Export { selector }, &mut |answer| {
        let result = match answer {
            Answer::Message(exported) => finish(&mut open, &mut written, json)
                .and_then(|()| begin(&export.dir, &exported).map(|files| open = Some(files))),
            Answer::Bytes(piece) => match (&mut open, STANDARD.decode(piece)) {
                (Some(files), Ok(bytes)) => files.eml.write_all(&bytes).map_err(at(&files.path)),
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        result.map_err(|failure| {
            let text = failure.to_string();
            failed = Some(failure);
            std::io::Error::other(text)
        })
    })
    .map_err(|failure| failed.take().unwrap_or(failure))?;
    finish(&mut open, &mut written, json)?;
    // The names are durable before anything is removed.
    File::open(&export.dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(&export.dir))?;
    let count = written.len();
    if export.remove {
        for id in written {
            let one = Selector {
                id: Some(id),
                ..Selector::default()
            };
            order(config, Verb::Remove, one)?;
        }
    }
    if !json {
        let removed = if export.remove {
            " and removed from this queue"
        } else {
            ""
        };
        say!(
            "{count} messages written to {}{removed}",
            export.dir.display()
        );
    }
    Ok(())
}

fn order(config: &Config, verb: Verb, selector: Selector) -> Result<u64, Failure> {
    let request = Request::steer(verb, selector, steer::operator());
    ask::ask(config, request, &mut |_| Ok(()))
}

fn begin(dir: &Path, exported: &Exported) -> Result<Files, Failure> {
    let private = |path: &Path| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path).map_err(at(path))
    };
    let path = dir.join(format!("{}.json", exported.id));
    let mut file = private(&path)?;
    serde_json::to_writer_pretty(&mut file, exported)
        .map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
    file.write_all(b"\n")
        .and_then(|()| file.sync_all())
        .map_err(at(&path))?;
    let path = dir.join(format!("{}.eml", exported.id));
    Ok(Files {
        id: exported.id.clone(),
        eml: private(&path)?,
        path,
    })
}

fn finish(open: &mut Option<Files>, written: &mut Vec<String>, json: bool) -> Result<(), Failure> {
    if let Some(files) = open.take() {
        files.eml.sync_all().map_err(at(&files.path))?;
        if json {
            say!(
                "{}",
                serde_json::json!({ "id": files.id, "file": files.path })
            );
        }
        written.push(files.id);
    }
    Ok(())
}

pub(super) fn import(config: &Config, import: &Import, json: bool) -> Result<(), Failure> {
    let hold = import.hold;
    let mut messages: Box<dyn Iterator<Item = Result<Taken, Failure>>> =
        if import.source == Path::new("postfix") {
            Box::new(postfix::messages(import.config_dir.as_deref())?)
        } else {
            Box::new(files(&import.source)?)
        };
    if import.dry_run {
        let mut count = 0;
        for taken in messages {
            let exported = taken?.exported;
            count += 1;
            if !json {
                let to = exported.envelope.recipients.len();
                let from = super::show::sender(&exported.envelope.reverse_path);
                say!("{} from {from} to {to} recipients", exported.id);
            }
        }
        say!("{count} messages would be imported");
        return Ok(());
    }
    let mut held = messages.by_ref().map(|taken| {
        taken.map(|mut taken| {
            taken.exported.held |= hold;
            taken
        })
    });
    let count = ask::take(
        config,
        &steer::operator(),
        &mut held,
        &mut |one: Imported| {
            if json {
                say!("{}", serde_json::to_string(&one).unwrap_or_default());
            } else {
                say!("{} is {} here", one.was, one.id);
            }
            Ok(())
        },
    )?;
    if !json {
        say!("{count} messages imported");
        if import.source == Path::new("postfix") {
            say!("They are still in Postfix: postsuper -d ID removes them there.");
        }
    }
    Ok(())
}

/// The messages of a directory, in the order of their names.
fn files(dir: &Path) -> Result<impl Iterator<Item = Result<Taken, Failure>> + use<>, Failure> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if path.extension().is_some_and(|suffix| suffix == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::Other(format!(
            "{}: there is no ID.json here; name a directory of mta-queue export",
            dir.display()
        )));
    }
    Ok(paths.into_iter().map(|path| {
        let file = File::open(&path).map_err(at(&path))?;
        let mut exported: Exported = serde_json::from_reader(BufReader::new(file))
            .map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
        let eml = path.with_extension("eml");
        let mut bytes = Vec::new();
        File::open(&eml)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(at(&eml))?;
        let bytes = with_crlf(bytes);
        // Whoever edits a message need not count its bytes.
        exported.size = bytes.len() as u64;
        Ok(Taken { exported, bytes })
    }))
}

/// Lines end with CR LF, whatever an editor made of them.
pub(in crate::cli) fn with_crlf(bytes: Vec<u8>) -> Vec<u8> {
    let bare = |at: usize| at == 0 || bytes.get(at - 1) != Some(&b'\r');
    if !memchr::memchr_iter(b'\n', &bytes).any(bare) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 40);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::with_crlf;

    #[test]
    fn lines_end_with_cr_lf() {
        for (text, is) in [
            ("a\nb\n", "a\r\nb\r\n"),
            ("a\r\nb\n", "a\r\nb\r\n"),
            ("\n", "\r\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("no end", "no end"),
            ("", ""),
        ] {
            assert_eq!(with_crlf(text.into()), is.as_bytes());
        }
    }
}
