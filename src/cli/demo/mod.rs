//! `chapar demo`: the journey of one message, for real, with nothing installed.
//!
//! The world is on loopback and in one temporary directory: a DNS server and the MX of
//! `gmail.example`, which greylists, run in this process; the daemon is this executable again, with
//! a configuration made as `chapar setup` makes it. Only what the daemon is told differs from a
//! real host: where DNS and port 25 are, and shorter waits.

mod daemon;
mod verify;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::print::told;
use crate::lab::Client;
use daemon::Daemon;
use world::World;

/// How long the whole journey may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How often the queue is asked for news.
const POLL: Duration = Duration::from_millis(50);

/// Show the whole journey of a message on loopback
///
/// It is submitted, signed, deferred by a greylisting MX; the daemon is killed and started again;
/// it is delivered and its signatures verified. Needs no privilege and installs nothing; exit code
/// 0 only if all of it held.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  chapar demo --keep")]
pub(super) struct Args {
    /// Leave all of it running until Ctrl-C and print a swaks command to try.
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    runtime.block_on(journey(args.keep))
}

/// Says what happened, and when.
struct Teller {
    start: Instant,
}

impl Teller {
    fn tell(&self, what: &str) {
        // The journey goes on without a reader, and the daemon is stopped in order.
        told(format_args!(
            "{:6.2} s  {what}",
            self.start.elapsed().as_secs_f64()
        ));
    }
}

async fn journey(keep: bool) -> anyhow::Result<ExitCode> {
    let teller = Teller {
        start: Instant::now(),
    };
    let mut world = World::new().await?;
    let mut daemon = None;
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    let held = tokio::select! {
        held = timeout(LIMIT, steps(&teller, &mut world, &mut daemon)) => held.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("the step after the last line above did not end in {LIMIT:?}"))
        }),
        () = &mut interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    match held {
        Ok(()) => teller.tell("All of it held."),
        Err(reason) => {
            eprintln!("{}", world.last_log());
            drop(daemon);
            let dir = world.leave();
            bail!("{reason:#}; its files are left in {}", dir.display());
        }
    }
    if keep && let Some(daemon) = daemon.as_ref() {
        tokio::select! {
            () = stay(&teller, &world, daemon) => {}
            () = interrupted => {}
        }
    }
    if let Some(daemon) = daemon {
        daemon
            .stop()
            .await
            .context("the daemon did not stop at SIGTERM")?;
        teller.tell("The daemon was stopped with SIGTERM and ended in order.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn steps(
    teller: &Teller,
    world: &mut World,
    running: &mut Option<Daemon>,
) -> anyhow::Result<()> {
    teller.tell(&format!(
        "DNS on {}, the MX of gmail.example on {}; it greylists.",
        world.dns.address(),
        world.mx.address()
    ));
    world.set_up()?;
    teller.tell(
        "chapar setup example.org: configuration, DKIM keys, certificate, a user; DNS published.",
    );
    *running = Some(
        Daemon::start(world)
            .await
            .context("the daemon does not start")?,
    );
    teller.tell(&format!(
        "chapar serve is ready: submission with TLS on {}.",
        world.submission
    ));

    let message = world.message();
    let login = (world::USER, world.password.as_str());
    let from = world::USER;
    let to = [world::RECIPIENT];
    let answer = Client::submit(
        world.submission,
        world::HOST,
        login,
        from,
        &to,
        message.as_bytes(),
    )
    .await
    .context("the message can not be submitted")?;
    ensure!(
        answer.code == 250,
        "the message was not taken: {}",
        answer.text.trim_end()
    );
    teller.tell(&format!(
        "A message was submitted over TLS with AUTH: {}",
        answer.text.trim_end()
    ));

    let (entry, reply) = deferred(world).await?;
    teller.tell(&format!("Signed, queued and tried; the MX said: {reply}"));
    ensure!(
        world.mx.received().is_empty(),
        "the MX took a message that it should have deferred"
    );

    running
        .take()
        .context("no daemon")?
        .kill()
        .context("the daemon can not be killed")?;
    teller.tell("The daemon was killed with SIGKILL.");
    let entries = world.queue().await?;
    let kept = entries
        .iter()
        .any(|kept| kept.id == entry.id && kept.attempts >= entry.attempts);
    ensure!(kept, "the message is not in the queue on disk any more");
    teller.tell("The queue on disk still has the message and its attempt.");

    *running = Some(
        Daemon::start(world)
            .await
            .context("the daemon does not start again")?,
    );
    teller.tell("chapar serve is ready again; the message waits for its next try.");
    let received = world.mx.wait(1).await;
    let [received] = received.as_slice() else {
        bail!("delivered {} times", received.len())
    };
    let over = if received.tls { "over TLS" } else { "in clear" };
    teller.tell(&format!(
        "Retried and delivered {over}, {} bytes.",
        received.data.len()
    ));
    ensure!(received.tls, "the MX offers STARTTLS and it was not used");
    ensure!(
        received.recipients == to,
        "delivered to {:?}",
        received.recipients
    );
    ensure!(
        received.reverse_path == from,
        "delivered from {}",
        received.reverse_path
    );
    let body = message
        .split_once("\r\n\r\n")
        .map(|(_, body)| body)
        .unwrap_or_default();
    ensure!(
        received.data.ends_with(body.as_bytes()),
        "the body was changed on its way"
    );

    let verified = verify::signatures(world, &received.data).await?;
    teller.tell(&format!(
        "DKIM verified against DNS: {}.",
        verified.join(", ")
    ));
    while !world.queue().await?.is_empty() {
        sleep(POLL).await;
    }
    teller.tell("The queue is empty.");
    Ok(())
}

/// Waits until the one message is deferred.
async fn deferred(world: &World) -> anyhow::Result<(world::Entry, String)> {
    world
        .mx
        .until(|mx| mx.log().iter().any(|line| line.line.starts_with("RCPT")))
        .await;
    loop {
        let entries = world.queue().await?;
        if let Some(entry) = entries.into_iter().find(|entry| entry.state == "deferred") {
            let reply = entry.last_reply.clone().unwrap_or_default();
            ensure!(
                reply.starts_with("451"),
                "deferred without a 451: {entry:?}"
            );
            return Ok((entry, reply));
        }
        sleep(POLL).await;
    }
}

/// Leaves all running and tells what arrives.
async fn stay(teller: &Teller, world: &World, daemon: &Daemon) {
    told(format_args!(
        "\nEverything is left running until Ctrl-C. In another terminal:\n"
    ));
    told(format_args!(
        "  swaks --server {} --tls-on-connect --auth PLAIN --auth-user {} --auth-password {} \\\n    \
         --from {1} --to someone@gmail.example\n",
        world.submission,
        world::USER,
        world.password
    ));
    told(format_args!(
        "  {} queue list --config {}\n",
        daemon.executable().display(),
        world.config.display()
    ));
    let mut seen = world.mx.taken();
    loop {
        world.mx.until(|mx| mx.taken() > seen).await;
        for received in world.mx.received().iter().skip(seen) {
            let (from, to) = (&received.reverse_path, received.recipients.join(", "));
            teller.tell(&format!("The MX took a message from {from} to {to}."));
        }
        seen = world.mx.taken();
    }
}

/// Ends at SIGINT or SIGTERM; from its making on neither ends the process.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
