//! The daemon of the demo: this executable, in a process of its own.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::time::sleep;

use super::POLL;
use super::world::World;

/// A running daemon; dropped, it is killed.
pub(super) struct Daemon {
    child: Child,
    executable: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it says, as it says to systemd, that it is ready.
    pub(super) async fn start(world: &World) -> anyhow::Result<Daemon> {
        let socket = world.dir().join("notify");
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).context("no socket for its READY=1")?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(world.log())?;
        let executable = std::env::current_exe().context("where this executable lies")?;
        let child = Command::new(&executable)
            .args([Path::new("serve"), Path::new("--config"), &world.config])
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("WATCHDOG_USEC")
            .env_remove("LISTEN_FDS")
            // Ctrl-C is for us; we stop it in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} can not be run", executable.display()))?;
        let mut daemon = Daemon { child, executable };
        let mut said = [0; 4096];
        loop {
            tokio::select! {
                length = notify.recv(&mut said) => {
                    let said = String::from_utf8_lossy(said.get(..length?).unwrap_or_default());
                    if said.lines().any(|line| line == "READY=1") {
                        return Ok(daemon);
                    }
                }
                ended = daemon.ended() => bail!("it ended instead of being ready: {}", ended?),
            }
        }
    }

    /// The executable that it runs.
    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// SIGKILL: no handler runs, nothing is written any more.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and its end in order.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = tokio::time::timeout(Duration::from_secs(10), self.ended()).await??;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
