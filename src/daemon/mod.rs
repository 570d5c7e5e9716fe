//! The daemon: starts the actors in the order of the journey reversed, so that nobody is asked
//! before it is there, and stops them in that of the journey, so that what was accepted is kept.
//!
//! Listens to signals: SIGHUP reloads, as does a changed file; SIGTERM and SIGINT drain, a second one ends at once.

mod load;
mod manager;
mod start;
mod watch;
mod ways;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
pub use load::{LoadError, Loaded, load};
use start::Running;
use watch::Watch;

/// sysexits.h: the configuration is wrong.
pub const EX_CONFIG: u8 = 78;
/// sysexits.h: something the daemon needs is not there.
pub const EX_UNAVAILABLE: u8 = 69;

/// Runs in the foreground until a signal ends it. Ready when its listeners accept.
pub fn run(file: &Path) -> ExitCode {
    // A file that does not load is told of in the usual way.
    let log = Config::load(file)
        .ok()
        .map(|config| (config.log, config.dir));
    if let Err(error) = crate::telemetry::init(log) {
        tracing::error!(target: "daemon", "{error}");
        return ExitCode::from(EX_CONFIG);
    }
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(target: "daemon", "{error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    // The first provider wins; a second call in one process finds the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    actix::System::new().block_on(async {
        match serve(file, loaded).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(target: "daemon", "{error:#}");
                ExitCode::from(EX_UNAVAILABLE)
            }
        }
    })
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(file: &Path, loaded: Loaded) -> Result<(), start::StartError> {
    let mut signals = Signals::new().map_err(start::StartError::Signals)?;
    let own = own_certificate(&loaded.config);
    let mut running = start::start(loaded).await?;
    // Under no systemd this does nothing.
    manager::tell(&[NotifyState::Ready]);
    tracing::info!(target: "daemon", version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
    let mut watchdog = watchdog();
    let mut watch = Watch::new(file, own).await;
    let mut look = tokio::time::interval(watch::PERIOD);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                reopen_log();
                watch.loaded().await;
                reload(file, &mut running, &mut watch).await;
            }
            _ = look.tick() => {
                if watch.changed().await {
                    reload(file, &mut running, &mut watch).await;
                }
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = watchdog.tick() => {
                // The queue answers, or systemd ends us: a daemon that stores nothing is none.
                if running.queue_answers().await {
                    manager::tell(&[NotifyState::Watchdog]);
                }
            }
        }
    }
    manager::tell(&[NotifyState::Stopping]);
    tracing::info!(target: "daemon", "stopping: finishing what is under way");
    tokio::select! {
        () = running.stop() => tracing::info!(target: "daemon", "stopped"),
        () = signals.stop() => tracing::warn!(target: "daemon", "stopped at once by a second signal"),
    }
    Ok(())
}

/// Twice in each interval that systemd allows; once a minute where it asks for nothing.
fn watchdog() -> tokio::time::Interval {
    let period = sd_notify::watchdog_enabled().map_or(Duration::from_secs(60), |limit| limit / 2);
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(100)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Files of the certificate that lie where the operator says.
fn own_certificate(config: &Config) -> Vec<PathBuf> {
    match config.tls.certificate.is_empty() {
        true => Vec::new(),
        false => {
            let (chain, key) = crate::tls::server::files(config);
            vec![chain, key]
        }
    }
}

/// Opens the log file anew, as logrotate expects it.
fn reopen_log() {
    if let Err(error) = crate::telemetry::reopen() {
        tracing::error!(target: "daemon", "the log goes on in the old file: {error}");
    }
}

/// All or nothing: a mistake keeps the old and says so (I8).
async fn reload(file: &Path, running: &mut Running, watch: &mut Watch) {
    let reloading = NotifyState::monotonic_usec_now();
    if let Ok(now) = reloading {
        manager::tell(&[NotifyState::Reloading, now]);
    }
    match load(file) {
        Ok(loaded) => {
            watch.also(own_certificate(&loaded.config)).await;
            running.reload(loaded).await;
            tracing::info!(target: "daemon", "reloaded");
        }
        Err(error) => tracing::error!(target: "daemon", "nothing changed: {error}"),
    }
    manager::tell(&[NotifyState::Ready]);
}
