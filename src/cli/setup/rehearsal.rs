//! `chapar setup --dry-run`: everything is done in a copy that is thrown away.
//!
//! The copy has secrets in it, so nothing of it may be left, however the rehearsal ends. It is
//! made by a process of its own: one that was ended writes nothing more, while a thread that
//! goes on would make again what is being removed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::{Args, DATA_DIR};

/// Rehearses in a process of its own, and removes what it made when it or this one is ended.
pub(super) fn apart() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let code = runtime.block_on(async {
        // From here on a signal ends nothing before the copy is gone.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let copy = tempfile::Builder::new()
            .prefix("chapar-rehearsal-")
            .tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args([OsStr::new("--rehearsal"), copy.path().as_os_str()])
            .spawn()
            .context("the rehearsal can not be started")?;
        let ended_by = tokio::select! {
            biased;
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
            _ = hangup.recv() => 1,
            status = child.wait() => {
                let status = status?;
                copy.close().context("the rehearsal's copy can not be removed")?;
                return Ok(status.code().unwrap_or(128 + status.signal().unwrap_or(0)));
            }
        };
        child.kill().await?;
        copy.close()
            .context("the rehearsal's copy can not be removed")?;
        anyhow::Ok(128 + ended_by)
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Rehearses in `copy`, an empty directory.
pub(super) fn run(config: &Path, mut args: Args, copy: PathBuf) -> anyhow::Result<ExitCode> {
    let file = args
        .dir
        .as_ref()
        .map_or(config.to_path_buf(), |dir| dir.join("chapar.toml"));
    let from = crate::cli::directory(&file);
    for part in ["chapar.toml", ".gitignore", "domains", "secrets"] {
        copy_tree(&from.join(part), &copy.join(part))?;
    }
    say!(
        "This is a rehearsal in {}: nothing is changed, and the password and keys shown are for it alone.\n",
        copy.display()
    );
    args.dry_run = false;
    args.rehearses = true;
    if args.dir.is_none() {
        // As without --dir, but for the place.
        args.data_dir.get_or_insert(PathBuf::from(DATA_DIR));
        args.asks = true;
    }
    args.dir = Some(copy);
    super::run(config, args)
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        crate::config::files::create_dir(to, 0o700)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    } else if from.exists() {
        // With its mode.
        fs::copy(from, to).with_context(|| format!("{} can not be read", from.display()))?;
    }
    Ok(())
}
